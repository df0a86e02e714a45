"""What MLflow's store would ask LiteLLM for: the price of an LM call."""

from __future__ import annotations

import json
import sys
from collections.abc import MutableMapping
from typing import Any

from mlflow.utils.providers import cost_per_token

COST, USAGE, _MODEL = "mlflow.llm.cost", "mlflow.chat.tokenUsage", "mlflow.llm.model"


def settle_cost(attributes: MutableMapping[str, Any]) -> None:
    """Say what an LM call cost where DSPy does not, or that nobody knows, so that the store does not look for it.

    It would import LiteLLM for that, which takes the interpreter's lock from the program for seconds; MLflow's own
    price list, which it takes where there is no LiteLLM, is at hand. Where the program has LiteLLM, the store asks.

    Args:
        attributes: Those of a span, JSON texts by name.
    """
    if USAGE in attributes and COST not in attributes and _MODEL in attributes and "litellm" not in sys.modules:
        attributes[COST] = json.dumps(_cost(json.loads(attributes[_MODEL]), json.loads(attributes[USAGE])))


def leave_litellm_out() -> None:
    """Let MLflow's store take its own price list in this process, which must be one that nobody else uses."""
    sys.modules.setdefault("litellm", None)  # type: ignore[arg-type]  # to Python, a module that cannot be imported


def _cost(model: str, usage: dict[str, int]) -> dict[str, float]:
    try:
        found = cost_per_token(
            model=model,
            prompt_tokens=usage.get("input_tokens", 0),
            completion_tokens=usage.get("output_tokens", 0),
            cache_read_input_tokens=usage.get("cache_read_input_tokens"),
            cache_creation_input_tokens=usage.get("cache_creation_input_tokens"),
        )
    except Exception:  # noqa: BLE001  (prices are advice)
        found = None
    if found is None:
        return {}
    of_input, of_output = found
    return {"input_cost": of_input, "output_cost": of_output, "total_cost": of_input + of_output}
