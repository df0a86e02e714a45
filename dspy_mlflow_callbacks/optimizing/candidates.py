"""Candidates: programs that an optimizer tries, and what tells one from another."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import dspy

from dspy_mlflow_callbacks.describe.payloads import plain_example, to_json
from dspy_mlflow_callbacks.describe.signatures import predictors, program_fingerprint


@attrs.frozen
class Candidate:
    """A program as it is when it is tried.

    Attributes:
        fingerprint: See `program_fingerprint`; None for what is no program of DSPy's.
        instructions: What its predictors are told, line by line: signature, instructions, fields.
        demos: The demos of each predictor that has any, by path, each as JSON values.
    """

    fingerprint: str | None
    instructions: tuple[str, ...]
    demos: Mapping[str, Sequence[Any]]

    def instructions_since(self, before: Candidate | None, names: tuple[str, str]) -> str:
        """Return the instructions as a unified diff against those of *before*; without it, as they are.

        No difference is an empty text.

        Args:
            before: The candidate of the trial before.
            names: What the diff calls the two.
        """
        if before is None:
            return "\n".join(self.instructions)
        return "\n".join(difflib.unified_diff(before.instructions, self.instructions, *names, lineterm=""))

    def demos_since(self, before: Candidate | None) -> dict[str, dict[str, Any]]:
        """Return how many demos each predictor has, and which were added and removed since *before*, if any were.

        They are values and no text, so that payload steps know a field by its name.
        """
        earlier: Mapping[str, Sequence[Any]] = {} if before is None else before.demos
        return {path: _changes(earlier.get(path, ()), self.demos.get(path, ())) for path in {**earlier, **self.demos}}


def candidate_of(program: Any) -> Candidate:
    """Return *program*, which is any callable, as it is now."""
    if not isinstance(program, dspy.Module):
        return Candidate(None, (), {})
    found = [(path.removeprefix(".") or "self", predictor) for path, predictor in predictors(program)]
    return Candidate(
        program_fingerprint(program),
        tuple(line for path, predictor in found for line in _lines(path, predictor)),
        {path: [plain_example(demo) for demo in predictor.demos] for path, predictor in found if predictor.demos},
    )


def _lines(path: str, predictor: dspy.Predict) -> Iterator[str]:
    signature = predictor.signature
    yield f"{path}: {signature.signature}"
    yield from signature.instructions.splitlines()
    for name, info in signature.fields.items():
        extra = info.json_schema_extra or {}
        yield f"{name}: {extra.get('prefix')} {extra.get('desc')}"
    thresholds = getattr(predictor, "fields", None)  # from DSPy 3.4 on
    if thresholds:
        yield f"thresholds: {to_json(thresholds)}"


def _changes(before: Sequence[Any], after: Sequence[Any]) -> dict[str, Any]:
    known, left = [to_json(demo) for demo in before], [to_json(demo) for demo in after]
    changes = {
        "count": len(after),
        "added": [demo for demo, text in zip(after, left, strict=True) if text not in known],
        "removed": [demo for demo, text in zip(before, known, strict=True) if text not in left],
    }
    return {name: value for name, value in changes.items() if value != []}


@attrs.frozen
class Shape:
    """What all candidates of one compile have in common, and an optimizer's own programs have not.

    Attributes:
        cls: The program's class.
        fields: The names of the fields of each predictor, by its path; an optimizer may add predictors.
    """

    cls: type
    fields: Mapping[str, tuple[str, ...]]

    def fits(self, program: Any) -> bool:
        """Return whether *program* may be a candidate."""
        return type(program) is self.cls and self.fields.items() <= _fields(program).items()


def shape_of(program: Any) -> Shape | None:
    """Return the shape of *program*; None for what is no program."""
    return Shape(type(program), _fields(program)) if isinstance(program, dspy.Module) else None


def _fields(program: dspy.Module) -> dict[str, tuple[str, ...]]:
    return {path: tuple(each.signature.fields) for path, each in predictors(program)}
