"""What is made of the responses that DSPy accepted, in the shapes that its versions and backends have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dspy_mlflow_callbacks.describe.usage import LMReport, report
from dspy_mlflow_callbacks.lm_internals import LMWatch

NOTHING_BILLED = {"input_cost": 0.0, "output_cost": 0.0, "total_cost": 0.0}


def watch(*answers, retries=()):
    heard = LMWatch("a call")
    heard.answers, heard.retries = list(answers), list(retries)
    return heard


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({}, {}),
        (None, {}),
        ({"total_tokens": 3}, {"total_tokens": 3}),
        (
            {"prompt_tokens": 2, "completion_tokens": 1},
            {"input_tokens": 2, "output_tokens": 1, "total_tokens": 3},
        ),
        (
            SimpleNamespace(input_tokens=2, output_tokens=1, total_tokens=4),
            {"input_tokens": 2, "output_tokens": 1, "total_tokens": 4},
        ),
        (
            {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 0, "cache_creation_tokens": 2}},
            {"input_tokens": 5, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 2},
        ),
        (
            {"cache_read_input_tokens": 3, "cache_creation_input_tokens": 4},
            {"cache_read_input_tokens": 3, "cache_creation_input_tokens": 4},
        ),
        (
            {"cache_read_tokens": 3, "cache_write_tokens": 4, "reasoning_tokens": 5},
            {"cache_read_input_tokens": 3, "cache_creation_input_tokens": 4, "reasoning_tokens": 5},
        ),
        ({"prompt_tokens": "many", "completion_tokens": True, "total_tokens": float("nan")}, {}),
    ],
)
def test_tokens_are_counted_in_mlflows_names(usage, tokens):
    """Every name that a provider has for a count becomes MLflow's; what is no count is none."""
    assert report(watch({"usage": usage}), None).tokens == tokens


def test_tokens_of_all_answers_are_added_up():
    """A call that was billed twice has the tokens of both, and of one without a total its sum."""
    answers = [
        {"usage": {"prompt_tokens": 2, "completion_tokens": 1}},
        {"usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}},
    ]
    tokens = {"input_tokens": 22, "output_tokens": 11, "total_tokens": 33}
    assert report(watch(*answers), None).tokens == tokens


@pytest.mark.parametrize(
    ("answers", "cost"),
    [
        ([{"cost": None}], None),
        ([{"cost": "much"}], None),
        ([{"cost": 0.5}], {"total_cost": 0.5}),
        ([{"cost": 0.5}, {"cost": 0.25}], {"total_cost": 0.75}),
        ([{"cost": 0.5}, {}], None),
        ([{"cost": 0.5, "cache_hit": True}], NOTHING_BILLED),
        ([{"cost": 0.5}, {"cost": 0.5, "cache_hit": True}], {"total_cost": 0.5}),
    ],
)
def test_cost_is_known_if_that_of_every_billed_answer_is(answers, cost):
    """One unknown price makes the cost unknown; what came from the cache costs nothing."""
    assert report(watch(*answers), None).cost == cost


def _of_litellm(model, cost, provider="openai"):
    return SimpleNamespace(
        model=model,
        usage={"prompt_tokens": 100, "completion_tokens": 20},
        _hidden_params={"response_cost": cost, "custom_llm_provider": provider},
    )


@pytest.mark.parametrize(
    ("answer", "cost"),
    [
        (_of_litellm("gpt-4o-mini", 2.7e-05), {"input_cost": 1.5e-05, "output_cost": 1.2e-05, "total_cost": 2.7e-05}),
        (_of_litellm("gpt-4o-mini", 1.0e-05), {"total_cost": 1.0e-05}),
        (_of_litellm("my-model", 2.7e-05), {"total_cost": 2.7e-05}),
    ],
    ids=["priced", "own price", "no price"],
)
def test_a_cost_is_split_where_the_price_map_agrees(answer, cost):
    """Input and output share the total if the price map knows the input's part and it is no more than the total."""
    import litellm  # noqa: F401  (an answer of LiteLLM's is split by LiteLLM)

    assert report(watch(answer), None).cost == pytest.approx(cost)


@pytest.mark.parametrize(
    ("answer", "reasons"),
    [
        ({"choices": [{"finish_reason": "stop"}, {"finish_reason": None}]}, ["stop", None]),
        ({"outputs": (SimpleNamespace(finish_reason="length"),)}, ["length"]),
        ({"finish_reason": "tool_call"}, ["tool_calls"]),
        ({"output": [], "status": "completed"}, ["stop"]),
        ({"output": [{"type": "message"}, {"type": "function_call"}], "status": "completed"}, ["tool_calls"]),
        (
            {"output": [], "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            ["length"],
        ),
        ({"responses": ({"finish_reason": "stop"}, {"finish_reason": "length"})}, ["stop", "length"]),
        ({"raw": {"choices": [{"finish_reason": "stop"}]}}, ["stop"]),
        ({"finish_reason": 7}, [None]),
    ],
)
def test_finish_reasons_are_in_the_words_of_a_chat(answer, reasons):
    """Whatever says how a completion ended, it is said as OpenAI's chat completions say it."""
    assert report(watch(answer), None).finish_reasons == reasons


@pytest.mark.parametrize(
    ("answer", "provider"),
    [
        ({"cost_details": {"provider": "openai-chat"}}, "openai"),
        ({"raw": {"_hidden_params": {"custom_llm_provider": "azure"}}}, "azure"),
        ({}, None),
    ],
)
def test_the_provider_is_the_one_that_billed(answer, provider):
    """The backend's name of the provider counts, without the API that lm15 adds to it."""
    assert report(watch(answer), None).provider == provider


@pytest.mark.parametrize("answer", [{"cache_hit": True}, {"raw": {"cache_hit": True}}])
def test_a_cache_hit(answer):
    """An answer from DSPy's cache bills nothing, however deep it says so."""
    hit = {**answer, "usage": {"prompt_tokens": 5}, "cost": 0.5, "model": "m"}
    assert report(watch(hit), None) == LMReport(
        tokens={},
        cost=NOTHING_BILLED,
        cache_hit=True,
        finish_reasons=[None],
        response_model="m",
        provider=None,
        retries=[],
    )


def test_an_lm_that_tells_dspy_nothing():
    """Where DSPy accepted no answer, the outputs themselves are read."""
    outputs = SimpleNamespace(usage={"prompt_tokens": 2}, model="m", finish_reason="stop")
    assert report(watch(), outputs) == LMReport(
        tokens={"input_tokens": 2},
        cost=None,
        cache_hit=False,
        finish_reasons=["stop"],
        response_model="m",
        provider=None,
        retries=[],
    )


def test_the_last_answer_says_how_the_call_ended():
    """Of two answers the model and finish reason of the last one count."""
    first, last = {"model": "a", "finish_reason": "length"}, {"response_model": "b", "finish_reason": "stop"}
    found = report(watch(first, last, retries=[ValueError("once")]), None)
    assert (found.response_model, found.finish_reasons, len(found.retries)) == ("b", ["stop"], 1)
