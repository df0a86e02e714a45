"""The options as a value, and what they make of the way of a call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.config.arguments import TracingOptions
from dspy_mlflow_callbacks.config.documentation import attributes_section
from dspy_mlflow_callbacks.config.option_table import OPTIONS, OptionTable
from dspy_mlflow_callbacks.config.options import plain, refuse_unknown
from dspy_mlflow_callbacks.config.variables import WITHOUT_WHOLE_TRACES, said_by_variables
from dspy_mlflow_callbacks.config.verbosity import lets_warn
from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings, default_folder
from dspy_mlflow_callbacks.export.waiting import Limits
from dspy_mlflow_callbacks.middleware import (
    KindFilter,
    LevelFilter,
    Middleware,
    NameFilter,
    RatioSampler,
    RuleSampler,
    TagInjector,
)
from dspy_mlflow_callbacks.payload import PayloadLimit, PayloadStep, Redactor

if TYPE_CHECKING:
    from typing_extensions import Unpack


@attrs.frozen(kw_only=True, init=False)
class TracingConfig(OptionTable):
    """The options of a callback, as a value that can be checked, compared, stored and passed on.

    Each is an argument of the callbacks, a field here, and an environment variable `DSPY_MLFLOW_<OPTION>`, by the same
    name. `TracingConfig(...)` does not look at the environment; `TracingConfig.from_env(...)` does, and so do the
    callbacks where they are given no *config*. docs/configuration.md lists the options too.

    Example:
        ```python
        config = TracingConfig(sampling_ratio=0.1, tags={"team": "search"}, level="info")
        dspy.configure(callbacks=[MlflowCallback(config=config)])
        ```

    Raises:
        TypeError: if an argument is no option, or of another type; the message begins with the option.
        ValueError: if a value is out of range; the message begins with the option.
    """

    __repr__ = checks.brief_repr

    def __init__(self, **options: Unpack[TracingOptions]) -> None:
        refuse_unknown(options, OPTIONS)
        values: Any = options  # each option's check makes of it what is kept
        self.__attrs_init__(**values)
        if self.tail_sampler is not None and self.engine == "native":
            message = f"tail_sampler: {WITHOUT_WHOLE_TRACES}; allowed are auto, recorded"
            raise ValueError(message)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, **arguments: Unpack[TracingOptions]) -> TracingConfig:
        """Return the configuration that *arguments* say, else the environment, else the defaults.

        An empty variable is unset. A wrong or unknown one is warned of once in the process, unless `verbosity` forbids,
        and the default stands.

        Args:
            environ: The environment.
            arguments: Options by name.

        Raises:
            TypeError: if an argument is no option, or of another type.
            ValueError: if an argument is out of range.
        """
        refuse_unknown(arguments, OPTIONS)
        said, wrong = said_by_variables(environ, arguments)
        config = cls(**said, **arguments)
        if lets_warn(config.verbosity):
            for each in wrong:
                each.warn()
        return config

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TracingConfig:
        """Return the configuration that `to_dict` gave; what is missing has its default.

        Raises:
            TypeError: if a name is no option, or a value of another type.
            ValueError: if a value is out of range.
        """
        options: Any = values
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        """Return all options by name as JSON values.

        Raises:
            TypeError: if an option is or holds a callable, which JSON cannot say.
        """
        return {name: plain(name, getattr(self, name)) for name in OPTIONS}

    def changed(self) -> list[str]:
        """Return the names of the options that are not at their defaults."""
        return [name for name, field in OPTIONS.items() if getattr(self, name) != field.default]

    def with_options(self, **options: Unpack[TracingOptions]) -> TracingConfig:
        """Return a copy with other options.

        Raises:
            TypeError: if an argument is no option, or of another type.
            ValueError: if an argument is out of range.
        """
        changes: Any = options
        return attrs.evolve(self, **changes)

    def limits(self) -> Limits:
        """Return how much may wait to be stored."""
        return Limits(
            max_traces=self.max_queue_traces,
            max_bytes=self.max_queue_bytes,
            on_full=self.on_full,
            max_block_s=self.max_block_s,
            spool=self.spool(),
        )

    def spool(self) -> SpoolSettings | None:
        """Return where traces wait that their store does not take; None for nowhere."""
        folder = default_folder() if self.spool_dir is None else self.spool_dir
        if not folder:
            return None
        return SpoolSettings(
            folder=os.path.abspath(os.path.expanduser(folder)),  # noqa: PTH100, PTH111  (texts, of a program that may move)
            max_bytes=self.max_spool_bytes,
            max_age_s=self.max_spool_age_s,
            durable=self.durable,
        )

    def middleware(self) -> tuple[Middleware, ...]:
        """Return the middleware that the options ask for, in the order in which they run."""
        steps: list[Middleware] = []
        if self.sampling_ratio < 1 and not self.sampling_rules:
            # First: it asks for nothing but the root's id, so what it drops costs next to nothing.
            steps.append(RatioSampler(self.sampling_ratio))
        if self.tags or self.metadata or self.session_id is not None or self.user is not None:
            # Before the rules, which may ask for tags.
            steps.append(TagInjector(self.tags, metadata=self.metadata, session_id=self.session_id, user=self.user))
        if self.sampling_rules:
            steps.append(RuleSampler(self.sampling_rules, self.sampling_ratio))
        switches = ((CallKind.EVALUATE, self.evaluate), (CallKind.COMPILE, self.compile))
        dropped = [kind for kind, manner_of in switches if manner_of == "off"]
        if dropped or self.events is not None:
            steps.append(KindFilter(self.events, dropped))
        if self.include or self.exclude:
            steps.append(NameFilter(self.include, self.exclude))
        if self.level != "debug":
            steps.append(LevelFilter(self.level))
        return tuple(steps)

    def payload_steps(self) -> tuple[PayloadStep, ...]:
        """Return the payload steps that the options ask for, in the order in which they run."""
        steps: list[PayloadStep] = []
        if self.redact:
            steps.append(Redactor(keys=self.redact_keys, patterns=self.redact_patterns, fields=self.redact_fields))
        if self.max_payload_chars is not None:
            steps.append(PayloadLimit(self.max_payload_chars))
        return tuple(steps)


TracingConfig.__doc__ = (TracingConfig.__doc__ or "").rstrip() + "\n" + attributes_section(OPTIONS)
