"""The callback classes: any subset, registered anywhere, records each call once."""

from __future__ import annotations

import copy
import pickle
import threading

import cloudpickle
import dspy
import pytest
from dspy.utils.callback import BaseCallback
from programs import Program, answering, predict_tree, program_tree

from dspy_mlflow_callbacks import (
    AdapterCallback,
    CallKind,
    CompileCallback,
    EvaluateCallback,
    InterpreterCallback,
    LMCallback,
    MlflowCallback,
    ModuleCallback,
    RatioSampler,
    TagInjector,
    ToolCallback,
)

SINGLE = [
    ModuleCallback,
    LMCallback,
    AdapterCallback,
    ToolCallback,
    EvaluateCallback,
    InterpreterCallback,
    CompileCallback,
]


def test_all_is_each_of_them():
    """`MlflowCallback` records what the single classes record, and nothing is left of DSPy's events.

    Of an example and of a trial, which are parts of an evaluation and of a compile, DSPy emits none.
    """
    hooks = {name for name in dir(BaseCallback) if name.startswith("on_") and name.endswith("_start")}
    assert [cls for cls in SINGLE if not issubclass(MlflowCallback, cls)] == []
    kinds = set(CallKind) - {CallKind.EXAMPLE, CallKind.TRIAL}
    assert hooks == {f"on_{kind.value}_start" for kind in kinds if MlflowCallback.records(kind)}


@pytest.mark.parametrize(
    ("classes", "tree"),
    [
        (
            [ModuleCallback],
            [("Program", [("Program.generate", [("Program.generate.predict", [])])])],
        ),
        ([LMCallback], [("dummy", [])]),
        ([AdapterCallback, LMCallback], [("ChatAdapter.format", []), ("dummy", []), ("ChatAdapter.parse", [])]),
        (
            [ModuleCallback, LMCallback],
            [("Program", [("Program.generate", [("Program.generate.predict", [("dummy", [])])])])],
        ),
        ([EvaluateCallback, ToolCallback, InterpreterCallback, CompileCallback], []),
    ],
)
def test_any_subset_nests_rightly(dspy_traces, classes, tree):
    """Some kinds of call alone give the tree without the others."""
    with dspy.context(lm=answering(), callbacks=[cls() for cls in classes]):
        Program()(question="why?")
    assert [named(trace) for trace in dspy_traces.all()] == [[node] for node in tree]


def named(trace, parent_id=None):
    spans = sorted(trace.data.spans, key=lambda span: span.start_time_ns)
    return [(span.name, named(trace, span.span_id)) for span in spans if span.parent_id == parent_id]


def test_a_tool_alone_holds_what_runs_inside_it(dspy_traces):
    """Without spans for modules, an LM call inside a tool nests below the tool."""
    tool = dspy.Tool(lambda question: Program()(question=question).answer, name="ask", args={"question": {}})
    with dspy.context(lm=answering(), callbacks=[ToolCallback(), LMCallback()]):
        tool(question="why?")
    assert [named(trace) for trace in dspy_traces.all()] == [[("ask", [("dummy", [])])]]


def test_a_callback_in_two_places_records_a_call_once(dspy_traces):
    """One callback registered globally and on the instance gives one span a call (fault 6)."""
    callback = MlflowCallback()
    program = Program()
    program.callbacks = [callback]
    program.generate.callbacks = [callback]
    with dspy.context(lm=answering(), callbacks=[callback, callback]):
        program(question="why?")
        program(question="again?")
    assert [len(trace.data.spans) for trace in dspy_traces.all()] == [6, 6]
    assert callback.stats().open == 0


def test_two_global_callbacks_record_a_call_once(dspy_traces):
    """Of two callbacks side by side the first records."""
    callbacks = [MlflowCallback(middleware=[TagInjector({"who": name})]) for name in ("first", "second")]
    with dspy.context(lm=answering(), callbacks=callbacks):
        Program()(question="why?")
    assert dspy_traces.tree() == [program_tree()]
    assert dspy_traces.one().info.tags["who"] == "first"


def test_a_programs_own_callback_traces_its_whole_subtree(dspy_traces):
    """Without a global callback, a program with one is traced with all that runs below it, and no other program is."""
    program = Program()
    program.callbacks = [MlflowCallback()]
    with dspy.context(lm=answering(), callbacks=[]):
        Program()(question="unseen")
        program(question="seen")
        Program()(question="unseen")
    assert dspy_traces.tree() == [program_tree()]


def test_a_programs_own_callback_is_given_to_its_constructor(dspy_traces):
    """`Program(callbacks=[...])` is the same as setting them."""
    with dspy.context(lm=answering(), callbacks=[]):
        dspy.Predict("question -> answer", callbacks=[MlflowCallback()])(question="why?")
    assert dspy_traces.tree() == [predict_tree()]


def test_a_programs_own_callback_overrides_the_global_one(dspy_traces):
    """The program's middleware governs its subtree in worker threads too; the global one governs the rest."""

    class Outer(dspy.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.other = Program(), dspy.Predict("question -> answer")
            self.inner.callbacks = [MlflowCallback(middleware=[noted("inner")])]

        def forward(self, question):
            dspy.Parallel(num_threads=2, disable_progress_bar=True)([(self.inner, {"question": question})] * 2)
            return self.other(question=question)

    with dspy.context(lm=answering(), callbacks=[MlflowCallback(middleware=[noted("outer")])]):
        Outer()(question="why?")
    governed = [(span.name, span.get_attribute("governor")) for span in dspy_traces.spans()]
    assert {governor for name, governor in governed if name.startswith("Outer.inner")} == {"inner"}
    assert {governor for name, governor in governed if name in ("Outer", "Outer.other")} == {"outer"}
    assert sorted(governor for _, governor in governed) == ["inner"] * 12 + ["outer"] * 5
    assert len(dspy_traces.all()) == 1


def noted(governor):
    import attrs

    def note(call):
        return attrs.evolve(call, attributes={"governor": governor})

    return note


def test_a_callback_of_one_kind_on_a_program_governs_its_subtree(dspy_traces):
    """An `LMCallback` on a program records the LM calls below it, though the program itself gets no span."""
    program = Program()
    program.callbacks = [LMCallback(), AdapterCallback()]
    with dspy.context(lm=answering(), callbacks=[]):
        program(question="why?")
        Program()(question="unseen")
    assert [span.name for span in dspy_traces.spans()] == ["ChatAdapter.format", "dummy", "ChatAdapter.parse"]


def test_other_callbacks_hear_what_they_always_hear(dspy_traces):
    """A callback that is not of this package gets the same events below a program that has one of ours."""

    class Hearing(BaseCallback):
        def __init__(self):
            self.heard = []

        def on_module_start(self, call_id, instance, inputs):
            self.heard.append(type(instance).__name__)

    plain, traced = Hearing(), Hearing()
    program = Program()
    with dspy.context(lm=answering(), callbacks=[plain]):
        program(question="why?")
    program.callbacks = [MlflowCallback()]
    with dspy.context(lm=answering(), callbacks=[traced]):
        program(question="why?")
    assert traced.heard == plain.heard == ["Program", "ChainOfThought", "Predict"]


def test_a_callback_on_an_lm_stands_for_that_lm(dspy_traces):
    """A callback on an LM records its calls, nested in the trace of the global one."""
    lm = answering()
    lm.callbacks = [MlflowCallback(middleware=[noted("lm")])]
    with dspy.context(lm=lm, callbacks=[MlflowCallback(middleware=[noted("global")])]):
        Program()(question="why?")
    assert dspy_traces.tree() == [program_tree()]
    assert [span.name for span in dspy_traces.spans() if span.get_attribute("governor") == "lm"] == ["dummy"]


def test_a_callback_switched_off_in_mid_call_closes_its_spans(dspy_traces):
    """A program that takes the callback out of the settings while it runs leaves nothing open (fault 6)."""
    callback = MlflowCallback()

    class Leaving(dspy.Module):
        def forward(self):
            dspy.configure(callbacks=[])

    dspy.configure(callbacks=[callback])
    Leaving()()
    assert callback.stats().open == 0
    dspy.configure(lm=answering(), callbacks=[callback])
    Program()(question="why?")
    assert [trace.info.tags["mlflow.traceName"] for trace in dspy_traces.all()] == ["Leaving", "Program"]


def test_configured_from_any_thread(dspy_traces):
    """A callback works in `dspy.context` of a thread that may not call `dspy.configure` (fault 11)."""
    dspy.configure(lm=answering())

    def work():
        with dspy.context(callbacks=[MlflowCallback()]):
            Program()(question="why?")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert dspy_traces.tree() == [program_tree()]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_has_the_settings_and_counts_of_its_own(dspy_traces, duplicate):
    """Copying and pickling take the middleware along and leave counts, spans and locks behind."""
    callback = MlflowCallback(middleware=[RatioSampler(1.0), TagInjector({"team": "search"})])
    with dspy.context(lm=answering(), callbacks=[callback]):
        Program()(question="why?")
    double = duplicate(callback)
    assert repr(double) == repr(callback)
    assert (double.stats().started, callback.stats().started) == (0, 6)


def test_a_callback_can_be_pickled_inside_a_traced_call(dspy_traces):
    """`cloudpickle` of the settings inside a call works and gives a callback that traces."""
    doubles = []

    class Pickling(dspy.Module):
        def forward(self):
            doubles.extend(cloudpickle.loads(cloudpickle.dumps(dspy.settings.callbacks)))

    Pickling()()
    with dspy.context(lm=answering(), callbacks=doubles):
        Program()(question="why?")
    assert [trace.info.tags["mlflow.traceName"] for trace in dspy_traces.all()] == ["Pickling", "Program"]


@pytest.mark.engine("auto")  # no variable is set
def test_a_callback_prints_its_settings():
    """The repr names the class and its middleware."""
    assert repr(LMCallback(middleware=[RatioSampler(0.5)])) == "LMCallback(middleware=[RatioSampler(ratio=0.5)])"


@pytest.mark.parametrize("cls", [*SINGLE, MlflowCallback])
def test_wrong_middleware_is_refused_at_construction(cls):
    """Each class raises TypeError that names the argument, the value and what is allowed."""
    with pytest.raises(TypeError, match=r"middleware\[0\] must be a callable CallStart -> CallStart \| None, got 'no'"):
        cls(middleware=["no"])


def test_counts(dspy_traces):
    """`stats` counts spans opened and closed, and calls dropped with all below them."""
    callback = MlflowCallback(middleware=[lambda call: None if not call.is_root else call])
    with dspy.context(lm=answering(), callbacks=[callback]):
        Program()(question="why?")
    stats = callback.stats()
    assert (stats.started, stats.ended, stats.dropped, stats.failed, stats.open) == (1, 1, 1, 0, 0)
