"""What `mlflow.pyfunc.load_model` loads a model with that this package saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import mlflow.dspy
import yaml
from mlflow.models import Model

from dspy_mlflow_callbacks.programs.stored import KEY, StoredTracing, arm_again


def stored_in(path: str) -> StoredTracing | None:
    """Return what was saved with the model in a folder, with what the registry says of it; None if there is nothing."""
    values = (Model.load(path).metadata or {}).get(KEY)
    if values is None:
        return None
    stored = StoredTracing.from_dict(values)
    return attrs.evolve(stored, origin={**stored.origin, **_registered(Path(path))})


def _registered(path: Path) -> dict[str, str]:
    """Return the name and version under which the model was asked for, which MLflow leaves beside it."""
    file = path / "registered_model_meta"
    said = yaml.safe_load(file.read_text()) if file.exists() else {}
    return {f"dspy.model.{key.removeprefix('model_')}": str(value) for key, value in said.items()}


def _load_pyfunc(path: str) -> Any:
    """Return the model's wrapper, as MLflow's own loader of DSPy models does; the program in it is traced."""
    wrapper = mlflow.dspy._load_pyfunc(path)  # noqa: SLF001  (the loader that every flavor has)
    arm_again(wrapper.model, stored_in(path) or StoredTracing())
    return wrapper
