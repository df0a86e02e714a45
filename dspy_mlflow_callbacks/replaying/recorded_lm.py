"""The LM that a program finds which has none of its own: one as the recorded one was, as far as a trace tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy
import orjson

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.replaying.marks import mark_in
from dspy_mlflow_callbacks.replaying.recording import Recorded, Recording


class RecordedLM(dspy.BaseLM):
    """An LM made of a recording. It only names the model: what it is asked is answered from elsewhere."""


def recorded_lm(recording: Recording, configured: Any) -> Any:
    """Return the LM that programs without one of their own are to find.

    It is *configured* where that is of the recorded model; else one is made, which says that it can do what the
    recorded one did: programs ask that before they call it.
    """
    calls = recording.calls(CallKind.LM)
    if not calls or getattr(configured, "model", None) == _model(calls[0]):
        return configured
    alike = [call for call in calls if _model(call) == _model(calls[0])]
    said = [_request(call) for call in alike]
    module, _, name = str(calls[0].attributes.get("dspy.class", "dspy.LM")).rpartition(".")
    cls = type(name, (RecordedLM,), {**_abilities(alike, said), "__module__": module, "__qualname__": name})
    return cls(_model(calls[0]), calls[0].attributes.get("dspy.lm.model_type", "chat"), **_common(said))


def _abilities(calls: list[Recorded], requests: list[Mapping[str, Any]]) -> dict[str, Any]:
    names = {name for request in requests for name in request}
    formats = [request["response_format"] for request in requests if "response_format" in request]
    return {
        "supports_function_calling": any(call.inputs.get("tools") for call in calls if isinstance(call.inputs, dict)),
        "supports_response_schema": any(each != {"type": "json_object"} for each in formats),
        "supports_reasoning": "reasoning_effort" in names,
        "supported_params": names,
    }


def _model(call: Recorded) -> str:
    return str(call.attributes["mlflow.llm.model"])


def _request(call: Recorded) -> Mapping[str, Any]:
    return call.attributes.get("dspy.lm.request") or {}


def _common(requests: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the parameters that all *requests* have: those of their LM, not of single calls."""
    first, *others = requests
    texts = [{name: orjson.dumps(value) for name, value in each.items()} for each in others]
    return {
        name: value
        for name, value in first.items()
        if mark_in(value) is None
        and name not in dspy_internals.NO_CONNECTION
        and all(each.get(name) == orjson.dumps(value) for each in texts)
    }
