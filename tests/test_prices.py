"""What an LM call cost where DSPy does not say: from MLflow's own price list, so that nobody imports LiteLLM for it."""

from __future__ import annotations

import json
import sys

import pytest

from dspy_mlflow_callbacks import mlflow_internals


@pytest.fixture(autouse=True)
def _without_litellm(monkeypatch):
    """Let LiteLLM be no module of the program's."""
    monkeypatch.delitem(sys.modules, "litellm", raising=False)


def settled(model="gpt-4o-mini", **more):
    """Return the cost that the span of an LM call says then; None if it says none."""
    usage = {"input_tokens": 1_000_000, "output_tokens": 0, **more.pop("usage", {})}
    attributes = {"mlflow.llm.model": json.dumps(model), "mlflow.chat.tokenUsage": json.dumps(usage), **more}
    mlflow_internals.settle_cost(attributes)
    return json.loads(attributes.get("mlflow.llm.cost", "null"))


def test_a_model_with_a_price():
    """A call of a model that the list has costs what the list says, input and output apart."""
    cost = settled()
    assert cost["input_cost"] == cost["total_cost"] > 0
    assert cost["output_cost"] == 0


@pytest.mark.parametrize("unknown", [{"model": "mine/nobody-knows"}, {"usage": {"input_tokens": "many"}}])
def test_what_nobody_knows(unknown):
    """Where the list does not say, the span says that there is no cost: the store does not look for it again."""
    assert settled(**unknown) == {}


def test_a_cost_that_is_known_stays():
    """What DSPy has said stands."""
    assert settled(**{"mlflow.llm.cost": '{"total_cost": 1}'}) == {"total_cost": 1}


def test_a_program_with_litellm_is_left_to_the_store(monkeypatch):
    """Where LiteLLM is imported already, MLflow's store asks it, as it does for everybody."""
    monkeypatch.setitem(sys.modules, "litellm", object())
    assert settled() is None
