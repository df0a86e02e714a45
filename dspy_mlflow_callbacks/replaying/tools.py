"""A program's tools: which there are, what they are said to return, and ones that return what is known."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import dspy


def returns_of(tool: Any) -> Any:
    """Return the type that a tool's function is annotated to return; None where it does not say."""
    function = tool.func if inspect.isroutine(tool.func) else getattr(tool.func, "__call__", tool.func)  # noqa: B004
    found = typing.get_type_hints(function).get("return")  # they can be told: DSPy asked for them to make the tool
    return None if found in (None, type(None), Any) else found


def with_function(tool: Any, function: Callable[..., Any]) -> Any:
    """Return a tool that is as *tool* is, and runs *function* in place of its own."""
    return tool.model_copy(update={"func": function})


def tools_of(program: Any) -> dict[str, Any]:
    """Return the `dspy.Tool`s that a program's modules hold, by name."""
    if not isinstance(program, dspy.Module):
        return {}
    modules = [module for _, module in program.named_sub_modules(skip_compiled=False)]
    return {tool.name: tool for module in modules for value in vars(module).values() for tool in _held(value)}


def _held(value: Any) -> Iterator[Any]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
    return (item for item in items if isinstance(item, dspy.Tool))
