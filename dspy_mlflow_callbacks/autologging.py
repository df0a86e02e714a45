"""Tracing for the whole process without configuring DSPy: the drop-in for `mlflow.dspy.autolog()`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.callbacks import MlflowCallback, TracingCallback
from dspy_mlflow_callbacks.config import TracingConfig, TracingOptions
from dspy_mlflow_callbacks.forks import FORKS
from dspy_mlflow_callbacks.middleware import Middleware
from dspy_mlflow_callbacks.payload import PayloadStep, PayloadSteps
from dspy_mlflow_callbacks.runs import RunContents, RunLogger
from dspy_mlflow_callbacks.stats import logger

if TYPE_CHECKING:
    from typing_extensions import Unpack


# The first seven are the arguments of `mlflow.dspy.autolog`, which takes them by position too: PLR0917, FBT.
def autolog(  # noqa: PLR0917
    log_traces: bool = True,  # noqa: FBT001, FBT002
    log_traces_from_compile: bool = False,  # noqa: FBT001, FBT002
    log_traces_from_eval: bool = True,  # noqa: FBT001, FBT002
    log_compiles: bool = False,  # noqa: FBT001, FBT002
    log_evals: bool = False,  # noqa: FBT001, FBT002
    disable: bool = False,  # noqa: FBT001, FBT002
    silent: bool = False,  # noqa: FBT001, FBT002
    *,
    middleware: Iterable[Middleware] = (),
    payload_steps: Iterable[PayloadStep] | None = None,
    config: TracingConfig | None = None,
    **options: Unpack[TracingOptions],
) -> None:
    """Trace every DSPy program of this process, in all threads and async tasks, from now on.

    The first seven arguments and their defaults are those of `mlflow.dspy.autolog()`, the others those of
    `MlflowCallback`. It may be called from any thread or async task, and again: then the last call's arguments hold.
    Nothing is configured in DSPy: what the program configures later leaves tracing on, and where the program configures
    a callback of this package itself, that one records instead.

    Args:
        log_traces: Whether programs are traced.
        log_traces_from_compile: Whether optimizers are traced, as the option `compile` says: in summary by default.
            That option, given as an argument, goes before it.
        log_traces_from_eval: Whether `dspy.Evaluate` is traced, with what it runs: True is `evaluate="linked"`, False
            `evaluate="off"`. The option `evaluate`, given as an argument, goes before it.
        log_compiles: Whether each compile is logged as an MLflow run: arguments, datasets, the program as it was,
            `initial_model.json`, and as it comes out, `best_model.json`. A compile inside a compile is a part of it.
        log_evals: Whether each evaluation is logged as an MLflow run, below its compile's if there is one: program,
            score and a table of results, of which `capture_inputs=False` leaves out the examples (and the datasets of
            compiles), `capture_outputs=False` the predictions.
        disable: Whether all of this ends, and everything is put back. The other arguments are not looked at then.
        silent: Whether this package logs nothing.
        middleware: See `MlflowCallback`.
        payload_steps: See `MlflowCallback`; they run on what is logged to runs too.
        config: See `MlflowCallback`.
        options: See `TracingConfig`; with `enabled=False` there are neither traces nor runs.

    Raises:
        TypeError: if an argument is no option or of another type.
        ValueError: if an option is out of range, or said twice.

    Example:
        ```python
        dspy_mlflow_callbacks.autolog(sampling_ratio=0.1)
        ```
    """
    if disable:
        _AUTOLOG.end()
        return
    said: dict[str, Any] = dict(options)
    if not log_traces_from_compile:
        said.setdefault("compile", False)
    if not log_traces_from_eval:
        said.setdefault("evaluate", False)
    if silent:
        said.setdefault("verbosity", "silent")

    _AUTOLOG.begin(
        lambda: AutologCallback(middleware=middleware, payload_steps=payload_steps, config=config, **said),
        log_traces=log_traces,
        log_compiles=log_compiles,
        log_evals=log_evals,
    )


class AutologCallback(MlflowCallback):
    """The callback of `autolog`; one that was replaced or switched off records no further call."""

    def run_logger(self, *, log_compiles: bool, log_evals: bool) -> RunLogger:
        """Return the callback that logs runs with the same options."""
        own, config = self._own_payload_steps, self.config
        steps = PayloadSteps(config.payload_steps() if own is None else own)
        contents = RunContents(steps, inputs=config.capture_inputs, outputs=config.capture_outputs)
        return RunLogger(contents, log_compiles=log_compiles, log_evals=log_evals, experiment=config.experiment)


class _Autolog:
    """What `autolog` switched on in this process."""

    def __init__(self) -> None:
        self._lock = FORKS.lock()
        self._callbacks: list[Any] = []
        self._undo: Callable[[], None] | None = None
        self._log_level = 0
        self._installs = 0  # of DSPy's wrappers, by callbacks that were made here

    def begin(
        self, make: Callable[[], AutologCallback], *, log_traces: bool, log_compiles: bool, log_evals: bool
    ) -> None:
        """Let the callback that *make* returns hear all calls, instead of the one before."""
        with self._lock:
            if self._undo is None:
                self._log_level = logger.level
            tracing = self._made(make)
            self._installs += tracing.config.enabled
            callbacks: list[Any] = [tracing] if log_traces else []
            if tracing.config.enabled and (log_compiles or log_evals):
                callbacks.insert(0, tracing.run_logger(log_compiles=log_compiles, log_evals=log_evals))
            self._replace(callbacks)
            if self._undo is None:
                self._undo = dspy_internals.hear_everywhere(self._with_ours)

    def end(self) -> None:
        """Put back what `begin` changed; calls that run end as they began."""
        with self._lock:
            self._replace([])
            if self._undo is not None:
                self._undo()
                self._undo = None
                logger.setLevel(self._log_level)
                if dspy_internals.installs() == self._installs:  # nobody else made a callback that needs them
                    dspy_internals.uninstall()

    def _made(self, make: Callable[[], AutologCallback]) -> AutologCallback:
        before = logger.level
        logger.setLevel(self._log_level)  # an earlier call may have been silent
        try:
            return make()
        except BaseException:
            logger.setLevel(before)
            raise

    def _replace(self, callbacks: list[Any]) -> None:
        for each in self._callbacks:
            each.is_on = False
        self._callbacks = callbacks

    def _with_ours(self, configured: Any) -> Any:
        """Return the callbacks that hear a call where the program has *configured* these."""
        ours = [each for each in self._callbacks if not _stands_among(configured, type(each))]
        return [*configured, *ours] if ours else configured


def _stands_among(configured: Any, ours: type) -> bool:
    """Return whether one of *configured* does what a callback of *ours* does, or whether nobody knows."""
    if not isinstance(configured, list):
        return True
    kind = TracingCallback if issubclass(ours, TracingCallback) else ours
    if kind is TracingCallback and isinstance(configured, dspy_internals.OthersOnly):
        return True
    return any(isinstance(each, kind) and getattr(each, "is_on", True) for each in configured)


_AUTOLOG = _Autolog()
