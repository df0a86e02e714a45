"""The door to what DSPy does not promise: its context variables and the places that emit no event.

Each function says what it relies on; `tests/test_dspy_internals.py` names it when a DSPy release changes it.
"""

from dspy_mlflow_callbacks.dspy_internals.copies import KeptCallbacks
from dspy_mlflow_callbacks.dspy_internals.settings import (
    OthersOnly,
    SettingsOverride,
    active_call_id,
    hear_everywhere,
    restored_settings,
    settings,
)
from dspy_mlflow_callbacks.dspy_internals.unannounced import install, installs
from dspy_mlflow_callbacks.dspy_internals.wrapping import uninstall, wrap

__all__ = [
    "KeptCallbacks",
    "OthersOnly",
    "SettingsOverride",
    "active_call_id",
    "hear_everywhere",
    "install",
    "installs",
    "restored_settings",
    "settings",
    "uninstall",
    "wrap",
]
