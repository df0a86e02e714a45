"""docs/troubleshooting.md: each symptom is there to be seen, and each remedy mends it."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import contextvars
import dataclasses
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dspy
import litellm
import mlflow
import pytest
from docs_blocks import Page, blocks_that_run
from openai_server import backends, chat, choice, stream
from programs import PROGRAM_SPANS, Calling, Program, answering

import dspy_mlflow_callbacks
from dspy_mlflow_callbacks import (
    MlflowCallback,
    Redactor,
    SamplingRule,
    TailSampler,
    autolog,
    detach,
    suppress_tracing,
    trace_context,
)
from dspy_mlflow_callbacks.testing.captured import tree

PAGE = Page("docs/troubleshooting.md")
PACKAGE = Path(dspy_mlflow_callbacks.__file__).parent

ANSWER = "[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"
TOKENS = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}

pytestmark = pytest.mark.usefixtures("own_folder")


def traced(callback: MlflowCallback, program: dspy.Module | None = None) -> MlflowCallback:
    """Call a program once with *callback* in DSPy's settings."""
    dspy.configure(lm=answering(), callbacks=[callback])
    (program or Program())(question="why?")
    return callback


def counts(callback: MlflowCallback) -> str:
    """Return which of a callback's counts are not 0."""
    stats = callback.stats()
    return ", ".join(name for name in ("started", "ended", "dropped", "failed", "lost", "open") if getattr(stats, name))


def causes(heading: str) -> list[str]:
    """Return the first cells of the table below a heading."""
    section = PAGE.text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]]


def test_the_diagnosis(dspy_traces, capsys):
    """What the page prints first names the callback, and that nothing is wrong."""
    traced(MlflowCallback())
    PAGE.run("diagnose(program)", dspy_mlflow_callbacks=dspy_mlflow_callbacks, program=Program())
    printed = capsys.readouterr().out
    assert "MlflowCallback(" in printed
    assert "problem " not in printed


# The page as a whole


def test_each_block_is_run():
    """No code block of the page is left out of these tests."""
    unrun = [block for block in PAGE.blocks() if not any(text in block for text in blocks_that_run(__file__))]
    assert unrun == []


# Look here first


@pytest.mark.engine("auto")  # no variable is set
def test_the_first_look(dspy_traces, capsys):
    """The first block prints the callbacks with their options, what was counted, and where traces go."""
    callback = traced(MlflowCallback(level="info"))
    PAGE.run("print(callback.stats())", dspy=dspy, mlflow=mlflow, callback=callback)
    assert capsys.readouterr().out.splitlines() == [
        "[MlflowCallback(level='info')]",
        str(callback.stats()),
        f"{mlflow.get_tracking_uri()} MLflow's active experiment",
    ]


def fails(call):
    raise RuntimeError


@pytest.mark.warns
@pytest.mark.parametrize(
    ("callback", "counted"),
    [
        (lambda: MlflowCallback(enabled=False), ""),
        (lambda: MlflowCallback(events=["tool"]), ""),
        (lambda: MlflowCallback(sampling_ratio=0.0), "dropped"),
        (MlflowCallback, "started, ended"),
        (lambda: MlflowCallback(middleware=[fails]), "failed"),
    ],
)
def test_what_the_counts_mean(dspy_traces, callback, counted):
    """What was counted tells an unheard call from a dropped one, a recorded one and a lost one."""
    assert counts(traced(callback())) == counted


def test_a_call_that_has_not_ended_is_open(dspy_traces):
    """A call counts as open until it ends."""
    callback = MlflowCallback()
    during = []
    dspy.configure(lm=answering(), callbacks=[callback])
    Calling(lambda: during.append(counts(callback)))()
    assert [*during, counts(callback)] == ["started, open", "started, ended"]


# No traces


@contextlib.contextmanager
def nothing_configured():
    dspy.configure(lm=answering(), callbacks=[])
    Program()(question="why?")
    assert dspy.settings.callbacks == []
    yield
    traced(MlflowCallback())


@contextlib.contextmanager
def replaced():
    callback = MlflowCallback()
    dspy.configure(lm=answering(), callbacks=[callback])
    dspy.configure(callbacks=[])
    Program()(question="why?")
    assert callback not in dspy.settings.callbacks
    yield
    PAGE.run("another = ", dspy=dspy)
    Program()(question="why?")


@contextlib.contextmanager
def switched_off():
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DSPY_MLFLOW_ENABLED", "false")
        assert not traced(MlflowCallback()).config.enabled
        yield
        traced(MlflowCallback(enabled=True))


@contextlib.contextmanager
def a_callback_of_its_own():
    program = dspy_mlflow_callbacks.attach(Program(), MlflowCallback(sampling_ratio=0.0))
    callback = traced(MlflowCallback(), program)
    assert program.callbacks
    assert (counts(callback), counts(program.callbacks[0])) == ("", "dropped")
    yield
    program(question="why?")
    traced(callback, detach(program))


@contextlib.contextmanager
def sampled_out():
    for options in ({"sampling_ratio": 0.0}, {"sampling_rules": [SamplingRule(ratio=0.0)]}):
        callback = traced(MlflowCallback(**options))
        assert counts(callback) == "dropped"
        assert next(iter(options)) in repr(callback)
    yield
    traced(MlflowCallback(sampling_ratio=1.0))


@contextlib.contextmanager
def left_out_by_the_tail_sampler():
    callback = traced(MlflowCallback(tail_sampler=TailSampler()))
    assert callback.flush()
    assert counts(callback) == "started, ended, dropped"
    assert "tail_sampler" in repr(callback)
    yield
    traced(MlflowCallback(tail_sampler=TailSampler(background_ratio=1.0)))


@contextlib.contextmanager
def a_callers_decision():
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with mlflow.tracing.set_tracing_context_from_http_request_headers({"traceparent": f"00-{trace_id}-{span_id}-00"}):
        assert counts(traced(MlflowCallback())) == "dropped"
    yield
    traced(MlflowCallback())


@contextlib.contextmanager
def a_scope():
    for scope in (suppress_tracing(), trace_context(enabled=False), mlflow.tracing.context(enabled=False)):
        with scope:
            assert counts(traced(MlflowCallback())) == "dropped"
    yield
    with suppress_tracing(), trace_context(enabled=True):
        traced(MlflowCallback())


@contextlib.contextmanager
def mlflow_is_off():
    mlflow.tracing.disable()
    assert counts(traced(MlflowCallback())) == "dropped"
    yield
    mlflow.tracing.enable()
    traced(MlflowCallback())


@contextlib.contextmanager
def filters():
    for options in ({"events": ["tool"]}, {"include": ["Other*"]}, {"exclude": ["Program"]}, {"level": "error"}):
        callback = traced(MlflowCallback(**options))
        assert next(iter(options)) in repr(callback)
        assert not callback.stats().started
    yield
    traced(MlflowCallback())


CAUSES = {
    "the callback is not configured": nothing_configured,
    "a later `dspy.configure(callbacks=[...])` replaced it": replaced,
    "it is switched off": switched_off,
    "the program has a callback of its own": a_callback_of_its_own,
    "sampled out": sampled_out,
    "the tail sampler left it out": left_out_by_the_tail_sampler,
    "a caller's decision": a_callers_decision,
    "a scope": a_scope,
    "MLflow's tracing is off": mlflow_is_off,
    "filters": filters,
}
# Which have tests of their own, below.
STORE_CAUSES = [
    "another store",
    "another experiment",
    "the process ended before they were stored",
    "they wait in the spool",
    "the store cannot be reached",
]


def test_each_cause_is_shown():
    """Each cause in the table has its test."""
    assert sorted(causes("No traces")) == sorted([*CAUSES, *STORE_CAUSES])


@pytest.mark.parametrize(
    "cause",
    [
        # The native engine has no tail sampler.
        pytest.param(cause, id=name, marks=[pytest.mark.engine("auto")] if "tail sampler" in name else [])
        for name, cause in CAUSES.items()
    ],
)
def test_no_traces(dspy_traces, cause):
    """The cause stores no trace and shows as the page says; its remedy stores one."""
    with cause():
        assert dspy_traces.all() == []
    assert len(dspy_traces.all()) == 1


def test_mlflows_own_ratio(dspy_traces, monkeypatch):
    """MLflow's own sampling counts as dropped, until its variable is unset."""
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0")
    mlflow.tracing.reset()
    assert counts(traced(MlflowCallback())) == "dropped"
    monkeypatch.delenv("MLFLOW_TRACE_SAMPLING_RATIO")
    mlflow.tracing.reset()
    assert counts(traced(MlflowCallback())) == "started, ended"


def test_autolog_does_not_depend_on_what_is_configured(dspy_traces):
    """Tracing that `autolog` began goes on when a program configures no callbacks."""
    dspy.configure(lm=answering())
    PAGE.run("autolog()", dspy=dspy)
    try:
        Program()(question="why?")
    finally:
        autolog(disable=True)
    assert dspy.settings.callbacks == []
    assert len(dspy_traces.all()) == 1


def test_another_experiment(dspy_traces, capsys):
    """A trace that is not where one looks is found where it went to, and goes where the option says."""
    other = mlflow.create_experiment(f"other {dspy_traces.experiment_id}", artifact_location=Path.cwd().as_uri())
    traced(MlflowCallback(experiment=other))
    assert dspy_traces.all() == []
    PAGE.run("mlflow.search_experiments()", mlflow=mlflow)
    lines = capsys.readouterr().out.splitlines()
    assert f"{other} other {dspy_traces.experiment_id} has traces" in lines
    (looked_at,) = [line for line in lines if line.startswith(f"{dspy_traces.experiment_id} ")]
    assert looked_at.endswith(" is empty")
    traced(MlflowCallback(experiment=dspy_traces.experiment_id))
    assert len(dspy_traces.all()) == 1


PROCESS = """
import dspy, mlflow
from dspy.utils.dummies import DummyLM
from dspy_mlflow_callbacks import MlflowCallback
dspy.configure(lm=DummyLM([{{"answer": "42"}}] * 3), callbacks=[MlflowCallback()])
program = dspy.Predict("question -> answer")
{block}
"""


def run_process(block: str, **environment: str):
    """Run a block of the page in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", PROCESS.format(block=block)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


# The store is open, and its database takes no more writes until the process has ended.
LOCKED = """
import sqlite3
from dspy_mlflow_callbacks import flush
program(question="first")
flush()
database = sqlite3.connect(mlflow.get_tracking_uri().removeprefix("sqlite:///"))
database.execute("BEGIN IMMEDIATE")
"""


def test_a_process_that_ends_at_once(dspy_traces):
    """What a process leaves by `os._exit` is not stored, unless it waits for it."""
    waits = PAGE.block("os._exit(0)")
    leaves = waits.replace("flush()\n", "")
    assert leaves != waits
    store = {
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        "MLFLOW_EXPERIMENT_ID": dspy_traces.experiment_id,
        "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "true",
    }
    with ThreadPoolExecutor() as pool:  # one waits for the other's disk, not for its processor
        ended = list(pool.map(lambda block: run_process(block, **store), (LOCKED + leaves, waits)))
    assert [(done.stdout, done.returncode) for done in ended] == [("42\n", 0)] * 2
    questions = [trace.data.spans[0].inputs["question"] for trace in dspy_traces.all()]
    assert sorted(questions) == ["Why is the sky blue?", "first"]


MOVES = """
from dspy_mlflow_callbacks import flush
store = mlflow.get_tracking_uri()
mlflow.set_tracking_uri("{uri}")
program(question="why?")
flush(timeout=3)
mlflow.set_tracking_uri(store)
mlflow.set_experiment(experiment_id="{experiment_id}")
print(program(question="why?").answer)
flush(timeout=3)
"""


def test_a_store_that_cannot_be_reached_and_another_store(dspy_traces):
    """A store that is away is named with its reason; the program goes on, and traces go to the store that is set."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"  # nothing listens there
        environment = {
            "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "DSPY_MLFLOW_EXIT_TIMEOUT_S": "1",
        }
        done = run_process(MOVES.format(uri=uri, experiment_id=dspy_traces.experiment_id), **environment)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if "Traces are not stored in" in line]
    assert f"Traces are not stored in {uri}: " in warning
    assert len(dspy_traces.all()) == 1


# Doubled traces


def test_two_callbacks_record_once(dspy_traces):
    """Of two callbacks the first records."""
    first, second = MlflowCallback(), MlflowCallback()
    dspy.configure(lm=answering(), callbacks=[first, second])
    Program()(question="why?")
    assert (counts(first), counts(second)) == ("started, ended", "")
    assert len(dspy_traces.all()) == 1


@pytest.mark.warns
def test_beside_mlflows_autolog(dspy_traces, warned):
    """Beside MLflow's autolog each call is stored once, and one warning says who records; without it there is none."""
    with dspy.context(lm=answering()):
        Program()(question="why?")
        alone = dspy_traces.tree()
        mlflow.dspy.autolog(silent=True)
        try:
            Program()(question="why?")
        finally:
            mlflow.dspy.autolog(disable=True, silent=True)
        Program()(question="why?")
    assert [tree(trace) for trace in dspy_traces.all()] == [alone] * 3
    assert len([message for message in warned.messages if "mlflow.dspy.autolog() is on" in message]) <= 1


@pytest.fixture
def _litellms_callbacks(monkeypatch):
    """Put LiteLLM's lists of callbacks back: MLflow's autolog leaves itself in some of them when it is switched off."""
    for name, callbacks in vars(litellm).items():
        if "callback" in name and isinstance(callbacks, list):
            monkeypatch.setattr(litellm, name, [*callbacks])


@pytest.mark.usefixtures("_litellms_callbacks")
def test_an_autolog_of_the_lms_client(openai_server, dspy_traces):
    """MLflow's autolog for the LM's client puts a second span inside the LM's, which counts no tokens twice."""
    openai_server.script(chat(choice(ANSWER)))
    mlflow.litellm.autolog(silent=True)
    try:
        with dspy.context(lm=openai_server.lm("litellm")):
            dspy.Predict("question -> answer")(question="why?")
            doubled = dspy_traces.one()
            mlflow.litellm.autolog(disable=True, silent=True)
            dspy.Predict("question -> answer")(question="why?")
    finally:
        mlflow.litellm.autolog(disable=True, silent=True)
    mended = dspy_traces.all()[1]
    names = [sorted(span.name for span in trace.data.spans) for trace in (doubled, mended)]
    assert set(names[0]) - set(names[1]) == {"litellm-completion"}
    assert doubled.info.token_usage == mended.info.token_usage == TOKENS


# Missing tokens


@pytest.fixture
def reported(capsys):
    """Return a function that runs the page's block on tokens, and returns the lines that it prints."""

    def run() -> list[str]:
        PAGE.run("dspy.lm.cache_hit", mlflow=mlflow)
        return capsys.readouterr().out.splitlines()

    return run


@backends
def test_tokens_of_a_cache_hit(openai_server, dspy_traces, reported, backend):
    """An answer from DSPy's cache has no tokens and says that it was a hit; without the cache there are tokens."""
    openai_server.script(chat(choice(ANSWER)))
    cached, uncached = openai_server.lm(backend, cache=True), openai_server.lm(backend)
    said = []
    for lm in (cached, cached, uncached):
        with dspy.context(lm=lm):
            dspy.Predict("question -> answer")(question=f"cached, {backend}?")
        said += reported()
    assert said == [f"{TOKENS} False", "None True", f"{TOKENS} False"]


def test_tokens_of_an_lm_without_a_provider(dspy_traces, reported):
    """DSPy's `DummyLM` counts no tokens."""
    traced(MlflowCallback())
    (line,) = reported()
    assert line.startswith(("None", "{'input_tokens': 0, 'output_tokens': 0, 'total_tokens': 0}"))


def without_usage() -> dict:
    return {name: said for name, said in chat(choice(ANSWER)).items() if name != "usage"}


def as_asked(request: dict):
    """Return a stream that ends with the usage only if the request asks for it, as OpenAI's do."""
    answer = stream(*ANSWER.splitlines(keepends=True))
    if not request.get("stream_options"):
        answer.response = [line for line in answer.response if '"usage"' not in line]
    return answer


@backends
def test_tokens_that_a_provider_does_not_report(openai_server, dspy_traces, reported, backend):
    """A response without usage gives a span without tokens; one with it gives them."""
    openai_server.script(without_usage(), chat(choice(ANSWER)))
    said = []
    for _ in range(2):
        with dspy.context(lm=openai_server.lm(backend)):
            dspy.Predict("question -> answer")(question="why?")
        said += reported()
    assert said[0].startswith(("None", "{'input_tokens': 0, 'output_tokens': 0"))
    assert said[1] == f"{TOKENS} False"


@backends
@pytest.mark.parametrize("track_usage", [False, True])
def test_tokens_of_a_stream(openai_server, dspy_traces, reported, backend, track_usage):
    """Through LiteLLM DSPy asks for a stream's usage only with `track_usage`; else the span has no count of its own."""
    openai_server.script(as_asked)
    streaming = dspy.streamify(
        dspy.Predict("question -> answer"),
        stream_listeners=[dspy.streaming.StreamListener("answer")],
        async_streaming=False,
    )
    with dspy.context(lm=openai_server.lm(backend), track_usage=track_usage):
        list(streaming(question="why?"))
    (line,) = reported()
    assert ("'total_tokens': 120" in line) == (track_usage or backend != "litellm")


@backends
def test_a_model_without_a_price(openai_server, dspy_traces, backend):
    """A model that has no price has tokens and no cost."""
    openai_server.script(chat(choice(ANSWER), model="our-own"))
    with dspy.context(lm=openai_server.lm(backend, model="openai/our-own")):
        dspy.Predict("question -> answer")(question="why?")
    (span,) = dspy_traces.spans(kind="lm")
    assert span.get_attribute("mlflow.chat.tokenUsage") == TOKENS
    assert not (span.get_attribute("mlflow.llm.cost") or {}).get("total_cost")


# Slow


@pytest.mark.parametrize("is_async", [False, True])
def test_who_waits_for_the_store(dspy_traces, monkeypatch, is_async):
    """Without MLflow's background export a call ends when its trace is stored; with it the trace comes later."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", str(is_async).lower())
    monkeypatch.setenv("MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS", "3600000")
    monkeypatch.setenv("MLFLOW_ASYNC_TRACE_LOGGING_MAX_SPAN_BATCH_SIZE", "1000")
    mlflow.tracing.reset()
    traced(MlflowCallback())
    stored = mlflow.search_traces(locations=[dspy_traces.experiment_id], return_type="list")
    mlflow.flush_trace_async_logging()
    assert (len(stored), len(dspy_traces.all())) == (0 if is_async else 1, 1)


def test_what_makes_a_trace_smaller(dspy_traces):
    """Each option of the remedy makes a trace smaller."""
    question = "why? " * 5000
    options = [{}, {"max_payload_chars": 1000}, {"level": "info"}, {"capture_messages": False}]
    for each in options:
        dspy.configure(lm=answering(), callbacks=[MlflowCallback(**each)])
        Program()(question=question)
    whole, *smaller = [len(trace.to_json()) for trace in dspy_traces.all()]
    assert max(smaller) < whole * 0.8


@pytest.mark.engine("auto")  # no variable is set
def test_the_block_on_speed(dspy_traces):
    """The block keeps a share of the traces, without adapters and with short payloads."""
    PAGE.run("max_payload_chars=10_000", dspy=dspy)
    (callback,) = dspy.settings.callbacks
    assert repr(callback) == "MlflowCallback(sampling_ratio=0.1, level='info', max_payload_chars=10000)"


# Lost parents


def test_own_threads(dspy_traces):
    """Calls in a pool of one's own are traces of their own; in a copy of the context they are part of the trace."""
    dspy.configure(lm=answering())
    program_of = PAGE.block("class OwnThreads")
    lost: dict = {"dspy": dspy}
    exec(program_of.replace("contextvars.copy_context().run, ", ""), lost)
    lost["OwnThreads"]()(questions=["a", "b"])
    assert sorted(tree(trace)[0][0] for trace in dspy_traces.all()) == ["OwnThreads", "Predict", "Predict"]
    PAGE.run("class OwnThreads", dspy=dspy)["OwnThreads"]()(questions=["a", "b"])
    *_, (root,) = [tree(trace) for trace in dspy_traces.all()]
    assert [child[0] for child in root[3]] == ["OwnThreads.answer"] * 2


def test_dspys_threads(dspy_traces):
    """Calls in DSPy's worker threads are part of the trace."""
    dspy.configure(lm=answering())
    PAGE.run("class Fan", dspy=dspy)["Fan"]()(questions=["a", "b"])
    ((name, _, _, children),) = dspy_traces.tree()
    assert (name, [child[0] for child in children]) == ("Fan", ["Fan.answer"] * 2)


def test_own_spans_in_threads(dspy_traces):
    """A span of one's own in a thread is a trace of its own, unless the thread runs in a copy of the context."""

    class Own(dspy.Module):
        def forward(self, in_context):
            with ThreadPoolExecutor() as pool:
                run = [contextvars.copy_context().run] if in_context else []
                pool.submit(*run, mlflow.trace(str, name="own"), 1).result()

    Own()(in_context=False)
    Own()(in_context=True)
    names = [sorted(span.name for span in trace.data.spans) for trace in dspy_traces.all()]
    assert sorted(names) == [["Own"], ["Own", "own"], ["own"]]


class Judge(dspy.Module):
    """Takes as long as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun, self.may_end = asyncio.Event(), asyncio.Event()

    async def aforward(self):
        self.has_begun.set()
        await self.may_end.wait()


class Outlived(dspy.Module):
    """A program with a background task."""

    def __init__(self, waits_for: str) -> None:
        super().__init__()
        self.judge = Judge()
        self.waits_for = waits_for

    async def aforward(self):
        self.task = asyncio.create_task(self.judge.acall())
        if self.waits_for != "nothing":
            await self.judge.has_begun.wait()
        if self.waits_for == "the end":
            self.judge.may_end.set()
            await self.task


NEVER_ENDED = "Outlived.judge: The call had not ended when its trace ended."


@pytest.mark.parametrize(
    ("waits_for", "stored"),
    [
        ("its beginning", [["Outlived: ", NEVER_ENDED]]),
        ("nothing", [["Judge: "], ["Outlived: "]]),
        ("the end", [["Outlived: ", "Outlived.judge: "]]),
    ],
)
def test_a_background_task(dspy_traces, waits_for, stored):
    """A task that outlives its program is closed as an error, one that begins later is a trace of its own."""

    async def run():
        program = Outlived(waits_for)
        await program.acall()
        program.judge.may_end.set()
        await program.task

    asyncio.run(run())
    spans = [
        sorted(f"{span.name}: {span.status.description}" for span in trace.data.spans) for trace in dspy_traces.all()
    ]
    assert sorted(spans) == sorted(map(sorted, stored))


def test_a_background_task_with_a_trace_of_its_own(dspy_traces):
    """A task that is started in a context of its own has a trace of its own, whenever it begins."""
    dspy.configure(lm=answering({"answer": "42", "score": "1"}))
    background = PAGE.run("class Background", dspy=dspy)["Background"]

    async def run():
        program = background()
        await program.acall(question="why?")
        await program.task

    asyncio.run(run())
    assert sorted(tree(trace)[0][0] for trace in dspy_traces.all()) == ["Background", "Predict"]


def test_below_a_span_of_ones_own(dspy_traces):
    """Below an open span of one's own a DSPy call is part of that trace; after it, it has its own."""
    dspy.configure(lm=answering())
    with mlflow.start_span("around"):
        Program()(question="why?")
    Program()(question="why?")
    assert [tree(trace)[0][0] for trace in dspy_traces.all()] == ["around", "Program"]


def test_another_process(dspy_traces):
    """A `traceparent` that is sent along makes the calls of another process part of the trace."""
    dspy.configure(lm=answering())
    with mlflow.start_span("driver"):
        headers = mlflow.tracing.get_tracing_context_headers_for_http_request()
    alone = contextvars.Context()
    alone.run(Program(), question="why?")
    with mlflow.tracing.set_tracing_context_from_http_request_headers(headers):
        Program()(question="why?")
    mlflow.flush_trace_async_logging()
    sizes = {tree(trace)[0][0]: len(trace.data.spans) for trace in dspy_traces.all()}
    assert sizes == {"driver": 7, "Program": 6}


# A span is missing


@pytest.mark.engine("auto")  # no variable is set
def test_which_options_are_set(capsys):
    """The block prints the options that are not at their defaults, and their names."""
    PAGE.run("callback.config.changed()", callback=MlflowCallback(level="info", evaluate="off"))
    assert capsys.readouterr().out == "MlflowCallback(level='info', evaluate='off') ['level', 'evaluate']\n"


LEFT = {
    '`level="info"`': ({"level": "info"}, [*PROGRAM_SPANS[:3], "dummy"]),
    '`level="warning"` and above': ({"level": "warning"}, []),
    "`events=[...]`": ({"events": ["module"]}, PROGRAM_SPANS[:3]),
    "`include=[...]`": ({"include": ["*.predict"]}, PROGRAM_SPANS[2:]),
    "`exclude=[...]`": ({"exclude": ["*.predict"]}, PROGRAM_SPANS[:2]),
    '`evaluate="off"`, `compile=False`': ({"evaluate": "off", "compile": False}, PROGRAM_SPANS),
}


def test_each_option_is_shown():
    """Each option in the table has its test."""
    assert causes("A span is missing") == list(LEFT)


@pytest.mark.parametrize(("options", "left"), LEFT.values(), ids=LEFT)
def test_what_an_option_leaves_out(dspy_traces, options, left):
    """An option leaves out the spans that the table says."""
    traced(MlflowCallback(**options))
    assert [span.name for span in dspy_traces.spans()] == left


@pytest.mark.parametrize("is_recorded", [False, True])
def test_evaluations_and_optimizers(dspy_traces, is_recorded):
    """`evaluate="off"` and `compile=False` leave out evaluations and optimizers with everything below them."""
    callback = MlflowCallback(evaluate=is_recorded, compile=is_recorded)
    dspy.configure(lm=answering(), callbacks=[callback])
    examples = [dspy.Example(question="why?", answer="42").with_inputs("question")]
    dspy.Evaluate(devset=examples, metric=lambda *_: 1.0, num_threads=1)(Program())
    dspy.LabeledFewShot().compile(Program(), trainset=examples)
    roots = [tree(trace)[0][0] for trace in dspy_traces.all()]
    assert roots == (["Evaluate", "Example", "LabeledFewShot"] if is_recorded else [])


def test_a_plain_function(dspy_traces):
    """A plain function has no span, a decorated one has."""

    class Calls(dspy.Module):
        def forward(self):
            plain, decorated = str, mlflow.trace(str, name="decorated")
            return plain(1) + decorated(2)

    Calls()()
    ((_, _, _, children),) = dspy_traces.tree()
    assert [child[0] for child in children] == ["decorated"]


# Content is missing


class Plain:
    pass


@dataclasses.dataclass
class WithFields:
    field: str = "here"


class Echo(dspy.Module):
    def forward(self, value):
        return None


def not_json(payload):
    return None


def fails_at_end():
    class FailsAtEnd:
        def __call__(self, call):
            return call

        def on_end(self, end):
            raise RuntimeError

    return FailsAtEnd()


LONG = "why? " * 100
STANDS = {
    "`[redacted]`": (
        lambda: ({}, {"password": "hunter2"}, '{"value":{"password":"[redacted]"}}'),
        lambda: ({"redact": False}, {"password": "hunter2"}, '{"value":{"password":"hunter2"}}'),
    ),
    "`… [cut: N characters, sha256 …]`": (
        lambda: ({"max_payload_chars": 100}, LONG, "[cut: 500 characters, sha256 "),
        lambda: ({"max_payload_chars": 1000}, LONG, LONG),
    ),
    "`[withheld: …]`": (
        lambda: ({"payload_steps": [not_json]}, "why?", "[withheld: not_json returned NoneType"),
        lambda: ({"payload_steps": [Redactor()]}, "why?", '{"value":"why?"}'),
    ),
    "`<Foo …>`, a short text for an object": (
        lambda: ({}, Plain(), "Plain object"),
        lambda: ({}, WithFields(), '{"value":{"field":"here"}}'),
    ),
    "`mlflow-attachment://…`": (
        lambda: ({}, b"x" * 2000, "mlflow-attachment://"),
        lambda: ({}, "x" * 2000, "x" * 2000),
    ),
}


@pytest.mark.warns
@pytest.mark.parametrize("case", STANDS.values(), ids=STANDS)
def test_what_stands_in_place_of_content(dspy_traces, case):
    """What the table says stands in the place of content, and the remedy has the content itself."""
    for each in case:
        options, value, expected = each()
        dspy.configure(callbacks=[MlflowCallback(**options)])
        Echo()(value=value)
        *_, span = dspy_traces.spans()
        assert expected in span.to_dict()["attributes"]["mlflow.spanInputs"]


def test_each_sign_is_shown():
    """Each sign in the table has its test."""
    rest = ["nothing at all", "nothing, with `dspy_mlflow_callbacks.incomplete`"]
    assert sorted(causes("Content is missing")) == sorted([*STANDS, *rest])


def test_nothing_at_all(dspy_traces):
    """With `capture_inputs` or `capture_outputs` off nothing stands there."""
    traced(MlflowCallback(capture_inputs=False, capture_outputs=False))
    traced(MlflowCallback())
    without, with_content = dspy_traces.all()
    assert [(span.inputs, span.outputs) for span in without.data.spans] == [(None, None)] * 6
    assert all(span.inputs and span.outputs for span in with_content.data.spans)


@pytest.mark.warns
def test_an_end_that_cannot_be_described(dspy_traces, warned):
    """Where the end of a call cannot be described, the span says so and the log has the traceback."""
    dspy.configure(callbacks=[MlflowCallback(middleware=[fails_at_end()])])
    Echo()(value="why?")
    (span,) = dspy_traces.spans()
    assert (span.outputs, span.get_attribute("dspy_mlflow_callbacks.incomplete")) == (None, True)
    (record,) = warned.records
    assert "Traceback" in record.exc_text or record.exc_info


# Warnings of this package


def said_by(module: ast.Module, call: ast.Call) -> list[str]:
    """Return the texts among a call's arguments, also where a name stands for one."""
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    names = {node.id for each in arguments for node in ast.walk(each) if isinstance(node, ast.Name)}
    assigned = [
        node.value
        for node in ast.walk(module)
        if isinstance(node, ast.Assign)
        and any(isinstance(each, ast.Name) and each.id in names for each in node.targets)
    ]
    return [text for value in [*arguments, *assigned] for text in texts_in(value)]


def texts_in(tree: ast.AST) -> list[str]:
    """Return the texts in some code, with `…` for what is put in."""
    if isinstance(tree, ast.JoinedStr):
        return ["".join(part.value if isinstance(part, ast.Constant) else "…" for part in tree.values)]
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        return [tree.value.replace("%r", "…")]
    return [text for child in ast.iter_child_nodes(tree) for text in texts_in(child)]


def parts(text: str) -> list[str]:
    return [part for part in (each.strip("` .") for each in text.split("…")) if len(part) > 2]


def is_same(row: str, text: str) -> bool:
    """Return whether a row of the table is about a text: what is literal in one of them stands in the other."""
    return any(
        max(map(len, parts(one)), default=0) >= 12 and all(part in other for part in parts(one))
        for one, other in ((row, text), (text, row))
    )


MODULES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
WARNINGS = causes("Warnings of this package")
LOGGED = {
    f"{path.relative_to(PACKAGE)}:{node.lineno}": texts
    for path, module in MODULES.items()
    for node in ast.walk(module)
    if isinstance(node, ast.Call)
    and getattr(node.func, "attr", getattr(node.func, "id", None)) in ("_warn", "_WARN", "Wrong", "warning")
    and (texts := [text for text in said_by(module, node) if " " in text])
}


@pytest.mark.parametrize("texts", LOGGED.values(), ids=LOGGED)
def test_each_warning_is_in_the_table(texts):
    """Whatever the package warns of has a row in the table."""
    assert [row for row in WARNINGS for text in texts if is_same(row, text)], texts


@pytest.mark.parametrize("row", WARNINGS)
def test_each_row_is_a_warning(row):
    """Each row of the table is a text that stands in the package."""
    assert [text for module in MODULES.values() for text in texts_in(module) if is_same(row, text)], parts(row)
