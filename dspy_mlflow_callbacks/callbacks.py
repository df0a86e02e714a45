"""The callback classes: where DSPy's events come in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import dspy
from dspy.utils.callback import BaseCallback

from dspy_mlflow_callbacks import dspy_internals, lm_internals, mlflow_internals
from dspy_mlflow_callbacks.config import TracingConfig, TracingOptions, set_verbosity
from dspy_mlflow_callbacks.describe import Capture
from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.middleware import Chain, Middleware
from dspy_mlflow_callbacks.payload import PayloadStep, PayloadSteps
from dspy_mlflow_callbacks.stats import Stats
from dspy_mlflow_callbacks.tracing import Tracing

if TYPE_CHECKING:
    from typing_extensions import Unpack

StartHook = Callable[["TracingCallback", str, Any, dict[str, Any]], None]
EndHook = Callable[..., None]


def _hooks(kind: CallKind) -> tuple[StartHook, EndHook]:
    """Return the pair of methods that DSPy calls around a call of this kind."""

    def on_start(self: TracingCallback, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start(kind, call_id, instance, inputs)

    def on_end(self: TracingCallback, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._end(call_id, outputs, exception)

    return on_start, on_end


class TracingCallback(BaseCallback):
    """What all callback classes share: the way in, the boundary for errors, and governing one's own program.

    A callback in a program's own `callbacks` governs that program: its call and all calls below it, wherever they
    run. Callbacks of this package that are set globally stand aside for it; others hear what they always hear.

    Args:
        middleware: Callables `CallStart -> CallStart | None` in the order in which they run, after those that the
            options ask for.
        payload_steps: Callables `Payload -> Payload` in the order in which they run, in place of those that the options
            ask for; None is `[Redactor()]` and what `redact_*` and `max_payload_chars` add.
        config: Options as a whole, in place of the environment's.
        options: The fields of `TracingConfig`. An option that is not given is *config*'s, or, without one, that of the
            variable `DSPY_MLFLOW_<OPTION>`, or the default.

    Raises:
        TypeError: if an argument is no option or of another type.
        ValueError: if an option is out of range, or said twice.
    """

    hears_unannounced_calls = False

    def __init__(
        self,
        *,
        middleware: Iterable[Middleware] = (),
        payload_steps: Iterable[PayloadStep] | None = None,
        config: TracingConfig | None = None,
        **options: Unpack[TracingOptions],
    ) -> None:
        super().__init__()
        self.config = _config_of(config, options)
        self._own_middleware = Chain(middleware).steps
        self._own_payload_steps = None if payload_steps is None else PayloadSteps(payload_steps).steps
        if payload_steps is not None:
            _refuse_beside_payload_steps(options)
        set_verbosity(self.config.verbosity)
        self._tracing = Tracing(
            Chain([*self.config.middleware(), *self._own_middleware]),
            capture=Capture(
                inputs=self.config.capture_inputs,
                outputs=self.config.capture_outputs,
                messages=self.config.capture_messages,
            ),
            payload_steps=PayloadSteps(
                self.config.payload_steps() if self._own_payload_steps is None else self._own_payload_steps
            ),
            experiment=self.config.experiment,
        )
        self._governed: dict[str, dspy_internals.SettingsOverride] = {}
        dspy_internals.install(mlflow_internals.in_current_context)
        lm_internals.install()

    def __repr__(self) -> str:
        said = [f"{name}={getattr(self.config, name)!r}" for name in self.config.changed()]
        if self._own_middleware:
            said.append(f"middleware={list(self._own_middleware)!r}")
        if self._own_payload_steps is not None:
            said.append(f"payload_steps={list(self._own_payload_steps)!r}")
        return f"{type(self).__name__}({', '.join(said)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # What is counted and open belongs to this process; a copy begins afresh with the same settings.
        again = functools.partial(
            type(self),
            config=self.config,
            middleware=self._own_middleware,
            payload_steps=self._own_payload_steps,
        )
        return again, ()

    def stats(self) -> Stats:
        """Return what this callback has counted so far."""
        return self._tracing.stats()

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Take over a program that this callback belongs to, also where its modules get no spans."""
        self._govern(call_id, instance)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Give back what `on_module_start` took."""
        self._release(call_id)

    def _start(self, kind: CallKind, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        try:
            own = _tracing_callbacks(instance)
            if self.config.enabled and (not own or self in own):
                self._tracing.start(kind, call_id, instance, inputs, governs=bool(own))
        except Exception as error:  # noqa: BLE001  (the boundary: the program must not notice)
            self._tracing.lost(error)

    def _end(self, call_id: str, outputs: Any, exception: BaseException | None) -> None:
        try:
            self._tracing.end(call_id, outputs, exception)
        except Exception as error:  # noqa: BLE001  (the boundary: the program must not notice)
            self._tracing.lost(error)

    def _govern(self, call_id: str, instance: Any) -> None:
        own = _tracing_callbacks(instance)
        if own and own[0] is self and call_id not in self._governed:
            others = [each for each in dspy.settings.get("callbacks", []) if not isinstance(each, TracingCallback)]
            self._governed[call_id] = dspy_internals.SettingsOverride(callbacks=[*others, *own])

    def _release(self, call_id: str) -> None:
        override = self._governed.pop(call_id, None)
        if override is not None:
            override.undo()


def _config_of(config: TracingConfig | None, options: Mapping[str, Any]) -> TracingConfig:
    if config is None:
        return TracingConfig.from_env(**options)
    if not isinstance(config, TracingConfig):
        message = f"config must be a TracingConfig, got {config!r}"
        raise TypeError(message)
    return config.with_options(**options)


def _refuse_beside_payload_steps(options: Mapping[str, Any]) -> None:
    doubled = [name for name in options if name.startswith("redact") or name == "max_payload_chars"]
    if doubled:
        message = f"payload_steps says what runs on payloads; beside it there can be no {', '.join(doubled)}"
        raise ValueError(message)


def _tracing_callbacks(instance: Any) -> list[TracingCallback]:
    """Return those of an instance's own callbacks that are of this package."""
    own = getattr(instance, "callbacks", None)
    return [each for each in own if isinstance(each, TracingCallback)] if own else []


class ModuleCallback(TracingCallback):
    """Traces modules: `dspy.Predict`, `dspy.ReAct`, your own programs, retrievers and embedders."""

    hears_unannounced_calls = True

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Open the module's span."""
        self._start(CallKind.MODULE, call_id, instance, inputs)
        super().on_module_start(call_id, instance, inputs)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Close the module's span."""
        super().on_module_end(call_id, outputs, exception)
        self._end(call_id, outputs, exception)


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

    Its arguments are those of `TracingCallback`.

    Example:
        ```python
        dspy.configure(callbacks=[MlflowCallback()])
        ```
    """
