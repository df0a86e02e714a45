"""A saved program takes its tracing along: load it anywhere, and its calls are traced.

The model is logged by one process and served by another, which knows nothing of tracing. Runs offline.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import dspy
import mlflow
from dspy.utils.dummies import DummyLM

from dspy_mlflow_callbacks import MlflowCallback, attach, log_model

SERVING = """
import sys
import mlflow

model = mlflow.pyfunc.load_model(sys.argv[1])
print(model.predict({"question": "Is this call traced?"})["answer"])
"""

store = f"sqlite:///{Path(tempfile.mkdtemp()) / 'mlflow.db'}"
mlflow.set_tracking_uri(store)
mlflow.set_experiment("questions")
dspy.configure(lm=DummyLM([{"reasoning": "The program took its tracing along.", "answer": "Yes."}] * 10))

program = attach(dspy.ChainOfThought("question -> answer"), MlflowCallback(tags={"team": "search"}))
info = log_model(program, name="answers", pip_requirements=["dspy", "mlflow"])

environment = {"MLFLOW_TRACKING_URI": store, "MLFLOW_EXPERIMENT_NAME": "questions"}
subprocess.run(  # noqa: S603  (this very file's text)
    [sys.executable, "-c", SERVING, info.model_uri], check=True, env={**os.environ, **environment}
)

(trace,) = mlflow.search_traces(return_type="list")
print("team:", trace.info.tags["team"])
print("of the logged model:", trace.info.trace_metadata["mlflow.modelId"] == info.model_id)
print("spans:", len(trace.data.spans))
