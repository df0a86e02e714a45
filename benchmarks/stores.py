"""Where traces go, and what has arrived there."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import tempfile
import time
import uuid
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs


@attrs.frozen
class Waited:
    """What became of waiting for traces.

    Attributes:
        all_after_s: Seconds until all were there; None if they never were.
        last_after_s: Seconds until the last one that came was there; None if none came.
    """

    all_after_s: float | None = None
    last_after_s: float | None = None


class Nowhere:
    """For contestants that store nothing."""

    def flush(self):
        pass

    def spans_by_trace(self):
        return {}

    def scores(self):
        return 0

    def wait(self, traces, spans, since, **waiting):
        return Waited()


@attrs.frozen
class Memory:
    """An OpenTelemetry SDK provider that batches spans into a list: nothing is serialised, sent or stored."""

    provider: Any
    exporter: Any

    def flush(self):
        self.provider.force_flush()

    def spans_by_trace(self):
        return dict(Counter(span.context.trace_id for span in self.exporter.get_finished_spans()))

    def wait(self, traces, spans, since, **waiting):
        self.flush()
        return Waited()


@attrs.frozen
class MlflowStore:
    """An experiment in an SQLite store, which is read past MLflow: a few short queries, no lock held between them."""

    experiment_id: str
    database: Path

    def flush(self):
        import mlflow

        mlflow.flush_trace_async_logging()

    def spans_by_trace(self):
        """Return the number of spans of each stored trace that is no longer in progress."""
        return dict(
            self._rows(
                "SELECT request_id, (SELECT count(*) FROM spans WHERE trace_id = request_id) FROM trace_info "
                "WHERE experiment_id = ? AND status != 'IN_PROGRESS'"
            )
        )

    def scores(self):
        """Return the number of stored feedback."""
        ((count,),) = self._rows(
            "SELECT count(*) FROM assessments WHERE trace_id IN "
            "(SELECT request_id FROM trace_info WHERE experiment_id = ?)"
        )
        return count

    def wait(self, traces, spans, since, *, every_s=0.1, patience_s=10.0, at_most_s=60.0):
        """Wait until *traces* with *spans* in all are there; seconds count from *since*.

        Ends as well when nothing has come for *patience_s* seconds, or not all within *at_most_s*.
        """
        known, news, last = None, time.perf_counter(), None
        while (now := time.perf_counter()) - news < patience_s and now - since < at_most_s:
            found = self.counts()
            if found != known:
                known, news, last = found, now, time.perf_counter() - since
            if found[0] >= traces and found[1] >= spans:
                return Waited(last, last)
            time.sleep(every_s)
        return Waited(None, last)

    def counts(self):
        """Return the number of traces that are no longer in progress, and that of spans."""
        (counted,) = self._rows(
            "SELECT (SELECT count(*) FROM trace_info WHERE experiment_id = ?1 AND status != 'IN_PROGRESS'), "
            "(SELECT count(*) FROM spans WHERE experiment_id = ?1)"
        )
        return counted

    def _rows(self, query):
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=60)) as connection:
            return connection.execute(query, (self.experiment_id,)).fetchall()


@attrs.frozen
class Place:
    """Where a contestant's store is made.

    Attributes:
        folder: A folder for stores.
        server: The URI of a tracking server that keeps its traces in `SERVER_DATABASE` of the folder; without one, the
            store is a new SQLite file in the folder.
    """

    folder: Path = attrs.field(converter=Path)
    server: str | None = None

    def new_store(self) -> MlflowStore:
        """Return a new, empty store, the one that MLflow writes to from now on."""
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        if self.server is None:
            return _new_file(self.folder)
        mlflow.set_tracking_uri(self.server)
        return MlflowStore(mlflow.set_experiment(uuid.uuid4().hex).experiment_id, self.folder / SERVER_DATABASE)


SERVER_DATABASE = "server.db"


def _new_file(folder):
    """MLflow takes seconds to make a store, so those after the first in *folder* are copies of it."""
    import mlflow

    template, database = folder / "empty.db", Path(tempfile.mkdtemp(dir=folder), "mlflow.db")
    if template.exists():
        shutil.copy(template, database)
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    experiment = mlflow.set_experiment("bench")
    if not template.exists():
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(template)) as copy:
            source.backup(copy)
    return MlflowStore(experiment.experiment_id, database)
