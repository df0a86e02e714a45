"""What an LM call cost and how it ended: tokens, US dollars, finish reasons, cache hits, retries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

# MLflow's name for a count (mlflow.tracing.constant.TokenUsageKey, and `reasoning_tokens`), and where DSPy has it: in
# OpenAI's names (chat completions first, then the Responses API), in Anthropic's, and in its own (LMUsage, lm15.Usage).
_COUNTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "input_tokens": (("prompt_tokens",), ("input_tokens",)),
    "output_tokens": (("completion_tokens",), ("output_tokens",)),
    "total_tokens": (("total_tokens",),),
    "cache_read_input_tokens": (
        ("prompt_tokens_details", "cached_tokens"),
        ("input_tokens_details", "cached_tokens"),
        ("cache_read_input_tokens",),
        ("cache_read_tokens",),
    ),
    "cache_creation_input_tokens": (
        ("prompt_tokens_details", "cache_creation_tokens"),
        ("cache_creation_input_tokens",),
        ("cache_write_tokens",),
    ),
    "reasoning_tokens": (
        ("completion_tokens_details", "reasoning_tokens"),
        ("output_tokens_details", "reasoning_tokens"),
        ("reasoning_tokens",),
    ),
}

_NOTHING_BILLED = {"input_cost": 0.0, "output_cost": 0.0, "total_cost": 0.0}

# Finish reasons that are not in the words of OpenAI's chat completions: lm15's, and the Responses API's status.
_CHAT_REASONS = {"tool_call": "tool_calls", "completed": "stop", "max_output_tokens": "length"}


@attrs.frozen(kw_only=True)
class LMReport:
    """What DSPy knows of a finished LM call.

    Attributes:
        tokens: Counts by MLflow's names, summed over all responses that were billed; empty where none was reported.
        cost: US dollars by MLflow's names (`input_cost`, `output_cost`, `total_cost`) as DSPy estimates them: the
            total alone where it does not say how it came about, zeros for a cache hit, None where no price is known.
        cache_hit: Whether DSPy's cache answered, which bills nothing.
        finish_reasons: One for each completion, in the words of OpenAI's chat completions; None where unknown.
        response_model: The model that answered, as the provider names it.
        provider: Who billed the call, as DSPy's backend names it.
        retries: The exceptions that DSPy answered with another attempt; None where they are not known.
    """

    tokens: dict[str, int]
    cost: dict[str, float] | None
    cache_hit: bool
    finish_reasons: list[str | None]
    response_model: str | None
    provider: str | None
    retries: list[BaseException] | None


def report(watch: Any, outputs: Any) -> LMReport:
    """Gather what *watch* (an `LMWatch`) learned of a call; of an LM that told DSPy nothing, its *outputs* are read."""
    answers = watch.answers or [outputs]
    billed = [answer for answer in answers if not _is_cache_hit(answer)]
    last = answers[-1]
    return LMReport(
        tokens=_total(_get(answer, "usage") for answer in billed),
        cost=_cost(watch, billed) if billed else _NOTHING_BILLED,
        cache_hit=not billed,
        finish_reasons=_finish_reasons(last),
        response_model=_text(_get(last, "response_model")) or _text(_get(last, "model")),
        provider=_provider(last),
        retries=watch.retries,
    )


def _provider(answer: Any) -> str | None:
    name = _text(_get(_get(answer, "cost_details"), "provider")) or _text(_hidden(answer, "custom_llm_provider"))
    return name and name.removesuffix("-chat")  # lm15 names a provider's two APIs apart


def _is_cache_hit(answer: Any) -> bool:
    # An LM whose `forward` calls `super().forward()` hands the hit on inside the raw response.
    return _get(answer, "cache_hit") is True or _get(_get(answer, "raw"), "cache_hit") is True


def _total(usages: Iterable[Any]) -> dict[str, int]:
    total: dict[str, int] = {}
    for usage in usages:
        for name, count in _counts(usage).items():
            total[name] = total.get(name, 0) + count
    return total


def _counts(usage: Any) -> dict[str, int]:
    counts = {}
    for name, places in _COUNTS.items():
        count = next((found for place in places if (found := _count(usage, place)) is not None), None)
        if count is not None:
            counts[name] = count
    if "input_tokens" in counts and "output_tokens" in counts:
        counts.setdefault("total_tokens", counts["input_tokens"] + counts["output_tokens"])
    return counts


def _count(usage: Any, place: tuple[str, ...]) -> int | None:
    for name in place:
        usage = _get(usage, name)
    if isinstance(usage, bool) or not isinstance(usage, (int, float)) or not math.isfinite(usage):
        return None
    return int(usage)


def _cost(watch: Any, billed: Iterable[Any]) -> dict[str, float] | None:
    total = _sum_if_all_known(_price(answer) for answer in billed)
    if total is None:
        return None
    of_input = _sum_if_all_known(_input_price(watch, answer) for answer in billed)
    if of_input is None or of_input > total:
        return {"total_cost": total}
    return {"input_cost": of_input, "output_cost": total - of_input, "total_cost": total}


def _price(answer: Any) -> float | None:
    price = _get(answer, "cost")
    price = _hidden(answer, "response_cost") if price is None else price
    return float(price) if isinstance(price, (int, float)) else None


def _input_price(watch: Any, answer: Any) -> float | None:
    counts = _counts(_get(answer, "usage"))
    price: float | None = watch.input_cost(
        answer,
        input_tokens=counts.get("input_tokens", 0),
        output_tokens=counts.get("output_tokens", 0),
        cache_read_tokens=counts.get("cache_read_input_tokens", 0),
    )
    return price


def _sum_if_all_known(numbers: Iterable[float | None]) -> float | None:
    total = 0.0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


def _finish_reasons(answer: Any) -> list[str | None]:
    """Return the finish reasons of DSPy's result, or of an lm15, LiteLLM, Responses API or typed response."""
    responses = _get(answer, "responses") or (_get(answer, "raw") or answer,)
    return [_in_chat_words(reason) for response in responses for reason in _reasons(response)]


def _reasons(response: Any) -> list[Any]:
    choices = _get(response, "choices") or _get(response, "outputs")
    if isinstance(choices, (list, tuple)):
        return [_get(choice, "finish_reason") for choice in choices]
    items = _get(response, "output")
    if isinstance(items, (list, tuple)):
        return [_status(response, items)]
    return [_get(response, "finish_reason")]


def _status(response: Any, items: Iterable[Any]) -> Any:
    """Return how a response of the Responses API ended: it has a status, and a reason if that is `incomplete`."""
    if any(_get(item, "type") == "function_call" for item in items):
        return "tool_calls"
    return _get(_get(response, "incomplete_details"), "reason") or _get(response, "status")


def _in_chat_words(reason: Any) -> str | None:
    return _CHAT_REASONS.get(reason, reason) if isinstance(reason, str) else None


def _hidden(answer: Any, name: str) -> Any:
    """Return what LiteLLM keeps beside a response, which DSPy's result holds as *raw*."""
    return _get(_get(_get(answer, "raw") or answer, "_hidden_params"), name)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
