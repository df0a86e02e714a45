"""How a run goes: streaming, timeouts, errors of workers, interruption, progress."""

from __future__ import annotations

import asyncio
import gc
import itertools
import pickle
import signal
import sys
import threading
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from types import SimpleNamespace

import dspy
import pytest
from answers import Answers, asking
from ended import wait_until
from expected import bare
from programs import Runs

from dspy_mlflow_callbacks import InputTimeoutError, run
from dspy_mlflow_callbacks.distributed.carrying import Carrying
from dspy_mlflow_callbacks.executor.progress import NoBar
from dspy_mlflow_callbacks.testing.captured import tree

ON_BOTH = pytest.mark.parametrize("engine", ["auto", "native"], indirect=True)
SECONDS = 3  # enough for an input that does not wait, on a busy machine
IN_PROCESS = pytest.mark.parametrize("on", ["threads", "asyncio"])


def running():
    """Return the threads of runs that are alive."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("dspy-mlflow-run")]


@pytest.fixture(autouse=True)
def no_workers_left():
    """Fail a test that leaves a run's thread."""
    yield
    gc.collect()
    wait_until(lambda: running() == [])


class Endless:
    """Inputs without an end, which know how many were taken."""

    def __init__(self):
        self.taken = 0

    def __iter__(self):
        for number in itertools.count():
            self.taken += 1
            yield {"question": str(number)}


@IN_PROCESS
def test_memory_is_bounded(dspy_traces, on):
    """Of inputs without an end no more are taken than the consumer's pace and the window allow."""
    inputs = Endless()
    with run(Answers(), inputs, on=on, max_workers=2, window=5) as results:
        assert inputs.taken == 5
        for count, result in zip(range(1, 31), results, strict=False):
            assert result.prediction.answer == str(count - 1)
            assert inputs.taken <= count + 5
    done = [each.index for each in results.done]  # of two at once the first may be cancelled when the second is done
    assert done == sorted(done)
    assert set(done) <= set(range(30, 35))
    assert len(results.done) <= 5
    assert next(results, None) is None
    results.close()  # which it is


def test_work_goes_on_while_nobody_asks(dspy_traces):
    """The window is worked off before the first result is asked for; by default it holds four inputs a worker."""
    program, inputs = Answers(), Endless()
    with run(program, inputs, max_workers=2):
        wait_until(lambda: len(program.asked) == 8)
        assert inputs.taken == 8


@IN_PROCESS
def test_a_run_that_is_forgotten_ends(dspy_traces, on):
    """Who leaves the loop and lets go of the results ends the run, and its span."""
    for result in run(Answers(), Endless(), on=on, max_workers=2, trace="one"):
        assert result.prediction.answer == "0"
        break
    del result
    gc.collect()
    wait_until(lambda: running() == [])
    assert dspy_traces.one().data.spans[0].name == "Run"


def test_inputs_that_end_with_an_error(dspy_traces):
    """An error of the inputs themselves is raised in its place, after the results before it."""

    def inputs():
        yield from asking("a", "b")
        raise OSError("the file has an end")

    results = run(Answers(), inputs())
    assert [next(results).index, next(results).index] == [0, 1]
    with pytest.raises(OSError, match="the file has an end"):
        next(results)


@IN_PROCESS
def test_results_in_a_running_loop(dspy_traces, on):
    """`async for` waits for results without blocking the loop."""

    async def main():
        program, answers = Answers(), []
        results = run(program, asking("fail", "wait", "b"), on=on, on_error="skip")
        asyncio.get_running_loop().call_later(0.05, program.go_on.set)  # it would never, if the loop were blocked
        async with results:
            async for result in results:
                answers.append(result.prediction.answer)
        return answers

    assert asyncio.run(main()) == ["WAIT", "B"]


def test_a_consumer_that_is_cancelled(dspy_traces):
    """Who stops waiting loses no result."""

    async def main():
        program = Answers()
        results = run(program, asking("wait", "a"))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(results), 0.05)
        program.go_on.set()
        return [result.index async for result in results]

    assert asyncio.run(main()) == [0, 1]


@ON_BOTH
def test_a_timeout_of_threads(dspy_traces):
    """An input that takes too long is given up with an error that leads to its trace; its thread is replaced."""
    program = Answers()
    late, quick = run(program, asking("wait", "a"), max_workers=1, timeout=SECONDS, retries=1, on_error="keep")
    assert isinstance(late.error, InputTimeoutError)
    assert str(late.error) == f"input {late.input_id} took longer than {SECONDS} s"
    assert (late.attempts, late.duration_s >= SECONDS, quick.error) == (1, True, None)
    program.go_on.set()
    wait_until(lambda: running() == [])
    assert {late.trace_id, quick.trace_id} == {trace.info.trace_id for trace in dspy_traces.all()}


@ON_BOTH
def test_a_timeout_of_asyncio(dspy_traces):
    """A task that takes too long is cancelled: its trace ends as an error."""
    results = run(Answers(), asking("wait", "a"), on="asyncio", timeout=SECONDS, retries=1, on_error="keep").all()
    late, quick = results
    assert (type(late.error), late.attempts, quick.error) == (InputTimeoutError, 1, None)
    states = {trace.info.trace_id: trace.info.state for trace in dspy_traces.all()}
    assert (states[late.trace_id], states[quick.trace_id]) == ("ERROR", "OK")


def test_no_attempt_follows_an_input_that_is_given_up(dspy_traces):
    """The run does not wait for it either, and what fails after its time is up is not attempted again."""
    program, go_on = Runs(lambda given: go_on.wait(60) and 1 / 0), threading.Event()
    (result,) = run(program, [("late",)], timeout=0.1, retries=3, on_error="keep")
    go_on.set()
    wait_until(lambda: running() == [])
    assert [trace.info.trace_id for trace in dspy_traces.all()] == [result.trace_id]


def test_a_timeout_elsewhere(dspy_traces, workers):
    """In other processes the worker itself gives an input up, whose thread goes on; time to spare changes nothing."""
    slow = run(Slow(), [(30.0,), (0.0,)], on=workers, timeout=SECONDS, on_error="keep", max_workers=1).all()
    assert [type(each.error) for each in slow] == [InputTimeoutError, type(None)]
    assert (slow[0].attempts, slow[0].trace_id is None, slow[1].prediction) == (1, False, 0.0)
    STOPPED.set()
    wait_until(lambda: slow[0].trace_id in {trace.info.trace_id for trace in dspy_traces.all()})


STOPPED = threading.Event()


class Slow(dspy.Module):
    """Takes the seconds that it is given, unless it is stopped."""

    def forward(self, seconds):
        STOPPED.wait(seconds)
        return seconds


def test_there_is_time_enough(dspy_traces):
    """Inputs that take less than the timeout are done as without one."""
    results = run(Answers(), asking("wait", "a", "last"), max_workers=2, timeout=60).predictions
    assert [each.answer for each in results] == ["WAIT", "A", "LAST"]


def press_ctrl_c():
    """Interrupt the main thread, from another one."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def interrupting(*questions):
    """Yield inputs, and have Ctrl+C pressed when they are used up."""
    yield from asking(*questions)
    signal.raise_signal(signal.SIGINT)


@IN_PROCESS
def test_an_interruption_keeps_what_is_done(dspy_traces, on):
    """Ctrl+C ends the workers; what was gathered and what is done by then is kept, and its traces are stored."""
    results = run(Answers(), interrupting(*"abcdef"), on=on, max_workers=1, window=3)
    with pytest.raises(KeyboardInterrupt):
        results.all()
    done = results.done
    assert [each.index for each in done] == list(range(len(done)))
    assert len(done) >= 4
    assert running() == []
    assert {each.trace_id for each in done} <= {trace.info.trace_id for trace in dspy_traces.all()}


def test_what_runs_is_waited_for(dspy_traces):
    """After one Ctrl+C the inputs that are running end, and are kept; no other one begins."""
    program = Runs(lambda given: _interrupt_and_wait(given, lambda: results))
    results = run(program, [("first",), ("second",), ("third",)], max_workers=2, window=3)
    with pytest.raises(KeyboardInterrupt):
        results.all()
    assert [each.prediction for each in results.done] == ["first", "second"]


def _interrupt_and_wait(given, results):
    if given == "second":
        press_ctrl_c()
    wait_until(lambda: results()._is_over)
    return given


def test_interrupted_twice(dspy_traces):
    """A second Ctrl+C does not wait for what is running; what is done is kept."""
    go_on = threading.Event()

    def work(given):
        if given == "stuck":
            press_ctrl_c()
            wait_until(lambda: results._is_over)
            press_ctrl_c()
            assert go_on.wait(60)
        return given

    results = run(Runs(work), [("done",), ("stuck",), ("never",)], max_workers=1)
    with pytest.raises(KeyboardInterrupt):
        results.all()
    assert [each.prediction for each in results.done] == ["done"]
    go_on.set()


def test_tasks_are_cancelled(dspy_traces):
    """Tasks of asyncio that run when the run is stopped are cancelled, and are not done."""
    with run(Answers(), asking("a", "wait", "wait"), on="asyncio", max_workers=3) as results:
        assert next(results).index == 0
    assert results.done == []
    assert sorted(trace.info.state for trace in dspy_traces.all())[:1] == ["ERROR"]


class CleansUp(dspy.Module):
    """Waits until it is cancelled, and then has something to do."""

    def __init__(self):
        super().__init__()
        self.has_begun, self.is_clean = threading.Event(), False

    async def aforward(self, given):
        self.has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            self.is_clean = True


def test_a_cancelled_task_may_clean_up(dspy_traces):
    """A run is over only when its cancelled tasks have ended."""
    program = CleansUp()
    with run(program, [("a",)], on="asyncio"):
        assert program.has_begun.wait(60)
    assert program.is_clean


@pytest.mark.parametrize("on_error", ["raise", "keep", "skip"])
def test_what_ends_programs_ends_the_run(dspy_traces, on_error):
    """`SystemExit` in a worker is raised, whatever becomes of errors."""
    results = run(Answers(), asking("a", "exit", "exit", "b"), max_workers=1, on_error=on_error)
    with pytest.raises(SystemExit):
        results.all()
    assert 0 in [each.index for each in results.done]


class Pickling(ThreadPoolExecutor):
    """Workers that get and return bytes, as other processes do; the first ones die."""

    def __init__(self, deaths=0, refusals=0):
        super().__init__(2)
        self.deaths = deaths
        self.refusals = refusals

    def submit(self, fn, /, *args, **kwargs):
        if self.refusals:
            self.refusals -= 1
            raise BrokenExecutor("a worker had died")
        if self.deaths:
            self.deaths -= 1
            future = Future()
            future.set_exception(BrokenExecutor("a worker died"))
            return future
        sent = pickle.dumps((fn, args))
        return super().submit(lambda: _called(*pickle.loads(sent)))


def _called(function, args):
    return function(*args)


@pytest.fixture
def workers():
    with Pickling() as executor:
        yield executor


@ON_BOTH
@pytest.mark.parametrize("trace", ["each", "one"])
def test_an_executor_of_ones_own(dspy_traces, workers, trace):
    """Any executor does whose workers are elsewhere; it stays open, and the traces are those of threads."""
    results = run(Answers(), asking("a", "fail once"), on=workers, trace=trace, max_workers=1, retries=1)
    assert [each.answer for each in results.predictions] == ["A", "FAIL ONCE"]
    assert workers.submit(len, "open").result() == 4
    trees = [tree(each) for each in dspy_traces.all()]
    assert len(trees) == (3 if trace == "each" else 1)
    assert sum(str(each).count("'Answers'") for each in trees) == 3


class Carries(Pickling):
    """Lets what it is given continue the trace by itself, as the engines' executors do."""

    def submit(self, fn, /, *args, **kwargs):
        return super().submit(Carrying(fn), *args, **kwargs)


@pytest.mark.parametrize("engine_name", ["ray", "dask", "spark"])
def test_an_engine_by_its_name(dspy_traces, monkeypatch, engine_name):
    """An engine's own executor is made for the run, for so many workers, and ends with it."""
    made = []

    def executor(max_workers):
        made.append((max_workers, Carries()))
        return made[-1][1]

    room = f"dspy_mlflow_callbacks.distributed.{engine_name}"
    monkeypatch.setitem(sys.modules, room, SimpleNamespace(**{f"{engine_name}_executor": executor}))
    results = run(Answers(), asking("a", "b"), on=engine_name, trace="one", max_workers=3)
    assert [each.answer for each in results.predictions] == ["A", "B"]
    ((workers, pool),) = made
    assert (workers, pool._shutdown) == (3, True)
    assert dspy_traces.tree() == [bare("Run", *[bare("Answers")] * 2)]


def test_the_number_of_an_engines_workers(dspy_traces, monkeypatch):
    """Where nobody says how many inputs are worked on at once, they are as many as the engine runs tasks at once."""
    monkeypatch.setattr(Carries, "workers", 3, raising=False)
    room = SimpleNamespace(dask_executor=lambda max_workers: Carries() if max_workers is None else None)
    monkeypatch.setitem(sys.modules, "dspy_mlflow_callbacks.distributed.dask", room)
    inputs = Endless()
    with run(Answers(), inputs, on="dask"):
        assert inputs.taken == 4 * 3


def test_an_engines_executor_of_ones_own(dspy_traces, monkeypatch):
    """An executor that this package made for an engine is left open too."""
    monkeypatch.setattr(Carries, "__module__", "dspy_mlflow_callbacks.distributed.dask")
    with Carries() as pool:
        results = run(Answers(), asking("a", "b"), on=pool, trace="one")
        assert [each.answer for each in results.predictions] == ["A", "B"]
        assert not pool._shutdown
    assert dspy_traces.tree() == [bare("Run", *[bare("Answers")] * 2)]


def test_a_program_that_cannot_be_sent(dspy_traces, workers):
    """A program that cannot be pickled is refused at once."""
    with pytest.raises(TypeError, match="program cannot be sent to another process: cannot pickle"):
        run(Runs(threading.Lock()), [("a",)], on=workers)


def test_the_number_of_workers(dspy_traces, workers):
    """Where nobody says how many inputs are worked on at once, other processes get one for each core."""
    assert [each.answer for each in run(Answers(), asking("a"), on=workers).predictions] == ["A"]


class CannotBeMadeError(Exception):
    """Unpickled, it misses an argument."""

    def __init__(self, one, two):
        super().__init__(one)


class Odd(dspy.Module):
    """Returns or raises what cannot be sent."""

    def forward(self, given):
        if given == "raise":
            raise CannotBeMadeError("no", "way")
        if given == "know":
            raise KeyError(given)
        return threading.Lock()


def test_what_cannot_be_sent(dspy_traces, workers):
    """What a program elsewhere raises or returns that cannot be sent is told; a traceback is that of the worker."""
    results = run(Odd(), [("raise",), ("know",), ("return",)], on=workers, on_error="keep").all()
    said = [f"{type(each.error).__name__}: {each.error}" for each in results]
    assert said[:2] == ["RemoteError: CannotBeMadeError: no", "KeyError: 'know'"]
    assert said[2].startswith("RemoteError: what the program returned cannot be sent to another process: ")
    assert "in forward\n    raise KeyError(given)" in str(results[1].error.__cause__)


@pytest.mark.parametrize(("retries", "errors"), [(0, 1), (1, 0)])
def test_a_worker_that_dies(dspy_traces, retries, errors):
    """An input whose worker died is attempted again as far as there are retries."""
    with Pickling(deaths=1) as workers:
        results = run(Answers(), asking("a", "b"), on=workers, max_workers=1, retries=retries, on_error="keep")
        first, second = results
    assert (results.counts.errors, second.error) == (errors, None)
    assert first.attempts == 1
    said = sorted(trace.info.tags["dspy.run.attempt"] for trace in dspy_traces.all())
    assert said == (["1", "2"] if retries else ["1"])


@pytest.mark.parametrize(("refusals", "errors"), [(1, 0), (2, 1)])
def test_an_executor_that_takes_nothing(dspy_traces, refusals, errors):
    """An executor that is broken when it gets an input is asked again, once."""
    with Pickling(refusals=refusals) as workers:
        results = run(Answers(), asking("a", "b"), on=workers, max_workers=1, on_error="keep")
        list(results)
    assert results.counts.errors == errors


def test_a_worker_that_dies_while_the_run_ends(dspy_traces):
    """What would be attempted again is not when nothing may begin any more."""
    given = []

    class Dying(Executor):
        def submit(self, fn, /, *args, **kwargs):
            given.append(Future())
            given[-1].set_running_or_notify_cancel()
            return given[-1]

    results = run(Answers(), asking("a"), on=Dying(), retries=1)
    wait_until(lambda: given)
    threading.Thread(target=lambda: (wait_until(lambda: results._is_over), given[0].set_exception(_broken()))).start()
    results.close()
    assert (results.done, len(given)) == ([], 1)


def _broken():
    return BrokenExecutor("a worker died")


@pytest.mark.parametrize("total", [None, 3])
def test_the_progress_bar(dspy_traces, capsys, total):
    """The bar shows rate, errors, tokens and cost on standard error, where it is asked for."""
    inputs = asking("a", "fail", "b")
    run(Answers(), inputs if total else iter(inputs), progress="always", on_error="skip").all()
    captured = capsys.readouterr()
    assert "input" in captured.err
    assert "1 error, 0 tokens" in captured.err
    assert ("3/3" in captured.err) is (total is not None)
    assert captured.out == ""


@pytest.mark.parametrize("progress", [True, False])
def test_no_bar_where_nobody_would_see_it(dspy_traces, capsys, progress):
    """Where standard error is no terminal, there is no bar unless it is asked for."""
    run(Answers(), asking("a"), progress=progress).all()
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(dspy_traces, monkeypatch, capsys):
    """On a terminal there is one, with the cost where it is known."""
    from dspy_mlflow_callbacks.executor.progress import bar
    from dspy_mlflow_callbacks.executor.result import Counts

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(bar(False, 1), NoBar)
    shown = bar(True, 1)
    shown.show(Counts(errors=2, tokens=1_234, cost=0.5).in_short())
    shown.close()
    assert "2 errors, 1,234 tokens, $0.5000" in capsys.readouterr().err
