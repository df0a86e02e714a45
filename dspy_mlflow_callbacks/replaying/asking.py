"""What a call that is made now is given, as the span of a recorded one says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import orjson

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.describe import describe_start
from dspy_mlflow_callbacks.events import CallKind, new_call_start
from dspy_mlflow_callbacks.replaying.divergences import first_difference
from dspy_mlflow_callbacks.replaying.recorded_lm import RecordedLM
from dspy_mlflow_callbacks.replaying.recording import Recorded

# Says nothing of what the model is asked: who answers from a cache, and how a provider is reached.
_NO_PARAMETERS = frozenset({"cache", *dspy_internals.NO_CONNECTION})


@attrs.frozen
class Asked:
    """What an LM is asked: inputs and parameters, as spans have them.

    Of an LM that was made of the recording only those parameters that the call gives: the others are a guess.
    """

    inputs: Any
    parameters: Mapping[str, Any]
    is_guess: bool


def asked(lm: Any, arguments: Mapping[str, Any]) -> Asked:
    """Return what *lm* is asked by a call with *arguments*."""
    inputs, attributes = _said(CallKind.LM, lm, arguments)
    parameters = attributes.get("dspy.lm.request", {})
    is_guess = isinstance(lm, RecordedLM)
    if is_guess:
        parameters = {name: value for name, value in parameters.items() if name in arguments.get("kwargs", {})}
    return Asked(inputs, _of_model({"model": attributes["mlflow.llm.model"], **parameters}), is_guess)


def inputs_of(kind: CallKind, instance: Any, inputs: Mapping[str, Any]) -> Any:
    """Return what a span says that a call is given."""
    return _said(kind, instance, inputs)[0]


def _said(kind: CallKind, instance: Any, inputs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return what a span says of a call that starts, its inputs and attributes, read again from its JSON."""
    call = new_call_start(kind=kind, call_id="", root_call_id="", instance=instance, inputs=inputs, name="")
    start = describe_start(call)
    attributes = {key: orjson.loads(text) for key, text in start.all_attributes().items()}
    return orjson.loads(start.inputs or "null"), attributes


def parameters_of(call: Recorded) -> dict[str, Any]:
    """Return with which parameters a recorded LM call asked which model."""
    said = call.attributes.get("dspy.lm.request") or {}
    return _of_model({"model": call.attributes.get("mlflow.llm.model"), **said})


def parameters_differ(call: Recorded, now: Asked) -> tuple[str, str] | None:
    """Return which parameter differs first from those of a recorded call, and a diff; None where none does."""
    before = parameters_of(call)
    if now.is_guess:
        before = {name: before.get(name) for name in now.parameters}
    difference = first_difference(before, dict(now.parameters))
    return None if difference is None else (f"parameters.{difference[0]}", difference[1])


def _of_model(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in _NO_PARAMETERS}
