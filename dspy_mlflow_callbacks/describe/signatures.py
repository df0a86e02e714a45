"""What a DSPy signature says, as JSON texts, and the fingerprint of a whole program."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import dspy

from dspy_mlflow_callbacks.describe.demos import demos_digest, digest
from dspy_mlflow_callbacks.describe.paths import MAX_ITEMS, items, text
from dspy_mlflow_callbacks.describe.payloads import to_json, word_to_json

FINGERPRINT = "dspy.program.fingerprint"


def signature_attributes(signature: Any) -> Mapping[str, str]:
    """Return the span attributes for *signature*: its text, instructions and fields."""
    return _described(signature, signature.__doc__)


@functools.lru_cache(maxsize=512)
def _described(signature: Any, doc: str | None) -> Mapping[str, str]:
    """Describe a signature once: it is a class and changes only in its instructions, which are its *doc*."""
    return {
        "dspy.signature": to_json(signature.signature),
        "dspy.instructions": to_json(signature.instructions),
        "dspy.fields": to_json(
            {
                "inputs": {name: _field(info) for name, info in signature.input_fields.items()},
                "outputs": {name: _field(info) for name, info in signature.output_fields.items()},
            }
        ),
    }


def _field(info: Any) -> dict[str, Any]:
    extra = info.json_schema_extra or {}
    return {"type": _type_name(info.annotation), "prefix": extra.get("prefix"), "desc": extra.get("desc")}


def _type_name(annotation: Any) -> str:
    """Return a type as every version of Python writes it: what `typing.Optional[str]` shows as differs among them."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _UNIONS:
        return " | ".join(map(_type_name, arguments))
    if isinstance(origin, type) and isinstance(annotation, _GENERICS):
        return f"{origin.__name__}[{', '.join(map(_type_name, arguments))}]"
    if annotation is type(None):
        return "None"
    if annotation is ...:
        return "..."
    return annotation.__name__ if isinstance(annotation, type) and origin is None else str(annotation)


_UNIONS = (typing.Union, types.UnionType)
# `list[int]` and `typing.List[int]`, but not `Annotated[int, ...]`.
_GENERICS = (types.GenericAlias, type(typing.List[int]))  # noqa: UP006  (what it makes is meant)


def program_fingerprint(program: dspy.Module) -> str:
    """Return 16 hexadecimal digits for what a program is: its structure, signatures, instructions and demos.

    It is the beginning of a SHA-256. Equal programs have equal fingerprints in every process, in every version of
    Python, and when they are saved and loaded again; one character of an instruction makes another one. The LM and its
    parameters, and credentials with them, are no part of it. Traces have it on their roots, in
    `dspy.program.fingerprint`.

    Args:
        program: The program.

    Raises:
        TypeError: if it is no `dspy.Module`.

    Example:
        ```python
        before = program_fingerprint(program)
        compiled = optimizer.compile(program, trainset=examples)
        print(before, "became", program_fingerprint(compiled))
        ```
    """
    if not isinstance(program, dspy.Module):
        message = f"program must be a dspy.Module, got {program!r}"
        raise TypeError(message)
    return fingerprint_of(_parts(program))


def program_parts(program: Any) -> tuple[str, ...] | None:
    """Return what a program's fingerprint is made of, as it is now; None for what is no program."""
    return _parts(program) if isinstance(program, dspy.Module) else None


@functools.lru_cache(maxsize=128)
def fingerprint_of(parts: tuple[str, ...]) -> str:
    """Return the fingerprint of a program with such *parts*."""
    return digest("".join(parts))


def _parts(program: dspy.Module) -> tuple[str, ...]:
    parts = [type(program).__qualname__]
    for path, predictor in predictors(program):
        parts.append(path)
        parts.extend(signature_attributes(predictor.signature).values())
        parts.append(demos_digest(predictor.demos))
        parts.append(to_json(getattr(predictor, "fields", {})))  # thresholds, from DSPy 3.4 on
    return tuple(parts)


def predictors(program: dspy.Module) -> Iterator[tuple[str, dspy.Predict]]:
    """Yield the predictors that DSPy finds, with their paths.

    Unlike `named_predictors` this also looks into sub-programs that were compiled, ends in a ring of modules, and
    does not read a long list of data to its end (`paths.MAX_ITEMS`): it runs at every call.
    """
    waiting = [("", program)]
    seen = set()
    while waiting:
        path, module = waiting.pop()
        if id(module) not in seen:
            seen.add(id(module))
            if isinstance(module, dspy.Predict):
                yield path, module
            waiting += _submodules(path, module)


def _submodules(path: str, module: dspy.Module) -> list[tuple[str, dspy.Module]]:
    found: list[tuple[str, dspy.Module]] = []
    for name, held in vars(module).copy().items():  # another thread may set an attribute meanwhile
        cls = type(held)
        if cls in _SCALARS or (cls in _CONTAINERS and not held) or name == "history":
            continue  # most of what a module has
        if isinstance(held, dspy.Module):
            found.append((f"{path}.{name}", held))
        # One level, as DSPy does: candidates of an optimizer lie deeper.
        elif isinstance(held, (list, tuple, dict)) and _has_modules(held):
            inside = [(at, item) for at, item in items(held) if isinstance(item, dspy.Module)]
            found += [(f"{path}.{name}{text((at,))}", item) for at, item in inside]
    return found


_SCALARS = frozenset({type(None), bool, int, float, str})
_CONTAINERS = frozenset({list, tuple, dict})


def _has_modules(container: list[Any] | tuple[Any, ...] | dict[Any, Any]) -> bool:
    """Return whether a program may be in a container: most hold many values of one class, such as demos."""
    values = container.values() if isinstance(container, dict) else container
    return any(issubclass(cls, dspy.Module) for cls in set(map(type, islice(values, MAX_ITEMS))))


def fingerprint_or_none(program: Any) -> str | None:
    """Return the program's fingerprint; None for what is no program."""
    return program_fingerprint(program) if isinstance(program, dspy.Module) else None


def fingerprint_attributes(program: Any) -> dict[str, str]:
    """Return the span attribute that names the program's state; none for what is no program."""
    fingerprint = fingerprint_or_none(program)
    return {} if fingerprint is None else {FINGERPRINT: word_to_json(fingerprint)}
