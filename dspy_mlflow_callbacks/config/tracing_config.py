"""The options, each with its meaning, and what they make of the way of a call."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import attrs

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.config import environment
from dspy_mlflow_callbacks.config.environment import Wrong, variable_of
from dspy_mlflow_callbacks.config.options import (
    default_text,
    documentation,
    folder_or_nothing,
    manner,
    number_above,
    number_from,
    one_of,
    option,
    optional,
    plain,
    refuse_unknown,
    text_of_at_most,
    true_or_false,
    true_or_false_or,
    whole_number_from,
)
from dspy_mlflow_callbacks.config.verbosity import VERBOSITIES, lets_warn
from dspy_mlflow_callbacks.events import EMPTY, CallKind, CallStart
from dspy_mlflow_callbacks.export.spool.settings import FSYNC, SpoolSettings, default_folder
from dspy_mlflow_callbacks.export.waiting import Limits
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
from dspy_mlflow_callbacks.tail_sampling import TailSampler
from dspy_mlflow_callbacks.tail_sampling import tail_sampler as tail_sampler_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

ENGINES = ("auto", "recorded", "native")
EVALUATE = ("linked", "nested", "off")
COMPILE = ("summary", "full", "off")

MAX_NAME_CHARACTERS = 500
"""The longest name of an experiment (mlflow.utils.validation.MAX_EXPERIMENT_NAME_LENGTH)."""

# Examples are a part of an evaluation, trials of a compile.
_KINDS = [kind.value for kind in CallKind if kind not in {CallKind.EXAMPLE, CallKind.TRIAL}]

_LIMITS = Limits()
_SPOOL = SpoolSettings(folder="")

_WITHOUT_WHOLE_TRACES = "a tail sampler needs whole traces, which engine='native' does not have"

Text = str | Callable[[CallStart], "str | None"]


class TracingOptions(TypedDict, total=False):
    """The options as arguments, for type checkers: the fields of `TracingConfig`, and what each takes."""

    enabled: bool
    experiment: str | None
    sampling_ratio: float
    sampling_rules: Iterable[SamplingRule | Mapping[str, Any]]
    tags: Mapping[str, Text]
    metadata: Mapping[str, Text]
    session_id: Text | None
    user: Text | None
    level: str
    events: Iterable[CallKind | str] | None
    include: Iterable[str]
    exclude: Iterable[str]
    capture_inputs: bool
    capture_outputs: bool
    capture_messages: bool
    max_payload_chars: int | None
    redact: bool
    redact_keys: Iterable[str]
    redact_patterns: Iterable[str]
    redact_fields: Iterable[str]
    evaluate: str | bool
    compile: str | bool
    engine: str
    tail_sampler: TailSampler | Mapping[str, Any] | None
    max_queue_traces: int
    max_queue_bytes: int
    on_full: str
    max_block_s: float
    exit_timeout_s: float
    max_open_s: float
    spool_dir: str | os.PathLike[str] | None
    max_spool_bytes: int
    max_spool_age_s: float
    durable: bool | str
    max_silent_s: float
    verbosity: str | None


def _switch(doc: str) -> Any:
    return option(default=True, doc=doc, allowed="true or false", read=environment.as_bool, check=true_or_false)


def _count(default: int, doc: str, *, unit: str) -> Any:
    check, allowed = whole_number_from(1), "a whole number from 1 on"
    return option(default, doc, allowed=allowed, unit=unit, read=environment.as_whole_number, check=check)


def _seconds(default: float, doc: str, *, from_zero: bool = False) -> Any:
    check, allowed = (number_from(0), "a number from 0 on") if from_zero else (number_above(0), "a number above 0")
    return option(default, doc, allowed=allowed, unit="seconds", read=environment.as_number, check=check)


def _text(doc: str, check: Callable[[Any], Any]) -> Any:
    allowed = "a text of at most 250 characters; in code also a callable that is given the call where a trace begins"
    return option(None, doc, allowed=allowed, read=str, check=check)


def _texts(doc: str, check: Callable[[Any], Any]) -> Any:
    allowed = "a JSON object of texts, or `name=value,name=value`; in code also callables for values"
    return option(EMPTY, doc, allowed=allowed, read=environment.as_mapping, check=check, is_hashable=False)


def _list(doc: str, check: Callable[[Any], Any]) -> Any:
    allowed = "texts with commas between them, or a JSON list"
    return option((), doc, allowed=allowed, read=environment.as_list, check=check)


@attrs.frozen(kw_only=True, init=False)
class TracingConfig:
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

    enabled: bool = _switch("Whether anything is recorded.")
    experiment: str | None = option(
        None,
        "The experiment of traces that begin here, by name (made if there is none) or id; none is MLflow's active one.",
        allowed=f"a name of at most {MAX_NAME_CHARACTERS} characters, or an id",
        read=str,
        check=optional(text_of_at_most(MAX_NAME_CHARACTERS)),
    )
    sampling_ratio: float = option(
        1.0,
        "The share of traces to keep, each whole or not at all; with rules, of those that no rule is for.",
        allowed="0 to 1",
        unit="share of traces",
        read=environment.as_number,
        check=lambda value: RatioSampler(value).ratio,
    )
    sampling_rules: tuple[SamplingRule, ...] = option(
        (),
        "Sampling rules: the first that is for a trace decides. Keys: `name`, `experiment` (globs), `tags` (globs by "
        "tag), `ratio`, `max_per_second`.",
        allowed="a JSON list of objects; in code also `SamplingRule`",
        read=environment.as_json,
        check=lambda value: RuleSampler(value).rules,
    )
    tags: Mapping[str, Text] = _texts(
        "Tags of every trace.",
        lambda value: TagInjector(value).tags,
    )
    metadata: Mapping[str, Text] = _texts(
        "Metadata of every trace, which cannot be changed later.",
        lambda value: TagInjector(metadata=value).metadata,
    )
    session_id: Text | None = _text(
        "The session (conversation) of every trace.",
        lambda value: TagInjector(session_id=value).session_id,
    )
    user: Text | None = _text(
        "The user of every trace.",
        lambda value: TagInjector(user=value).user,
    )
    level: str = option(
        "debug",
        "From which level on calls get spans: `info` leaves adapters out, and start and end of interpreters.",
        allowed="debug, info, warning, error, critical",
        read=str,
        check=lambda value: LevelFilter(value).level,
    )
    events: frozenset[CallKind] | None = option(
        None,
        "The kinds of call that get spans; none is all.",
        allowed=f"any of {', '.join(_KINDS)}, and `adapter` and `interpreter` for all of theirs, with commas between "
        "them, or a JSON list",
        read=environment.as_list,
        check=lambda value: KindFilter(value).include,
    )
    include: tuple[str, ...] = _list(
        "Globs over span names: calls that match are recorded with everything below them, and nothing around them; "
        "empty is all.",
        lambda value: NameFilter(include=value).include,
    )
    exclude: tuple[str, ...] = _list(
        "Globs over span names: calls that match are left out with everything below them.",
        lambda value: NameFilter(exclude=value).exclude,
    )
    capture_inputs: bool = _switch("Whether the arguments of calls are recorded.")
    capture_outputs: bool = _switch("Whether what calls return is recorded.")
    capture_messages: bool = _switch("Whether what LMs read and write is recorded.")
    max_payload_chars: int | None = option(
        None,
        "The most characters of one payload (a span's inputs, outputs, one attribute) that are stored; none is no "
        "limit.",
        allowed="a whole number from 1 on",
        unit="characters",
        read=environment.as_whole_number,
        check=optional(lambda value: PayloadLimit(value).max_chars),
    )
    redact: bool = _switch("Whether secrets are taken out of everything that is stored.")
    redact_keys: tuple[str, ...] = _list(
        "Globs of further names under which secrets stand.",
        lambda value: Redactor(keys=value).keys,
    )
    redact_patterns: tuple[str, ...] = option(
        (),
        "Further regular expressions for secrets in any text.",
        allowed="one expression, or a JSON list of them",
        read=environment.as_expressions,
        check=lambda value: Redactor(patterns=value).patterns,
    )
    redact_fields: tuple[str, ...] = _list(
        "Signature fields whose values are not stored.",
        lambda value: Redactor(fields=value).fields,
    )
    evaluate: str = option(
        EVALUATE[0],
        "How `dspy.Evaluate` is recorded: `linked` is a trace of the evaluation, and one for each example, tagged with "
        "its id; `nested` is one trace with all examples in it; `off` records nothing of it, nor of what it runs.",
        allowed=f"{', '.join(EVALUATE)}; true is linked, false is off",
        read=environment.as_manner,
        check=manner(EVALUATE),
    )
    compile: str = option(
        COMPILE[0],
        "How optimizers are recorded: `summary` is a trace with their trials, each with its candidate, score and cost; "
        "`full` is one trace with every call in it; `off` records nothing of them, nor of what they run.",
        allowed=f"{', '.join(COMPILE)}; true is summary, false is off",
        read=environment.as_manner,
        check=manner(COMPILE),
    )
    engine: str = option(
        "auto",
        "How spans are made: `recorded` keeps light spans and stores whole traces in batches, where traces go to a "
        "tracking store; `native` goes through MLflow's tracing API, wherever that goes; `auto` takes `recorded` where "
        "it can.",
        allowed=", ".join(ENGINES),
        read=str,
        check=one_of(ENGINES),
    )
    tail_sampler: TailSampler | None = option(
        None,
        "Which ended traces are stored (recorded engine); none is all. Keys: `keep_errors`, `min_duration_s`, "
        "`min_cost_usd`, `min_tokens`, `background_ratio`.",
        allowed="a JSON object; in code also a `TailSampler`",
        read=environment.as_json,
        check=optional(tail_sampler_of),
    )
    max_queue_traces: int = _count(
        _LIMITS.max_traces,
        "The most ended traces that wait to be stored (recorded engine).",
        unit="traces",
    )
    max_queue_bytes: int = _count(
        _LIMITS.max_bytes,
        "The most that waiting traces hold, roughly (recorded engine).",
        unit="bytes",
    )
    on_full: str = option(
        _LIMITS.on_full,
        "What happens to a trace for which there is no room: `block` lets the call wait for some (`max_block_s`) "
        "before the trace is lost, `drop` does not (recorded engine).",
        allowed="block, drop",
        read=str,
        check=one_of(("block", "drop")),
    )
    max_block_s: float = _seconds(
        _LIMITS.max_block_s,
        "How long a call waits at most for room for its trace (recorded engine).",
    )
    exit_timeout_s: float = _seconds(
        10.0,
        "How long the interpreter's exit waits at most for traces to be stored (recorded engine). The process has one "
        "limit: the last callback that is made sets it.",
        from_zero=True,
    )
    max_open_s: float = _seconds(
        300.0,
        "After how long a trace that is still running is stored so far, as in progress; the rest follows (recorded "
        "engine).",
    )
    spool_dir: str | None = option(
        None,
        "The folder of the spool, where traces wait that their store does not take, until any process that has the "
        "same one delivers them (recorded engine); none is `dspy_mlflow_callbacks/spool` in the user's state folder "
        "(`XDG_STATE_HOME`, `~/.local/state`). Empty, in the variable too, is no spool.",
        allowed="a path",
        read=str,
        check=folder_or_nothing,
        takes_empty=True,
    )
    max_spool_bytes: int = _count(
        _SPOOL.max_bytes,
        "The most that the traces in the spool hold; the oldest make room for others.",
        unit="bytes",
    )
    max_spool_age_s: float = _seconds(
        _SPOOL.max_age_s,
        "After how long a trace in the spool is dropped.",
    )
    durable: bool | str = option(
        default=False,
        doc="Whether each trace is written to the spool before the call that ends it returns, so that it is stored "
        "even if the process is killed; `fsync` also waits for the disk, for power cuts (recorded engine).",
        allowed="true, false, fsync",
        read=lambda text: text.lower() if text.lower() == FSYNC else environment.as_bool(text),
        check=true_or_false_or(FSYNC),
    )
    max_silent_s: float = _seconds(
        21600.0,
        "After how long without the start or end of a call in it a trace that is still running is given up: the calls "
        "that are open are closed as errors, for their ends may never come.",
    )
    verbosity: str | None = option(
        None,
        "What this package logs, under the logger `dspy_mlflow_callbacks`: `silent` is nothing at all; none leaves the "
        "logger alone. The process has one logger: the last callback that sets it wins.",
        allowed=", ".join(VERBOSITIES),
        read=str,
        check=optional(one_of(VERBOSITIES)),
    )

    __repr__ = checks.brief_repr

    def __init__(self, **options: Unpack[TracingOptions]) -> None:
        refuse_unknown(options, OPTIONS)
        values: Any = options  # each option's check makes of it what is kept
        self.__attrs_init__(**values)
        if self.tail_sampler is not None and self.engine == "native":
            message = f"tail_sampler: {_WITHOUT_WHOLE_TRACES}; allowed are auto, recorded"
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
        said, wrong = _said(environ, arguments)
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


def wrong_variables(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return what is wrong with the variables of this package, each with what is allowed."""
    return tuple(each.message for each in _said(environ, {})[1])


def _said(environ: Mapping[str, str], arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[Wrong]]:
    """Return what variables say of the options that are no arguments, and what is wrong with them."""
    read = {name: environment.read(field, environ) for name, field in OPTIONS.items() if name not in arguments}
    wrong = [value for value in read.values() if isinstance(value, Wrong)]
    said = {name: value for name, value in read.items() if value is not None and not isinstance(value, Wrong)}
    wrong += _clashes(said, arguments)
    return said, [*wrong, *environment.unknown(OPTIONS, environ)]


def _clashes(said: dict[str, Any], arguments: Mapping[str, Any]) -> Iterator[Wrong]:
    """Take out of *said*, which is what variables say, what cannot hold beside the rest."""
    for name in ("tail_sampler", "engine"):
        options = {**said, **arguments}
        if name in said and options.get("engine") == "native" and options.get("tail_sampler") is not None:
            default = default_text(OPTIONS[name])
            message = f"{variable_of(name)} is ignored: {_WITHOUT_WHOLE_TRACES}. The default stands: {default}."
            yield Wrong((name, repr(said.pop(name))), message)


OPTIONS: dict[str, attrs.Attribute[Any]] = {field.name: field for field in attrs.fields(TracingConfig)}
"""The options by name, in the order in which they are documented."""


def _attributes_section() -> str:
    """Return what `help(TracingConfig)` says of each option."""
    paragraphs = [f"{name}: {documentation(field, variable_of(name))}" for name, field in OPTIONS.items()]
    wrapped = [textwrap.fill(each, 112, initial_indent=" " * 8, subsequent_indent=" " * 12) for each in paragraphs]
    return "\n".join(["\n    Attributes:", *wrapped, "    "])


TracingConfig.__doc__ = (TracingConfig.__doc__ or "").rstrip() + "\n" + _attributes_section()
