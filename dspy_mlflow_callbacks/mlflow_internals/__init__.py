"""The only door to MLflow's private modules.

Each function says what it relies on; `tests/test_mlflow_spans.py`, `test_scopes.py`, `test_peers.py` and
`test_experiments.py` name it when an MLflow release changes it.
"""

from dspy_mlflow_callbacks.mlflow_internals.autolog import (
    pass_over_autolog,
)
from dspy_mlflow_callbacks.mlflow_internals.destinations import (
    active_experiment_id,
    experiment_variables,
    has_destination,
)
from dspy_mlflow_callbacks.mlflow_internals.feedback import (
    Feedback,
    add_feedback,
    post_feedback,
    write_feedback,
)
from dspy_mlflow_callbacks.mlflow_internals.flushing import (
    FlushedWithMlflow,
)
from dspy_mlflow_callbacks.mlflow_internals.live_spans import (
    default_level,
    end_span,
    has_span_processors,
    is_in_mlflow,
    live_span,
    replace_event_attribute,
    replace_status_description,
    trace_id_of,
    trace_info,
)
from dspy_mlflow_callbacks.mlflow_internals.live_traces import (
    attachments_of,
    attributes_of_trace,
    complete_info,
    export_if_held_back,
    forget_trace,
    has_open_spans,
    is_in_memory,
    is_plain,
    is_said_by_spans,
    is_shown,
    new_info,
    note_evaluated,
    otel_span,
    others_spans,
    put_back,
    register_span,
    register_trace,
    set_last_active_trace_id,
    show,
    source_metadata,
    surroundings,
    trace_entry,
    workspace,
)
from dspy_mlflow_callbacks.mlflow_internals.names import (
    EXPERIMENT_ID,
    INPUTS,
    LOG_LEVEL,
    OUTPUTS,
    REQUEST_ID,
    SOURCE_RUN,
    SPAN_TYPE,
)
from dspy_mlflow_callbacks.mlflow_internals.otlp import (
    describe_for_otlp,
)
from dspy_mlflow_callbacks.mlflow_internals.prices import leave_litellm_out, settle_cost
from dspy_mlflow_callbacks.mlflow_internals.recorders import (
    Recorder,
    missing_in_mlflow,
    why_not_recorded,
)
from dspy_mlflow_callbacks.mlflow_internals.runs import (
    as_active_run,
    calling_run,
    dspy_runs,
    end_run,
)
from dspy_mlflow_callbacks.mlflow_internals.scopes import (
    TraceScope,
    current_scope,
    is_resumed,
    is_suppressed,
    open_scopes,
    tag_active_trace,
)
from dspy_mlflow_callbacks.mlflow_internals.stores import (
    ServerError,
    in_workspace,
    link_prompts,
    link_run,
    links_runs,
    open_store,
    post_info,
    post_spans,
    stored_info,
    upload_attachments,
    uri_elsewhere,
    write_info,
    write_spans,
)
from dspy_mlflow_callbacks.mlflow_internals.testing import (
    store_of_its_own,
)
from dspy_mlflow_callbacks.mlflow_internals.threads import (
    in_current_context,
    leave_spans,
)
from dspy_mlflow_callbacks.mlflow_internals.tracers import (
    Tracer,
    ids,
    tracer,
)

__all__ = [
    "EXPERIMENT_ID",
    "INPUTS",
    "LOG_LEVEL",
    "OUTPUTS",
    "REQUEST_ID",
    "SOURCE_RUN",
    "SPAN_TYPE",
    "Feedback",
    "FlushedWithMlflow",
    "Recorder",
    "ServerError",
    "TraceScope",
    "Tracer",
    "active_experiment_id",
    "add_feedback",
    "as_active_run",
    "attachments_of",
    "attributes_of_trace",
    "calling_run",
    "complete_info",
    "current_scope",
    "default_level",
    "describe_for_otlp",
    "dspy_runs",
    "end_run",
    "end_span",
    "experiment_variables",
    "export_if_held_back",
    "forget_trace",
    "has_destination",
    "has_open_spans",
    "has_span_processors",
    "ids",
    "in_current_context",
    "in_workspace",
    "is_in_memory",
    "is_in_mlflow",
    "is_plain",
    "is_resumed",
    "is_said_by_spans",
    "is_shown",
    "is_suppressed",
    "leave_litellm_out",
    "leave_spans",
    "link_prompts",
    "link_run",
    "links_runs",
    "live_span",
    "missing_in_mlflow",
    "new_info",
    "note_evaluated",
    "open_scopes",
    "open_store",
    "otel_span",
    "others_spans",
    "pass_over_autolog",
    "post_feedback",
    "post_info",
    "post_spans",
    "put_back",
    "register_span",
    "register_trace",
    "replace_event_attribute",
    "replace_status_description",
    "set_last_active_trace_id",
    "settle_cost",
    "show",
    "source_metadata",
    "store_of_its_own",
    "stored_info",
    "surroundings",
    "tag_active_trace",
    "trace_entry",
    "trace_id_of",
    "trace_info",
    "tracer",
    "upload_attachments",
    "uri_elsewhere",
    "why_not_recorded",
    "workspace",
    "write_feedback",
    "write_info",
    "write_spans",
]
