"""What runs again: the program given or the trace's own logged model, and the LM that it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import dspy
import mlflow

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.callbacks import TracingCallback
from dspy_mlflow_callbacks.replaying.errors import ReplayError
from dspy_mlflow_callbacks.replaying.recording import Recording
from dspy_mlflow_callbacks.stats import without_credentials


@attrs.frozen
class Runnable:
    """A program that a replay runs, and DSPy's settings around it.

    Attributes:
        program: A module or a function.
        lm: The LM in the settings.
        adapter: The adapter in the settings.
    """

    program: Any
    lm: Any
    adapter: Any


def runnable(recording: Recording, program: Any) -> Runnable:
    """Return *program*, or without one the logged model that *recording* names, in its settings.

    Raises:
        TypeError: if *program* cannot be called.
        ReplayError: if there is none.
    """
    if program is None:
        return _logged(recording)
    if isinstance(program, type) or not callable(program):
        message = f"replay: program must be a dspy.Module or a function, got {program!r}"
        raise TypeError(message)
    return Runnable(program, dspy.settings.lm, dspy.settings.adapter)


def _logged(recording: Recording) -> Runnable:
    if recording.model_id is None:
        reason = "it names no logged model (metadata mlflow.modelId): give the program that was recorded with program=."
        raise ReplayError(recording.trace_id, [reason])
    try:
        with dspy_internals.restored_settings(), _active_model_kept():
            program = mlflow.dspy.load_model(f"models:/{recording.model_id}")
            return Runnable(program, dspy.settings.lm, dspy.settings.adapter)
    except Exception as error:  # whatever loading raises: a store that is away, a class that is not there, ...
        reason = without_credentials(
            f"its model {recording.model_id} cannot be loaded ({error}): give the program with program=."
        )
        raise ReplayError(recording.trace_id, [reason]) from error


@contextmanager
def _active_model_kept() -> Iterator[None]:
    """Let no later trace be one of the model that is loaded inside: MLflow makes it the active one."""
    before = mlflow.get_active_model_id()
    try:
        yield
    finally:
        if before is not None:
            mlflow.set_active_model(model_id=before)
        elif mlflow.get_active_model_id() is not None:
            mlflow.clear_active_model()


def copied(program: Any) -> Any:
    """Return a copy of a module, with its own callbacks but for those that trace it; a function as it is."""
    if not isinstance(program, dspy.Module):
        return program
    made = program.deepcopy()
    own = getattr(program, "callbacks", None) or ()
    made.callbacks = [each for each in own if not isinstance(each, TracingCallback)]
    return made


def is_async(program: Any) -> bool:
    """Return whether a module runs in async calls only."""
    return isinstance(program, dspy.Module) and not hasattr(type(program), "forward")


def real_lm(program: Any, lm: Any, stand_in: Any, configured: Any) -> Callable[[Any], Any]:
    """Return what names the LM that is called for real where the program calls one.

    Args:
        program: The program.
        lm: The LM that was given for it; None is the program's own.
        stand_in: The LM of the recorded model that stands in the settings.
        configured: The LM in the settings of whoever asked for the replay.

    Raises:
        ValueError: if there is none.
    """
    if lm is None and configured is None and not _has_lm(program):
        message = "replay: mode='live' calls an LM: give one with lm=, or configure one with dspy.configure(lm=...)"
        raise ValueError(message)
    if lm is not None:
        return lambda _: lm
    return lambda asked: configured if asked is stand_in and configured is not None else asked


def _has_lm(program: Any) -> bool:
    predictors = program.predictors() if isinstance(program, dspy.Module) else ()
    return any(predictor.lm is not None for predictor in predictors)
