"""What travels beside a trace's ids: entries of W3C baggage (https://www.w3.org/TR/baggage/), within its limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote_plus

import attrs
import orjson
from opentelemetry import baggage
from opentelemetry.context import Context

from dspy_mlflow_callbacks.events import EMPTY
from dspy_mlflow_callbacks.middleware.tags import MAX_KEY_CHARACTERS, MAX_METADATA_CHARACTERS, MAX_TAG_CHARACTERS
from dspy_mlflow_callbacks.stats import WarnOnce

MAX_BYTES = 8192
MAX_ENTRIES = 180
_MAX_ENTRY_BYTES = 4096  # of OpenTelemetry's propagator, which takes no longer one

# OpenTelemetry's names for session and user; the rest is ours.
_EXPERIMENT, _RUN, _CONFIG = "mlflow.experiment.id", "mlflow.run.id", "dspy_mlflow.config"
_SESSION, _USER, _TAG = "session.id", "user.id", "dspy_mlflow.tag."
_OURS = frozenset({_EXPERIMENT, _RUN, _CONFIG, _SESSION, _USER})

PARTS = ("trace", "experiment", "run", "session", "user", "tags", "config")
"""What headers may say, by the names under which a receiver allows it."""


@attrs.frozen(kw_only=True)
class Belongings:
    """What a trace belongs to and is governed by, as it travels to another process.

    Attributes:
        experiment: The id of its experiment.
        run: The id of its MLflow run.
        session: Its session.
        user: Its user.
        tags: Its tags.
        config: The options that narrow what is recorded of it, by name, as JSON values.
    """

    experiment: str | None = None
    run: str | None = None
    session: str | None = None
    user: str | None = None
    tags: Mapping[str, str] = EMPTY
    config: Mapping[str, Any] = EMPTY

    def allowed(self, parts: Iterable[str]) -> Belongings:
        """Return only what *parts*, names of fields, allow."""
        kept = set(parts)
        return Belongings(**{name: getattr(self, name) for name in attrs.fields_dict(Belongings) if name in kept})

    def entries(self) -> Iterator[tuple[str, str]]:
        """Yield the entries of baggage that say it, the most important first."""
        for key, text in ((_EXPERIMENT, self.experiment), (_RUN, self.run)):
            if text:
                yield key, text
        if self.config:
            yield _CONFIG, orjson.dumps(dict(self.config)).decode()
        for key, text in ((_SESSION, self.session), (_USER, self.user)):
            if text:
                yield key, text
        for key, text in self.tags.items():
            yield f"{_TAG}{key}", text


class LeftOut:
    """Counts entries that did not fit into the baggage of a call, and says so once."""

    def __init__(self) -> None:
        self.count = 0
        self._warn = WarnOnce()

    def __call__(self, keys: list[str]) -> None:
        """Note that entries with these keys do not travel."""
        self.count += len(keys)
        names = ", ".join(key.removeprefix(_TAG)[:50] for key in keys[:5])
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""  # noqa: PLR2004  (names enough)
        self._warn("baggage", f"Headers have no room for all that belongs to a trace: {names}{more} do not travel.")


LEFT_OUT = LeftOut()


def with_belongings(context: Context, belongings: Belongings, left_out: LeftOut = LEFT_OUT) -> Context:
    """Return *context* with baggage that says *belongings*, as far as there is room beside what others have in it."""
    others = [(key, str(value)) for key, value in baggage.get_all(context).items() if not is_ours(key)]
    context = baggage.clear(context)
    size = number = 0
    lost = []
    first, tags = _split(belongings.entries())
    for key, text in (*first, *others, *tags):
        length = len(quote_plus(key)) + 1 + len(quote_plus(text))
        if length > _MAX_ENTRY_BYTES or size + length + bool(number) > MAX_BYTES or number == MAX_ENTRIES:
            lost.append(key)
            continue
        size, number = size + length + bool(number), number + 1
        context = baggage.set_baggage(key, text, context)
    if lost:
        left_out(lost)
    return context


def _split(entries: Iterator[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return what others' baggage has to make room for, and what has to make room for it."""
    listed = list(entries)
    return [each for each in listed if each[0] in _OURS], [each for each in listed if each[0] not in _OURS]


def is_ours(key: str) -> bool:
    """Return whether an entry says something of what a trace belongs to."""
    return key in _OURS or key.startswith(_TAG)


def belongings_in(context: Context) -> Belongings:
    """Return what the baggage in *context* says a trace belongs to; what makes no sense is left out."""
    said = {key: str(value) for key, value in baggage.get_all(context).items() if is_ours(key)}
    return Belongings(
        experiment=_id(said.get(_EXPERIMENT)),
        run=_id(said.get(_RUN)),
        session=_cut(said.get(_SESSION)),
        user=_cut(said.get(_USER)),
        tags=dict(_tags(said)),
        config=_mapping(said.get(_CONFIG)),
    )


def _cut(text: str | None) -> str | None:
    return text[:MAX_METADATA_CHARACTERS] if text else None


def _tags(said: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what may become tags: those of MLflow's own say where a trace's artifacts are, and more like that."""
    for key, text in said.items():
        name = key.removeprefix(_TAG)
        if key.startswith(_TAG) and name and len(name) <= MAX_KEY_CHARACTERS and not name.startswith("mlflow."):
            yield name, text[:MAX_TAG_CHARACTERS]


def _id(text: str | None) -> str | None:
    return text if text and text.isascii() and text.isalnum() else None


def _mapping(text: str | None) -> Mapping[str, Any]:
    try:
        value = orjson.loads(text or "{}")
    except ValueError:
        return EMPTY
    return value if isinstance(value, dict) else EMPTY
