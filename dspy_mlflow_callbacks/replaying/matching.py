"""Which recorded call a call of the replay is: by where it stands in the program, what it is given, and its turn."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import orjson

from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.replaying.marks import agrees, is_loose
from dspy_mlflow_callbacks.replaying.recording import Recorded

Label = tuple[CallKind, str]
"""What is called, and its name: of a tool its own, of a module without the program's; none of an LM."""


@attrs.frozen
class Match:
    """The recorded call that a call is.

    Attributes:
        call: The recorded call; None if there is none at that place of the program.
        is_exact: Whether it was given the same.
        is_again: Whether another call was it before.
    """

    call: Recorded | None
    is_exact: bool = False
    is_again: bool = False


class Matching:
    """Follows a recorded tree as a program makes its calls again, in whatever threads and tasks.

    A call inside a program is looked up among those that its recorded parent made. So parallel calls that are given the
    same stay apart: what each of them calls is found below its own. What is not found there is looked up among the
    calls that other parents of that name made.

    Args:
        root: The recorded call of the program.
    """

    def __init__(self, root: Recorded) -> None:
        self._root = root
        self._lock = threading.RLock()
        self._at: dict[str, Recorded] = {}
        self._tails: dict[str, str] = {}
        self._taken: set[str] = set()
        self._index = _Index((self._label(call), call) for call in root.calls() if call is not root)

    def place(self, call_id: str | None) -> Recorded:
        """Return the recorded call in which what a call makes is looked up."""
        return self._at.get(call_id or "", self._root)

    def path(self, call_id: str | None) -> str:
        """Return where in the recorded program a call would stand, whether the recording has it or not."""
        return self._root.name + self._tails.get(call_id or "", "")

    def pass_through(self, call_id: str, parent_id: str | None) -> None:
        """Note a call that is not followed: what it calls is looked up where it stands itself."""
        self._at[call_id] = self.place(parent_id)
        self._tails[call_id] = self._tails.get(parent_id or "", "")

    def stand(self, call_id: str, call: Recorded) -> None:
        """Note that a call is a recorded one that was taken."""
        self._at[call_id] = call
        self._tails[call_id] = self._tail(call)

    def enter(self, call_id: str, parent_id: str | None, label: Label, inputs: Any) -> Recorded | None:
        """Note a call of a module or the like, and return the recorded call that it is.

        Args:
            call_id: DSPy's id of the call.
            parent_id: That of the call that makes it.
            label: What is called.
            inputs: What it is given.

        Returns:
            None where the recording has no such call: what it calls is looked up where it stands itself.
        """
        with self._lock:
            above = self.place(parent_id)
            if self._root.span_id not in self._taken:
                found: Recorded | None = self._root
            else:
                found = self._given((above.span_id,), label, inputs) or next(
                    iter(self._free(above.span_id, label)), None
                )
            self._at[call_id] = above if found is None else self._take(found)
            self._tails[call_id] = label[1]
            return found

    def take(self, parent_id: str | None, label: Label, inputs: Any, *, again: bool = False) -> Match:
        """Return the recorded call that a call of an LM or a tool is, which then is no other's.

        Args:
            parent_id: DSPy's id of the call that makes it.
            label: What is called.
            inputs: What it is given.
            again: Whether one may be taken that was taken before, where no other is left.
        """
        with self._lock:
            places = (self.place(parent_id).span_id, self.path(parent_id))
            given = self._given(places, label, inputs)
            if given is not None:
                return Match(self._take(given), is_exact=True)
            near = next(filter(None, (self._free(place, label) for place in places)), None)
            if near is not None:
                return Match(self._take(nearest(near, inputs)))
            all_taken = self._index.all[places[1], label] if again else ()
            return Match(nearest(all_taken, inputs) if all_taken else None, is_again=True)

    def left(self) -> list[Recorded]:
        """Return the recorded calls that no call was."""
        return [call for call in self._root.calls() if call.span_id not in self._taken]

    def _label(self, call: Recorded) -> Label:
        if call.kind is CallKind.LM:
            return call.kind, ""
        return call.kind, call.name if call.kind is CallKind.TOOL else self._tail(call)

    def _tail(self, call: Recorded) -> str:
        return call.name.removeprefix(self._root.name)

    def _given(self, places: Iterable[str], label: Label, inputs: Any) -> Recorded | None:
        """Return the first free call in the first of *places* that was given *inputs*."""
        key = _key(inputs)
        for place in places:
            same = self._index.same[place, label, key]
            while same and same[0].span_id in self._taken:
                same.popleft()
            loose = (call for call in self._index.loose[place, label] if call.span_id not in self._taken)
            found = same[0] if same else next((call for call in loose if agrees(call.inputs, inputs)), None)
            if found is not None:
                return found
        return None

    def _free(self, place: str, label: Label) -> list[Recorded]:
        return [call for call in self._index.all[place, label] if call.span_id not in self._taken]

    def _take(self, call: Recorded) -> Recorded:
        self._taken.add(call.span_id)
        return call


class _Index:
    """Recorded calls by their place, which is the id of what made them, or its name, and by what is called.

    Attributes:
        all: In the order in which they began.
        same: Further by what they were given.
        loose: Those that were given what cannot be told exactly.
    """

    def __init__(self, calls: Iterable[tuple[Label, Recorded]]) -> None:
        self.all: dict[tuple[str, Label], list[Recorded]] = defaultdict(list)
        self.same: dict[tuple[str, Label, bytes], deque[Recorded]] = defaultdict(deque)
        self.loose: dict[tuple[str, Label], list[Recorded]] = defaultdict(list)
        for label, call in calls:
            self._add(label, call)

    def _add(self, label: Label, call: Recorded) -> None:
        key, loose = _key(call.inputs), is_loose(call.inputs)
        above: Any = call.parent
        for place in (above.span_id, above.name):
            self.all[place, label].append(call)
            self.same[place, label, key].append(call)
            if loose:
                self.loose[place, label].append(call)


def _key(inputs: Any) -> bytes:
    return orjson.dumps(inputs, option=orjson.OPT_SORT_KEYS)


def nearest(calls: Sequence[Recorded], inputs: Any) -> Recorded:
    """Return the call whose inputs have most lines in common with *inputs*; of equals the first."""
    if len(calls) == 1:
        return calls[0]
    lines = _lines(inputs)
    return max(calls, key=lambda call: len(lines & _lines_of(call)))


def _lines_of(call: Recorded) -> frozenset[str]:
    if call.lines is None:
        call.lines = _lines(call.inputs)
    return call.lines


def _lines(inputs: Any) -> frozenset[str]:
    return frozenset(orjson.dumps(inputs, option=orjson.OPT_INDENT_2).decode().replace("\\n", "\n").split("\n"))
