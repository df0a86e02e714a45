"""Values that a program may hand around, and that somebody else's code chokes on."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid

import dspy
from hypothesis import strategies as st

TERMINAL = "\x1b[31m\x1b]0;title\x07\x9b2J\r\x08"
"""What a terminal obeys: colours, its title, erasing, going back."""

MARKUP = "</script><script>alert(1)</script> [red]x[/red] [click](javascript:x) | `````` <b>\u202eabc\u200b & \\"
"""What a browser, rich, Markdown and a reader's eye obey."""


def _raises(*_, **__):
    raise RuntimeError("a hostile value")


class RaisingRepr:
    __repr__ = __str__ = __format__ = _raises


class RaisingEquality:
    __eq__ = __ne__ = __hash__ = __bool__ = __len__ = _raises


class RaisingAttributes:
    def __getattr__(self, name):
        raise RuntimeError("a hostile value")


class RaisingMapping(dict):
    items = keys = values = __iter__ = __getitem__ = _raises


class RaisingList(list):
    __iter__ = __len__ = __getitem__ = _raises


class RaisingConversions:
    model_dump = to_dict = dict = __json__ = __iter__ = __reduce__ = __getstate__ = __dir__ = _raises


class LyingRepr:
    def __repr__(self):
        return 7


class LyingClass:
    __class__ = property(_raises)


class Level(enum.Enum):
    HIGH = object()


def _cyclic_list(value):
    cycle = [value]
    cycle.append(cycle)
    return cycle


def _cyclic_mapping(value):
    cycle = {"value": value}
    cycle["self"] = {"again": [cycle]}
    return cycle


def _cyclic_object(value):
    cycle = RaisingConversions()
    cycle.value, cycle.itself = value, cycle
    return cycle


def _nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


ODD = st.sampled_from(
    [
        RaisingRepr,
        RaisingEquality,
        RaisingAttributes,
        lambda: RaisingMapping(a=1),
        lambda: RaisingList([1]),
        RaisingConversions,
        LyingRepr,
        lambda: RaisingRepr,
        lambda: Level.HIGH,
        lambda: (each for each in [1]),
        lambda: _nested(2_000),
        lambda: "x" * 300_000,
        lambda: 10**5_000,
        lambda: -(2**63) - 1,
        lambda: float("nan"),
        lambda: complex(1, float("inf")),
        lambda: decimal.Decimal("sNaN"),
        lambda: dt.datetime.max,  # noqa: DTZ901  (without a timezone)
        lambda: uuid.UUID(int=0),
        lambda: memoryview(b"\xff\x00"),
        lambda: bytearray(b"\xff"),
        lambda: {1: 2, None: 3, (4,): 5, b"\xff": 6, "\ud800": 7},
        lambda: {"self", 1, None},
        lambda: "\ud800 \x00 " + TERMINAL,
        lambda: print,
        lambda: dspy.Prediction(answer=RaisingRepr()),
        lambda: dspy.Example(question=RaisingEquality()),
        lambda: RuntimeError(RaisingRepr()),
        lambda: NotImplemented,
        lambda: ...,
    ]
).map(lambda make: make())

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20)

VALUES = st.recursive(
    PLAIN | ODD,
    lambda values: st.one_of(
        st.lists(values, max_size=3),
        st.tuples(values, values),
        st.dictionaries(st.text(max_size=5) | st.integers() | st.none(), values, max_size=3),
        values.map(_cyclic_list),
        values.map(_cyclic_mapping),
        values.map(_cyclic_object),
    ),
    max_leaves=6,
)
"""Values of any kind: plain, nested, cyclic, huge, and objects whose own methods raise or lie."""

TEXTS = st.text(st.characters(), max_size=40) | st.sampled_from([TERMINAL, MARKUP, "\ud800", "\x00", "x" * 5_000])
"""Texts with any character, halves of surrogate pairs too."""
