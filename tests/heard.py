"""A callback of somebody else's: what it hears is what DSPy emitted."""

from __future__ import annotations

from collections import Counter

from dspy.utils.callback import BaseCallback
from dspy.utils.callback_context import ACTIVE_CALL_ID

from dspy_mlflow_callbacks import CallKind


def _hook(kind: CallKind):
    def on_start(self, call_id, instance, inputs):
        self.starts[call_id] = (kind, instance, ACTIVE_CALL_ID.get())  # one step: threads need no lock

    return on_start


class Heard(BaseCallback):
    """Keeps the start of every call that DSPy tells of: its kind, its instance and its parent's id by its own id."""

    def __init__(self):
        super().__init__()
        self.starts = {}

    @property
    def roots(self):
        """Return the ids of the calls that no other encloses, as they began."""
        return [call_id for call_id, (_, _, parent_call_id) in self.starts.items() if parent_call_id is None]

    @property
    def kinds(self):
        """Return how many calls of each kind there were; a method that calls the same of its base class is one."""
        return Counter(
            kind.value
            for kind, instance, parent_call_id in self.starts.values()
            if self.starts.get(parent_call_id, ())[:2] != (kind, instance)
        )

    on_module_start = _hook(CallKind.MODULE)
    on_lm_start = _hook(CallKind.LM)
    on_adapter_format_start = _hook(CallKind.ADAPTER_FORMAT)
    on_adapter_parse_start = _hook(CallKind.ADAPTER_PARSE)
    on_tool_start = _hook(CallKind.TOOL)
    on_evaluate_start = _hook(CallKind.EVALUATE)
    on_interpreter_execute_start = _hook(CallKind.INTERPRETER_EXECUTE)
    on_interpreter_tool_call_start = _hook(CallKind.INTERPRETER_TOOL_CALL)
    on_interpreter_startup_start = _hook(CallKind.INTERPRETER_STARTUP)
    on_interpreter_shutdown_start = _hook(CallKind.INTERPRETER_SHUTDOWN)
    on_compile_start = _hook(CallKind.COMPILE)
