"""Options by variables alone: a program that says `MlflowCallback()`, run in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dspy_mlflow_callbacks.config import OPTIONS, variable_of

PROGRAM = """
import dspy, json, mlflow
from offline_lm import OfflineLM
from dspy_mlflow_callbacks import MlflowCallback

class Support(dspy.Module):
    def __init__(self):
        super().__init__()
        self.solve = dspy.Predict("question, pin, city -> answer")

    def forward(self, **inputs):
        return self.solve(**inputs)

mlflow.set_experiment("ours")
dspy.configure(lm=OfflineLM(answer="Press the red button."), callbacks=[MlflowCallback()])
inputs = {"question": "Call 555-0199? ghp_" + "a1B2" * 9, "pin": "1234", "city": "Berlin"}
example = dspy.Example(**inputs, answer="none").with_inputs(*inputs)
metric = lambda example, prediction, trace=None: 0.5

Support()(**inputs)
dspy.Evaluate(devset=[example], metric=metric, display_progress=False)(Support())
dspy.BootstrapFewShot(metric=metric, max_labeled_demos=0).compile(Support(), trainset=[example])

mlflow.flush_trace_async_logging()
experiments = {each.experiment_id: each.name for each in mlflow.MlflowClient().search_experiments()}
traces = mlflow.search_traces(locations=list(experiments), return_type="list")
traces.sort(key=lambda trace: min(span.start_time_ns for span in trace.data.spans))
spans = [span for trace in traces for span in sorted(trace.data.spans, key=lambda span: span.start_time_ns)]

def said(texts, names):
    return {name: texts[name] for name in names if name in texts}

info = traces[0].info if traces else None
metadata = ("build", "mlflow.trace.session", "mlflow.trace.user")
solve = next((span for span in spans if span.name == "Support.solve"), None)
lm = next((span for span in spans if span.attributes["dspy.kind"] == "lm"), None)
print(json.dumps({
    "traces": [trace.info.tags["mlflow.traceName"] for trace in traces],
    "kinds": sorted({span.attributes["dspy.kind"] for span in spans}),
    "modules": sorted({span.name for span in spans if span.attributes["dspy.kind"] == "module"}),
    "experiments": sorted({experiments[trace.info.experiment_id] for trace in traces}),
    "tags": info and said(info.tags, ["team"]),
    "metadata": info and said(info.trace_metadata, metadata),
    "inputs": solve and solve.inputs,
    "outputs": solve and solve.outputs,
    "cut": any("[cut: " in json.dumps(span.attributes) for span in spans),
    "messages": lm and "Berlin" in json.dumps(lm.attributes),
}))
"""


SECRET = "ghp_" + "a1B2" * 9  # of GitHub's shape

# What the program stores where no variable is set.
PLAIN = {
    "traces": ["Support", "Evaluate", "Example", "BootstrapFewShot", "Support"],
    "kinds": ["adapter_format", "adapter_parse", "compile", "evaluate", "example", "lm", "module", "trial"],
    "modules": ["Support", "Support.solve"],
    "experiments": ["ours"],
    "tags": {},
    "metadata": {},
    "inputs": {"question": "Call 555-0199? [redacted]", "pin": "1234", "city": "Berlin"},
    "outputs": {"answer": "Press the red button."},
    "cut": False,
    "messages": True,
    "warned": True,
}

NOTHING = {
    **{name: [] for name in ("traces", "kinds", "modules", "experiments")},
    **dict.fromkeys(("tags", "metadata", "inputs", "outputs", "messages")),
}

# What variables change of that.
RUNS = {
    "nothing": ({}, {}),
    "off": ({"enabled": "false"}, NOTHING),
    "whose": (
        {
            "experiment": "theirs",
            "tags": "team=search",
            "metadata": "build=7",
            "session_id": "s-1",
            "user": "ada",
            "level": "info",
            "evaluate": "false",
            "capture_inputs": "false",
            "engine": "native",  # which stores the same
        },
        {
            "traces": ["Support", "BootstrapFewShot"],
            "kinds": ["compile", "lm", "module", "trial"],
            "experiments": ["theirs"],
            "tags": {"team": "search"},
            "metadata": {"build": "7", "mlflow.trace.session": "s-1", "mlflow.trace.user": "ada"},
            "inputs": None,
            "messages": False,
        },
    ),
    "how much": (
        {
            "sampling_ratio": "0",
            "sampling_rules": '[{"name": "Supp*"}, {"name": "Eval*", "experiment": "ours"}]',
            "events": "module,lm",
            "capture_outputs": "false",
            "redact": "false",
            "verbosity": "silent",
        },
        {
            "traces": ["Support", "Support"],
            "kinds": ["lm", "module"],
            "inputs": {"question": f"Call 555-0199? {SECRET}", "pin": "1234", "city": "Berlin"},
            "outputs": None,
            "warned": False,
        },
    ),
    "what": (
        {
            "include": "*.solve",
            "exclude": "Bootstrap*",
            "redact_keys": "pin",
            "redact_patterns": "[0-9]{3}-[0-9]{4,5}",
            "redact_fields": "city",
        },
        {
            "traces": ["Support.solve", "Support.solve"],
            "kinds": ["adapter_format", "adapter_parse", "lm", "module"],
            "modules": ["Support.solve"],
            "inputs": {"question": "Call [redacted]? [redacted]", "pin": "[redacted]", "city": "[redacted]"},
            "messages": False,
        },
    ),
    "what became of it": (
        {"tail_sampler": '{"keep_errors": true}'},  # and there is none
        NOTHING,
    ),
    "how it leaves": (
        {
            "max_queue_traces": "1",
            "max_queue_bytes": "1",
            "on_full": "block",
            "max_block_s": "60",
            "exit_timeout_s": "60",
            "spool_dir": "spool",
            "max_spool_bytes": "1000000",
            "max_spool_age_s": "60",
            "durable": "true",
            "max_open_s": "0.01",
            "max_silent_s": "600",
        },
        {},
    ),
    "how long": (
        {"compile": "false", "capture_messages": "false", "max_payload_chars": "200"},
        {
            "traces": ["Support", "Evaluate", "Example"],
            "kinds": ["adapter_format", "adapter_parse", "evaluate", "example", "lm", "module"],
            "cut": True,
            "messages": False,
        },
    ),
}


@pytest.mark.engine("auto")  # no other variable is set
@pytest.mark.parametrize(("options", "changed"), RUNS.values(), ids=RUNS)
def test_variables_change_what_is_stored(tmp_path, options, changed):
    """A program that says `MlflowCallback()` stores what its environment asks for, and nothing else changes."""
    environ = {variable_of(name): text for name, text in options.items()}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
            "DSPY_MLFLOW_TAG": "one=too-few",  # a wrong one, of which the program is warned
            **environ,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stored = {**json.loads(done.stdout.splitlines()[-1]), "warned": "DSPY_MLFLOW_TAG is unknown" in done.stderr}
    assert stored == {**PLAIN, **changed}


def test_every_option_is_run_by_its_variable():
    """No option is left out of the runs."""
    assert {name for options, _ in RUNS.values() for name in options} == set(OPTIONS)
