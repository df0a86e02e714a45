"""A program of many lives (`forking.py`), and what its lives said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import dspy
from offline_lm import OfflineLM
from programs import Program


def live(destination, folder, *, options=None, request_s=5, **said):
    """Run the program of many lives, each of whose requests may take *request_s*, and return what each life said."""
    said = {
        "seed": 7,
        "rounds": 1,
        "at_once": 1,
        "threads": 2,
        "calls": 20,
        "exit_s": 10.0,
        "kill_within_s": 0.0,
        "opens_store": False,
        "options": {"spool_dir": str(folder), **(options or {})},
        **said,
    }
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "forking.py", json.dumps(said)],
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": destination.tracking_uri,
            "MLFLOW_EXPERIMENT_ID": destination.experiment_id,
            "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "true",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": str(request_s),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ended(lives):
    return [line["id"] for life in lives for line in life if "id" in line]


def counts(lives):
    said = [line for life in lives for line in life if "id" not in line]
    return {name: sum(line[name] for line in said) for name in said[0]}


def answers(lives):
    return sorted(line["answer"] for life in lives for line in life if "id" in line)


def expected_answers(threads, calls, times=1):
    with dspy.context(lm=OfflineLM()):
        return sorted(
            [Program()(question=f"{name} {number}").answer for name in range(threads) for number in range(calls)]
            * times
        )
