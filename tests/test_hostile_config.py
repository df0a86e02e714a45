"""Whatever stands in the environment or is given for an option: a configuration, or an error that names the option."""

from __future__ import annotations

import json

import pytest
from hostile import TEXTS, VALUES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from options import ROWS

from dspy_mlflow_callbacks import TracingConfig
from dspy_mlflow_callbacks.config import OPTIONS, variable_of, wrong_variables
from dspy_mlflow_callbacks.config.environment import PREFIX

hostile = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXTS, values, max_size=3),
    max_leaves=5,
)
SAID = TEXTS | JSON.map(json.dumps) | st.sampled_from([row.text for row in ROWS])
NAMES = st.sampled_from([variable_of(name) for name in OPTIONS]) | st.text(max_size=10).map(lambda name: PREFIX + name)


def what_becomes_of(name, value):
    try:
        return repr(TracingConfig(**{name: value}))
    except (TypeError, ValueError) as error:
        return str(error)


@pytest.mark.parametrize("name", OPTIONS)
@settings(hostile, max_examples=25)
@given(value=VALUES | JSON)
def test_an_argument_is_taken_or_named(name, value):
    """What is given for an option makes a configuration, or an error that begins with the option's name."""
    assert what_becomes_of(name, value).startswith(("TracingConfig(", f"{name}: "))


@pytest.mark.warns
@settings(hostile, max_examples=300)
@given(environ=st.dictionaries(NAMES, SAID, max_size=4))
def test_no_variable_stops_a_program(environ):
    """Variables with any names and texts make a configuration; what is wrong with one is said by its name."""
    assert isinstance(TracingConfig.from_env(environ), TracingConfig)
    for message in wrong_variables(environ):
        assert [name for name in environ if name in message]
