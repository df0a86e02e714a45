"""The callback classes, each of which records some kinds of call."""

from __future__ import annotations

from typing import Any

from dspy_mlflow_callbacks.callbacks.base import TracingCallback
from dspy_mlflow_callbacks.callbacks.governing import EndHook, GoverningCallback, StartHook
from dspy_mlflow_callbacks.events import CallKind


def _hooks(kind: CallKind) -> tuple[StartHook, EndHook]:
    """Return the pair of methods that DSPy calls around a call of a kind that is recorded."""

    def on_start(self: GoverningCallback, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start(kind, call_id, instance, inputs)

    def on_end(self: GoverningCallback, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._end(call_id, outputs, exception)

    return on_start, on_end


class ModuleCallback(TracingCallback):
    """Traces modules: `dspy.Predict`, `dspy.ReAct`, your own programs, retrievers and embedders."""

    hears_unannounced_calls = True

    on_module_start, on_module_end = _hooks(CallKind.MODULE)


class LMCallback(TracingCallback):
    """Traces calls of language models."""

    on_lm_start, on_lm_end = _hooks(CallKind.LM)


class AdapterCallback(TracingCallback):
    """Traces what adapters format for the LM and parse from its answers."""

    on_adapter_format_start, on_adapter_format_end = _hooks(CallKind.ADAPTER_FORMAT)
    on_adapter_parse_start, on_adapter_parse_end = _hooks(CallKind.ADAPTER_PARSE)


class ToolCallback(TracingCallback):
    """Traces tools."""

    on_tool_start, on_tool_end = _hooks(CallKind.TOOL)


class EvaluateCallback(TracingCallback):
    """Traces `dspy.Evaluate`."""

    on_evaluate_start, on_evaluate_end = _hooks(CallKind.EVALUATE)


class InterpreterCallback(TracingCallback):
    """Traces code interpreters."""

    on_interpreter_execute_start, on_interpreter_execute_end = _hooks(CallKind.INTERPRETER_EXECUTE)
    on_interpreter_tool_call_start, on_interpreter_tool_call_end = _hooks(CallKind.INTERPRETER_TOOL_CALL)
    on_interpreter_startup_start, on_interpreter_startup_end = _hooks(CallKind.INTERPRETER_STARTUP)
    on_interpreter_shutdown_start, on_interpreter_shutdown_end = _hooks(CallKind.INTERPRETER_SHUTDOWN)


class CompileCallback(TracingCallback):
    """Traces optimizers."""

    on_compile_start, on_compile_end = _hooks(CallKind.COMPILE)


class MlflowCallback(
    ModuleCallback,
    LMCallback,
    AdapterCallback,
    ToolCallback,
    EvaluateCallback,
    InterpreterCallback,
    CompileCallback,
):
    """Traces everything: each execution of a DSPy program becomes one MLflow trace.

    Args:
        middleware: Callables `CallStart -> CallStart | None` in the order in which they run, after those that the
            options ask for.
        payload_steps: Callables `Payload -> Payload` in the order in which they run, in place of those that the options
            ask for; None is `[Redactor()]` and what `redact_*` and `max_payload_chars` add.
        config: Options as a whole, a `TracingConfig`: with it, no variable is looked at.
        options: Any of the options that `help(TracingConfig)` and docs/configuration.md list, by name. One that is not
            given is *config*'s, or, without one, that of the variable `DSPY_MLFLOW_<OPTION>`, or the default.

    Raises:
        TypeError: if an argument is no option or of another type.
        ValueError: if an option is out of range, or said twice.

    Example:
        ```python
        dspy.configure(callbacks=[MlflowCallback()])

        program.callbacks = [MlflowCallback(sampling_ratio=0.1, tags={"team": "search"})]
        ```
    """
