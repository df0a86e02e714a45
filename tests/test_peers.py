"""Beside `mlflow.dspy.autolog()` and OpenInference MLflow has each call once, and one warning says who records."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import attrs
import dspy
import mlflow
import peer_programs
import pytest
from evaluations import exact
from expected import ok, ordered
from mlflow import environment_variables
from mlflow.utils.autologging_utils import revert_patches
from offline_lm import OfflineLM
from peer_programs import PROGRAMS, QUESTIONS
from programs import Program, program_tree

from dspy_mlflow_callbacks import LMCallback, MlflowCallback, ModuleCallback
from dspy_mlflow_callbacks.testing.captured import tree

AUTOLOG_WARNING = "mlflow.dspy.autolog() is on beside dspy_mlflow_callbacks"


@pytest.fixture
def autolog(dspy_traces, warned):
    """Return what switches MLflow's autolog on; after the test it is off and has left nothing behind.

    It warns once in a process, so that a test here sees at most that.
    """
    dspy.configure(lm=OfflineLM(answer="42"))
    yield functools.partial(mlflow.dspy.autolog, silent=True)
    mlflow.dspy.autolog(disable=True, silent=True)
    revert_patches("dspy")
    assert [message for message in warned.messages if not message.startswith(AUTOLOG_WARNING)] == []
    assert len(warned.messages) <= 1


@attrs.frozen
class Recorded:
    """What running programs added to the traces of a test."""

    dspy_traces: object

    def trees(self, run):
        before = {trace.info.trace_id for trace in self.dspy_traces.all()}
        run()
        assert mlflow.get_current_active_span() is None
        new = [trace for trace in self.dspy_traces.all() if trace.info.trace_id not in before]
        return ordered(span for trace in new for span in tree(trace))


@pytest.fixture
def recorded(dspy_traces):
    return Recorded(dspy_traces)


def theirs(module, *children, kind="CHAIN"):
    """Return a module's span as MLflow's autolog has it."""
    return ok(f"{module}.forward", kind, *children)


def steps(lm=("OfflineLM.__call__", "CHAT_MODEL")):
    """Return what a Predict does, as MLflow's autolog has it."""
    return [ok("ChatAdapter.format", "PARSER"), ok(*lm), ok("ChatAdapter.parse", "PARSER")]


AUTOLOGS_TREE = theirs("Program", theirs("ChainOfThought", theirs("Predict", *steps(), kind="LLM")))


@pytest.mark.warns
@pytest.mark.parametrize("order", ["ours first", "theirs first"])
@pytest.mark.parametrize("run", PROGRAMS, ids=lambda run: run.__name__)
def test_beside_autolog_traces_are_as_without(autolog, recorded, run, order):
    """With MLflow's callback before or after ours, every trace is the one that ours makes alone."""
    alone = recorded.trees(run)
    autolog()
    if order == "theirs first":
        dspy.configure(callbacks=dspy.settings.callbacks[::-1])
    assert len(dspy.settings.callbacks) == 2
    assert recorded.trees(run) == alone != []


@pytest.mark.warns
def test_autolog_records_again_where_ours_is_gone(autolog, recorded):
    """A program that configures MLflow's callback alone, or ours switched off, is traced by MLflow's."""
    autolog()
    assert recorded.trees(peer_programs.call) == ordered([program_tree()])
    ours, autologs = dspy.settings.callbacks
    dspy.configure(callbacks=[autologs])
    assert recorded.trees(peer_programs.call) == ordered([AUTOLOGS_TREE])
    dspy.configure(callbacks=[autologs, MlflowCallback(enabled=False)])
    assert recorded.trees(peer_programs.call) == ordered([AUTOLOGS_TREE])
    dspy.configure(callbacks=[ours])
    assert recorded.trees(peer_programs.call) == ordered([program_tree()])


LM_IS_OURS = theirs("Program", theirs("ChainOfThought", theirs("Predict", *steps(("dummy", "CHAT_MODEL")), kind="LLM")))
MODULES_ARE_OURS = ok(
    "Program", "CHAIN", ok("Program.generate", "CHAIN", ok("Program.generate.predict", "CHAIN", *steps()))
)


@pytest.mark.warns
@pytest.mark.parametrize(("callback_class", "expected"), [(LMCallback, LM_IS_OURS), (ModuleCallback, MODULES_ARE_OURS)])
def test_kinds_that_ours_does_not_trace_stay_autologs(autolog, recorded, callback_class, expected):
    """A callback for one kind of call records that kind; MLflow's records the others, all in one tree."""
    autolog()
    dspy.configure(callbacks=[*dspy.settings.callbacks[1:], callback_class()])
    assert recorded.trees(peer_programs.call) == ordered([expected])
    assert recorded.trees(peer_programs.call_in_threads) == ordered([expected] * len(QUESTIONS))


@pytest.mark.warns
@pytest.mark.parametrize("order", ["ours first", "theirs first"])
@pytest.mark.parametrize(
    "options",
    [
        {"sampling_ratio": 0.0},
        {"exclude": ["Program"]},
        {"events": ["tool"]},
        {"middleware": [lambda call: None]},
    ],
    ids=["sampled out", "excluded", "not its kinds", "dropped"],
)
def test_what_ours_leaves_out_autolog_does_not_record(autolog, recorded, options, order):
    """Calls that a sampler, a filter or a middleware of ours leaves out are not MLflow's either."""
    autolog()
    callbacks = [MlflowCallback(**options), *dspy.settings.callbacks[1:]]
    dspy.configure(callbacks=callbacks if order == "ours first" else callbacks[::-1])
    assert recorded.trees(peer_programs.call) == []
    assert recorded.trees(peer_programs.call_in_threads) == []


class Outer(dspy.Module):
    """Calls another program before and after one that has a callback of its own."""

    def __init__(self, callback):
        super().__init__()
        self.first, self.attached = dspy.Predict("question -> answer"), Program()
        self.attached.callbacks = [callback]

    def forward(self, question):
        self.attached(question=question)
        return self.first(question=question)


@pytest.mark.warns
def test_a_program_with_a_callback_is_its_own_below_autolog(autolog, recorded):
    """Where only a program has a callback of ours, that program's subtree is ours and all else MLflow's, once each."""
    autolog()
    dspy.configure(callbacks=dspy.settings.callbacks[1:])
    outer = theirs("Outer", program_tree("Program"), theirs("Predict", *steps(), kind="LLM"))
    program = Outer(MlflowCallback())
    assert recorded.trees(lambda: program(question="why?")) == ordered([outer])


@pytest.mark.warns
@pytest.mark.parametrize("switch", ["on", "off"])
def test_autolog_may_be_switched_in_mid_call(autolog, recorded, switch):
    """Switching MLflow's autolog on or off inside a call changes neither the call's trace nor later ones."""

    class Switching(Program):
        def forward(self, question):
            autolog(disable=switch == "off")
            return self.generate(question=question)

    if switch == "off":
        autolog()
    assert recorded.trees(lambda: Switching()(question="why?")) == ordered([program_tree("Switching")])
    assert recorded.trees(peer_programs.call) == ordered([program_tree()])


@pytest.mark.warns
@pytest.mark.parametrize("num_threads", [1, 4])
def test_autologs_metric_values_land_on_the_examples_trace(autolog, dspy_traces, num_threads):
    """What MLflow's autolog logs of a metric stands on the trace of the example, once, and on no other."""
    autolog()
    peer_programs.call()
    peer_programs.evaluate(num_threads)
    earlier, evaluation, *examples = dspy_traces.all()
    values = [[(each.name, each.value) for each in trace.info.assessments] for trace in examples]
    assert (earlier.info.assessments, evaluation.info.assessments) == ([], [])
    assert values == [[("exact", True)]] * len(QUESTIONS)


@pytest.mark.warns
@pytest.mark.parametrize("num_threads", [1, 4])
def test_autologs_metric_values_are_on_no_other_trace(autolog, dspy_traces, num_threads):
    """Where ours leaves an evaluation out, what MLflow's autolog logs of its metric is not put on an earlier trace."""
    autolog()
    dspy.configure(callbacks=[MlflowCallback(evaluate=False), *dspy.settings.callbacks[1:]])
    peer_programs.call()
    peer_programs.evaluate(num_threads)
    assert dspy_traces.one().info.assessments == []


@pytest.mark.warns
def test_autologs_runs_of_evaluations_go_on(autolog, recorded):
    """With `log_evals` MLflow's autolog makes its run with the score; the trace is the one that ours makes alone."""
    alone = recorded.trees(peer_programs.evaluate)
    autolog(log_evals=True)
    assert recorded.trees(peer_programs.evaluate) == alone
    run = mlflow.last_active_run()
    assert (run.info.run_name, run.data.metrics) == ("eval", {"eval": 100.0})


def compile_program():
    dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=1).compile(Program(), trainset=QUESTIONS)


@pytest.mark.warns
def test_autologs_compile_is_traced_if_it_says_so(autolog, recorded):
    """With `log_traces_from_compile` an optimizer's trace is ours; without it nobody's, and later calls are traced."""
    alone = recorded.trees(compile_program)
    autolog(log_traces_from_compile=True, log_compiles=True)
    assert recorded.trees(compile_program) == alone != []
    assert mlflow.last_active_run().data.params != {}
    autolog()
    assert recorded.trees(compile_program) == []
    assert recorded.trees(peer_programs.call) == ordered([program_tree()])


@pytest.mark.warns
def test_autolog_in_another_task_is_not_heard_of(autolog, recorded):
    """Ours on one program and MLflow's on all: programs in tasks side by side are each recorded by their own."""
    autolog()
    dspy.configure(callbacks=dspy.settings.callbacks[1:])
    ours, other = Program(), Program()
    ours.callbacks = [MlflowCallback()]

    async def gather():
        await asyncio.gather(*[program.acall(question="why?") for program in [ours, other] * 3])

    assert recorded.trees(lambda: asyncio.run(gather())) == ordered([program_tree(), AUTOLOGS_TREE] * 3)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Return the tracking URI of a store for the processes of these tests: setting it up takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('peers') / 'mlflow.db'}"


def run_in_a_process(program, *arguments, **environment):
    """Run a file of the tests' folder on its own and return what it printed as JSON."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / program, *arguments],
        env={**os.environ, "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "switch_on", ["mlflow.dspy.autolog()", "mlflow.autolog()", "mlflow.dspy.autolog(log_traces=False)"]
)
def test_one_warning_says_who_records_beside_autolog(store, switch_on):
    """One warning in a process names both, who records, and how to change it; none where autolog would not record."""
    said = run_in_a_process("beside_autolog.py", switch_on, MLFLOW_TRACKING_URI=store)
    assert said["traces"] == [json.loads(json.dumps([program_tree()]))] * 5
    if "log_traces=False" in switch_on:
        assert said["warnings"] == []
    else:
        (warning,) = said["warnings"]
        assert warning.startswith(AUTOLOG_WARNING)
        assert "dspy_mlflow_callbacks records the calls" in warning
        assert "mlflow.dspy.autolog(disable=True)" in warning
        assert "DSPY_MLFLOW_ENABLED=false" in warning


@pytest.fixture(scope="module")
def beside_openinference(store):
    """Return what runs programs beside OpenInference in a process of its own, once for each way to set them up."""

    @functools.cache
    def run(mode):
        return run_in_a_process("beside_openinference.py", mode, MLFLOW_TRACKING_URI=store, **ENVIRONMENTS[mode])

    return run


SHARED = {"MLFLOW_USE_DEFAULT_TRACER_PROVIDER": "false"}
PROPAGATED = {"MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT": "true"}
ENVIRONMENTS = {
    "its own provider": {},
    "its own provider, one context": SHARED,
    "MLflow's provider": SHARED,
    "MLflow's provider from the start": SHARED,
    "MLflow's bridged provider": PROPAGATED,
}
since_mlflow_3_15 = pytest.mark.skipif(
    not hasattr(environment_variables, "MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT"), reason="it came with MLflow 3.15"
)
APART = ["its own provider", "its own provider, one context"]
TOGETHER = ["MLflow's provider", pytest.param("MLflow's bridged provider", marks=since_mlflow_3_15)]


@pytest.mark.parametrize("mode", APART)
def test_beside_openinference_with_its_own_provider_traces_are_as_without(beside_openinference, mode):
    """Where MLflow does not get OpenInference's spans, every trace is the one that ours makes alone."""
    said = beside_openinference(mode)
    assert said["both"]["mlflow"] == said["alone"]["mlflow"]
    assert [] not in said["alone"]["mlflow"].values()


def test_openinference_with_its_own_provider_is_not_disturbed(beside_openinference):
    """Beside ours, OpenInference's provider gets the spans that it gets alone, each below the same."""
    said = beside_openinference("its own provider")
    assert said["both"]["openinference"] == said["theirs"]["openinference"]
    assert [] not in said["theirs"]["openinference"].values()
    assert said["theirs"]["mlflow"] == {name: [] for name in said["theirs"]["mlflow"]}


@pytest.mark.parametrize("mode", TOGETHER)
def test_ours_stands_aside_where_mlflow_gets_openinferences_spans(beside_openinference, mode):
    """Where MLflow gets OpenInference's spans, the traces are OpenInference's, and no call is in them twice."""
    said = beside_openinference(mode)
    theirs_alone, both = dict(said["theirs"]["mlflow"]), dict(said["both"]["mlflow"])
    evaluations = theirs_alone.pop("evaluate"), both.pop("evaluate")
    assert both == theirs_alone
    assert [] not in both.values()
    names = [name for name, *_ in evaluations[1]]
    assert names.count("Evaluate") == 1  # OpenInference has no span for it


def test_openinferences_spans_nest_below_ours_of_an_evaluation(beside_openinference):
    """With one provider for all, examples, which OpenInference does not record, are ours with its spans below."""
    said = beside_openinference("MLflow's provider")
    below = ordered(said["theirs"]["mlflow"]["evaluate"])
    evaluate, *examples = said["both"]["mlflow"]["evaluate"]
    assert evaluate == ["Evaluate", "EVALUATOR", "OK", []]
    assert {tuple(example) for *example, _ in examples} == {("Example", "CHAIN", "OK")}
    assert ordered(child for *_, children in examples for child in children) == below


def test_the_first_trace_beside_openinference_is_whole(beside_openinference):
    """MLflow joins a shared provider at its first span, when OpenInference's root is open: then the root is ours."""
    first = beside_openinference("MLflow's provider from the start")["both"]["mlflow"]["call"]
    later = beside_openinference("MLflow's provider")["theirs"]["mlflow"]["call"]
    (((*root, children)),) = first
    (((*_, expected_children)),) = later
    assert root == ["Program", "CHAIN", "OK"]
    assert children == expected_children


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        *[(mode, "both record: dspy_mlflow_callbacks into MLflow") for mode in APART],
        ("MLflow's provider", "OpenInference records the calls"),
        ("MLflow's provider from the start", "OpenInference records the calls"),
        pytest.param("MLflow's bridged provider", "OpenInference records the calls", marks=since_mlflow_3_15),
    ],
)
def test_one_warning_says_who_records_beside_openinference(beside_openinference, mode, says):
    """One warning in a process names both, who records where, and how to change it."""
    (warning,) = beside_openinference(mode)["warnings"]
    assert says in warning
    assert "DSPyInstrumentor().instrument()" in warning


@pytest.mark.parametrize("mode", [*APART, *TOGETHER])
def test_no_span_stays_active_beside_openinference(beside_openinference, mode):
    """After each program neither MLflow nor OpenTelemetry has an active span, and nothing of ours is open."""
    assert beside_openinference(mode)["left"] == []
