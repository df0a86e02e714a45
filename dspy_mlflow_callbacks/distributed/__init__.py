"""One trace over threads, processes, services and machines: what carries its context, and what takes it up."""

from dspy_mlflow_callbacks.distributed.receiving import continue_trace
from dspy_mlflow_callbacks.distributed.sending import inject_headers

__all__ = ["continue_trace", "inject_headers"]
