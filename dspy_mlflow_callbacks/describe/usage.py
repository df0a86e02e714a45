"""What an LM call cost and how it ended: tokens, US dollars, finish reasons, cache hits, retries."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

# Where a usage has its counts (None: in itself), by what name, and MLflow's name for each
# (mlflow.tracing.constant.TokenUsageKey, and `reasoning_tokens`): OpenAI's names (chat completions, then the Responses
# API), Anthropic's, and DSPy's own (LMUsage, lm15.Usage). Of two that MLflow has one name for, the first one holds.
_COUNTS: tuple[tuple[str | None, dict[str, str]], ...] = (
    (
        "prompt_tokens_details",
        {"cached_tokens": "cache_read_input_tokens", "cache_creation_tokens": "cache_creation_input_tokens"},
    ),
    ("input_tokens_details", {"cached_tokens": "cache_read_input_tokens"}),
    ("completion_tokens_details", {"reasoning_tokens": "reasoning_tokens"}),
    ("output_tokens_details", {"reasoning_tokens": "reasoning_tokens"}),
    (
        None,
        {
            "prompt_tokens": "input_tokens",
            "input_tokens": "input_tokens",
            "completion_tokens": "output_tokens",
            "output_tokens": "output_tokens",
            "total_tokens": "total_tokens",
            "cache_read_input_tokens": "cache_read_input_tokens",
            "cache_read_tokens": "cache_read_input_tokens",
            "cache_creation_input_tokens": "cache_creation_input_tokens",
            "cache_write_tokens": "cache_creation_input_tokens",
            "reasoning_tokens": "reasoning_tokens",
        },
    ),
)

_NOTHING_BILLED = {"input_cost": 0.0, "output_cost": 0.0, "total_cost": 0.0}

# Finish reasons that are not in the words of OpenAI's chat completions: lm15's, and the Responses API's status.
_CHAT_REASONS = {"tool_call": "tool_calls", "completed": "stop", "max_output_tokens": "length"}


@attrs.define(kw_only=True)  # not frozen: that takes twice as long to make
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
    billed = [(answer, _counts(_get(answer, "usage"))) for answer in answers if not _is_cache_hit(answer)]
    last = answers[-1]
    return LMReport(
        tokens=_total([counts for _, counts in billed]),
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


def _total(counts: list[dict[str, int]]) -> dict[str, int]:
    if len(counts) == 1:
        return counts[0]
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total


def _counts(usage: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    if usage is None:
        return counts
    for place, names in _COUNTS:
        holder = usage if place is None else _get(usage, place)
        if holder is not None:
            _take_counts(holder, names, counts)
    if "input_tokens" in counts and "output_tokens" in counts:
        counts.setdefault("total_tokens", counts["input_tokens"] + counts["output_tokens"])
    return counts


def _take_counts(holder: Any, names: Mapping[str, str], counts: dict[str, int]) -> None:
    for value, name in zip(_get_all(holder, names), names.values(), strict=True):
        if value is not None and name not in counts:
            count = _count(value)
            if count is not None:
                counts[name] = count


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return int(value)


def _cost(watch: Any, billed: Iterable[tuple[Any, dict[str, int]]]) -> dict[str, float] | None:
    total = _sum_if_all_known([_price(answer) for answer, _ in billed])
    if total is None:
        return None
    of_input = _sum_if_all_known([_input_price(watch, answer, counts) for answer, counts in billed])
    if of_input is None or of_input > total:
        return {"total_cost": total}
    return {"input_cost": of_input, "output_cost": total - of_input, "total_cost": total}


def _price(answer: Any) -> float | None:
    price = _get(answer, "cost")
    price = _hidden(answer, "response_cost") if price is None else price
    return float(price) if isinstance(price, (int, float)) else None


def _input_price(watch: Any, answer: Any, counts: Mapping[str, int]) -> float | None:
    price: float | None = watch.input_cost(
        answer,
        input_tokens=counts.get("input_tokens", 0),
        output_tokens=counts.get("output_tokens", 0),
        cache_read_tokens=counts.get("cache_read_input_tokens", 0),
    )
    return price


def _sum_if_all_known(numbers: list[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


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
    cls: Any = type(value)
    return value.get(name) if _is_mapping(cls) else getattr(value, name, None)


def _get_all(value: Any, names: Iterable[str]) -> list[Any]:
    cls: Any = type(value)
    if _is_mapping(cls):
        return [value.get(name) for name in names]
    return [getattr(value, name, None) for name in names]


@functools.lru_cache(maxsize=512)
def _is_mapping(cls: type) -> bool:
    return issubclass(cls, Mapping)  # which takes longer than all else here: an abstract class asks around
