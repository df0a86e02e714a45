"""Callbacks in several places: who records which call, and that no call is recorded twice.

docs/overrides.md is the table of `PLACES` in words.
"""

from __future__ import annotations

import asyncio
import fnmatch
from collections import Counter
from contextlib import contextmanager
from typing import Any

import attrs
import dspy
import mlflow
import pydantic
import pytest
from expected import example, failed, ok
from heard import Heard
from offline_lm import OfflineLM
from programs import Program, predict_tree, program_tree

from dspy_mlflow_callbacks import (
    AdapterCallback,
    LMCallback,
    MlflowCallback,
    ModuleCallback,
    RatioSampler,
    ToolCallback,
    attach,
    suppress_tracing,
)
from dspy_mlflow_callbacks.testing.captured import tree

pytestmark = pytest.mark.usefixtures("nothing_left")

NOBODY = RatioSampler(0)  # samples every trace out


def made(name, cls=MlflowCallback, middleware=(), **options):
    """Return a callback that writes its name on each span that it records."""

    def sign(call):
        return attrs.evolve(call, attributes={"recorded_by": name})

    return cls(middleware=[*middleware, sign], **options)


def drop(call):
    """Drop every call: a middleware."""


class Tool(dspy.Tool):
    """A tool that a callback can stand on: `dspy.Tool` takes no attributes but its fields."""

    callbacks: list[Any] = pydantic.Field(default_factory=list)


class Middle(dspy.Module):
    """Calls a module through a tool, then another one."""

    def __init__(self):
        super().__init__()
        self.asked = dspy.Predict("question -> answer")
        self.inner = dspy.Predict("question -> answer")
        self.ask = Tool(self._ask, name="ask")
        self.ask_async = Tool(self._ask_async, name="ask")

    def _ask(self, question: str) -> str:
        return self.asked(question=question).answer

    async def _ask_async(self, question: str) -> str:
        return (await self.asked.acall(question=question)).answer

    def forward(self, question):
        self.ask(question=question)
        return self.inner(question=question)

    async def aforward(self, question):
        await self.ask_async.acall(question=question)
        return await self.inner.acall(question=question)


class Outer(dspy.Module):
    """Calls a module that calls modules, then a plain one: one after the other, or both in DSPy's threads."""

    def __init__(self, threads=0):
        super().__init__()
        self.threads = threads
        self.middle = Middle()
        self.other = dspy.Predict("question -> answer")

    def forward(self, question):
        calls = [(self.middle, {"question": question}), (self.other, {"question": question})]
        if self.threads:
            return dspy.Parallel(num_threads=self.threads, disable_progress_bar=True)(calls)[-1]
        return [program(**inputs) for program, inputs in calls][-1]

    async def aforward(self, question):
        await self.middle.acall(question=question)
        return await self.other.acall(question=question)


class Setting:
    """A program with all that a callback can stand on, and what DSPy tells of its call."""

    def __init__(self, threads=0):
        self.heard = Heard()
        self.outer = Outer(threads)
        self.middle, self.inner = self.outer.middle, self.outer.middle.inner
        self.other, self.asked = self.outer.other, self.middle.asked
        self.tools = (self.middle.ask, self.middle.ask_async)
        self.lm, self.adapter = OfflineLM(), dspy.ChatAdapter()

    def label(self, call_id):
        """Return where a call stands among the calls, such as `outer/middle/tool/asked/lm`."""
        kind, instance, parent_id = self.heard.starts[call_id]
        named = {id(getattr(self, name)): name for name in ("outer", "middle", "inner", "other", "asked")}
        own = named.get(id(instance), kind.value.removeprefix("adapter_"))
        return own if parent_id is None else f"{self.label(parent_id)}/{own}"


WAYS = {
    "sync": (0, lambda program: program(question="why?")),
    "threads": (2, lambda program: program(question="why?")),
    "async": (0, lambda program: asyncio.run(program.acall(question="why?"))),
}


def put(callbacks, *places):
    for place in places:
        place.callbacks = list(callbacks)
    return []


def everywhere(setting):
    callback = made("a")
    put([callback], setting.outer, setting.middle, setting.inner, setting.lm, setting.adapter, *setting.tools)
    return [callback, callback]


def global_and_program(setting):
    callback = made("a")
    return put([callback], setting.middle) or [callback]


def on_parent_and_child(setting):
    return put([made("a")], setting.outer, setting.middle)


def nested(setting):
    for name in ("outer", "middle", "inner"):
        attach(getattr(setting, name), made(name))
    return []


def beside(*callbacks):
    """Return a row: these callbacks on the middle program, and a global one."""
    return lambda setting: put(callbacks, setting.middle) or [made("global")]


def sampled_out(*callbacks, cls=MlflowCallback, on="middle"):
    """Return a row: these callbacks on one program, and a global one that samples everything out."""
    return lambda setting: put(callbacks, getattr(setting, on)) or [made("global", cls, [NOBODY])]


def left_out_around(setting, outer, middle):
    attach(setting.middle, middle)
    attach(setting.inner, made("inner"))
    return [outer] if outer else []


# Where callbacks stand → who records which calls (the last pattern that fits says so, None is nobody), and in how many
# traces.
PLACES = {
    "one globally": (lambda setting: [made("a")], {"*": "a"}, 1),
    "two globally": (lambda setting: [made("a"), made("b")], {"*": "a"}, 1),
    "one in every place": (everywhere, {"*": "a"}, 1),
    "one globally and on a program": (global_and_program, {"*": "a"}, 1),
    "one on two programs": (
        lambda setting: put([made("a")], setting.middle, setting.other),
        {"*": None, "outer/middle*": "a", "outer/other*": "a"},
        2,
    ),
    "one on a program and its LM": (lambda setting: put([made("a")], setting.outer, setting.lm), {"*": "a"}, 1),
    "one on a program and a program inside it": (on_parent_and_child, {"*": "a"}, 1),
    "one on a program": (
        lambda setting: put([made("a")], setting.middle),
        {"*": None, "outer/middle*": "a"},
        1,
    ),
    "one on a program beside a global one": (beside(made("a")), {"*": "global", "outer/middle*": "a"}, 1),
    "two on a program": (beside(made("a"), made("b")), {"*": "global", "outer/middle*": "a"}, 1),
    "two on a program, the first switched off": (
        beside(made("a", enabled=False), made("b")),
        {"*": "global", "outer/middle*": "b"},
        1,
    ),
    "three programs inside each other": (
        nested,
        {"*": "outer", "outer/middle*": "middle", "outer/middle/inner*": "inner"},
        1,
    ),
    "three programs inside each other beside a global one": (
        lambda setting: nested(setting) or [made("global")],
        {"*": "outer", "outer/middle*": "middle", "outer/middle/inner*": "inner"},
        1,
    ),
    "one on an LM": (lambda setting: put([made("a")], setting.lm), {"*": None, "*/lm": "a"}, 3),
    "one on an LM beside a global one": (
        lambda setting: put([made("a")], setting.lm) or [made("global")],
        {"*": "global", "*/lm": "a"},
        1,
    ),
    "one on an adapter": (
        lambda setting: put([made("a")], setting.adapter),
        {"*": None, "*/format": "a", "*/parse": "a"},
        6,
    ),
    "one on an adapter beside a global one": (
        lambda setting: put([made("a")], setting.adapter) or [made("global")],
        {"*": "global", "*/format": "a", "*/parse": "a"},
        1,
    ),
    "one on a tool": (lambda setting: put([made("a")], *setting.tools), {"*": None, "*/tool*": "a"}, 1),
    "one on a tool beside a global one": (
        lambda setting: put([made("a")], *setting.tools) or [made("global")],
        {"*": "global", "*/tool*": "a"},
        1,
    ),
    "one of one kind on a program": (
        lambda setting: put([made("a", LMCallback)], setting.middle),
        {"*": None, "outer/middle/*lm": "a"},
        2,
    ),
    "one of one kind on a program beside a global one": (
        beside(made("a", LMCallback)),
        {"*": "global", "outer/middle*": None, "outer/middle/*lm": "a"},
        1,
    ),
    "one of one kind on a program beside one of another kind": (
        lambda setting: put([made("a", LMCallback)], setting.middle) or [made("global", ModuleCallback)],
        {"*": None, "outer": "global", "outer/other": "global", "outer/middle/*lm": "a"},
        1,
    ),
    "several kinds on a program": (
        beside(made("a", LMCallback), made("b", ModuleCallback), made("c", ToolCallback)),
        {
            "*": "global",
            "outer/middle*": "b",
            "outer/middle/*lm": "a",
            "outer/middle/tool": "c",
            "outer/middle/*format": None,
            "outer/middle/*parse": None,
        },
        1,
    ),
    "one of one kind on a tool": (
        lambda setting: put([made("a", AdapterCallback)], *setting.tools) or [made("global")],
        {"*": "global", "*/tool*": None, "*/tool/*format": "a", "*/tool/*parse": "a"},
        1,
    ),
    "one that is switched off, on a program": (
        beside(made("a", enabled=False)),
        {"*": "global", "outer/middle*": None},
        1,
    ),
    "one inside a program that is switched off": (
        lambda setting: left_out_around(setting, made("global"), made("middle", enabled=False)),
        {"*": "global", "outer/middle*": None, "outer/middle/inner*": "inner"},
        1,
    ),
    "one in a trace that is sampled out": (sampled_out(made("a")), {"*": None, "outer/middle*": "a"}, 1),
    "one of one kind in a trace that is sampled out": (
        sampled_out(made("a", LMCallback)),
        {"*": None, "outer/middle/*lm": "a"},
        2,
    ),
    "one for some kinds in a trace that is sampled out": (
        sampled_out(made("a", events=["lm"])),
        {"*": None, "outer/middle/*lm": "a"},
        2,
    ),
    "two of one kind each in a trace that is sampled out": (
        sampled_out(made("a", LMCallback), made("b", ModuleCallback)),
        {"*": None, "outer/middle": "b", "*/asked": "b", "*/inner": "b", "outer/middle/*lm": "a"},
        1,
    ),
    "one below a call of a kind that the global one that samples out is not for": (
        sampled_out(made("a"), cls=ModuleCallback, on="asked"),
        {"*": None, "*/asked*": "a"},
        1,
    ),
    "one switched off in a trace that is sampled out, with one inside": (
        lambda setting: left_out_around(setting, made("global", middleware=[NOBODY]), made("middle", enabled=False)),
        {"*": None, "outer/middle/inner*": "inner"},
        1,
    ),
    "one that samples out, in a trace that is kept": (
        beside(made("a", sampling_ratio=0)),
        {"*": "global", "outer/middle*": "a"},
        1,
    ),
    "one that drops, in a trace that is kept": (
        beside(made("a", middleware=[drop])),
        {"*": "global", "outer/middle*": None},
        1,
    ),
    "one inside a program whose own drops": (
        lambda setting: left_out_around(setting, made("global"), made("middle", middleware=[drop])),
        {"*": "global", "outer/middle*": None, "outer/middle/inner*": "inner"},
        1,
    ),
    "one inside a program whose own samples out": (
        lambda setting: left_out_around(setting, None, made("middle", sampling_ratio=0)),
        {"*": None, "outer/middle/inner*": "inner"},
        1,
    ),
    "one that samples out, globally and on a program": (
        lambda setting: [(callback := made("a", middleware=[NOBODY])), *put([callback], setting.middle)],
        {"*": None},
        0,
    ),
}


def expected(rules, label):
    return [who for pattern, who in rules.items() if fnmatch.fnmatchcase(label, pattern)][-1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("places", PLACES)
def test_a_call_is_recorded_once_by_whom_it_belongs_to(dspy_traces, places, way):
    """Wherever callbacks stand, each call that DSPy emits has one span, of the callback that governs it, or none."""
    (place, rules, traces), (threads, run) = PLACES[places], WAYS[way]
    setting = Setting(threads)
    callbacks = place(setting)
    with dspy.context(lm=setting.lm, adapter=setting.adapter, callbacks=[*callbacks, setting.heard]):
        run(setting.outer)
    recorded = [
        (setting.label(span.get_attribute("dspy.call_id")), span.get_attribute("recorded_by"))
        for span in dspy_traces.spans()
    ]
    labels = map(setting.label, setting.heard.starts)
    assert Counter(recorded) == Counter((label, who) for label in labels if (who := expected(rules, label)))
    assert len(dspy_traces.all()) == traces


class Noting(dspy.Module):
    """Calls a program, with the user's own spans around and inside."""

    def __init__(self, held):
        super().__init__()
        self.held = held

    def forward(self, question):
        with mlflow.start_span("around"):
            return self.held(question=question)


def of_one_trace(traces, name):
    """Return the names of the spans below the span of this name."""
    by_id = {span.span_id: span for span in traces.one().data.spans}

    def names_above(span):
        above = by_id.get(span.parent_id)
        return [] if above is None else [above.name, *names_above(above)]

    return [span.name for span in by_id.values() if name in names_above(span)]


def test_a_program_in_a_trace_that_is_dropped_is_a_trace_of_its_own_below_a_users_span_too(dspy_traces):
    """Where a user's own span stands between a dropped call and a program with a callback, the program is recorded."""
    program = attach(Program(), MlflowCallback())
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback(middleware=[drop])]):
        Noting(program)(question="why?")
    assert dspy_traces.tree() == [program_tree()]


def test_what_runs_after_a_program_is_dropped_as_before(dspy_traces):
    """After a program that is recorded inside a dropped trace, calls and the user's own spans are dropped again."""

    class Two(dspy.Module):
        def __init__(self):
            super().__init__()
            self.traced, self.other = attach(Program(), MlflowCallback()), Program()

        def forward(self, question):
            self.traced(question=question)
            with mlflow.start_span("after"):
                return self.other(question=question)

    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback(sampling_ratio=0)]):
        Two()(question="why?")
    assert dspy_traces.tree() == [program_tree()]


@pytest.mark.parametrize(
    "own", [MlflowCallback(events=["lm"]), LMCallback(), MlflowCallback(level="info", exclude=["Noting*predict"])]
)
def test_a_users_span_below_a_program_in_a_dropped_trace_is_recorded(dspy_traces, own):
    """Below a program that is recorded inside a dropped trace the user's own spans are recorded."""
    program = attach(Noting(Program()), own)
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback(sampling_ratio=0)]):
        Noting(program)(question="why?")
    assert [span.name for span in dspy_traces.spans()].count("around") == 1


def test_a_program_inside_what_is_dropped_keeps_its_path(dspy_traces):
    """A program that is recorded inside a program whose callback drops it stands in the trace around, with its path."""
    outer = Outer()
    attach(outer.middle, MlflowCallback(middleware=[drop]))
    attach(outer.middle.inner, MlflowCallback())
    with dspy.context(lm=OfflineLM()):
        outer(question="why?")
    ((_, _, _, (inner, other)),) = dspy_traces.tree()
    assert [inner, other] == [predict_tree("Outer.middle.inner", "dummy"), predict_tree("Outer.other", "dummy")]


def test_a_program_that_is_switched_off_leaves_the_users_spans(dspy_traces):
    """`enabled=False` on a program leaves out its calls; the user's own spans inside stay in the trace."""
    program = attach(Noting(Program()), MlflowCallback(enabled=False))
    with dspy.context(lm=OfflineLM()):
        Noting(program)(question="why?")
    assert dspy_traces.tree() == [ok("Noting", "CHAIN", ok("around", "UNKNOWN", ok("around", "UNKNOWN")))]


def test_tags_of_a_programs_callback_go_to_the_trace(dspy_traces):
    """Tags, session and user of a program's callback are the trace's, also where another callback began it."""
    outer = Outer()
    attach(outer.middle, MlflowCallback(tags={"team": "search"}, session_id="session 1", user="ada"))
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback(tags={"stage": "test"})]):
        outer(question="why?")
    info = dspy_traces.one().info
    assert (info.tags["team"], info.tags["stage"]) == ("search", "test")
    assert info.trace_metadata["mlflow.trace.session"] == "session 1"
    assert info.trace_metadata["mlflow.trace.user"] == "ada"


def test_one_trace_is_in_one_experiment(dspy_traces):
    """A program's `experiment` is for the traces that begin with it; inside another's trace it is passed over."""
    outer = Outer()
    attach(outer.middle, MlflowCallback(experiment="another"))
    with dspy.context(lm=OfflineLM()):
        outer(question="why?")
        outer.middle(question="why?")
    (whole,) = dspy_traces.all()
    another = mlflow.get_experiment_by_name("another").experiment_id
    (own,) = mlflow.search_traces(locations=[another], return_type="list")
    assert [len(trace.data.spans) for trace in (whole, own)] == [15, 10]


def test_other_options_are_the_subtrees(dspy_traces):
    """`capture_outputs`, `capture_inputs` and `level` of a program's callback hold for its subtree and nothing else."""
    outer = Outer()
    attach(outer.middle, MlflowCallback(capture_inputs=False, capture_outputs=False, level="info"))
    with dspy.context(lm=OfflineLM()):
        outer(question="why?")
    inside = of_one_trace(dspy_traces, "Outer.middle")
    assert sorted(inside) == ["Outer.middle.asked", "Outer.middle.inner", "ask", "dummy", "dummy"]
    spans = {span.name: span for span in dspy_traces.spans()}
    kept = {name for name, span in spans.items() if span.inputs is not None and span.outputs is not None}
    parts = {"Outer", "Outer.middle", "Outer.middle.asked", "Outer.middle.inner", "Outer.other", "ask"}
    assert kept & parts == {"Outer", "Outer.other"}


class Fails(dspy.Module):
    """Raises what it is given, from inside a module."""

    def __init__(self, error):
        super().__init__()
        self.error = error
        self.predict = dspy.Predict("question -> answer")

    def forward(self, question):
        self.predict(question=question)
        raise self.error

    async def aforward(self, question):
        await self.predict.acall(question=question)
        raise self.error


class Holds(dspy.Module):
    """Calls a program."""

    def __init__(self, held):
        super().__init__()
        self.held = held

    def forward(self, question):
        return self.held(question=question)

    async def aforward(self, question):
        return await self.held.acall(question=question)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt("stop"), asyncio.CancelledError("cancelled")])
@pytest.mark.parametrize("callbacks", [[], [MlflowCallback(middleware=[drop])]], ids=["alone", "in a dropped trace"])
def test_a_program_that_raises_ends_as_an_error(dspy_traces, callbacks, error, is_async):
    """A program with a callback that raises is a failed trace, and after it all is as it was before."""
    program = Holds(attach(Fails(error), MlflowCallback()))
    with dspy.context(lm=OfflineLM(), callbacks=callbacks):
        with pytest.raises(type(error)):
            asyncio.run(program.acall(question="why?")) if is_async else program(question="why?")
        Program()(question="not recorded")
    assert dspy_traces.tree() == [failed("Fails", "CHAIN", predict_tree("Fails.predict"))]


def test_an_evaluation_with_a_callback_is_recorded_whole(dspy_traces):
    """A callback on `dspy.Evaluate` governs what the evaluation runs, in DSPy's threads."""
    devset = [dspy.Example(question=f"question {index}").with_inputs("question") for index in range(4)]
    evaluation = dspy.Evaluate(
        devset=devset,
        metric=lambda example, prediction, trace=None: True,
        num_threads=2,
        display_progress=False,
    )
    evaluation.callbacks = [MlflowCallback()]
    with dspy.context(lm=OfflineLM(), callbacks=[]):
        evaluation(Program())
    assert [tree(trace) for trace in dspy_traces.all()] == [
        [ok("Evaluate", "EVALUATOR")],
        *[[example(program_tree())]] * 4,
    ]


def test_a_compile_with_a_callback_is_recorded_whole(dspy_traces):
    """A callback on an optimizer governs what `compile` runs."""
    trainset = [dspy.Example(question="why?", answer="some answer").with_inputs("question")]
    optimizer = dspy.BootstrapFewShot(metric=lambda example, prediction, trace=None: True, max_bootstrapped_demos=1)
    optimizer.callbacks = [MlflowCallback(compile="full")]
    with dspy.context(lm=OfflineLM(), callbacks=[]):
        optimizer.compile(dspy.Predict("question -> answer"), trainset=trainset)
    assert dspy_traces.tree() == [ok("BootstrapFewShot", "WORKFLOW", ok("LabeledFewShot", "WORKFLOW"), predict_tree())]


@contextmanager
def unsampled_parent():
    traceparent = f"00-{'1' * 32}-{'2' * 16}-00"
    with mlflow.tracing.set_tracing_context_from_http_request_headers({"traceparent": traceparent}):
        yield


@contextmanager
def mlflow_disabled():
    mlflow.tracing.disable()
    try:
        yield
    finally:
        mlflow.tracing.enable()


@pytest.mark.parametrize("scope", [suppress_tracing, unsampled_parent, mlflow_disabled])
@pytest.mark.parametrize("callbacks", [[], [MlflowCallback()], [MlflowCallback(sampling_ratio=0)]])
def test_what_holds_for_all_callbacks_holds_for_a_programs_own(dspy_traces, callbacks, scope):
    """Where a scope, a remote parent or MLflow itself says that nothing is recorded, no program's callback records."""
    program = Holds(attach(Program(), MlflowCallback()))
    with dspy.context(lm=OfflineLM(), callbacks=callbacks), scope():
        program(question="why?")
    assert dspy_traces.all() == []


def test_mlflows_own_sampling_holds_for_a_programs_own_callback(dspy_traces, monkeypatch):
    """A trace that MLflow's own sampling leaves out has no program recorded inside."""
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0")
    mlflow.tracing.reset()
    with dspy.context(lm=OfflineLM()):
        Holds(attach(Program(), MlflowCallback()))(question="why?")
    assert dspy_traces.all() == []


@pytest.mark.warns
@pytest.mark.parametrize("cls", [MlflowCallback, LMCallback])
def test_a_program_runs_where_its_callback_cannot_record(dspy_traces, warned, monkeypatch, cls):
    """A program's callback whose tracing fails costs its spans: the program runs, and one warning says why."""
    callback = cls()
    program = Holds(attach(Program(), callback))
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "nonsense")
    with dspy.context(lm=OfflineLM(), callbacks=[Heard()]):
        assert program(question="why?").answer == "some answer"
    monkeypatch.delenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER")
    (message,) = warned.messages
    assert "MLFLOW_USE_DEFAULT_TRACER_PROVIDER" in message
    assert callback.stats().failed > 0
    assert dspy_traces.all() == []
