"""Where DSPy's events come in: the boundary for errors, and who hears of a call and governs what is below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.config import TracingConfig
from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.peers import PEERS
from dspy_mlflow_callbacks.tracing import Tracing

StartHook = Callable[["GoverningCallback", str, Any, dict[str, Any]], None]
EndHook = Callable[..., None]

# What calls other things; the others' calls are over before it pays to look away.
_CALLING_KINDS = frozenset({CallKind.MODULE, CallKind.EVALUATE, CallKind.COMPILE, CallKind.TOOL})


def _governing_hooks(kind: CallKind) -> tuple[StartHook, EndHook]:
    """Return the pair of methods that DSPy calls around a call of a kind that is not recorded."""

    def on_start(self: GoverningCallback, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._take_over(kind, call_id, instance)

    def on_end(self: GoverningCallback, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._release(call_id)

    return on_start, on_end


class GoverningCallback(BaseCallback):
    """Hears DSPy's events, and governs the programs (LMs, tools, …) among whose own `callbacks` it is.

    Attributes:
        config: Its options.
        is_on: Whether it records; calls that run when it is switched off end as they began.
    """

    config: TracingConfig
    is_on = True
    _tracing: Tracing

    def __init__(self) -> None:
        super().__init__()
        self._governed: dict[str, list[Callable[[], None]]] = {}  # call_id → what is undone when it ends

    @classmethod
    def records(cls, kind: CallKind) -> bool:
        """Return whether callbacks of this class record calls of a kind."""
        hook = f"on_{kind.value}_start"
        return getattr(cls, hook) is not getattr(GoverningCallback, hook)

    on_module_start, on_module_end = _governing_hooks(CallKind.MODULE)
    on_lm_start, on_lm_end = _governing_hooks(CallKind.LM)
    on_adapter_format_start, on_adapter_format_end = _governing_hooks(CallKind.ADAPTER_FORMAT)
    on_adapter_parse_start, on_adapter_parse_end = _governing_hooks(CallKind.ADAPTER_PARSE)
    on_tool_start, on_tool_end = _governing_hooks(CallKind.TOOL)
    on_evaluate_start, on_evaluate_end = _governing_hooks(CallKind.EVALUATE)
    on_interpreter_execute_start, on_interpreter_execute_end = _governing_hooks(CallKind.INTERPRETER_EXECUTE)
    on_interpreter_tool_call_start, on_interpreter_tool_call_end = _governing_hooks(CallKind.INTERPRETER_TOOL_CALL)
    on_interpreter_startup_start, on_interpreter_startup_end = _governing_hooks(CallKind.INTERPRETER_STARTUP)
    on_interpreter_shutdown_start, on_interpreter_shutdown_end = _governing_hooks(CallKind.INTERPRETER_SHUTDOWN)
    on_compile_start, on_compile_end = _governing_hooks(CallKind.COMPILE)

    def _start(self, kind: CallKind, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        try:
            callbacks = getattr(instance, "callbacks", None)
            own = _of_this_package(callbacks) if callbacks else ()
            if own:
                self._govern(kind, call_id, own)
            if self.is_on and self.config.enabled and (not own or self in own) and not PEERS.records():
                is_left_out = self._tracing.start(kind, call_id, instance, inputs, governs=bool(own))
                if is_left_out and kind in _CALLING_KINDS:
                    self._stay_away(call_id)
        except Exception as error:  # noqa: BLE001  (the boundary: the program must not notice)
            self._tracing.lost(error)

    def _end(self, call_id: str, outputs: Any, exception: BaseException | None) -> None:
        try:
            self._tracing.end(call_id, outputs, exception)
        except Exception as error:  # noqa: BLE001  (the boundary: the program must not notice)
            self._tracing.lost(error)
        finally:
            if self._governed:
                self._release(call_id)  # after the span, which entered MLflow's context after it

    def _take_over(self, kind: CallKind, call_id: str, instance: Any) -> None:
        try:
            own = _tracing_callbacks(instance)
            if own:
                self._govern(kind, call_id, own)
        except Exception as error:  # noqa: BLE001  (the boundary: the program must not notice)
            self._tracing.lost(error)

    def _govern(self, kind: CallKind, call_id: str, own: Sequence[GoverningCallback]) -> None:
        if call_id in self._governed or _governor(kind, own) is not self:
            return
        override = dspy_internals.SettingsOverride(callbacks=[*_others(), *own])
        undo = self._governed[call_id] = [override.undo]
        unmuted = self._tracing.unmute() if self.config.enabled else None
        if unmuted is not None:
            undo.append(unmuted)

    def _stay_away(self, call_id: str) -> None:
        """Hear nothing of what is called by a call that is left out: not to hear of it costs less than to drop it."""
        others = dspy_internals.OthersOnly(_others())
        self._governed.setdefault(call_id, []).append(dspy_internals.SettingsOverride(callbacks=others).undo)

    def _release(self, call_id: str) -> None:
        for undo in reversed(self._governed.pop(call_id, ())):
            undo()


def _others() -> list[Any]:
    """Return those of the callbacks in DSPy's settings that are not of this package."""
    return [each for each in dspy.settings.get("callbacks", []) if not isinstance(each, GoverningCallback)]


def _tracing_callbacks(instance: Any) -> Sequence[GoverningCallback]:
    """Return those of an instance's own callbacks that are of this package."""
    return _of_this_package(getattr(instance, "callbacks", None) or ())


def _of_this_package(callbacks: Iterable[Any]) -> Sequence[GoverningCallback]:
    return [each for each in callbacks if isinstance(each, GoverningCallback)]


def _governor(kind: CallKind, own: Sequence[GoverningCallback]) -> GoverningCallback:
    """Return which of the callbacks that stand on an instance governs its call: the first that records it, if any does.

    So one callback alone changes MLflow's context around a call, and undoes its changes in the right order.
    """
    enabled = [each for each in own if each.config.enabled]
    recording = [each for each in enabled if each.records(kind)]
    return (recording or enabled or own)[0]


def hears(kind: str, instance: Any) -> bool:
    """Return whether a callback of this package decides about a call: one that is switched on and records its kind.

    Args:
        kind: The value of a `CallKind`.
        instance: What is called.
    """
    callbacks = dspy.settings.get("callbacks", [])
    if isinstance(callbacks, dspy_internals.OthersOnly):
        return True  # that nothing is recorded here is what one of ours has decided
    everywhere = [each for each in callbacks if isinstance(each, GoverningCallback)]
    hearers = _tracing_callbacks(instance) or everywhere
    return any(each.is_on and each.config.enabled and each.records(CallKind(kind)) for each in hearers)
