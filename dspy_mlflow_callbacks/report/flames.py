"""A flame graph as boxes of HTML: they are as wide as the page, can be read aloud, and chosen by key or finger."""

from __future__ import annotations

from collections.abc import Iterator

from dspy_mlflow_callbacks.report.parts import dollars, milliseconds, text
from dspy_mlflow_callbacks.report.sums import Frame

_LEAST_SHARE = 0.004


def flame(root: Frame, of: str) -> str:
    """Return a flame graph: each box is as wide as what stands there took or cost, above it what called it."""
    total = sum(getattr(each, of) for each in root.below.values())
    if not total:
        return "<p>Nothing is known of it.</p>"
    boxes, depth = [], 0
    for frame, left, level in _boxes(root, of, 0.0, 0):
        share = getattr(frame, of) / total
        if share >= _LEAST_SHARE:
            boxes.append(_box(frame, left / total, share, level))
            depth = max(depth, level)
    return f'<div class="flame" style="height:{(depth + 1) * 26}px">{"".join(boxes)}</div>'


def _boxes(frame: Frame, of: str, left: float, level: int) -> Iterator[tuple[Frame, float, int]]:
    for each in sorted(frame.below.values(), key=lambda below: -getattr(below, of)):
        yield each, left, level
        yield from _boxes(each, of, left, level + 1)
        left += getattr(each, of)


def _box(frame: Frame, left: float, share: float, level: int) -> str:
    cost = f", {dollars(frame.cost)}" if frame.cost else ""
    said = f"{text(frame.name)}: {frame.calls:,} calls, {milliseconds(frame.milliseconds)}{cost}, {share:.1%}"
    place = f"left:{left:.4%};width:{share:.4%};top:{level * 26}px"
    shown = f'data-said="{said}" title="{said}">{text(frame.name)}'
    return f'<button type="button" class="hue{level % 4}" style="{place}" {shown}</button>'
