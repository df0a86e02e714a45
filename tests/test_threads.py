"""Threads: a call is one whole trace in whatever threads it runs, with the run, session and tags of its caller."""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import dspy
import mlflow
import pytest
from dspy.utils.callback import BaseCallback
from expected import chain_of_thought, failed, ok, ordered
from offline_lm import OfflineLM
from programs import Echo, Program, predict_tree, program_tree
from stored import run_of

from dspy_mlflow_callbacks import MlflowCallback, RatioSampler
from dspy_mlflow_callbacks.testing.captured import tree

THREADS = 8
ITEMS = [{"question": f"question {index}"} for index in range(THREADS)]


def parallel(**settings):
    return dspy.Parallel(**{"num_threads": THREADS, "disable_progress_bar": True, **settings})


def examples(items=ITEMS):
    return [dspy.Example(**item).with_inputs("question") for item in items]


class FailsOnOdd(dspy.Module):
    """Raises for every second question."""

    def __init__(self):
        super().__init__()
        self.generate = dspy.ChainOfThought("question -> answer")

    def forward(self, question):
        if int(question.rpartition(" ")[2]) % 2:
            raise ValueError(question)
        return self.generate(question=question)


class Many(dspy.Module):
    """Runs a module on many questions, in DSPy's threads."""

    def __init__(self, one, run):
        super().__init__()
        self.one = one
        self.run = run

    def forward(self, **_):
        return self.run(self.one)


WAYS = {
    "Parallel": lambda one: parallel()([(one, item) for item in ITEMS]),
    "Parallel of examples": lambda one: parallel()(list(zip([one] * THREADS, examples(), strict=True))),
    "Parallel in one thread": lambda one: parallel(num_threads=1)([(one, item) for item in ITEMS]),
    "Parallel in Parallel": lambda one: parallel(num_threads=2)(
        [(parallel(num_threads=2), [(one, item) for item in half]) for half in (ITEMS[:4], ITEMS[4:])]
    ),
    "batch": lambda one: one.batch(examples(), num_threads=THREADS, disable_progress_bar=True),
}


@pytest.mark.parametrize("run", WAYS.values(), ids=WAYS)
def test_what_a_module_runs_in_parallel_is_one_trace(dspy_traces, run):
    """Calls that a module has DSPy run in parallel are spans below the module's, in one trace."""
    with dspy.context(lm=OfflineLM()):
        Many(dspy.ChainOfThought("question -> answer"), run)()
    assert dspy_traces.tree() == [ok("Many", "CHAIN", *[chain_of_thought("Many.one")] * THREADS)]


@pytest.mark.parametrize("run", WAYS.values(), ids=WAYS)
def test_parallel_executions_are_one_trace_each(dspy_traces, run):
    """Outside of any module each execution that runs in parallel is one whole trace."""
    with dspy.context(lm=OfflineLM()):
        run(dspy.Predict("question -> answer"))
    assert [tree(trace) for trace in dspy_traces.all()] == [[predict_tree()]] * THREADS


@pytest.mark.parametrize("run", [WAYS["Parallel"], WAYS["batch"]], ids=["Parallel", "batch"])
def test_an_execution_that_fails_fails_alone(dspy_traces, run):
    """Of parallel executions in a module those that raise have an error status, the others and the module have not."""
    with dspy.context(lm=OfflineLM()):
        results = Many(FailsOnOdd(), run)()
    assert [result is None for result in results] == [False, True] * (THREADS // 2)
    items = [ok("Many.one", "CHAIN", chain_of_thought("Many.one.generate")), failed("Many.one", "CHAIN")]
    assert ordered(dspy_traces.tree()) == ordered([ok("Many", "CHAIN", *items * (THREADS // 2))])


def test_too_many_errors_end_the_trace(dspy_traces):
    """When errors cancel a parallel run, the calls that ran are in the module's trace, and its status is an error."""
    with dspy.context(lm=OfflineLM()), pytest.raises(Exception, match="cancelled"):
        Many(FailsOnOdd(), lambda one: parallel(num_threads=1, max_errors=1)([(one, item) for item in ITEMS]))()
    items = [ok("Many.one", "CHAIN", chain_of_thought("Many.one.generate")), failed("Many.one", "CHAIN")]
    assert dspy_traces.tree() == [failed("Many", "CHAIN", *items)]


def test_sampling_keeps_parallel_calls_whole(dspy_traces):
    """A sampled trace has all its parallel calls; of a call that is sampled out nothing is left."""
    kept = []
    sampler = RatioSampler(0.5)

    def sample(call):
        sampled = sampler(call)
        if call.is_root:
            kept.append(sampled is not None)
        return sampled

    callback = MlflowCallback(middleware=[sample])
    program = Many(Echo(), lambda one: parallel(num_threads=2)([(one, ITEMS[0])] * 2))
    with dspy.context(callbacks=[callback]):
        for _ in range(20):
            program()
    whole = [ok("Many", "CHAIN", *[ok("Many.one", "CHAIN")] * 2)]
    assert len(kept) == 20
    assert [tree(trace) for trace in dspy_traces.all()] == [whole] * sum(kept)


def test_a_users_span_around_parallel_calls_holds_them(dspy_traces):
    """Parallel calls below a span of the user's own are in the user's trace."""
    with dspy.context(lm=OfflineLM()), mlflow.start_span("mine"):
        WAYS["Parallel"](Program())
    assert dspy_traces.tree() == [ok("mine", "UNKNOWN", *[program_tree()] * THREADS)]


def test_a_users_span_between_parallel_calls_stands_between(dspy_traces):
    """A span that the user opens in a worker thread stands between the module and the calls below it."""

    class Between(dspy.Module):
        def forward(self, question):
            with mlflow.start_span("mine"):
                return dspy.Predict("question -> answer")(question=question)

    with dspy.context(lm=OfflineLM()):
        Many(Between(), WAYS["Parallel"])()
    mine = ok("mine", "UNKNOWN", predict_tree())
    assert dspy_traces.tree() == [ok("Many", "CHAIN", *[ok("Many.one", "CHAIN", mine)] * THREADS)]


def test_a_users_own_threads_in_a_copied_context_are_in_the_trace(dspy_traces):
    """Calls in threads of the user's own that run in a copy of the context are below the module that started them."""

    def in_own_threads(one):
        with ThreadPoolExecutor(2) as executor:
            futures = [executor.submit(contextvars.copy_context().run, one, **item) for item in ITEMS[:2]]
            return [future.result() for future in futures]

    with dspy.context(lm=OfflineLM()):
        Many(dspy.Predict("question -> answer"), in_own_threads)()
    assert dspy_traces.tree() == [ok("Many", "CHAIN", *[predict_tree("Many.one")] * 2)]


@pytest.mark.parametrize("run", WAYS.values(), ids=WAYS)
def test_session_user_and_tags_reach_worker_threads(dspy_traces, run):
    """What `mlflow.tracing.context` sets around parallel executions stands on each of their traces."""
    session = {"mlflow.trace.session": "session", "mlflow.trace.user": "ann"}  # as arguments only since MLflow 3.14
    with mlflow.tracing.context(tags={"team": "search"}, metadata={"git": "abc", **session}):
        run(Echo())
    assert [
        (
            trace.info.tags["team"],
            *(trace.info.request_metadata[key] for key in ("mlflow.trace.session", "mlflow.trace.user", "git")),
        )
        for trace in dspy_traces.all()
    ] == [("search", "session", "ann", "abc")] * THREADS


@pytest.mark.parametrize("run", WAYS.values(), ids=WAYS)
def test_tracing_switched_off_is_off_in_worker_threads(dspy_traces, run):
    """Inside `mlflow.tracing.context(enabled=False)` parallel executions leave no trace."""
    with mlflow.tracing.context(enabled=False):
        run(Echo())
    assert dspy_traces.all() == []


@pytest.mark.parametrize("run", WAYS.values(), ids=WAYS)
def test_parallel_executions_in_a_run_are_linked_to_it(dspy_traces, run):
    """Parallel executions inside an active run are linked to that run."""
    with mlflow.start_run() as active:
        run(Echo())
    assert linked_runs(dspy_traces) == [active.info.run_id] * THREADS


@pytest.mark.parametrize("num_threads", [1, 2])
def test_runs_side_by_side_are_not_mixed_up(dspy_traces, num_threads):
    """Three threads with a run each link their traces, from DSPy's worker threads too, each to its own run."""
    all_runs_are_open = threading.Barrier(3)

    class Tagged(Echo):
        def forward(self, question):
            mlflow.update_current_trace(tags={"run": self.run})
            return super().forward(question)

    def work(_):
        program = Tagged()
        with mlflow.start_run() as active:
            program.run = active.info.run_id
            all_runs_are_open.wait(timeout=60)
            parallel(num_threads=num_threads)([(program, item) for item in ITEMS[:2]])
            all_runs_are_open.wait(timeout=60)
            return active.info.run_id

    with ThreadPoolExecutor(3) as executor:
        runs = list(executor.map(work, range(3)))
    linked = linked_runs(dspy_traces)
    assert linked == [trace.info.tags["run"] for trace in dspy_traces.all()]
    assert set(linked) == set(runs)


def linked_runs(traces):
    return [run_of(trace) for trace in traces.all()]


class EndOf(BaseCallback):
    """Says when a module's call has ended, for all callbacks before it too."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        self.ended = threading.Event()
        self._calls = {}

    def on_module_start(self, call_id, instance, inputs):
        self._calls[call_id] = instance

    def on_module_end(self, call_id, outputs, exception):
        if self._calls[call_id] is self.module and outputs == "late":
            self.ended.set()


def test_an_abandoned_straggler_is_closed_with_its_trace(dspy_traces):
    """A call that DSPy submitted again and no longer waits for ends as an error when its trace ends, and no later."""
    release, attempts = threading.Event(), iter(["late", "in time"])

    class Slow(dspy.Module):
        def __init__(self):
            super().__init__()
            self.predict = dspy.Predict("question -> answer")

        def forward(self, question):
            attempt = next(attempts)
            if attempt == "late":
                assert release.wait(timeout=60)
            self.predict(question=question)  # the late attempt's comes after its trace has ended
            return attempt

    slow = Slow()
    end_of_slow, (callback,) = EndOf(slow), dspy.settings.callbacks
    # One straggler at most: the second attempt, however slow the machine, is not submitted again too.
    settings = {"num_threads": 2, "timeout": 0.01, "straggler_limit": 1}
    program = Many(slow, lambda one: parallel(**settings)([(one, ITEMS[0])]))
    with dspy.context(lm=OfflineLM(), callbacks=[callback, end_of_slow]):
        assert program() == ["in time"]
    in_time = ok("Many.one", "CHAIN", predict_tree("Many.one.predict"))
    expected = [ok("Many", "CHAIN", failed("Many.one", "CHAIN"), in_time)]
    assert dspy_traces.tree() == expected
    release.set()
    assert end_of_slow.ended.wait(timeout=60)
    assert (callback.stats().open, callback.stats().failed, dspy_traces.tree()) == (0, 0, expected)


def test_threads_leave_nothing_open(dspy_traces):
    """After parallel executions, some of which failed, no call is open and every span that began has ended."""
    (callback,) = dspy.settings.callbacks
    with dspy.context(lm=OfflineLM()):
        WAYS["Parallel"](FailsOnOdd())
    stats = callback.stats()
    assert (stats.open, stats.failed, stats.started) == (0, 0, stats.ended)
    succeeded = [ok("FailsOnOdd", "CHAIN", chain_of_thought("FailsOnOdd.generate"))]
    expected = [[failed("FailsOnOdd", "CHAIN")], succeeded] * (THREADS // 2)
    assert sorted(map(tree, dspy_traces.all()), key=repr) == sorted(expected, key=repr)
