"""Any value to a JSON text, never an exception.

orjson does the work where it can. What it refuses (cycles, lone surrogates, raising `__str__`, …) or would lose
(NaN) is converted value by value instead, and a value that cannot be shown becomes a short description.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import math
from collections.abc import Callable, Mapping
from typing import Any

import dspy
import orjson
import pydantic

MAX_DEPTH = 60
"""Levels of nesting that are kept; what lies deeper is described. A choice: people read no deeper."""

MAX_DESCRIPTION = 200
"""Characters of a `repr` that stands for a value."""

MIN_ATTACHMENT_BYTES = 1024
"""Bytes from which `bytes` become an attachment; fewer are described in place."""

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS
_INT_BITS = 63  # what orjson writes


def to_json(value: Any) -> str:
    """Return *value* as a JSON text."""
    try:
        text = orjson.dumps(value, default=_convert, option=_OPTIONS)
        # orjson writes NaN and infinities as null; only a text with a null can have lost one.
        if b"null" not in text:
            return text.decode()
    except Exception:  # noqa: BLE001  (whatever a hostile value raises: it is described below)
        text = None
    return orjson.dumps(plain(value), option=orjson.OPT_NON_STR_KEYS).decode()


def plain(value: Any) -> Any:
    """Return *value* as None, bools, numbers, texts, lists and dicts that any JSON writer takes."""
    return _plain(value, 0, set())


def describe_value(value: Any) -> str:
    """Return a short text that stands for a value that cannot be shown."""
    try:
        text = repr(value)
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    text = text if len(text) <= MAX_DESCRIPTION else f"{text[:MAX_DESCRIPTION]}…"
    return _encodable(text)


def _plain(value: Any, depth: int, above: set[int]) -> Any:
    scalar = _SCALARS.get(type(value))
    if scalar is not None:
        return scalar(value)
    if id(value) in above:
        return f"<cycle: {type(value).__name__}>"
    if depth >= MAX_DEPTH:
        return f"<{type(value).__name__}, nested more than {MAX_DEPTH} levels deep>"
    return _plain_container(value, depth + 1, above | {id(value)})


def _plain_container(value: Any, depth: int, above: set[int]) -> Any:
    try:
        if isinstance(value, Mapping):
            return {_key(key): _plain(item, depth, above) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [_plain(item, depth, above) for item in value]
        return _plain(_convert(value), depth, above)
    except Exception:  # noqa: BLE001  (whatever a hostile value raises)
        return describe_value(value)


def _key(key: Any) -> str:
    return _encodable(key) if isinstance(key, str) else describe_value(key)


def _encodable(text: str) -> str:
    """Replace what UTF-8 cannot hold (lone surrogates); *text* may be of a subclass of str."""
    return str.encode(text, "utf-8", "replace").decode()


_SCALARS: dict[type, Callable[[Any], Any]] = {
    type(None): lambda _: None,
    bool: bool,
    str: _encodable,
    int: lambda number: number if number.bit_length() <= _INT_BITS else str(number),
    float: lambda number: number if math.isfinite(number) else str(number),
}


def _convert(value: Any) -> Any:
    """Return *value* one step closer to JSON; what the writer meets inside comes back here."""
    for types, convert in _CONVERSIONS:
        if isinstance(value, types):
            return convert(value)
    return _convert_foreign(value)


def _convert_foreign(value: Any) -> Any:
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return value.item() if value.shape == () else f"<{type(value).__name__} {value.dtype} {tuple(value.shape)}>"
    if hasattr(value, "columns") and hasattr(value, "shape"):
        return f"<{type(value).__name__} {tuple(value.shape)}>"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return describe_value(value)


def _convert_image(image: Any) -> dict[str, str]:
    return {"url": image.url}


def _convert_bytes(value: bytes | bytearray | memoryview) -> str:
    data = bytes(value)
    if len(data) < MIN_ATTACHMENT_BYTES:
        return f"<{len(data)} bytes>"
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


def _convert_model(model: pydantic.BaseModel) -> Any:
    # Python mode: what a field holds is converted here, not by pydantic, so one hostile field spoils only itself.
    return {name: getattr(model, name, None) for name in type(model).model_fields} | (model.model_extra or {})


def _convert_audio(audio: Any) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": audio.data, "format": audio.audio_format}}


def _convert_tool(tool: Any) -> dict[str, Any]:
    return {"name": tool.name, "desc": tool.desc, "args": tool.args}


def _convert_module(module: Any) -> str:
    return f"<{type(module).__name__}>"


def _convert_signature(signature: type[dspy.Signature]) -> str:
    text: str = signature.signature
    return text


def _types(*names: str) -> tuple[type, ...]:
    """Return those of DSPy's classes that the installed version has."""
    found = (getattr(dspy, name, None) for name in names)
    return tuple(each for each in found if isinstance(each, type))


# The most specific first. An LM shows its model only: its parameters hold the keys.
_CONVERSIONS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (type(dspy.Signature), _convert_signature),
    (_types("Image"), _convert_image),
    (_types("Audio"), _convert_audio),
    (_types("Tool"), _convert_tool),
    ((dspy.Example,), lambda example: dict(example.items())),
    ((dspy.BaseLM,), lambda lm: f"<{type(lm).__name__} {lm.model}>"),
    ((dspy.Module, dspy.Adapter), _convert_module),
    ((pydantic.BaseModel,), _convert_model),
    ((enum.Enum,), lambda member: member.value),
    ((Mapping,), dict),
    ((str,), str.__str__),
    ((bytes, bytearray, memoryview), _convert_bytes),
    ((list, tuple, set, frozenset), list),
)
