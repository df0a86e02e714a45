"""Replay: every kind of program runs again on the answers of its trace, offline, with equal outputs and tree."""

from __future__ import annotations

import asyncio
import copy
import threading

import dspy
import mlflow
import pytest
from dspy.dsp.utils.settings import main_thread_config
from dspy.streaming import StreamListener, StreamResponse
from dspy.utils.callback import BaseCallback
from dspy.utils.dummies import DummyLM
from offline_lm import OfflineLM, Raw
from programs import Answer, Program
from replays import (
    AGENT_STEPS,
    Adding,
    AtOnce,
    Look,
    Many,
    Steps,
    Twice,
    agent,
    counting,
    fields,
    needs_engines,
    record,
    refine,
    replay,
    seen,
    shape,
)

from dspy_mlflow_callbacks import MlflowCallback, attach

WHY = {"question": "why?"}

PROGRAMS = {
    "a predictor": (lambda: dspy.Predict("question -> answer"), WHY, counting),
    "modules in modules": (Program, WHY, counting),
    "equal prompts": (Twice, WHY, counting),
    "an agent": (agent, WHY, lambda: DummyLM(AGENT_STEPS)),
    "a fallback to another adapter": (
        lambda: dspy.ChainOfThought("question -> answer"),
        WHY,
        lambda: Raw("no fields", '{"reasoning": "because", "answer": "42"}'),
    ),
    "several completions": (lambda: dspy.Predict("question -> answer", n=3, temperature=1.0), WHY, counting),
    "rollouts": (refine, WHY, lambda: OfflineLM(advice={"predict": "none"})),
    "images and sounds": (Look, seen(), OfflineLM),
    "reasoning": (
        lambda: dspy.Predict("question -> answer"),
        WHY,
        lambda: DummyLM([{"answer": "42"}], reasoning=True),
    ),
}


@pytest.mark.parametrize(("program", "inputs", "lm"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_replays_to_the_same_outputs_and_tree(dspy_traces, program, inputs, lm):
    """A program's replay has its outputs and its tree, with no LM configured and no network."""
    trace, outputs = record(dspy_traces, lambda: program()(**inputs), lm())
    again = replay(trace, program())
    assert again.divergences == ()
    assert (fields(again.outputs), shape(again.trace)) == (fields(outputs), shape(trace))
    assert (again.is_equal, again.error, again.stopped) == (True, None, None)


def test_worker_threads_get_the_answers_of_their_items(dspy_traces):
    """Parallel calls are told apart by what they were given, and equal prompts of one by their turn."""
    questions = ["a", "b", "c", "d", "e"]
    answers = iter(range(50))
    lm = OfflineLM(answer=lambda prompt: f"{next(answers)} to {prompt[:30]!r}")
    trace, outputs = record(dspy_traces, lambda: Many()(*questions), lm)
    again = replay(trace, Many())
    assert (again.divergences, again.outputs, shape(again.trace)) == ((), outputs, shape(trace))


def test_an_async_program_replays(dspy_traces):
    """A program that has only `aforward` replays, where an event loop runs, as in a notebook, and where none does."""
    trace, outputs = record(dspy_traces, lambda: asyncio.run(AtOnce().acall(**WHY)))

    async def in_a_notebook():
        return replay(trace, AtOnce())

    for again in (replay(trace, AtOnce()), asyncio.run(in_a_notebook())):
        assert (again.divergences, again.outputs, shape(again.trace)) == ((), outputs, shape(trace))


@pytest.mark.parametrize("wrap", [dspy.asyncify, lambda program: lambda **inputs: iter([program(**inputs)])])
def test_a_function_around_a_program_replays(dspy_traces, wrap):
    """A function that calls the program replays too, be it async or another one."""
    trace, _ = record(dspy_traces, lambda: Steps()(**WHY))
    again = replay(trace, wrap(Steps()))
    assert [each.kind for each in again.divergences] in ([], ["outputs"])
    assert shape(again.trace) == shape(trace)


class Streaming:
    """An engine that streams an answer in pieces."""

    def complete(self, request):
        text = "[[ ## answer ## ]]\nforty two\n\n[[ ## completed ## ]]\n"
        lm15 = dspy.lm15
        message = lm15.Message.assistant([lm15.TextPart(text)])
        return lm15.Response(id=None, model="offline", message=message, finish_reason="stop", usage=lm15.Usage())

    def stream(self, request):
        return dspy.lm15.response_to_events(self.complete(request))


class AsyncStreaming(Streaming):
    """The same for async programs."""

    async def complete(self, request):
        return super().complete(request)

    async def stream(self, request):
        for event in dspy.lm15.response_to_events(await self.complete(request)):
            yield event


def read(*, is_async_program):
    """Return a function that reads a stream of `Answer`, and where it keeps what it read."""
    read = []
    listeners = [StreamListener("answer")]
    stream = dspy.streamify(Answer(), stream_listeners=listeners, is_async_program=is_async_program)

    async def read_all(**inputs):
        async for item in stream(**inputs):
            read.append(item)
            yield item

    return read_all, read


@needs_engines
@pytest.mark.parametrize("is_async_program", [False, True])
def test_a_stream_replays(dspy_traces, is_async_program):
    """A streamed call replays as a stream with its chunks, and without one."""
    lm = dspy.LM("offline/streaming", engine=Streaming(), async_engine=AsyncStreaming(), cache=False)

    async def consume(stream):
        return [item async for item in stream]

    stream, recorded = read(is_async_program=is_async_program)
    trace, _ = record(dspy_traces, lambda: asyncio.run(consume(stream(**WHY))), lm)
    stream, replayed = read(is_async_program=is_async_program)
    again = replay(trace, stream)
    plain = replay(trace, Answer())
    assert [item.chunk for item in replayed if isinstance(item, StreamResponse)] == [
        item.chunk for item in recorded if isinstance(item, StreamResponse)
    ]
    for each in (again, plain):
        assert (each.divergences, fields(each.outputs)) == ((), {"answer": "forty two"})
        assert shape(each.trace) == shape(trace)


def test_a_sync_stream_replays(dspy_traces):
    """A program that yields, as a sync stream does, comes to the prediction at its end."""
    trace, outputs = record(dspy_traces, lambda: Steps()(**WHY))
    program = Steps()

    def stream(**inputs):
        yield "working"
        yield program(**inputs)

    again = replay(trace, stream)
    assert (again.divergences, fields(again.outputs)) == ((), fields(outputs))


def test_recorded_tools_do_not_run(dspy_traces):
    """With recorded tools none is run; with live ones they are."""
    adding = Adding()
    trace, _ = record(dspy_traces, lambda: agent(adding)(**WHY), DummyLM(AGENT_STEPS))
    assert adding.called == [(1, 2)]
    adding = Adding()
    assert replay(trace, agent(adding)).is_equal
    assert adding.called == []
    assert replay(trace, agent(adding), tools="live").is_equal
    assert adding.called == [(1, 2)]


def test_what_a_tool_asks_is_not_asked_again(dspy_traces):
    """LM calls that a tool made are not missing where its result is recorded; where it runs they are answered."""

    class Helped(dspy.Module):
        def __init__(self):
            super().__init__()
            self.inner = dspy.Predict("question -> answer")
            self.tool, self.other = dspy.Tool(self.look_up), dspy.Tool(lambda: "it is ", name="other")

        def look_up(self, question: str) -> str:
            return self.other() + self.inner(question=question).answer

        def forward(self, question):
            return self.tool(question=question)

    trace, outputs = record(dspy_traces, lambda: Helped()(**WHY))
    silent, live = replay(trace, Helped()), replay(trace, Helped(), tools="live")
    assert (silent.divergences, silent.outputs) == (live.divergences, live.outputs) == ((), outputs)
    assert "dummy" not in {span.name for span in silent.trace.data.spans}
    assert shape(live.trace) == shape(trace)


def test_async_tools_replay(dspy_traces):
    """An agent that was called as a coroutine, with its tools, replays by the same way."""
    program = agent()
    trace, outputs = record(dspy_traces, lambda: asyncio.run(program.acall(**WHY)), DummyLM(AGENT_STEPS))
    adding = Adding()
    again = replay(trace, agent(adding).acall)
    assert (again.divergences, fields(again.outputs), adding.called) == ((), fields(outputs), [])
    assert replay(trace, agent(adding).acall, tools="live").is_equal
    assert adding.called == [(1, 2)]


def test_a_replay_is_a_trace_that_names_its_origin(dspy_traces):
    """The replay is one trace, tagged with its origin's id, and bills nothing; below a user's own span too."""
    trace, _ = record(dspy_traces, lambda: Steps()(**WHY))
    with mlflow.start_span("mine"):
        again = replay(trace, Steps())
    replays = [each for each in dspy_traces.all() if "dspy.replay.of" in each.info.tags]
    assert [each.info.trace_id for each in replays] == [again.trace.info.trace_id]
    assert replays[0].info.tags["dspy.replay.of"] == trace.info.trace_id
    assert shape(replays[0]) == shape(trace)
    assert not (replays[0].info.token_usage or {}).get("total_tokens")


def test_a_replay_is_whole_whatever_is_sampled_or_filtered(dspy_traces):
    """Sampling and filters of the program's callback do not hold for a replay; its other options do."""
    trace, _ = record(dspy_traces, lambda: Steps()(**WHY))
    sparing = MlflowCallback(sampling_ratio=0.0, level="info", exclude=["*second*"], tags={"team": "search"})
    with dspy.context(callbacks=[sparing]):
        again = replay(trace, Steps())
    own = replay(trace, attach(Steps(), sparing))
    for each in (again, own):
        assert (shape(each.trace), each.trace.info.tags["team"]) == (shape(trace), "search")


def test_a_replay_without_a_callback_is_traced(dspy_traces):
    """Where no callback of this package is set, the replay has one."""
    trace, _ = record(dspy_traces, lambda: Steps()(**WHY))
    with dspy.context(callbacks=[]):
        assert shape(replay(trace, Steps()).trace) == shape(trace)


class Heard(BaseCallback):
    """A callback of somebody else's."""

    def __init__(self):
        self.names = []

    def on_module_start(self, call_id, instance, inputs):
        self.names.append(type(instance).__name__)


def test_nothing_else_changes(dspy_traces):
    """The program given, its LM, DSPy's settings and DSPy's cache are as before; other callbacks hear the replay."""
    lm, heard = counting(), Heard()
    program = Steps()
    program.first.lm, program.callbacks = lm, [heard]
    trace, _ = record(dspy_traces, lambda: program(**WHY), lm)
    before = copy.copy(vars(program)), dict(main_thread_config), len(lm.history), len(dspy.cache.memory_cache)
    heard.names.clear()
    assert replay(trace, program).is_equal
    assert (vars(program), dict(main_thread_config), len(lm.history), len(dspy.cache.memory_cache)) == before
    assert heard.names == ["Steps"]


def test_dspy_is_as_before_after_a_replay(dspy_traces, monkeypatch):
    """A replay wraps DSPy's calls while it runs; what somebody else has wrapped meanwhile stays, and replays go on."""
    trace, _ = record(dspy_traces, lambda: Steps()(**WHY))
    before = dspy.BaseLM.__call__, dspy.BaseLM.acall, dspy.Tool.__call__, dspy.Tool.acall

    def now():
        return dspy.BaseLM.__call__, dspy.BaseLM.acall, dspy.Tool.__call__, dspy.Tool.acall

    inside = replay(trace, lambda question: [replay(trace, Steps()).is_equal, now() == before, Steps()(question)])
    assert (inside.outputs[:2], now() == before) == ([True, False], True)

    def wrapped_by_others(question):
        ours = dspy.BaseLM.__call__

        def theirs(self, *args, **kwargs):
            return ours(self, *args, **kwargs)

        monkeypatch.setattr(dspy.BaseLM, "__call__", theirs)
        return Steps()(question)

    for _ in range(2):
        assert fields(replay(trace, wrapped_by_others).outputs) == {"answer": "answer 1"}
    monkeypatch.undo()
    assert replay(trace, Steps()).is_equal


def test_other_work_goes_on_beside_a_replay(dspy_traces):
    """What runs in a thread that DSPy's settings do not reach is no part of the replay: its LM is asked."""
    trace, _ = record(dspy_traces, lambda: Steps()(**WHY))
    other, said = DummyLM([{"answer": "mine"}] * 2), []

    def work():
        said.extend([*other("what?"), *asyncio.run(other.acall("what?"))])

    def beside(question):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return Steps()(question)

    assert replay(trace, beside).is_equal
    assert ["mine" in each for each in said] == [True, True]


@needs_engines
def test_the_cache_does_not_answer(dspy_traces):
    """What DSPy's cache holds is not served: the trace's answer is."""
    asked = []

    class Counting(Streaming):
        def complete(self, request):
            asked.append(request)
            return super().complete(request)

    with dspy.context(lm=dspy.LM("offline/caching", engine=Counting())):
        trace, outputs = record(dspy_traces, lambda: Answer()(**WHY), dspy.settings.lm)
        dspy.cache.reset_memory_cache()
        before = len(dspy.cache.memory_cache)
        again = replay(trace, Answer())
        assert len(dspy.cache.memory_cache) == before
    assert (again.is_equal, fields(again.outputs), len(asked)) == (True, fields(outputs), 1)


def test_durations_stand_beside_each_other(dspy_traces):
    """Each recorded call has its duration in the recording and in the replay."""
    trace, _ = record(dspy_traces, lambda: Steps()(**WHY))
    timings = replay(trace, Steps()).timings
    assert [timing.span for timing in timings] == [
        "Steps",
        "Steps.first",
        "Steps.first > dummy",
        "Steps.second",
        "Steps.second > dummy",
    ]
    spans = {span.span_id: (span.end_time_ns - span.start_time_ns) / 1e9 for span in trace.data.spans}
    assert {timing.span_id: timing.recorded_s for timing in timings}.items() <= spans.items()
    assert all(timing.replayed_s > 0 for timing in timings)
