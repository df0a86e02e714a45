"""What a replay has come to, beside what the recording has."""

from __future__ import annotations

from collections.abc import Iterator

import mlflow
import orjson

from dspy_mlflow_callbacks.describe.payloads import plain_example, to_json
from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.flushing import flush
from dspy_mlflow_callbacks.replaying.divergences import Divergence, diff
from dspy_mlflow_callbacks.replaying.executing import Outcome
from dspy_mlflow_callbacks.replaying.listener import Listener
from dspy_mlflow_callbacks.replaying.marks import agrees
from dspy_mlflow_callbacks.replaying.obstacles import is_below_tool
from dspy_mlflow_callbacks.replaying.recording import Recorded
from dspy_mlflow_callbacks.replaying.report import Replay, Timing
from dspy_mlflow_callbacks.replaying.session import Session


def report(session: Session, listener: Listener, outcome: Outcome) -> Replay:
    """Return what *session* found, what *listener* measured and the program's *outcome* as one."""
    outputs, error = outcome
    root = session.recording.root
    if session.stopped is None:
        session.finish([*_missing(session), *_differences(root, *outcome)])
    flush()
    return Replay(
        of=session.recording.trace_id,
        mode=session.mode,
        outputs=outputs,
        error=error,
        stopped=session.stopped,
        trace=None if listener.trace_id is None else mlflow.get_trace(listener.trace_id, silent=True),
        divergences=tuple(session.divergences),
        timings=tuple(
            Timing(
                span=call.path,
                span_id=call.span_id,
                recorded_s=call.duration_s,
                replayed_s=listener.seconds.get(call.span_id),
            )
            for call in root.calls()
        ),
    )


def _missing(session: Session) -> Iterator[Divergence]:
    """Yield the recorded calls that the program did not make; after a fork it makes its own."""
    for call in [] if session.is_live else session.matching.left():
        is_asked = call.kind in (CallKind.LM, CallKind.TOOL) and not (
            session.tools == "recorded" and is_below_tool(call)
        )
        if is_asked:
            gone = diff(call.inputs, None)
            yield Divergence(kind="missing", span=call.path, span_id=call.span_id, field="call", diff=gone)


def _differences(root: Recorded, outputs: object, error: BaseException | None) -> Iterator[Divergence]:
    before = None if root.error is None else f"{root.error[0]}: {root.error[1]}"
    after = None if error is None else f"{type(error).__name__}: {error}"
    if not agrees(before, after):
        yield Divergence(
            kind="error", span=root.name, span_id=root.span_id, field="exception", diff=diff(before, after)
        )
    elif error is None and root.outputs is not None:
        returned = orjson.loads(to_json(plain_example(outputs)))
        if not agrees(root.outputs, returned):
            yield Divergence(
                kind="outputs",
                span=root.name,
                span_id=root.span_id,
                field="outputs",
                diff=diff(root.outputs, returned),
            )
