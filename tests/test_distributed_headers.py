"""Headers as they come in: whatever they say, reading them never fails, and says nothing to the log."""

from __future__ import annotations

import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context

from dspy_mlflow_callbacks import continue_trace, inject_headers
from dspy_mlflow_callbacks.config import TracingConfig, narrowing, stricter
from dspy_mlflow_callbacks.config.strictness import NARROWING
from dspy_mlflow_callbacks.distributed.baggage import Belongings, LeftOut, belongings_in, with_belongings
from dspy_mlflow_callbacks.distributed.texts import well_formed

NAMES = st.sampled_from(["traceparent", "tracestate", "baggage", "Traceparent", "BAGGAGE", "other"])
PARENTS = st.from_regex(r"\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[a-z]*)?\Z")
PAIRS = st.from_regex(r"\A[a-z._]{0,10} ?=[ -~]{0,20}(,[a-z._]{1,10}=[!-~]{0,10})*\Z")
OURS = st.builds(
    "{}={}".format,
    st.sampled_from(["dspy_mlflow.config", "dspy_mlflow.tag.a", "mlflow.experiment.id", "mlflow.run.id", "session.id"]),
    st.sampled_from(["", "5", "%7B%7D", "%7B%22level%22%3A5%7D", "%00", "%FF", "[]", "a b"]),
)
VALUES = st.one_of(st.text(max_size=300), PARENTS, PAIRS, OURS, st.binary(max_size=50), st.just("x=" + "y" * 5000))
HEADERS = st.one_of(st.dictionaries(NAMES, VALUES), st.lists(st.tuples(NAMES, VALUES)))

QUIETLY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUIETLY
@given(headers=HEADERS)
def test_no_headers_raise_or_warn(dspy_traces, headers):
    """Any headers are continued or not, without an error and without a line in the log."""
    heard = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = heard.append
    logging.getLogger().addHandler(handler)
    try:
        with continue_trace(headers):
            inject_headers()
    finally:
        logging.getLogger().removeHandler(handler)
    assert [record.getMessage() for record in heard] == []


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TAGS = st.dictionaries(TEXTS.filter(lambda key: key.strip() and not key.startswith("mlflow.")), TEXTS, max_size=10)


@QUIETLY
@given(tags=TAGS, session=st.none() | TEXTS, user=st.none() | TEXTS)
def test_what_travels_arrives(tags, session, user):
    """Session, user and tags of any characters arrive as they were sent, but for white space around them."""
    sent = Belongings(experiment="1", run="a0", session=session, user=user, tags=tags, config={"redact": True})
    carrier = {}
    W3CBaggagePropagator().inject(carrier, with_belongings(Context(), sent, LeftOut()))
    got = belongings_in(W3CBaggagePropagator().extract(well_formed(carrier), Context()))

    def stripped(text):
        return (text or "").strip() or None

    assert (got.experiment, got.run, got.config) == ("1", "a0", {"redact": True})
    assert (got.session, got.user) == (stripped(session), stripped(user))
    assert got.tags == {key.rstrip(): text.strip() for key, text in tags.items()}


@pytest.mark.parametrize(
    ("headers", "carrier"),
    [
        ({"baggage": ["a=1", "b=2"]}, {"baggage": "a=1,b=2"}),
        ([("Baggage", "a=1"), (b"BAGGAGE", b"b = 2 ;p=1")], {"baggage": "a=1,b=2"}),
        ({"tracestate": "a=1,a=2"}, {}),
        ({"tracestate": ",".join(f"k{number}=1" for number in range(33))}, {}),
        ({"tracestate": "a=" + "x" * 257}, {}),
        ({"tracestate": ",".join(f"k{number}={'x' * 100}" for number in range(6))}, {}),
        ({"baggage": "no value,=1,,ä=1, a=b"}, {"baggage": "a=b"}),
        ({"baggage": ",".join(f"k{number}=1" for number in range(200))}, None),
    ],
)
def test_what_is_well_formed(headers, carrier):
    """What W3C allows is read, in the order it came in, and the rest is not."""
    read = well_formed(headers)
    if carrier is None:
        assert len(read["baggage"].split(",")) == 180
    else:
        assert read == carrier


# Strictness

SWITCHES = ["capture_inputs", "capture_outputs", "capture_messages"]


@pytest.mark.parametrize(
    ("here", "there", "holds"),
    [
        *[
            ({name: here}, {name: there}, {name: here and there})
            for name in SWITCHES
            for here, there in [(True, False), (False, True)]
        ],
        ({"redact": True}, {"redact": False}, {}),
        ({"redact": False}, {"redact": True}, {}),
        ({"max_payload_chars": 5}, {"max_payload_chars": 9}, {"max_payload_chars": 5}),
        ({}, {"max_payload_chars": 9}, {"max_payload_chars": 9}),
        ({"level": "info"}, {"level": "debug"}, {"level": "info"}),
        ({}, {"level": "error"}, {"level": "error"}),
        ({"redact_keys": ["a"]}, {"redact_keys": ["b", "a"]}, {"redact_keys": ("a", "b")}),
        ({}, {"exclude": ["Health*"]}, {"exclude": ("Health*",)}),
        ({}, {"exclude": "Health*", "redact_patterns": 5, "max_payload_chars": -1, "level": "loud"}, {}),
        ({}, {"enabled": False, "sampling_ratio": 0.0, "experiment": "x", "tags": {"a": "b"}, "no such": 1}, {}),
    ],
)
def test_the_stricter_holds(here, there, holds):
    """Of two configurations each option holds that records less; what is wrong or does not narrow is left out."""
    config = stricter(TracingConfig(**here), there)
    assert {name: getattr(config, name) for name in config.changed()} == holds


def test_what_narrows():
    """What travels of a configuration is what narrows it and is not at its default, as JSON values."""
    config = TracingConfig(redact_keys=["pin"], level="info", tags={"a": "b"}, sampling_ratio=0.5, user=lambda _: "ann")
    assert narrowing(config) == {"level": "info", "redact_keys": ["pin"]}
    assert set(NARROWING) <= set(TracingConfig().to_dict())
