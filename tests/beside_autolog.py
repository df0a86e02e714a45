"""Runs programs beside MLflow's autolog in a process of its own and prints what was recorded and said as JSON.

The argument is the call that switches it on.
"""

from __future__ import annotations

import json
import sys
import uuid

import dspy
import mlflow
import peer_programs
from offline_lm import OfflineLM
from warned import Warnings

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.testing.captured import CapturedTraces, tree

warnings = Warnings().listen()
experiment = mlflow.set_experiment(uuid.uuid4().hex)
dspy.configure(lm=OfflineLM(answer="42"))
exec(sys.argv[1], {"mlflow": mlflow})
dspy.configure(callbacks=[*dspy.settings.callbacks, MlflowCallback()])

peer_programs.call()
peer_programs.call_in_threads()

traces = CapturedTraces(experiment.experiment_id).all()
sys.stdout.write(json.dumps({"traces": [tree(trace) for trace in traces], "warnings": warnings.messages}))
