"""What waits to be delivered: a trace that has ended, as the engine hands it over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import attrs
from attrs.validators import gt, in_, instance_of

from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings

if TYPE_CHECKING:  # the options stand on this file, and need no MLflow
    from dspy_mlflow_callbacks.mlflow_internals import Feedback

Outcome = Literal["stored", "spooled", "dropped", "failed", "rejected"]


@attrs.frozen(kw_only=True)
class Destination:
    """Where a trace goes; traces with the same destination are delivered in the same batch.

    Attributes:
        tracking_uri: MLflow's tracking URI.
        experiment_id: The id of the experiment.
        run_id: The MLflow run that the traces are linked to, if any.
        workspace: MLflow's workspace, if any.
    """

    tracking_uri: str
    experiment_id: str
    run_id: str | None = None
    workspace: str | None = None


@attrs.frozen(kw_only=True)
class Prepared:
    """What leaves of a trace.

    Attributes:
        trace_id: MLflow's id of the trace, `tr-` and 32 hexadecimal digits.
        spans: OpenTelemetry SDK `ReadableSpan`s whose attributes are JSON texts, as MLflow keeps them.
        info: MLflow's `TraceInfo` where the trace carries what spans cannot; `start_trace` is called with it first.
        attachments: Binary content by attachment id (`mlflow.tracing.attachments.Attachment`).
        prompts: Prompt versions that are linked to the trace.
        feedback: What metrics say of the trace and of its spans.
        is_shared: Whether other processes add spans to the trace: *info* is merged then after the spans, so that the
            store goes on to add up tokens and cost.
    """

    trace_id: str
    spans: Sequence[Any]
    info: Any = None
    attachments: Mapping[str, Any] = attrs.field(factory=dict)
    prompts: Sequence[Any] = ()
    feedback: Sequence[Feedback] = ()
    is_shared: bool = False


class Waiting(Protocol):
    """A trace that has ended, with what it takes to deliver it."""

    @property
    def destination(self) -> Destination:
        """Where it goes."""
        ...

    @property
    def size(self) -> int:
        """Roughly how many bytes it holds."""
        ...

    def prepared(self) -> Prepared | None:
        """Return what leaves, once the payload steps have run; None if a tail sampler drops the trace.

        It is called once, in the thread that delivers, before the first byte leaves.
        """
        ...

    def done(self, outcome: Outcome, error: Exception | None = None) -> None:
        """Hear what became of the trace; called once."""
        ...


@attrs.frozen(kw_only=True)
class Limits:
    """How much may wait, and what happens to a trace for which there is no room.

    Attributes:
        max_traces: The most traces that wait.
        max_bytes: The most bytes that wait.
        on_full: Whether the call that ends a trace waits for room (`block`), or the trace is dropped at once (`drop`).
        max_block_s: The most seconds that a call waits for room; then the trace is dropped.
        spool: Where traces wait that their store does not take, or for which there is no room; None for nowhere.
    """

    max_traces: int = attrs.field(default=10_000, validator=[instance_of(int), gt(0)])
    max_bytes: int = attrs.field(default=256 * 1024 * 1024, validator=[instance_of(int), gt(0)])
    on_full: str = attrs.field(default="block", validator=in_(("block", "drop")))
    max_block_s: float = attrs.field(default=5.0, validator=gt(0))
    spool: SpoolSettings | None = None

    @property
    def is_durable(self) -> bool:
        """Whether a trace is written to the spool before the call that ends it returns."""
        return self.spool is not None and self.spool.durable is not False
