"""What a replay comes to, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from mlflow.entities import Trace

from dspy_mlflow_callbacks.describe.payloads import plain
from dspy_mlflow_callbacks.markdown import fenced_diff, markdown_text
from dspy_mlflow_callbacks.replaying.divergences import Divergence


@attrs.frozen(kw_only=True)
class Timing:
    """How long a call took when it was recorded, and in the replay.

    Attributes:
        span: The recorded span's name, behind that of the module that made the call.
        span_id: MLflow's id of the recorded span.
        recorded_s: Seconds in the recording.
        replayed_s: Seconds in the replay, where recorded LMs and tools answer at once; None if it was not made.
    """

    span: str
    span_id: str
    recorded_s: float | None
    replayed_s: float | None


@attrs.frozen(kw_only=True)
class Replay:
    """A program that has run again on the answers of a stored trace.

    Attributes:
        of: MLflow's id of the trace that was replayed.
        mode: `strict`, `lenient` or `live`.
        outputs: What the program returned; None if it raised or the replay stopped at a divergence.
        error: What the program raised; None if it returned or the replay stopped.
        stopped: Why the replay ended in the middle of the program; None if it ran to its end.
        trace: The replay's own trace, an `mlflow.entities.Trace`, tagged `dspy.replay.of`; None if the program's
            callback recorded none.
        divergences: Where it left the recording, in the order in which it did.
        timings: The recorded calls, with their durations in both.
    """

    of: str
    mode: str
    outputs: Any = attrs.field(repr=False)
    error: BaseException | None
    stopped: str | None
    trace: Trace | None = attrs.field(repr=False)
    divergences: tuple[Divergence, ...]
    timings: tuple[Timing, ...] = attrs.field(repr=False)

    @property
    def is_equal(self) -> bool:
        """Whether the program did what it did when it was recorded: the same calls, given the same, and outputs."""
        return not self.divergences and self.stopped is None

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values; the trace by its id."""
        return {
            "of": self.of,
            "trace_id": None if self.trace is None else self.trace.info.trace_id,
            "mode": self.mode,
            "is_equal": self.is_equal,
            "outputs": plain(self.outputs),
            "error": None if self.error is None else f"{type(self.error).__name__}: {self.error}",
            "stopped": self.stopped,
            "divergences": [divergence.to_dict() for divergence in self.divergences],
            "timings": [attrs.asdict(timing) for timing in self.timings],
        }

    def to_markdown(self) -> str:
        """Return a report: whether it is equal, each divergence with its diff, and the durations."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield f"# Replay of {markdown_text(self.of)}"
        yield ""
        yield self._verdict()
        for number, divergence in enumerate(self.divergences, start=1):
            yield from ("", f"## {number}. {_title(divergence)}", "", fenced_diff(divergence.diff.split("\n")))
        if self.stopped is not None:
            yield from ("", f"The replay stopped: {markdown_text(self.stopped)}")
        if self.error is not None:
            raised = markdown_text(f"{type(self.error).__name__}: {self.error}")
            yield from ("", f"The program raised {raised}")
        yield from ("", "| call | recorded, s | replayed, s |", "|---|---:|---:|")
        for timing in self.timings:
            cells = (markdown_text(timing.span), _seconds(timing.recorded_s), _seconds(timing.replayed_s))
            yield f"| {' | '.join(cells)} |"

    def _verdict(self) -> str:
        count = len(self.divergences)
        said = "Equal" if self.is_equal else f"{count} divergence{'' if count == 1 else 's'}"
        own = "without a trace of its own" if self.trace is None else f"its trace is {self.trace.info.trace_id}"
        return f"{said}; mode {self.mode}, {own}."


def _title(divergence: Divergence) -> str:
    where = markdown_text(divergence.span)
    at = where if divergence.span_id is None else f"{where} (span {divergence.span_id})"
    return f"{divergence.kind}: {at}, {markdown_text(divergence.field)}"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3f}"
