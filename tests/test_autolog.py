"""`autolog()`: the process is traced without a line of configuration, and everything is as before when it ends."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import dspy
import mlflow
import pytest
from evaluations import DEVSET, exact
from expected import example, ok, ordered
from heard import Heard
from offline_lm import OfflineLM
from programs import Program, answering, predict_tree, program_tree

from dspy_mlflow_callbacks import CallKind, MlflowCallback, TracingConfig, autolog
from dspy_mlflow_callbacks.testing.captured import tree


@pytest.fixture(autouse=True)
def traces(dspy_traces):
    """Trace into a store of the test's own, with nothing configured."""
    dspy.configure(callbacks=[], lm=OfflineLM())
    yield dspy_traces
    autolog(disable=True)


def run(question="why?"):
    return Program()(question=question)


def here(function):
    return function()


def in_a_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def in_a_task(function):
    async def task():
        return function()

    async def main():
        return await asyncio.create_task(task())

    return asyncio.run(main())


def test_it_has_mlflows_arguments():
    """`autolog` takes the arguments of `mlflow.dspy.autolog` with their defaults, in their order, and ours by name."""
    theirs, ours = inspect.signature(mlflow.dspy.autolog), inspect.signature(autolog)
    shared = [each.replace(annotation=None) for each in theirs.parameters.values()]
    mine = [each.replace(annotation=None) for each in ours.parameters.values()]
    assert mine[: len(shared)] == shared
    callbacks = inspect.signature(MlflowCallback).parameters
    assert [each.name for each in mine[len(shared) :]] == list(callbacks)
    assert {each.kind for each in mine[len(shared) :]} == {each.kind for each in callbacks.values()}


@pytest.mark.parametrize("somewhere", [here, in_a_thread, in_a_task])
@pytest.mark.parametrize("times", [1, 3])
def test_it_may_be_called_anywhere(traces, somewhere, times):
    """Called from any thread or task, once or more often, it traces each call once, whoever configured DSPy first."""
    for _ in range(times):
        somewhere(autolog)
    run()
    in_a_thread(run)
    assert [tree(trace) for trace in traces.all()] == [[program_tree()]] * 2


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("change", ["configure", "context"])
def test_a_later_configuration_does_not_end_it(traces, others, change):
    """What the program configures afterwards leaves tracing on, and its own callbacks hear what they always hear."""
    callbacks = [Heard() for _ in range(others)]
    autolog()
    if change == "configure":
        dspy.configure(callbacks=callbacks)
        run()
    else:
        with dspy.context(callbacks=callbacks):
            run()
    assert traces.tree() == [program_tree()]
    assert [len(each.starts) for each in callbacks] == [6] * others


@pytest.mark.parametrize("change", [dspy.configure, dspy.context])
def test_a_configured_callback_records_instead(traces, change):
    """Where the program configures a callback of this package, that one records, and nothing is recorded twice."""
    autolog(tags={"by": "autolog"})
    scope = change(callbacks=[MlflowCallback(tags={"by": "program"})])
    if scope is None:
        run()
    else:
        with scope:
            run()
    assert traces.one().info.tags["by"] == "program"
    assert traces.tree() == [program_tree()]


def test_a_programs_own_callback_governs_it(traces):
    """A program with a callback of its own is recorded by that one, and all others by `autolog`'s."""
    autolog(tags={"by": "autolog"})
    program = Program()
    program.callbacks = [MlflowCallback(tags={"by": "program"})]
    program(question="why?")
    run()
    assert [trace.info.tags["by"] for trace in traces.all()] == ["program", "autolog"]
    assert [tree(trace) for trace in traces.all()] == [[program_tree()]] * 2


def test_the_last_call_holds(traces):
    """Called again, the last call's options hold, those it does not say included."""
    autolog(tags={"first": "yes"}, level="info")
    autolog(tags={"last": "yes"})
    run()
    assert {"first", "last"} & set(traces.one().info.tags) == {"last"}
    assert traces.tree() == [program_tree()]


def test_a_call_that_is_wrong_changes_nothing(traces):
    """A wrong option raises by its name, and what an earlier call asked for holds."""
    autolog(tags={"first": "yes"})
    with pytest.raises(ValueError, match="sampling_ratio"):
        autolog(sampling_ratio=2)
    with pytest.raises(TypeError, match="did you mean 'sampling_ratio'"):
        autolog(sampling_rato=1)
    run()
    assert traces.one().info.tags["first"] == "yes"


def test_disabled_it_is_silent(traces):
    """After `disable=True` nothing is recorded, however often it was called."""
    autolog()
    autolog()
    autolog(disable=True)
    autolog(disable=True)
    run()
    assert traces.all() == []


class Switching(dspy.Module):
    """Switches `autolog` in the middle of a call."""

    def __init__(self, switch):
        super().__init__()
        self.switch = switch
        self.before, self.after = dspy.Predict("question -> answer"), dspy.Predict("question -> answer")

    def forward(self, question):
        self.before(question=question)
        self.switch()
        return self.after(question=question)


def test_switched_off_in_mid_call(traces):
    """Switched off in mid-call, the trace is stored with what was recorded until then, and no span stays open."""
    autolog()
    Switching(lambda: autolog(disable=True))(question="why?")
    assert mlflow.get_current_active_span() is None
    assert traces.tree() == [ok("Switching", "CHAIN", predict_tree("Switching.before"))]
    autolog()
    run()
    assert [tree(trace)[0][0] for trace in traces.all()] == ["Switching", "Program"]


def test_switched_on_again_in_mid_call(traces):
    """Called again in mid-call, the call stays one trace."""
    autolog()
    Switching(lambda: autolog(tags={"later": "yes"}))(question="why?")
    assert traces.tree() == [
        ok("Switching", "CHAIN", predict_tree("Switching.before"), predict_tree("Switching.after"))
    ]


def test_nothing_of_it_stands_in_dspys_settings(traces):
    """DSPy's settings are the program's own: `callbacks`, `track_usage`, and what is pickled with a model."""
    before = dict(dspy.settings.config)
    autolog(log_compiles=True, log_evals=True)
    assert dict(dspy.settings.config) == before
    assert dspy.settings.callbacks == []
    assert dspy.settings.track_usage is False
    own = {name: value for name, value in dspy.settings.config.items() if name not in ("lm", "trace")}
    assert b"dspy_mlflow_callbacks" not in cloudpickle.dumps(own)  # the LM and the trace of calls are the tests'


def test_a_callback_that_was_read_out_ends_with_it(traces):
    """A callback that the program took from DSPy's settings records nothing once `autolog` is off, or has another."""
    autolog(tags={"first": "yes"})
    dspy.configure(callbacks=dspy.settings.get("callbacks"))
    autolog(tags={"last": "yes"})
    run()
    autolog(disable=True)
    run()
    assert {"first", "last"} & set(traces.one().info.tags) == {"last"}


def test_callbacks_that_are_no_list_are_left_alone(traces):
    """Callbacks that DSPy itself would refuse are handed on as they are."""
    autolog()
    dspy.configure(callbacks=None)
    assert dspy.settings.get("callbacks") is None
    assert dspy.settings.get("nothing", "default") == "default"


def test_somebody_elses_wrapper_stays(traces):
    """What somebody else wrapped meanwhile stays wrapped, and `autolog` can be switched off and on beneath it."""
    autolog()
    owner = type(dspy.settings)
    ours = owner.get

    def theirs(self, *arguments):
        return ours(self, *arguments)

    owner.get = theirs
    try:
        autolog(disable=True)
        run()
        autolog()
        run()
        assert traces.tree() == [program_tree()]
        autolog(disable=True)
    finally:
        owner.get = inspect.unwrap(ours)


PUT_BACK = """
import sys, types
import dspy, dspy.teleprompt, dspy.retrievers

def attributes():
    owners = [owner for name, module in list(sys.modules.items()) if name.partition(".")[0] == "dspy"
              for owner in [module, *vars(module).values()]
              if isinstance(owner, (type, types.ModuleType))
              and getattr(owner, "__module__", owner.__name__).partition(".")[0] == "dspy"]
    # Modules that are imported, and classes that are derived meanwhile, change nothing that was there.
    return {(owner, name): value for owner in owners for name, value in vars(owner).items()
            if callable(value) and not name.startswith("_abc_")}

from dspy_mlflow_callbacks import MlflowCallback, autolog
autolog_room = sys.modules["dspy_mlflow_callbacks.autologging"]
before, settings = attributes(), dict(dspy.settings.config)
def changed():
    now = attributes()
    return [key for key, value in before.items() if now.get(key) is not value]

for _ in range(2):
    autolog(log_compiles=True, log_evals=True)
    assert len(changed()) > 5, changed()
    autolog(disable=True)
    assert changed() == [], changed()
assert dict(dspy.settings.config) == settings

from dspy.utils.parallelizer import ParallelExecutor
autolog()
ours = ParallelExecutor.execute
theirs = ParallelExecutor.execute = lambda *arguments: ours(*arguments)
autolog(disable=True)
assert ParallelExecutor.execute is theirs
assert set(changed()) == {(ParallelExecutor, "execute")}
ParallelExecutor.execute = ours.__wrapped__

callback = MlflowCallback()
autolog()
needed = changed()
autolog(disable=True)
assert [owner.__name__ for owner, name in set(needed) - set(changed())] == ["Settings"]
"""


def test_it_puts_back_what_it_changed(tmp_path):
    """Once it is off every function and class of DSPy is the object it was, but for what other callbacks need."""
    done = python(PUT_BACK, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


BESIDE_MLFLOWS = """
import dspy, mlflow
from dspy_mlflow_callbacks import autolog
mlflow.dspy.autolog(log_evals=True)
before = list(dspy.settings.callbacks)
autolog()
autolog(disable=True)
assert [type(each).__module__ for each in dspy.settings.callbacks] == ["mlflow.dspy.callback"]
assert dspy.settings.callbacks == before
from mlflow.utils.autologging_utils import autologging_is_disabled, get_autologging_config
assert not autologging_is_disabled("dspy") and get_autologging_config("dspy", "log_evals")
"""


def test_mlflows_autolog_stays(tmp_path):
    """`disable=True` leaves `mlflow.dspy.autolog()` on, with its options."""
    done = python(BESIDE_MLFLOWS, tmp_path)
    assert done.returncode == 0, done.stderr


def python(code, folder, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "LITELLM_LOG": "ERROR", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def evaluate():
    dspy.Evaluate(devset=DEVSET, metric=exact, num_threads=2, display_progress=False)(
        dspy.Predict("question -> answer")
    )


def optimize():
    dspy.LabeledFewShot(k=1).compile(dspy.Predict("question -> answer"), trainset=DEVSET)


EVALUATED = ["Evaluate", *["Example"] * len(DEVSET)]

RECORDED = {
    "nothing": ({}, [*EVALUATED, "Program"]),
    "log_traces": ({"log_traces": False}, []),
    "log_traces_from_eval": ({"log_traces_from_eval": False}, ["Program"]),
    "evaluate": ({"evaluate": False}, ["Program"]),
    "evaluate first": ({"log_traces_from_eval": False, "evaluate": True}, [*EVALUATED, "Program"]),
    "evaluate nested": ({"evaluate": "nested"}, ["Evaluate", "Program"]),
    "log_traces_from_compile": ({"log_traces_from_compile": True}, [*EVALUATED, "LabeledFewShot", "Program"]),
    "compile": ({"compile": True}, [*EVALUATED, "LabeledFewShot", "Program"]),
    "a config": (
        {"config": TracingConfig(evaluate=False), "log_traces_from_compile": True},
        ["LabeledFewShot", "Program"],
    ),
    "a config, compile": ({"config": TracingConfig()}, [*EVALUATED, "Program"]),
    "enabled": ({"enabled": False}, []),
    "a middleware": ({"middleware": [lambda call: None if call.kind is CallKind.EVALUATE else call]}, ["Program"]),
}


def names_of_all(traces):
    """Return the names of the traces of a program, an evaluation and a compile."""
    run()
    evaluate()
    optimize()
    return sorted(trace.info.tags["mlflow.traceName"] for trace in traces.all())


@pytest.mark.parametrize(("arguments", "names"), RECORDED.values(), ids=RECORDED)
def test_what_is_recorded(traces, arguments, names):
    """`log_traces*` say what is recorded, as `mlflow.dspy.autolog` means them; an option of ours goes before them."""
    autolog(**arguments)
    assert names_of_all(traces) == names


VARIABLES = {
    "compile is not asked for": ({"DSPY_MLFLOW_COMPILE": "true"}, {}, [*EVALUATED, "Program"]),
    "compile is": ({"DSPY_MLFLOW_COMPILE": "false"}, {"log_traces_from_compile": True}, [*EVALUATED, "Program"]),
    "evaluate": ({"DSPY_MLFLOW_EVALUATE": "false"}, {}, ["Program"]),
    "enabled": ({"DSPY_MLFLOW_ENABLED": "false"}, {"log_traces": True}, []),
}


@pytest.mark.parametrize(("variables", "arguments", "names"), VARIABLES.values(), ids=VARIABLES)
def test_variables_can_only_leave_out_more(traces, monkeypatch, variables, arguments, names):
    """A variable leaves out what `log_traces*` would record, and does not bring in what they leave out."""
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    autolog(**arguments)
    assert names_of_all(traces) == names


def broken(call):
    raise ZeroDivisionError


def test_silent_it_logs_nothing():
    """With `silent=True` this package warns of nothing, until `autolog` is called without it or switched off."""
    before = logging.getLogger("dspy_mlflow_callbacks").level
    autolog(silent=True, middleware=[broken])
    run()
    assert logging.getLogger("dspy_mlflow_callbacks").level > logging.CRITICAL
    with pytest.raises(ValueError, match="level"):
        autolog(level="loud")
    assert logging.getLogger("dspy_mlflow_callbacks").level > logging.CRITICAL
    autolog()
    assert logging.getLogger("dspy_mlflow_callbacks").level == before
    autolog(silent=True)
    autolog(disable=True)
    assert logging.getLogger("dspy_mlflow_callbacks").level == before


@pytest.mark.warns
def test_otherwise_it_warns(warned):
    """Without `silent` a middleware that fails is warned of."""
    autolog(middleware=[broken])
    run()
    (message,) = warned.messages
    assert "A middleware failed" in message


def with_parallel():
    predict = dspy.Predict("question -> answer")
    dspy.Parallel(num_threads=4, disable_progress_bar=True)([(predict, example.inputs()) for example in DEVSET])


def with_asyncify():
    asyncio.run(dspy.asyncify(Program())(question="why?"))


def with_streamify():
    async def main():
        async for _ in dspy.streamify(Program())(question="why?"):
            pass

    asyncio.run(main())


def with_acall():
    asyncio.run(Program().acall(question="why?"))


def with_an_lm():
    dspy.settings.lm("why?")


WAYS = {
    "evaluate": (evaluate, [[ok("Evaluate", "EVALUATOR")], *[[example(predict_tree())]] * 4]),
    "parallel": (with_parallel, [[predict_tree()]] * 4),
    "asyncify": (with_asyncify, [[program_tree()]]),
    "streamify": (with_streamify, [[program_tree()]]),
    "acall": (with_acall, [[program_tree()]]),
    "an LM alone": (with_an_lm, [[ok("dummy", "CHAT_MODEL")]]),
}


@pytest.mark.parametrize(("way", "trees"), WAYS.values(), ids=WAYS)
def test_every_way_to_call_a_program(traces, way, trees):
    """A program that is called in threads, tasks or streams is recorded as with a configured callback."""
    autolog()
    way()
    assert [ordered(tree(trace)) for trace in traces.all()] == [ordered(each) for each in trees]


def test_threads_that_switch_it_do_not_disturb_programs(traces):
    """Programs run, and no span stays open, while threads switch it on and off all the time."""
    done = threading.Event()

    def switch():
        while not done.is_set():
            autolog()
            autolog(disable=True)

    switcher = threading.Thread(target=switch)
    switcher.start()
    try:
        with dspy.context(lm=answering()):
            answers = [run().answer for _ in range(20)]
    finally:
        done.set()
        switcher.join()
    assert answers == ["42"] * 20
    assert mlflow.get_current_active_span() is None
    autolog()
    run("at last")
    last = traces.all()[-1]
    assert (json.loads(last.data.request), tree(last)) == ({"question": "at last"}, [program_tree()])
