"""The command `dspy-mlflow doctor`: what it looks at, what it prints, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import dspy
import mlflow
import pytest
from stored import tracking_to

from dspy_mlflow_callbacks import autolog
from dspy_mlflow_callbacks.cli import main

CONFIGURES = """
import dspy
from dspy_mlflow_callbacks import MlflowCallback, attach

print("from the module")
dspy.configure(callbacks=[MlflowCallback(user="app")])

def program():
    return attach(dspy.Predict("question -> answer"), MlflowCallback(user="own", sampling_ratio=0))

if __name__ == "__main__":
    raise SystemExit("it was run")
"""


@pytest.fixture
def doctor(dspy_traces, capsys, tmp_path, monkeypatch):
    """Return a function that runs the command in a folder with `app.py`: exit status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "app_of_doctor.py").write_text(CONFIGURES)
    dspy.configure(callbacks=[])

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(["doctor", *arguments])
        return exited.value.code, *capsys.readouterr()

    yield run
    autolog(disable=True)
    sys.modules.pop("app_of_doctor", None)


def users(output: str) -> list[str | None]:
    """Return the option `user` of the callbacks in a JSON report."""
    options = [{each["name"]: each["value"] for each in one["options"]} for one in json.loads(output)["callbacks"]]
    return [each["user"] for each in options]


def test_what_run_would_set_up(doctor, monkeypatch):
    """Without a program it looks at what `dspy-mlflow run` would set up from the environment, and exits with 0."""
    monkeypatch.setenv("DSPY_MLFLOW_USER", "ada")
    status, out, _ = doctor("--json")
    assert status == 0
    found = json.loads(out)
    assert (found["is_healthy"], found["callbacks"][0]["place"], users(out)) == (True, "autolog()", ["ada"])
    assert found["destination"]["address"] == mlflow.get_tracking_uri()


def test_what_a_module_configures(doctor):
    """A module is imported, not run as a program; what it prints goes to standard error."""
    status, out, err = doctor("app_of_doctor", "--json")
    assert (status, users(out)) == (0, ["app"])
    assert "from the module\n" in err


def test_the_callbacks_of_a_program(doctor):
    """With `MODULE:ATTRIBUTE` the program's own callbacks are looked at too; a problem exits with 1."""
    status, out, _ = doctor("app_of_doctor:program", "--json")
    assert (status, users(out)) == (1, ["app", "own"])
    status, out, _ = doctor("app_of_doctor:program")
    assert status == 1
    assert "keeps no trace" in out


def test_what_would_be_warned_of(doctor, monkeypatch):
    """What setting up here would warn of is among the findings, and not warned of."""
    monkeypatch.setenv("DSPY_MLFLOW_REDACT", "perhaps")
    status, out, err = doctor("--json")
    assert status == 1
    assert [each["remedy"] for each in json.loads(out)["findings"] if "'perhaps'" in each["what"]] == [
        "unset DSPY_MLFLOW_REDACT, or set it to what is allowed"
    ]
    assert "perhaps" not in err


def test_the_time_for_the_store(doctor, monkeypatch):
    """`--timeout` is how long the store may take; one that takes longer is a problem."""
    monkeypatch.setenv("DSPY_MLFLOW_ENGINE", "native")
    with tracking_to("http://192.0.2.1"):  # of a network that is not there (RFC 5737)
        status, out, _ = doctor("--timeout", "0.01", "--json")
    assert (status, json.loads(out)["destination"]["answers"]) == (1, False)


COULD_NOT = {
    "a module that is not there": ("nowhere_at_all", "No module named 'nowhere_at_all'"),
    "an attribute that is not there": ("app_of_doctor:nothing", "has no attribute 'nothing'"),
}


@pytest.mark.parametrize(("program", "reason"), COULD_NOT.values(), ids=COULD_NOT)
def test_could_not_look(doctor, program, reason):
    """A program that cannot be had exits with 2 and the reason."""
    status, out, err = doctor(program)
    assert (status, out) == (2, "")
    assert reason in err


def test_a_terminal_that_cannot_say_it(dspy_traces, tmp_path):
    """Where the encoding lacks a character it is spelt out, and so is what a terminal would obey."""
    said = {"DSPY_MLFLOW_USER": "\x1b[31mä→\u202e[bold]", "PYTHONIOENCODING": "ascii", "COLUMNS": "200"}
    command = Path(sysconfig.get_path("scripts")) / "dspy-mlflow"
    done = subprocess.run(
        [command, "doctor"], cwd=tmp_path, env={**os.environ, **said}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode("ascii")
    assert r"\x1b[31m\xe4" in text.replace("\n", "")
    assert r"\u202e[bold]" in text.replace("\n", "")
