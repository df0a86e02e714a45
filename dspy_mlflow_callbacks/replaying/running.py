"""`replay`: a stored trace runs again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import dspy
from mlflow.entities import Trace

from dspy_mlflow_callbacks import checks
from dspy_mlflow_callbacks.callbacks import MlflowCallback, TracingCallback
from dspy_mlflow_callbacks.config import TracingConfig
from dspy_mlflow_callbacks.replaying import inputs as recorded_inputs
from dspy_mlflow_callbacks.replaying import programs
from dspy_mlflow_callbacks.replaying.errors import ReplayError
from dspy_mlflow_callbacks.replaying.executing import Heard, run
from dspy_mlflow_callbacks.replaying.listener import Listener
from dspy_mlflow_callbacks.replaying.obstacles import obstacles, other_program
from dspy_mlflow_callbacks.replaying.recorded_lm import recorded_lm
from dspy_mlflow_callbacks.replaying.recording import Recorded, Recording, read
from dspy_mlflow_callbacks.replaying.report import Replay
from dspy_mlflow_callbacks.replaying.results import report
from dspy_mlflow_callbacks.replaying.session import Session
from dspy_mlflow_callbacks.spooled import SpoolSettings

MODES = ("strict", "lenient", "live")
TOOLS = ("recorded", "live")


def replay(
    trace_or_id: Trace | str | Path,
    program: Any = None,
    *,
    mode: Literal["strict", "lenient", "live"] = "strict",
    tools: Literal["recorded", "live"] = "recorded",
    from_span: str | None = None,
    lm: Any = None,
    inputs: Mapping[str, Any] | None = None,
    spool_dir: str | Path | None = None,
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
        spool_dir: The spool in which the trace may still wait for its store; None is that of the program's callback,
            or of `DSPY_MLFLOW_SPOOL_DIR`.

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
    recording = read(trace_or_id, _spool(program, spool_dir))
    fork = None if from_span is None else _fork(recording, from_span)
    found = programs.runnable(recording, program)
    _refuse_obstacles(recording, found.program, mode=mode, tools=tools, has_inputs=inputs is not None, fork=fork)
    arguments = _arguments(recording, found.program, inputs)
    stand_in = recorded_lm(recording, found.lm)
    real = programs.real_lm(found.program, lm, stand_in, found.lm) if mode == "live" else _never
    session = Session(recording, mode=mode, tools=tools, fork=fork, real=real)
    listener = Listener(session)
    heard = Heard(_traced_by(found.program), listener)
    around = {"lm": stand_in, "adapter": found.adapter, "callbacks": heard(dspy.settings.get("callbacks", []))}
    outcome = run(session, heard, programs.copied(found.program), arguments, around)
    return report(session, listener, outcome)


def _check(mode: str, tools: str, from_span: Any, lm: Any, inputs: Any) -> None:
    for name, value, allowed in (("mode", mode, MODES), ("tools", tools, TOOLS)):
        checks.named(f"replay: {name}", checks.one_of(allowed), value)
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


def _spool(program: Any, spool_dir: str | Path | None) -> SpoolSettings | None:
    if spool_dir is not None:
        return TracingConfig(spool_dir=spool_dir).spool()
    callback = _callback_of(program)
    return (TracingConfig.from_env() if callback is None else callback.config).spool()


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


def _traced_by(program: Any) -> MlflowCallback:
    """Return a callback that traces the whole replay, with the settings of the one that traces the program."""
    base = _callback_of(program)
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


def _callback_of(program: Any) -> TracingCallback | None:
    own = [*(getattr(program, "callbacks", None) or ()), *dspy.settings.get("callbacks", [])]
    return next((each for each in own if isinstance(each, TracingCallback)), None)
