"""`replay`: a stored trace runs again."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import dspy
import mlflow
import orjson
from mlflow.entities import Trace

from dspy_mlflow_callbacks import dspy_internals, mlflow_internals
from dspy_mlflow_callbacks.callbacks import MlflowCallback, TracingCallback
from dspy_mlflow_callbacks.config import TracingConfig
from dspy_mlflow_callbacks.describe.payloads import plain_example, to_json
from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.flushing import flush
from dspy_mlflow_callbacks.replaying import inputs as recorded_inputs
from dspy_mlflow_callbacks.replaying import programs
from dspy_mlflow_callbacks.replaying.divergences import Divergence, diff
from dspy_mlflow_callbacks.replaying.errors import ReplayError
from dspy_mlflow_callbacks.replaying.listener import Listener
from dspy_mlflow_callbacks.replaying.marks import agrees
from dspy_mlflow_callbacks.replaying.obstacles import is_below_tool, obstacles, other_program
from dspy_mlflow_callbacks.replaying.recorded_lm import recorded_lm
from dspy_mlflow_callbacks.replaying.recording import Recorded, Recording, read
from dspy_mlflow_callbacks.replaying.report import Replay, Timing
from dspy_mlflow_callbacks.replaying.session import Session
from dspy_mlflow_callbacks.scopes import trace_context

MODES = ("strict", "lenient", "live")
TOOLS = ("recorded", "live")

Outcome = tuple[Any, "BaseException | None"]


def replay(
    trace_or_id: Trace | str | Path,
    program: Any = None,
    *,
    mode: Literal["strict", "lenient", "live"] = "strict",
    tools: Literal["recorded", "live"] = "recorded",
    from_span: str | None = None,
    lm: Any = None,
    inputs: Mapping[str, Any] | None = None,
) -> Replay:
    """Run a program again on the answers of a stored trace: offline, for free, and with the same outcome.

    LM calls are answered from the trace's LM spans, each by where it stands in the program, what it is asked and its
    turn; neither a provider nor DSPy's cache is asked. The program runs as a copy. The replay is a trace of its own,
    tagged `dspy.replay.of` with the id of its origin, and costs nothing.

    Args:
        trace_or_id: The trace: its id in MLflow's store, an `mlflow.entities.Trace`, or the path of a file that holds
            `trace.to_json()`.
        program: The `dspy.Module` that was recorded, perhaps changed since; or a function that calls it, such as
            `dspy.streamify(program)`. None loads the logged model that the trace names.
        mode: `strict` stops where the program first asks for something else than it did, or does something else;
            `lenient` answers with the nearest recording and lists all divergences; `live` calls the real LM from the
            first divergence on, or from *from_span*.
        tools: `recorded` returns what the tools returned, without running them; `live` runs them.
        from_span: With `live`: id or name of the span from which on the LM is real.
        lm: With `live`: the LM that is called; None is the program's own.
        inputs: The program's arguments by name; None is what was recorded.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if an argument is none of those allowed, or does not go with *mode*.
        ReplayError: if the trace cannot be replayed; it says why, for all spans, before anything runs.

    Example:
        ```python
        again = replay("tr-3f0c…", program)
        assert again.is_equal, again.to_markdown()
        ```
    """
    _check(mode, tools, from_span, lm, inputs)
    recording = read(trace_or_id)
    fork = None if from_span is None else _fork(recording, from_span)
    found = programs.runnable(recording, program)
    _refuse_obstacles(recording, found.program, mode=mode, tools=tools, has_inputs=inputs is not None, fork=fork)
    arguments = _arguments(recording, found.program, inputs)
    stand_in = recorded_lm(recording, found.lm)
    real = programs.real_lm(found.program, lm, stand_in, found.lm) if mode == "live" else _never
    session = Session(recording, mode=mode, tools=tools, fork=fork, real=real)
    listener = Listener(session)
    heard = _Heard(_traced_by(found.program), listener)
    around = {"lm": stand_in, "adapter": found.adapter, "callbacks": heard(dspy.settings.get("callbacks", []))}
    outcome = _run(session, heard, programs.copied(found.program), arguments, around)
    return _report(session, listener, outcome)


def _check(mode: str, tools: str, from_span: Any, lm: Any, inputs: Any) -> None:
    for name, value, allowed in (("mode", mode, MODES), ("tools", tools, TOOLS)):
        if value not in allowed:
            message = f"replay: {name} must be one of {', '.join(allowed)}, got {value!r}"
            raise ValueError(message)
    for name, value in (("from_span", from_span), ("lm", lm)):
        if value is not None and mode != "live":
            message = f"replay: {name} goes with mode='live', and the mode is {mode!r}"
            raise ValueError(message)
    if lm is not None and not isinstance(lm, dspy.BaseLM):
        message = f"replay: lm must be a dspy.LM, got {lm!r}"
        raise TypeError(message)
    if inputs is not None and not isinstance(inputs, Mapping):
        message = f"replay: inputs must be a mapping of arguments by name, got {inputs!r}"
        raise TypeError(message)


def _fork(recording: Recording, from_span: str) -> Recorded:
    calls = list(recording.root.calls())
    for call in calls:
        if from_span in (call.span_id, call.path, call.name):
            return call
    names = ", ".join(dict.fromkeys(call.path for call in calls))
    message = f"replay: trace {recording.trace_id} has no span {from_span!r} to go on from; it has {names}"
    raise ValueError(message)


def _never(lm: Any) -> Any:
    raise AssertionError  # pragma: no cover  (only `live` calls an LM)


def _refuse_obstacles(recording: Recording, program: Any, *, mode: str, **said: Any) -> None:
    other = other_program(recording, program, mode)
    reasons = [other] if other else obstacles(recording, program, mode=mode, **said)
    if reasons:
        raise ReplayError(recording.trace_id, reasons)


def _arguments(recording: Recording, program: Any, inputs: Mapping[str, Any] | None) -> recorded_inputs.Arguments:
    if inputs is not None:
        return (), dict(inputs)
    try:
        return recorded_inputs.arguments_of(recording.root, program)
    except recorded_inputs.OtherProgramError as error:
        reason = (
            f"{recording.root.said} was given {error}, which the program given does not take: "
            "give the program that was recorded, or other inputs with inputs=."
        )
        raise ReplayError(recording.trace_id, [reason]) from error


@attrs.frozen
class _Heard:
    """Says who hears the calls of a replay: those that would anyway, but for who traces them, and the replay's own."""

    tracing: MlflowCallback
    listener: Listener

    def __call__(self, callbacks: Iterable[Any]) -> Iterable[Any]:
        if self.listener in callbacks:
            return callbacks
        others = [each for each in callbacks if not isinstance(each, TracingCallback)]
        return [*others, self.tracing, self.listener]


def _traced_by(program: Any) -> MlflowCallback:
    """Return a callback that traces the whole replay, with the settings of the one that traces the program."""
    own = [*(getattr(program, "callbacks", None) or ()), *dspy.settings.get("callbacks", [])]
    base = next((each for each in own if isinstance(each, TracingCallback)), None)
    base = MlflowCallback(config=TracingConfig.from_env(enabled=True)) if base is None else base
    return base.alike(
        MlflowCallback,
        enabled=True,
        sampling_ratio=1.0,
        sampling_rules=(),
        tail_sampler=None,
        level="debug",
        events=None,
        include=(),
        exclude=(),
    )


def _run(
    session: Session,
    heard: _Heard,
    program: Any,
    arguments: recorded_inputs.Arguments,
    settings: dict[str, Any],
) -> Outcome:
    """Return what the program returned and what it raised."""
    args, kwargs = arguments
    tags = {"dspy.replay.of": session.recording.trace_id}
    call = program.acall if programs.is_async(program) else program

    def run() -> Outcome:
        mlflow_internals.leave_spans()
        with trace_context(tags=tags, enabled=True), dspy_internals.directed(session, heard, **settings):
            try:
                return _settled(call(*args, **kwargs)), None
            except BaseException as error:  # noqa: BLE001  (also what is recorded: an interrupt, a cancellation)
                return None, None if session.stopped else error

    context = contextvars.copy_context()
    return _outside_loops(lambda: context.run(run))


def _outside_loops(function: Callable[[], Outcome]) -> Outcome:
    """Run *function* where no event loop runs, so that it may start one: in a notebook, in a thread of its own."""
    if not _is_in_loop():
        return function()
    results: list[Outcome] = []
    thread = threading.Thread(target=lambda: results.append(function()), name="dspy-mlflow-replay")
    thread.start()
    thread.join()
    return results[0]


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _settled(result: Any) -> Any:
    """Return what a program comes to: what a coroutine returns; of a stream the prediction at its end, or all of it."""
    if inspect.isasyncgen(result):
        result = asyncio.run(_read(result))
    elif inspect.isgenerator(result):
        result = list(result)
    elif inspect.iscoroutine(result):
        return asyncio.run(result)
    else:
        return result
    return result[-1] if result and isinstance(result[-1], dspy.Prediction) else result


async def _read(stream: Any) -> list[Any]:
    return [item async for item in stream]


def _report(session: Session, listener: Listener, outcome: Outcome) -> Replay:
    outputs, error = outcome
    root = session.recording.root
    if session.stopped is None:
        session.finish([*_missing(session), *_outcome(root, outputs, error)])
    flush()
    return Replay(
        of=session.recording.trace_id,
        mode=session.mode,
        outputs=outputs,
        error=error,
        stopped=session.stopped,
        trace=None if listener.trace_id is None else mlflow.get_trace(listener.trace_id, silent=True),
        divergences=tuple(session.divergences),
        timings=tuple(
            Timing(
                span=call.path,
                span_id=call.span_id,
                recorded_s=call.duration_s,
                replayed_s=listener.seconds.get(call.span_id),
            )
            for call in root.calls()
        ),
    )


def _missing(session: Session) -> Iterator[Divergence]:
    """Yield the recorded calls that the program did not make; after a fork it makes its own."""
    for call in [] if session.is_live else session.matching.left():
        is_asked = call.kind in (CallKind.LM, CallKind.TOOL) and not (
            session.tools == "recorded" and is_below_tool(call)
        )
        if is_asked:
            gone = diff(call.inputs, None)
            yield Divergence(kind="missing", span=call.path, span_id=call.span_id, field="call", diff=gone)


def _outcome(root: Recorded, outputs: Any, error: BaseException | None) -> Iterator[Divergence]:
    before = None if root.error is None else f"{root.error[0]}: {root.error[1]}"
    after = None if error is None else f"{type(error).__name__}: {error}"
    if not agrees(before, after):
        yield Divergence(
            kind="error", span=root.name, span_id=root.span_id, field="exception", diff=diff(before, after)
        )
    elif error is None and root.outputs is not None:
        returned = orjson.loads(to_json(plain_example(outputs)))
        if not agrees(root.outputs, returned):
            yield Divergence(
                kind="outputs",
                span=root.name,
                span_id=root.span_id,
                field="outputs",
                diff=diff(root.outputs, returned),
            )
