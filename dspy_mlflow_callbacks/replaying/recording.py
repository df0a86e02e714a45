"""A stored trace as the tree of the calls that a replay answers: modules, LMs, tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import mlflow
from mlflow.entities import Span, Trace, TraceState

from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.flushing import flush
from dspy_mlflow_callbacks.replaying.attachments import with_attachments
from dspy_mlflow_callbacks.replaying.errors import ReplayError
from dspy_mlflow_callbacks.stats import without_credentials

# What a replay follows. Adapters and interpreters run again, and what they call stands below what called them.
FOLLOWED = frozenset({CallKind.MODULE, CallKind.LM, CallKind.TOOL, CallKind.EVALUATE, CallKind.COMPILE})

_MODEL_ID = "mlflow.modelId"


@attrs.define(eq=False, kw_only=True)
class Recorded:
    """A call as its span recorded it.

    Attributes:
        span_id: MLflow's id of the span.
        name: The span's name.
        kind: What was called.
        inputs: Its arguments as JSON values; None where they were not recorded.
        outputs: What it returned, likewise.
        attributes: The span's attributes.
        error: Type and message of the exception that it raised; None if it returned.
        start_ns: When it began, in nanoseconds since 1970.
        duration_s: Seconds that it took; None if it has not ended.
        parent: The followed call that enclosed it.
        children: The followed calls that it made, in the order in which they began.
    """

    span_id: str
    name: str
    kind: CallKind
    inputs: Any = attrs.field(repr=False)
    outputs: Any = attrs.field(repr=False)
    attributes: dict[str, Any] = attrs.field(repr=False)
    error: tuple[str, str] | None
    start_ns: int
    duration_s: float | None
    parent: Recorded | None = attrs.field(default=None, repr=False)
    children: list[Recorded] = attrs.field(factory=list, repr=False)

    @property
    def path(self) -> str:
        """Its name, behind that of the module that called it where it is none itself."""
        if self.kind is CallKind.MODULE or self.parent is None:
            return self.name
        return f"{self.parent.path} > {self.name}"

    @property
    def said(self) -> str:
        """How a message names it."""
        return f"{self.path} (span {self.span_id})"

    def calls(self) -> Iterator[Recorded]:
        """Yield it and all that it called, in the order in which they began."""
        yield self
        for child in self.children:
            yield from child.calls()


@attrs.frozen(kw_only=True)
class Recording:
    """A trace that can be followed.

    Attributes:
        trace_id: MLflow's id of the trace.
        root: The call of the program.
        model_id: MLflow's id of the logged model that ran; None if the trace names none.
    """

    trace_id: str
    root: Recorded
    model_id: str | None

    def calls(self, kind: CallKind) -> list[Recorded]:
        """Return the calls of a kind, in the order in which they began."""
        return [call for call in self.root.calls() if call.kind is kind]


def read(trace_or_id: Trace | str | Path) -> Recording:
    """Return the recording in a trace, in the store's trace of an id, or in a file that holds `trace.to_json()`.

    Raises:
        TypeError: if it is none of these.
        ReplayError: if there is no such trace, or it does not hold one whole call of a DSPy program.
    """
    return recording_of(_trace(trace_or_id))


def _trace(trace_or_id: Trace | str | Path) -> Trace:
    if isinstance(trace_or_id, Trace):
        return trace_or_id
    if not isinstance(trace_or_id, (str, Path)):
        message = f"replay: allowed is a trace's id, an mlflow.entities.Trace or a file's path, got {trace_or_id!r}"
        raise TypeError(message)
    path = Path(trace_or_id)
    return _from_file(path) if path.suffix == ".json" or isinstance(trace_or_id, Path) else _from_store(trace_or_id)


def _from_file(path: Path) -> Trace:
    try:
        return Trace.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReplayError(str(path), [f"the file cannot be read ({error}): give the path of a file."]) from error
    except Exception as error:  # whatever a text that is no trace makes MLflow raise
        reason = "the file holds no trace: write it with `Path(file).write_text(trace.to_json())`."
        raise ReplayError(str(path), [reason]) from error


def _from_store(trace_id: str) -> Trace:
    flush()
    try:
        return mlflow.MlflowClient().get_trace(trace_id, display=False)
    except Exception as error:  # no such trace, an id that is none, a store that is away
        reason = without_credentials(
            f"the store at {mlflow.get_tracking_uri()} does not have it ({error}): look for its id with "
            "mlflow.search_traces, or set the tracking URI of the store that has it."
        )
        raise ReplayError(trace_id, [reason]) from error


def recording_of(trace: Trace) -> Recording:
    """Return the recording in *trace*.

    Raises:
        ReplayError: if it does not hold one whole call of a DSPy program.
    """
    spans = sorted(trace.data.spans, key=lambda span: (span.start_time_ns, span.parent_id is not None))
    reason = _why_not_whole(trace, spans)
    roots = [] if reason else _tree(spans, with_attachments(trace))
    if spans and spans[0].get_attribute("dspy.kind") == CallKind.EXAMPLE.value:
        del roots[1:]  # first the program is called, then the metric, which may call others
    reason = reason or _why_no_program(roots)
    if reason is not None:
        raise ReplayError(trace.info.trace_id, [reason])
    model_id = trace.info.trace_metadata.get(_MODEL_ID) or roots[0].attributes.get(_MODEL_ID)
    return Recording(trace_id=trace.info.trace_id, root=roots[0], model_id=model_id)


_WHOLE = "Wait until the program has ended and `dspy_mlflow_callbacks.flush()` has returned, then read it again."


def _why_not_whole(trace: Trace, spans: list[Span]) -> str | None:
    known = {span.span_id for span in spans}
    lost = sorted({span.parent_id for span in spans if span.parent_id not in known} - {None})
    if not any(span.get_attribute("dspy.kind") for span in spans):
        said = f"none of its {len(spans)} spans is" if spans else "it has no spans, so that none is"
        return f"{said} of this package: only traces that MlflowCallback recorded can be replayed."
    if lost:
        return f"it is not whole: of spans {', '.join(lost)} only those below them are there. {_WHOLE}"
    if any(span.end_time_ns is None for span in spans) or trace.info.state is TraceState.IN_PROGRESS:
        return f"it has not ended. {_WHOLE}"
    return None


def _why_no_program(roots: list[Recorded]) -> str | None:
    if len(roots) != 1:
        names = ", ".join(f"{root.name} (span {root.span_id})" for root in roots)
        return f"it holds {len(roots)} calls of programs ({names}): record each in a trace of its own."
    (root,) = roots
    if root.kind is CallKind.MODULE:
        return None
    return (
        f"it is a call of {root.kind.value} {root.name}, not of a program: replay the trace of a module's call, "
        "recorded with the spans of its modules."
    )


def _tree(spans: Iterable[Span], whole: Callable[[Any], Any]) -> list[Recorded]:
    """Link the followed calls; those of the user's own spans stand below what encloses these."""
    nearest: dict[str | None, Recorded | None] = {None: None}
    waiting = list(spans)
    roots: list[Recorded] = []
    while waiting:
        left = []
        for span in waiting:
            if span.parent_id not in nearest:
                left.append(span)  # its clock is behind its parent's
                continue
            above = nearest[span.parent_id]
            call = nearest[span.span_id] = _recorded(span, above, whole) or above
            if call is not above and call is not None:
                (roots if above is None else above.children).append(call)
        waiting = left
    return roots


def _recorded(span: Span, above: Recorded | None, whole: Callable[[Any], Any]) -> Recorded | None:
    kind = span.get_attribute("dspy.kind")
    if kind is None or CallKind(kind) not in FOLLOWED:
        return None
    return Recorded(
        span_id=span.span_id,
        name=span.name,
        kind=CallKind(kind),
        inputs=whole(span.inputs),
        outputs=whole(span.outputs),
        attributes=span.attributes,
        error=_error(span),
        start_ns=span.start_time_ns,
        duration_s=(span.end_time_ns - span.start_time_ns) / 1e9,
        parent=above,
    )


def _error(span: Span) -> tuple[str, str] | None:
    if span.status.status_code.value != "ERROR":
        return None
    for event in span.events:
        if event.name == "exception":
            said = event.attributes
            return str(said.get("exception.type", "Exception")), str(said.get("exception.message", ""))
    return "", span.status.description
