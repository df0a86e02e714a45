"""Saving a program as an MLflow model with its tracing, and loading it again."""

from __future__ import annotations

import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dspy
import mlflow
import mlflow.dspy
from mlflow.models import Model

from dspy_mlflow_callbacks.callbacks import TracingCallback
from dspy_mlflow_callbacks.config import TracingConfig
from dspy_mlflow_callbacks.programs.code_files import warn_of_credentials
from dspy_mlflow_callbacks.programs.model_loader import stored_in
from dspy_mlflow_callbacks.programs.saving import Pickled, Standing
from dspy_mlflow_callbacks.programs.stored import KEY, StoredTracing, arm, arm_again, tracing_in_force
from dspy_mlflow_callbacks.programs.withholding import PickleWithholder, pickled
from dspy_mlflow_callbacks.scopes import suppress_tracing

# What belongs to calls that run while a program is saved, as it is where none does.
_OF_CALLS: dict[str, Any] = {
    "send_stream": None,
    "usage_tracker": None,
    "caller_predict": None,
    "caller_modules": None,
    "stream_listeners": [],
}
_PACKAGE = "dspy-mlflow-callbacks"


def save_model(model: dspy.Module, path: str | Path, *, config: TracingConfig | None = None, **arguments: Any) -> None:
    """Save a program as `mlflow.dspy.save_model` does, with the configuration of its tracing and without credentials.

    The configuration stands in the model's metadata, as JSON. `mlflow.pyfunc.load_model`, `mlflow models serve` and
    `load_model` trace the program by it, in any process that has this package.

    Args:
        model: The program.
        path: The folder that is made.
        config: What is saved in place of the options that are in force.
        arguments: All others of `mlflow.dspy.save_model`.

    Raises:
        TypeError: if *model* is no program, or it is traced in a way that JSON cannot say, by a function of yours.

    Example:
        ```python
        save_model(program, "model", use_dspy_model_save=True)
        ```
    """
    stored = tracing_in_force("save_model", model, config)
    _save(stored, model, str(path), **arguments)


def log_model(dspy_model: dspy.Module, *, config: TracingConfig | None = None, **arguments: Any) -> Any:
    """Log a program as `mlflow.dspy.log_model` does, with the configuration of its tracing and without credentials.

    Traces of the loaded model carry its id, by which MLflow's UI links them to it.

    Args:
        dspy_model: The program.
        config: What is saved in place of the options that are in force.
        arguments: All others of `mlflow.dspy.log_model`, by name.

    Returns:
        MLflow's `ModelInfo`.

    Raises:
        TypeError: if *dspy_model* is no program, or it is traced in a way that JSON cannot say, by a function of yours.

    Example:
        ```python
        info = log_model(program, name="answers")
        model = mlflow.pyfunc.load_model(info.model_uri)
        ```
    """
    stored = tracing_in_force("log_model", dspy_model, config)

    def save(path: str, mlflow_model: Model, **rest: Any) -> None:
        _save(stored, path=path, mlflow_model=mlflow_model, **rest)

    flavor: Any = types.SimpleNamespace(__name__="mlflow.dspy", save_model=save)
    arguments.setdefault("artifact_path", None)
    with suppress_tracing():  # MLflow calls the program to see that it can be served
        return Model.log(flavor=flavor, model=dspy_model, **arguments)


def load_model(model_uri: str, dst_path: str | None = None) -> Any:
    """Return the program of a model as `mlflow.dspy.load_model` does, traced as it was when it was saved.

    DSPy is configured with the settings that were saved, but callbacks that are configured stay, and so does what the
    model leaves open, such as the LM of a model that was saved without one.

    Args:
        model_uri: See `mlflow.dspy.load_model`.
        dst_path: See `mlflow.dspy.load_model`.

    Example:
        ```python
        program = load_model("models:/answers/1")
        ```
    """
    path = mlflow.artifacts.download_artifacts(model_uri, dst_path=dst_path)
    before = dict(dspy.settings.config)
    program = mlflow.dspy.load_model(path)
    loaded = dict(dspy.settings.config)
    known = {type(each) for each in before["callbacks"]}
    others = [each for each in loaded["callbacks"] if type(each) not in known and each is not None]
    open_ = {name: value for name, value in before.items() if loaded.get(name) is None}
    dspy.configure(**open_, callbacks=[*before["callbacks"], *others])
    stored = stored_in(path)
    if stored is not None:
        arm_again(program, stored)
    elif not _is_traced(program):
        arm(program, StoredTracing(), f"The model at {model_uri}")
    return program


def _save(stored: StoredTracing, model: Any, path: str, **arguments: Any) -> None:
    mlflow_model = arguments.pop("mlflow_model", None) or Model()
    metadata = {**(mlflow_model.metadata or {}), **(arguments.pop("metadata", None) or {})}
    if mlflow_model.model_id:
        stored.origin["mlflow.modelId"] = mlflow_model.model_id  # type: ignore[index]
    withholder, live = PickleWithholder(), {**dspy.settings.config}
    standing = Standing(model, stored, withholder, live)
    settings = {
        name: Pickled(pickled(value, withholder, {id(value): name}))
        for name, value in live.items()
        if name not in ("trace", "callbacks", *_OF_CALLS)
    }
    others = [each for each in live["callbacks"] if not isinstance(each, TracingCallback)]
    kept = [Pickled(pickled(each, withholder, {})) for each in others]
    _require_package(arguments)
    warn_of_credentials(arguments.get("code_paths") or ())
    with suppress_tracing(), dspy.context(**_OF_CALLS, **settings, callbacks=kept):
        mlflow.dspy.save_model(
            standing, path, mlflow_model=mlflow_model, metadata={**metadata, KEY: stored.to_dict()}, **arguments
        )
    mlflow_model.metadata = {**mlflow_model.metadata, KEY: standing.stored().to_dict()}
    mlflow_model.flavors["python_function"]["loader_module"] = "dspy_mlflow_callbacks.programs.model_loader"
    mlflow_model.save(str(Path(path) / "MLmodel"))


def _is_traced(program: Any) -> bool:
    return any(isinstance(each, TracingCallback) for each in [*program.callbacks, *dspy.settings.callbacks])


def _require_package(arguments: dict[str, Any]) -> None:
    required = arguments.get("pip_requirements")
    if isinstance(required, list) and not any(str(each).startswith(_PACKAGE) for each in required):
        arguments["pip_requirements"] = [*required, f"{_PACKAGE}=={version(_PACKAGE)}"]
