"""Which span of one trace is which of another: an alignment of siblings.

Siblings keep their order, so theirs is a global sequence alignment (Needleman and Wunsch, "A general method applicable
to the search for similarities in the amino acid sequence of two proteins", 1970): spans of one key may be aligned,
rather those with equal inputs, and gaps cost nothing. What is then left over on both sides under one key has moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs

from dspy_mlflow_callbacks.compare.tree import Node, digest

Kind = Literal["same", "moved", "added", "removed"]
_Pairs = list[tuple[int, int]]


@attrs.frozen
class Pair:
    """A span of the one trace, and the one of the other that it is; None where there is none.

    Attributes:
        kind: `same` for one in its place, `moved` for one among other siblings, `added` for one that only the second
            trace has, `removed` for one that only the first has.
    """

    kind: Kind
    a: Node | None
    b: Node | None
    depth: int


def align(a: Node, b: Node, depth: int = 0) -> list[Pair]:
    """Align two trees; roots are aligned whatever they are. Aligned the other way round, the pairs are the same."""
    return [Pair("same", a, b, depth), *_below(a.children, b.children, depth + 1)]


def _below(a: Sequence[Node], b: Sequence[Node], depth: int) -> list[Pair]:
    kept = _aligned(a, b)
    moved = _moved(a, b, kept)
    partner = dict([*kept, *moved])
    taken = set(partner.values())
    pairs: list[Pair] = []
    rest = [(index, node) for index, node in enumerate(b) if index not in taken]
    for index, node in enumerate(a):
        pairs += _from(node, b, partner.get(index), depth, is_moved=(index, partner.get(index)) in moved)
    return [*pairs, *(each for _, node in rest for each in _alone("added", node, depth))]


def _from(node: Node, b: Sequence[Node], other: int | None, depth: int, *, is_moved: bool) -> list[Pair]:
    if other is None:
        return _alone("removed", node, depth)
    first, *below = align(node, b[other], depth)
    return [attrs.evolve(first, kind="moved") if is_moved else first, *below]


def _alone(kind: Literal["added", "removed"], node: Node, depth: int) -> list[Pair]:
    pair = Pair(kind, node, None, depth) if kind == "removed" else Pair(kind, None, node, depth)
    return [pair, *(each for child in node.children for each in _alone(kind, child, depth + 1))]


def _aligned(a: Sequence[Node], b: Sequence[Node]) -> _Pairs:
    """Return the indices of aligned siblings.

    Of two alignments that are equally good one is taken, so the sequences are put into an order of their own first.
    """
    keys_a, keys_b = _keys(a), _keys(b)
    if (len(keys_a), keys_a) > (len(keys_b), keys_b):
        return sorted((i, j) for j, i in _best(keys_b, keys_a))
    return _best(keys_a, keys_b)


def _keys(nodes: Sequence[Node]) -> list[tuple[str, str]]:
    return [(node.key, digest([node.inputs, node.outputs])) for node in nodes]


def _best(a: Sequence[tuple[str, str]], b: Sequence[tuple[str, str]]) -> _Pairs:
    scores = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in reversed(range(len(a))):
        row, below = scores[i], scores[i + 1]
        for j in reversed(range(len(b))):
            row[j] = max(below[j], row[j + 1], below[j + 1] + _score(a[i], b[j]))
    return _path(a, b, scores)


def _path(a: Sequence[tuple[str, str]], b: Sequence[tuple[str, str]], scores: Sequence[Sequence[int]]) -> _Pairs:
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        score = _score(a[i], b[j])
        if score and scores[i][j] == scores[i + 1][j + 1] + score:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif scores[i][j] == scores[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def _score(a: tuple[str, str], b: tuple[str, str]) -> int:
    return (3 if a == b else 2) if a[0] == b[0] else 0


def _moved(a: Sequence[Node], b: Sequence[Node], kept: _Pairs) -> _Pairs:
    """Return the indices of those that stand among other siblings than before, in their order."""
    left = [index for index in range(len(a)) if index not in dict(kept)]
    right = [index for index in range(len(b)) if index not in {other for _, other in kept}]
    moved: _Pairs = []
    for index in left:
        other = next((each for each in right if b[each].key == a[index].key), None)
        if other is not None:
            right.remove(other)
            moved.append((index, other))
    return moved
