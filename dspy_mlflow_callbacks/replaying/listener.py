"""What hears the calls of a replay as they start and end: where each stands, and how long it takes."""

from __future__ import annotations

import time
from typing import Any

from dspy.utils.callback import BaseCallback

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.describe import name_of
from dspy_mlflow_callbacks.events import CallKind, CallStart, new_call_start
from dspy_mlflow_callbacks.replaying.asking import inputs_of
from dspy_mlflow_callbacks.replaying.recording import FOLLOWED, Recorded
from dspy_mlflow_callbacks.replaying.session import Session
from dspy_mlflow_callbacks.spans.open_spans import OPEN_SPANS

_ANSWERED = frozenset({CallKind.LM, CallKind.TOOL})


class Listener(BaseCallback):
    """Tells a session where calls stand, and measures them.

    It stands behind the callback that traces the replay.

    Attributes:
        trace_id: MLflow's id of the replay's trace; None where no call was recorded.
        seconds: How long the recorded calls took in the replay, by span id.
    """

    def __init__(self, session: Session) -> None:
        self.trace_id: str | None = None
        self.seconds: dict[str, float] = {}
        self._session = session
        self._calls: dict[str, CallStart] = {}
        self._began: dict[str, tuple[Recorded, float]] = {}
        self._program = ""

    def _start(self, kind: CallKind, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        parent_id = dspy_internals.active_call_id()
        parent = self._calls.get(parent_id or "")
        name = name_of(kind, instance, inputs, parent)
        self._calls[call_id] = new_call_start(
            kind=kind, call_id=call_id, parent=parent, root_call_id="", instance=instance, inputs=inputs, name=name
        )
        self._note_trace(call_id)
        recorded = self._recorded(self._calls[call_id], parent_id)
        if recorded is not None:
            self._session.reach(recorded)
            self._began[call_id] = recorded, time.perf_counter()

    def _recorded(self, call: CallStart, parent_id: str | None) -> Recorded | None:
        matching = self._session.matching
        stood_in = self._session.recorded_of(call.instance) if call.kind in _ANSWERED else None
        if stood_in is not None:
            matching.stand(call.call_id, stood_in)
        elif call.kind not in FOLLOWED or call.kind is CallKind.LM:
            matching.pass_through(call.call_id, parent_id)
        else:
            return self._entered(call, parent_id)
        return stood_in

    def _entered(self, call: CallStart, parent_id: str | None) -> Recorded | None:
        self._program = self._program or call.name
        return self._session.matching.enter(
            call.call_id,
            parent_id,
            (call.kind, self._tail(call)),
            inputs_of(call.kind, call.instance, call.inputs),
        )

    def _tail(self, call: CallStart) -> str:
        return call.name if call.kind is CallKind.TOOL else call.name.removeprefix(self._program)

    def _note_trace(self, call_id: str) -> None:
        opened = OPEN_SPANS.get(call_id)
        if self.trace_id is None and opened is not None and opened.start is not None:
            self.trace_id = f"tr-{opened.span.around.get_span_context().trace_id:032x}"

    def _end(self, call_id: str) -> None:
        self._calls.pop(call_id, None)
        recorded, began = self._began.pop(call_id, (None, 0.0))
        if recorded is not None:
            self.seconds[recorded.span_id] = time.perf_counter() - began


def _hooks(kind: CallKind) -> tuple[Any, Any]:
    def on_start(self: Listener, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start(kind, call_id, instance, inputs)

    def on_end(self: Listener, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._end(call_id)

    return on_start, on_end


for _kind in CallKind:
    _on_start, _on_end = _hooks(_kind)
    setattr(Listener, f"on_{_kind.value}_start", _on_start)
    setattr(Listener, f"on_{_kind.value}_end", _on_end)
