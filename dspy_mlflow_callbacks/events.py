"""The values that travel: what DSPy says of a call, and what a span will say of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs
from attrs.validators import in_, instance_of, optional

EMPTY: Mapping[str, Any] = MappingProxyType({})

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
"""The log levels of a span, as MLflow names them."""


class CallKind(enum.Enum):
    """The kinds of call for which DSPy emits a start and an end event."""

    MODULE = "module"
    LM = "lm"
    ADAPTER_FORMAT = "adapter_format"
    ADAPTER_PARSE = "adapter_parse"
    TOOL = "tool"
    EVALUATE = "evaluate"
    INTERPRETER_EXECUTE = "interpreter_execute"
    INTERPRETER_TOOL_CALL = "interpreter_tool_call"
    INTERPRETER_STARTUP = "interpreter_startup"
    INTERPRETER_SHUTDOWN = "interpreter_shutdown"
    COMPILE = "compile"


def _check_mapping(_: object, attribute: attrs.Attribute[Mapping[str, Any]], value: object) -> None:
    if not isinstance(value, Mapping):
        message = f"{attribute.name} must be a mapping of values by name, got {value!r}"
        raise TypeError(message)


@attrs.frozen(kw_only=True)
class CallStart:
    """A call that is about to run, as the middleware chain sees it.

    A middleware changes it with `attrs.evolve` and never in place: DSPy hands the same
    *inputs* to every callback.

    Attributes:
        kind: What is called.
        call_id: DSPy's id of the call, 32 hexadecimal digits.
        parent: The call that this one runs inside, where this package saw it start.
        parent_call_id: DSPy's id of the enclosing call, also where nothing else is known of it.
        root_call_id: DSPy's id of the outermost call; the call's own id if it is the root.
        instance: The module, LM, adapter, tool, … that is called.
        inputs: The arguments by parameter name, read only.
        name: The span's name; None until described, unless a middleware chose one.
        tags: Tags for the trace, texts by name.
        metadata: Metadata for the trace, texts by name.
        attributes: Further attributes for the span, any values by name.
        level: The span's log level, one of `LEVELS`; None leaves it to MLflow.
        watch: What is learned of an LM call while it runs; None for other kinds.
    """

    kind: CallKind = attrs.field(validator=instance_of(CallKind))
    call_id: str
    parent: CallStart | None = attrs.field(default=None, repr=False)
    parent_call_id: str | None = None
    root_call_id: str
    instance: Any = attrs.field(repr=False)
    inputs: Mapping[str, Any] = attrs.field(repr=False)
    name: str | None = None
    tags: Mapping[str, str] = attrs.field(default=EMPTY, validator=_check_mapping)
    metadata: Mapping[str, str] = attrs.field(default=EMPTY, validator=_check_mapping)
    attributes: Mapping[str, Any] = attrs.field(default=EMPTY, validator=_check_mapping)
    level: str | None = attrs.field(default=None, validator=optional(in_(LEVELS)))
    watch: Any = attrs.field(default=None, repr=False)

    @property
    def is_root(self) -> bool:
        """Whether no call that is traced encloses this one."""
        return self.parent is None


@attrs.frozen(kw_only=True)
class CallEnd:
    """A call that has ended; a middleware's `on_end` may return a changed copy.

    Attributes:
        call_id: DSPy's id of the call.
        outputs: What the call returned; None if it raised.
        exception: What it raised, also `KeyboardInterrupt` and `asyncio.CancelledError`.
        attributes: Further attributes for the span, any values by name.
    """

    call_id: str
    outputs: Any = attrs.field(default=None, repr=False)
    exception: BaseException | None = None
    attributes: Mapping[str, Any] = attrs.field(default=EMPTY, validator=_check_mapping)


@attrs.frozen(kw_only=True)
class SpanStart:
    """A span as it opens: all values but the name, type and level are JSON texts."""

    name: str
    span_type: str
    inputs: str | None = None
    attributes: Mapping[str, str] = EMPTY
    level: str | None = None


@attrs.frozen(kw_only=True)
class SpanEvent:
    """Something that happened at one moment of a span."""

    name: str
    attributes: Mapping[str, str]


@attrs.frozen(kw_only=True)
class SpanEnd:
    """A span as it closes: *outputs* and *attributes* are JSON texts.

    *error* is the status description of a failed call, None for a successful one.
    """

    outputs: str | None = None
    attributes: Mapping[str, str] = EMPTY
    events: tuple[SpanEvent, ...] = ()
    error: str | None = None
