"""A program over many inputs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Executor
from typing import Any, Literal

from opentelemetry.trace import INVALID_SPAN

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.describe.signatures import FINGERPRINT, program_fingerprint
from dspy_mlflow_callbacks.distributed.sending import experiment_id
from dspy_mlflow_callbacks.distributed.threads import Carried
from dspy_mlflow_callbacks.events import EMPTY
from dspy_mlflow_callbacks.executor.conduct import Conduct
from dspy_mlflow_callbacks.executor.engines import place_on
from dspy_mlflow_callbacks.executor.inputs import arguments_of, id_of
from dspy_mlflow_callbacks.executor.options import Options
from dspy_mlflow_callbacks.executor.outcome import Call, Outcome
from dspy_mlflow_callbacks.executor.pages import Pages
from dspy_mlflow_callbacks.executor.progress import bar
from dspy_mlflow_callbacks.executor.results import Results
from dspy_mlflow_callbacks.executor.root import Root
from dspy_mlflow_callbacks.executor.stored import stored_inputs
from dspy_mlflow_callbacks.executor.window import Slot, Window
from dspy_mlflow_callbacks.executor.work import NAME, Work

On = Literal["threads", "asyncio", "processes", "ray", "dask", "spark"]


def run(
    program: Any,
    inputs: Iterable[Any],
    *,
    on: On | Executor = "threads",
    max_workers: int | None = None,
    trace: Literal["each", "one"] = "each",
    on_error: Literal["raise", "keep", "skip"] = "raise",
    retries: int = 0,
    timeout: float | None = None,
    progress: bool | Literal["always"] = True,
    name: str | None = None,
    resume: bool = False,
    input_id: Callable[[Any], object] | None = None,
    window: int | None = None,
) -> Results:
    """Run a program over many inputs, traced, in parallel, and return the results in order as they come.

    Args:
        program: A `dspy.Module`.
        inputs: Mappings of arguments by name, `dspy.Example`s with their inputs, or tuples of positional arguments; any
            iterable, also one without an end: it is read in the caller's thread, as far as *window* reaches.
        on: Where: `threads`, `asyncio` (`acall`, in a loop of its own), `processes` (begun with `spawn`), `ray`,
            `dask`, `spark` (each an extra of this package), or an executor of `concurrent.futures` whose workers are
            other processes; that one is left open.
        max_workers: How many inputs are worked on at once; None is DSPy's `num_threads`, as many as the engine runs
            tasks at once when the run begins, or one for each core where it is other processes.
        trace: `each` gives each attempt at an input a trace of its own, all with the tag `dspy.run.name`; `one` is one
            trace for all of them, which is kept in memory until it ends: for some thousand inputs, or some hundred
            where workers are other processes, each of which makes MLflow add the tokens up again. Inside a program
            that is traced, the inputs are part of its trace either way.
        on_error: What an input that fails does: `raise` stops the run at the first one in order and raises its error;
            `keep` gives a result with the error in its place; `skip` leaves it out, and counts it.
        retries: How many attempts may follow an input's first one when it raises. Each is a call of its own, and its
            span says which one it is.
        timeout: The most seconds for an input, all its attempts together; then its error is an `InputTimeoutError`.
            With `asyncio` the call is cancelled. A thread cannot be stopped in mid-call, here or in another process: it
            goes on until its call ends or its process does, and another thread takes its place.
        progress: Whether a progress bar shows rate, errors, tokens and cost on standard error where that is a terminal;
            `always` elsewhere too.
        name: The run's name; None makes a new one.
        resume: Whether inputs are left out for which MLflow has a trace that went well, by the id of the input and the
            program's fingerprint: of the run with this *name*, or without one of any run. Their results are in their
            place, and read their prediction from that trace. Needs `trace="each"`.
        input_id: Returns the id of an input; None is a digest of its arguments.
        window: The most inputs that are under way, or done and not handed out; None is four for each worker.

    Returns:
        An iterator over `Result`s.

    Raises:
        TypeError: if *program* is no program, or an option is of another type.
        ValueError: if an option is out of range.
        ImportError: if the engine of *on* is not installed.

    Example:
        ```python
        for result in run(program, ({"question": each} for each in questions), max_workers=16, on_error="keep"):
            print(result.input_id, result.url, result.error or result.prediction)
        ```
    """
    options = Options(
        program=program,
        inputs=inputs,
        on=on,
        max_workers=max_workers,
        trace=trace,
        on_error=on_error,
        retries=retries,
        timeout=timeout,
        progress=progress,
        name=name,
        resume=resume,
        input_id=input_id,
        window=window,
    )
    return _begun(options)


def _begun(options: Options) -> Results:
    fingerprint = program_fingerprint(options.program)
    experiment = experiment_id(options.program.callbacks)
    name = options.name or uuid.uuid4().hex[:16]
    known = stored_inputs(options.name, fingerprint, experiment) if options.resume else EMPTY
    root = _root(options, name, fingerprint) if options.trace == "one" else None
    work = Work(
        program=options.program,
        name=name,
        tags=None if root is not None or _is_inside() else {FINGERPRINT: fingerprint},
        retries=options.retries,
        timeout=None if options.on == "threads" else options.timeout,
    )
    context = Carried("run") if root is None or root.context is None else root.context
    place, workers = place_on(options.on, work, context, options.max_workers)
    conduct = Conduct(
        name=name,
        on_error=options.on_error,
        size=options.window or 4 * workers,
        window=Window(
            place,
            max_workers=workers,
            retries=options.retries,
            timeout=options.timeout if options.on == "threads" else None,
        ),
        place=place,
        root=root,
        pages=Pages.of(experiment),
        bar=bar(options.progress, len(options.inputs) if isinstance(options.inputs, Sized) else None),
    )
    return Results(conduct, _slots(options, known))


def _root(options: Options, name: str, fingerprint: str) -> Root:
    on = options.on if isinstance(options.on, str) else type(options.on).__name__
    said = {"program": type(options.program).__name__, "on": on}
    return Root(said, {NAME: name} if _is_inside() else {NAME: name, FINGERPRINT: fingerprint})


def _is_inside() -> bool:
    """Return whether something is around that what runs here is part of."""
    return dspy_internals.active_call_id() is not None or internals.tracer().current_span() is not INVALID_SPAN


def _slots(options: Options, known: Mapping[str, str]) -> Iterator[Slot]:
    for index, given in enumerate(options.inputs):
        arguments = arguments_of(given)
        call = Call(id_of(given, arguments, options.input_id), *arguments)
        trace_id = known.get(call.input_id)
        stored = None if trace_id is None else Outcome(trace_ids=(trace_id,))
        yield Slot(index, given, call, stored)
