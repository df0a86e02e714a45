"""What a text as a whole can have in it, so that its parts are not searched for all there is."""

from __future__ import annotations

import attrs

from dspy_mlflow_callbacks.secrets.marks import Mark
from dspy_mlflow_callbacks.secrets.names import KEYS, LITERALS, NAME, SPACE, VALUES
from dspy_mlflow_callbacks.secrets.shapes import SHAPES, SHAPES_PATTERN, Shape

IN_JSON = Mark(f"{SHAPES_PATTERN}|{KEYS}|{VALUES}")
"""Whether there can be a secret in a text, JSON or not, or under a key of it."""

IN_TEXTS = Mark(f"{SHAPES_PATTERN}|{VALUES}")
"""Whether there can be one in a text, or in the texts of a JSON text."""

_NAMED = Mark(f"{KEYS}|{VALUES}")
_LITERAL_MARKS = {literal: Mark(rf"(?i-u:{literal}){NAME}*(?:\\*[\"'`])?\]?{SPACE}*[:=]") for literal in LITERALS}

# A few literals at a time are found fastest.
_GROUP = 8
_SHAPE_GROUPS = tuple(
    (Mark("|".join(f"(?:{shape.pattern})" for shape in group)), group)
    for group in (SHAPES[start : start + _GROUP] for start in range(0, len(SHAPES), _GROUP))
)


@attrs.frozen
class Hints:
    """The kinds of secrets that a text can have.

    Attributes:
        shapes: What is known by its own look.
        has_names: Whether there can be a secret's name beside its value.
        literals: What such names have in them, where a sign stands between the two.
    """

    shapes: tuple[Shape, ...]
    has_names: bool
    literals: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Hints:
        """Return the hints of a text, be it JSON or not."""
        has_names = _NAMED(text)
        return cls(
            tuple(shape for mark, shapes in _SHAPE_GROUPS if mark(text) for shape in shapes if shape.mark(text)),
            has_names,
            tuple(literal for literal, mark in _LITERAL_MARKS.items() if has_names and mark(text)),
        )
