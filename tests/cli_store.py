"""A store of real traces that the tests of commands share, and what runs a command on it."""

from __future__ import annotations

import attrs
import dspy
import mlflow
import pytest
from offline_lm import OfflineLM
from programs import Program

from dspy_mlflow_callbacks import MlflowCallback, dspy_internals, trace_context
from dspy_mlflow_callbacks.cli import main
from dspy_mlflow_callbacks.testing import capture_traces

HOSTILE = "\x1b[2J[red]why[/red]\u202e :smile: <b>"
"""A text that a terminal, a markup and a browser would take for commands."""


class Fails(dspy.Module):
    """Raises what a terminal and a markup would take for commands."""

    def forward(self, question):
        raise ValueError(HOSTILE)


class Recovers(dspy.Module):
    """Goes on where what it calls fails."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Fails(), Program()

    def forward(self, question):
        try:
            return self.first(question=question)
        except ValueError:
            return self.second(question=question)


@attrs.frozen
class Store:
    """A store, and the traces that are in it.

    Attributes:
        uri: Its address.
        experiment: The id of the experiment.
        ids: The traces' ids, oldest first: Program, Fails, Recovers, Program with a tag.
    """

    uri: str
    experiment: str
    ids: tuple[str, ...]


@pytest.fixture(scope="module")
def cli_traces(store_folder):
    """Return a store with four traces, which the tests of a file share."""
    with capture_traces(store_folder) as traces, dspy_internals.restored_settings(adapter=None):
        with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback()]):
            Program()(question=HOSTILE)
            with pytest.raises(ValueError):
                Fails()(question="why?")
            Recovers()(question="why?")
            with trace_context(tags={"team": "search"}):
                Program()(question="why?")
        ids = tuple(trace.info.trace_id for trace in traces.all())
        return Store(mlflow.get_tracking_uri(), traces.experiment_id, ids)


@pytest.fixture
def run_cli(capsys, monkeypatch):
    """Return what runs a command, and returns its status, output and errors."""
    before = mlflow.get_tracking_uri()

    def run(*arguments, width=200):
        capsys.readouterr()
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit) as exited:
            main([str(each) for each in arguments])
        return (exited.value.code, *capsys.readouterr())

    yield run
    mlflow.set_tracking_uri(before)
