"""Where a module stands in the program: `Program.generate.predict`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import dspy

from dspy_mlflow_callbacks.describe.known import Known
from dspy_mlflow_callbacks.describe.payloads import describe_value
from dspy_mlflow_callbacks.events import CallKind, CallStart

MAX_ITEMS = 100
"""Items of a list, tuple or dict in which a module is looked for; a module further back has no path."""

MAX_SEARCHED = 1000
"""Modules and containers that are looked into for one path: a program may hold a corpus beside its modules."""

_KNOWN_PATHS = 4096
_NO_PATH = (None, "")

Step = tuple[str, Any]  # ("attribute" | "item", its name, index or key)
Steps = tuple[Step, ...]


def path_of(module: Any, parent: CallStart | None) -> str:
    """Return the dotted path of *module*, called inside *parent*, below the outermost module, else its class's name.

    The nearest enclosing module that holds it names it; lists and dicts show as `[0]` and `['key']`.
    """
    above = parent
    while above is not None:
        if above.kind is CallKind.MODULE and isinstance(above.instance, dspy.Module):
            below = _PATHS.find(above.instance, module)
            if below is not None:
                return f"{above.name}{below}"
        above = above.parent
    return type(module).__name__


class _Paths:
    """Paths that were found before: followed they cost less than searched. A path that leads elsewhere is searched."""

    def __init__(self) -> None:
        self._known: Known[tuple[int, int], tuple[Steps, str]] = Known(_KNOWN_PATHS)

    def find(self, program: Any, module: Any) -> str | None:
        """Return the tail of the path from *program* to *module*, or None."""
        key = (id(program), id(module))
        steps, tail = self._known.get(key, _NO_PATH)
        if steps is not None and _follow(program, steps) is module:
            return tail
        steps = _search(program, module)
        if steps is None:
            return None
        tail = text(steps)
        self._known.keep(key, (steps, tail))
        return tail


_PATHS = _Paths()


def _follow(value: Any, steps: Steps) -> Any:
    try:
        for kind, key in steps:
            value = vars(value)[key] if kind == "attribute" else value[key]
    except (AttributeError, KeyError, IndexError, TypeError):
        return None
    return value


def _search(program: Any, module: Any) -> Steps | None:
    """Search breadth first, so that the shortest path is found."""
    if program is module:
        return ()
    waiting: deque[tuple[Any, Steps]] = deque([(program, ())])
    seen = {id(program)}
    while waiting and len(seen) <= MAX_SEARCHED:
        value, steps = waiting.popleft()
        for step, item in items(value):
            if item is module:
                return (*steps, step)
            if isinstance(item, (dspy.Module, list, tuple, dict)) and id(item) not in seen:
                seen.add(id(item))
                waiting.append((item, (*steps, step)))
    return None


def items(value: Any) -> Iterator[tuple[Step, Any]]:
    """Yield what a module, list, tuple or dict holds, each with the step that leads to it."""
    if isinstance(value, dspy.Module):
        yield from ((("attribute", name), item) for name, item in list(vars(value).items()) if name != "history")
    elif isinstance(value, dict):
        yield from ((("item", key), item) for key, item in list(islice(value.items(), MAX_ITEMS)))
    else:
        yield from ((("item", index), item) for index, item in enumerate(value[:MAX_ITEMS]))


def text(steps: Steps) -> str:
    """Return *steps* as the tail of a path, such as `.steps[0].predict`."""
    return "".join(f".{key}" if kind == "attribute" else f"[{describe_value(key)}]" for kind, key in steps)
