"""What is recorded, how much of it, and where it goes: from code and from the environment."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import attrs
import orjson

from dspy_mlflow_callbacks.events import EMPTY, CallKind
from dspy_mlflow_callbacks.middleware import (
    KindFilter,
    LevelFilter,
    Middleware,
    NameFilter,
    RatioSampler,
    RuleSampler,
    SamplingRule,
    TagInjector,
)
from dspy_mlflow_callbacks.payload import PayloadLimit, PayloadStep, Redactor
from dspy_mlflow_callbacks.stats import WarnOnce, logger

PREFIX = "DSPY_MLFLOW_"
"""What the environment variable of each option begins with."""

OTHER_VARIABLES = ("DSPY_MLFLOW_AUTOLOG",)
"""Variables of this package that are no option."""

ENGINES = ("auto", "native")
VERBOSITIES = {
    "silent": logging.CRITICAL + 1,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

_WARN = WarnOnce()


def _option(
    default: Any,
    doc: str,
    *,
    allowed: str,
    read: Callable[[str], Any],
    check: Callable[[Any], Any],
    unit: str = "",
) -> Any:
    """Return the field of an option.

    Args:
        default: What holds when nothing is said.
        doc: What it is for.
        allowed: Which values it takes.
        read: Makes a value of a variable's text, or raises ValueError.
        check: Returns a value as it is kept, or raises TypeError or ValueError.
        unit: What a number is measured in.
    """

    def convert(value: Any, _: object, field: attrs.Attribute[Any]) -> Any:
        try:
            return check(value)
        except (TypeError, ValueError) as error:
            message = f"{field.name}: {error}"
            raise type(error)(message) from None

    converter: Any = attrs.Converter(convert, takes_self=True, takes_field=True)
    metadata = {"doc": doc, "allowed": allowed, "read": read, "unit": unit}
    return attrs.field(default=default, converter=converter, metadata=metadata)


def _bool_option(default: bool, doc: str) -> Any:  # noqa: FBT001
    return _option(default, doc, allowed="true or false", read=_read_bool, check=_checked_bool)


def _read_bool(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        message = f"must be one of {', '.join((*_TRUE, *_FALSE))}"
        raise ValueError(message)
    return text.lower() in _TRUE


def _checked_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        message = f"must be True or False, got {value!r}"
        raise TypeError(message)
    return value


def _read_list(text: str) -> Any:
    if text.lstrip().startswith("["):
        return _read_json(text)
    return [each.strip() for each in text.split(",") if each.strip()]


def _read_mapping(text: str) -> Any:
    if text.lstrip().startswith("{"):
        return _read_json(text)
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(separator for _, separator, _ in pairs):
        message = "must be a JSON object or name=value pairs with commas between them"
        raise ValueError(message)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _read_json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        message = f"must be JSON ({error})"
        raise ValueError(message) from None


def _read_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        message = "must be a number"
        raise ValueError(message) from None


def _read_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        message = "must be a whole number"
        raise ValueError(message) from None


def _checked_text(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        message = f"must be a text, got {value!r}"
        raise TypeError(message)
    return value


def _one_of(choices: Any) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value not in choices:
            message = f"must be one of {', '.join(choices)}, got {value!r}"
            raise ValueError(message)
        return value

    return check


_TEXTS = "a JSON object of texts, or `name=value,name=value`; in code also callables"
_LIST = "texts with commas between them, or a JSON list"
_MIDDLEWARE_TEXT = "a text; in code also a callable that is given the call where a trace begins"


@attrs.frozen(kw_only=True)
class TracingConfig:
    """The options of a callback: arguments of `MlflowCallback` and variables `DSPY_MLFLOW_<OPTION>` by the same names.

    docs/configuration.md lists them with their meaning, unit, default and variable.

    Raises:
        TypeError: if a value is of another type; the message begins with the option.
        ValueError: if a value is out of range; the message begins with the option.
    """

    enabled: bool = _bool_option(default=True, doc="Whether anything is recorded.")
    experiment: str | None = _option(
        None,
        "The experiment of traces that begin here, by name (made if there is none) or id; none is MLflow's active one.",
        allowed="a name or an id",
        read=str,
        check=_checked_text,
    )
    sampling_ratio: float = _option(
        1.0,
        "The share of traces to keep, each whole or not at all; with rules, of those that no rule is for.",
        allowed="0 to 1",
        unit="share of traces",
        read=_read_number,
        check=lambda value: RatioSampler(value).ratio,
    )
    sampling_rules: tuple[SamplingRule, ...] = _option(
        (),
        "Sampling rules: the first that is for a trace decides. Keys: `name`, `tags`, `experiment` (globs), `ratio`, "
        "`max_per_second`.",
        allowed="a JSON list of objects; in code also `SamplingRule`",
        read=_read_json,
        check=lambda value: RuleSampler(value).rules,
    )
    tags: Mapping[str, Any] = _option(
        EMPTY,
        "Tags of every trace.",
        allowed=_TEXTS,
        read=_read_mapping,
        check=lambda value: TagInjector(value).tags,
    )
    metadata: Mapping[str, Any] = _option(
        EMPTY,
        "Metadata of every trace, which cannot be changed later.",
        allowed=_TEXTS,
        read=_read_mapping,
        check=lambda value: TagInjector(metadata=value).metadata,
    )
    session_id: Any = _option(
        None,
        "The session (conversation) of every trace.",
        allowed=_MIDDLEWARE_TEXT,
        read=str,
        check=lambda value: TagInjector(session_id=value).session_id,
    )
    user: Any = _option(
        None,
        "The user of every trace.",
        allowed=_MIDDLEWARE_TEXT,
        read=str,
        check=lambda value: TagInjector(user=value).user,
    )
    level: str = _option(
        "debug",
        "From which level on calls get spans: `info` leaves adapters out, and start and end of interpreters.",
        allowed="debug, info, warning, error, critical",
        read=str,
        check=lambda value: LevelFilter(value).level,
    )
    events: frozenset[CallKind] | None = _option(
        None,
        "The kinds of call that get spans; none is all.",
        allowed=f"{', '.join(kind.value for kind in CallKind)}, or `adapter` and `interpreter` for all of theirs",
        read=_read_list,
        check=lambda value: KindFilter(value).include,
    )
    include: tuple[str, ...] = _option(
        (),
        "Globs over span names: calls that match are recorded with everything below them, and nothing around them; "
        "empty is all.",
        allowed=_LIST,
        read=_read_list,
        check=lambda value: NameFilter(include=value).include,
    )
    exclude: tuple[str, ...] = _option(
        (),
        "Globs over span names: calls that match are left out with everything below them.",
        allowed=_LIST,
        read=_read_list,
        check=lambda value: NameFilter(exclude=value).exclude,
    )
    capture_inputs: bool = _bool_option(default=True, doc="Whether the arguments of calls are recorded.")
    capture_outputs: bool = _bool_option(default=True, doc="Whether what calls return is recorded.")
    capture_messages: bool = _bool_option(default=True, doc="Whether what LMs read and write is recorded.")
    max_payload_chars: int | None = _option(
        None,
        "The most characters of one payload (a span's inputs, outputs, one attribute) that are stored; none is no "
        "limit.",
        allowed="a whole number from 1 on",
        unit="characters",
        read=_read_int,
        check=lambda value: None if value is None else PayloadLimit(value).max_chars,
    )
    redact: bool = _bool_option(default=True, doc="Whether secrets are taken out of everything that is stored.")
    redact_keys: tuple[str, ...] = _option(
        (),
        "Globs of further names under which secrets stand.",
        allowed=_LIST,
        read=_read_list,
        check=lambda value: Redactor(keys=value).keys,
    )
    redact_patterns: tuple[str, ...] = _option(
        (),
        "Further regular expressions for secrets in any text.",
        allowed=_LIST,
        read=_read_list,
        check=lambda value: Redactor(patterns=value).patterns,
    )
    redact_fields: tuple[str, ...] = _option(
        (),
        "Signature fields whose values are not stored.",
        allowed=_LIST,
        read=_read_list,
        check=lambda value: Redactor(fields=value).fields,
    )
    evaluate: bool = _bool_option(default=True, doc="Whether `dspy.Evaluate` is recorded, with what it runs.")
    compile: bool = _bool_option(default=True, doc="Whether optimizers are recorded, with what they run.")
    engine: str = _option(
        "auto",
        "How spans are made: `native` goes through MLflow's tracing API; `auto` takes what fits the destination.",
        allowed=", ".join(ENGINES),
        read=str,
        check=_one_of(ENGINES),
    )
    verbosity: str | None = _option(
        None,
        "What this package logs, under the logger `dspy_mlflow_callbacks`; none leaves that to `logging`: warnings.",
        allowed=", ".join(VERBOSITIES),
        read=str,
        check=lambda value: None if value is None else _one_of(VERBOSITIES)(value),
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, **arguments: Any) -> TracingConfig:
        """Return the configuration that *arguments* say, else the environment, else the defaults.

        An empty variable is unset. A wrong one is warned of once, and the default stands.

        Args:
            environ: The environment.
            arguments: Options by name.

        Raises:
            TypeError: if an argument is no option, or of another type.
            ValueError: if an argument is out of range.
        """
        _check_names(arguments)
        _warn_of_unknown(environ)
        read = {name: _read(name, environ) for name in OPTIONS if name not in arguments}
        return cls(**{name: value for name, value in read.items() if value is not _UNSET}, **arguments)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TracingConfig:
        """Return the configuration that `to_dict` gave; what is missing has its default.

        Raises:
            TypeError: if a name is no option, or a value of another type.
            ValueError: if a value is out of range.
        """
        _check_names(values)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the options that are not at their defaults as JSON values.

        Raises:
            TypeError: if an option is or holds a callable, which JSON cannot say.
        """
        return {name: _plain(name, getattr(self, name)) for name in self.changed()}

    def changed(self) -> list[str]:
        """Return the names of the options that are not at their defaults."""
        return [name for name, option in OPTIONS.items() if getattr(self, name) != option.default]

    def with_options(self, **arguments: Any) -> TracingConfig:
        """Return a copy with other options.

        Raises:
            TypeError: if an argument is no option, or of another type.
            ValueError: if an argument is out of range.
        """
        _check_names(arguments)
        return attrs.evolve(self, **arguments)

    def middleware(self) -> tuple[Middleware, ...]:
        """Return the middleware that the options ask for, in the order in which they run."""
        steps: list[Middleware] = []
        if self.tags or self.metadata or self.session_id is not None or self.user is not None:
            steps.append(
                TagInjector(self.tags, metadata=self.metadata, session_id=self.session_id, user=self.user)
            )  # first: rules may ask for tags
        if self.sampling_rules:
            steps.append(RuleSampler(self.sampling_rules, self.sampling_ratio))
        elif self.sampling_ratio < 1:
            steps.append(RatioSampler(self.sampling_ratio))
        dropped = [
            kind for kind, kept in ((CallKind.EVALUATE, self.evaluate), (CallKind.COMPILE, self.compile)) if not kept
        ]
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


class TracingOptions(TypedDict, total=False):
    """The arguments that are fields of `TracingConfig`, for type checkers."""

    enabled: bool
    experiment: str | None
    sampling_ratio: float
    sampling_rules: Any
    tags: Mapping[str, Any]
    metadata: Mapping[str, Any]
    session_id: Any
    user: Any
    level: str
    events: Any
    include: Any
    exclude: Any
    capture_inputs: bool
    capture_outputs: bool
    capture_messages: bool
    max_payload_chars: int | None
    redact: bool
    redact_keys: Any
    redact_patterns: Any
    redact_fields: Any
    evaluate: bool
    compile: bool
    engine: str
    verbosity: str | None


OPTIONS: dict[str, attrs.Attribute[Any]] = {option.name: option for option in attrs.fields(TracingConfig)}
"""The options by name, in the order in which they are documented."""

_UNSET = object()


def variable_of(option: str) -> str:
    """Return the environment variable of an option."""
    return f"{PREFIX}{option.upper()}"


def _check_names(names: Mapping[str, Any]) -> None:
    for name in names:
        if name not in OPTIONS:
            close = difflib.get_close_matches(str(name), OPTIONS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(OPTIONS)}"
            message = f"{name!r} is no option; {hint}"
            raise TypeError(message)


def _read(name: str, environ: Mapping[str, str]) -> Any:
    """Return what the variable of an option says; `_UNSET` if it says nothing, or nothing that is allowed."""
    variable, option = variable_of(name), OPTIONS[name]
    text = environ.get(variable, "").strip()
    if not text:
        return _UNSET
    try:
        value = option.metadata["read"](text)
        TracingConfig(**{name: value})
    except (TypeError, ValueError) as error:
        reason = str(error).removeprefix(f"{name}: ")
        message = (
            f"{variable}={text!r} is ignored: {reason}. Allowed: {option.metadata['allowed']}. "
            f"The default stands: {option.default!r}."
        )
        _WARN((variable, text), message)
        return _UNSET
    return value


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    known = [*map(variable_of, OPTIONS), *OTHER_VARIABLES]
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in known:
            close = difflib.get_close_matches(variable, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            _WARN(variable, f"The environment variable {variable} is unknown and ignored; {hint}")


def _plain(name: str, value: Any) -> Any:
    if callable(value):
        message = f"{name} is or holds a callable, which JSON cannot say: {value!r}"
        raise TypeError(message)
    if isinstance(value, CallKind):
        return value.value
    if isinstance(value, SamplingRule):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _plain(name, item) for key, item in value.items()}
    if isinstance(value, (tuple, frozenset)):
        plain = [_plain(name, item) for item in value]
        return sorted(plain) if isinstance(value, frozenset) else plain
    return value


def set_verbosity(verbosity: str | None) -> None:
    """Let this package's logger say what a configuration asks for; None leaves it alone."""
    if verbosity is not None:
        logger.setLevel(VERBOSITIES[verbosity])
