"""Modules, retrievers and embedders."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import dspy

from dspy_mlflow_callbacks.describe.content import TRACE_ATTRIBUTES_ERROR, Closing, Opening
from dspy_mlflow_callbacks.describe.demos import demos_digest
from dspy_mlflow_callbacks.describe.paths import path_of
from dspy_mlflow_callbacks.describe.payloads import (
    class_to_json,
    describe_value,
    encodable,
    plain_example,
    plain_without_secrets,
    to_json,
)
from dspy_mlflow_callbacks.describe.signatures import signature_attributes
from dspy_mlflow_callbacks.events import EMPTY, CallEnd, CallKind, CallStart

# DSPy's own classes by MLflow's span type; the names that the installed version lacks are passed over.
_SPAN_TYPES = {
    "AGENT": ("ReAct", "ReActV2", "RLM", "CodeAct", "ProgramOfThought"),
    "RETRIEVER": ("Retrieve", "KNN"),
    "EMBEDDING": ("Embedder",),
}
_SIGNATURE = type(dspy.Signature)
_RETRIEVERS_MODULE = "dspy.retrievers"


def name(kind: CallKind, instance: Any, inputs: Mapping[str, Any], parent: CallStart | None) -> str:
    """Return where the module stands in the program."""
    return path_of(instance, parent)


def start(call: CallStart) -> Opening:
    """Describe the start of a module's call."""
    instance = call.instance
    cls: Any = type(instance)
    signature = getattr(instance, "signature", None)
    demos = instance.demos if isinstance(instance, dspy.Predict) else None
    facts = (
        signature_attributes(signature) if isinstance(signature, _SIGNATURE) else EMPTY,
        None if demos is None else (len(demos), demos_digest(demos) if demos else None),
    )
    return Opening(
        span_type=_span_type(cls),
        inputs=_inputs(call),
        attributes=_own_attributes(instance),
        later=functools.partial(_attributes, cls, *facts),
    )


def end(call: CallStart, end: CallEnd) -> Closing:
    """Describe what a module returned."""
    return Closing(outputs=plain_example(end.outputs))


@functools.lru_cache(maxsize=1024)
def _span_type(cls: type) -> str:
    for span_type, names in _SPAN_TYPES.items():
        if any(issubclass(cls, known) for name in names if (known := getattr(dspy, name, None)) is not None):
            return span_type
    if any(base.__module__.startswith(_RETRIEVERS_MODULE) for base in cls.__mro__):
        return "RETRIEVER"
    return "CHAIN"


def _inputs(call: CallStart) -> dict[str, Any]:
    """Name the positional arguments as `forward` does, and leave DSPy's packing away."""
    named = dict(call.inputs)
    args, kwargs = named.pop("args", ()), named.pop("kwargs", {})
    if args:
        named.update(_bound(type(call.instance), args))
    named.update(kwargs)
    # What a Predict takes beside its fields may hold request parameters.
    return {**named, "config": plain_without_secrets(named["config"])} if "config" in named else named


def _bound(cls: type, args: tuple[Any, ...]) -> dict[str, Any]:
    names, rest = _positional_names(cls)
    named = dict(zip(names, args, strict=False))
    return {**named, rest: list(args[len(names) :])} if len(args) > len(names) else named


@functools.lru_cache(maxsize=1024)
def _positional_names(cls: Any) -> tuple[tuple[str, ...], str]:
    """Return the names of the positional parameters of *cls*'s `forward`, and the name of its `*args`."""
    forward = getattr(cls, "forward", None) or getattr(cls, "aforward", None)
    parameters = list(inspect.signature(forward).parameters.values())[1:] if forward is not None else []
    rest = (parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.VAR_POSITIONAL)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(each.name for each in parameters if each.kind in positional), next(rest, "args")


def _attributes(cls: Any, signature: Mapping[str, str], demos: tuple[int, str | None] | None) -> dict[str, str]:
    attributes = {"dspy.class": class_to_json(cls), **signature}
    if demos is not None:
        attributes["dspy.demos"] = _demos_text(*demos)
    return attributes


@functools.lru_cache(maxsize=512)
def _demos_text(count: int, digest: str | None) -> str:
    return to_json({"count": count, "digest": digest})


def _own_attributes(instance: Any) -> dict[str, str]:
    """Return what the module itself wants to say: its `trace_attributes()`, a mapping of values by name."""
    trace_attributes = getattr(instance, "trace_attributes", None)
    if not callable(trace_attributes):
        return {}
    try:
        own = trace_attributes()
        if isinstance(own, Mapping):
            return {encodable(str(key)): to_json(value) for key, value in own.items()}
        problem = f"trace_attributes() must return a mapping, got {type(own).__name__}"
    except Exception as error:  # noqa: BLE001  (the user's own method; the span goes on without it)
        problem = describe_value(error)
    return {TRACE_ATTRIBUTES_ERROR: to_json(problem)}
