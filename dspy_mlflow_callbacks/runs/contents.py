"""What a run contains, under the names that `mlflow.dspy.autolog()` uses: parameters, datasets, programs, tables."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import orjson

from dspy_mlflow_callbacks import mlflow_internals
from dspy_mlflow_callbacks.describe.payloads import plain, plain_without_secrets
from dspy_mlflow_callbacks.payload import Payload, PayloadLimit, PayloadSteps
from dspy_mlflow_callbacks.runs.datasets import log_examples
from dspy_mlflow_callbacks.stats import WarnOnce

_NO_PARAMS = ("metadata", "lm", "traces", "train")
_LM_ATTRIBUTES = ("model", "model_type", "cache", "temperature", "max_tokens")


class RunContents:
    """Logs to the active run; secrets are taken out as they are of spans.

    What cannot be logged is warned of once, and the rest is logged: a run must not cost a compile or an evaluation.

    Args:
        payload_steps: What runs on everything that is logged. `PayloadLimit` does not: it is about spans.
        inputs: Whether examples are logged, the arguments of what is compiled and evaluated.
        outputs: Whether predictions are logged.
    """

    def __init__(self, payload_steps: PayloadSteps, *, inputs: bool, outputs: bool) -> None:
        self._steps = PayloadSteps(step for step in payload_steps.steps if not isinstance(step, PayloadLimit))
        self._inputs = inputs
        self._outputs = outputs
        self._warn = WarnOnce()

    def attempt(self, log: Callable[..., None], *args: Any) -> None:
        """Call *log*; what it raises is warned of."""
        try:
            log(*args)
        except Exception as error:  # noqa: BLE001  (the program must not notice)
            self._warn((log.__name__, type(error)), f"A run is incomplete: {log.__name__} failed: {error!r}", error)

    def output(self) -> None:
        """Log an empty model as the run's output: MLflow shows an experiment's runs only if one has an output."""
        mlflow_internals.dspy_runs().log_dummy_model_outputs()

    def state(self, program: Any, file_name: str) -> None:
        """Log what `program.save` writes."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, file_name)
            program.save(path)
            text = path.read_text(encoding="utf-8")
            path.write_text(self._cleaned(file_name, text), encoding="utf-8")
            mlflow.log_artifact(str(path))

    def module_params(self, program: Any) -> None:
        """Log a program's instructions, fields and demos, one parameter each."""
        flatten = mlflow_internals.dspy_runs()._flatten_dspy_module_state  # noqa: SLF001  (what makes the names)
        flat = flatten(program.dump_state(), exclude_keys=_NO_PARAMS)
        self._params({f"{type(program).__name__}.{name}": value for name, value in flat.items()})

    def compile_params(self, optimizer: Any, inputs: Mapping[str, Any]) -> None:
        """Log the numbers and texts among a compile's arguments, without those that have their default."""
        parameters = inspect.signature(type(optimizer).compile).parameters
        self._params(
            {
                name: value
                for name, value in inputs.items()
                if isinstance(value, (int, float, str, bool))
                and (name not in parameters or value is not parameters[name].default)
            }
        )

    def lm_params(self, lm: Any) -> None:
        """Log the settings of DSPy's configured LM as one parameter."""
        if lm is not None:
            said = {name: getattr(lm, name, None) for name in _LM_ATTRIBUTES}
            without = mlflow_internals.dspy_runs().sanitize_params(getattr(lm, "kwargs", {}))
            settings = {**without, **{name: value for name, value in said.items() if value is not None}}
            text = json.dumps(plain_without_secrets(settings), sort_keys=True)
            mlflow.log_param("lm_params", self._cleaned("lm_params", text))

    def dataset(self, examples: Iterable[Any], file_name: str) -> None:
        """Log examples as a table, a column for each field."""
        if self._inputs:
            self._table([dict(example.items()) for example in examples], file_name)

    def dataset_input(self, examples: Iterable[Any], name: str, context: str) -> None:
        """Log examples as an MLflow dataset, an input of the run.

        Args:
            examples: The examples.
            name: The dataset's name.
            context: What the run does with it: `training`, `validation` or `evaluation`.
        """
        rows = [dict(example.items()) for example in examples] if self._inputs else []
        cleaned = orjson.loads(self._cleaned(name, orjson.dumps(plain(rows)).decode()))
        if cleaned and isinstance(cleaned, list):
            log_examples(name, cleaned, context)

    def results(self, results: Iterable[tuple[Any, Any, Any]]) -> None:
        """Log an evaluation's examples, predictions and scores as a table."""
        rows = [
            {
                "score": score,
                **{f"example_{name}": value for name, value in example.items() if self._inputs},
                **{f"pred_{name}": value for name, value in _fields(prediction) if self._outputs},
            }
            for example, prediction, score in results
        ]
        self._table(rows, "result_table.json")

    def _params(self, params: Mapping[str, Any]) -> None:
        cleaned = orjson.loads(self._cleaned("params", orjson.dumps(plain(params)).decode()))
        if cleaned:
            mlflow.log_params(cleaned if isinstance(cleaned, dict) else {"params": cleaned})

    def _table(self, rows: list[dict[str, Any]], file_name: str) -> None:
        cleaned = orjson.loads(self._cleaned(file_name, orjson.dumps(plain(rows)).decode()))
        if isinstance(cleaned, list):
            names = dict.fromkeys(name for row in cleaned for name in row)
            mlflow.log_table({name: [row.get(name) for row in cleaned] for name in names}, file_name)
        else:  # a payload step withheld it, and its text says so
            mlflow.log_text(json.dumps(cleaned), file_name)

    def _cleaned(self, name: str, text: str) -> str:
        payload = Payload(place="attribute", name=name, text=text)
        (cleaned,) = self._steps.run(
            [payload], lambda error: self._warn(id(error.step), f"A payload step failed: {error}")
        )
        return text if cleaned.value == orjson.loads(text) else cleaned.text  # as it was written


def _fields(prediction: Any) -> Iterable[tuple[str, Any]]:
    return prediction.items() if hasattr(prediction, "items") else [("prediction", prediction)]
