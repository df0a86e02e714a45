"""The names of MLflow's span attributes and trace metadata (`mlflow.tracing.constant`): its storage format."""

from __future__ import annotations

INPUTS = "mlflow.spanInputs"
OUTPUTS = "mlflow.spanOutputs"
REQUEST_ID = "mlflow.traceRequestId"
SPAN_TYPE = "mlflow.spanType"
LOG_LEVEL = "mlflow.spanLogLevel"
EXPERIMENT_ID = "mlflow.experimentId"
SOURCE_RUN = "mlflow.sourceRun"
