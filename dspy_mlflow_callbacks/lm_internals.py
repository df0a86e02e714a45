"""The door to what DSPy learns of an LM call and does not promise to tell: usage, cost, cache hits, retries.

DSPy says it in its history, its usage tracker and its predictions, each of which a user may switch off, fill or
replace. So a watch listens where DSPy settles a call, and leaves all of those alone.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import dspy

from dspy_mlflow_callbacks.dspy_internals import active_call_id, wrap

try:
    from dspy.clients import costs, execution, typesafe
except ImportError:  # pragma: no cover  (dspy < 3.4: `make test-oldest`)
    costs = execution = typesafe = None


class LMWatch:
    """What DSPy learns of one LM call while it runs; it hears as long as somebody holds it.

    Args:
        call_id: DSPy's id of the call; what other calls inside it learn is theirs.

    Attributes:
        answers: The responses that DSPy accepted from the provider or took from its cache, in its own classes, also
            those of a call that failed afterwards.
        retries: The exceptions that DSPy answered with another attempt; None before DSPy 3.4, where LiteLLM retries
            out of sight.
    """

    def __init__(self, call_id: str) -> None:
        self.answers: list[Any] = []
        self.retries: list[BaseException] | None = None if execution is None else []
        _WATCHES[call_id] = self

    @staticmethod
    def input_cost(answer: Any, *, input_tokens: int, output_tokens: int, cache_read_tokens: int) -> float | None:
        """Return the part of an answer's cost that its input was billed with, in US dollars.

        DSPy estimates a total; this asks the price map that the total came from for the input alone.

        Args:
            answer: One of the *answers*.
            input_tokens: Billed input tokens, those that the provider read from its cache included.
            output_tokens: Billed output tokens.
            cache_read_tokens: Input tokens that the provider read from its cache.

        Returns:
            None where the price map does not say, as for an LM with its own prices.
        """
        try:
            if getattr(answer, "responses", ()):
                return _native_input_cost(answer)
            response = getattr(answer, "raw", None) or getattr(answer, "provider_response", None) or answer
            dollars, _ = sys.modules["litellm"].cost_per_token(
                model=response.model,
                custom_llm_provider=response._hidden_params["custom_llm_provider"],
                prompt_tokens=input_tokens,
                completion_tokens=output_tokens,
                cache_read_input_tokens=cache_read_tokens,
            )
            return float(dollars)
        except Exception:  # noqa: BLE001  (prices are advice: the total stands alone)
            return None


# Weak, so that a call whose end never comes leaves nothing behind.
_WATCHES: weakref.WeakValueDictionary[str, LMWatch] = weakref.WeakValueDictionary()


def install() -> None:
    """Make DSPy tell the watch of a call what it learns of it; installing twice is installing once.

    Each wrapper calls the original and changes neither arguments nor result.
    """
    for owner, name, wrapper_of in _PLACES:
        if hasattr(owner, name):
            wrap(owner, name, wrapper_of)


def _native_input_cost(answer: Any) -> float:
    details = answer.cost_details.get("candidates") or [answer.cost_details]
    return sum(map(_priced_without_output, answer.responses, details))


def _priced_without_output(response: Any, details: dict[str, Any]) -> float:
    usage = replace(response.usage, output_tokens=0, reasoning_tokens=0, output_audio_tokens=0)
    dollars, _ = costs.estimate_cost(
        replace(response, usage=usage),
        provider=details["provider"],
        requested_model=details["model"],
        namespaces=details["metadata"].get("namespaces"),
    )
    return float(dollars)


def _hear(*answers: Any) -> None:
    watch = _active_watch()
    if watch is not None:
        watch.answers.extend(answers)


def _active_watch() -> LMWatch | None:
    return _WATCHES.get(active_call_id() or "")


def _hearing_results(original: Callable[..., Any]) -> Callable[..., Any]:
    def finalize(lm: Any, call: Any, result: Any) -> Any:
        _hear(result)
        return original(lm, call, result)

    return finalize


def _hearing_failures(original: Callable[..., Any]) -> Callable[..., Any]:
    def account(lm: Any, results: Sequence[Any], primary: BaseException) -> Any:
        _hear(*results)
        return original(lm, results, primary)

    return account


def _hearing_retries(original: Callable[..., Any]) -> Callable[..., Any]:
    def delay(exc: BaseException, attempt: int) -> Any:
        watch = _active_watch()
        if watch is not None and watch.retries is not None:
            watch.retries.append(exc)
        return original(exc, attempt)

    return delay


def _hearing_decisions(original: Callable[..., Any]) -> Callable[..., Any]:
    def finish(self: Any, request: Any, response: Any, cache_hit: Any) -> Any:
        _hear({**response, "cache_hit": cache_hit})
        return original(self, request, response, cache_hit)

    return finish


def _hearing_responses(original: Callable[..., Any]) -> Callable[..., Any]:
    def process(self: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        _hear(response)
        return original(self, response, *args, **kwargs)

    return process


def _hearing_typed_responses(  # pragma: no cover  (dspy < 3.4: `make test-oldest`)
    original: Callable[..., Any],
) -> Callable[..., Any]:
    def finalize(self: Any, request: Any, response: Any) -> Any:
        watch = _active_watch()
        if watch is not None:
            watch.answers[:] = [response]  # it may have been heard before it was typed
        return original(self, request, response)

    return finalize


_PLACES: tuple[tuple[Any, str, Callable[[Callable[..., Any]], Callable[..., Any]]], ...] = (
    # Since DSPy 3.4: what every call returns through; what was billed before a call failed; what is asked before
    # each further attempt; and an LM that shares no code with the others.
    (execution, "finalize", _hearing_results),
    (execution, "_account_failed_call", _hearing_failures),
    (execution, "_delay", _hearing_retries),
    (getattr(typesafe, "TypeSafe", None), "_finish", _hearing_decisions),
    # Before: what untyped and typed calls return through.
    (dspy.BaseLM, "_process_lm_response", _hearing_responses),
    (dspy.BaseLM, "_finalize_lm_response", _hearing_typed_responses),
)
