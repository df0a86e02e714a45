"""The only door to MLflow's private modules.

Each function says what it relies on; `tests/test_mlflow_spans.py`, `test_scopes.py`, `test_peers.py` and
`test_experiments.py` name it when an MLflow release changes it.
"""

from dspy_mlflow_callbacks.mlflow_internals.autolog import pass_over_autolog
from dspy_mlflow_callbacks.mlflow_internals.destinations import (
    active_experiment_id,
    experiment_variables,
    has_destination,
)
from dspy_mlflow_callbacks.mlflow_internals.live_spans import (
    default_level,
    end_span,
    is_in_mlflow,
    live_span,
    replace_event_attribute,
    replace_status_description,
    trace_info,
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
from dspy_mlflow_callbacks.mlflow_internals.runs import as_active_run, calling_run, dspy_runs, end_run
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
from dspy_mlflow_callbacks.mlflow_internals.testing import store_of_its_own
from dspy_mlflow_callbacks.mlflow_internals.threads import in_current_context
from dspy_mlflow_callbacks.mlflow_internals.tracers import Tracer, ids, tracer

__all__ = [
    "EXPERIMENT_ID",
    "INPUTS",
    "LOG_LEVEL",
    "OUTPUTS",
    "REQUEST_ID",
    "SOURCE_RUN",
    "SPAN_TYPE",
    "ServerError",
    "TraceScope",
    "Tracer",
    "active_experiment_id",
    "as_active_run",
    "calling_run",
    "current_scope",
    "default_level",
    "dspy_runs",
    "end_run",
    "end_span",
    "experiment_variables",
    "has_destination",
    "ids",
    "in_current_context",
    "in_workspace",
    "is_in_mlflow",
    "is_resumed",
    "is_suppressed",
    "link_prompts",
    "link_run",
    "links_runs",
    "live_span",
    "open_scopes",
    "open_store",
    "pass_over_autolog",
    "post_info",
    "post_spans",
    "replace_event_attribute",
    "replace_status_description",
    "store_of_its_own",
    "stored_info",
    "tag_active_trace",
    "trace_info",
    "tracer",
    "upload_attachments",
    "uri_elsewhere",
    "write_info",
    "write_spans",
]
