"""A callback of a program's own that goes along with the program's copies."""

from __future__ import annotations

from typing import Any, TypeVar

import dspy

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.callbacks import TracingCallback

Program = TypeVar("Program", bound=Any)


def attach(program: Program, callback: TracingCallback) -> Program:
    """Give *program* a callback of its own, which governs its calls and everything below them.

    It does what `program.callbacks = [callback]` does, and stays with the program's copies, which DSPy makes without
    their callbacks: `copy.deepcopy`, `program.deepcopy()`, `reset_copy()`, what optimizers compile, pickles. Copies in
    this process share the callback and its `stats()`. Other callbacks of the program stay where they are.

    Args:
        program: A `dspy.Module`. One that has an attached callback gets this one in its place.
        callback: A callback of this package, such as `MlflowCallback(experiment="search", capture_outputs=False)`.

    Returns:
        The program itself.

    Raises:
        TypeError: if *program* is no program or *callback* no callback of this package.

    Example:
        ```python
        program = attach(dspy.ChainOfThought("question -> answer"), MlflowCallback(tags={"team": "search"}))
        ```
    """
    _check_program("attach", program)
    if not isinstance(callback, TracingCallback):
        message = f"attach: callback must be a callback of this package such as MlflowCallback(), got {callback!r}"
        raise TypeError(message)
    others = [each for each in _detached(program) if each is not callback]
    # The first of ours on a program governs it: the attached one stands before those that were set by hand.
    program.callbacks = dspy_internals.KeptCallbacks([callback, *others], kept=callback)
    return program


def detach(program: Program) -> Program:
    """Take from *program* the callback that `attach` gave it; one that has none stays as it is.

    Copies of the program keep theirs, and so do programs inside it. A call that is running ends as it began.

    Args:
        program: A `dspy.Module`.

    Returns:
        The program itself.

    Raises:
        TypeError: if *program* is no program.

    Example:
        ```python
        detach(program)
        ```
    """
    _check_program("detach", program)
    if isinstance(program.callbacks, dspy_internals.KeptCallbacks):
        program.callbacks = _detached(program)
    return program


def _check_program(function: str, program: Any) -> None:
    if isinstance(program, type):
        message = f"{function}: program must be an instance of dspy.Module, got the class {program.__name__}"
        raise TypeError(message)
    if not isinstance(program, dspy.Module):
        message = f"{function}: program must be a dspy.Module, got {program!r}"
        raise TypeError(message)


def _detached(program: Any) -> list[Any]:
    """Return a program's own callbacks without the attached one."""
    own = getattr(program, "callbacks", None) or ()
    kept = own.kept if isinstance(own, dspy_internals.KeptCallbacks) else None
    return [each for each in own if each is not kept]
