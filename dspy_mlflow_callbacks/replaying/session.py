"""One replay while it runs: it answers the program's LM and tool calls, and notes where it leaves the recording."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.replaying.answers import LMAnswer, tool_result
from dspy_mlflow_callbacks.replaying.asking import Asked, asked, inputs_of, parameters_differ
from dspy_mlflow_callbacks.replaying.divergences import Divergence, diff, first_difference
from dspy_mlflow_callbacks.replaying.errors import ReplayStopped
from dspy_mlflow_callbacks.replaying.matching import Match, Matching
from dspy_mlflow_callbacks.replaying.recording import Recorded, Recording
from dspy_mlflow_callbacks.replaying.tools import returns_of, with_function


class Session:
    """Answers calls from a recording; see `dspy_internals.Director`.

    Args:
        recording: What is answered from.
        mode: `strict`, `lenient` or `live`.
        tools: `recorded` or `live`.
        fork: The recorded call from which on the LM is called for real; None is the first divergence.
        real: Returns the LM that is called for real where the program calls one.

    Attributes:
        mode: As given.
        tools: As given.
        divergences: Where the replay left the recording, in the order in which it did.
        is_live: Whether LMs are called for real by now.
        stopped: Why the replay ended in the middle of the program; None if it did not.
    """

    def __init__(
        self, recording: Recording, *, mode: str, tools: str, fork: Recorded | None, real: Callable[[Any], Any]
    ) -> None:
        self.recording = recording
        self.matching = Matching(recording.root)
        self.divergences: list[Divergence] = []
        self.is_live = False
        self.stopped: str | None = None
        self.mode, self.tools = mode, tools
        self._fork, self._real = fork, real
        self._lock = threading.RLock()
        self._stand_ins: dict[int, tuple[Any, Recorded]] = {}

    def lm(self, lm: Any, arguments: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        """Return an LM that gives the recorded answer, or one that is called for real."""
        with self._lock:
            self._go_on()
            if self.is_live:
                return self._for_real(lm)
            now = asked(lm, arguments)
            match = self._taken(CallKind.LM, now.inputs)
            self.reach(match.call)
            found = self._divergence(match, now)
            if found is not None and not self.is_live:
                self._diverge(found)
            if self.is_live:
                return self._for_real(lm)
            call = self._known(match, "the LM")
            answer = LMAnswer(call)
            return self._standing_in(dspy_internals.standing_in(lm, answer), call), dspy_internals.NO_CONNECTION

    def _for_real(self, lm: Any) -> tuple[Any, Mapping[str, Any]]:
        return self._real(lm), {"cache": False}

    def tool(self, tool: Any, arguments: Mapping[str, Any]) -> Any:
        """Return a tool that gives the recorded result, or *tool* itself where tools run."""
        with self._lock:
            self._go_on()
            if self.tools == "live":
                return tool
            inputs = inputs_of(CallKind.TOOL, tool, {"kwargs": dict(arguments)})
            match = self._taken(CallKind.TOOL, inputs, tool.name)
            self.reach(match.call)
            if not match.is_exact:
                self._diverge(self._tool_divergence(match, tool, inputs))
            call = self._known(match, f"the tool {tool.name}", is_tool=True)
            returns = returns_of(tool)
            made = with_function(tool, lambda **_: tool_result(call, returns))
            return self._standing_in(made, call)

    def reach(self, call: Recorded | None) -> None:
        """Note that a recorded call begins again: from `fork` on LMs are called for real."""
        if self._fork is not None and call is self._fork:
            self.is_live = True

    def recorded_of(self, stand_in: Any) -> Recorded | None:
        """Return the recorded call that an LM or a tool stands in for, once."""
        return self._stand_ins.pop(id(stand_in), (None, None))[1]

    def finish(self, found: Iterable[Divergence]) -> None:
        """Note what was found once the program had ended: with `strict`, the first divergence of all."""
        for divergence in found:
            if self.mode != "strict" or not self.divergences:
                self.divergences.append(divergence)

    def _standing_in(self, made: Any, call: Recorded) -> Any:
        self._stand_ins[id(made)] = made, call  # held, so that its id is no other's
        return made

    def _taken(self, kind: CallKind, inputs: Any, name: str = "") -> Match:
        return self.matching.take(
            dspy_internals.active_call_id(),
            (kind, name),
            inputs,
            again=self.mode == "lenient",
        )

    def _divergence(self, match: Match, now: Asked) -> Divergence | None:
        call = match.call
        if call is None or match.is_again:
            return self._extra(now.inputs)
        difference = None if match.is_exact else first_difference(call.inputs, now.inputs)
        kind: Any = "prompt"
        if difference is None:
            kind, difference = "parameters", parameters_differ(call, now)
        if difference is None:
            return None
        return Divergence(kind=kind, span=call.path, span_id=call.span_id, field=difference[0], diff=difference[1])

    def _extra(self, inputs: Any) -> Divergence:
        place = self.matching.path(dspy_internals.active_call_id())
        return Divergence(kind="extra", span=place, span_id=None, field="call", diff=diff(None, inputs))

    def _tool_divergence(self, match: Match, tool: Any, inputs: Any) -> Divergence:
        call = match.call
        difference = None if call is None or match.is_again else first_difference(call.inputs, inputs)
        if call is None or difference is None:
            return self._extra({"tool": tool.name, "arguments": inputs})
        return Divergence(kind="tool", span=call.path, span_id=call.span_id, field=difference[0], diff=difference[1])

    def _diverge(self, divergence: Divergence) -> None:
        self.divergences.append(divergence)
        if self.mode == "strict":
            self._stop(f"The replay left the recording. {divergence}")
        if self.mode == "live" and self._fork is None:
            self.is_live = True

    def _known(self, match: Match, what: str, *, is_tool: bool = False) -> Recorded:
        """Return the recorded call that answers; where there is none, or none that may, the replay ends."""
        if match.call is not None and (match.is_exact or not self.is_live):
            return match.call
        then = "tools='live'" if is_tool else "mode='live'"
        self._stop(f"Nothing was recorded that {what} could answer with here. Use {then}.")
        raise AssertionError  # pragma: no cover  (it stopped)

    def _stop(self, reason: str) -> None:
        self.stopped = reason
        self._go_on()

    def _go_on(self) -> None:
        """Raise where the replay has ended, in whatever thread, and whatever the program caught."""
        if self.stopped is not None:
            raise ReplayStopped(self.stopped)
