"""What a describer says of a call, and which of it is content that may be left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from attrs.validators import instance_of

from dspy_mlflow_callbacks.events import EMPTY, CallKind, Feedback

LABELS = "dspy.example.labels"
RAW_COMPLETION = "dspy.adapter.raw_completion"
RETRY_ERRORS = "dspy.lm.retry_errors"
TRACE_ATTRIBUTES_ERROR = "dspy.trace_attributes_error"
TRIAL_DEMOS = "dspy.trial.demos"

# Attributes that may quote any content; an exception's text may, and demos are examples.
_QUOTING = frozenset({LABELS, RAW_COMPLETION, RETRY_ERRORS, TRACE_ATTRIBUTES_ERROR, TRIAL_DEMOS})


@attrs.define(kw_only=True)  # not frozen: that takes twice as long to make
class Opening:
    """What a describer says of a call that starts: *inputs* as they are, *attributes* as JSON texts.

    *later* returns further attributes, of values that nobody changes.
    """

    span_type: str
    inputs: Any
    attributes: Mapping[str, str] = EMPTY
    later: Callable[[], Mapping[str, str]] | None = None


@attrs.define(kw_only=True)
class Closing:
    """What a describer says of a call that has ended: *outputs* as they are, *attributes* as JSON texts.

    *later* returns it instead, where it is made of values that nobody changes. *feedback* is what a metric says.
    """

    outputs: Any = None
    attributes: Mapping[str, str] = EMPTY
    later: Callable[[], Closing] | None = None
    feedback: Feedback | None = None


# What an LM reads and writes: an adapter's `format` makes the messages, its `parse` reads the completion.
_MESSAGES = frozenset({CallKind.LM, CallKind.ADAPTER_FORMAT, CallKind.ADAPTER_PARSE})


@attrs.frozen(kw_only=True)
class Capture:
    """Which content is recorded; structure, times, tokens, cost and status always are.

    Messages are made of the program's inputs and outputs, so they are left out with them: what is formatted for the LM
    goes with the inputs, what it answers with the outputs. What one call returns and the next is given is an input
    there.

    Args:
        inputs: Arguments of calls.
        outputs: What calls return.
        messages: What LMs read and write, also where adapters format and parse it.
    """

    inputs: bool = attrs.field(default=True, validator=instance_of(bool))
    outputs: bool = attrs.field(default=True, validator=instance_of(bool))
    messages: bool = attrs.field(default=True, validator=instance_of(bool))

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return self.inputs and self.outputs and self.messages

    def inputs_of(self, kind: CallKind) -> bool:
        """Return whether the inputs of a call of this kind are recorded."""
        captured = self.outputs if kind is CallKind.ADAPTER_PARSE else self.inputs
        return captured and (self.messages or kind not in _MESSAGES)

    def outputs_of(self, kind: CallKind) -> bool:
        """Return whether what a call of this kind returned is recorded."""
        captured = self.inputs if kind is CallKind.ADAPTER_FORMAT else self.outputs
        return captured and (self.messages or kind not in _MESSAGES)

    def feedback(self, feedback: Feedback | None) -> Feedback | None:
        """Return *feedback* without words, which may quote what the program returned, where that is left out."""
        if feedback is None or self.outputs:
            return feedback
        value = feedback.value if isinstance(feedback.value, (bool, int, float)) else None
        return attrs.evolve(feedback, value=value, rationale=None)

    def attributes(self, attributes: Mapping[str, str]) -> Mapping[str, str]:
        """Return *attributes* without those that hold content which is left out."""
        if self.is_everything:
            return attributes
        return {key: text for key, text in attributes.items() if key not in _QUOTING}
