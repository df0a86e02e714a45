"""What all callback classes share: settings, from arguments and variables, counts, and copies."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from dspy_mlflow_callbacks import dspy_internals, lm_internals, mlflow_internals
from dspy_mlflow_callbacks.callbacks.governing import GoverningCallback, hears
from dspy_mlflow_callbacks.checks import stable_repr
from dspy_mlflow_callbacks.config import OPTIONS, TracingConfig, TracingOptions, kept, lets_warn, says, set_verbosity
from dspy_mlflow_callbacks.describe import Capture
from dspy_mlflow_callbacks.evaluating import examples_of
from dspy_mlflow_callbacks.events import EMPTY
from dspy_mlflow_callbacks.export.exporter import EXPORTER
from dspy_mlflow_callbacks.flushing import flush
from dspy_mlflow_callbacks.losses import Losses
from dspy_mlflow_callbacks.metrics import METRICS
from dspy_mlflow_callbacks.middleware import Chain, Middleware, TagInjector
from dspy_mlflow_callbacks.payload import PayloadStep, PayloadSteps
from dspy_mlflow_callbacks.peers import PEERS
from dspy_mlflow_callbacks.spans.engine import Engine
from dspy_mlflow_callbacks.spans.recorded_traces import Settings
from dspy_mlflow_callbacks.stats import Counters, Stats, WarnOnce
from dspy_mlflow_callbacks.tracing import Tracing

if TYPE_CHECKING:
    from typing_extensions import Unpack

_WARN = WarnOnce()

Callback = TypeVar("Callback", bound="TracingCallback")


class TracingCallback(GoverningCallback):
    """What all callback classes share: their settings, and governing what they stand on.

    A callback among the own `callbacks` of a program (or of an LM, a tool, …) governs it: its call and all calls below
    it, wherever they run. Callbacks of this package that are set globally stand aside for it; others hear what they
    always hear.

    Args:
        middleware: Callables `CallStart -> CallStart | None` in the order in which they run, after those that the
            options ask for.
        payload_steps: Callables `Payload -> Payload` in the order in which they run, in place of those that the options
            ask for; None is `[Redactor()]` and what `redact_*` and `max_payload_chars` add.
        config: Options as a whole: with it, no variable is looked at.
        options: The fields of `TracingConfig`. An option that is not given is *config*'s, or, without one, that of the
            variable `DSPY_MLFLOW_<OPTION>`, or the default.

    Raises:
        TypeError: if an argument is no option or of another type.
        ValueError: if an option is out of range, or said twice.
    """

    hears_unannounced_calls = False
    origin: Mapping[str, str] = EMPTY  # what traces say of the saved program that the callback came with

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
        self._hears_variables = config is None
        self._arguments = {*options, *(() if config is None else self.config.changed())}
        self._own_middleware = Chain(middleware).steps
        self._own_payload_steps = None if payload_steps is None else PayloadSteps(payload_steps).steps
        if payload_steps is not None:
            _refuse_beside_payload_steps(options)
        set_verbosity(self.config.verbosity)
        self._tracing = self._tracing_of(self.config)
        if self.config.enabled:
            dspy_internals.install(mlflow_internals.in_current_context, examples_of)
            lm_internals.install()
            PEERS.install(hears)

    def _tracing_of(self, config: TracingConfig) -> Tracing:
        counters = Counters()
        METRICS.watch(counters)
        losses = Losses(counters)
        settings = Settings(
            payload_steps=self.payload_steps,
            on_loss=losses,
            counters=counters,
            limits=config.limits(),
            max_open_s=config.max_open_s,
            tail_sampler=config.tail_sampler,
        )
        capture = Capture(
            inputs=config.capture_inputs, outputs=config.capture_outputs, messages=config.capture_messages
        )
        EXPORTER.exit_timeout_s = config.exit_timeout_s
        return Tracing(
            Chain([*config.middleware(), *_injectors(self.origin), *self._own_middleware]),
            Engine(settings, config.experiment, config.engine),
            counters,
            losses,
            capture=capture,
            summarizes=config.compile == "summary",
            evaluate=config.evaluate,
            max_silent_s=config.max_silent_s,
        )

    def __repr__(self) -> str:
        said = [f"{name}={stable_repr(getattr(self.config, name))}" for name in self.config.changed()]
        if self._own_middleware:
            said.append(f"middleware={list(self._own_middleware)!r}")
        if self._own_payload_steps is not None:
            said.append(f"payload_steps={list(self._own_payload_steps)!r}")
        return f"{type(self).__name__}({', '.join(said)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # What is counted and open belongs to this process; a copy begins afresh with the same settings. Options go by
        # name, so that another version of this package can read them.
        options = {name: kept(name, getattr(self.config, name)) for name in self.config.changed()}
        return _again, (type(self), options, self._own_middleware, self._own_payload_steps, dict(self.origin))

    def comes_from(self, origin: Mapping[str, str]) -> None:
        """Let each trace that begins with this callback say in its metadata which saved program it is of.

        Args:
            origin: Metadata by name.
        """
        self.origin = origin
        self._tracing = self._tracing_of(self.config)

    @property
    def payload_steps(self) -> PayloadSteps:
        """What runs on all content before it leaves."""
        own = self._own_payload_steps
        return PayloadSteps(self.config.payload_steps() if own is None else own)

    def experiment_id(self) -> str | None:
        """Return the id of the experiment that a trace would go to that begins here; None if the store does not say."""
        return next(iter(self._tracing.experiment()), None)

    def narrowed(self, config: TracingConfig) -> TracingCallback:
        """Return a callback with another configuration, which only takes away from what is recorded.

        Own payload steps stay, and those that the configuration asks for run after them. It counts into `stats()` of
        its own.
        """
        own = self._own_payload_steps
        steps = None if own is None else (*own, *config.payload_steps())
        return type(self)(config=config, middleware=self._own_middleware, payload_steps=steps)

    def unsayable(self) -> list[str]:
        """Return the names of the arguments that are no options, and that JSON so cannot say."""
        steps = {"middleware": self._own_middleware, "payload_steps": self._own_payload_steps is not None}
        return [name for name, is_given in steps.items() if is_given]

    def alike(
        self, cls: type[Callback], *, further: Iterable[Middleware] = (), **options: Unpack[TracingOptions]
    ) -> Callback:
        """Return a callback of *cls* with the settings of this one, but for *options*, with *further* middleware."""
        return cls(
            config=self.config.with_options(**options),
            middleware=[*self._own_middleware, *further],
            payload_steps=self._own_payload_steps,
        )

    def stats(self) -> Stats:
        """Return what this callback has counted so far."""
        return self._tracing.stats()

    def engine(self) -> tuple[str, str]:
        """Return the engine of traces that begin now, `recorded` or `native`, and why it is that one."""
        return self._tracing.engine()

    def source_of(self, option: str) -> str:
        """Return where the value of an option comes from: `argument`, `variable` or `default`."""
        if option in self._arguments:
            return "argument"
        is_said = self._hears_variables and says(OPTIONS[option], getattr(self.config, option), os.environ)
        return "variable" if is_said else "default"

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until what has ended is stored; see `dspy_mlflow_callbacks.flush`."""
        return flush(timeout)


def _again(
    kind: type[TracingCallback],
    options: Mapping[str, Any],
    middleware: Iterable[Middleware],
    payload_steps: Iterable[PayloadStep] | None,
    origin: Mapping[str, str],
) -> TracingCallback:
    """Return a callback that was pickled, without options that only another version of this package has."""
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        _WARN(tuple(unknown), f"A callback was pickled with options that are unknown here: {', '.join(unknown)}.")
    config = TracingConfig(**{name: value for name, value in options.items() if name in OPTIONS})
    callback = kind(config=config, middleware=middleware, payload_steps=payload_steps)
    if origin:
        callback.comes_from(origin)
    return callback


def _injectors(origin: Mapping[str, str]) -> list[Middleware]:
    return [TagInjector(metadata=origin)] if origin else []


def _config_of(config: TracingConfig | None, options: Mapping[str, Any]) -> TracingConfig:
    if config is None:
        config = TracingConfig.from_env(**options)
        return config if "engine" in options else _with_engine_that_serves(config)
    if not isinstance(config, TracingConfig):
        message = f"config must be a TracingConfig, got {config!r}"
        raise TypeError(message)
    return config.with_options(**options)


def _with_engine_that_serves(config: TracingConfig) -> TracingConfig:
    """Return *config* without an engine that a variable asks for and that cannot serve: no program stops for it."""
    reason = mlflow_internals.why_not_recorded() if config.engine == "recorded" else None
    if reason is None:
        return config
    if lets_warn(config.verbosity):
        _WARN(reason, f"DSPY_MLFLOW_ENGINE='recorded' is ignored: {reason}. The default stands: auto.")
    return config.with_options(engine="auto")


def _refuse_beside_payload_steps(options: Mapping[str, Any]) -> None:
    doubled = [name for name in options if name.startswith("redact") or name == "max_payload_chars"]
    if doubled:
        message = f"payload_steps says what runs on payloads; beside it there can be no {', '.join(doubled)}"
        raise ValueError(message)
