"""What a callback has lost: counted, and said once."""

from __future__ import annotations

from dspy_mlflow_callbacks.middleware import MiddlewareError
from dspy_mlflow_callbacks.payload import PayloadStepError
from dspy_mlflow_callbacks.spans.experiments import ExperimentError
from dspy_mlflow_callbacks.stats import Counters, WarnOnce
from dspy_mlflow_callbacks.tail_sampling import TailSamplerError


class Losses:
    """Counts what goes wrong on the way of a call, and warns of each thing once."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._warn = WarnOnce()

    def __call__(self, error: Exception) -> None:
        """Count what *error* cost, a span or a decision, and say so once."""
        self._counters.failed()
        if isinstance(error, MiddlewareError):
            self._warn(id(error.step), f"A middleware failed; its calls are not recorded: {error}", error)
        elif isinstance(error, PayloadStepError):
            self._warn(id(error.step), f"A payload step failed; its payloads are withheld: {error}", error)
        elif isinstance(error, TailSamplerError):
            self._warn(id(error.sampler), f"A tail sampler failed; its traces are kept: {error}", error.__cause__)
        elif isinstance(error, ExperimentError):
            self._warn(ExperimentError, f"{error}. The program goes on without them.")
        else:
            self._warn(type(error), f"A span was lost or is incomplete: {error!r}", error)
