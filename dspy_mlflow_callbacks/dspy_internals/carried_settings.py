"""DSPy's settings as another process needs them."""

from __future__ import annotations

from dspy.dsp.utils.settings import DEFAULT_CONFIG, main_thread_config, thread_local_overrides

from dspy_mlflow_callbacks.dspy_internals.settings import Settings

# What a call notes of itself while it runs, and streams that lead out of it: none of another process's business.
_OF_THE_CALL = frozenset(
    {
        "branch_idx",
        "caller_modules",
        "caller_predict",
        "send_stream",
        "stream_listeners",
        "trace",
        "usage_tracker",
    }
)


def carried_settings() -> Settings:
    """Return the settings that hold here and are not DSPy's defaults: LM, adapter, callbacks and what else is set."""
    here = {**main_thread_config, **thread_local_overrides.get()}
    return {name: value for name, value in here.items() if name not in _OF_THE_CALL and not _is_default(name, value)}


def _is_default(name: str, value: object) -> bool:
    default = DEFAULT_CONFIG.get(name)
    return value is default or (type(value) in (list, int, bool) and value == default)
