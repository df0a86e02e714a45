"""Many traces at once: each is stored whole, once, whatever MLflow's own limits are."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import dspy
import mlflow
import pytest
from mlflow.tracing.trace_manager import InMemoryTraceManager
from offline_lm import OfflineLM
from programs import Echo, Program
from sqlalchemy import create_engine, text

OPEN = 2000

pytestmark = pytest.mark.usefixtures("nothing_open")


@pytest.fixture(autouse=True)
def callback(background_callback):
    """Return the callback; MLflow is left with nothing of it."""
    yield background_callback
    assert not InMemoryTraceManager.get_instance()._traces


class Waiting(dspy.Module):
    """Waits until it may go on."""

    def __init__(self, look):
        super().__init__()
        self.look = look
        self.entered, self.may_go_on = 0, asyncio.Event()

    async def aforward(self, number):
        if self.look:
            mlflow.get_current_active_span().set_attribute("before", number)
        self.entered += 1
        if self.entered == OPEN:
            self.may_go_on.set()
        await self.may_go_on.wait()
        if self.look:
            mlflow.get_current_active_span().set_attribute("after", number)
        return number


def query(traces, sql):
    """Return what the database says of the traces of a test."""
    engine = create_engine(mlflow.get_tracking_uri())
    with engine.connect() as connection:
        rows = connection.execute(text(sql), {"experiment": traces.experiment_id}).fetchall()
    engine.dispose()
    return [tuple(row) for row in rows]


def stored(traces):
    """Return how many traces, spans and spans with another parent than one of their own trace are in the database."""
    (counts,) = query(
        traces,
        """
        SELECT COUNT(DISTINCT i.request_id), COUNT(s.span_id), COUNT(DISTINCT s.trace_id || s.span_id),
            SUM(s.parent_span_id IS NOT NULL AND NOT EXISTS (
                SELECT 1 FROM spans p WHERE p.trace_id = s.trace_id AND p.span_id = s.parent_span_id))
        FROM trace_info i JOIN spans s ON s.trace_id = i.request_id WHERE i.experiment_id = :experiment
        """,
    )
    return counts


def states(traces):
    return dict(
        query(traces, "SELECT status, COUNT(*) FROM trace_info WHERE experiment_id = :experiment GROUP BY status")
    )


def check(traces, callback, *, count, spans):
    """Check that *count* traces of *spans* spans each are stored, once."""
    assert callback.flush(100)
    assert stored(traces) == (count, count * spans, count * spans, 0)
    assert states(traces) == {"OK": count}
    stats = callback.stats()
    assert (stats.stored, stats.lost, stats.failed, stats.queued) == (count, 0, 0, 0)


@pytest.mark.parametrize("look", [False, True], ids=["plain", "looked at"])
def test_two_thousand_open_traces(dspy_traces, callback, look):
    """Two thousand traces that are open at once are stored whole, be it that MLflow has room for one thousand."""

    async def run():
        program = Waiting(look)
        await asyncio.gather(*[program.acall(number) for number in range(OPEN)])

    asyncio.run(run())
    check(dspy_traces, callback, count=OPEN, spans=1)
    if look:
        found = query(
            dspy_traces, "SELECT content FROM spans WHERE experiment_id = :experiment ORDER BY start_time_unix_nano"
        )
        for number, (content,) in enumerate(found):
            assert f'"before": "{number}"' in content
            assert f'"after": "{number}"' in content


def test_two_thousand_fast_calls(dspy_traces, callback):
    """Two thousand calls, one after the other as fast as they go, are two thousand traces."""
    program = Echo()
    for _ in range(2000):
        program()
    check(dspy_traces, callback, count=2000, spans=1)


def test_thirty_two_threads(dspy_traces, callback):
    """Calls of thirty-two threads are a whole trace each."""
    settings = {"lm": OfflineLM(), "callbacks": [callback]}
    start = threading.Barrier(32)

    def work(number):
        start.wait(timeout=60)
        with dspy.context(**settings):
            for call in range(8):
                Program()(question=f"{number} {call}")

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(work, range(32)))
    check(dspy_traces, callback, count=256, spans=6)


def test_two_hundred_and_fifty_six_tasks(dspy_traces, callback):
    """Calls of as many async tasks are a whole trace each."""

    async def run():
        await asyncio.gather(*[Program().acall(question=f"{number}") for number in range(256)])

    asyncio.run(run())
    check(dspy_traces, callback, count=256, spans=6)
