"""The public API as a user writes it. Never run, only type-checked.

A line with `type: ignore` is wrong on purpose: mypy must report it, or says that the comment is not needed.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import attrs

from dspy_mlflow_callbacks import (
    CallEnd,
    CallKind,
    CallStart,
    CheckFailedError,
    Diagnosis,
    Divergence,
    EndedTrace,
    EvaluatedExample,
    Finding,
    KindFilter,
    LevelFilter,
    LMCallback,
    Middleware,
    MlflowCallback,
    ModuleCallback,
    NameFilter,
    OptimizerRun,
    Payload,
    PayloadLimit,
    PayloadStep,
    RatioSampler,
    Redactor,
    Replay,
    Result,
    Results,
    RuleSampler,
    SamplingRule,
    Stats,
    TagInjector,
    TailSampler,
    Timing,
    TraceASGIMiddleware,
    TraceComparison,
    TracedThreadPoolExecutor,
    TraceReport,
    TraceWSGIMiddleware,
    TracingConfig,
    TrialResult,
    VersionComparison,
    autolog,
    compare_traces,
    compare_versions,
    continue_trace,
    diagnose,
    flush,
    inject_headers,
    load_model,
    load_program,
    log_model,
    optimizer_runs,
    program_fingerprint,
    propagate,
    replay,
    run,
    save_model,
    save_program,
    suppress_tracing,
    trace_client,
    trace_context,
    trace_report,
)


def only_modules(call: CallStart) -> CallStart | None:
    """Keep modules."""
    return call if call.kind is CallKind.MODULE else None


@attrs.frozen
class Renamer:
    """Give spans a prefix."""

    prefix: str

    def __call__(self, call: CallStart) -> CallStart:
        """Name the span after the class."""
        return attrs.evolve(call, name=f"{self.prefix}{type(call.instance).__name__}")

    def on_end(self, end: CallEnd) -> CallEnd:
        """Say whether the call went well."""
        return attrs.evolve(end, attributes={"well": end.exception is None})


steps: list[Middleware] = [RatioSampler(0.1), TagInjector({"team": "search"}), only_modules, Renamer("my ")]
callback = MlflowCallback(middleware=steps)
some = [ModuleCallback(), LMCallback(middleware=(lambda call: call,))]
stats: Stats = callback.stats()
counts: tuple[int, ...] = (stats.started, stats.stored, stats.lost, stats.queued, stats.bytes)


def tenant(call: CallStart) -> str | None:
    """Say whom the call is for."""
    return call.name


def without_greetings(payload: Payload) -> Payload:
    """Leave out greetings."""
    return payload.with_text(payload.text.replace("hello", ""))


def slow(trace: EndedTrace) -> bool:
    """Keep what is slow, dear or marked."""
    return trace.duration_s > 1 or trace.cost_usd > 1 or trace.tokens > 1 or trace.tags.get("keep") == trace.name


tail_sampler = TailSampler(
    keep_errors=True, min_duration_s=5, min_cost_usd=0.5, min_tokens=1000, keep=slow, background_ratio=0.01
)
is_stored: bool = flush() and flush(timeout=1) and callback.flush(0.5)

options = MlflowCallback(
    enabled=True,
    experiment="questions",
    sampling_ratio=0.5,
    sampling_rules=[SamplingRule(name="Search*", ratio=0.1), {"tags": {"team": "s*"}, "max_per_second": 5}],
    tags={"team": "search", "tenant": tenant},
    metadata={"build": "7"},
    session_id=lambda call: call.call_id,
    user="ada",
    level="info",
    events=["lm", CallKind.TOOL],
    include=("Program.*",),
    exclude={"Program.secret"},
    capture_inputs=False,
    capture_outputs=False,
    capture_messages=False,
    max_payload_chars=10_000,
    redact=True,
    redact_keys=["pin"],
    redact_patterns=["[0-9]{16}"],
    redact_fields=["ssn"],
    evaluate=False,
    compile="summary",
    engine="recorded",
    tail_sampler=tail_sampler,
    max_queue_traces=1000,
    max_queue_bytes=1_000_000,
    on_full="drop",
    max_block_s=0.5,
    exit_timeout_s=5,
    max_open_s=60,
    max_silent_s=3600,
    spool_dir=Path("spool"),
    max_spool_bytes=1_000_000,
    max_spool_age_s=3600,
    durable="fsync",
    verbosity="error",
)
config = TracingConfig(events=["lm"], sampling_rules=[{"ratio": 0.5}], tags={"team": "search"})
config = TracingConfig.from_env({"DSPY_MLFLOW_LEVEL": "info"}, include=["Program"], user=None)
config = TracingConfig.from_dict(config.with_options(level="debug", experiment=None).to_dict())
ratio: float = config.sampling_ratio
rules: tuple[SamplingRule, ...] = config.sampling_rules
name: str | None = config.experiment
callback = MlflowCallback(config=config, level="info")
callback = MlflowCallback(evaluate="nested")
evaluated = EvaluatedExample(example={}, index=0, evaluation_id="tr-1", fingerprint=None, metric="exact")
place: int | None = evaluated.index

filters: list[Middleware] = [
    *config.middleware(),
    KindFilter(["lm"], exclude=[CallKind.EVALUATE]),
    NameFilter(include=["Program.*"]),
    LevelFilter("info"),
    RuleSampler([SamplingRule(ratio=0.1)], default_ratio=0.5),
]
payload_steps: list[PayloadStep] = [
    *config.payload_steps(),
    Redactor(keys=["pin"], patterns=["[0-9]{16}"], fields=["ssn"]),
    without_greetings,
    PayloadLimit(10_000),
]
callback = MlflowCallback(middleware=filters, payload_steps=payload_steps)

MlflowCallback(engine="auto", tail_sampler={"min_tokens": 1000})
TailSampler(keep=only_modules)  # type: ignore[arg-type]
MlflowCallback(level=7)  # type: ignore[arg-type]
MlflowCallback(levle="info")  # type: ignore[call-arg]
TracingConfig(events="lm", enabled="yes")  # type: ignore[arg-type]


@trace_context(session_id="seven", tags={"team": "search"})
def answer(question: str) -> str:
    """Answer in a scope."""
    with suppress_tracing():
        return question


async def answer_later(question: str) -> str:
    """Answer in a scope."""
    async with trace_context(user="ann", enabled=True):
        return answer(question)


autolog(True, log_evals=True, sampling_ratio=0.1, middleware=filters, config=config)
autolog(disable=True)
autolog(sampling_rato=0.1)  # type: ignore[call-arg]

again: Replay = replay(
    "tr-1",
    answer,
    mode="live",
    tools="live",
    from_span="Program.answer",
    lm=None,
    inputs={"question": "?"},
    spool_dir="spool",
)
kinds: list[str] = [divergence.kind + divergence.diff for divergence in again.divergences]
seconds: list[float | None] = [timing.recorded_s for timing in again.timings if isinstance(timing, Timing)]
report: str = again.to_markdown() if again.is_equal else str(again.to_dict())
first: Divergence = again.divergences[0]
replay(Path("trace.json"), mode="exact")  # type: ignore[arg-type]


def saving(program: Any) -> None:
    save_program(program, "program", config=TracingConfig(level="info"))
    load_program("program", allow_pickle=True)
    fingerprint: str = program_fingerprint(program)
    save_model(program, fingerprint, use_dspy_model_save=True)
    log_model(program, name="answers")
    load_model("models:/answers/1")


traces: TraceComparison = compare_traces("tr-1", "tr-2")
versions: VersionComparison = compare_versions("v1", "v2", by="tag:version", experiments=["questions"], resamples=0)
try:
    versions.check(max_cost_increase=0.1, max_latency_increase=0.2, min_score={"quality": 0.8})
    traces.check(min_score=0.5, allow_structure_change=True)
except CheckFailedError as failed:
    reasons: list[str] = [each.reason for each in failed.checks.failed]
comparison_report: list[str] = [versions.to_markdown(), traces.to_html(), traces.spans[0].name]
compare_versions("v1", "v2", resamples=None)  # type: ignore[arg-type]

diagnosis: Diagnosis = diagnose(answer, timeout_s=5)
problems: tuple[Finding, ...] = diagnosis.problems
remedies: list[str] = [each.remedy for each in problems] if not diagnosis.is_healthy else [str(diagnosis.to_dict())]
optimized: list[OptimizerRun] = optimizer_runs(["tr-1", "tr-2"])
tried: list[TrialResult] = [trial for run in optimized for trial in (*run.trials, run.best) if trial is not None]
spent: list[float | None] = [trial.cost_usd for trial in tried]

headers: dict[str, str] = inject_headers()
same: dict[str, str] = inject_headers({"mine": "1"})
with continue_trace(headers, allow=["trace", "session"]):
    pass
with continue_trace([(b"traceparent", b"...")]):
    pass


@continue_trace(headers)
def continued(question: str) -> int:
    """Keep its type."""
    return len(question)


length: int = continued("why?")
length = propagate(continued)("why?")
continued(5)  # type: ignore[arg-type]
with TracedThreadPoolExecutor(max_workers=2) as pool:
    length = pool.submit(continued, "why?").result()
    lengths: list[int] = list(pool.map(continued, ["why?", "how?"]))

to_run: Any = None  # a dspy.Module: DSPy has no types
many: Results = run(to_run, [{"question": "why?"}], on="asyncio", max_workers=2, progress="always", timeout=1.5)
for one in many:
    one_result: Result = one
    failure: BaseException | None = one.error
    pages: list[str | None] = [one.trace_id, one.url]
cost_so_far: float | None = many.counts.cost
done_results: list[Result] = many.done + many.all() + many.errors
with run(to_run, iter([("why?",)]), on=ProcessPoolExecutor(), input_id=str, resume=True) as many:
    number_done: int = many.counts.done
run(to_run, [], on="moon")  # type: ignore[arg-type]
run(to_run, [], on_error="cry")  # type: ignore[arg-type]
run(to_run, 3)  # type: ignore[arg-type]


async def read_many() -> list[Result]:
    """Read results in a running loop."""
    return [each async for each in run(to_run, [])]


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer with nothing."""
    return []


TraceWSGIMiddleware(wsgi, allow=["trace"])


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Answer with nothing."""


TraceASGIMiddleware(asgi)
session: object = trace_client(object(), hosts=["*.internal"])

reported: TraceReport = trace_report(experiments=["questions"], since="7d", by="model", stats=callback.stats())
reported.save("report.html")
