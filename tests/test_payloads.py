"""Any value becomes a JSON text: nothing raises, nothing is changed, nothing is lost without a word."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import json
import math
import pathlib
import sys
import threading
import uuid
from typing import NamedTuple
from unittest import mock

import attrs
import dspy
import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import answering

from dspy_mlflow_callbacks.describe import payloads
from dspy_mlflow_callbacks.describe.payloads import (
    MAX_DEPTH,
    MAX_DESCRIPTION,
    MIN_ATTACHMENT_BYTES,
    describe_value,
    parameters_to_json,
    plain_without_secrets,
    to_json,
)
from dspy_mlflow_callbacks.secrets import REDACTED


class Raises:
    """Raises in each method that a serialiser may call."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __str__(self):
        raise RuntimeError("str")

    __repr__ = __str__

    def model_dump(self, **_):
        raise RuntimeError("model_dump")


class RaisingMapping(collections.UserDict):
    def items(self):
        raise RuntimeError("items")

    keys = __iter__ = items

    def __repr__(self):
        return "a raising mapping"


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()

    def __str__(self):
        raise RuntimeError("str")


class Number(int):
    def __repr__(self):
        return "a number"


class Ratio(float):
    def __repr__(self):
        return "a ratio"


class Pair(NamedTuple):
    left: object
    right: object


@dataclasses.dataclass
class Point:
    x: int
    y: object
    _hidden: int = 0


@attrs.define
class Slotted:
    name: str
    inner: object


class Document(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True, extra="allow")
    title: str
    body: object = None


class Greeting(dspy.Signature):
    """Greet."""

    name: str = dspy.InputField()
    greeting: str = dspy.OutputField()


def search(query: str) -> str:
    """Find it."""
    return query


def test_hostile_value_is_described():
    """A value that raises wherever it is touched is named by its class and what it raised."""
    assert json.loads(to_json({"good": 1, "bad": Raises()})) == {
        "good": 1,
        "bad": "<Raises whose repr raised RuntimeError>",
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "nan"),
        ([1.0, float("inf"), -float("inf"), None], [1.0, "inf", "-inf", None]),
        ({"a": None, "b": (1.5, True)}, {"a": None, "b": [1.5, True]}),
        (2**63 - 1, 2**63 - 1),
        ([2**200], [str(2**200)]),
        ([10**5000, 1], ["<int whose repr raised ValueError>", 1]),
        (b"abc", "<3 bytes>"),
        (bytearray(b"ab"), "<2 bytes>"),
        (memoryview(b"a"), "<1 bytes>"),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        ({"key \udfff": "\ud800"}, {"key ?": "?"}),
        ({None: 1, 2: 2, 2.5: 3, True: 4, (1, 2): 5}, {"None": 1, "2": 2, "2.5": 3, "True": 4, "(1, 2)": 5}),
        ({Text("text"): Text("value")}, {"text": "value"}),
        (Colour.RED, "red"),
        ([Level.LOW, Number(5), Ratio(0.5)], [1, 5, 0.5]),
        (Pair(1, {"a", "c", "b"}), [1, ["a", "b", "c"]]),
        (frozenset({2}), [2]),
        (collections.deque([1]), "deque([1])"),
        (collections.OrderedDict(a=collections.Counter("a")), {"a": {"a": 1}}),
        (Point(1, Point(2, None, 3)), {"x": 1, "y": {"x": 2, "y": None}}),
        (Slotted("a", Slotted("b", float("nan"))), {"name": "a", "inner": {"name": "b", "inner": "nan"}}),
        (RaisingMapping(), "a raising mapping"),
        (dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc), "2026-01-02T03:04:05+00:00"),
        ([dt.date(2026, 1, 2), dt.time(3, 4), None], ["2026-01-02", "03:04:00", None]),
        (dt.timedelta(seconds=90), "0:01:30"),
        (decimal.Decimal("1.10"), "1.10"),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (ValueError("no"), "ValueError('no')"),
        (1 + 2j, "(1+2j)"),
        (Point, f"{__name__}.Point"),
        (search, f"{__name__}.search"),
        (functools.partial(search, query="secret"), f"{__name__}.search"),
        (object(), "<object object>"),
    ],
)
def test_python_values(value, expected):
    """Python's own types show what they hold; what JSON has no word for becomes a text."""
    assert json.loads(to_json(value)) == expected


@pytest.mark.parametrize("beside", [[], [None, float("nan")]], ids=["alone", "beside"])
@pytest.mark.parametrize(
    "value", [dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc), uuid.UUID(int=1), Colour.RED, Point(1, 2), (1, "a")]
)
def test_value_looks_the_same_beside_any_other(value, beside):
    """A value is shown alike whether or not its neighbours need care."""
    assert json.loads(to_json([value, *beside]))[0] == json.loads(to_json(value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        ([np.float64("nan"), np.int64(3), np.bool_(True), np.str_("a")], ["nan", 3, True, "a"]),
        (np.longdouble(1), "np.longdouble('1.0')"),
        (np.zeros((2, 3), dtype="float32"), "<ndarray float32 (2, 3)>"),
        (np.array(4), 4),
        (pd.DataFrame({"a": [1, 2]}), "<DataFrame (2, 1)>"),
        (pd.Series([1, 2, 3]), "<Series int64 (3,)>"),
        (pd.Timestamp("2026-01-02"), "2026-01-02T00:00:00"),
    ],
)
def test_arrays_and_frames(value, expected):
    """numpy's scalars are numbers, arrays and frames are told by their size."""
    assert json.loads(to_json(value)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (dspy.Example(question="q", answer=None).with_inputs("question"), {"question": "q", "answer": None}),
        (dspy.Prediction(answer="a", score=np.float64(0.5)), {"answer": "a", "score": 0.5}),
        (dspy.History(messages=[{"question": "q"}]), {"messages": [{"question": "q"}]}),
        (
            dspy.Tool(search),
            {"name": "search", "desc": "Find it.", "args": {"query": {"type": "string"}}},
        ),
        (dspy.LM("openai/gpt-4o", api_key="sk-secret"), "<LM openai/gpt-4o>"),
        (Greeting, "name -> greeting"),
        (dspy.Predict("question -> answer"), "<Predict>"),
        (dspy.ChatAdapter(), "<ChatAdapter>"),
        (
            Document(title="t", body=Raises(), more=1),
            {"title": "t", "body": "<Raises whose repr raised RuntimeError>", "more": 1},
        ),
        (Document, f"{__name__}.Document"),
    ],
)
def test_dspy_and_pydantic_values(value, expected):
    """DSPy's values and pydantic's models show their fields; one hostile field spoils only itself."""
    assert json.loads(to_json(value)) == expected


def test_cycle_is_named():
    """A value that holds itself is shown once."""
    cycle = {"a": 1}
    cycle["self"] = [cycle]
    assert json.loads(to_json(cycle)) == {"a": 1, "self": ["<cycle: dict>"]}


def test_value_that_stands_in_two_places_is_no_cycle():
    """A value that is met twice side by side is shown twice."""
    shared = [float("nan")]
    assert json.loads(to_json([shared, shared])) == [["nan"], ["nan"]]


def test_deep_nesting_ends_in_a_description():
    """Nesting is followed to a limit, and a word says that there is more."""
    value = []
    for _ in range(10_000):
        value = [value]
    shown, depth = json.loads(to_json(value)), 0
    while isinstance(shown, list):
        (shown,) = shown
        depth += 1
    assert (depth, shown) == (MAX_DEPTH, f"<list, nested more than {MAX_DEPTH} levels deep>")


def test_generator_is_not_consumed():
    """A generator is described and still gives all its items to the program."""
    items = (number for number in range(3))
    text = to_json({"items": items, "nothing": None})
    assert json.loads(text)["items"].startswith("<generator object")
    assert list(items) == [0, 1, 2]


def test_value_that_changes_while_it_is_shown():
    """What another thread or a `__repr__` changes meanwhile is shown as it was met, and nothing crashes."""

    class Clearing:
        def __repr__(self):
            value.clear()
            return "clearing"

    value = {"first": [Clearing(), *map(str, range(50))], "second": [1, 2]}
    assert json.loads(to_json(value)) == {"first": ["clearing", *map(str, range(50))], "second": [1, 2]}
    assert value == {}


def test_lock_is_described_without_its_address():
    """What has nothing but an address is described alike in every process."""
    assert json.loads(to_json(threading.Lock())) == "<unlocked _thread.lock object>"


def test_mock_is_not_touched():
    """A value is not asked for attributes that its class has not: a mock would make them up."""
    value = mock.MagicMock(name="service")
    to_json(value)
    assert value.mock_calls == []
    assert "dtype" not in value._mock_children


def test_long_description_is_cut():
    """A description is short, whatever a `repr` says."""

    class Wordy:
        def __repr__(self):
            return "x" * 10_000

    assert describe_value(Wordy()) == "x" * MAX_DESCRIPTION + "…"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupt_is_not_swallowed(interrupt):
    """Ctrl-C while a value is described reaches the user."""

    class Interrupted:
        def __repr__(self):
            raise interrupt

    with pytest.raises(interrupt):
        to_json(Interrupted())


def test_bytes_from_a_size_on_are_a_data_uri():
    """Bytes that are worth an attachment become a data URI, which MLflow moves out of the payload."""
    text = json.loads(to_json(b"\x00" * MIN_ATTACHMENT_BYTES))
    assert text.startswith("data:application/octet-stream;base64,AAAA")


MARKED = "<<CUSTOM-TYPE-START-IDENTIFIER>>{}<<CUSTOM-TYPE-END-IDENTIFIER>>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "see " + MARKED.format('[{"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}}]') + "!",
            [
                {"type": "text", "text": "see "},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}},
                {"type": "text", "text": "!"},
            ],
        ),
        ("only <<CUSTOM-TYPE-START-IDENTIFIER>> \ud800", "only <<CUSTOM-TYPE-START-IDENTIFIER>> ?"),
        (MARKED.format("5"), MARKED.format("5")),
    ],
    ids=["marked", "never ended", "nonsense"],
)
def test_texts_that_dspy_has_marked(text, expected):
    """A text in which DSPy marked an image is shown as the content parts that an LM gets."""
    assert json.loads(to_json({"trajectory": text})) == {"trajectory": expected}


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters()),  # lone surrogates too
    st.binary(max_size=20),
    st.dates(),
    st.datetimes(),
    st.decimals(),
    st.uuids(),
    st.sampled_from([Colour.RED, Level.LOW, np.float32(1), np.zeros(2), Greeting, search, object()]),
    st.builds(lambda digits: 10**digits, st.integers(4000, 6000)),
    st.builds(Raises),
    st.builds(threading.Lock),
)
keys = st.one_of(
    st.text(st.characters()), st.integers(), st.floats(), st.none(), st.booleans(), st.tuples(st.integers())
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner, max_size=4),
        st.builds(Point, st.integers(), inner),
        st.builds(Slotted, st.text(), inner),
        st.builds(lambda body: Document(title="t", body=body), inner),
        st.builds(lambda answer: dspy.Prediction(answer=answer), inner),
        st.builds(iter, st.lists(inner, max_size=2)),
    ),
    max_leaves=15,
)


numbers = st.recursive(
    st.one_of(st.none(), st.floats(), st.sampled_from([math.nan, math.inf, -math.inf, sys.float_info.max, 5e-324])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
    max_leaves=12,
)


def named(value):
    """Return a value with the name of each float that JSON has no number for in its place."""
    if isinstance(value, dict):
        return {key: named(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(map(named, value))
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@settings(max_examples=300, deadline=None, derandomize=True)
@given(numbers)
def test_no_number_is_lost(value):
    """A NaN or an infinity is shown by its name wherever it stands among numbers and nulls, the others as they are."""
    assert json.loads(to_json(value)) == named(value)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(values)
def test_any_mix_is_valid_json(value):
    """Whatever is nested in whatever: the text is JSON that UTF-8 can hold, and the value is as it was."""
    before = snapshot(value)
    text = to_json(value)
    json.loads(text, parse_constant=pytest.fail)  # NaN is not JSON
    text.encode()
    assert snapshot(value) == before


def snapshot(value):
    """Return what a careless serialiser could change: containers item by item, iterators by what they have left."""
    if isinstance(value, dict):
        return [(id(key), snapshot(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [snapshot(item) for item in value]
    if isinstance(value, collections.abc.Iterator):
        return [snapshot(item) for item in copy.copy(value)]
    if isinstance(value, (Point, Slotted, Document, dspy.Prediction)):
        return [snapshot(getattr(value, name)) for name in ("y", "inner", "body", "answer") if has(value, name)]
    return id(value)


def has(value, name):
    return name in (*getattr(value, "__dict__", ()), *getattr(value, "__slots__", ()), *getattr(value, "_store", ()))


class Answers(dspy.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, given):
        return self.value


def test_hostile_output_leaves_a_finished_trace(dspy_traces):
    """A module whose input and output raise wherever they are touched still gives a stored, finished trace."""
    value = Raises()
    assert Answers(value)(given=value) is value
    (span,) = dspy_traces.spans()
    assert dspy_traces.one().info.state == "OK"
    assert (span.inputs, span.outputs) == (
        {"given": "<Raises whose repr raised RuntimeError>"},
        "<Raises whose repr raised RuntimeError>",
    )


def test_lone_surrogates_are_stored(dspy_traces):
    """Texts that UTF-8 cannot hold are stored with `?`, in a span's name, its payload and its error."""

    def broken(text: str) -> str:
        raise ValueError(text)

    tool = dspy.Tool(broken, name="tool \ud800")
    with pytest.raises(ValueError):
        tool(text="\ud801")
    (span,) = dspy_traces.spans()
    assert (span.name, span.inputs, span.status.description) == ("tool ?", {"text": "?"}, "ValueError: ?")


def test_exception_whose_str_raises(dspy_traces):
    """An exception that cannot be shown is described, and reaches the caller."""

    class UnspeakableError(Exception):
        def __str__(self):
            raise RuntimeError

        __repr__ = __str__

    def broken():
        raise UnspeakableError

    with pytest.raises(UnspeakableError):
        dspy.Tool(broken)()
    (span,) = dspy_traces.spans()
    message = "<UnspeakableError whose repr raised RuntimeError>"
    (event,) = span.events
    assert span.status.description == f"UnspeakableError: {message}"
    assert (event.name, event.attributes["exception.message"]) == ("exception", message)
    assert "in broken" in event.attributes["exception.stacktrace"]


def test_exception_whose_traceback_raises(dspy_traces):
    """An exception that cannot be printed still shows where it was raised."""

    class UnprintableError(SyntaxError):
        @property
        def filename(self):
            raise RuntimeError

    def broken():
        raise UnprintableError("no")

    with pytest.raises(UnprintableError):
        dspy.Tool(broken)()
    (span,) = dspy_traces.spans()
    assert span.status.description == "UnprintableError: no"
    assert "in broken" in span.events[0].attributes["exception.stacktrace"]


def test_nan_in_an_answer_is_seen(dspy_traces):
    """A score that is not a number is stored as the text `nan`, not as nothing."""
    with dspy.context(lm=answering()):
        Answers(dspy.Prediction(score=float("nan"), note=None))(given=1)
    (span,) = dspy_traces.spans()
    assert span.outputs == {"score": "nan", "note": None}


SECRET = "sk-proj-" + "a1B2" * 12


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"cache": False, "temperature": 0.5, "stop": ["END"], "top_p": None},
        {"api_key": SECRET, "max_tokens": 5},
        {"api_key": Text(SECRET), "token": 5, "password": None},
        {"headers": {"Authorization": f"Bearer {SECRET}", "x": [1]}},
        {"api_base": f"https://me:{SECRET}@example.org", "note": SECRET},
        {"response_format": Greeting, "seed": float("nan")},
    ],
)
def test_parameters_are_without_secrets(parameters):
    """Parameters are shown without what stands under a secret's name or looks like one, the second time too."""
    expected = to_json(plain_without_secrets(parameters))
    assert [parameters_to_json(parameters), parameters_to_json(parameters)] == [expected, expected]
    assert SECRET not in expected


def test_parameters_that_hold_a_secret_are_not_remembered():
    """Nothing holds on to a secret that stood in an LM's parameters."""
    payloads._WITHOUT_SECRETS.clear()
    parameters_to_json({"api_key": SECRET, "max_tokens": 5})
    parameters_to_json({"headers": {"Authorization": f"Bearer {SECRET}"}, "max_tokens": 6})
    assert [json.loads(text) for text in payloads._WITHOUT_SECRETS] == [{"api_key": REDACTED, "max_tokens": 5}]


def test_known_parameters_are_bounded(monkeypatch):
    """Programs that call an LM with other parameters each time do not fill the memory."""
    monkeypatch.setattr(payloads._WITHOUT_SECRETS, "limit", 2)
    for seed in range(9):
        parameters_to_json({"seed": seed})
    assert len(payloads._WITHOUT_SECRETS) <= 2
