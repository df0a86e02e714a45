"""The options as arguments, for type checkers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

from dspy_mlflow_callbacks.events import CallKind, CallStart
from dspy_mlflow_callbacks.middleware import SamplingRule
from dspy_mlflow_callbacks.tail_sampling import TailSampler

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
