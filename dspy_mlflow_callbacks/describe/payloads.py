"""Any value to a JSON text, never an exception.

orjson writes what is plain already. What it refuses (objects, cycles, lone surrogates, …) or would lose (NaN) is
converted value by value first, and a value that cannot be shown becomes a short description.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import enum
import functools
import gc
import marshal
import math
import pathlib
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import dspy
import orjson
import pydantic
from dspy.adapters.types.base_type import CUSTOM_TYPE_START_IDENTIFIER, split_message_content_for_custom_types

from dspy_mlflow_callbacks.describe.known import Known
from dspy_mlflow_callbacks.secrets import REDACTED, is_secret_name, without_secrets

MAX_DEPTH = 60
"""Levels of nesting that are kept; what lies deeper is described. A choice: people read no deeper."""

MAX_DESCRIPTION = 200
"""Characters of a `repr` that stands for a value."""

MIN_ATTACHMENT_BYTES = 1024
"""Bytes from which `bytes` become an attachment; fewer are described in place."""

_INT_BITS = 63  # what orjson writes
_OPTIONS = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
# What orjson writes without running any code but its own.
_EXACT = frozenset({type(None), bool, int, float, str, list, tuple, dict})
_MAX_ORJSON_DEPTH = 255
_MAX_LEVEL = 2_000_000  # values at one depth; a list that holds itself twice would have no end of them
_MARSHAL_VERSION = 4  # the first with cycles and binary floats
_NON_FINITE = re.compile(rb"[g\xe7].{6}[\xf0-\xff][\x7f\xff]", re.DOTALL)  # `marshal`'s mark, IEEE 754
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def to_json(value: Any) -> str:
    """Return *value* as a JSON text."""
    try:
        if is_exact(value):
            text = orjson.dumps(value, option=_OPTIONS).decode()
            # orjson writes NaN and infinities as null; only a text with a null can have lost one.
            if CUSTOM_TYPE_START_IDENTIFIER not in text and not ("null" in text and _has_non_finite(value)):
                return text
    except Exception:  # noqa: BLE001, S110  (whatever a hostile value raises: it is described below)
        pass
    return orjson.dumps(plain(value)).decode()


def plain(value: Any) -> Any:
    """Return *value* as None, bools, numbers, texts, lists and dicts that any JSON writer takes."""
    return _plain(value, set())


@functools.lru_cache(maxsize=512)
def word_to_json(word: str) -> str:
    """Return a text that is met at call after call, such as a model's name, as JSON."""
    return to_json(word)


@functools.lru_cache(maxsize=512)
def class_to_json(cls: type) -> str:
    """Return a class's name with its module's as JSON, as `to_json` does."""
    return to_json(cls)


def plain_example(value: Any) -> Any:
    """Return an example's or a prediction's fields as a dict: the same text, several times as fast; else *value*."""
    if type(value) not in _EXAMPLES:
        return value
    try:
        return dict(value.items())
    except Exception:  # noqa: BLE001  (another thread changes it, or a field's name is no text: `to_json` copes)
        return value


_EXAMPLES = frozenset({dspy.Example, dspy.Prediction})


def plain_without_secrets(value: Any) -> Any:
    """Return *value* as `plain` does, with everything that stands under a secret's name redacted.

    For what never is content: parameters and settings. It is done whether payloads are redacted or not.
    """
    return without_secrets(plain(value))


def parameters_to_json(parameters: Mapping[str, Any]) -> str:
    """Return *parameters* as JSON, with everything that stands under a secret's name redacted."""
    shown = {
        name: REDACTED if type(value) is str and is_secret_name(name) else value for name, value in parameters.items()
    }
    text = to_json(shown)
    if text in _WITHOUT_SECRETS:
        return text
    redacted = to_json(plain_without_secrets(shown))
    if redacted == text:
        _WITHOUT_SECRETS.keep(text, None)
    return redacted


# Parameters as JSON that were searched for secrets and had none: what has one is searched each time, and not held.
_WITHOUT_SECRETS: Known[str, None] = Known(512)


def describe_value(value: Any) -> str:
    """Return a short text that stands for a value that cannot be shown; the same in every process."""
    try:
        text = _ADDRESS.sub("", repr(value))
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return encodable(text if len(text) <= MAX_DESCRIPTION else f"{text[:MAX_DESCRIPTION]}…")


def encodable(text: str) -> str:
    """Return *text* with `?` for what UTF-8 cannot hold (lone surrogates); it may be of a subclass of str."""
    return text if type(text) is str and text.isascii() else str.encode(text, "utf-8", "replace").decode()


def is_exact(value: Any) -> bool:
    """Return whether *value* has nothing but Python's own JSON types in it; where in doubt, False.

    orjson owns nothing of what it reads. If any Python code could run meanwhile (its `default`, the `value` of an enum,
    a `__repr__`), another thread that empties a container would crash the process. None can for these types.
    """
    level = [value]
    for _ in range(_MAX_ORJSON_DEPTH):
        if len(level) > _MAX_LEVEL or not _EXACT.issuperset(map(type, level)):
            return False
        level = gc.get_referents(*level)  # what dicts and lists hold, keys too: this loop is C's
        if not level:
            return True
    return False


def _has_non_finite(value: Any) -> bool:
    """Return whether exact JSON types can hold a NaN or an infinity; now and then a text looks as if."""
    marshalled = marshal.dumps(value, _MARSHAL_VERSION)
    is_possible = b"\x7f" in marshalled or b"\xff" in marshalled  # almost no finite float has these
    return is_possible and _NON_FINITE.search(marshalled) is not None


def _plain(value: Any, above: set[int]) -> Any:
    scalar = _SCALARS.get(type(value))
    if scalar is not None:
        return scalar(value)
    if id(value) in above:
        return f"<cycle: {type(value).__name__}>"
    if len(above) >= MAX_DEPTH:
        return f"<{type(value).__name__}, nested more than {MAX_DEPTH} levels deep>"
    above.add(id(value))
    try:
        return _plain_container(value, above)
    except Exception:  # noqa: BLE001  (whatever a hostile value raises)
        return describe_value(value)
    finally:
        above.discard(id(value))


def _plain_container(value: Any, above: set[int]) -> Any:
    if type(value) is dict:
        # A list of the items: another thread may change the dict meanwhile.
        return {_key(key): _plain(item, above) for key, item in list(value.items())}
    if type(value) in (list, tuple):
        return [_plain(item, above) for item in value]
    return _plain(_convert(value), above)


def _key(key: Any) -> str:
    return encodable(key) if isinstance(key, str) else describe_value(key)


def _plain_text(text: str) -> Any:
    """Return a text; one in which DSPy has marked images and the like as the content parts that an LM would get."""
    if CUSTOM_TYPE_START_IDENTIFIER not in text:
        return encodable(text)
    try:
        (message,) = split_message_content_for_custom_types([{"role": "user", "content": text}])
        parts = message["content"]
    except Exception:  # noqa: BLE001  (a text that only looks like DSPy's)
        parts = text
    return encodable(text) if isinstance(parts, str) else plain(parts)


_SCALARS: dict[type, Callable[[Any], Any]] = {
    type(None): lambda _: None,
    bool: bool,
    str: _plain_text,
    int: lambda number: number if number.bit_length() <= _INT_BITS else describe_value(number),
    float: lambda number: number if math.isfinite(number) else str(number),
}


@functools.singledispatch
def _convert(value: Any) -> Any:
    """Return *value* one step closer to JSON; what it holds is converted next.

    What is not in the table below is known by what its class has: asking the value could run the user's code.
    """
    cls: Any = type(value)
    fields = getattr(cls, "__dataclass_fields__", None) or [each.name for each in getattr(cls, "__attrs_attrs__", ())]
    if fields:
        return {name: getattr(value, name, None) for name in fields if not name.startswith("_")}
    if hasattr(cls, "dtype") and hasattr(cls, "shape"):
        return _convert_array(value)
    if hasattr(cls, "columns") and hasattr(cls, "shape"):
        return f"<{cls.__name__} {tuple(value.shape)}>"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return describe_value(value)


def _convert_array(array: Any) -> Any:
    if array.shape != ():
        return f"<{type(array).__name__} {array.dtype} {tuple(array.shape)}>"
    item = array.item()
    return describe_value(array) if type(item) is type(array) else item


def _convert_bytes(value: bytes | bytearray | memoryview) -> str:
    data = bytes(value)
    if len(data) < MIN_ATTACHMENT_BYTES:
        return f"<{len(data)} bytes>"
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


def _convert_set(items: set[Any] | frozenset[Any]) -> list[Any]:
    """Sort the items: a set of texts has another order in every process."""
    return sorted(items, key=describe_value)


def _convert_model(model: pydantic.BaseModel) -> Any:
    # What a field holds is converted here, not by pydantic, so that one hostile field spoils only itself.
    return {name: getattr(model, name, None) for name in type(model).model_fields} | (model.model_extra or {})


def _convert_audio(audio: Any) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": audio.data, "format": audio.audio_format}}


@functools.lru_cache(maxsize=512)
def signature_text(signature: Any) -> str:
    """Return the fields of a DSPy signature, such as `question -> answer`."""
    text: str = signature.signature  # put together anew each time; fields cannot be added to a signature
    return text


_CONVERSIONS: dict[type, Callable[[Any], Any]] = {
    # DSPy. An LM shows its model only: its parameters hold the keys.
    type(dspy.Signature): signature_text,
    dspy.Audio: _convert_audio,
    dspy.Tool: lambda tool: {"name": tool.name, "desc": tool.desc, "args": tool.args},
    dspy.Example: lambda example: dict(example.items()),
    dspy.BaseLM: lambda lm: f"<{type(lm).__name__} {getattr(lm, 'model', '')}>",
    dspy.Module: lambda module: f"<{type(module).__name__}>",
    dspy.Adapter: lambda adapter: f"<{type(adapter).__name__}>",
    # Everybody else. A partial shows its function only: its arguments may hold keys as well.
    pydantic.BaseModel: _convert_model,
    type: lambda cls: f"{cls.__module__}.{cls.__qualname__}",
    functools.partial: lambda partial: partial.func,
    enum.Enum: lambda member: member.value,
    Mapping: dict,
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    list: list,
    tuple: list,
    set: _convert_set,
    frozenset: _convert_set,
    bytes: _convert_bytes,
    bytearray: _convert_bytes,
    memoryview: _convert_bytes,
    dt.date: lambda date: date.isoformat(),
    dt.time: lambda time: time.isoformat(),
    dt.timedelta: str,
    decimal.Decimal: str,
    pathlib.PurePath: str,
    uuid.UUID: str,
}
for _cls, _conversion in _CONVERSIONS.items():
    _convert.register(_cls, _conversion)
