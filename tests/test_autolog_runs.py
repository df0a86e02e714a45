"""`autolog(log_compiles=, log_evals=)`: MLflow runs of compiles and evaluations, as `mlflow.dspy.autolog` logs them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import cloudpickle
import dspy
import mlflow
import pytest
from evaluations import DEVSET, exact, raising_at
from offline_lm import OfflineLM
from runs_side_by_side import bootstrap_few_shot, copro, described, evaluate, program
from stored import run_of
from threads import at_once

from dspy_mlflow_callbacks import MlflowCallback, Redactor, TracingConfig, autolog, optimizer_runs

TESTS = Path(__file__).parent


@pytest.fixture
def traces(dspy_traces):
    """Log into a store of the test's own, with nothing configured."""
    dspy.configure(callbacks=[], lm=OfflineLM())
    yield dspy_traces
    autolog(disable=True)
    assert mlflow.active_run() is None


def runs(traces):
    """Return the names, states and parents of the test's runs in the order in which they began."""
    return [(each["name"], each["status"], each["parent"]) for each in described_in(traces)]


def described_in(traces):
    return described([traces.experiment_id])


def side_by_side(mine, folder):
    return subprocess.Popen(
        [sys.executable, TESTS / "runs_side_by_side.py", mine],
        cwd=folder,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder / mine}.db"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def without_ours(run):
    """Return a run without what `mlflow.dspy.autolog` does not log: datasets, the program before it was compiled."""
    kept = {name: value for name, value in run.items() if name != "datasets"}
    kept["artifacts"] = {name: value for name, value in run["artifacts"].items() if name != "initial_model.json"}
    return kept


@pytest.mark.timeout(400)
def test_runs_are_mlflows(tmp_path):
    """Programs leave in runs what `mlflow.dspy.autolog` leaves: names, parents, states, contents, metrics.

    Of a compile that fails MLflow leaves nothing; here its arguments are there.
    """
    left = {}
    both = {mine: side_by_side(mine, tmp_path) for mine in ("ours", "mlflows")}
    for mine, process in both.items():
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        left[mine] = json.loads(output.splitlines()[-1])
    failed, empty = left["ours"].pop("failing_compile"), left["mlflows"].pop("failing_compile")
    assert {name: [without_ours(run) for run in runs] for name, runs in left["ours"].items()} == {
        name: [without_ours(run) for run in runs] for name, runs in left["mlflows"].items()
    }
    assert all(left["ours"].values())
    assert [run["status"] for run in failed] == [run["status"] for run in empty] == ["FAILED"]
    assert set(failed[0]["artifacts"]) == {"initial_model.json", "trainset.json"}


def test_a_compile_inside_a_compile_is_a_part_of_it(traces):
    """An optimizer that calls another logs its own arguments and its own dataset once, in one run."""
    autolog(log_compiles=True)
    optimizer = dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=1, max_labeled_demos=1)
    optimizer.compile(program(), trainset=DEVSET)  # it calls LabeledFewShot
    (run,) = described_in(traces)
    assert len(run["artifacts"]["trainset.json"]["data"]) == len(DEVSET)
    assert (set(run["params"]), run["models"]) == ({"lm_params"}, 1)


def test_a_valset_is_logged_too(traces):
    """A compile's validation set is a table beside its training set's, and texts and numbers are parameters."""

    class Optimizer(dspy.teleprompt.Teleprompter):
        def compile(self, student, *, trainset, valset=None, seed=0, name="none", **kwargs):
            return student

    autolog(log_compiles=True)
    Optimizer().compile(program(), trainset=DEVSET, valset=DEVSET[:1], seed=7)
    (run,) = described_in(traces)
    assert {name: len(table["data"]) for name, table in run["artifacts"].items() if "set" in name} == {
        "trainset.json": len(DEVSET),
        "valset.json": 1,
    }
    assert run["params"].pop("lm_params")
    assert run["params"] == {"seed": "7"}


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({}, []),
        ({"log_compiles": True}, ["made up"]),
        ({"log_evals": True}, ["eval_0", "eval_1"]),
        ({"log_compiles": True, "log_evals": True, "log_traces": False}, ["made up", "eval_0", "eval_1"]),
        ({"log_compiles": True, "log_evals": True, "enabled": False}, []),
    ],
)
def test_what_is_logged(traces, arguments, names):
    """Compiles and evaluations are logged where they are asked for, with and without traces."""
    autolog(**arguments)
    copro()
    assert [name for name, *_ in runs(traces)] == names


@pytest.mark.parametrize(
    ("arguments", "columns"),
    [
        ({"capture_inputs": False}, ["score", "pred_reasoning", "pred_answer"]),
        ({"capture_outputs": False}, ["score", "example_question", "example_answer"]),
        ({"capture_inputs": False, "capture_outputs": False}, ["score"]),
    ],
)
def test_content_that_is_not_captured_is_not_in_tables(traces, arguments, columns):
    """With `capture_inputs=False` no example is logged, with `capture_outputs=False` no prediction; scores are."""
    autolog(log_evals=True, **arguments)
    evaluate()
    (run,) = described_in(traces)
    assert run["artifacts"]["result_table.json"]["columns"] == columns
    assert run["metrics"]["eval"]


def test_no_dataset_is_logged_where_inputs_are_not_captured(traces):
    """With `capture_inputs=False` a compile's run has the program that came out, and no dataset."""
    autolog(log_compiles=True, capture_inputs=False)
    bootstrap_few_shot()
    (run,) = described_in(traces)
    assert [name for name in run["artifacts"] if name.endswith(".json")] == ["best_model.json", "initial_model.json"]
    assert run["datasets"] == []


def test_a_trace_belongs_to_its_evaluations_run(traces):
    """The traces of an evaluation and of its examples are linked to the evaluation's run."""
    autolog(log_evals=True)
    evaluate()
    (run,) = mlflow.search_runs(output_format="list", experiment_ids=[traces.experiment_id])
    assert [run_of(trace) for trace in traces.all()] == [run.info.run_id] * (1 + len(DEVSET))


def test_runs_go_to_the_experiment_that_is_asked_for(traces, tmp_path):
    """`experiment` says where runs go, too."""
    experiment_id = mlflow.create_experiment(f"of {traces.experiment_id}", artifact_location=tmp_path.as_uri())
    autolog(log_evals=True, experiment=f"of {traces.experiment_id}")
    evaluate()
    assert [each["name"] for each in described([experiment_id])] == ["eval"]
    assert runs(traces) == []


def raising_once(example, prediction, trace=None):
    if not exact(example, prediction):
        raise ZeroDivisionError
    return True


def test_a_metric_that_raises_does_not_end_an_evaluation(traces):
    """A metric that raises on one example leaves the evaluation its score, and the run has it."""
    autolog(log_evals=True)
    evaluation = dspy.Evaluate(devset=DEVSET, metric=raising_once, num_threads=2)
    assert evaluation(dspy.Predict("question -> answer")).score == 75.0
    (run,) = described_in(traces)
    assert (run["status"], run["metrics"]) == ("FINISHED", {"eval": [[0, 75.0]]})
    assert run["artifacts"]["result_table.json"]["data"][0][0] == 0.0


def test_predictions_without_fields_are_in_the_table(traces):
    """What a program returns that is no prediction stands in the table as it is."""

    class Text(dspy.Module):
        def forward(self, question):
            return question.upper()

    autolog(log_evals=True)
    dspy.Evaluate(devset=DEVSET[:1], metric=lambda example, prediction: 1.0, num_threads=1)(Text())
    (run,) = described_in(traces)
    table = run["artifacts"]["result_table.json"]
    assert dict(zip(table["columns"], table["data"][0], strict=True))["pred_prediction"] == "QUESTION 0"


def test_compiles_in_two_threads_do_not_mix(traces):
    """Two threads that compile at the same time have a run each, with their own evaluations below it."""
    autolog(log_compiles=True, log_evals=True)

    def compile_one():
        with dspy.context(lm=OfflineLM()):
            copro()

    for _ in range(2):
        at_once(compile_one, compile_one)
    logged = runs(traces)
    assert {status for _, status, _ in logged} == {"FINISHED"}
    compiles = [number for number, (name, *_) in enumerate(logged) if name == "made up"]
    below = {number: sorted(name for name, _, parent in logged if parent == number) for number in compiles}
    assert list(below.values()) == [["eval_0", "eval_1"]] * 4
    metrics = [run["metrics"]["eval"] for run in described_in(traces) if run["name"] == "made up"]
    assert [[step for step, _ in history] for history in metrics] == [[0, 1]] * 4


def test_evaluations_in_worker_threads_are_below_their_compile(traces):
    """An optimizer that evaluates in DSPy's worker threads has those runs below its own, and their scores."""

    class Optimizer(dspy.teleprompt.Teleprompter):
        def compile(self, student, *, trainset):
            evaluation = dspy.Evaluate(devset=trainset, metric=exact, num_threads=1)
            candidates = [(Evaluates(evaluation), {"student": student})] * 3
            dspy.Parallel(num_threads=3, disable_progress_bar=True)(candidates)
            return student

    class Evaluates(dspy.Module):
        def __init__(self, evaluation):
            super().__init__()
            self.evaluation = evaluation

        def forward(self, student):
            return self.evaluation(student).score

    autolog(log_compiles=True, log_evals=True)
    Optimizer().compile(program(), trainset=DEVSET)
    logged = sorted(runs(traces))
    assert [name for name, *_ in logged] == ["eval_0", "eval_1", "eval_2", "made up"]
    assert len({parent for _, _, parent in logged[:3]}) == 1
    (parent,) = [run for run in described_in(traces) if run["name"] == "made up"]
    assert sorted(parent["metrics"]["eval"]) == [[0, 75.0], [1, 75.0], [2, 75.0]]


def test_evaluations_of_a_compile_that_is_not_logged(traces):
    """Without a compile's run, evaluations inside it are runs of their own, counted through."""
    autolog(log_evals=True)
    copro()
    assert runs(traces) == [("eval_0", "FINISHED", None), ("eval_1", "FINISHED", None)]


def test_a_run_that_a_metric_leaves_open_stays_the_metrics(traces):
    """A run that somebody opens inside and does not close is neither ended nor written to."""

    def opening(example, prediction, trace=None):
        mlflow.start_run(nested=True, run_name="mine")
        return exact(example, prediction)

    autolog(log_evals=True)
    dspy.Evaluate(devset=DEVSET[1:2], metric=opening, num_threads=1)(dspy.Predict("question -> answer"))
    assert mlflow.active_run().info.run_name == "mine"
    mlflow.end_run()
    outer, inner = described_in(traces)
    assert (outer["name"], outer["status"], outer["metrics"]) == ("eval", "FINISHED", {"eval": [[0, 100.0]]})
    assert (inner["name"], inner["parent"], inner["artifacts"], inner["metrics"]) == ("mine", 0, {}, {})


def test_switched_off_in_mid_evaluation_its_run_ends(traces):
    """A run that is open when `autolog` is switched off ends with its evaluation, and there is no other."""

    def switching(example, prediction, trace=None):
        autolog(disable=True)
        return exact(example, prediction)

    autolog(log_evals=True)
    dspy.Evaluate(devset=DEVSET, metric=switching, num_threads=1)(dspy.Predict("question -> answer"))
    evaluate()
    assert runs(traces) == [("eval", "FINISHED", None)]


def test_a_callback_of_the_programs_own_does_not_end_runs(traces):
    """Where the program configures its own callback of this package, that one traces, and runs are logged once."""
    autolog(log_evals=True)
    dspy.configure(callbacks=[MlflowCallback()])
    evaluate()
    own = dspy.Predict("question -> answer")
    own.callbacks = [MlflowCallback()]
    dspy.Evaluate(devset=DEVSET, metric=exact, num_threads=1)(own)
    assert runs(traces) == [("eval", "FINISHED", None)] * 2
    assert len(traces.all()) == 2 * (1 + len(DEVSET))


SECRET = "sk-proj-" + "a1B2c3D4" * 5


def with_secrets():
    headers = {"extra_headers": {"Authorization": f"Bearer {SECRET}"}}
    lm = OfflineLM(answer="some answer")
    lm.kwargs.update(headers, api_key=SECRET)
    examples = [dspy.Example(question=f"https://user:{SECRET}@host/", answer="some answer").with_inputs("question")]
    own = dspy.Predict(dspy.Signature("question -> answer", f"Ask https://user:{SECRET}@host/ for it."))
    with dspy.context(lm=lm):
        dspy.Evaluate(devset=examples, metric=exact, num_threads=1)(own)
        dspy.LabeledFewShot(k=1).compile(own, trainset=examples)


@pytest.mark.parametrize("arguments", [{}, {"payload_steps": [Redactor()]}], ids=["by default", "by a step"])
def test_no_secret_is_in_a_run(traces, arguments):
    """Secrets are taken out of parameters, saved programs and tables as they are of spans."""
    autolog(log_compiles=True, log_evals=True, **arguments)
    with_secrets()
    said = json.dumps(described_in(traces))
    assert SECRET not in said
    assert "host/" in said


def test_secrets_stay_where_redaction_is_off(traces):
    """With `redact=False` runs have what the program has, but for what MLflow leaves out of an LM's settings."""
    autolog(log_compiles=True, log_evals=True, redact=False)
    with_secrets()
    assert SECRET in json.dumps(described_in(traces))


def failing_step(payload):
    raise ZeroDivisionError


@pytest.mark.warns
def test_a_step_that_fails_withholds_contents(traces, warned):
    """What a payload step fails for is withheld, and the run says so."""
    autolog(log_evals=True, payload_steps=[failing_step])
    evaluate()
    (run,) = described_in(traces)
    withheld = "[withheld: failing_step raised ZeroDivisionError]"
    assert run["params"] == {"params": withheld, "lm_params": json.dumps(withheld)}
    assert set(run["artifacts"].values()) == {withheld}
    assert len([each for each in warned.messages if "A payload step failed" in each]) == 2  # spans' and runs'


@pytest.mark.warns
def test_a_run_that_cannot_be_started_costs_nothing(traces, warned):
    """Where MLflow starts no run, programs compile and evaluate as without, and one warning for each says why."""
    autolog(log_traces=False, log_compiles=True, log_evals=True, experiment="987654321")  # there is none of this id
    evaluate()
    evaluate()
    bootstrap_few_shot()
    assert runs(traces) == []
    assert [message.partition(" failed: ")[0] for message in warned.messages] == [
        "A run is incomplete: _start_evaluation",
        "A run is incomplete: _start_compile",
    ]


@pytest.mark.warns
def test_what_cannot_be_logged_is_left_out(traces, warned):
    """A program that cannot be saved leaves the rest of its run as it is, and a warning says so."""

    class Unsavable(dspy.Module):
        def forward(self, question):
            return dspy.Prediction(answer="some answer")

        def dump_state(self, *args, **kwargs):
            raise ZeroDivisionError

    autolog(log_evals=True)
    dspy.Evaluate(devset=DEVSET, metric=exact, num_threads=1)(Unsavable())
    (run,) = described_in(traces)
    assert (run["metrics"], set(run["artifacts"])) == ({"eval": [[0, 75.0]]}, {"result_table.json"})
    assert [message.split(" failed: ")[0] for message in warned.messages] == [
        "A run is incomplete: state",
        "A run is incomplete: module_params",
    ]


def test_async_compiles_in_one_thread_leave_no_run_open(traces):
    """Optimizers that take turns in one thread log to the run that the first one opened, and it ends."""

    class Optimizer(dspy.teleprompt.Teleprompter):
        async def compile(self, student, *, trainset, turns):
            for turn in turns:
                await turn.wait()
            return student

    async def main():
        turns = [asyncio.Event(), asyncio.Event()]
        first = asyncio.create_task(Optimizer().compile(program(), trainset=DEVSET, turns=[turns[0]]))
        await asyncio.sleep(0)
        second = asyncio.create_task(Optimizer().compile(program(), trainset=DEVSET[:1], turns=[turns[1]]))
        await asyncio.sleep(0)
        turns[0].set()
        await first
        turns[1].set()
        await second

    autolog(log_compiles=True)
    asyncio.run(main())
    assert runs(traces) == [("made up", "FINISHED", None)]


def test_saved_settings_log_no_runs(traces):
    """A run logger that was pickled with a program's settings does nothing where it is loaded."""
    autolog(log_evals=True, config=TracingConfig())
    copies = cloudpickle.loads(cloudpickle.dumps(dspy.settings.get("callbacks")))
    autolog(disable=True)
    dspy.configure(callbacks=copies[:1])
    evaluate()
    assert runs(traces) == []


def test_an_interrupted_compile_leaves_what_was_reached(traces):
    """Ctrl-C in the second evaluation of a compile ends its runs as failed, with what was known and the first score."""
    autolog(log_compiles=True, log_evals=True, log_traces_from_compile=True)
    metric = raising_at(len(DEVSET) + 2, KeyboardInterrupt())
    optimizer = dspy.COPRO(metric=metric, breadth=2, depth=1)
    with pytest.raises(KeyboardInterrupt):
        optimizer.compile(program(), trainset=DEVSET, eval_kwargs={"num_threads": 1})
    compiled, first, second = described_in(traces)
    assert [each["status"] for each in (compiled, first, second)] == ["FAILED", "FINISHED", "FAILED"]
    assert set(compiled["artifacts"]) == {"initial_model.json", "trainset.json"}
    assert (compiled["metrics"], first["metrics"], second["metrics"]) == (
        {"eval": [[0, 75.0]]},
        {"eval": [[0, 75.0]]},
        {},
    )
    (left,) = [each for trace in traces.all() for each in optimizer_runs(trace)]
    assert (left.status, [trial.status for trial in left.trials]) == ("ERROR", ["OK", "ERROR"])


def dataset_of(examples):
    return {
        "digest": examples["digest"],
        "context": examples["context"],
        "fields": [(each["name"], each["type"]) for each in examples["schema"]["mlflow_colspec"]],
        "size": examples["profile"]["num_rows"],
    }


def test_examples_are_datasets_of_runs(traces):
    """What is compiled and evaluated on is an input of the run: known by its content, with its fields and its size."""

    class Optimizer(dspy.teleprompt.Teleprompter):
        def compile(self, student, *, trainset, valset, evaluation):
            evaluation(student, devset=valset)
            return student

    mixed = [
        dspy.Example(question="one", number=1, ratio=0.5, sure=True, notes=["a"]).with_inputs("question"),
        dspy.Example(question="two", number=2, ratio=1.5, sure=False).with_inputs("question"),
    ]
    evaluation = dspy.Evaluate(devset=DEVSET, metric=lambda *_: 1.0, num_threads=1)
    autolog(log_compiles=True, log_evals=True)
    Optimizer().compile(program(), trainset=mixed, valset=DEVSET, evaluation=evaluation)
    compiled, evaluated = described_in(traces)
    trainset, valset = sorted(compiled["datasets"], key=lambda each: each["name"])
    (devset,) = evaluated["datasets"]
    assert [each["name"] for each in (trainset, valset, devset)] == ["trainset", "valset", "devset"]
    assert dataset_of(trainset) == {
        "digest": trainset["digest"],
        "context": ["training"],
        "fields": [
            ("question", "string"),
            ("number", "long"),
            ("ratio", "double"),
            ("sure", "boolean"),
            ("notes", "string"),
        ],
        "size": 2,
    }
    assert (valset["context"], devset["context"]) == (["validation"], ["evaluation"])
    assert len({each["digest"] for each in (trainset, valset, devset)}) == 2
    assert valset["digest"] == devset["digest"]


def test_an_iterator_of_examples_is_the_programs(traces):
    """Examples that can be read only once are left to the optimizer."""

    class Optimizer(dspy.teleprompt.Teleprompter):
        def compile(self, student, *, trainset):
            self.seen = list(trainset)
            return student

    autolog(log_compiles=True)
    optimizer = Optimizer()
    optimizer.compile(program(), trainset=iter(DEVSET))
    assert optimizer.seen == DEVSET
    (run,) = described_in(traces)
    assert (run["datasets"], "trainset.json" in run["artifacts"]) == ([], False)


def test_traces_of_a_compile_belong_to_its_runs(traces):
    """The optimizer's trace is linked to the compile's run, and those of a trial's examples to the evaluation's."""
    autolog(log_compiles=True, log_evals=True, log_traces_from_compile=True)
    copro()
    stored = mlflow.search_runs(output_format="list", experiment_ids=[traces.experiment_id])
    names = {run.info.run_id: run.info.run_name for run in stored}
    (compiled,) = [run.info.run_id for run in stored if "mlflow.parentRunId" not in run.data.tags]
    linked = {
        (
            trace.info.tags.get("dspy.compile.trial"),
            "the compile" if run_of(trace) == compiled else names[run_of(trace)],
        )
        for trace in traces.all()
    }
    assert linked == {(None, "the compile"), ("1", "eval_0"), ("2", "eval_1")}


def test_what_there_is_nothing_to_log_of(traces):
    """A compile of many programs has no program before it, and an evaluation of no examples no dataset."""
    autolog(log_compiles=True, log_evals=True)
    dspy.Ensemble(reduce_fn=dspy.majority).compile([program(), program()])
    with pytest.raises((ValueError, ZeroDivisionError)):  # by the version of DSPy
        dspy.Evaluate(devset=[], metric=exact, num_threads=1)(program())
    compiled, evaluated = described_in(traces)
    assert ("initial_model.json" in compiled["artifacts"], compiled["datasets"]) == (False, [])
    assert (evaluated["status"], evaluated["datasets"]) == ("FAILED", [])
