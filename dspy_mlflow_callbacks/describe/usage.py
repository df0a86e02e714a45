"""What an LM call cost and how it ended: tokens, US dollars, finish reasons, cache hits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

_SEARCHED_ENTRIES = 1000
"""History entries that are searched from the end: more than calls that end at once between an entry and its event."""

# MLflow's name for a count (mlflow.tracing.constant.TokenUsageKey), and where DSPy reports it in OpenAI's names
# (chat completions first, then the Responses API).
_COUNTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "input_tokens": (("prompt_tokens",), ("input_tokens",)),
    "output_tokens": (("completion_tokens",), ("output_tokens",)),
    "total_tokens": (("total_tokens",),),
    "cache_read_input_tokens": (
        ("prompt_tokens_details", "cached_tokens"),
        ("input_tokens_details", "cached_tokens"),
        ("cache_read_input_tokens",),
    ),
    "cache_creation_input_tokens": (
        ("prompt_tokens_details", "cache_creation_tokens"),
        ("cache_creation_input_tokens",),
    ),
    "reasoning_tokens": (
        ("completion_tokens_details", "reasoning_tokens"),
        ("output_tokens_details", "reasoning_tokens"),
    ),
}


@attrs.frozen(kw_only=True)
class LMReport:
    """What DSPy knows of a finished LM call.

    Attributes:
        tokens: Counts by MLflow's names, summed over all responses that were billed; empty where none was reported.
        cost: US dollars as DSPy estimates them; None where it knows no price.
        cache_hit: Whether DSPy's cache answered, which bills nothing.
        finish_reasons: One for each completion, in the provider's words.
        response_model: The model that answered, as the provider names it.
        retries: How often DSPy tried again.
    """

    tokens: dict[str, int]
    cost: float | None
    cache_hit: bool
    finish_reasons: list[str]
    response_model: str | None
    retries: int


def report(lm: Any, watch: Any, outputs: Any, *, failed: bool) -> LMReport:
    """Gather what was learned of a call of *lm* that returned *outputs* or *failed*."""
    entry = {} if failed else _history_entry(lm, outputs)
    response = entry.get("response", outputs)
    cost = entry.get("cost")
    # DSPy reports usage for every answer but one from its cache.
    cache_hit = not failed and bool(entry) and not watch.reported
    return LMReport(
        tokens=_total(watch.usages),
        cost=float(cost) if isinstance(cost, (int, float)) and not cache_hit else None,
        cache_hit=cache_hit,
        finish_reasons=[str(reason) for reason in _finish_reasons(response) if reason],
        response_model=entry.get("response_model") or _get(response, "model"),
        retries=len(watch.retries),
    )


def _history_entry(lm: Any, outputs: Any) -> Mapping[str, Any]:
    """Return the history entry of the call that gave these very *outputs*; an empty one where history is off.

    Identity, not equality: two calls side by side may answer alike.
    """
    history = getattr(lm, "history", None) or []
    for entry in history[: -_SEARCHED_ENTRIES - 1 : -1]:
        if entry.get("outputs") is outputs or (outputs is not None and entry.get("response") is outputs):
            found: Mapping[str, Any] = entry
            return found
    return {}


def _total(usages: Iterable[Any]) -> dict[str, int]:
    total: dict[str, int] = {}
    for usage in usages:
        for name, places in _COUNTS.items():
            count = next((found for place in places if (found := _count(usage, place)) is not None), None)
            if count is not None:
                total[name] = total.get(name, 0) + count
    if "input_tokens" in total and "output_tokens" in total:
        total.setdefault("total_tokens", total["input_tokens"] + total["output_tokens"])
    return total


def _count(usage: Any, place: tuple[str, ...]) -> int | None:
    for name in place:
        usage = _get(usage, name)
    return int(usage) if isinstance(usage, (int, float)) and not isinstance(usage, bool) else None


def _finish_reasons(response: Any) -> list[Any]:
    """Return the finish reasons of an lm15, LiteLLM or Responses API response, or of a tuple of them."""
    if isinstance(response, (list, tuple)):
        return [reason for each in response for reason in _finish_reasons(each)]
    choices = _get(response, "choices")
    if isinstance(choices, (list, tuple)):
        return [_get(choice, "finish_reason") for choice in choices]
    return [_get(response, "finish_reason") or _get(response, "status")]


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
