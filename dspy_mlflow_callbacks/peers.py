"""Other tracers of DSPy in the same process: MLflow stores no call twice, and one warning says who records.

`mlflow.dspy.autolog()` stands aside for the callbacks of this package. OpenInference records where it is told to, and
where that is MLflow, this package stands aside: its spans are open before DSPy tells of a call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from opentelemetry import trace as otel

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.stats import WarnOnce

OPENINFERENCE = "openinference.instrumentation.dspy"
"""The module of OpenInference's instrumentation, which is also what its spans say they come from."""

_AUTOLOG_STANDS_ASIDE = (
    "mlflow.dspy.autolog() is on beside dspy_mlflow_callbacks: dspy_mlflow_callbacks records the calls, and MLflow's "
    "own callback leaves them out. To have MLflow's record them, take ours out of the callbacks or set "
    "DSPY_MLFLOW_ENABLED=false. What autolog() is told not to trace is traced by nobody: compile() without "
    "log_traces_from_compile=True, and evaluations with log_traces_from_eval=False. "
    "mlflow.dspy.autolog(disable=True) ends that, and this warning."
)
# `DSPyInstrumentor().uninstrument()` is no way out: it takes DSPy's own callbacks off DSPy's methods too (0.1.48).
_OPENINFERENCE_IS_APART = (
    "OpenInference instruments DSPy beside dspy_mlflow_callbacks, and both record: dspy_mlflow_callbacks into MLflow, "
    "OpenInference into an OpenTelemetry provider that MLflow does not use. If that one exports to MLflow too, each "
    "call is there twice: then leave out DSPyInstrumentor().instrument(), or set DSPY_MLFLOW_ENABLED=false."
)
_OPENINFERENCE_RECORDS = (
    "OpenInference instruments DSPy beside dspy_mlflow_callbacks, and MLflow gets its spans: OpenInference records the "
    "calls, and dspy_mlflow_callbacks leaves out those that run inside its spans. No option of dspy_mlflow_callbacks "
    "holds for them, redaction neither. To have dspy_mlflow_callbacks record the calls, leave out "
    "DSPyInstrumentor().instrument(), or give OpenInference an OpenTelemetry provider that MLflow does not use "
    "(MLFLOW_USE_DEFAULT_TRACER_PROVIDER=true keeps MLflow's apart)."
)


class Peers:
    """What other tracers do; one object for the process."""

    def __init__(self) -> None:
        self._warn = WarnOnce()

    def install(self, hears: Callable[[str, Any], bool]) -> None:
        """Have MLflow's autolog stand aside, whenever it is switched on; doing so twice is doing it once.

        Args:
            hears: Given a kind of call and the module, LM, … that is called, says whether a callback of this package
                is told of the call.
        """
        internals.pass_over_autolog(hears, lambda: self._warn("autolog", _AUTOLOG_STANDS_ASIDE))

    def records(self) -> bool:
        """Return whether the call that starts here runs inside a span of OpenInference's that MLflow stores."""
        if OPENINFERENCE not in sys.modules:
            return False
        span: Any = otel.get_current_span()
        scope = getattr(span, "instrumentation_scope", None)
        if scope is None or scope.name != OPENINFERENCE:
            return False
        is_in_mlflow = internals.is_in_mlflow(span)
        if is_in_mlflow:
            self._warn("OpenInference", _OPENINFERENCE_RECORDS)
        elif internals.tracer.is_known:  # else MLflow may not listen yet to the provider that it will share
            self._warn("OpenInference", _OPENINFERENCE_IS_APART)
        return is_in_mlflow


PEERS = Peers()
