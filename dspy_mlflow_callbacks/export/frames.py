"""Frames: what the program and its exporter process say to each other, over pipes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import orjson

_SIZES = struct.Struct("!II")

Frame = tuple[dict[str, Any], bytes]


def packed(header: dict[str, Any], body: bytes = b"") -> bytes:
    """Return a frame as bytes: the sizes of both parts, the header as JSON, the body as it is."""
    text = orjson.dumps(header)
    return b"".join((_SIZES.pack(len(text), len(body)), text, body))


def read_frame(read: Callable[[int], bytes]) -> Frame | None:
    """Return the next frame; None where the other side has ended, be it in the middle of one.

    Args:
        read: Returns up to so many bytes, and none at the end.
    """
    sizes = _read_exactly(read, _SIZES.size)
    if sizes is None:
        return None
    header_size, body_size = _SIZES.unpack(sizes)
    both = _read_exactly(read, header_size + body_size)
    if both is None:
        return None
    return orjson.loads(both[:header_size]), both[header_size:]


def _read_exactly(read: Callable[[int], bytes], size: int) -> bytes | None:
    parts: list[bytes] = []
    while size:
        part = read(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
