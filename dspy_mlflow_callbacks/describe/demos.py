"""A program's demos: what they show, and a digest that tells them from others."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import Any

from dspy_mlflow_callbacks.describe.payloads import plain_example, to_json

# What nobody can change in place, and what only equals what looks like it in JSON, which `1` and `True` do not. Demos
# that hold nothing else are known by their values; all others are written each time.
_UNCHANGING = frozenset({str, bool, type(None)})


def demos_digest(demos: Sequence[Any]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the demos as JSON: equal demos, equal digest."""
    plain = [plain_example(demo) for demo in demos]
    values = tuple([tuple(chain.from_iterable(demo.items())) for demo in plain if type(demo) is dict])
    if len(values) == len(plain) and _UNCHANGING.issuperset(map(type, chain.from_iterable(values))):
        return _known_digest(values)
    return digest(to_json(plain))


def digest(text: str) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of *text*."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=128)
def _known_digest(values: tuple[tuple[Any, ...], ...]) -> str:
    """Return the digest of demos whose fields have such *values*, each after its name."""
    return digest(to_json([dict(zip(flat[::2], flat[1::2], strict=True)) for flat in values]))
