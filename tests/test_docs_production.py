"""docs/production.md: what it says is so, and its blocks run as they stand."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import dspy
import mlflow
import pytest
from docs_blocks import ROOT, Page, blocks_that_run
from expected import ok
from programs import Echo, Program, answering, predict_tree
from stored import locked_store

from dspy_mlflow_callbacks import (
    MlflowCallback,
    SamplingRule,
    TailSampler,
    TracingConfig,
    attach,
    suppress_tracing,
    trace_context,
)
from dspy_mlflow_callbacks.spans import gen_ai
from dspy_mlflow_callbacks.testing.captured import tree

pytestmark = pytest.mark.usefixtures("own_folder")

PAGE = Page("docs/production.md")
SERVER = "http://mlflow.example:5000"


@pytest.fixture
def run(dspy_traces):
    """Return a function that runs the block that holds a text, with what the page takes for granted."""
    dspy.configure(lm=answering())

    def run(holds: str, replace: tuple[str, str] = ("", ""), **names) -> dict:
        return PAGE.run(holds, replace, **{"dspy": dspy, "mlflow": mlflow, "program": Program(), **names})

    return run


def names_of(traces: list) -> list[str]:
    return [tree(trace)[0][0] for trace in traces]


def test_each_block_is_run():
    """No code block of the page is left out of these tests."""
    blocks = [*PAGE.blocks(), *PAGE.blocks("console")]
    assert [block for block in blocks if not any(text in block for text in blocks_that_run(__file__))] == []


# A setup to begin with


class HealthCheck(Program):
    """A program that the rules are for."""


def setup(run) -> MlflowCallback:
    """Run the setup in code against the test's store."""
    return run("SamplingRule(ratio=0.1", (SERVER, mlflow.get_tracking_uri()))["callback"]


def variables() -> dict[str, str]:
    """Return what the setup by variables exports."""
    lines = [shlex.split(line) for line in PAGE.script("DSPY_MLFLOW_EXPERIMENT").splitlines()]
    return dict(words[1].split("=", 1) for words in lines if words[0] == "export")


def test_the_setup(run):
    """The setup keeps no health check, all of one tenant and a few others; they go to its experiment, with its tags."""
    callback = setup(run)
    HealthCheck()(question="why?")
    assert callback.stats().dropped == 1
    with trace_context(tags={"tenant": "pilot-1"}):
        Program()(question="my ssn is here")
    mlflow.flush_trace_async_logging()
    experiment = mlflow.get_experiment_by_name("questions")
    (trace,) = mlflow.search_traces(
        locations=[experiment.experiment_id], filter_string="tag.tenant = 'pilot-1'", return_type="list", max_results=1
    )
    tags = {name: text for name, text in trace.info.tags.items() if "." not in name}
    assert tags == {"service": "answers", "stage": "production", "tenant": "pilot-1"}
    assert [span.name for span in trace.data.spans if span.span_type == "PARSER"] == []


@pytest.mark.engine("auto")  # no variable is set
def test_the_same_from_outside(run):
    """The variables say what the setup in code says."""
    from_outside = TracingConfig.from_env(variables())
    assert from_outside == setup(run).config
    assert variables()["MLFLOW_TRACKING_URI"] == SERVER


APP = """
import dspy
from dspy.utils.dummies import DummyLM

dspy.configure(lm=DummyLM([{"answer": "42"}] * 9))
for _ in range(9):
    print(dspy.Predict("question -> answer")(question="why?").answer)
"""


def test_a_program_that_does_not_mention_the_package(tmp_path, dspy_traces):
    """The commands trace a program that knows nothing of it, and keep no more than the rules allow."""
    (tmp_path / "app.py").write_text(APP)
    # The installed command, by its other name: it is the same from a checkout.
    command = f'dspy-mlflow() {{ {shlex.quote(sys.executable)} -m dspy_mlflow_callbacks "$@"; }}\n'
    script = PAGE.script("DSPY_MLFLOW_EXPERIMENT").replace(SERVER, mlflow.get_tracking_uri())
    script = script.replace("=questions", f"={dspy_traces.experiment_id}").replace('"ratio": 0.1', '"ratio": 1.0')
    done = subprocess.run(
        ["/bin/bash", "-ec", command + script],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "true"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "42\n" * 9), done.stderr
    traces = dspy_traces.all()
    assert 5 <= len(traces) <= 9
    assert {trace.info.tags["service"] for trace in traces} == {"answers"}


def test_waiting_for_the_traces(run, dspy_traces, monkeypatch):
    """After the block the trace is stored, however long an exporter would have waited."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS", "3600000")
    mlflow.tracing.reset()
    run('program(question="Why is the sky blue?")\nflush()')
    assert len(mlflow.search_traces(locations=[dspy_traces.experiment_id], return_type="list")) == 1


# Sampling

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(("flag", "ratio", "stored"), [("00", 1.0, 0), ("01", 0.0, 6)])
def test_a_callers_decision_is_obeyed(run, dspy_traces, flag, ratio, stored):
    """The sampled flag of a `traceparent` decides before any ratio."""
    callback = MlflowCallback(sampling_ratio=ratio)
    dspy.configure(callbacks=[callback])
    handle = run("set_tracing_context_from_http_request_headers")["handle"]
    assert handle({"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-{flag}"}, "why?") == "42"
    assert (callback.stats().started, callback.stats().dropped) == (stored, 0 if stored else 1)


def test_below_a_span_of_ones_own(run, dspy_traces):
    """A call below a span that is recorded is recorded, whatever the ratio."""
    dspy.configure(callbacks=[MlflowCallback(sampling_ratio=0.0)])
    with mlflow.start_span("around"):
        Program()(question="why?")
    Program()(question="why?")
    assert names_of(dspy_traces.all()) == ["around"]


@pytest.mark.parametrize(
    ("rules", "ratio", "kept"),
    [
        ([SamplingRule(name="Health*", ratio=0.0)], 1.0, ["Program"] * 3),
        ([SamplingRule(name="Health*"), SamplingRule(ratio=0.0)], 1.0, ["HealthCheck"] * 3),
        ([SamplingRule(name="Health*")], 0.0, ["HealthCheck"] * 3),
        ([SamplingRule(name="Health*", ratio=0.0), SamplingRule(max_per_second=0.001)], 1.0, ["Program"]),
        ([SamplingRule(tags={"tenant": "a*"}, ratio=0.0)], 1.0, []),
    ],
)
def test_the_first_rule_decides(run, dspy_traces, rules, ratio, kept):
    """The first rule that is for a trace decides, by its ratio and its limit; the ratio is for the rest."""
    dspy.configure(callbacks=[MlflowCallback(sampling_rules=rules, sampling_ratio=ratio)])
    with trace_context(tags={"tenant": "acme"}):
        for program in [Program(), HealthCheck()] * 3:
            program(question="why?")
    assert sorted(names_of(dspy_traces.all())) == kept


def test_mlflows_own_ratio_comes_last(run, dspy_traces, monkeypatch):
    """What the options keep is sampled once more by MLflow's own ratio."""
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0")
    mlflow.tracing.reset()
    callback = MlflowCallback(sampling_ratio=1.0)
    dspy.configure(callbacks=[callback])
    Program()(question="why?")
    assert (callback.stats().started, callback.stats().dropped) == (0, 1)


@pytest.mark.engine("auto")  # no variable is set
def test_the_block_on_a_ratio(run):
    """The block configures a ratio."""
    run("sampling_ratio=0.1)])")
    assert dspy.settings.callbacks[0].config == TracingConfig(sampling_ratio=0.1)


# Tail sampling


@pytest.mark.engine("auto")
@pytest.mark.parametrize(("tag", "kept"), [("yes", 1), ("no", 0)])
def test_the_block_on_tail_sampling(run, dspy_traces, tag, kept):
    """The block's sampler keeps what the program has marked; what it leaves out counts as dropped."""

    class Marks(dspy.Module):
        def forward(self):
            mlflow.update_current_trace(tags={"escalated": tag})

    run("TailSampler(", ("background_ratio=0.01", "background_ratio=0.0"))
    (callback,) = dspy.settings.callbacks
    Marks()()
    assert callback.flush()
    assert len(dspy_traces.all()) == kept
    assert (callback.stats().started, callback.stats().dropped) == (1, 1 - kept)


def test_tail_sampling_from_outside():
    """The variable says what the text beside it does."""
    (text,) = re.findall(r"`DSPY_MLFLOW_TAIL_SAMPLER='(.*?)'`", PAGE.text)
    config = TracingConfig.from_env({"DSPY_MLFLOW_TAIL_SAMPLER": text})
    assert config.tail_sampler == TailSampler(min_duration_s=10, background_ratio=0.01)


# Redaction


def stored(dspy_traces) -> str:
    """Return all that is stored of the traces, as text."""
    return "\n".join(trace.to_json() for trace in dspy_traces.all())


KEY = "sk-proj-" + "a1B2" * 12
OPTIONS = {row[2]: row[1] for row in PAGE.rows("| what | on by default | more of it")}


@pytest.mark.parametrize(
    ("inputs", "secret", "says"),
    [
        ({"question": {"api_key": "hunter2"}}, "hunter2", ""),
        ({"question": {"pin": "hunter2", "x-internal-id": "hunter2"}}, "hunter2", "redact_keys"),
        ({"question": f"is {KEY} a key?"}, KEY, ""),
        ({"question": "is 078-05-1120 taken?"}, "078-05-1120", "redact_patterns"),
        ({"ssn": "hunter2"}, "hunter2", "redact_fields"),
    ],
)
def test_what_is_redacted(run, dspy_traces, inputs, secret, says):
    """What the table says is redacted by default or with the option beside it, and not without."""
    program = dspy.Predict(f"{next(iter(inputs))} -> answer")
    (option,) = [each for each in OPTIONS if says and says in each] or [""]
    options = {
        word.arg: ast.literal_eval(word.value)
        for word in ast.parse(f"dict({option.strip('`')})").body[0].value.keywords
    }
    dspy.configure(callbacks=[MlflowCallback(**options)])
    program(**inputs)
    assert secret not in stored(dspy_traces)
    dspy.configure(callbacks=[MlflowCallback(redact=bool(options))])
    program(**inputs)
    assert secret in stored(dspy_traces)


def test_a_redactor_with_everything(run, dspy_traces):
    """The block's redactor takes out what its keys, patterns, fields and function find."""
    run("without_addresses")
    question = {"text": "ann@example.com has 078-05-1120", "pin": "hunter2"}
    dspy.Predict("question, diagnosis -> answer")(question=question, diagnosis="the flu")
    text = stored(dspy_traces)
    assert [secret for secret in ("ann@", "078-05", "hunter2", "the flu") if secret in text] == []
    assert "[mail] has" in text


def test_spans_of_ones_own_are_not_redacted(run, dspy_traces):
    """Spans that others open with MLflow are as they made them; MLflow's span processors are for those."""

    class Opens(dspy.Module):
        def forward(self):
            with mlflow.start_span("own") as span:
                span.set_inputs({"api_key": "hunter2"})

    def clear(span):
        if span.name == "own":
            span.set_inputs({})

    Opens()()
    assert "hunter2" in stored(dspy_traces)
    mlflow.tracing.configure(span_processors=[clear])
    try:
        Opens()()
    finally:
        mlflow.tracing.configure(span_processors=[])
    assert "hunter2" not in dspy_traces.all()[1].to_json()


def test_no_content(run, dspy_traces):
    """The block leaves content out, and keeps the tree."""
    run("capture_outputs=False)])")
    dspy.Predict("question -> answer")(question="an odd question")
    assert dspy_traces.tree() == [predict_tree()]
    assert "an odd question" not in stored(dspy_traces)


def test_looking_for_a_canary(run, dspy_traces):
    """The check passes by default, and fails where the canary is stored."""
    run("CANARY = ")
    dspy.configure(callbacks=[MlflowCallback(redact=False)])
    with pytest.raises(AssertionError):
        run("CANARY = ")


# Volume

VOLUME = PAGE.rows("| setting | spans |")


def test_the_table_on_volume(monkeypatch):
    """The table has the settings of the benchmark, in its order."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import volume

    assert [row[0] for row in VOLUME] == [volume.title(settings) for settings in volume.SETTINGS.values()]


@pytest.mark.parametrize("row", VOLUME, ids=lambda row: row[0])
def test_the_figures_on_volume(monkeypatch, tmp_path, dspy_traces, row):
    """The benchmark gives the number of spans in the table again, and the sizes of traces within a fifth."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import volume

    (settings,) = [each for each in volume.SETTINGS.values() if volume.title(each) == row[0]]
    figures = volume.row(settings, 1, tmp_path)
    assert int(row[1]) == figures["short"]["spans"]
    sizes = [figures[name]["trace_bytes"] / 1e3 for name in ("short", "10 kB")]
    assert [float(row[2]), float(row[4])] == pytest.approx(sizes, rel=0.2)


def test_the_benchmark_prints_the_table(monkeypatch, capsys, dspy_traces):
    """The benchmark prints the rows that it is asked for below the page's head."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import volume

    for name in ("DSPY_CACHEDIR", "LITELLM_LOCAL_MODEL_COST_MAP", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, os.environ[name])  # the script sets them
    monkeypatch.setattr(sys, "argv", ["volume.py", "--calls=1", "--only", "lms"])
    volume.main()
    head, _, row = capsys.readouterr().out.splitlines()
    assert head in PAGE.text
    assert row.startswith("| `events=['lm']` | 1 | ")


def test_how_often_a_context_is_stored(run, dspy_traces):
    """A text that goes in is stored five times, three times without adapters."""
    for options in ({}, {"level": "info"}):
        dspy.configure(callbacks=[MlflowCallback(**options)])
        dspy.ChainOfThought("context, question -> answer")(context="the context", question="why?")
    contents = [
        [str(each) for span in trace.data.spans for each in (span.inputs, span.outputs)] for trace in dspy_traces.all()
    ]
    times = [sum("the context" in content for content in each) for each in contents]
    assert times == [5, 3]


def test_filters_by_name(run, dspy_traces):
    """`events` and `include` record parts of a program as traces of their own, `exclude` leaves parts out."""
    for options in ({"events": ["lm"]}, {"include": ["*.predict"]}, {"exclude": ["*.predict", "Health*"]}):
        dspy.configure(callbacks=[MlflowCallback(**options)])
        for program in (Program(), HealthCheck()):
            program(question="why?")
    trees = [tree(trace) for trace in dspy_traces.all()]
    lm, left = [ok("dummy", "CHAT_MODEL")], [ok("Program", "CHAIN", ok("Program.generate", "CHAIN"))]
    predicts = [[predict_tree(f"{name}.generate.predict")] for name in ("Program", "HealthCheck")]
    assert trees == [lm, lm, *predicts, left]


# Retention


@pytest.fixture
def two_traces(run, dspy_traces):
    """Store two traces with an attachment each, begun in different milliseconds, and return them."""

    class Takes(dspy.Module):
        def forward(self, data):
            return None

    for _ in range(2):
        Takes()(data=os.urandom(2000))
        time.sleep(0.002)  # MLflow deletes by the millisecond in which a trace began
    return dspy_traces.all()


def files_of(trace) -> list[Path]:
    folder = Path(unquote(urlsplit(trace.info.tags["mlflow.artifactLocation"]).path))
    return [path for path in folder.rglob("*") if path.is_file()]


def test_deleting_old_traces(run, dspy_traces, two_traces):
    """The block deletes what began before a time, and leaves files behind."""
    experiment = repr(mlflow.get_experiment(dspy_traces.experiment_id).name)
    run("THIRTY_DAYS_AGO", ('"questions"', experiment))
    assert len(dspy_traces.all()) == 2
    older, newer = two_traces
    block = PAGE.block("THIRTY_DAYS_AGO").replace('"questions"', experiment)
    at_first = block.replace("int((time.time() - 30 * 24 * 3600) * 1000)", str(older.info.request_time))
    exec(at_first, {"mlflow": mlflow})
    assert [trace.info.trace_id for trace in dspy_traces.all()] == [newer.info.trace_id]
    assert files_of(older)


def test_mlflow_gc_keeps_traces(dspy_traces, two_traces):
    """MLflow's garbage collection deletes neither traces nor their files."""
    from click.testing import CliRunner
    from mlflow.cli import gc

    done = CliRunner().invoke(gc, ["--backend-store-uri", mlflow.get_tracking_uri()])
    assert done.exit_code == 0, done.output
    assert len(dspy_traces.all()) == 2
    assert all(map(files_of, two_traces))


def test_deleting_traces_with_their_files(run, dspy_traces, two_traces):
    """The block deletes what began before a time, and its files."""
    older, newer = two_traces
    delete = run("def delete_traces_with_files")["delete_traces_with_files"]
    assert delete(dspy_traces.experiment_id, older.info.request_time) == 1
    assert [trace.info.trace_id for trace in dspy_traces.all()] == [newer.info.trace_id]
    assert files_of(older) == []
    assert files_of(newer)
    assert delete(dspy_traces.experiment_id, older.info.request_time) == 0


# Tags, session and user of each request


def test_requests_side_by_side(run, dspy_traces):
    """Each request's trace has its own session, user and tags."""
    handle = run("def handle(request")["handle"]
    request = {"session": "s-2", "user": "bob", "tenant": "umbrella", "question": "why?"}

    async def two():
        await asyncio.gather(handle(request), handle({**request, "session": "s-3"}))

    asyncio.run(two())
    said = [
        (
            trace.info.trace_metadata["mlflow.trace.session"],
            trace.info.trace_metadata["mlflow.trace.user"],
            trace.info.tags["tenant"],
        )
        for trace in dspy_traces.all()
    ]
    assert sorted(said) == [("s-1", "ann", "acme"), ("s-2", "bob", "umbrella"), ("s-3", "bob", "umbrella")]


# One program only, several experiments


def test_several_experiments(run, dspy_traces):
    """Each attached program's traces go to its experiment, with its options; others are not traced."""
    dspy.configure(callbacks=[])
    programs = run("billing = attach")
    Program()(question="why?")
    for name in ("search", "billing"):
        programs[name](question="why?")
    mlflow.flush_trace_async_logging()
    inputs = []
    for name in ("search", "billing"):
        experiment = mlflow.get_experiment_by_name(name)
        (trace,) = mlflow.search_traces(locations=[experiment.experiment_id], return_type="list", max_results=1)
        inputs.append(trace.data.spans[0].inputs)
    assert inputs == [{"question": "why?"}, None]
    assert dspy_traces.all() == []


# How traces reach the store


def test_the_limits_are_the_options():
    """Each limit of the table is an option, at its default."""
    limits = {
        "max_queue_traces": "10,000",
        "max_queue_bytes": "256 MiB",
        "max_block_s": "5 s",
        "exit_timeout_s": "10 s",
    }
    said = " ".join(row[2] for row in PAGE.rows("| when | what happens |"))
    assert [name for name, default in limits.items() if f"`{name}` ({default})" not in said] == []
    defaults = TracingConfig()
    assert (defaults.max_queue_traces, defaults.max_queue_bytes) == (10_000, 256 * 1024**2)
    assert (defaults.max_block_s, defaults.exit_timeout_s, defaults.max_open_s) == (5, 10, 300)
    assert defaults.on_full == "block"


# Other backends


def test_sending_to_a_collector(tmp_path, dspy_traces, collector):
    """The commands send what the program traces to a collector, before its process ends."""
    (tmp_path / "app.py").write_text(APP)
    command = f'dspy-mlflow() {{ {shlex.quote(sys.executable)} -m dspy_mlflow_callbacks "$@"; }}\n'
    script = PAGE.script("OTEL_EXPORTER_OTLP").replace("http://collector.example:4318/v1/traces", collector.url)
    subprocess.run(
        ["/bin/bash", "-ec", command + script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        timeout=100,
    )
    assert collector.names() == ["Predict", "ChatAdapter.format", "dummy", "ChatAdapter.parse"] * 9
    assert dspy_traces.all() == []


def test_the_attributes_of_other_backends():
    """The table has all attributes that are sent, and no other."""
    rows = PAGE.rows("| span of | attributes |")
    listed = {name for row in rows for name in re.findall(r"`(gen_ai\.[a-z_.]+)`", row[1])}
    assert listed == set(re.findall(r'"(gen_ai\.[a-z_.]+)"', Path(gen_ai.__file__).read_text(encoding="utf-8")))


@pytest.mark.skipif(
    not hasattr(mlflow.tracing, "get_bridged_tracer_provider"), reason="MLflow has no such function yet"
)
def test_sending_at_once(run, collector, monkeypatch):
    """The block sends all spans, and nothing else would; a trace's session is not among what MLflow sends."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")  # milliseconds
    mlflow.tracing.reset()
    with trace_context(session_id="session-1"):
        Program()(question="why?")
    mlflow.flush_trace_async_logging()
    assert collector.received == []
    run("get_bridged_tracer_provider")
    assert len(collector.received) == 1
    assert b"session-1" not in collector.received[0]
    assert b"why?" in collector.received[0]


# Watching the tracer


def test_the_counts(run, engine):
    """The block gives the counts by name; those in the table are all that there are."""
    callback = MlflowCallback()
    dspy.configure(callbacks=[callback])
    Program()(question="why?")
    assert callback.flush()
    counted = run("def health()", callback=callback)["health"]()
    assert counted == {
        "started": 6,
        "ended": 6,
        "dropped": 0,
        "abandoned": 0,
        "failed": 0,
        "stored": 0 if engine == "native" else 1,
        "lost": 0,
        "spooled": 0,
        "dead_lettered": 0,
        "open": 0,
        "queued": 0,
        "bytes": 0,
    }
    described = [name.strip("`") for row in PAGE.rows("| count | meaning |") for name in row[0].split(", ")]
    assert described == list(counted)


def broken(call):
    raise RuntimeError


@pytest.mark.warns
def test_each_problem_is_said_once(run, warned):
    """A problem is counted each time and said once; `verbosity` keeps it out of the log."""
    logger = logging.getLogger("dspy_mlflow_callbacks")
    level = logger.level
    try:
        for options in ({}, {"verbosity": "error"}):
            callback = MlflowCallback(middleware=[broken], **options)
            dspy.configure(callbacks=[callback])
            Program()(question="why?")
            assert callback.stats().failed == 6
    finally:
        logger.setLevel(level)
    assert [message.partition(":")[0] for message in warned.messages] == [
        "A middleware failed; its calls are not recorded"
    ]


@pytest.mark.warns
@pytest.mark.engine("recorded")
@pytest.mark.parametrize("options", [{"on_full": "drop"}, {"on_full": "block", "max_block_s": 0.01}])
def test_a_full_buffer(run, dspy_traces, monkeypatch, warned, options):
    """While the store takes none, and there is no spool, the first trace waits; those without room are counted."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    mlflow.tracing.reset()
    callback = MlflowCallback(max_queue_traces=1, spool_dir="", **options)
    dspy.configure(callbacks=[callback])
    with locked_store():
        for _ in range(3):
            Program()(question="why?")
        stats = callback.stats()
        assert (stats.lost, stats.queued) == (2, 1)
    assert callback.flush()
    assert len(dspy_traces.all()) == callback.stats().stored == 1
    # Once a minute, so perhaps in the test before this one.
    assert warned.messages in ([], ["The buffer is full: 1 traces dropped, as more end than are stored."])


@pytest.mark.engine("native")
def test_a_full_queue(run, dspy_traces, monkeypatch, caplog):
    """While its store is slower than the program, MLflow drops what its queue cannot hold, and says so."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_ASYNC_TRACE_LOGGING_MAX_QUEUE_SIZE", "1")
    monkeypatch.setenv("MLFLOW_ASYNC_TRACE_LOGGING_MAX_SPAN_BATCH_SIZE", "1")
    mlflow.tracing.reset()
    monkeypatch.setattr(logging.getLogger("mlflow"), "propagate", True)
    with locked_store():
        while "Trace export queue is full" not in caplog.text:
            Echo()()
    mlflow.flush_trace_async_logging()


METERED = """
import dspy
{block}
from dspy_mlflow_callbacks import MlflowCallback
from opentelemetry import metrics
from programs import Echo

dspy.configure(callbacks=[MlflowCallback()])
Echo()()
metrics.get_meter_provider().force_flush()
"""


def test_metrics(dspy_traces):
    """The block's exporter prints the counts; it is the process's, so it runs in one of its own."""
    script = METERED.format(block=PAGE.block("ConsoleMetricExporter"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    data = json.loads(done.stdout.partition("\n{")[0] if done.stdout.count("resource_metrics") > 1 else done.stdout)
    metrics = data["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    values = {each["name"]: each["data"]["data_points"][0]["value"] for each in metrics}
    section = PAGE.text.partition("## Watching the tracer")[2]
    assert [name for name in values if f".{name.rpartition('.')[2]}`" not in section] == []
    assert (values["dspy_mlflow.spans.started"], values["dspy_mlflow.traces.lost"]) == (1, 0)


def test_the_doctor(dspy_traces, tmp_path):
    """The command finds nothing wrong with the test's store."""
    assert PAGE.script("dspy-mlflow doctor") == "dspy-mlflow doctor"
    command = [sys.executable, "-m", "dspy_mlflow_callbacks", "doctor"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_diagnosis_in_a_program(run, capsys):
    """The block prints what is in force, and each problem with its remedy."""
    dspy.configure(callbacks=[])
    run("diagnose(program)")
    printed = capsys.readouterr().out
    assert "nothing is traced. ->" in printed


# Switching off


def off_by_variable(monkeypatch) -> None:
    monkeypatch.setenv("DSPY_MLFLOW_ENABLED", "false")
    dspy.configure(callbacks=[MlflowCallback()])
    Program()(question="why?")


def off_by_argument(monkeypatch) -> None:
    attach(Program(), MlflowCallback(enabled=False))(question="why?")


def off_in_this_part(monkeypatch) -> None:
    with suppress_tracing():
        Program()(question="why?")


def off_for_this_request(monkeypatch) -> None:
    with trace_context(enabled=False):
        Program()(question="why?")


def on_by_argument(monkeypatch) -> None:
    monkeypatch.setenv("DSPY_MLFLOW_ENABLED", "false")
    dspy.configure(callbacks=[MlflowCallback(enabled=True)])
    Program()(question="why?")


@pytest.mark.parametrize(
    ("way", "stored"),
    [
        (off_by_variable, 0),
        (off_by_argument, 0),
        (off_in_this_part, 0),
        (off_for_this_request, 0),
        (on_by_argument, 1),
    ],
)
def test_switching_off(run, dspy_traces, monkeypatch, way, stored):
    """Each way of the table records nothing; an argument beats the variable."""
    way(monkeypatch)
    assert len(dspy_traces.all()) == stored


def test_the_block_on_switching_off(run, dspy_traces):
    """The block's call is not recorded, the next one is."""
    run("warm-up")
    assert dspy_traces.all() == []
    Program()(question="why?")
    assert len(dspy_traces.all()) == 1
