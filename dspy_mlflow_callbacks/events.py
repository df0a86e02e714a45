"""The values that travel: what DSPy says of a call, and what a span will say of it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar, cast

import attrs
from attrs.validators import in_, instance_of, optional

EMPTY: Mapping[str, Any] = MappingProxyType({})

NOT_ENDED = "The call had not ended when its trace ended."
"""What the span says of a call that had not."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
"""The log levels of a span, as MLflow names them."""


class CallKind(enum.Enum):
    """The kinds of call for which DSPy emits a start and an end event, and two which this package adds.

    An `EXAMPLE` is what `dspy.Evaluate` does with one example: it calls the program, then the metric. A `TRIAL` is what
    an optimizer does with one candidate, where its compile is recorded in summary.
    """

    MODULE = "module"
    LM = "lm"
    ADAPTER_FORMAT = "adapter_format"
    ADAPTER_PARSE = "adapter_parse"
    TOOL = "tool"
    EVALUATE = "evaluate"
    EXAMPLE = "example"
    INTERPRETER_EXECUTE = "interpreter_execute"
    INTERPRETER_TOOL_CALL = "interpreter_tool_call"
    INTERPRETER_STARTUP = "interpreter_startup"
    INTERPRETER_SHUTDOWN = "interpreter_shutdown"
    COMPILE = "compile"
    TRIAL = "trial"

    # Each member is the only one of its name; an enum's own hash is Python code.
    __hash__ = object.__hash__


def _check_mapping(_: object, attribute: attrs.Attribute[Mapping[str, Any]], value: object) -> None:
    if value is not EMPTY and not isinstance(value, Mapping):
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
        parent: The call that this one runs inside, where this package saw it start; it may be hidden.
        parent_call_id: DSPy's id of the enclosing call, also where nothing else is known of it.
        root_call_id: DSPy's id of the outermost call; the call's own id if it is the root.
        instance: The module, LM, adapter, tool, … that is called; of an `EXAMPLE` an `EvaluatedExample`.
        inputs: The arguments by parameter name, read only.
        name: The span's name, such as `Program.generate.predict`; a middleware may choose another.
        tags: Tags for the trace, texts by name.
        metadata: Metadata for the trace, texts by name.
        attributes: Further attributes for the span, any values by name.
        level: The span's log level, one of `LEVELS`; None leaves it to MLflow.
        is_entry: Whether the callback that records this call records none that encloses it: the root of a trace, or
            an attached program's own call inside another program's trace.
        is_sampled: What was decided for the trace before this call: True below a recorded call, below a hidden one that
            the same callback let through, below a user's own MLflow span that records
            or a remote parent that is sampled, and of an example, which is kept with its evaluation; None where nobody
            has decided.
        is_hidden: Whether the call gets no span: the calls that it makes nest where its span would have stood.
        begins_trace: Whether a trace of its own begins with the call although another call encloses it, as with an
            example.
        settings: DSPy's settings, as they are where the call is made.
        scope: What `trace_context` and `mlflow.tracing.context` say around the call where `is_entry`, as an object with
            `tags` and `metadata`; None where there is no such scope.
        watch: What is learned, while it runs, of an LM call, of a compile that is recorded in summary, or of a trial;
            None for others.
        attempt: What `run` learns of the call for an input that it makes, and of those below it; None elsewhere.
    """

    kind: CallKind = attrs.field(validator=instance_of(CallKind))
    call_id: str
    parent: CallStart | None = attrs.field(default=None, repr=False)
    parent_call_id: str | None = None
    root_call_id: str
    instance: Any = attrs.field(repr=False)
    inputs: Mapping[str, Any] = attrs.field(repr=False)
    name: str = ""
    tags: Mapping[str, str] = attrs.field(default=EMPTY, validator=_check_mapping)
    metadata: Mapping[str, str] = attrs.field(default=EMPTY, validator=_check_mapping)
    attributes: Mapping[str, Any] = attrs.field(default=EMPTY, validator=_check_mapping)
    level: str | None = attrs.field(default=None, validator=optional(in_(LEVELS)))
    is_entry: bool = True
    is_sampled: bool | None = None
    is_hidden: bool = False
    begins_trace: bool = False
    settings: Any = attrs.field(default=None, repr=False)
    scope: Any = attrs.field(default=None, repr=False)
    _locator: Callable[[], tuple[str, ...]] | None = attrs.field(default=None, repr=False, eq=False)
    watch: Any = attrs.field(default=None, repr=False)
    attempt: Any = attrs.field(default=None, repr=False, eq=False)

    @property
    def experiment(self) -> tuple[str, ...]:
        """The id and the name of the experiment that a trace which begins here goes to; empty where it is not known."""
        return () if self._locator is None else self._locator()

    @property
    def is_root(self) -> bool:
        """Whether its trace has no call with a span around this one."""
        return self.parent is None or self.begins_trace or (self.parent.is_hidden and self.parent.is_root)


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
class EvaluatedExample:
    """An example that `dspy.Evaluate` runs the program and the metric on.

    Attributes:
        example: What stands in the devset.
        index: Its place there, from 0 on; of one object that stands there several times, in the order in which it runs.
            None where the devset is no list or tuple.
        evaluation_id: What its trace says of the evaluation, in the tag `dspy.evaluation.id`.
        fingerprint: The program's fingerprint when the evaluation began; None for what is no program.
        metric: The metric's name.
    """

    example: Any = attrs.field(repr=False)
    index: int | None
    evaluation_id: str
    fingerprint: str | None
    metric: str


@attrs.frozen(kw_only=True)
class Feedback:
    """What a metric says of an example.

    Attributes:
        name: The metric's name.
        value: A boolean, a number, a text, or a list or dict of these; None where there is none.
        rationale: Why, in words.
        error: The exception's class where there is no value: the program, or the metric, raised.
        message: What the exception says.
        stacktrace: Where it was raised.
    """

    name: str
    value: Any = None
    rationale: str | None = None
    error: str | None = None
    message: str = ""
    stacktrace: str = ""


@attrs.frozen(kw_only=True)
class SpanStart:
    """A span as it opens: all values but the name, type and level are JSON texts.

    *later* returns further attributes: what is made of values that nobody changes need not be made while a call waits.
    """

    name: str
    span_type: str
    inputs: str | None = None
    attributes: Mapping[str, str] = EMPTY
    later: Callable[[], Mapping[str, str]] | None = None
    level: str | None = None

    def all_attributes(self) -> dict[str, str]:
        """Return the attributes, with those that could wait."""
        return dict(self.attributes) if self.later is None else {**self.later(), **self.attributes}


@attrs.frozen(kw_only=True)
class SpanEvent:
    """Something that happened at one moment of a span."""

    name: str
    attributes: Mapping[str, str]


@attrs.frozen(kw_only=True)
class SpanEnd:
    """A span as it closes: *outputs* and *attributes* are JSON texts.

    *error* is the status description of a failed call, None for a successful one. *later* returns what is said besides,
    outputs and attributes: see `SpanStart`. *feedback* is for the trace, or for the span in a trace of many examples.
    """

    outputs: str | None = None
    attributes: Mapping[str, str] = EMPTY
    later: Callable[[], SpanEnd] | None = None
    events: tuple[SpanEvent, ...] = ()
    error: str | None = None
    feedback: Feedback | None = None

    def whole(self) -> SpanEnd:
        """Return the end with what could wait."""
        if self.later is None:
            return self
        rest = self.later()
        attributes = {**rest.attributes, **self.attributes}
        return new_span_end(
            outputs=rest.outputs,
            attributes=attributes,
            events=self.events,
            error=self.error,
            feedback=self.feedback,
        )


_Event = TypeVar("_Event")


def _quick(cls: type[_Event]) -> type[_Event]:
    """Return what makes instances of *cls*, a frozen attrs class, in half the time and without checks.

    A frozen class gets each of its fields past its own lock. This one has none: what it makes is locked when it is
    whole, by becoming *cls*.
    """

    def become_frozen(self: Any) -> None:
        self.__class__ = cls

    unlocked = {
        "__setattr__": object.__setattr__,
        "__delattr__": object.__delattr__,  # Python knows the two as one
        "__attrs_post_init__": become_frozen,
    }
    fields = {each.name: attrs.field(default=each.default) for each in attrs.fields(cast("type[Any]", cls))}
    made = attrs.make_class(
        f"_Quick{cls.__name__}",
        fields,
        bases=(cls,),
        class_body=unlocked,
        slots=True,
        kw_only=True,
        eq=False,
        repr=False,
    )
    return cast("type[_Event]", made)


# For this package's own events, of which every call makes four.
new_call_start = _quick(CallStart)
new_call_end = _quick(CallEnd)
new_span_start = _quick(SpanStart)
new_span_end = _quick(SpanEnd)
