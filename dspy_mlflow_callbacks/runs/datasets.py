"""Examples as MLflow datasets: what was compiled and evaluated on, known by its content."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import mlflow
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.dataset import Dataset
from mlflow.types import ColSpec, DataType, Schema

# MLflow looks whether a dataset is known, and then adds it: of two threads that add the same, one fails.
_LOGGING = threading.Lock()

_TYPES = {bool: DataType.boolean, int: DataType.long, float: DataType.double}


class ExampleSet(Dataset):
    """A set of examples; MLflow keeps its name, digest, fields and size, and not the examples.

    Args:
        name: What it is called.
        rows: The examples' fields as JSON values.
    """

    def __init__(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows = rows
        super().__init__(CodeDatasetSource({}), name)

    def _compute_digest(self) -> str:
        """Return eight digits of a hash of the examples, as many as MLflow's own datasets have."""
        return hashlib.sha256(json.dumps(self._rows, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def schema(self) -> Schema:
        """The fields, each with its type; what is neither a number nor a boolean counts as text."""
        names = dict.fromkeys(name for row in self._rows for name in row)
        return Schema([ColSpec(_type(row.get(name) for row in self._rows), name) for name in names])

    @property
    def profile(self) -> dict[str, int]:
        """The number of examples, under the name that MLflow's datasets have for it."""
        return {"num_rows": len(self._rows)}

    def to_dict(self) -> dict[str, str]:
        """Return what MLflow stores."""
        described: dict[str, str] = super().to_dict()
        schema = json.dumps({"mlflow_colspec": self.schema.to_dict()})
        return {**described, "schema": schema, "profile": json.dumps(self.profile)}


def log_examples(name: str, rows: Sequence[Mapping[str, Any]], context: str) -> None:
    """Log *rows* to the active run as a dataset.

    Args:
        name: The dataset's name.
        rows: The examples' fields as JSON values.
        context: What the run does with it: `training`, `validation` or `evaluation`.
    """
    dataset = ExampleSet(name, rows)
    with _LOGGING:
        mlflow.log_input(dataset, context=context)


def _type(values: Iterable[Any]) -> DataType:
    types = set(map(type, values))
    return _TYPES.get(types.pop(), DataType.string) if len(types) == 1 else DataType.string
