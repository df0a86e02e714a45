"""A batch: ended traces that go to the same place in one request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import attrs

from dspy_mlflow_callbacks.export.waiting import Destination, Prepared, Waiting
from dspy_mlflow_callbacks.mlflow_internals import Feedback


@attrs.define(eq=False, slots=True)
class Entry:
    """A trace on its way, from the call that ended it to the store.

    Attributes:
        number: How many were put before it.
        trace: The trace.
        size: How many bytes it counts for.
        prepared: What leaves of it, once that is known.
        body: Its spans as they are sent, where it waits so; then it has none in *prepared*.
        packed: How many spans *body* has.
        refusals: How often the store failed over it alone.
        stored_before: How many traces the store had taken when it first did.
    """

    number: int
    trace: Waiting
    size: int
    prepared: Prepared | None = None
    body: bytes | None = None
    packed: int = 0
    refusals: int = 0
    stored_before: int = 0

    @property
    def leaves(self) -> Prepared:
        """What leaves of it, once it is prepared."""
        return cast("Prepared", self.prepared)

    @property
    def spans(self) -> int:
        """How many spans it has, once it is prepared."""
        return self.packed or len(self.leaves.spans)

    @property
    def is_plain(self) -> bool:
        """Whether its spans and feedback are all there is to it."""
        leaves = self.leaves
        return leaves.info is None and not leaves.attachments and not leaves.prompts


@attrs.frozen(eq=False)
class Batch:
    """Traces of one destination, whole.

    Attributes:
        destination: Where they go.
        entries: The traces.
    """

    destination: Destination
    entries: Sequence[Entry]

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def prepared(self) -> Iterator[Prepared]:
        """What leaves of each trace."""
        return (entry.leaves for entry in self.entries)

    @property
    def loose_spans(self) -> list[Any]:
        """The spans of all traces that do not wait as bytes."""
        return [span for prepared in self.prepared for span in prepared.spans]

    @property
    def feedback(self) -> list[Feedback]:
        """What metrics say of all traces."""
        return [feedback for prepared in self.prepared for feedback in prepared.feedback]

    @property
    def is_plain(self) -> bool:
        """Whether spans and feedback are all there is to it."""
        return all(entry.is_plain for entry in self.entries)

    def halves(self) -> tuple[Batch, Batch]:
        """Return the batch as two."""
        middle = len(self.entries) // 2
        return Batch(self.destination, self.entries[:middle]), Batch(self.destination, self.entries[middle:])
