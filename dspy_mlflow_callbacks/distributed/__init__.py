"""One trace over threads, processes, services and machines: what carries its context, and what takes it up."""

from dspy_mlflow_callbacks.distributed.asgi import TraceASGIMiddleware
from dspy_mlflow_callbacks.distributed.clients import trace_client
from dspy_mlflow_callbacks.distributed.receiving import continue_trace
from dspy_mlflow_callbacks.distributed.sending import inject_headers
from dspy_mlflow_callbacks.distributed.threads import TracedThreadPoolExecutor, propagate
from dspy_mlflow_callbacks.distributed.wsgi import TraceWSGIMiddleware

__all__ = [
    "TraceASGIMiddleware",
    "TraceWSGIMiddleware",
    "TracedThreadPoolExecutor",
    "continue_trace",
    "inject_headers",
    "propagate",
    "trace_client",
]
