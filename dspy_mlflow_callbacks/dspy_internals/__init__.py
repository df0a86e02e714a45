"""The door to what DSPy does not promise: its context variables and the places that emit no event.

Each function says what it relies on; `tests/test_dspy_internals.py` names it when a DSPy release changes it.
"""

from dspy_mlflow_callbacks.dspy_internals.carried_settings import carried_settings
from dspy_mlflow_callbacks.dspy_internals.copies import KeptCallbacks
from dspy_mlflow_callbacks.dspy_internals.directing import directed, directed_everywhere
from dspy_mlflow_callbacks.dspy_internals.evaluating import HearsExamples
from dspy_mlflow_callbacks.dspy_internals.items import Item, current_item
from dspy_mlflow_callbacks.dspy_internals.settings import (
    CarriedCalls,
    OthersOnly,
    OutsideCalls,
    SettingsOverride,
    active_call_id,
    carried_call_id,
    hear_everywhere,
    restored_settings,
    settings,
)
from dspy_mlflow_callbacks.dspy_internals.standing_in import HAS_ENGINES, NO_CONNECTION, Answer, standing_in
from dspy_mlflow_callbacks.dspy_internals.unannounced import install, installs
from dspy_mlflow_callbacks.dspy_internals.wrapping import uninstall, wrap

__all__ = [
    "HAS_ENGINES",
    "NO_CONNECTION",
    "Answer",
    "CarriedCalls",
    "HearsExamples",
    "Item",
    "KeptCallbacks",
    "OthersOnly",
    "OutsideCalls",
    "SettingsOverride",
    "active_call_id",
    "carried_call_id",
    "carried_settings",
    "current_item",
    "directed",
    "directed_everywhere",
    "hear_everywhere",
    "install",
    "installs",
    "restored_settings",
    "settings",
    "standing_in",
    "uninstall",
    "wrap",
]
