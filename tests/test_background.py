"""Searches in a store: who asks waits for a while once; a store that fails is asked again, but not at every call."""

from __future__ import annotations

import threading

import pytest

from dspy_mlflow_callbacks.background import Search, StoreUnavailableError


class Clock:
    """A clock that goes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Store:
    """Says what it is asked for, or what is wrong, when it may."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked = 0
        self.threads_before = threading.enumerate()
        self.answer: str | Exception = "found"
        self.takes = 0.0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self) -> str:
        self.asked += 1
        assert self.may_answer.wait(timeout=60)
        self.clock.now += self.takes
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    return Store(clock)


def fails(search, store):
    """Ask, and return what is wrong."""
    with pytest.raises((ValueError, StoreUnavailableError)) as error:
        search("store", store)
    return type(error.value)


def finish(store):
    """Wait for the searches in a store that are under way."""
    store.may_answer.set()
    for thread in threading.enumerate():
        if thread.name == "dspy-mlflow-store" and thread not in store.threads_before:
            thread.join(timeout=60)
            assert not thread.is_alive()


def test_what_is_found_is_returned(store, clock):
    """What is found is returned; who asks again has it looked up again."""
    search = Search(60.0, clock=clock)
    assert [search("store", store), search("store", store), store.asked] == ["found", "found", 2]


def test_what_failed_at_once_is_asked_for_again(store, clock):
    """After a failure at once, the store, which may be mended meanwhile, is asked by the next caller."""
    search, store.answer = Search(60.0, clock=clock), ValueError("wrong")
    assert fails(search, store) is ValueError
    store.answer = "found"
    assert (search("store", store), store.asked) == ("found", 2)


def test_what_failed_at_once_may_rest_for_a_while(store, clock):
    """Where it is said so, callers get the error of a failure at once for some seconds, before the store is asked."""
    search, store.answer = Search(60.0, again=1.0, clock=clock), ValueError("wrong")
    assert [fails(search, store) for _ in range(3)] == [ValueError] * 3
    assert store.asked == 1
    clock.now, store.answer = 1.5, "found"
    assert (search("store", store), store.asked) == ("found", 2)


def test_what_failed_slowly_is_asked_for_again_after_a_minute(store, clock):
    """After a failure that took long, a minute passes before the store is asked again, and then nobody waits for it."""
    search, store.answer, store.takes = Search(60.0, clock=clock), ValueError("away"), 20.0
    assert fails(search, store) is ValueError
    clock.now, store.answer = 59.0, "found"
    assert (fails(search, store), store.asked) == (ValueError, 1)
    clock.now = 61.0
    store.may_answer.clear()
    assert fails(search, store) is StoreUnavailableError
    finish(store)
    assert (search("store", store), store.asked) == ("found", 2)


def test_a_store_that_does_not_answer_is_waited_for_once(store, clock):
    """While a search goes on, who asks after its time is told at once that the store is not there."""
    search = Search(0.0, clock=clock)
    store.may_answer.clear()
    assert [fails(search, store) for _ in range(3)] == [StoreUnavailableError] * 3
    finish(store)
    assert (search("store", store), store.asked) == ("found", 1)


def test_another_store_is_another_search(store, clock):
    """A failure of one store is not that of another."""
    search, store.answer = Search(60.0, again=1.0, clock=clock), ValueError("wrong")
    assert fails(search, store) is ValueError
    store.answer = "found"
    assert (fails(search, store), store.asked) == (ValueError, 1)
    assert (search("another", store), store.asked) == ("found", 2)


def test_an_error_that_many_are_told_does_not_grow(store, clock):
    """Told to a thousand callers, an error holds the frames of one: it does not collect those of all."""
    search, store.answer = Search(60.0, again=1.0, clock=clock), ValueError("wrong")
    for _ in range(1000):
        fails(search, store)
    frames, traceback = 0, store.answer.__traceback__
    while traceback is not None:
        frames, traceback = frames + 1, traceback.tb_next
    assert frames < 10
