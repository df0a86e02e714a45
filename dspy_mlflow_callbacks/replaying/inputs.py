"""The arguments of a recorded call of a program, as the program takes them."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import dspy
import pydantic

from dspy_mlflow_callbacks.replaying.recording import Recorded

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

# What a Predict takes beside its fields, of which a span has only a description.
_OF_PREDICT = frozenset({"config", "demos", "signature", "lm"})


class OtherProgramError(Exception):
    """A program does not take what the recorded one was given."""


def arguments_of(root: Recorded, program: Any) -> Arguments:
    """Return the positional and the keyword arguments with which *program* is called as *root* was.

    JSON values become what the program's annotations ask for: those of its `forward`, of its signature, or of the
    predictors in it that have an input field of that name.

    Raises:
        OtherProgramError: if it does not take these arguments.
    """
    values = {name: value for name, value in root.inputs.items() if name != "lm"}
    types = _types(program)
    named = {name: _as_type(types.get(name), value) for name, value in values.items()}
    return _bound(program, named)


def _bound(program: Any, named: dict[str, Any]) -> Arguments:
    if isinstance(program, dspy.Predict):
        unknown = named.keys() - program.signature.input_fields.keys() - _OF_PREDICT
        _refuse(program, sorted(unknown))
        return (), named
    signature = _signature(program)
    rest = next((each.name for each in signature.parameters.values() if each.kind is each.VAR_POSITIONAL), None)
    args: tuple[Any, ...] = ()
    if rest in named:
        before = [each.name for each in signature.parameters.values() if each.kind is each.POSITIONAL_OR_KEYWORD]
        args = (*(named.pop(name) for name in before if name in named), *named.pop(rest))
    try:
        signature.bind(*args, **named)
    except TypeError:
        _refuse(program, sorted(named))
    return args, named


def _refuse(program: Any, names: list[str]) -> None:
    if names:
        raise OtherProgramError(", ".join(names))


def _signature(program: Any) -> inspect.Signature:
    signature = inspect.signature(_function(program))
    if not isinstance(program, dspy.Module):
        return signature
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _function(program: Any) -> Any:
    """Return what a call of *program* runs; of a module its class's, since DSPy warns of an instance's."""
    if not isinstance(program, dspy.Module):
        return program
    return getattr(type(program), "forward", None) or type(program).aforward


def _types(program: Any) -> dict[str, Any]:
    """Return the types by parameter; where several say one, the outermost holds."""
    types: dict[str, Any] = {}
    if isinstance(program, dspy.Module):
        for _, predictor in reversed(program.named_predictors()):
            types.update({name: info.annotation for name, info in predictor.signature.input_fields.items()})
        signature = getattr(program, "signature", None)
        types.update({name: info.annotation for name, info in getattr(signature, "input_fields", {}).items()})
    try:
        hints = typing.get_type_hints(_function(program))
    except Exception:  # noqa: BLE001  (no function, or a name that cannot be found where it stands)
        hints = {}
    return {**types, **hints}


def _as_type(annotation: Any, value: Any) -> Any:
    if annotation in (None, Any, str, dict, list, int, float, bool):
        return value
    try:
        return pydantic.TypeAdapter(annotation).validate_python(_with_audio(value))
    except Exception:  # noqa: BLE001  (what it cannot be made of stays as it was recorded: the prompt will tell)
        return value


def _with_audio(value: Any) -> Any:
    """Return *value* with `dspy.Audio` for what spans show as OpenAI's audio parts."""
    if isinstance(value, list):
        return [_with_audio(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"type", "input_audio"}:
        return dspy.Audio(data=value["input_audio"]["data"], audio_format=value["input_audio"]["format"])
    return {name: _with_audio(item) for name, item in value.items()}
