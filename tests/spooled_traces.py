"""Spools of a test: where they lie, what they hold, and exporters with a store that may be away."""

from __future__ import annotations

import threading
from pathlib import Path

import attrs
from ended import FakeStore

from dspy_mlflow_callbacks.export.errors import StoreAwayError
from dspy_mlflow_callbacks.export.spool.database import Database
from dspy_mlflow_callbacks.export.spool.reading import all_rows, status
from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings
from dspy_mlflow_callbacks.export.spool.spool import Spool
from dspy_mlflow_callbacks.export.spool.tables import Row
from dspy_mlflow_callbacks.export.waiting import Limits

WHERE = '{"tracking_uri":"nowhere://store","experiment_id":"1","run_id":null,"workspace":null}'


def spooled_row(trace_id="tr-1", size=100, **facts):
    """Return a row that holds no real trace."""
    row = Row(trace_id=trace_id, destination=WHERE, ended=1000.0, spans=1, request=b"x" * size, extra="{}", note=0)
    return attrs.evolve(row, **facts)


class Clock:
    """Tells the time that it is set to."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def spool_at(folder, *, max_bytes=10_000_000, max_age_s=1000.0, clock=None):
    return Spool(Database(Path(folder)), max_bytes, max_age_s, clock or Clock())


def limits_of(folder, **said):
    """Return limits with a spool in a folder."""
    names = {field.name for field in attrs.fields(SpoolSettings)}
    spool = {name: value for name, value in said.items() if name in names}
    rest = {name: value for name, value in said.items() if name not in names}
    return Limits(spool=SpoolSettings(folder=str(folder), **spool), **rest)


def waiting_ids(folder):
    """Return the ids of the traces that wait in a spool."""
    return [row.trace_id for row in all_rows(SpoolSettings(folder=str(folder)))]


def status_of(folder):
    return status(SpoolSettings(folder=str(folder)))


class AwayStore(FakeStore):
    """Is away until it is told to come back; `deliver` stores the batches that come then."""

    def __init__(self, deliver=lambda batch: None):
        super().__init__()
        self.is_away = threading.Event()
        self.is_away.set()
        self.deliver = deliver

    def __call__(self, batch):
        if self.is_away.is_set():
            self.asked += 1
            raise StoreAwayError("away")
        super().__call__(batch)
        self.deliver(batch)
