"""The one owner of what is open: call_id → open span, its parent and its trace."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import attrs

from dspy_mlflow_callbacks.events import CallStart


@attrs.define(eq=False)  # not frozen: that takes three times as long to make
class OpenCall:
    """A call between its start and its end.

    Attributes:
        call_id: DSPy's id of the call.
        start: The call as it came out of the middleware; None if it is dropped.
        span: The engine's span; one that records nothing if the call is dropped. A hidden call has that of the call
            around it, or none.
        owner: Who opened the span and will close it.
        trace: The calls of the same trace that are open, by call_id; shared by all of them.
        is_suppressed: Whether the call is dropped because a scope around it switched tracing off.
        is_final: Whether a dropped call is dropped for every callback, not only by its own callback's middleware.
        around: The open call around a dropped one: calls below it that are recorded all the same nest there.
        cpu_started: Thread and its CPU time in nanoseconds when a root call, or the first one in a fork, started.
        is_carried: Whether it began in a thread of the user's own into which its context was carried: it may go on
            when the calls around it have ended.
        unparsed: The adapter that formatted messages for this call and has not parsed an answer yet.
        part: The compile or trial, recorded in summary, to which the call's cost counts; None where there is none.
        is_summarized: Whether calls right below it are summed up in *part* and get no spans.
        on_end: What is done first when the call ends, with what it raised.
        at_end: Returns what is known of the call at its end besides, values by the attribute that they become.
        is_inherited: Whether it began in the process that this one is a fork of, which closes its span.
    """

    call_id: str | None
    start: CallStart | None
    span: Any
    owner: Any
    trace: TraceCalls = attrs.field(repr=False)
    is_suppressed: bool = attrs.field(default=False, kw_only=True)
    is_final: bool = attrs.field(default=True, kw_only=True)
    around: OpenCall | None = attrs.field(default=None, repr=False, kw_only=True)
    cpu_started: tuple[int, int] | None = attrs.field(default=None, kw_only=True)
    is_carried: bool = attrs.field(default=False, kw_only=True)
    unparsed: str | None = attrs.field(default=None, kw_only=True)
    part: Any = attrs.field(default=None, repr=False, kw_only=True)
    is_summarized: bool = attrs.field(default=False, kw_only=True)
    on_end: Callable[[BaseException | None], None] | None = attrs.field(default=None, repr=False, kw_only=True)
    at_end: Callable[[], Mapping[str, Any]] | None = attrs.field(default=None, repr=False, kw_only=True)
    is_inherited: bool = attrs.field(default=False, kw_only=True)

    @property
    def is_dropped(self) -> bool:
        """Whether nothing is recorded of this call and of those below it."""
        return self.start is None

    @property
    def is_hidden(self) -> bool:
        """Whether the call has no span of its own."""
        return self.start is not None and self.start.is_hidden


class TraceCalls(dict[str, OpenCall]):
    """The calls of one trace that are open, by call_id, and whether anything happens in it.

    Args:
        owner: Who began the trace, and gives it up.

    Attributes:
        is_touched: Whether a call has started or ended since the last look.
        quiet_since: The first look, in seconds of the monotonic clock, since which none has.
    """

    __slots__ = ("is_touched", "owner", "quiet_since")

    def __init__(self, owner: Any) -> None:
        super().__init__()
        self.owner = owner
        self.is_touched = True
        self.quiet_since = 0.0


NO_CALLS = TraceCalls(None)
"""Those of a dropped call, which is in no trace."""

# A call that is not open any more: all that is kept of it is that nothing is recorded below it.
DROPPED = OpenCall(None, None, None, None, NO_CALLS)

_MOST_GIVEN_UP = 1_000


class OpenSpans:
    """All calls of the process that have started and not ended.

    One object for all callbacks, so that any of them nests below any other. Each method is one operation on a
    dictionary, which threads may do without a lock.
    """

    def __init__(self) -> None:
        self._calls: dict[str | None, OpenCall] = {}
        self._given_up: deque[str] = deque()
        # The dictionary's own methods: they are all that a call in a trace that is sampled out comes to.
        self.get: Callable[[str | None], OpenCall | None] = self._calls.get
        """Return the open call with this id, or None."""
        self.stand_for: Callable[[str, OpenCall], None] = self._calls.__setitem__
        """Let another call, one that is open, stand for the call with this id."""
        self.forget: Callable[[str, None], object] = self._calls.pop
        """Forget an id for which another call stands."""

    def inherit(self, active_call_id: str | None) -> None:
        """Keep, in a fork, the calls that enclose it, and leave to the parent what began there.

        Args:
            active_call_id: The call that makes the fork, if any.
        """
        enclosing = dict(self._enclosing(active_call_id))
        for call in self.calls():
            if call.span is not None:
                call.is_inherited = True
                call.span.inherit()
        self._calls.clear()
        self._calls.update(enclosing)

    def _enclosing(self, call_id: str | None) -> Iterator[tuple[str | None, OpenCall]]:
        while (call := self.get(call_id)) is not None:
            yield call_id, call
            call_id = None if call.start is None else call.start.parent_call_id

    def __len__(self) -> int:
        return len(self._calls) - sum(self._calls.get(call_id) is DROPPED for call_id in list(self._given_up))

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._calls

    def calls(self) -> list[OpenCall]:
        """Return all calls that are open now."""
        return list(self._calls.values())

    def add(self, call_id: str, call: OpenCall) -> None:
        """Hold *call* until it is taken; under another call's id it stands for that one too."""
        self._calls[call_id] = call
        if call.start is not None and call.call_id == call_id:
            call.trace[call_id] = call
            call.trace.is_touched = True

    def take(self, call_id: str) -> OpenCall:
        """Return the call with this id and forget it; `DROPPED` for one that is not open."""
        call = self._calls.pop(call_id, DROPPED)
        if call.start is None:
            return call
        call.trace.is_touched = True
        # Who takes it out of its trace has it: another thread may be about to give it up.
        return DROPPED if call.trace.pop(call_id, None) is None else call

    def abandon(self, trace: TraceCalls) -> list[OpenCall]:
        """Return the calls of *trace* that are still open, innermost first, and drop what may yet come from them."""
        left = []
        with suppress(KeyError):  # empty, be it that another thread took the last one
            while True:
                call_id, call = trace.popitem()
                self._drop_what_comes(call_id)
                left.append(call)
        return left

    def abandon_dropped(self, call: OpenCall) -> None:
        """Forget a dropped call whose end may never come."""
        for call_id, each in list(self._calls.items()):
            if each is call and call_id is not None:
                self._drop_what_comes(call_id)

    def _drop_what_comes(self, call_id: str) -> None:
        """Drop what is called below a call that is given up, until its end comes after all or there are too many."""
        self._calls[call_id] = DROPPED
        self._given_up.append(call_id)
        with suppress(IndexError):  # another thread was faster
            while len(self._given_up) > _MOST_GIVEN_UP:
                oldest = self._given_up.popleft()
                if self._calls.get(oldest) is DROPPED:
                    self.forget(oldest, None)


OPEN_SPANS = OpenSpans()
