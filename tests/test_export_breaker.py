"""The breaker: a store that fails is left alone for longer and longer, then asked with one trace."""

from __future__ import annotations

import sys
import time
from email.utils import formatdate

import pytest
import sqlalchemy.exc
from ended import EndedTrace
from spooled_traces import Clock

from dspy_mlflow_callbacks.export.batch import Batch, Entry
from dspy_mlflow_callbacks.export.errors import RefusedError, StoreAwayError, failure
from dspy_mlflow_callbacks.export.lanes import FAILURES_UNTIL_OPEN, MOST_TRACES, Route
from dspy_mlflow_callbacks.export.tracking_store import deliver
from dspy_mlflow_callbacks.export.waiting import Destination


@pytest.fixture
def route():
    return Route(Clock())


def test_each_failure_doubles_the_rest(route):
    """A store is left alone for 0.2 s, 0.4 s, … up to 30 s, less a random part of at most half."""
    rests = []
    for _ in range(12):
        route.fail()
        rests.append(route.due_in(hurried=False))
    longest = [min(30.0, 0.2 * 2**number) for number in range(12)]
    assert all(most / 2 <= rest <= most for rest, most in zip(rests, longest, strict=True))
    assert len(set(rests)) > 6


def test_after_three_failures_it_is_open_and_asks_with_one_trace(route):
    """An open breaker is half open when its rest is over: one trace asks, and twice as many follow each success."""
    seen = []
    for _ in range(FAILURES_UNTIL_OPEN):
        route.fail()
        seen.append((route.is_open, route.most))
    assert seen == [(False, MOST_TRACES), (False, MOST_TRACES), (True, 1)]
    after = []
    for _ in range(8):
        route.succeed(1)
        after.append((route.is_open, route.most))
    assert after == [(False, most) for most in (2, 4, 8, 16, 32, 64, 100, 100)]


@pytest.mark.parametrize("hurried", [False, True])
def test_what_the_store_asks_for_is_honoured(route, hurried):
    """A store that says when to come again is not asked before, not even at the end, but for a limit."""
    route.fail(retry_after_s=45.0)
    assert (route.due_in(hurried=hurried), route.is_open, route.most) == (45.0, True, 1)
    route._clock.now += 45.0
    assert route.due_in(hurried=hurried) == 0.0
    route.fail(retry_after_s=1e9)
    assert route.due_in(hurried=hurried) == 600.0
    route.succeed(1)
    assert route.due_in(hurried=hurried) <= 0


def test_a_database_that_cannot_be_opened_is_away(monkeypatch):
    """What SQLAlchemy says of a locked or absent database means later; an error of another kind means never."""
    error = sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("database is locked"))
    assert isinstance(failure(error), StoreAwayError)
    assert isinstance(failure(ValueError("no")), RefusedError)
    monkeypatch.delitem(sys.modules, "sqlalchemy.exc")
    assert isinstance(failure(error), RefusedError)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        (lambda: formatdate(time.time() + 3600, usegmt=True), 3600.0),
        (lambda: formatdate(time.time() - 3600, usegmt=True), 0.0),
        ("soon", 0.0),
        ("-5", 0.0),
        (None, 0.0),
    ],
    ids=["seconds", "spaces", "a date", "a date that is past", "no date", "less than nothing", "nothing"],
)
def test_a_server_says_when_to_come_again(httpserver, status, said, seconds):
    """`Retry-After` is read as seconds or as a date; what is neither says nothing."""
    said = said() if callable(said) else said
    headers = {} if said is None else {"Retry-After": said}
    httpserver.expect_request("/v1/traces").respond_with_data(status=status, headers=headers)
    trace = EndedTrace(Destination(tracking_uri=httpserver.url_for("").rstrip("/"), experiment_id="1"))
    with pytest.raises(StoreAwayError) as raised:
        deliver(Batch(trace.destination, [Entry(0, trace, 1, trace.prepared())]))
    assert raised.value.retry_after_s == pytest.approx(seconds, abs=5.0)
