"""The options, each with its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from dspy_mlflow_callbacks.checks import optional
from dspy_mlflow_callbacks.config import environment
from dspy_mlflow_callbacks.config.arguments import Text
from dspy_mlflow_callbacks.config.option_kinds import choice, count, listed, manner, seconds, switch, text, texts
from dspy_mlflow_callbacks.config.option_values import folder_or_nothing, text_of_at_most, true_or_false_or
from dspy_mlflow_callbacks.config.options import option
from dspy_mlflow_callbacks.config.verbosity import VERBOSITIES
from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.export.spool.settings import FSYNC, SpoolSettings
from dspy_mlflow_callbacks.export.waiting import Limits
from dspy_mlflow_callbacks.middleware import (
    KindFilter,
    LevelFilter,
    NameFilter,
    RatioSampler,
    RuleSampler,
    SamplingRule,
    TagInjector,
)
from dspy_mlflow_callbacks.payload import PayloadLimit, Redactor
from dspy_mlflow_callbacks.tail_sampling import TailSampler
from dspy_mlflow_callbacks.tail_sampling import tail_sampler as tail_sampler_of

ENGINES = ("auto", "recorded", "native")
EVALUATE = ("linked", "nested", "off")
COMPILE = ("summary", "full", "off")

MAX_NAME_CHARACTERS = 500
"""The longest name of an experiment (mlflow.utils.validation.MAX_EXPERIMENT_NAME_LENGTH)."""

# Examples are a part of an evaluation, trials of a compile.
_KINDS = [kind.value for kind in CallKind if kind not in {CallKind.EXAMPLE, CallKind.TRIAL}]

_LIMITS = Limits()
_SPOOL = SpoolSettings(folder="")


@attrs.frozen(kw_only=True, init=False)
class OptionTable:
    """The options as fields, in the order in which they are documented; `TracingConfig` is made of them."""

    enabled: bool = switch("Whether anything is recorded.")
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
    tags: Mapping[str, Text] = texts(
        "Tags of every trace.",
        lambda value: TagInjector(value).tags,
    )
    metadata: Mapping[str, Text] = texts(
        "Metadata of every trace, which cannot be changed later.",
        lambda value: TagInjector(metadata=value).metadata,
    )
    session_id: Text | None = text(
        "The session (conversation) of every trace.",
        lambda value: TagInjector(session_id=value).session_id,
    )
    user: Text | None = text(
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
    include: tuple[str, ...] = listed(
        "Globs over span names: calls that match are recorded with everything below them, and nothing around them; "
        "empty is all.",
        lambda value: NameFilter(include=value).include,
    )
    exclude: tuple[str, ...] = listed(
        "Globs over span names: calls that match are left out with everything below them.",
        lambda value: NameFilter(exclude=value).exclude,
    )
    capture_inputs: bool = switch("Whether the arguments of calls are recorded.")
    capture_outputs: bool = switch("Whether what calls return is recorded.")
    capture_messages: bool = switch("Whether what LMs read and write is recorded.")
    max_payload_chars: int | None = option(
        None,
        "The most characters of one payload (a span's inputs, outputs, one attribute) that are stored; none is no "
        "limit.",
        allowed="a whole number from 1 on",
        unit="characters",
        read=environment.as_whole_number,
        check=optional(lambda value: PayloadLimit(value).max_chars),
    )
    redact: bool = switch("Whether secrets are taken out of everything that is stored.")
    redact_keys: tuple[str, ...] = listed(
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
    redact_fields: tuple[str, ...] = listed(
        "Signature fields whose values are not stored.",
        lambda value: Redactor(fields=value).fields,
    )
    evaluate: str = manner(
        "How `dspy.Evaluate` is recorded: `linked` is a trace of the evaluation, and one for each example, tagged with "
        "its id; `nested` is one trace with all examples in it; `off` records nothing of it, nor of what it runs.",
        EVALUATE,
    )
    compile: str = manner(
        "How optimizers are recorded: `summary` is a trace with their trials, each with its candidate, score and cost; "
        "`full` is one trace with every call in it; `off` records nothing of them, nor of what they run.",
        COMPILE,
    )
    engine: str = choice(
        "auto",
        "How spans are made: `recorded` keeps light spans and stores whole traces in batches, where traces go to a "
        "tracking store; `native` goes through MLflow's tracing API, wherever that goes; `auto` takes `recorded` where "
        "it can.",
        ENGINES,
    )
    tail_sampler: TailSampler | None = option(
        None,
        "Which ended traces are stored (recorded engine); none is all. Keys: `keep_errors`, `min_duration_s`, "
        "`min_cost_usd`, `min_tokens`, `background_ratio`.",
        allowed="a JSON object; in code also a `TailSampler`",
        read=environment.as_json,
        check=optional(tail_sampler_of),
    )
    max_queue_traces: int = count(
        _LIMITS.max_traces,
        "The most ended traces that wait to be stored (recorded engine).",
        unit="traces",
    )
    max_queue_bytes: int = count(
        _LIMITS.max_bytes,
        "The most that waiting traces hold, roughly (recorded engine).",
        unit="bytes",
    )
    on_full: str = choice(
        _LIMITS.on_full,
        "What happens to a trace for which there is no room: `block` lets the call wait for some (`max_block_s`) "
        "before the trace is lost, `drop` does not (recorded engine).",
        ("block", "drop"),
    )
    max_block_s: float = seconds(
        _LIMITS.max_block_s,
        "How long a call waits at most for room for its trace (recorded engine).",
    )
    exit_timeout_s: float = seconds(
        10.0,
        "How long the interpreter's exit waits at most for traces to be stored (recorded engine). The process has one "
        "limit: the last callback that is made sets it.",
        from_zero=True,
    )
    max_open_s: float = seconds(
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
    max_spool_bytes: int = count(
        _SPOOL.max_bytes,
        "The most that the traces in the spool hold; the oldest make room for others.",
        unit="bytes",
    )
    max_spool_age_s: float = seconds(
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
    max_silent_s: float = seconds(
        21600.0,
        "After how long without the start or end of a call in it a trace that is still running is given up: the calls "
        "that are open are closed as errors, for their ends may never come.",
    )
    verbosity: str | None = choice(
        None,
        "What this package logs, under the logger `dspy_mlflow_callbacks`: `silent` is nothing at all; none leaves the "
        "logger alone. The process has one logger: the last callback that sets it wins.",
        VERBOSITIES,
    )


OPTIONS: dict[str, attrs.Attribute[Any]] = {field.name: field for field in attrs.fields(OptionTable)}
"""The options by name."""
