"""Filters: kinds of call, names and levels that get spans, and the traces that are left."""

from __future__ import annotations

import copy
import pickle

import attrs
import cloudpickle
import dspy
import pytest
from expected import FORMAT, LM, PARSE, bare, chain_of_thought, ok, ordered
from offline_lm import OfflineLM
from programs import Program, answering, predict_tree, program_tree, tool_call
from test_middleware import made_call

from dspy_mlflow_callbacks import CallKind, KindFilter, LevelFilter, MlflowCallback, NameFilter
from dspy_mlflow_callbacks.testing.captured import tree

pytestmark = pytest.mark.usefixtures("nothing_open")


def run(program, call=lambda program: program(question="why?"), **options):
    """Run *program* with a callback of these options and return the callback."""
    callback = MlflowCallback(**options)
    with dspy.context(lm=OfflineLM(), callbacks=[callback]):
        call(program)
    return callback


def fate(kept):
    """Say what became of a call."""
    return "dropped" if kept is None else "hidden" if kept.is_hidden else "kept"


def fates(step, *names):
    """Return what becomes of nested calls of these names, the outermost first."""
    said, parent = [], None
    for name in names:
        kept = step(made_call(name=name, parent=parent))
        said.append(fate(kept))
        if kept is None:
            break  # nothing below it gets here
        parent = kept
    return said


KINDS = {
    "nothing said": (KindFilter(), {"module": "kept", "lm": "kept", "evaluate": "kept"}),
    "include": (KindFilter(["lm"]), {"module": "hidden", "lm": "kept", "adapter_parse": "hidden"}),
    "include of evaluations": (KindFilter(["evaluate"]), {"evaluate": "kept", "example": "kept", "lm": "hidden"}),
    "exclude of evaluations": (KindFilter(exclude=["evaluate"]), {"evaluate": "dropped", "example": "dropped"}),
    "include of none": (KindFilter([]), {"module": "hidden", "lm": "hidden"}),
    "include of a member": (KindFilter([CallKind.TOOL]), {"tool": "kept", "lm": "hidden"}),
    "adapter": (KindFilter(["adapter"]), {"adapter_format": "kept", "adapter_parse": "kept", "lm": "hidden"}),
    "interpreter": (
        KindFilter(["interpreter"]),
        {
            "interpreter_execute": "kept",
            "interpreter_tool_call": "kept",
            "interpreter_startup": "kept",
            "interpreter_shutdown": "kept",
            "tool": "hidden",
        },
    ),
    "exclude": (KindFilter(exclude=["tool"]), {"tool": "dropped", "lm": "kept"}),
    "exclude of what is included": (KindFilter(["lm", "tool"], ["tool"]), {"tool": "dropped", "lm": "kept"}),
}


@pytest.mark.parametrize(("step", "expected"), KINDS.values(), ids=KINDS)
def test_a_kind_filter_hides_and_drops(step, expected):
    """Kinds that are not included are hidden, those that are excluded dropped."""
    assert {kind: fate(step(made_call(kind=CallKind(kind)))) for kind in expected} == expected


NAMES = {
    "nothing said": (NameFilter(), ["P", "P.a"], ["kept", "kept"]),
    "an included root": (NameFilter(["P"]), ["P", "P.a", "lm"], ["kept", "kept", "kept"]),
    "an included part": (NameFilter(["P.a"]), ["P", "P.a", "lm"], ["hidden", "kept", "kept"]),
    "a glob": (NameFilter(["*.a"]), ["P", "P.a", "P.a.b"], ["hidden", "kept", "kept"]),
    "several globs": (NameFilter(["x", "P.?"]), ["P", "P.a"], ["hidden", "kept"]),
    "nothing that is included": (NameFilter(["x"]), ["P", "P.a"], ["hidden", "hidden"]),
    "case counts": (NameFilter(["p"]), ["P"], ["hidden"]),
    "a glob is for the whole name": (NameFilter(["P"]), ["Pa"], ["hidden"]),
    "brackets": (NameFilter(["P.steps[0]"]), ["P", "P.steps[0]"], ["hidden", "kept"]),
    "a glob behind brackets": (NameFilter(["P.steps[0].*"]), ["P.steps[1].a", "P.steps[0].a"], ["hidden", "kept"]),
    "a range of characters": (NameFilter(["P.[ab]"]), ["P", "P.b"], ["hidden", "kept"]),
    "an excluded root": (NameFilter(exclude=["P"]), ["P"], ["dropped"]),
    "an excluded part": (NameFilter(exclude=["*.a"]), ["P", "P.a"], ["kept", "dropped"]),
    "an excluded part of an included one": (NameFilter(["P"], ["P.a"]), ["P", "P.a"], ["kept", "dropped"]),
    "included and excluded": (NameFilter(["P"], ["P"]), ["P"], ["dropped"]),
}


@pytest.mark.parametrize(("step", "names", "expected"), NAMES.values(), ids=NAMES)
def test_a_name_filter_hides_and_drops(step, names, expected):
    """A call that is included is kept with what is below it, others are hidden; what is excluded is dropped."""
    assert fates(step, *names) == expected


def test_an_included_call_counts_although_it_is_hidden():
    """What is below an included call is kept also where another filter has hidden that call."""
    outer = made_call(name="P", is_hidden=True)
    included = made_call(name="P.a", parent=outer, is_hidden=True)
    below, beside = made_call(name="lm", parent=included), made_call(name="lm", parent=outer)
    assert [fate(NameFilter(["P.a"])(call)) for call in (below, beside)] == ["kept", "hidden"]


LEVELS = {
    "debug": (LevelFilter("debug"), {"adapter_format": "kept", "interpreter_startup": "kept", "module": "kept"}),
    "info": (
        LevelFilter("info"),
        {
            "adapter_format": "hidden",
            "adapter_parse": "hidden",
            "interpreter_startup": "hidden",
            "interpreter_shutdown": "hidden",
            "interpreter_execute": "kept",
            "interpreter_tool_call": "kept",
            "module": "kept",
            "lm": "kept",
            "tool": "kept",
            "evaluate": "kept",
            "compile": "kept",
        },
    ),
    "upper case": (LevelFilter("INFO"), {"adapter_parse": "hidden", "lm": "kept"}),
    "warning": (LevelFilter("warning"), {"module": "hidden", "lm": "hidden"}),
}


@pytest.mark.parametrize(("step", "expected"), LEVELS.values(), ids=LEVELS)
def test_a_level_filter_hides_what_is_below(step, expected):
    """Adapters, and start and end of interpreters, are of level debug, all others of info."""
    assert {kind: fate(step(made_call(kind=CallKind(kind)))) for kind in expected} == expected


@pytest.mark.parametrize(
    ("level", "expected"), [(None, "hidden"), ("INFO", "hidden"), ("WARNING", "kept"), ("CRITICAL", "kept")]
)
def test_a_level_that_a_middleware_chose_counts(level, expected):
    """A level filter goes by the level that a middleware before it gave to the call."""
    assert fate(LevelFilter("warning")(made_call(level=level))) == expected


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.deepcopy,
        lambda each: pickle.loads(pickle.dumps(each)),
        lambda each: cloudpickle.loads(cloudpickle.dumps(each)),
    ],
    ids=["deepcopy", "pickle", "cloudpickle"],
)
@pytest.mark.parametrize(
    "step", [KindFilter(["lm"], ["tool"]), NameFilter(["a*"], ["b"]), LevelFilter("info")], ids=repr
)
def test_a_copy_of_a_filter_is_equal(step, duplicate):
    """A filter can be copied and pickled; the copy is equal to it."""
    assert duplicate(step) == step


def test_filters_print_what_they_say():
    """The repr of a filter says its settings, without what is at its default."""
    said = [repr(KindFilter(exclude=["lm"])), repr(NameFilter(["a*"])), repr(LevelFilter("INFO"))]
    assert said == [
        "KindFilter(exclude=frozenset({<CallKind.LM: 'lm'>}))",
        "NameFilter(include=('a*',))",
        "LevelFilter(level='info')",
    ]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: KindFilter("lm"), TypeError, "kinds must be an iterable of module, lm, .*, got 'lm'"),
        (lambda: KindFilter(7), TypeError, "kinds must be an iterable of module, lm, .*, got 7"),
        (lambda: KindFilter(["llm"]), ValueError, "'llm' is no kind of call; allowed are module, lm, .*, interpreter"),
        (lambda: KindFilter(exclude=[7]), ValueError, "7 is no kind of call; allowed are module, lm"),
        (lambda: KindFilter([["lm"]]), ValueError, r"\['lm'\] is no kind of call; allowed are module, lm"),
        (lambda: NameFilter("P"), TypeError, r"names must be an iterable of globs such as 'Program.\*', got 'P'"),
        (lambda: NameFilter(exclude=7), TypeError, r"names must be an iterable of globs such as 'Program.\*', got 7"),
        (lambda: NameFilter([7]), TypeError, r"a glob must be a text such as 'Program.\*', got 7"),
        (lambda: NameFilter([""]), TypeError, r"a glob must be a text such as 'Program.\*', got ''"),
        (lambda: LevelFilter("loud"), ValueError, "level must be one of debug, info, .*, critical, got 'loud'"),
        (lambda: LevelFilter(20), ValueError, "level must be one of debug, info, .*, critical, got 20"),
    ],
)
def test_a_wrong_filter_is_refused(make, error, message):
    """A wrong setting raises at construction and says what was given and what is allowed."""
    with pytest.raises(error, match=message):
        make()


PROGRAMS = {
    "events of modules": (
        {"events": ["module"]},
        [[bare("Program", bare("Program.generate", bare("Program.generate.predict")))]],
    ),
    "events of LMs": ({"events": ["lm"]}, [[LM]]),
    "events of adapters": ({"events": ["adapter"]}, [[FORMAT], [PARSE]]),
    "events of modules and LMs": (
        {"events": ["module", "lm"]},
        [[bare("Program", bare("Program.generate", bare("Program.generate.predict", LM)))]],
    ),
    "events of nothing": ({"events": []}, []),
    "level info": (
        {"level": "info"},
        [[bare("Program", bare("Program.generate", bare("Program.generate.predict", LM)))]],
    ),
    "level warning": ({"level": "warning"}, []),
    "include of a part": ({"include": ["*.generate"]}, [[chain_of_thought("Program.generate")]]),
    "include of the root": ({"include": ["Program"]}, [[program_tree()]]),
    "include of the LM": ({"include": ["dummy"]}, [[LM]]),
    "exclude of a part": ({"exclude": ["*.predict"]}, [[bare("Program", bare("Program.generate"))]]),
    "exclude of the root": ({"exclude": ["Program"]}, []),
    "exclude of the LM": (
        {"exclude": ["dummy"]},
        [[bare("Program", bare("Program.generate", bare("Program.generate.predict", FORMAT, PARSE)))]],
    ),
    "include and exclude": (
        {"include": ["*.predict"], "exclude": ["*.parse"]},
        [[bare("Program.generate.predict", FORMAT, LM)]],
    ),
    "include and events": ({"include": ["*.predict"], "events": ["lm"]}, [[LM]]),
    "include and level": ({"include": ["*.predict"], "level": "info"}, [[bare("Program.generate.predict", LM)]]),
}


@pytest.mark.parametrize(("options", "expected"), PROGRAMS.values(), ids=PROGRAMS)
def test_what_options_leave_of_a_program(dspy_traces, options, expected):
    """Calls that get no span leave no gap: what they run nests where their span would have stood."""
    run(Program(), **options)
    assert [tree(trace) for trace in dspy_traces.all()] == expected


def test_options_and_middleware_filter_alike(dspy_traces):
    """A filter given as middleware does what the option of its name does."""
    steps = [KindFilter(["module", "lm"]), NameFilter(["*.generate"]), LevelFilter("info")]
    run(Program(), middleware=steps)
    run(Program(), events=["module", "lm"], include=["*.generate"], level="info")
    expected = [bare("Program.generate", bare("Program.generate.predict", LM))]
    assert [tree(trace) for trace in dspy_traces.all()] == [expected] * 2


def test_the_name_that_a_middleware_chose_is_filtered_behind_it(dspy_traces):
    """A name filter behind a middleware that renames calls goes by the new names."""
    rename = lambda call: attrs.evolve(call, name="mine") if call.kind is CallKind.LM else call
    run(Program(), middleware=[rename, NameFilter(["mine"])])
    assert dspy_traces.tree() == [ok("mine", "CHAT_MODEL")]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def thought(*below):
    return bare("ReAct.react", *below)


ADD, FINISH = ok("add", "TOOL"), ok("finish", "TOOL")
AGENTS = {
    "events of tools": ({"events": ["tool"]}, [[ADD], [FINISH]]),
    "events of tools and LMs": ({"events": ["tool", "lm"]}, [[LM], [ADD], [LM], [FINISH], [LM]]),
    "level info": (
        {"level": "info"},
        [
            [
                ok(
                    "ReAct",
                    "AGENT",
                    thought(LM),
                    ADD,
                    thought(LM),
                    FINISH,
                    bare("ReAct.extract", bare("ReAct.extract.predict", LM)),
                )
            ]
        ],
    ),
    "exclude of a tool and a part": (
        {"exclude": ["add", "*.extract"], "level": "info"},
        [[ok("ReAct", "AGENT", thought(LM), thought(LM), FINISH)]],
    ),
    "include of the thoughts": ({"include": ["*.react"]}, [[thought(FORMAT, LM, PARSE)]] * 2),
}


@pytest.mark.parametrize(("options", "expected"), AGENTS.values(), ids=AGENTS)
def test_what_options_leave_of_an_agent(dspy_traces, options, expected):
    """Of a ReAct agent those calls are recorded that are asked for, each below the nearest call that is."""
    answers = [
        tool_call("add", a=1, b=2),
        tool_call("finish"),
        {"reasoning": "because", "answer": "3"},
    ]
    with dspy.context(lm=answering(*answers), callbacks=[MlflowCallback(**options)]):
        assert dspy.ReAct("question -> answer", tools=[add])(question="1 + 2?").answer == "3"
    assert [tree(trace) for trace in dspy_traces.all()] == expected


def examples():
    return [
        dspy.Example(question=f"question {index}", answer="some answer").with_inputs("question") for index in range(2)
    ]


def evaluates(program):
    metric = lambda example, prediction, trace=None: dspy.Predict("answer -> verdict")(answer=prediction.answer) and 1
    dspy.Evaluate(devset=examples(), metric=metric, num_threads=2, display_progress=False)(program)


def compiles(program):
    return dspy.BootstrapFewShot(metric=lambda *_: True, max_labeled_demos=1).compile(program, trainset=examples())


@pytest.mark.parametrize(("option", "runs"), [("evaluate", evaluates), ("compile", compiles)])
def test_evaluation_and_compilation_can_be_left_out(dspy_traces, option, runs):
    """With `evaluate=False` nothing of an evaluation and what it runs is recorded, `compile=False` likewise."""
    program = dspy.Predict("question -> answer")

    def both(program):
        runs(program)
        program(question="why?")

    callback = run(program, both, **{option: False})
    assert dspy_traces.tree() == [predict_tree()]
    assert callback.stats().dropped == 1


@pytest.mark.parametrize(
    ("options", "recorded"), [({"evaluate": False}, "BootstrapFewShot"), ({"compile": False}, "Evaluate")]
)
def test_each_of_them_is_left_out_alone(dspy_traces, options, recorded):
    """Evaluations are recorded without optimizers, and optimizers without evaluations."""

    def both(program):
        evaluates(program)
        compiles(program)

    run(dspy.Predict("question -> answer"), both, **options)
    roots = [tree(trace)[0][0] for trace in dspy_traces.all()]
    assert [root for root in roots if root != "Example"] == [recorded]


def test_an_evaluation_in_a_program_is_left_out_with_what_it_runs(dspy_traces):
    """With `evaluate=False` a module that evaluates is recorded, with all that it runs beside the evaluation."""

    class Evaluates(dspy.Module):
        def __init__(self):
            super().__init__()
            self.answer = dspy.Predict("question -> answer")

        def forward(self, question):
            evaluates(dspy.Predict("question -> answer"))
            return self.answer(question=question)

    run(Evaluates(), evaluate=False)
    assert dspy_traces.tree() == [bare("Evaluates", predict_tree("Evaluates.answer"))]


@pytest.mark.parametrize("run_in_parallel", [True, False])
def test_an_evaluation_without_a_span_leaves_a_trace_for_each_call(dspy_traces, run_in_parallel):
    """Where evaluations are hidden, each call that one makes is a trace of its own."""
    evaluation = dspy.Evaluate(
        devset=examples(), metric=lambda *_: 1, num_threads=4 if run_in_parallel else 1, display_progress=False
    )
    run(dspy.Predict("question -> answer"), evaluation, events=["module"])
    assert [ordered(tree(trace)) for trace in dspy_traces.all()] == [[bare("Predict")]] * 2
