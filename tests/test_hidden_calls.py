"""Hidden calls: a call without a span leaves no gap, whatever happens inside it."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import attrs
import dspy
import mlflow
import pytest
from expected import FORMAT, LM, PARSE, bare, chain_of_thought, failed, ok, ordered
from offline_lm import OfflineLM, Raw
from programs import Program, Waits, answering, predict_tree, program_tree

from dspy_mlflow_callbacks import CallKind, MlflowCallback, RatioSampler
from dspy_mlflow_callbacks.describe.adapters import fallback_event
from dspy_mlflow_callbacks.testing.captured import tree

pytestmark = pytest.mark.usefixtures("nothing_open")

QUIET = {"level": "info"}
MODULES_HIDDEN = {"events": ["lm", "adapter", "tool"]}


def run(program, lm=None, adapter=None, **options):
    """Run *program* with a callback of these options and return the callback."""
    callback = MlflowCallback(**options)
    with dspy.context(lm=lm or OfflineLM(), adapter=adapter, callbacks=[callback]):
        program(question="why?")
    return callback


def trees(traces):
    return [tree(trace) for trace in traces.all()]


def hiding(*names):
    """Return a middleware that hides the calls of these names."""
    return lambda call: attrs.evolve(call, is_hidden=True) if call.name in names else call


class Runs(dspy.Module):
    """Does what it is given."""

    def __init__(self, function, one=None):
        super().__init__()
        self.function = function
        self.one = one

    def forward(self, question):
        return self.function(self)


HIDDEN_PARTS = {
    "the root": (["Program"], [chain_of_thought("Program.generate")]),
    "the middle": (["Program.generate"], [bare("Program", predict_tree("Program.generate.predict"))]),
    "two in a row": (["Program", "Program.generate"], [predict_tree("Program.generate.predict")]),
    "every second": (["Program", "Program.generate.predict"], [bare("Program.generate", FORMAT, LM, PARSE)]),
    "the LM": (
        ["dummy"],
        [bare("Program", bare("Program.generate", bare("Program.generate.predict", FORMAT, PARSE)))],
    ),
}


@pytest.mark.parametrize(("names", "expected"), HIDDEN_PARTS.values(), ids=HIDDEN_PARTS)
@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_hidden_call_runs_nests_where_its_span_would_have_stood(dspy_traces, names, expected, is_async):
    """Calls below a hidden one keep their names and nest below the nearest call that has a span."""
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback(middleware=[hiding(*names)])]):
        if is_async:
            asyncio.run(Program().acall(question="why?"))
        else:
            Program()(question="why?")
    assert trees(dspy_traces) == [expected]


def test_everything_hidden_is_no_trace(dspy_traces):
    """A program all of whose calls are hidden leaves nothing, and runs as ever."""
    counted = run(Program(), events=[]).stats()
    assert (dspy_traces.all(), counted.started, counted.dropped, counted.failed) == ([], 0, 0, 0)


def test_calls_below_a_hidden_root_are_traces_of_one_execution(dspy_traces):
    """The traces of an execution whose root is hidden know its root, though each is a trace of its own."""
    seen = []

    def note(call):
        seen.append((call.kind, call.root_call_id, call.is_root))
        return call

    run(Program(), events=["lm", "adapter"], middleware=[note])
    assert trees(dspy_traces) == [[FORMAT], [LM], [PARSE]]
    assert len({root_call_id for _, root_call_id, _ in seen}) == 1
    assert {is_root for _, _, is_root in seen} == {True}


@pytest.mark.parametrize(
    "options",
    [{"sampling_ratio": 0.5}, {"sampling_rules": [{"ratio": 0.5}]}, {"middleware": [RatioSampler(0.5)]}],
    ids=["ratio", "rules", "behind the filter"],
)
def test_the_traces_of_an_execution_are_kept_together(dspy_traces, options):
    """Where the root is hidden a sampler keeps all traces of an execution, or none."""
    run_many = dspy.Parallel(num_threads=2, disable_progress_bar=True)
    seen = []

    def note(call):
        seen.append(call.root_call_id)
        return call

    steps = [*options.get("middleware", ()), note]
    callback = MlflowCallback(**{"events": ["lm", "adapter"], **options, "middleware": steps})
    with dspy.context(lm=answering(times=200), callbacks=[callback]):
        run_many([(Program(), {"question": "why?"})] * 30)
    kept = sum(RatioSampler(0.5).may_keep(root) for root in set(seen))
    assert 0 < kept == len(set(seen)) < 30
    assert ordered([each for (each,) in trees(dspy_traces)]) == ordered([FORMAT, LM, PARSE] * kept)


def test_a_json_adapters_nested_format_can_be_hidden(dspy_traces):
    """An adapter that formats through its base class is hidden as one call."""
    run(dspy.Predict("question -> answer"), Raw('{"answer": "42"}'), dspy.JSONAdapter(), **QUIET)
    assert dspy_traces.tree() == [bare("Predict", LM)]


def test_a_json_adapters_nested_format_is_one_span_below_hidden_modules(dspy_traces):
    """An adapter that formats through its base class is one trace where its module is hidden."""
    run(dspy.Predict("question -> answer"), Raw('{"answer": "42"}'), dspy.JSONAdapter(), **MODULES_HIDDEN)
    assert trees(dspy_traces) == [[ok("JSONAdapter.format", "PARSER")], [LM], [ok("JSONAdapter.parse", "PARSER")]]


def test_an_lm_call_in_a_hidden_parse_nests_in_the_module(dspy_traces):
    """The LM that a `TwoStepAdapter` asks while it parses stands below the Predict, with the program's own LM call."""
    run(dspy.Predict("question -> answer"), adapter=dspy.TwoStepAdapter(OfflineLM(answer="42")), **QUIET)
    assert dspy_traces.tree() == [bare("Predict", LM, LM)]


@pytest.mark.parametrize("options", [{}, QUIET, {"events": ["module", "lm"]}], ids=str)
def test_a_fallback_is_said_though_adapters_are_hidden(dspy_traces, options):
    """The Predict's span says that another adapter took over also where adapters get no spans."""
    run(dspy.Predict("question -> answer"), Raw("nonsense", '{"answer": "42"}'), **options)
    (predict,) = dspy_traces.spans(kind="module")
    (event,) = predict.events
    expected = fallback_event("ChatAdapter", "JSONAdapter")
    assert (event.name, event.attributes) == (expected.name, expected.attributes)


def test_no_fallback_is_said_where_there_was_none(dspy_traces):
    """A Predict whose hidden adapters went well, twice in a row, says nothing of a fallback."""

    class Twice(dspy.Module):
        def __init__(self):
            super().__init__()
            self.predict = dspy.Predict("question -> answer")

        def forward(self, question):
            self.predict(question=question)
            with dspy.context(adapter=dspy.JSONAdapter(), lm=Raw('{"answer": "42"}')):
                self.predict(question=question)

    run(Twice(), **QUIET)
    assert [event for span in dspy_traces.spans() for event in span.events] == []


def in_parallel(module):
    return dspy.Parallel(num_threads=4, disable_progress_bar=True)([(module.one, {"question": "why?"})] * 4)


def test_parallel_calls_below_a_hidden_root_are_traces(dspy_traces):
    """What a hidden root has DSPy run in parallel is a trace each."""
    run(Runs(in_parallel, Program()), middleware=[hiding("Runs")])
    assert trees(dspy_traces) == [[program_tree("Runs.one")]] * 4


def test_parallel_calls_below_a_hidden_module_nest_above_it(dspy_traces):
    """What a hidden module has DSPy run in parallel nests below the module around it."""
    program = Runs(lambda module: module.one(question="why?"), Runs(in_parallel, Program()))
    run(program, middleware=[hiding("Runs.one")])
    assert trees(dspy_traces) == [[bare("Runs", *[program_tree("Runs.one.one")] * 4)]]


def test_examples_below_a_hidden_evaluation_are_traces(dspy_traces):
    """The calls of a hidden `dspy.Evaluate` are a trace each, and so are those of its metric."""
    devset = [dspy.Example(question=f"{index}").with_inputs("question") for index in range(2)]
    judge = dspy.Predict("answer -> verdict")
    evaluation = dspy.Evaluate(
        devset=devset,
        metric=lambda example, prediction, trace=None: bool(judge(answer=prediction.answer)),
        num_threads=2,
        display_progress=False,
    )
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback(middleware=[hiding("Evaluate")])]):
        assert evaluation(dspy.Predict("question -> answer")).score == 100.0
    assert trees(dspy_traces) == [[predict_tree()]] * 4


def raising(module):
    module.one(question="why?")
    raise ValueError("no")


def test_an_error_passes_a_hidden_call(dspy_traces):
    """An exception that a hidden call raises is the status of the calls around it, and reaches the caller."""
    program = Runs(lambda module: module.one(question="why?"), Runs(raising, dspy.Predict("question -> answer")))
    with pytest.raises(ValueError, match="no"):
        run(program, middleware=[hiding("Runs.one")])
    assert dspy_traces.tree() == [failed("Runs", "CHAIN", predict_tree("Runs.one.one"))]


def test_an_error_in_a_hidden_root_leaves_nothing_behind(dspy_traces):
    """Where a hidden root raises, what it ran is stored, and the next execution is whole."""
    with pytest.raises(ValueError, match="no"):
        run(Runs(raising, dspy.Predict("question -> answer")), middleware=[hiding("Runs")])
    run(Program())
    assert trees(dspy_traces) == [[predict_tree("Runs.one")], [program_tree()]]


def test_a_cancelled_hidden_call_leaves_nothing_open(dspy_traces):
    """A task that is cancelled inside a hidden call ends the spans around it as errors."""

    class Outer(dspy.Module):
        def __init__(self):
            super().__init__()
            self.waiting = Waits()

        async def aforward(self):
            await self.waiting.acall()

    async def cancel():
        program = Outer()
        task = asyncio.create_task(program.acall())
        await program.waiting.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with dspy.context(callbacks=[MlflowCallback(middleware=[hiding("Outer.waiting")])]):
        asyncio.run(cancel())
    assert dspy_traces.tree() == [failed("Outer", "CHAIN")]


def outlived(callback):
    """Run a root that leaves a call running behind in a thread, let that call go on, and wait for its end."""
    release, running, threads = threading.Event(), threading.Event(), []

    def slow(module):
        running.set()
        assert release.wait(timeout=60)
        return module.one(question="late")

    def leave(module):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(lambda: module.one(question="why?"),))
        threads.append(thread)
        thread.start()
        assert running.wait(timeout=60)

    with dspy.context(lm=OfflineLM(), callbacks=[callback]):
        Runs(leave, Runs(slow, dspy.Predict("question -> answer")))(question="why?")
    release.set()
    threads[0].join(timeout=60)
    assert not threads[0].is_alive()


def test_a_hidden_call_that_outlives_its_trace_is_given_up_with_it(dspy_traces):
    """What a hidden call runs after its trace has ended is dropped, as below a call with a span."""
    callback = MlflowCallback(middleware=[hiding("Runs.one")])
    outlived(callback)
    counted = callback.stats()
    assert trees(dspy_traces) == [[bare("Runs")]]
    assert (counted.started, counted.ended, counted.failed) == (1, 1, 0)


def test_what_outlives_a_hidden_root_is_recorded(dspy_traces):
    """Below a hidden root each trace ends by itself: one that ends after the root is whole."""
    outlived(MlflowCallback(middleware=[hiding("Runs")]))
    assert trees(dspy_traces) == [[bare("Runs.one", predict_tree("Runs.one.one"))]]


def test_an_attached_program_below_a_hidden_root_is_a_trace(dspy_traces):
    """A program with a callback of its own is recorded by it below a hidden root, with all that it runs."""
    inner = Program()
    inner.callbacks = [MlflowCallback(tags={"who": "inner"})]
    run(Runs(lambda module: module.one(question="why?"), inner), events=["lm"], tags={"who": "outer"})
    assert trees(dspy_traces) == [[program_tree("Runs.one")]]
    assert dspy_traces.one().info.tags["who"] == "inner"


def test_an_attached_program_below_a_hidden_root_is_sampled_by_its_own_callback(dspy_traces):
    """Below a hidden root of another callback, where no trace is, an attached program's sampler decides."""
    inner = Program()
    inner.callbacks = [MlflowCallback(sampling_ratio=0.0)]
    run(Runs(lambda module: module.one(question="why?"), inner), events=["lm"])
    assert dspy_traces.all() == []


def test_an_attached_program_that_hides_its_root_nests_in_the_trace(dspy_traces):
    """What an attached program leaves of itself nests in the trace of the callback around it."""
    inner = Program()
    inner.callbacks = [MlflowCallback(events=["lm"])]
    run(Runs(lambda module: module.one(question="why?"), inner))
    assert trees(dspy_traces) == [[bare("Runs", LM)]]


def test_an_attached_program_includes_by_name(dspy_traces):
    """An attached callback's name filter is asked inside another callback's trace too."""
    inner = Program()
    inner.callbacks = [MlflowCallback(include=["*.predict"])]
    run(Runs(lambda module: module.one(question="why?"), inner))
    assert trees(dspy_traces) == [[bare("Runs", predict_tree("Runs.one.generate.predict"))]]


def with_a_span(module):
    with mlflow.start_span("mine"):
        return module.one(question="why?")


def test_a_users_span_in_a_hidden_module_stands_between(dspy_traces):
    """A span of the user's own inside a hidden module is below the module around it, and above what it holds."""
    inner = Runs(with_a_span, dspy.Predict("question -> answer"))
    run(Runs(lambda module: module.one(question="why?"), inner), middleware=[hiding("Runs.one")])
    mine = ok("mine", "UNKNOWN", predict_tree("Runs.one.one"))
    assert trees(dspy_traces) == [[bare("Runs", mine)]]


def test_a_users_span_in_a_hidden_root_is_the_traces_root(dspy_traces):
    """A span of the user's own inside a hidden root begins a trace with the calls inside it."""
    run(Runs(with_a_span, dspy.Predict("question -> answer")), middleware=[hiding("Runs")])
    assert trees(dspy_traces) == [[ok("mine", "UNKNOWN", predict_tree("Runs.one"))]]


def test_a_hidden_root_below_a_users_span_leaves_its_calls_there(dspy_traces):
    """Calls of a hidden root that runs inside a user's span are in the user's trace."""
    with mlflow.start_span("mine"):
        run(Program(), events=["lm"])
    assert trees(dspy_traces) == [[ok("mine", "UNKNOWN", LM)]]


def test_a_hidden_call_is_not_the_current_span(dspy_traces):
    """Inside a hidden call MLflow's active span is that of the call around it."""
    seen = []

    def look(module):
        seen.append(mlflow.get_current_active_span().name)

    run(Runs(lambda module: module.one(question="why?"), Runs(look)), middleware=[hiding("Runs.one")])
    assert seen == ["Runs"]


def test_a_hidden_calls_end_is_seen_by_nobody(dspy_traces):
    """Middleware hears of the end of calls that have spans."""
    ended = []

    class Ends:
        def __call__(self, call):
            return attrs.evolve(call, is_hidden=True) if call.kind is CallKind.MODULE else call

        def on_end(self, end):
            ended.append(type(end.outputs).__name__)
            return end

    run(dspy.Predict("question -> answer"), middleware=[Ends()])
    assert len(ended) == 3


@pytest.mark.warns
def test_calls_below_one_that_a_broken_step_cost_nest_above_it(dspy_traces, warned):
    """Below a hidden call, what runs inside a call whose span was lost nests above both."""

    def broken(call):
        if call.name == "Program.generate.predict":
            raise KeyError
        return call

    callback = run(Program(), middleware=[hiding("Program.generate"), broken])
    assert trees(dspy_traces) == [[bare("Program", FORMAT, LM, PARSE)]]
    assert callback.stats().failed == len(warned.messages) == 1
