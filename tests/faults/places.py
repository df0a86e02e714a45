"""A program and the store that its traces go to, which may fail meanwhile."""

from __future__ import annotations

import dspy
import mlflow
from ended import stored_ids, wait_until
from offline_lm import OfflineLM
from programs import Program
from spooled_traces import status_of

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.export.exporter import EXPORTER
from dspy_mlflow_callbacks.export.waiting import Destination
from dspy_mlflow_callbacks.spans.experiments import ChosenExperiment

CALLS = 30
QUESTIONS = [f"What is {number}?" for number in range(CALLS)]


class Place:
    """Runs the program against a store that may fail, and compares what became of its traces.

    Attributes:
        uri: Where the program sends its traces.
        server: The same store, as it is asked afterwards: a tracking server, or anything that has a `uri`.
        stored_at: The server's experiment.
        folder: The spool's folder.
        proxy: What is before the server, if anything.
    """

    def __init__(self, monkeypatch, folder, *, uri, server, experiment_id, proxy=None):
        self.monkeypatch, self.folder, self.uri, self.proxy = monkeypatch, folder, uri, proxy
        self.stored_at = Destination(tracking_uri=server.uri, experiment_id=experiment_id)
        self.server = server

    def run(self, during=lambda number: None, **options):
        """Return the answers of the program, and its callback."""
        self.monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", self.stored_at.experiment_id)
        mlflow.set_tracking_uri(self.uri)
        if self.proxy is not None:  # where the experiment is known, a first call does not wait for the store
            mode, self.proxy.mode = self.proxy.mode, "pass"
            ChosenExperiment(None).id(None)
            self.proxy.mode = mode
        callback = MlflowCallback(engine="recorded", spool_dir=self.folder, **options)
        return answers_of([callback], during), callback

    def check(self, answers, callback, *, lost=0):
        """Wait until all is stored, and compare: what was executed is stored once, or counted."""
        assert EXPORTER.flush(120)
        wait_until(lambda: len(self.stored()) >= CALLS - lost)
        wait_until(lambda: status_of(self.folder).traces == 0)
        stats, stored = callback.stats(), self.stored()
        assert stats.stored + stats.spooled + stats.lost == CALLS
        assert (len(stored), len(set(stored)), stats.lost) == (CALLS - lost, CALLS - lost, lost)
        assert answers == answers_of([])

    def stored(self):
        return stored_ids(self.stored_at)


def answers_of(callbacks, during=lambda number: None):
    answers = []
    with dspy.context(lm=OfflineLM(), callbacks=callbacks):
        for number, question in enumerate(QUESTIONS):
            during(number)
            answers.append(Program()(question=question).toDict())
    return answers
