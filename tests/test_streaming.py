"""Streams: a streamed call is one whole trace, also when nobody reads it to its end."""

from __future__ import annotations

import asyncio
import threading

import dspy
import pytest
from dspy.streaming import StreamListener, StreamResponse
from dspy.utils.callback import BaseCallback
from expected import failed, ok
from openai_server import backends, stream
from programs import Answer, predict_tree
from werkzeug import Response

from dspy_mlflow_callbacks.testing.captured import tree

LM = "openai/gpt-4o-mini"
TEXTS = ["[[ ## answer ## ]]\n", "forty", " two", "\n\n[[ ## completed ## ]]\n"]
PREDICT = predict_tree("Answer.predict", lm=LM)


def streamed(**settings):
    return dspy.streamify(Answer(), stream_listeners=[StreamListener("answer")], **settings)


def read_sync():
    return list(streamed(async_streaming=False)(question="why?"))


def read_async(**settings):
    async def read():
        return [value async for value in streamed(**settings)(question="why?")]

    return asyncio.run(read())


def read_async_program():
    return read_async(is_async_program=True)


@pytest.mark.parametrize("read", [read_sync, read_async, read_async_program])
@backends
def test_a_streamed_call_is_one_trace(dspy_traces, openai_server, backend, read):
    """A program read as a stream, sync or async, is one whole trace."""
    openai_server.script(stream(*TEXTS))
    with dspy.context(lm=openai_server.lm(backend)):
        *chunks, prediction = read()
    assert "".join(chunk.chunk for chunk in chunks if isinstance(chunk, StreamResponse)) == "forty two"
    assert prediction.answer == "forty two"
    assert dspy_traces.tree() == [ok("Answer", "CHAIN", PREDICT)]


class Ends(BaseCallback):
    """Says when a call of `Answer` has ended, for the callbacks before it too."""

    def __init__(self):
        super().__init__()
        self.ended = threading.Event()
        self._calls = set()

    def on_module_start(self, call_id, instance, inputs):
        if isinstance(instance, Answer):
            self._calls.add(call_id)

    def on_module_end(self, call_id, outputs, exception):
        if call_id in self._calls:
            self.ended.set()


@pytest.fixture
def held(openai_server):
    """Return a server that sends the beginning of its first stream and waits for its event `release` then."""
    openai_server.release = threading.Event()

    def body():
        role, first, *rest = stream(*TEXTS).response
        yield from (role, first)
        assert openai_server.release.wait(timeout=60)
        yield from rest

    openai_server.script(Response(body(), content_type="text/event-stream"), stream(*TEXTS))
    yield openai_server
    openai_server.release.set()


def answer_later():
    """Call the program as if nothing had happened."""
    assert list(dspy.streamify(Answer(), async_streaming=False)(question="why?"))[-1].answer == "forty two"


CANCELLED = [failed("Answer", "CHAIN", failed("Answer.predict", "CHAIN", *PREDICT[3][:1], failed(LM, "CHAT_MODEL")))]
WHOLE = [ok("Answer", "CHAIN", PREDICT)]


async def close(output):
    async for _ in output:
        break
    await output.aclose()


async def leave(output):
    async for _ in output:
        break


async def others_are_done():
    """Wait until DSPy's tasks have heard that nobody reads any more."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    while others:
        await asyncio.wait(others)
        others = asyncio.all_tasks() - {asyncio.current_task()}


@pytest.mark.parametrize("give_up", [close, leave])
@pytest.mark.parametrize("is_async_program", [True, False])
@backends
def test_a_stream_that_is_given_up_ends_as_an_error(dspy_traces, held, backend, is_async_program, give_up):
    """A stream that is closed or left before its end ends all its spans with an error; later calls are not affected."""
    (callback,) = dspy.settings.callbacks
    ends = Ends()

    async def abandon():
        # In a task of its own, whose end does not matter: DSPy 3.4 cancels who gives up, DSPy 3.3 raises a group.
        output = dspy.streamify(Answer(), is_async_program=is_async_program)(question="why?")
        await asyncio.gather(asyncio.create_task(give_up(output)), return_exceptions=True)
        del output
        await others_are_done()
        held.release.set()
        assert await asyncio.to_thread(ends.ended.wait, 60)

    with dspy.context(lm=held.lm(backend), callbacks=[callback, ends]):
        asyncio.run(abandon())
        answer_later()
    assert [tree(trace) for trace in dspy_traces.all()] == [CANCELLED, WHOLE]
    assert callback.stats().open == 0


@backends
def test_a_sync_stream_that_is_left_is_read_to_its_end(dspy_traces, held, backend):
    """DSPy itself reads a sync stream to its end when the user leaves it: one whole trace."""
    (callback,) = dspy.settings.callbacks
    ends = Ends()
    with dspy.context(lm=held.lm(backend), callbacks=[callback, ends]):
        for _ in dspy.streamify(Answer(), async_streaming=False)(question="why?"):
            break
        held.release.set()
        assert ends.ended.wait(timeout=60)
        answer_later()
    assert [tree(trace) for trace in dspy_traces.all()] == [WHOLE, WHOLE]
    assert callback.stats().open == 0
