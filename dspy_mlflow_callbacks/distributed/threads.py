"""Threads of the user's own: what runs in them is part of the trace that handed them their work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from typing_extensions import ParamSpec

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.scoped import Scoped
from dspy_mlflow_callbacks.stats import WarnOnce

Function = TypeVar("Function", bound=Callable[..., Any])
Params = ParamSpec("Params")
Result = TypeVar("Result")

_WARN = WarnOnce()


def propagate(function: Function) -> Function:
    """Return *function* so that it runs in DSPy's and MLflow's context of now, in whatever thread it is called.

    What it calls is part of the trace that runs here, below the call in which `propagate` was called, also when that
    has ended by then; and `dspy.context`, `trace_context`, `suppress_tracing` and the MLflow run around this hold in
    it. Call it where the work is handed over; the result may be called often, and in many threads at once. DSPy's own
    threads (`dspy.Parallel`, `batch`, `dspy.Evaluate`) need none of it, and `asyncio.to_thread` only for the run.

    Args:
        function: A function, a coroutine function, or a generator function, sync or async.

    Raises:
        TypeError: if *function* is no function, or a class.

    Example:
        ```python
        thread = threading.Thread(target=propagate(program), kwargs={"question": "why?"})
        joblib.Parallel(4, backend="threading")(joblib.delayed(propagate(program))(question=each) for each in questions)
        ```
    """
    return Carried("propagate")(function)


class TracedThreadPoolExecutor(ThreadPoolExecutor):
    """A `concurrent.futures.ThreadPoolExecutor` whose work is part of the trace in which it is submitted.

    Each `submit`, and so each `map`, does what `propagate` does. A trace whose root ends before its work does is stored
    at once, and the rest follows as it ends.

    Example:
        ```python
        with TracedThreadPoolExecutor(max_workers=8) as pool:
            answers = list(pool.map(lambda question: program(question=question), questions))
        ```
    """

    def submit(self, fn: Callable[Params, Result], /, *args: Params.args, **kwargs: Params.kwargs) -> Future[Result]:
        """Schedule *fn* to run in the context of now; see `concurrent.futures.Executor.submit`."""
        return super().submit(Carried("submit").run, fn, *args, **kwargs)


class Carried(Scoped):
    """DSPy's and MLflow's context of now, as a scope that holds in any thread.

    Args:
        called: What a message calls it.
    """

    def __init__(self, called: str) -> None:
        super().__init__()
        self.called = called
        self._parts: tuple[Any, ...] = ()
        try:
            self._parts = (dspy_internals.CarriedCalls(), internals.CarriedContext())
        except Exception as error:  # noqa: BLE001  (the program's own work: it must be handed over)
            _WARN(type(error), f"A thread's work is not part of the trace that handed it over: {error!r}", error)

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call anything that can be called in the context."""
        opened = self._begun()
        try:
            result = function(*args, **kwargs)
        finally:
            opened.close()
        return self._in_scope(result)

    def _begun(self) -> _Opened:
        return _Opened([part.open() for part in self._parts])


class _Opened:
    """The context, while it holds in a thread."""

    def __init__(self, parts: list[Any]) -> None:
        self._parts = parts

    def close(self) -> None:
        for part in reversed(self._parts):
            part.close()
