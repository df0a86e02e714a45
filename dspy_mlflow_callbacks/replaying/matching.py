"""Which recorded call a call of the replay is: by where it stands in the program, what it is given, and its turn."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable

import attrs
import orjson

from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.replaying.marks import agrees
from dspy_mlflow_callbacks.replaying.recording import Recorded

Inputs = object


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
    same stay apart: what each of them calls is found below its own.

    Args:
        root: The recorded call of the program.
    """

    def __init__(self, root: Recorded) -> None:
        self._root = root
        self._lock = threading.RLock()
        self._at: dict[str, Recorded] = {}
        self._tails: dict[str, str] = {}
        self._taken: set[str] = set()

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
        self._tails[call_id] = self.tail(call.name)

    def enter(self, call_id: str, parent_id: str | None, kind: CallKind, tail: str, inputs: Inputs) -> Recorded | None:
        """Note a call of a module or the like, and return the recorded call that it is.

        Args:
            call_id: DSPy's id of the call.
            parent_id: That of the call that makes it.
            kind: What is called.
            tail: Its name without that of the program.
            inputs: What it is given.

        Returns:
            None where the recording has no such call: what it calls is looked up where it stands itself.
        """
        with self._lock:
            if self._root.span_id not in self._taken:
                found: Recorded | None = self._root
            else:
                alike = [call for call in self._free(self.place(parent_id), kind) if self.tail(call.name) == tail]
                found = next((call for call in alike if agrees(call.inputs, inputs)), next(iter(alike), None))
            self._at[call_id] = self.place(parent_id) if found is None else self._take(found)
            self._tails[call_id] = tail
            return found

    def tail(self, name: str) -> str:
        """Return a recorded name without that of the program."""
        return name.removeprefix(self._root.name)

    def take(
        self, parent_id: str | None, is_of: Callable[[Recorded], bool], inputs: Inputs, *, again: bool = False
    ) -> Match:
        """Return the recorded call that a call of an LM or a tool is, which then is no other's.

        Args:
            parent_id: DSPy's id of the call that makes it.
            is_of: Says whether a recorded call is one of this LM's or tool's.
            inputs: What it is given.
            again: Whether one may be taken that was taken before, where no other is left.
        """
        with self._lock:
            above = self.place(parent_id)
            here = [call for call in above.children if is_of(call)]
            named = self.path(parent_id)
            path = [call for each in self._root.calls() if each.name == named for call in each.children]
            alike = [*here, *(call for call in path if is_of(call) and call.parent is not above)]
            free = [call for call in alike if call.span_id not in self._taken]
            exact = next((call for call in free if agrees(call.inputs, inputs)), None)
            if exact is not None:
                return Match(self._take(exact), is_exact=True)
            near = [call for call in here if call in free] or free
            if near:
                return Match(self._take(_nearest(near, inputs)))
            return Match(_nearest(alike, inputs) if again and alike else None, is_again=True)

    def left(self) -> list[Recorded]:
        """Return the recorded calls that no call was."""
        return [call for call in self._root.calls() if call.span_id not in self._taken]

    def _free(self, above: Recorded, kind: CallKind) -> list[Recorded]:
        return [call for call in above.children if call.kind is kind and call.span_id not in self._taken]

    def _take(self, call: Recorded) -> Recorded:
        self._taken.add(call.span_id)
        return call


def _nearest(calls: Iterable[Recorded], inputs: Inputs) -> Recorded:
    """Return the call that was given what is most like *inputs*; of equals the first."""
    calls = list(calls)
    if len(calls) == 1:
        return calls[0]
    lines = _lines(inputs)
    return max(
        calls, key=lambda call: difflib.SequenceMatcher(None, lines, _lines(call.inputs), autojunk=False).ratio()
    )


def _lines(inputs: Inputs) -> list[str]:
    return orjson.dumps(inputs, option=orjson.OPT_INDENT_2).decode().replace("\\n", "\n").split("\n")
