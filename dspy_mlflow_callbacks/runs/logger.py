"""The callback that starts and ends runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import attrs
import dspy
import mlflow
from dspy.utils.callback import BaseCallback

from dspy_mlflow_callbacks import dspy_internals, mlflow_internals
from dspy_mlflow_callbacks.forks import FORKS
from dspy_mlflow_callbacks.runs.contents import RunContents
from dspy_mlflow_callbacks.spans.experiments import Experiment

_ENCLOSING = "dspy_mlflow_callbacks_compile"
_TAGS = {"mlflow.autologging": "dspy"}
_COUNTING = FORKS.lock()

# What MLflow says of what a run does with a dataset, by the argument of a compile.
_DATASETS = {"trainset": "training", "valset": "validation"}


@attrs.define
class Compile:
    """A compile that is running: what the evaluations inside it share, in whichever thread they run."""

    run_id: str | None = None
    evaluations: Counter[str] = attrs.field(factory=Counter)

    def next_step(self, key: str) -> int:
        """Return how many evaluations under *key* there were before."""
        with _COUNTING:
            self.evaluations[key] += 1
            return self.evaluations[key] - 1


@attrs.define(kw_only=True)
class _Open:
    """What a compile or an evaluation needs at its end."""

    run: Any = None
    is_ours: bool = False
    inputs: dict[str, Any]
    instance: Any
    compile: Compile | None = None
    key: str = ""
    step: int = 0
    override: Any = None  # of a compile


class RunLogger(BaseCallback):
    """Logs compiles and evaluations as MLflow runs.

    A compile is a run of its own where the thread has none open; evaluations inside it are runs below it, and each
    score is a step of its metric. A compile inside a compile is a part of it. Parents are found by DSPy's own settings,
    so that two threads that compile at once do not mix, and evaluations in worker threads find theirs.

    Args:
        contents: Logs what a run contains.
        log_compiles: Whether compiles are logged.
        log_evals: Whether evaluations are logged.
        experiment: The experiment of the runs by name or id; None is MLflow's active one.
    """

    def __init__(
        self, contents: RunContents, *, log_compiles: bool, log_evals: bool, experiment: str | None = None
    ) -> None:
        super().__init__()
        self.is_on = True
        self._contents = contents
        self._log_compiles = log_compiles
        self._log_evals = log_evals
        self._experiment = None if experiment is None else Experiment(experiment)
        self._open: dict[str, _Open] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return BaseCallback, ()  # settings that are saved with a model do not log runs where it is loaded

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Start a compile's run, unless it is a part of another compile."""
        if self.is_on and dspy_internals.settings.get(_ENCLOSING) is None:
            opened = self._open[call_id] = _Open(inputs=inputs, instance=instance, compile=Compile())
            opened.override = dspy_internals.SettingsOverride(**{_ENCLOSING: opened.compile})
            self._contents.attempt(self._start_compile, opened)

    def on_compile_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Log what came out of a compile, and end its run."""
        opened = self._open.pop(call_id, None)
        if opened is not None:
            opened.override.undo()
            self._contents.attempt(self._end, opened, self._log_compile, outputs, exception)

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Start an evaluation's run."""
        said = inputs.get("callback_metadata") or {}
        if self.is_on and self._log_evals and not said.get("disable_logging"):
            key = said.get("metric_key", "eval")
            enclosing = dspy_internals.settings.get(_ENCLOSING)
            opened = self._open[call_id] = _Open(inputs=inputs, instance=instance, compile=enclosing, key=key)
            self._contents.attempt(self._start_evaluation, opened)

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Log an evaluation's score and table, and end its run."""
        opened = self._open.pop(call_id, None)
        if opened is not None:
            self._contents.attempt(self._end, opened, self._log_evaluation, outputs, exception)

    def _start_compile(self, opened: _Open) -> None:
        active = mlflow.active_run()
        if self._log_compiles:
            opened.is_ours = active is None
            opened.run = active = active or self._start_run(tags=_TAGS)
            self._log(opened, self._contents.output)
            self._log_start(opened)
        if opened.compile is not None and active is not None:
            opened.compile.run_id = active.info.run_id

    def _start_evaluation(self, opened: _Open) -> None:
        active, enclosing = mlflow.active_run(), opened.compile
        if enclosing is not None:
            opened.step = enclosing.next_step(opened.key)
            parent = None if active is not None else enclosing.run_id
            opened.run = self._start_run(run_name=f"{opened.key}_{opened.step}", nested=True, parent_run_id=parent)
        else:
            opened.run = active or self._start_run(run_name=opened.key)
        opened.is_ours = opened.run is not active
        program = opened.inputs["program"]
        self._log(opened, self._contents.state, program, "model.json")
        self._log(opened, self._contents.module_params, program)
        self._log(opened, self._contents.lm_params, dspy_internals.settings.lm)
        devset = opened.inputs.get("devset")
        devset = opened.instance.devset if devset is None else devset
        if _can_be_read_again(devset):
            self._log(opened, self._contents.dataset_input, devset, "devset", "evaluation")

    def _start_run(self, **arguments: Any) -> Any:
        experiment_id = None if self._experiment is None else self._experiment.id()
        return mlflow.start_run(experiment_id=experiment_id, **arguments)

    def _log(self, opened: _Open, log: Any, *args: Any) -> None:
        with mlflow_internals.as_active_run(opened.run):
            self._contents.attempt(log, *args)

    def _end(self, opened: _Open, log: Any, outputs: Any, exception: BaseException | None) -> None:
        if opened.run is None:
            return
        try:
            if exception is None:
                log(opened, outputs)
        finally:
            if opened.is_ours:
                mlflow_internals.end_run(opened.run, "FINISHED" if exception is None else "FAILED")

    def _log_start(self, opened: _Open) -> None:
        """Log what is known of a compile before it has done anything: one that is interrupted has that too."""
        student = opened.inputs.get("student")
        if isinstance(student, dspy.Module):
            self._log(opened, self._contents.state, student, "initial_model.json")
        self._log(opened, self._contents.compile_params, opened.instance, opened.inputs)
        self._log(opened, self._contents.lm_params, dspy_internals.settings.lm)
        for name, context in _DATASETS.items():
            examples = opened.inputs.get(name)
            if _can_be_read_again(examples):
                self._log(opened, self._contents.dataset, examples, f"{name}.json")
                self._log(opened, self._contents.dataset_input, examples, name, context)

    def _log_compile(self, opened: _Open, program: Any) -> None:
        self._log(opened, self._contents.state, program, "best_model.json")

    def _log_evaluation(self, opened: _Open, outputs: Any) -> None:
        self._log(opened, self._contents.results, outputs.results)
        mlflow.log_metric("eval", outputs.score, run_id=opened.run.info.run_id)
        if opened.compile is not None and opened.compile.run_id is not None:
            mlflow.log_metric(opened.key, outputs.score, step=opened.step, run_id=opened.compile.run_id)


def _can_be_read_again(examples: Any) -> bool:
    """Return whether examples are there that the program will find there too: an iterator gives them once."""
    return isinstance(examples, Collection) and len(examples) > 0
