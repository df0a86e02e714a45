"""What a payload step is, and the one loop that runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import attrs
import orjson

from dspy_mlflow_callbacks import checks

Place = Literal["inputs", "outputs", "attribute", "event", "error", "tag", "metadata"]


@attrs.frozen(kw_only=True)
class Payload:
    """One thing that is about to leave the process.

    Attributes:
        place: Where it stands: the span's `inputs`, `outputs`, an `attribute`, an attribute of an `event` (an
            exception's message and stack trace are of these), its `error`; or a `tag` or `metadata` of the trace.
        name: Its name there: the attribute's key, the tag's; for `inputs`, `outputs` and `error` the same as *place*.
        text: What leaves: a JSON text, or a plain one.
        is_json: Whether *text* is JSON.
    """

    place: Place
    name: str
    text: str = attrs.field(repr=False)
    is_json: bool = True

    @property
    def value(self) -> Any:
        """What *text* says: dicts, lists, texts, numbers, booleans and None."""
        return orjson.loads(self.text) if self.is_json else self.text

    def with_value(self, value: Any) -> Payload:
        """Return a payload that says *value* instead.

        Raises:
            TypeError: if *value* is not made of dicts with texts for keys, lists, texts, numbers, booleans and None.
        """
        return self.with_text(orjson.dumps(value).decode() if self.is_json else str(value))

    def with_text(self, text: str) -> Payload:
        """Return a payload with *text* instead, which is JSON where this one's is."""
        return attrs.evolve(self, text=text)


class PayloadStep(Protocol):
    """A callable that is asked for every payload before it leaves the process.

    It returns the payload, or a changed one (`payload.with_value(...)`). An object may also have
    `clears(text) -> bool`: whether a text has nothing for it to change, be it those of many payloads as lines of
    `"name":text`. Then it is not asked for each of them.
    """

    def __call__(self, payload: Payload, /) -> Payload:
        """Return the payload that may leave."""
        ...


@runtime_checkable
class ClearsTexts(Protocol):
    """A payload step that knows at a glance that it has nothing to change."""

    def clears(self, text: str, /) -> bool:
        """Return whether *text*, the texts of any number of payloads, can leave as it is."""
        ...


class PayloadStepError(Exception):
    """A payload step raised or returned something that is no payload; *step* is the culprit."""

    def __init__(self, step: object, problem: str) -> None:
        super().__init__(problem)
        self.step = step


class PayloadSteps:
    """The payload steps in the order in which they were written."""

    def __init__(self, steps: Iterable[PayloadStep] = ()) -> None:
        self.steps: tuple[PayloadStep, ...] = checks.callables("payload_steps", steps, "Payload -> Payload")
        self._clears = tuple(step.clears if isinstance(step, ClearsTexts) else None for step in self.steps)

    def __repr__(self) -> str:
        return f"PayloadSteps({list(self.steps)!r})"

    def __bool__(self) -> bool:
        return bool(self.steps)

    def clears(self, text: str) -> bool:
        """Return whether *text*, the texts of any number of payloads with their names, can leave as it is."""
        return all(clears is not None and _cleared(clears, text) for clears in self._clears)

    def run(self, payloads: Sequence[Payload], failed: Callable[[PayloadStepError], object]) -> Sequence[Payload]:
        """Return what may leave in place of *payloads*, in their order.

        A payload whose step fails is withheld: a text that says so leaves instead of it.

        Args:
            payloads: What is about to leave.
            failed: Told of each step that failed.
        """
        for step in self.steps:
            payloads = [_applied(step, payload, failed) for payload in payloads]
        return payloads


def _cleared(clears: Callable[[str], bool], text: str) -> bool:
    try:
        return clears(text)
    except Exception:  # noqa: BLE001  (then the step is asked for each payload, and fails there if it must)
        return False


def _applied(step: PayloadStep, payload: Payload, failed: Callable[[PayloadStepError], object]) -> Payload:
    try:
        result = step(payload)
    except Exception as error:  # noqa: BLE001  (whatever a user's step raises: what it was to hide must not leave)
        return _withheld(step, payload, f"raised {type(error).__name__}", error, failed)
    if not isinstance(result, Payload):
        return _withheld(step, payload, f"returned {type(result).__name__}; allowed is Payload", None, failed)
    return result


def _withheld(
    step: PayloadStep,
    payload: Payload,
    problem: str,
    cause: Exception | None,
    failed: Callable[[PayloadStepError], object],
) -> Payload:
    error = PayloadStepError(step, f"{step!r} {problem}")
    error.__cause__ = cause
    failed(error)
    return payload.with_value(f"[withheld: {_name(step)} {problem}]")


def _name(step: PayloadStep) -> str:
    return getattr(step, "__name__", type(step).__name__)
