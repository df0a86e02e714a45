"""`attach` and `detach`: a program's own callback stays with its copies and changes nothing else of the program."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import random
import threading
from collections import Counter
from contextlib import suppress

import cloudpickle
import dspy
import pytest
from expected import chain_of_thought
from heard import Heard
from offline_lm import OfflineLM
from optimizers import exact, with_feedback
from programs import Program, program_tree
from threads import at_once

from dspy_mlflow_callbacks import LMCallback, MlflowCallback, attach, detach
from dspy_mlflow_callbacks.describe.signatures import program_fingerprint
from dspy_mlflow_callbacks.testing.captured import tree

pytestmark = pytest.mark.usefixtures("nothing_left")

EXAMPLES = [
    dspy.Example(question=f"question {index}", answer="some answer").with_inputs("question") for index in range(4)
]


def uncopyable(program):
    """Return *program* with something that cannot be copied: DSPy then copies it attribute by attribute."""
    program.lock = threading.Lock()
    return program


def saved(program, folder):
    program.save(folder / "program", save_program=True)
    return dspy.load(folder / "program", allow_pickle=True)


def pickled(program, _):
    return cloudpickle.loads(cloudpickle.dumps(program))


COPIES = {
    "copy.copy": lambda program, _: copy.copy(program),
    "copy.deepcopy": lambda program, _: copy.deepcopy(program),
    "deepcopy": lambda program, _: program.deepcopy(),
    "deepcopy of what cannot be copied": lambda program, _: uncopyable(program).deepcopy(),
    "reset_copy": lambda program, _: program.reset_copy(),
    "a copy of a copy": lambda program, _: uncopyable(program.deepcopy()).deepcopy().reset_copy(),
    "inside another program": lambda program, _: Holds(program).deepcopy().held[0],
}
PICKLES = {"cloudpickle": pickled, "save and load": saved}


class Holds(dspy.Module):
    """Holds a program in a list."""

    def __init__(self, program):
        super().__init__()
        self.held = [program]

    def forward(self, question):
        return self.held[0](question=question)


def run(program, **settings):
    with dspy.context(**{"lm": OfflineLM(), "callbacks": [], **settings}):
        return program(question="why?")


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_copies_share_the_callback(dspy_traces, tmp_path, duplicate):
    """However a program is copied, the copy is traced by the very callback that was attached."""
    callback = MlflowCallback()
    program = attach(Program(), callback)
    double = duplicate(program, tmp_path)
    run(double)
    assert dspy_traces.tree() == [program_tree()]
    assert callback.stats().started == 6
    assert double is not program


@pytest.mark.parametrize("duplicate", PICKLES.values(), ids=PICKLES)
def test_a_pickle_takes_the_callback_along(dspy_traces, tmp_path, duplicate):
    """A program that was pickled is traced by a callback with the same options and counts of its own."""
    callback = MlflowCallback(tags={"team": "search"})
    double = duplicate(attach(Program(), callback), tmp_path)
    run(double)
    run(double.deepcopy())
    assert [tree(trace) for trace in dspy_traces.all()] == [[program_tree()]] * 2
    assert {trace.info.tags["team"] for trace in dspy_traces.all()} == {"search"}
    assert (double.callbacks[0].stats().started, callback.stats().started) == (12, 0)


def test_what_was_set_by_hand_is_not_copied(dspy_traces):
    """`program.callbacks = [...]` keeps DSPy's own way: copies have none."""
    program = Program()
    program.callbacks = [MlflowCallback()]
    double = program.deepcopy()
    run(double)
    assert double.callbacks == []
    assert dspy_traces.all() == []


def test_only_the_attached_callback_is_copied():
    """Callbacks beside the attached one stay with the program that they were set on."""
    heard, callback = Heard(), MlflowCallback()
    program = Program()
    program.callbacks = [heard]
    attach(program, callback)
    program.callbacks.append(late := Heard())
    assert program.callbacks == [callback, heard, late]
    assert copy.deepcopy(program).callbacks == [callback]
    assert cloudpickle.loads(cloudpickle.dumps(program)).callbacks[0] is not callback


def test_a_copys_callbacks_are_its_own():
    """What happens to a copy's callbacks does not happen to the program's."""
    callback = MlflowCallback()
    program = attach(Program(), callback)
    double = program.deepcopy()
    double.callbacks.append(Heard())
    third = detach(program.deepcopy())
    assert program.callbacks == [callback]
    assert third.callbacks == []


def test_a_class_with_a_state_of_its_own_keeps_the_callback():
    """A program whose class adds to `Module.__getstate__` keeps its callback in copies."""

    class Stateful(Program):
        def __getstate__(self):
            return {**super().__getstate__(), "copied": True}

    callback = MlflowCallback()
    double = attach(Stateful(), callback).deepcopy()
    assert (double.copied, double.callbacks) == (True, [callback])


def labeled_few_shot(student):
    return dspy.LabeledFewShot(k=2).compile(student, trainset=EXAMPLES)


def bootstrap_few_shot(student):
    optimizer = dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=1, max_labeled_demos=1)
    return optimizer.compile(student, trainset=EXAMPLES)


def mipro(student):
    small = {"max_bootstrapped_demos": 1, "max_labeled_demos": 1}
    optimizer = dspy.MIPROv2(metric=exact, auto=None, num_candidates=2, num_threads=2, **small)
    return optimizer.compile(student, trainset=EXAMPLES, valset=EXAMPLES, num_trials=2, minibatch=False)


def gepa(student):
    optimizer = dspy.GEPA(metric=with_feedback, max_metric_calls=12, num_threads=2, reflection_lm=OfflineLM())
    return optimizer.compile(student, trainset=EXAMPLES, valset=EXAMPLES)


def simba(student):
    optimizer = dspy.SIMBA(metric=exact, bsize=2, num_candidates=2, max_steps=1, max_demos=1, num_threads=2)
    return optimizer.compile(student, trainset=EXAMPLES)


def needs(name):
    """Return the mark of an optimizer for which DSPy imports a package that it does not bring."""
    return pytest.mark.skipif(not importlib.util.find_spec(name), reason=f"the optimizer needs {name}")


OPTIMIZERS = {
    "LabeledFewShot": labeled_few_shot,
    "BootstrapFewShot": bootstrap_few_shot,
    "MIPROv2": pytest.param(mipro, marks=needs("optuna")),
    "GEPA": pytest.param(gepa, marks=needs("gepa")),
    "SIMBA": simba,
}


def student():
    return dspy.ChainOfThought("question -> answer")


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_what_an_optimizer_makes_is_traced(dspy_traces, optimizer):
    """A compiled program has the callback that was attached to the student, and so have those that were tried."""
    callback = MlflowCallback()
    with dspy.context(lm=OfflineLM(), callbacks=[]):
        compiled = optimizer(attach(student(), callback))
    tried = dspy_traces.all()
    run(compiled)
    *before, last = dspy_traces.all()
    assert len(before) == len(tried)
    assert tree(last) == [chain_of_thought()]
    assert compiled.callbacks == [callback]
    assert all(trace.data.spans[0].name == "ChainOfThought" for trace in tried)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_makes_the_same_of_a_program_with_a_callback(dspy_traces, optimizer):
    """Attaching changes nothing in what an optimizer makes, and below a global callback each call has one span."""

    def compiled(program, callbacks):
        random.seed(0)
        dspy.cache.reset_memory_cache()
        with dspy.context(lm=OfflineLM(), callbacks=callbacks):
            return optimizer(program).dump_state()

    heard = Heard()
    attached = compiled(attach(student(), MlflowCallback()), [MlflowCallback(compile="full"), heard])
    assert attached == compiled(student(), [])
    kinds = Counter(span.get_attribute("dspy.kind") for span in dspy_traces.spans())
    del kinds["example"]  # for which DSPy emits no event
    assert kinds == heard.kinds
    assert len(dspy_traces.all()) == 1


def evaluate(program):
    evaluation = dspy.Evaluate(devset=EXAMPLES, metric=exact, num_threads=2, display_progress=False)
    assert evaluation(program).score == 100.0


def stream(**options):
    def read(program):
        return list(dspy.streamify(program, async_streaming=False, **options)(question="why?"))

    return read


async def gather(program):
    return await asyncio.gather(*[program.acall(question=each.question) for each in EXAMPLES])


RUNS = {
    "call": (1, lambda program: program(question="why?")),
    "acall": (1, lambda program: asyncio.run(program.acall(question="why?"))),
    "gather": (4, lambda program: asyncio.run(gather(program))),
    "Parallel": (
        4,
        lambda program: dspy.Parallel(num_threads=2, disable_progress_bar=True)([(program, each) for each in EXAMPLES]),
    ),
    "batch": (4, lambda program: program.batch(EXAMPLES, num_threads=2, disable_progress_bar=True)),
    "Evaluate": (4, evaluate),
    "asyncify": (1, lambda program: asyncio.run(dspy.asyncify(program)(question="why?"))),
    "streamify": (1, stream()),
    "streamify of an async program": (1, stream(is_async_program=True)),
    "BestOfN": (
        2,
        lambda program: dspy.BestOfN(program, N=2, reward_fn=lambda *_: 0.0, threshold=1.0)(question="why?"),
    ),
}


@pytest.mark.parametrize(("times", "way"), RUNS.values(), ids=RUNS)
def test_however_it_runs_each_execution_is_one_trace(dspy_traces, way, times):
    """Without a global callback each execution of an attached program is one whole trace, however DSPy runs it."""
    with dspy.context(lm=OfflineLM(), callbacks=[]):
        way(attach(Program(), MlflowCallback()))
    assert [tree(trace) for trace in dspy_traces.all()] == [[program_tree()]] * times


@pytest.mark.parametrize("callbacks", [[], [MlflowCallback()], [MlflowCallback(sampling_ratio=0)]])
def test_one_program_in_many_threads(dspy_traces, callbacks):
    """One attached program that 16 threads call at once is one whole trace for each call, in its caller's settings."""
    callback = MlflowCallback()
    program = attach(Program(), callback)

    def work():
        with dspy.context(lm=OfflineLM(), callbacks=callbacks):
            program(question="why?")
            return dspy.settings.callbacks

    assert at_once(*[work] * 16) == [callbacks] * 16
    assert [tree(trace) for trace in dspy_traces.all()] == [[program_tree()]] * 16
    assert (callback.stats().started, callback.stats().ended) == (96, 96)


class Waits(dspy.Module):
    """Waits for ever, inside of a module."""

    def __init__(self):
        super().__init__()
        self.started = threading.Event()
        self.predict = dspy.Predict("question -> answer")

    async def aforward(self, question):
        await self.predict.acall(question=question)
        self.started.set()
        await asyncio.Event().wait()


def test_a_cancelled_task_gives_the_settings_back(dspy_traces):
    """A task that is cancelled inside an attached program ends its trace, and later calls in it are not recorded."""
    program = attach(Waits(), MlflowCallback())

    async def body():
        try:
            await program.acall(question="why?")
        except asyncio.CancelledError:
            await Program().acall(question="not recorded")
            return dspy.settings.callbacks

    async def cancel():
        task = asyncio.create_task(body())
        assert await asyncio.to_thread(program.started.wait, 60)
        task.cancel()
        return await task

    with dspy.context(lm=OfflineLM(), callbacks=[]):
        assert asyncio.run(cancel()) == []
    assert [(name, status) for name, _, status, _ in dspy_traces.tree()] == [("Waits", "ERROR")]


class Streams(dspy.Module):
    """Returns a generator that calls a module at each step."""

    def __init__(self):
        super().__init__()
        self.predict = dspy.Predict("question -> answer")

    def forward(self, question):
        return self.steps(question)

    def steps(self, question):
        while True:
            yield self.predict(question=question)


def test_a_generator_that_is_left_changes_nothing(dspy_traces):
    """A program that returns a generator ends when it returns: what the generator calls belongs to who reads it."""
    with dspy.context(lm=OfflineLM(), callbacks=[]):
        steps = attach(Streams(), MlflowCallback())(question="why?")
        next(steps)
        steps.close()
    assert dspy_traces.tree() == [("Streams", "CHAIN", "OK", [])]


async def read_one(program):
    """Read the first value of a stream, leave it, and return the callbacks that hold then."""
    output = dspy.streamify(program, is_async_program=True)(question="why?")
    with suppress(BaseException):  # DSPy 3.4 cancels who gives up, DSPy 3.3 raises a group
        async for _ in output:
            break
        await output.aclose()
    return dspy.settings.callbacks


def test_a_stream_that_is_left_gives_the_settings_back(dspy_traces):
    """A stream of an attached program that nobody reads to its end leaves nothing open and nothing overridden."""

    async def body():
        callbacks = await asyncio.create_task(read_one(attach(Program(), MlflowCallback())))
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        return callbacks

    with dspy.context(lm=OfflineLM(), callbacks=[]):
        assert asyncio.run(body()) == []
    assert [name for name, *_ in dspy_traces.tree()] == ["Program"]


def names(pairs):
    return [name for name, _ in pairs]


LOOKS = {
    "dump_state": lambda program, _: program.dump_state(),
    "save": lambda program, folder: (program.save(folder / "state.json"), (folder / "state.json").read_bytes())[1],
    "named_parameters": lambda program, _: names(program.named_parameters()),
    "named_predictors": lambda program, _: names(program.named_predictors()),
    "named_sub_modules": lambda program, _: names(program.named_sub_modules()),
    "repr": lambda program, _: repr(program),
    "fingerprint": lambda program, _: program_fingerprint(program),
    "attributes": lambda program, _: list(vars(program)),
    "equality": lambda program, _: program == copy.copy(program),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_attaching_changes_nothing_else(tmp_path, look):
    """The state of a program, its parameters, its names and what it prints are what they are without a callback."""
    program = Holds(Program())
    before = look(program, tmp_path)
    attach(program, MlflowCallback())
    attach(program.held[0], MlflowCallback())
    assert look(program, tmp_path) == before


def test_state_is_loaded_into_an_attached_program(dspy_traces):
    """`load_state` leaves the callback where it is."""
    callback = MlflowCallback()
    program = attach(Program(), callback)
    program.load_state(Program().dump_state())
    assert program.callbacks == [callback]


def test_attaching_returns_the_program():
    """`attach` and `detach` return the program that they were given."""
    program = Program()
    assert attach(program, MlflowCallback()) is program
    assert detach(program) is program


def test_another_callback_replaces_the_attached_one():
    """A program has one attached callback: the last."""
    first, second = MlflowCallback(), LMCallback()
    program = attach(attach(Program(), first), second)
    assert program.callbacks == [second]
    assert program.deepcopy().callbacks == [second]


def test_attached_twice_is_attached_once():
    """The same callback attached again, or after it was set by hand, stands once."""
    callback = MlflowCallback()
    program = Program()
    program.callbacks = [callback]
    assert attach(attach(program, callback), callback).callbacks == [callback]


def test_the_attached_callback_stands_before_one_that_was_set_by_hand(dspy_traces):
    """Beside another callback of this package the attached one records; without it, that one does."""
    program = Program()
    program.callbacks = [MlflowCallback(tags={"who": "by hand"})]
    attach(program, MlflowCallback(tags={"who": "attached"}))
    run(program)
    run(detach(program))
    assert [trace.info.tags["who"] for trace in dspy_traces.all()] == ["attached", "by hand"]


def test_a_detached_program_is_traced_as_any_other(dspy_traces):
    """After `detach` a program is traced by the global callback only, and copies that were made before stay traced."""
    program = attach(Program(), MlflowCallback())
    double = program.deepcopy()
    detach(program)
    run(program)
    assert dspy_traces.all() == []
    run(double)
    run(program, callbacks=[MlflowCallback()])
    assert [tree(trace) for trace in dspy_traces.all()] == [[program_tree()]] * 2


@pytest.mark.parametrize("callbacks", [[], [Heard()], [MlflowCallback()]], ids=["none", "another's", "by hand"])
def test_detaching_what_has_none_changes_nothing(callbacks):
    """`detach` leaves a program without an attached callback as it is, also one with callbacks set by hand."""
    program = Program()
    program.callbacks = callbacks
    detach(detach(program))
    assert program.callbacks is callbacks


def test_setting_callbacks_takes_the_attached_one_off():
    """`program.callbacks = [...]` after `attach` is what holds."""
    program = attach(Program(), MlflowCallback())
    program.callbacks = []
    assert program.deepcopy().callbacks == []


def test_detached_in_mid_call(dspy_traces):
    """A program that is detached while it runs ends its trace whole."""

    class Detaches(Program):
        def forward(self, question):
            detach(self)
            return super().forward(question)

    run(attach(Detaches(), MlflowCallback()))
    assert dspy_traces.tree() == [program_tree("Detaches")]


class NoCallbacks(dspy.Module):
    """A module that has set its callbacks to None."""

    def __init__(self):
        super().__init__()
        self.callbacks = None


def test_a_module_that_has_no_callbacks_gets_one():
    """A program whose `callbacks` are None can be given one."""
    callback = MlflowCallback()
    assert detach(attach(NoCallbacks(), callback)).callbacks == []


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (Program, "program must be an instance of dspy.Module, got the class Program"),
        (OfflineLM(), "program must be a dspy.Module, got <offline_lm.OfflineLM"),
        (dspy.ChatAdapter(), "program must be a dspy.Module, got <dspy.adapters"),
        (dspy.Tool(len, name="count"), "program must be a dspy.Module, got Tool"),
        (None, "program must be a dspy.Module, got None"),
        ("program", "program must be a dspy.Module, got 'program'"),
    ],
    ids=["a class", "an LM", "an adapter", "a tool", "None", "a text"],
)
@pytest.mark.parametrize(
    "function", [lambda program: attach(program, MlflowCallback()), detach], ids=["attach", "detach"]
)
def test_what_is_no_program_is_refused(function, program, message):
    """Attaching to something else than a program, or detaching it, raises TypeError that says what was given."""
    with pytest.raises(TypeError, match=message):
        function(program)


@pytest.mark.parametrize("callback", [None, MlflowCallback, Heard(), [MlflowCallback()], len])
def test_what_is_no_callback_of_this_package_is_refused(callback):
    """Attaching something else than a callback of this package raises TypeError and leaves the program as it was."""
    program = Program()
    with pytest.raises(TypeError, match="callback must be a callback of this package such as MlflowCallback"):
        attach(program, callback)
    assert program.callbacks == []
