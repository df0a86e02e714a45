"""What a trace says of tasks that an engine has begun more than once, since the worker of the first attempt died."""

from __future__ import annotations

from typing import Any

import attrs

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.callbacks import TracingCallback
from dspy_mlflow_callbacks.distributed.texts import Headers, well_formed
from dspy_mlflow_callbacks.events import CallStart
from dspy_mlflow_callbacks.stats import WarnOnce

ATTEMPT = "dspy.attempt"
"""The attribute of the outermost span of a further attempt: its number, 2 for the second."""

RETRIED = "dspy.retried"
"""The tag of a trace in which a task has had a further attempt: `true`."""

MOST_SECONDS_UNSTORED = 1.0
"""How old what has ended in a task that goes on may be before it is stored: no more is lost with its worker."""

_WARN = WarnOnce()


@attrs.frozen
class AttemptNote:
    """A middleware that lets the outermost call of a task say which attempt it is."""

    number: int

    def __call__(self, call: CallStart) -> CallStart:
        """Return the call with the attempt's number, if it is the outermost one."""
        if call.parent_call_id is not None:
            return call
        return attrs.evolve(call, attributes={**call.attributes, ATTEMPT: self.number})


def carried_callback(callback: Any, attempt: int) -> Any:
    """Return a callback as it is to be in a worker: it stores soon what has ended, and says which attempt it is.

    Args:
        callback: One of DSPy's settings; somebody else's stays as it is.
        attempt: 1 for the first.
    """
    if not isinstance(callback, TracingCallback):
        return callback
    notes = [AttemptNote(attempt)] if attempt > 1 else []
    seconds = min(callback.config.max_open_s, MOST_SECONDS_UNSTORED)
    carried = callback.alike(type(callback), further=notes, max_open_s=seconds)
    if callback.origin:
        carried.comes_from(callback.origin)
    return carried


def note_retry(headers: Headers) -> None:
    """Let the trace of *headers* say that a task of it was begun again, if it is recorded."""
    _, trace_id, _, flags = [*well_formed(headers).get("traceparent", "").split("-"), "", "", "", ""][:4]
    if not trace_id or not int(flags, 16) & 1:
        return
    try:
        internals.tag_trace(f"tr-{trace_id}", RETRIED, "true")
    except Exception as error:  # noqa: BLE001  (whatever a store raises: the spans say it too)
        _WARN(type(error), f"A trace does not say that a task was begun again: {error!r}", error)
