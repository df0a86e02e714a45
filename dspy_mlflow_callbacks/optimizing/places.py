"""What becomes of a call inside a compile that is recorded in summary."""

from __future__ import annotations

import enum
from typing import Any

from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.optimizing.compiles import CompileSummary


class Place(enum.Enum):
    """What becomes of a call."""

    SPAN = "span"
    """It gets a span, as anywhere else."""

    TRIAL = "trial"
    """It is a trial, and gets a trial's span."""

    CANDIDATE = "candidate"
    """It is a candidate that an optimizer runs on an example by itself, without an evaluation: part of a trial."""

    WATCHED = "watched"
    """It gets no span; what it costs counts."""


def place_of(kind: CallKind, call_parent: str | None, instance: Any, part: Any) -> Place:
    """Return what becomes of a call of *instance*.

    Args:
        kind: What is called.
        call_parent: The id of the call around it.
        instance: The module, LM, … that is called.
        part: The compile or trial that it is a part of; inside one of a trial's example traces no question is asked.
    """
    if not isinstance(part, CompileSummary):
        return Place.WATCHED
    if kind is CallKind.COMPILE:
        return Place.SPAN
    if kind is CallKind.EVALUATE:
        return Place.TRIAL
    if kind is CallKind.MODULE and call_parent == part.call_id and part.is_candidate(instance):
        return Place.CANDIDATE
    return Place.WATCHED
