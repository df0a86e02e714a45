"""Where optimizers run a candidate on one example by themselves, and what came of it.

`dspy.Evaluate` tells callbacks of its results. These tell nobody: `BootstrapFewShot`, `SIMBA`, and `AvatarOptimizer`,
whose threads do not know the call around them either.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import dspy
from dspy.teleprompt import avatar_optimizer, bootstrap, simba
from dspy.utils.callback_context import ACTIVE_CALL_ID

from dspy_mlflow_callbacks.dspy_internals.settings import SettingsOverride, active_call_id
from dspy_mlflow_callbacks.dspy_internals.wrapping import wrap

logger = logging.getLogger("dspy_mlflow_callbacks")

InContext = Callable[[Callable[..., Any]], Callable[..., Any]]


class Item:
    """One of the examples that are run together.

    Args:
        batch: What is the same for all examples that are run together.

    Attributes:
        part: What somebody takes the example for; it has `scored(value)`.
    """

    __slots__ = ("batch", "part")

    def __init__(self, batch: object) -> None:
        self.batch = batch
        self.part: Any = None


_ITEM: ContextVar[Item | None] = ContextVar("dspy_mlflow_callbacks_item", default=None)

current_item: Callable[[], Item | None] = _ITEM.get
"""Return the item that this code runs for; None where it runs for none."""

# The program that `AvatarOptimizer` evaluates, by its identity, and how one example of it is run.
_EVALUATED: dict[int, Callable[..., Any]] = {}


@contextmanager
def item_of(batch: object) -> Iterator[Item]:
    """Let what runs inside be for one item of *batch*."""
    item = Item(batch)
    token = _ITEM.set(item)
    try:
        yield item
    finally:
        _ITEM.reset(token)


def each_an_item(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return *function* so that each call of it is for an item of its own, all of one batch."""
    batch = object()

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with item_of(batch):
            return function(*args, **kwargs)

    return call


def install(in_current_context: InContext) -> None:
    """Make the optimizers that run examples by themselves tell what came of each.

    Each wrapper calls the original and changes neither arguments nor result.

    Args:
        in_current_context: Binds a function to the tracing context of the thread that calls this.
    """
    wrap(bootstrap.BootstrapFewShot, "_bootstrap_one_example", _bootstrapping)
    wrap(simba, "wrap_program", _wrapping)
    wrap(avatar_optimizer.AvatarOptimizer, "thread_safe_evaluator", functools.partial(_evaluating, in_current_context))
    wrap(avatar_optimizer.AvatarOptimizer, "process_example", _processing)


def _tell(item: Item | None, score: Callable[[], Any]) -> None:
    """Tell of the score that an item got; whatever goes wrong costs the score alone."""
    if item is not None and item.part is not None:
        try:
            item.part.scored(score())
        except Exception:
            logger.warning("The score of an optimizer's example is not known.", exc_info=True)


def bound(in_current_context: InContext, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return *function* bound to MLflow's context of now, or as it is where that fails: the program must run."""
    try:
        return in_current_context(function)
    except Exception:
        logger.warning("MLflow's context does not reach DSPy's worker threads.", exc_info=True)
        return function


def _bootstrapping(original: Callable[..., Any]) -> Callable[..., Any]:
    def bootstrap_one_example(self: Any, *args: Any, **kwargs: Any) -> Any:
        with item_of(self) as item:
            success = original(self, *args, **kwargs)
            _tell(item, lambda: success)
        return success

    return bootstrap_one_example


def _wrapping(original: Callable[..., Any]) -> Callable[..., Any]:
    def wrap_program(program: Any, metric: Callable[..., Any]) -> Callable[[Any], Any]:
        run = original(program, metric)

        def wrapped_program(example: Any) -> Any:
            result = run(example)
            _tell(current_item(), lambda: result["score"])
            return result

        return wrapped_program

    return wrap_program


def _evaluating(in_current_context: InContext, original: Callable[..., Any]) -> Callable[..., Any]:
    def thread_safe_evaluator(self: Any, devset: Any, actor: Any, *args: Any, **kwargs: Any) -> Any:
        call_id, ours = active_call_id(), _ours()

        def run(process: Callable[[], Any]) -> Any:
            token = ACTIVE_CALL_ID.set(call_id)
            try:
                with _heard_by(ours):
                    return process()
            finally:
                ACTIVE_CALL_ID.reset(token)

        _EVALUATED[id(actor)] = each_an_item(bound(in_current_context, run))
        try:
            return original(self, devset, actor, *args, **kwargs)
        finally:
            del _EVALUATED[id(actor)]

    return thread_safe_evaluator


def _ours() -> list[Any]:
    """Return those of the callbacks that hear calls here which are of this package; others hear what they ever did."""
    return [each for each in dspy.settings.get("callbacks", []) if getattr(each, "hears_unannounced_calls", False)]


@contextmanager
def _heard_by(ours: list[Any]) -> Iterator[None]:
    """Let *ours*, and no other callback of this package, hear what runs inside.

    Threads of an optimizer's own do not see `dspy.context`, by which this package says who hears what, too.
    """
    here = dspy.settings.get("callbacks", [])
    heard_by = [each for each in here if not getattr(each, "hears_unannounced_calls", False)] + ours
    undo = _leave_as_it_is if heard_by == here else SettingsOverride(callbacks=heard_by).undo
    try:
        yield
    finally:
        undo()


def _leave_as_it_is() -> None:
    """Undo what was not done."""


def _processing(original: Callable[..., Any]) -> Callable[..., Any]:
    def process_example(self: Any, actor: Any, example: Any, return_outputs: Any) -> Any:
        def process() -> Any:
            result = original(self, actor, example, return_outputs)
            _tell(current_item(), lambda: result[-1] if return_outputs else result)
            return result

        run = _EVALUATED.get(id(actor))
        return process() if run is None else run(process)

    return process_example
