"""What a DSPy signature and its demos say, as JSON texts."""

from __future__ import annotations

import hashlib
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import dspy

from dspy_mlflow_callbacks.describe.paths import Steps, items, text
from dspy_mlflow_callbacks.describe.payloads import to_json

_KNOWN_SIGNATURES = 512


class _SignatureTexts:
    """The attributes of each signature, described once: signatures are classes and change only in their instructions.

    Holds the signatures themselves, so that an id is not met again for another one; bounded.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, str | None], tuple[Any, dict[str, str]]] = {}

    def __call__(self, signature: type[dspy.Signature]) -> dict[str, str]:
        """Return the span attributes for *signature*: its text, instructions and fields."""
        key = (id(signature), signature.__doc__)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _KNOWN_SIGNATURES:
                self._known.clear()
            self._known[key] = known = (signature, _described(signature))
        return known[1]


signature_attributes = _SignatureTexts()


def _described(signature: type[dspy.Signature]) -> dict[str, str]:
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
    # In Python 3.10 `list[int]` passes for a class.
    is_class = isinstance(annotation, type) and typing.get_origin(annotation) is None
    return annotation.__name__ if is_class else str(annotation)


def demos_digest(demos: Sequence[Any]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the demos as JSON: equal demos, equal digest."""
    return hashlib.sha256(to_json(list(demos)).encode()).hexdigest()[:16]


def program_fingerprint(program: dspy.Module) -> str:
    """Return 16 hexadecimal digits for the program's state: its predictors' signatures, instructions and demos.

    The LM and its parameters are no part of it. Equal programs have equal fingerprints in every process.
    """
    digest = hashlib.sha256(type(program).__qualname__.encode())
    for path, predictor in _predictors(program):
        digest.update(path.encode())
        for described in signature_attributes(predictor.signature).values():
            digest.update(described.encode())
        digest.update(demos_digest(predictor.demos).encode())
        digest.update(to_json(getattr(predictor, "fields", {})).encode())  # thresholds, from DSPy 3.4 on
    return digest.hexdigest()[:16]


def _predictors(program: dspy.Module) -> Iterator[tuple[str, dspy.Predict]]:
    """Yield the predictors that DSPy finds, with their paths.

    Unlike `named_predictors` this also looks into sub-programs that were compiled, ends in a ring of modules, and
    does not read a long list of data to its end (`paths.MAX_ITEMS`): it runs at every call.
    """
    waiting: list[tuple[dspy.Module, Steps]] = [(program, ())]
    seen = set()
    while waiting:
        module, steps = waiting.pop()
        if id(module) not in seen:
            seen.add(id(module))
            if isinstance(module, dspy.Predict):
                yield text(steps), module
            waiting.extend(_submodules(module, steps))


def _submodules(module: dspy.Module, steps: Steps) -> Iterator[tuple[dspy.Module, Steps]]:
    for step, held in items(module):
        if isinstance(held, dspy.Module):
            yield held, (*steps, step)
        elif isinstance(held, (list, tuple, dict)):  # one level, as DSPy does: candidates of an optimizer lie deeper
            yield from ((item, (*steps, step, at)) for at, item in items(held) if isinstance(item, dspy.Module))


def fingerprint_attributes(program: Any) -> dict[str, str]:
    """Return the span attribute that names the program's state; none for what is no program."""
    if not isinstance(program, dspy.Module):
        return {}
    return {"dspy.program.fingerprint": to_json(program_fingerprint(program))}
