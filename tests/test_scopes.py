"""Scopes: what `trace_context` and `suppress_tracing` say holds for all that runs inside, wherever it runs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import attrs
import dspy
import mlflow
import pytest
from expected import ok
from opentelemetry.sdk.trace import TracerProvider
from programs import Program, answering, predict_tree
from tagged import SAID, SESSION, TOLD, USER, said
from threads import at_once

from dspy_mlflow_callbacks import MlflowCallback, suppress_tracing, trace_context
from dspy_mlflow_callbacks.scoped import Scoped
from dspy_mlflow_callbacks.testing.captured import tree

ITEMS = [{"question": f"question {index}"} for index in range(4)]


def all_said(traces):
    return [said(trace) for trace in traces.all()]


class Echo(dspy.Module):
    """Answers with its question: a trace of one span."""

    own = ()

    def __init__(self):
        super().__init__(callbacks=list(self.own))

    def forward(self, question="why?"):
        return dspy.Prediction(answer=question)

    async def aforward(self, question="why?"):
        await asyncio.sleep(0)
        return dspy.Prediction(answer=question)


class Doing(dspy.Module):
    """Does what it is given."""

    def __init__(self, do):
        super().__init__()
        self.do = do

    def forward(self):
        return self.do()

    async def aforward(self):
        return await self.do()


def examples():
    return [dspy.Example(**item).with_inputs("question") for item in ITEMS]


def evaluate():
    return dspy.Evaluate(devset=examples(), metric=lambda example, output: 1.0, num_threads=2)(Echo())


async def gather():
    await asyncio.gather(*[Echo().acall(**item) for item in ITEMS])


async def asyncify():
    await asyncio.gather(*[dspy.asyncify(Echo())(**item) for item in ITEMS])


async def read(stream):
    return [value async for value in stream]


def copied():
    with ThreadPoolExecutor(2) as executor:
        for future in [executor.submit(contextvars.copy_context().run, Echo(), **item) for item in ITEMS]:
            future.result()


WAYS = {
    "call": lambda: Echo()(question="why?"),
    "acall": lambda: asyncio.run(Echo().acall()),
    "Parallel": lambda: dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Echo(), item) for item in ITEMS]),
    "batch": lambda: Echo().batch(examples(), num_threads=2, disable_progress_bar=True),
    "Evaluate": evaluate,
    "gather": lambda: asyncio.run(gather()),
    "asyncify": lambda: asyncio.run(asyncify()),
    "streamify": lambda: asyncio.run(read(dspy.streamify(Echo())(question="why?"))),
    "streamify async": lambda: asyncio.run(read(dspy.streamify(Echo(), is_async_program=True)(question="why?"))),
    "streamify sync": lambda: list(dspy.streamify(Echo(), async_streaming=False)(question="why?")),
    "own threads": copied,
}


@pytest.mark.parametrize("run", WAYS.values(), ids=WAYS)
def test_a_scope_stands_on_every_trace_inside(dspy_traces, run):
    """Session, user, tags and metadata of a scope stand on the traces inside it, however they are run."""
    with trace_context(**TOLD):
        run()
    Echo()()
    *inside, outside = all_said(dspy_traces)
    assert inside
    assert inside == [SAID] * len(inside)
    assert outside == {}


@pytest.mark.parametrize("own", [False, True], ids=["global callback", "program's own"])
@pytest.mark.parametrize("run", WAYS.values(), ids=WAYS)
def test_nothing_is_recorded_where_tracing_is_suppressed(dspy_traces, monkeypatch, run, own):
    """Inside `suppress_tracing` no call leaves a trace, however it is run and whosever the callback is."""
    callback = MlflowCallback()
    if own:
        monkeypatch.setattr(Echo, "own", [callback])
    with dspy.context(callbacks=[] if own else [callback]), suppress_tracing():
        run()
    stats = callback.stats()
    assert dspy_traces.all() == []
    assert (stats.started, stats.failed, stats.open, stats.dropped > 0) == (0, 0, 0, True)


def test_scopes_nest(dspy_traces):
    """The inner scope wins where both say something, adds what the outer does not say, and leaves no trace behind."""
    with trace_context(session_id="outer", tags={"team": "outer"}, user="ann"):
        with trace_context(tags={"team": "inner", "mine": "inner"}, session_id="inner"):
            Echo()()
        Echo()()
    inner = {SESSION: "inner", USER: "ann", "team": "inner", "mine": "inner"}
    assert all_said(dspy_traces) == [inner, {SESSION: "outer", USER: "ann", "team": "outer"}]


@pytest.mark.parametrize("outer", [trace_context, mlflow.tracing.context])
@pytest.mark.parametrize("inner", [trace_context, mlflow.tracing.context])
def test_scopes_combine_with_mlflows(dspy_traces, outer, inner):
    """A scope and `mlflow.tracing.context` combine, whichever is inside."""
    with (
        outer(tags={"team": "outer", "mine": "outer"}, metadata={"commit": "outer"}),
        inner(tags={"team": "inner"}, metadata={USER: "ann"}),
    ):
        Echo()()
    assert all_said(dspy_traces) == [{"team": "inner", "mine": "outer", "commit": "outer", USER: "ann"}]


def test_a_scope_wins_over_the_options(dspy_traces):
    """Where a scope and the callback's options say something of the same name, the scope is meant; the rest adds up."""
    callback = MlflowCallback(tags={"team": "option", "mine": "option"}, session_id="option", user="option")
    with dspy.context(callbacks=[callback]), trace_context(tags={"team": "search"}, session_id="seven"):
        Echo()()
    assert all_said(dspy_traces) == [{"team": "search", "mine": "option", SESSION: "seven", USER: "option"}]


def test_a_scope_in_a_program_wins_over_the_options_of_what_it_calls(dspy_traces):
    """A scope inside a running trace wins over the tags of a program with a callback of its own that it calls."""
    inner = Echo()
    inner.callbacks = [MlflowCallback(tags={"team": "inner", "mine": "inner"})]

    def do():
        with trace_context(tags={"team": "scope"}):
            inner()

    Doing(do)()
    assert all_said(dspy_traces) == [{"team": "scope", "mine": "inner"}]


def test_a_users_own_middleware_has_the_last_word(dspy_traces):
    """A middleware sees what a scope says, and may say otherwise."""
    seen = []

    def rename(call):
        seen.append((dict(call.tags), dict(call.metadata)))
        return attrs.evolve(call, tags={"team": "rank"})

    with dspy.context(callbacks=[MlflowCallback(middleware=[rename])]), trace_context(**TOLD):
        Echo()()
    assert seen == [({"team": "search"}, {"commit": "abc", SESSION: "seven", USER: "ann"})]
    assert all_said(dspy_traces) == [{**SAID, "team": "rank"}]


def test_a_scope_decides_sampling_by_tag(dspy_traces):
    """A sampling rule for a tag is for the traces of a scope that says it."""
    rules = [{"tags": {"team": "search"}, "ratio": 1.0}, {"ratio": 0.0}]
    with dspy.context(callbacks=[MlflowCallback(sampling_rules=rules)]):
        Echo()()
        with trace_context(**TOLD):
            Echo()()
    assert all_said(dspy_traces) == [SAID]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_scope_inside_a_running_trace_stands_on_it(dspy_traces, is_async):
    """A scope that a program opens puts what it says on the trace that is running."""

    def do():
        with trace_context(**TOLD):
            return Echo()()

    async def ado():
        async with trace_context(**TOLD):
            return await Echo().acall()

    asyncio.run(Doing(ado).acall()) if is_async else Doing(do)()
    assert all_said(dspy_traces) == [SAID]
    assert dspy_traces.tree() == [ok("Doing", "CHAIN", ok("Echo", "CHAIN"))]


def test_a_scope_inside_a_users_span_stands_on_the_users_trace(dspy_traces):
    """A scope inside a span of the user's own puts what it says on the user's trace, DSPy call or not."""
    with mlflow.start_span("mine"), trace_context(**TOLD):
        pass
    assert all_said(dspy_traces) == [SAID]


def test_a_scope_inside_a_foreign_span_tags_nothing(dspy_traces, monkeypatch):
    """Inside a span of another OpenTelemetry SDK in the same context a scope leaves that span alone."""
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "false")
    tracer = TracerProvider().get_tracer("foreign")
    with tracer.start_as_current_span("foreign") as span, trace_context(**TOLD):
        pass
    assert dict(span.attributes) == {}
    assert dspy_traces.all() == []


def test_a_scope_after_the_trace_around_it_has_ended(dspy_traces):
    """A task that outlives the trace it was started in may open a scope, which is that of its own traces."""

    async def main():
        goes = asyncio.Event()

        async def work():
            await goes.wait()
            with trace_context(**TOLD):
                await Echo().acall()

        with mlflow.start_span("mine"):
            task = asyncio.create_task(work())
            await asyncio.sleep(0)
        goes.set()
        await task

    asyncio.run(main())
    assert all_said(dspy_traces) == [{}, SAID]


def test_a_scope_in_a_worker_thread_of_a_trace_stands_on_it(dspy_traces):
    """A scope opened in one of DSPy's worker threads puts what it says on the trace that the thread works for."""

    @trace_context(**TOLD)
    def tagged():
        return 1

    parallel = dspy.Parallel(num_threads=2, disable_progress_bar=True)
    Doing(lambda: parallel([(Doing(tagged), {}), (Echo(), {})]))()
    assert all_said(dspy_traces) == [SAID]


def test_a_scope_that_records_nothing_tags_nothing(dspy_traces):
    """Where tracing is suppressed a scope leaves the running trace as it is."""

    def do():
        with suppress_tracing(), trace_context(**TOLD):
            Echo()()
        with trace_context(**TOLD, enabled=False):
            Echo()()

    Doing(do)()
    assert all_said(dspy_traces) == [{}]


def test_a_part_of_a_program_is_left_out(dspy_traces):
    """Suppressed in the middle of a program, the calls inside have no spans, and the trace goes on after them."""

    def do():
        Echo()()
        with suppress_tracing():
            Program()(question="secret")
            with mlflow.start_span("mine"):
                Echo()()
        dspy.Predict("question -> answer")(question="why?")

    with dspy.context(lm=answering({"reasoning": "r", "answer": "42"})):
        Doing(do)()
    assert dspy_traces.tree() == [ok("Doing", "CHAIN", ok("Echo", "CHAIN"), predict_tree())]
    assert "secret" not in dspy_traces.one().to_json()


def test_a_users_own_spans_are_left_out(dspy_traces):
    """Where tracing is suppressed the user's own `mlflow.start_span` and `mlflow.trace` record nothing either."""

    @mlflow.trace
    def traced():
        with mlflow.start_span("mine"):
            return Echo()()

    with suppress_tracing():
        traced()
    assert dspy_traces.all() == []


def test_suppressed_calls_do_not_reach_middleware():
    """A suppressed call is dropped before any middleware is asked: a rate limit is not used up, no tag is computed."""
    asked = []
    callback = MlflowCallback(middleware=[lambda call: asked.append(call) or call])
    with dspy.context(callbacks=[callback]), suppress_tracing():
        Echo()()
    assert (asked, callback.stats().dropped) == ([], 1)


def test_tracing_can_be_resumed(dspy_traces):
    """`enabled=True` inside a scope that records nothing records again, until it ends; tags of both add up."""
    with trace_context(enabled=False, tags={"team": "search"}):
        Echo()()
        with trace_context(enabled=True, user="ann"):
            Echo()()
        with trace_context(user="bob"):
            Echo()()
    assert all_said(dspy_traces) == [{"team": "search", USER: "ann"}]


def resume(run):
    def do():
        with trace_context(enabled=True):
            return run()

    return do


RESUMED = {
    "call": lambda: Echo()(question="why?"),
    "worker threads": lambda: dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Echo(), {}), (Echo(), {})]),
}


@pytest.mark.parametrize("run", RESUMED.values(), ids=RESUMED)
def test_tracing_resumed_inside_a_suppressed_call_begins_a_trace(dspy_traces, run):
    """Resumed inside a call that is suppressed, what is called there is recorded as traces of its own."""
    with suppress_tracing():
        Doing(Doing(resume(run)))()
    assert {str(tree(trace)) for trace in dspy_traces.all()} == {str([ok("Echo", "CHAIN")])}


def test_tracing_resumed_in_the_middle_of_a_trace_goes_on_with_it(dspy_traces):
    """Resumed inside a suppressed part of a recorded program, what is called there is a span of the program's trace."""

    def do():
        with suppress_tracing():
            Doing(Doing(resume(Doing(Echo()))))()

    Doing(do)()
    assert dspy_traces.tree() == [ok("Doing", "CHAIN", ok("Doing", "CHAIN", ok("Doing.do", "CHAIN")))]


def test_resuming_does_not_overrule_a_callback_or_a_sampler(dspy_traces):
    """`enabled=True` records neither what a callback with `enabled=False` nor what a sampler leaves out."""
    for options in ({"enabled": False}, {"sampling_ratio": 0.0}):
        with dspy.context(callbacks=[MlflowCallback(**options)]), trace_context(enabled=True):
            Doing(resume(Echo()))()
    assert dspy_traces.all() == []


def test_mlflows_own_switch_is_obeyed(dspy_traces):
    """`mlflow.tracing.context(enabled=False)` suppresses, and `enabled=True` inside resumes, ours as MLflow's."""
    with mlflow.tracing.context(enabled=False):
        Echo()()
        with trace_context(enabled=True, user="ours"):
            Echo()()
        with mlflow.tracing.context(enabled=True, metadata={USER: "theirs"}):
            Echo()()
    assert all_said(dspy_traces) == [{USER: "ours"}, {USER: "theirs"}]


@pytest.mark.parametrize("ending", [ValueError, KeyboardInterrupt, None])
def test_a_scope_ends_with_its_block(dspy_traces, ending):
    """After its block, left in whatever way, a scope does not hold."""
    with pytest.raises(ending) if ending else nullcontext(), trace_context(**TOLD):
        if ending:
            raise ending
    Echo()()
    assert all_said(dspy_traces) == [{}]


def test_a_task_keeps_its_scope_when_it_outlives_it(dspy_traces):
    """A task that was started inside a scope has it to its own end."""

    async def main():
        goes = asyncio.Event()

        async def work():
            await goes.wait()
            await Echo().acall()

        with trace_context(**TOLD):
            task = asyncio.create_task(work())
            await asyncio.sleep(0)
        goes.set()
        await task
        await Echo().acall()

    asyncio.run(main())
    assert all_said(dspy_traces) == [SAID, {}]


def test_tasks_side_by_side_have_their_own_scopes(dspy_traces):
    """Two tasks, each in a scope of its own, do not see each other's."""

    async def work(name):
        async with trace_context(user=name):
            await asyncio.sleep(0)
            await Echo().acall()
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(work("ann"), work("bob"))

    asyncio.run(main())
    assert sorted(each[USER] for each in all_said(dspy_traces)) == ["ann", "bob"]


def sync_function(do):
    def function():
        do()
        return "returned"

    return function, lambda function: function()


def async_function(do):
    async def function():
        await asyncio.sleep(0)
        do()
        return "returned"

    return function, lambda function: asyncio.run(function())


def generator_function(do):
    def function():
        do()
        yield "returned"

    return function, lambda function: next(iter(list(function())))


def async_generator_function(do):
    async def function():
        await asyncio.sleep(0)
        do()
        yield "returned"

    return function, lambda function: asyncio.run(read(function()))[0]


def plain(function):
    """Return a function that is not itself async and returns what an async one does."""

    def returns():
        return function()

    return returns


def function_of_a_coroutine(do):
    function, run = async_function(do)
    return plain(function), run


def function_of_an_async_generator(do):
    function, run = async_generator_function(do)
    return plain(function), run


KINDS = [
    sync_function,
    async_function,
    generator_function,
    async_generator_function,
    function_of_a_coroutine,
    function_of_an_async_generator,
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_decorated_function_runs_in_the_scope(dspy_traces, kind):
    """A decorator of a function of any kind: its body runs in the scope, each time, its result and kind stay."""
    function, run = kind(Echo())
    decorated = trace_context(**TOLD)(function)
    assert [run(decorated), run(decorated)] == ["returned"] * 2
    Echo()()
    assert all_said(dspy_traces) == [SAID, SAID, {}]
    assert decorated.__name__ == function.__name__
    for is_kind in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        assert is_kind(decorated) == is_kind(function)


def test_a_decorated_generator_keeps_the_scope_to_itself(dspy_traces):
    """Between the steps of a decorated generator its consumer is not in the scope, which may be closed early."""

    @trace_context(user="generator")
    def generator():
        for _ in range(2):
            Echo()()
            yield
        raise AssertionError

    steps = generator()
    with trace_context(session_id="consumer"):
        next(steps)
        Echo()()
        next(steps)
    steps.close()
    Echo()()
    in_generator, in_consumer = {SESSION: "consumer", USER: "generator"}, {SESSION: "consumer"}
    assert all_said(dspy_traces) == [in_generator, in_consumer, in_generator, {}]


def test_a_decorated_async_generator_keeps_the_scope_to_itself(dspy_traces):
    """Between the steps of a decorated async generator its consumer is not in the scope."""

    @trace_context(user="generator")
    async def generator():
        for _ in range(2):
            await Echo().acall()
            yield

    async def consume():
        async for _ in generator():
            await Echo().acall()

    asyncio.run(consume())
    assert all_said(dspy_traces) == [{USER: "generator"}, {}] * 2


def talk(log):
    """Note what comes in, until closed; what is said back depends on it."""
    got = None
    while got != "stop":
        try:
            got = yield f"got {got}"
        except ValueError as error:
            got = f"error {error}"
        except GeneratorExit:
            Echo()()
            log.append("closed")
            raise
    return "done"


def test_a_decorated_generator_hears_its_consumer(dspy_traces):
    """What is sent and thrown into a decorated generator reaches it, and so does its return value the consumer."""
    steps = trace_context(user="ann")(talk)([])
    assert [next(steps), steps.send("a"), steps.throw(ValueError("b")), next(steps)] == [
        "got None",
        "got a",
        "got error b",
        "got None",
    ]
    with pytest.raises(StopIteration) as end:
        steps.send("stop")
    assert end.value.value == "done"


def test_a_decorated_generator_is_closed_in_the_scope(dspy_traces):
    """Closed by its consumer, a decorated generator cleans up in the scope."""
    log = []
    steps = trace_context(user="ann")(talk)(log)
    next(steps)
    steps.close()
    assert (log, all_said(dspy_traces)) == (["closed"], [{USER: "ann"}])


def test_a_decorated_async_generator_hears_its_consumer(dspy_traces):
    """What is sent and thrown into a decorated async generator reaches it, and it is closed in the scope."""

    async def talk_async():
        got = None
        while True:
            try:
                got = yield f"got {got}"
            except ValueError as error:
                got = f"error {error}"
            except GeneratorExit:
                await Echo().acall()
                raise

    async def converse():
        steps = trace_context(user="ann")(talk_async)()
        said = [await anext(steps), await steps.asend("a"), await steps.athrow(ValueError("b")), await anext(steps)]
        await steps.aclose()
        return said

    assert asyncio.run(converse()) == ["got None", "got a", "got error b", "got None"]
    assert all_said(dspy_traces) == [{USER: "ann"}]


def test_a_decorated_generator_that_yields_when_closed_is_told(dspy_traces):
    """A decorated generator that goes on after it was closed fails as an undecorated one does."""

    @trace_context(user="ann")
    def stubborn():
        try:
            yield
        except GeneratorExit:
            yield

    steps = stubborn()
    next(steps)
    with pytest.raises(RuntimeError, match="generator ignored GeneratorExit"):
        steps.close()


@pytest.mark.parametrize("read_stream", ["sync", "async"])
def test_a_decorated_stream_has_its_scope_wherever_it_is_read(dspy_traces, read_stream):
    """A streaming function that is decorated has the scope in the program that it runs, made here and read there."""
    streaming = trace_context(**TOLD)(dspy.streamify(Echo(), async_streaming=read_stream == "async"))
    stream = streaming(question="why?")
    asyncio.run(read(stream)) if read_stream == "async" else list(stream)
    assert all_said(dspy_traces) == [SAID]


def test_a_scope_around_the_making_of_a_stream_does_not_hold(dspy_traces):
    """A stream's program runs in the scope of its reader, not in that of its maker."""
    with trace_context(user="maker"):
        stream = dspy.streamify(Echo())(question="why?")
    with trace_context(user="reader"):
        asyncio.run(read(stream))
    assert all_said(dspy_traces) == [{USER: "reader"}]


def scoped_generator():
    with trace_context(user="generator"):
        yield
        Echo()()
        yield


def test_a_scope_that_ends_out_of_order_leaves_nothing_behind(dspy_traces):
    """A generator's `with` that ends inside a later scope of its consumer takes nothing of that scope, nor outlives."""
    steps = scoped_generator()
    next(steps)
    with trace_context(session_id="consumer"):
        next(steps)
        steps.close()
        Echo()()
    Echo()()
    with trace_context(session_id="next"):
        Echo()()
    assert all_said(dspy_traces) == [
        {USER: "generator", SESSION: "consumer"},
        {SESSION: "consumer"},
        {},
        {SESSION: "next"},
    ]


def test_a_suppression_that_ends_out_of_order_does_not_outlast(dspy_traces):
    """Tracing that a generator suppressed is on again once the generator is closed, in a later scope or after it."""

    def suppressed():
        with suppress_tracing():
            yield

    steps = suppressed()
    next(steps)
    with trace_context(user="ann"):
        Echo()()
        steps.close()
        Echo()()
    Echo()()
    assert all_said(dspy_traces) == [{USER: "ann"}, {}]


def test_an_abandoned_async_generator_takes_its_scope_with_it(dspy_traces):
    """An async generator that is left early is closed in another context: its scope ends all the same."""

    async def generator():
        async with trace_context(user="generator"):
            yield
            yield

    async def main():
        loop = asyncio.get_running_loop()
        raised = []
        loop.set_exception_handler(lambda loop, context: raised.append(context))
        async for _ in generator():
            break
        gc.collect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await loop.shutdown_asyncgens()
        await Echo().acall()
        return raised

    assert asyncio.run(main()) == []
    assert all_said(dspy_traces) == [{}]


def test_one_scope_serves_many_threads(dspy_traces):
    """One object, used in itself and by several threads at once, holds in each from its `with` to its end."""
    scope, inside = trace_context(**TOLD), threading.Barrier(2)

    def work():
        with scope:
            inside.wait(timeout=60)
            with scope:
                inside.wait(timeout=60)
            Echo()()
            inside.wait(timeout=60)
        Echo()()

    at_once(*[functools.partial(in_context, dspy.settings.callbacks, work)] * 2)
    assert sorted(map(len, all_said(dspy_traces))) == [0, 0, 4, 4]


class Noted(Scoped):
    """Notes what is opened and closed."""

    def __init__(self):
        super().__init__()
        self.notes = []

    def _begun(self):
        opened = _Noting(self.notes, len(self.notes))
        self.notes.append(f"opened {opened.number}")
        return opened


@attrs.frozen
class _Noting:
    notes: list
    number: int

    def close(self):
        self.notes.append(f"closed {self.number}")


def test_a_scope_in_itself_ends_from_the_inside():
    """Of a scope that is entered in itself, the last that was opened is closed first."""
    scope = Noted()
    with scope, scope:
        pass
    assert scope.notes == ["opened 0", "opened 1", "closed 1", "closed 0"]


def in_context(callbacks, work):
    with dspy.context(callbacks=callbacks):
        work()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"session_id": 7}, TypeError, "session_id must be a text, got 7"),
        ({"session_id": print}, TypeError, "session_id must be a text, got <built-in"),
        ({"session_id": "s" * 251}, ValueError, "session_id must have at most 250 characters, got 251"),
        ({"user": ["ann"]}, TypeError, r"user must be a text, got \['ann'\]"),
        ({"tags": "team"}, TypeError, "tags must be a mapping of texts to texts, got 'team'"),
        ({"tags": {"team": 1}}, TypeError, "tags must map texts to texts, got 'team': 1"),
        ({"tags": {"team": print}}, TypeError, "tags must map texts to texts, got 'team': <built-in"),
        ({"tags": {"": "empty"}}, ValueError, "tags must have keys of 1 to 250 characters, got ''"),
        ({"tags": {"k": "v" * 4097}}, ValueError, r"tags\['k'\] must have at most 4096 characters, got 4097"),
        ({"metadata": {"k": "v" * 251}}, ValueError, r"metadata\['k'\] must have at most 250 characters, got 251"),
        ({"metadata": None}, TypeError, "metadata must be a mapping of texts to texts, got None"),
        ({"enabled": "no"}, TypeError, "enabled must be True, False or None, got 'no'"),
        ({"sesion_id": "seven"}, TypeError, "unexpected keyword argument 'sesion_id'"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(arguments, error, message):
    """A wrong argument raises where the scope is made: its name, what is allowed, what was given."""
    with pytest.raises(error, match=message):
        trace_context(**arguments)


@pytest.mark.parametrize("function", [7, Echo])
def test_what_is_no_function_is_not_decorated(function):
    """Decorating a class or something that cannot be called raises TypeError that says what was given."""
    with pytest.raises(TypeError, match="trace_context decorates functions, got"):
        trace_context(user="ann")(function)


def test_a_scope_prints_what_it_says():
    """The repr says the tags, the metadata and whether tracing is on."""
    scope = trace_context(user="ann", tags={"team": "search"}, enabled=True)
    assert repr(scope) == f"TraceContext(tags={{'team': 'search'}}, metadata={{'{USER}': 'ann'}}, enabled=True)"
