"""A trace goes on where its headers arrive: whole, under the right parent, with what it belongs to."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import attrs
import dspy
import mlflow
import pytest
from expected import bare, ok, ordered
from mlflow.tracing.client import TracingClient
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.sdk.trace import SpanProcessor
from programs import Program, Runs, answering, program_tree
from stored import run_of
from threads import at_once

import dspy_mlflow_callbacks.distributed.baggage as baggage_module
from dspy_mlflow_callbacks import (
    MlflowCallback,
    RatioSampler,
    continue_trace,
    inject_headers,
    mlflow_internals,
    suppress_tracing,
    trace_context,
)
from dspy_mlflow_callbacks.mlflow_internals import remote
from dspy_mlflow_callbacks.spans.remote_traces import REMOTE_TRACES
from dspy_mlflow_callbacks.testing.captured import tree

USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
COST = {"input_cost": 0.25, "output_cost": 0.5, "total_cost": 0.75}
ON_BOTH = pytest.mark.parametrize("engine", ["auto", "native"], indirect=True)
FOREIGN = f"00-{random.getrandbits(128):032x}-{0xDEF:016x}-01"


class Echo(dspy.Module):
    """Answers with its question: a trace of one span."""

    def forward(self, question="why?"):
        return question

    async def aforward(self, question="why?"):
        await asyncio.sleep(0)
        return question


class Spends(dspy.Module):
    """Costs tokens and money."""

    def forward(self):
        span = mlflow.get_current_active_span()
        span.set_attribute("mlflow.chat.tokenUsage", USAGE)
        span.set_attribute("mlflow.llm.cost", COST)


@pytest.fixture(autouse=True)
def nothing_joined(dspy_traces):
    """Fail a test that leaves a trace joined."""
    yield
    assert len(REMOTE_TRACES) == 0


def sent(around=None, **options):
    """Run a program that sends its headers, and return them."""
    headers = {}

    def send(_):
        if around is not None:
            around()
        inject_headers(headers)

    callbacks = [MlflowCallback(**options)] if options else dspy.settings.callbacks
    with dspy.context(callbacks=callbacks):
        Runs(send)()
    return headers


def baggage_of(headers):
    """Return what the baggage of headers says, as OpenTelemetry reads it."""
    context = W3CBaggagePropagator().extract(headers, {})
    return dict(next(iter(context.values()), {}))


def test_headers_are_those_of_w3c(dspy_traces):
    """`traceparent` says the running span and that it is sampled; baggage what the trace belongs to."""
    with trace_context(session_id="seven", user="ann", tags={"team": "search & find", "größe": "1,5"}):
        headers = sent()
    (span,) = dspy_traces.spans(name="Runs")
    assert headers["traceparent"] == f"00-{span.trace_id.removeprefix('tr-')}-{span.span_id}-01"
    assert baggage_of(headers) == {
        "mlflow.experiment.id": dspy_traces.experiment_id,
        "session.id": "seven",
        "user.id": "ann",
        "dspy_mlflow.tag.team": "search & find",
        "dspy_mlflow.tag.größe": "1,5",
    }


def test_the_trace_goes_on_where_headers_arrive(dspy_traces):
    """A program that runs under headers is part of the trace, below the span that sent them."""
    with continue_trace(sent()):
        dspy.settings.configure(lm=answering())
        Program()(question="why?")
    assert dspy_traces.tree() == [bare("Runs", program_tree())]


def test_while_the_root_runs(dspy_traces):
    """A part may end before its trace's root: the tree is the same."""

    def call(_):
        headers = inject_headers()
        at_once(continue_trace(headers)(Echo()))

    Runs(call)()
    assert dspy_traces.tree() == [bare("Runs", bare("Echo"))]


def test_many_threads_on_one_trace(dspy_traces):
    """Any number of threads join and leave one trace in any order, and every span arrives once, under its parent."""
    headers = sent()
    work = continue_trace(headers)(Runs(lambda _: Echo()()))
    callbacks = dspy.settings.callbacks

    def one(_):
        with dspy.context(callbacks=callbacks):
            return work()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(40)))
    assert ordered(dspy_traces.tree()) == [bare("Runs", *[bare("Runs", bare("Echo"))] * 40)]


@ON_BOTH
def test_spans_of_ones_own_join_too(dspy_traces):
    """`mlflow.start_span` under headers, without any program, is stored in the trace."""
    with continue_trace(sent()):
        with mlflow.start_span("own"):
            Echo()()
        with mlflow.start_span("other"):
            pass
    assert dspy_traces.tree() == [bare("Runs", ok("own", "UNKNOWN", bare("Echo")), ok("other", "UNKNOWN"))]


@pytest.mark.engine("native")
def test_a_part_begins_before_the_trace_is_stored(dspy_traces, monkeypatch):
    """A part that begins when its trace has ended here, and waits to be stored, is stored in it."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS", "60000")
    mlflow.tracing.reset()
    with continue_trace(sent()):
        Echo()()
    assert dspy_traces.tree() == [bare("Runs", bare("Echo"))]


@ON_BOTH
def test_a_task_that_outlives_the_scope(dspy_traces):
    """What a task that was started under headers does after the block has ended is stored in the trace too."""
    headers = sent()

    async def main():
        go = asyncio.Event()

        async def later():
            await go.wait()
            await asyncio.to_thread(Echo())

        with continue_trace(headers):
            task = asyncio.create_task(later())
            await asyncio.sleep(0)
        go.set()
        await task

    asyncio.run(main())
    assert dspy_traces.tree() == [bare("Runs", bare("Echo"))]


def test_a_chain_of_processes(dspy_traces):
    """Headers that are sent on from a part say the part's span, and the part of the part nests there."""
    first = sent()
    with continue_trace(first):
        second = sent()
    with continue_trace(second):
        Echo()()
    assert dspy_traces.tree() == [bare("Runs", bare("Runs", bare("Echo")))]
    assert baggage_of(first) == baggage_of(second)


@ON_BOTH
@pytest.mark.parametrize("metadata", [{}, {"commit": "abc"}])
@pytest.mark.parametrize("order", ["before the root's end", "after it is stored"])
def test_totals_are_those_of_the_whole_tree(dspy_traces, metadata, order):
    """Tokens and cost of all parts are the trace's, whenever they arrive and whatever else is known of the trace."""

    def part():
        with continue_trace(headers):
            Spends()()
            mlflow.flush_trace_async_logging()

    headers = {}

    def drive(_):
        Spends()()
        inject_headers(headers)
        if order == "before the root's end":
            at_once(part)

    with trace_context(metadata=metadata, session_id="seven", tags={"team": "search"}):
        Runs(drive)()
    mlflow.flush_trace_async_logging()
    if order == "after it is stored":
        part()
    info = dspy_traces.one().info
    assert info.token_usage == {name: 2 * number for name, number in USAGE.items()}
    assert info.cost == {name: 2 * number for name, number in COST.items()}
    assert info.state == "OK"
    assert {**metadata, "mlflow.trace.session": "seven"}.items() <= info.trace_metadata.items()
    assert (info.tags["team"], info.tags["mlflow.traceName"]) == ("search", "Runs")


def test_the_duration_covers_what_came_later(dspy_traces):
    """A part that ends after the root lengthens the trace."""
    with continue_trace(sent()):
        Echo()()
    trace = dspy_traces.one()
    start = min(span.start_time_ns for span in trace.data.spans) // 1_000_000
    end = max(span.end_time_ns for span in trace.data.spans) // 1_000_000
    assert trace.info.request_time == start
    assert trace.info.execution_duration == end - start


def test_an_error_in_a_part_is_on_its_span(dspy_traces):
    """A part that fails has its error; the trace's state is that of its root."""

    def fail(_):
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"), continue_trace(sent()):
        Runs(fail)()
    assert dspy_traces.tree() == [bare("Runs", ("Runs", "CHAIN", "ERROR", []))]
    assert dspy_traces.one().info.state == "OK"


@ON_BOTH
def test_what_only_mlflows_own_end_of_a_trace_can_say(dspy_traces):
    """A client's request id is kept, also of a trace that goes on elsewhere."""

    def drive(_):
        mlflow.update_current_trace(client_request_id="request 7")
        assert inject_headers() == inject_headers()

    Runs(drive)()
    assert dspy_traces.one().info.client_request_id == "request 7"


@ON_BOTH
def test_attachments_of_a_shared_trace(dspy_traces):
    """Binary data of a trace that goes on elsewhere is stored beside it."""
    sent(around=lambda: Echo()(question="data:image/png;base64,iVBORw0KGgo="))
    (echo,) = dspy_traces.spans(name="Echo")
    assert "mlflow-attachment" in str(echo.inputs)


@pytest.mark.engine("native")
def test_a_trace_that_is_not_shared_ends_as_ever(dspy_traces):
    """Once a trace was shared, others are stored by MLflow as before."""
    sent()
    with mlflow.start_span("alone"):
        pass
    assert sorted(map(tree, dspy_traces.all())) == [[bare("Runs")], [ok("alone", "UNKNOWN")]]


def test_a_store_that_has_no_span_yet(dspy_traces):
    """Where the spans of a shared trace do not come, it ends as MLflow ends it."""
    Echo()()
    info = dspy_traces.one().info
    info.trace_id = f"tr-{random.getrandbits(128):032x}"
    info.tags, info.client_request_id = {}, "request 7"
    client = TracingClient(mlflow.get_tracking_uri())
    remote._Merging(client).start_trace(info)
    assert client.get_trace_info(info.trace_id).client_request_id == "request 7"


def test_a_span_that_is_open_when_the_part_ends(dspy_traces):
    """A span of one's own that outlives the block is stored when it ends, and the trace is forgotten then."""
    opened, closing = threading.Event(), threading.Event()

    def work():
        with mlflow.start_span("own"):
            opened.set()
            assert closing.wait(60)

    with continue_trace(sent()):
        thread = threading.Thread(target=contextvars.copy_context().run, args=[work])
        thread.start()
        assert opened.wait(60)
        joined = next(iter(REMOTE_TRACES._joined.values()))
    assert len(REMOTE_TRACES) == 1
    closing.set()
    thread.join()
    end = time.monotonic() + 60
    while len(REMOTE_TRACES):
        assert time.monotonic() < end
        time.sleep(0.05)
    REMOTE_TRACES.settle(joined)  # it is over already
    assert dspy_traces.tree() == [bare("Runs", ok("own", "UNKNOWN"))]


def test_mlflow_forgets_what_goes_on(dspy_traces):
    """MLflow's own way to continue a trace forgets it at its end; what goes on is stored all the same."""
    headers = sent()
    with continue_trace(headers):
        with mlflow.tracing.set_tracing_context_from_http_request_headers(headers):
            pass
        with continue_trace(headers), mlflow.start_span("own"):
            pass
    assert dspy_traces.tree() == [bare("Runs", ok("own", "UNKNOWN"))]


# What is not recorded


@pytest.mark.parametrize(
    "options", [{"sampling_ratio": 0.0}, {"middleware": [RatioSampler(0.0)]}, {"exclude": ["Runs"]}]
)
def test_what_the_sender_leaves_out_is_left_out(dspy_traces, options):
    """Below a call that is sampled or filtered out nothing is recorded elsewhere either, whatever the ratio there."""
    headers = sent(**options)
    assert headers["traceparent"].endswith("-00")
    with continue_trace(headers):
        Echo()()
    assert dspy_traces.all() == []


def test_what_is_suppressed_is_suppressed_elsewhere(dspy_traces):
    """Inside `suppress_tracing` headers say that nothing is recorded."""
    with suppress_tracing():
        headers = inject_headers()
    with continue_trace(headers):
        Echo()()
    assert dspy_traces.all() == []
    inside = {}
    Runs(lambda _: suppress_tracing()(inject_headers)(inside))()
    (span,) = dspy_traces.spans(name="Runs")
    assert inside["traceparent"] == f"00-{span.trace_id.removeprefix('tr-')}-{span.span_id}-00"


@pytest.mark.parametrize("flags", ["00", "02"])
def test_a_foreign_decision_is_obeyed(dspy_traces, flags):
    """Whoever made the headers: what is not sampled there is not recorded here."""
    with continue_trace({"traceparent": FOREIGN[:-2] + flags}):
        Echo()()
    assert dspy_traces.all() == []


# Without headers


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        {"traceparent": ""},
        {"traceparent": "00-0-0-01"},
        {"traceparent": f"00-{0:032x}-{1:016x}-01"},
        {"traceparent": f"ff-{1:032x}-{1:016x}-01"},
        {"traceparent": FOREIGN.upper()},
        [("traceparent", FOREIGN), ("Traceparent", FOREIGN)],
        {"other": "header", 5: None},
    ],
)
def test_missing_or_malformed_headers_begin_a_trace(dspy_traces, headers):
    """Without headers that make sense a new trace begins, quietly, also inside another one."""

    def call(_):
        with continue_trace(headers):
            Echo()()

    Runs(call)()
    assert sorted(map(tree, dspy_traces.all())) == [[bare("Echo")], [bare("Runs")]]


def test_without_a_trace(dspy_traces):
    """Where no trace runs, headers say what traces that begin there belong to, and so do those that begin elsewhere."""
    with trace_context(session_id="seven", user="ann", tags={"team": "search"}), mlflow.start_run() as run:
        headers = inject_headers()
    assert "traceparent" not in headers
    with continue_trace(headers):
        assert inject_headers() == headers
        Echo()()
    trace = dspy_traces.one()
    assert run_of(trace) == run.info.run_id
    assert trace.info.tags["team"] == "search"
    assert trace.info.trace_metadata["mlflow.trace.session"] == "seven"
    assert trace.info.trace_metadata["mlflow.trace.user"] == "ann"


def test_the_experiment_travels(dspy_traces):
    """What begins or goes on under headers is stored in the sender's experiment, whichever is active here."""
    begun = inject_headers()
    going_on = sent()
    here = mlflow.set_experiment("another one").experiment_id
    for headers in (begun, going_on):
        with continue_trace(headers):
            Echo()()
    assert sorted(map(tree, dspy_traces.all())) == [[bare("Echo")], [bare("Runs", bare("Echo"))]]
    assert mlflow.search_traces(locations=[here], return_type="list") == []


def test_a_part_that_is_stored_first_makes_the_trace_where_it_belongs(dspy_traces):
    """A part that is stored before its trace's root puts the trace into the sender's experiment."""
    drawn = random.getrandbits(128) or 1
    headers = inject_headers() | {"traceparent": f"00-{drawn:032x}-{0xDEF:016x}-01"}
    mlflow.set_experiment("another one")
    with continue_trace(headers):
        Echo()()
    (span,) = dspy_traces.spans()
    assert (span.name, span.trace_id, span.parent_id) == ("Echo", f"tr-{drawn:032x}", f"{0xDEF:016x}")


# Other makes of headers


def test_mlflows_own_headers_continue(dspy_traces):
    """What `mlflow.tracing.get_tracing_context_headers_for_http_request` makes is continued as well."""
    headers = {}
    Runs(lambda _: headers.update(mlflow.tracing.get_tracing_context_headers_for_http_request()))()
    with continue_trace(headers):
        Echo()()
    assert dspy_traces.tree() == [bare("Runs", bare("Echo"))]


def test_mlflow_continues_ours(dspy_traces):
    """`mlflow.tracing.set_tracing_context_from_http_request_headers` takes what `inject_headers` makes."""
    with mlflow.tracing.set_tracing_context_from_http_request_headers(sent()):
        Echo()()
        mlflow.flush_trace_async_logging()
    assert dspy_traces.tree() == [bare("Runs", bare("Echo"))]


def test_the_state_of_others_goes_on(dspy_traces):
    """`tracestate` and baggage of other makers go on from a part to the next process."""
    headers = [
        (b"Traceparent", FOREIGN.encode()),
        (b"TraceState", b"v=1, w@x=2"),
        (b"Baggage", b"a=b%20c;p=1,bad entry"),
    ]
    with continue_trace(headers):
        on = sent()
    assert on["tracestate"] == "v=1,w@x=2"
    assert baggage_of(on)["a"] == "b c"


def test_baggage_that_is_there_stays(dspy_traces):
    """Headers that have baggage keep it."""
    carrier = {"baggage": "mine=1"}
    assert inject_headers(carrier) is carrier
    assert baggage_of(carrier) == {"mine": "1", "mlflow.experiment.id": dspy_traces.experiment_id}


@pytest.mark.parametrize("carrier", [5, "text", ["list"]])
def test_a_carrier_that_takes_nothing_is_refused(carrier):
    """`inject_headers` names what it was given and what it needs."""
    with pytest.raises(TypeError, match="carrier must be a mapping that texts can be put into, got"):
        inject_headers(carrier)


@pytest.mark.parametrize("headers", [5, "text", [1, 2]])
def test_headers_of_another_type_are_refused(headers):
    """`continue_trace` takes mappings and pairs."""
    with pytest.raises(TypeError, match="headers must be a mapping of names to values, or pairs of them, got"):
        continue_trace(headers)


# What travels, and what does not


def test_neither_content_nor_secrets_travel(dspy_traces):
    """Inputs do not travel, and what redaction takes out of tags does not either."""
    tags = {"api_key": "hunter2", "note": "password=hunter2", "team": "search"}
    with trace_context(tags=tags, metadata={"commit": "abc"}):
        headers = sent(around=lambda: Echo()(question="an odd question"))
    assert "hunter2" not in json.dumps(headers)
    assert "odd" not in json.dumps(headers)
    assert baggage_of(headers)["dspy_mlflow.tag.team"] == "search"


def test_a_step_that_fails_withholds(dspy_traces, warned):
    """A payload step that fails lets nothing travel of what it was to see."""

    def broken(payload):
        raise ValueError("no luck")

    with trace_context(tags={"team": "search"}), dspy.context(callbacks=[MlflowCallback(payload_steps=[broken])]):
        headers = inject_headers()
    assert "search" not in json.dumps(headers)
    assert "what it was to see does not travel" in warned.messages.pop()
    warned.messages.clear()


test_a_step_that_fails_withholds = pytest.mark.warns(test_a_step_that_fails_withholds)


@pytest.mark.warns
def test_what_does_not_fit_is_left_out(dspy_traces, warned, monkeypatch):
    """What baggage has no room for is left out, counted and warned of once; what matters most goes first."""
    left_out = baggage_module.LeftOut()
    monkeypatch.setattr(baggage_module.with_belongings, "__defaults__", (left_out,))
    tags = {f"tag{number}": "x" * 100 for number in range(200)} | {"long": "y" * 4096}
    with trace_context(tags=tags, session_id="seven"):
        for _ in range(2):
            headers = inject_headers()
    said = baggage_of(headers)
    assert len(headers["baggage"]) <= 8192
    assert (said["session.id"], said["mlflow.experiment.id"]) == ("seven", dspy_traces.experiment_id)
    kept = sum(name.startswith("dspy_mlflow.tag.") for name in said)
    assert 0 < kept < 180
    assert left_out.count == 2 * (len(tags) - kept)
    (message,) = warned.messages
    assert message.startswith("Headers have no room for all that belongs to a trace: tag")


@pytest.mark.warns
def test_no_more_entries_than_w3c_allows(dspy_traces):
    """Baggage has at most 180 entries."""
    with trace_context(tags={f"{number}": "x" for number in range(300)}):
        assert len(inject_headers()["baggage"].split(",")) == 180


NARROW = {"capture_inputs": False, "redact_fields": ["question"], "max_payload_chars": 50, "level": "info"}


def test_what_narrows_travels(dspy_traces):
    """Options that narrow what is recorded of a trace hold in its parts too."""
    dspy.settings.configure(lm=answering())
    headers = sent(**NARROW)
    with continue_trace(headers):
        dspy.Predict("question -> answer")(question="an odd question")
    assert ordered(dspy_traces.tree()) == [bare("Runs", bare("Predict", ok("dummy", "CHAT_MODEL")))]
    assert {span.inputs for span in dspy_traces.spans(name="Predict")} == {None}


def test_headers_widen_nothing(dspy_traces):
    """Headers of a sender that records everything switch on nothing here that is off, and redaction not off."""
    headers = sent(redact=False, max_payload_chars=10_000, sampling_ratio=1.0)
    callback = MlflowCallback(capture_inputs=False, max_payload_chars=60)
    with dspy.context(callbacks=[callback]), continue_trace(headers):
        (here,) = dspy.settings.callbacks
        Echo()(question="an odd question")
    assert here is callback
    assert [span.inputs for span in dspy_traces.spans(name="Echo")] == [None]


def test_wrong_options_are_ignored(dspy_traces):
    """Of options in headers what is unknown, wrong or no JSON is left out, and the rest holds."""
    said = {"capture_inputs": False, "redact_patterns": ["("], "level": 5, "tracking_uri": "x", "enabled": False}
    for text in (json.dumps(said), "{", "[]"):
        entry = W3CBaggagePropagator()
        carrier = {}
        entry.inject(carrier, baggage_module.baggage.set_baggage("dspy_mlflow.config", text))
        with continue_trace(carrier):
            config = dspy.settings.callbacks[0].config
        assert set(config.changed()) - {"engine", "spool_dir"} <= {"capture_inputs"}
        assert config.capture_inputs is (text != json.dumps(said))


def test_own_payload_steps_stay(dspy_traces):
    """A callback's own payload steps run here first, and what headers narrow comes after them."""

    def shout(payload):
        return payload.with_text(payload.text.upper())

    headers = sent(max_payload_chars=40)
    with dspy.context(callbacks=[MlflowCallback(payload_steps=[shout])]), continue_trace(headers):
        Echo()(question="an odd question " * 10)
    (echo,) = dspy_traces.spans(name="Echo")
    assert "AN ODD" in str(echo.inputs)
    assert len(str(echo.inputs)) < 150


@pytest.mark.parametrize("allow", [(), ["session"], "user", ["trace", "experiment"]])
def test_what_headers_may_say(dspy_traces, allow):
    """A receiver reads of headers what it allows, and nothing else."""
    with trace_context(session_id="seven", user="ann", tags={"team": "search"}):
        headers = sent(capture_inputs=False)
    with continue_trace(headers, allow=allow):
        Echo()()
        on = inject_headers()
    parts = {allow} if isinstance(allow, str) else set(allow)
    said = baggage_of(on)
    names = {"session": "session.id", "user": "user.id", "tags": "dspy_mlflow.tag.team", "config": "dspy_mlflow.config"}
    assert {part for part, name in names.items() if name in said} == parts - {"trace", "experiment"}
    trees = sorted(map(tree, dspy_traces.all()))
    assert trees == ([[bare("Runs", bare("Echo"))]] if "trace" in parts else [[bare("Echo")], [bare("Runs")]])


def test_an_unknown_part_is_refused():
    """*allow* names what it was given and what is allowed."""
    with pytest.raises(ValueError, match=r"allow must be of trace, experiment, .*, got tracking_uri"):
        continue_trace({}, allow=["tracking_uri"])


def test_tags_of_mlflows_own_are_refused(dspy_traces):
    """Headers set no tag of MLflow's, such as where a trace's artifacts are, and none longer than MLflow stores."""
    carrier = {
        "baggage": f"dspy_mlflow.tag.mlflow.artifactLocation=x,dspy_mlflow.tag.{'k' * 251}=x,dspy_mlflow.tag.a=b"
    }
    carrier["baggage"] += f",session.id={'s' * 300},mlflow.experiment.id=..%2Fx"
    with continue_trace(carrier):
        Echo()()
    info = dspy_traces.one().info
    assert "x" not in info.tags.values()
    assert info.tags["a"] == "b"
    assert info.trace_metadata["mlflow.trace.session"] == "s" * 250


# Every kind of function


def kinds():
    """Return functions of each kind, by name, that call a program, and what runs them."""

    async def coroutine():
        return await Echo().acall()

    def generator():
        yield Echo()()
        yield Echo()()

    async def async_generator():
        yield await Echo().acall()
        yield await Echo().acall()

    async def read(function):
        return [each async for each in function()]

    return {
        "function": (functools.partial(Echo()), lambda function: function()),
        "coroutine": (coroutine, lambda function: asyncio.run(function())),
        "generator": (generator, lambda function: list(function())),
        "async generator": (async_generator, lambda function: asyncio.run(read(function))),
        "callable": (Echo(), lambda function: function()),
    }


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_function(dspy_traces, kind):
    """`continue_trace` decorates functions, coroutine functions and generator functions, sync and async."""
    headers = sent()
    function, run = kinds()[kind]
    run(continue_trace(headers)(function))
    times = 2 if "generator" in kind else 1
    assert dspy_traces.tree() == [bare("Runs", *[bare("Echo")] * times)]


def test_async_with(dspy_traces):
    """`async with` works as `with` does, and one scope may be open in many tasks at once."""
    scope = continue_trace(sent())

    async def part():
        async with scope:
            await asyncio.sleep(0)
            await Echo().acall()

    async def main():
        await asyncio.gather(*[part() for _ in range(5)])

    asyncio.run(main())
    assert dspy_traces.tree() == [bare("Runs", *[bare("Echo")] * 5)]


def test_a_scope_says_what_it_is():
    """Its repr says which trace goes on."""
    assert repr(continue_trace({"traceparent": FOREIGN})) == f"ContinuedTrace({FOREIGN})"
    assert repr(continue_trace({})) == "ContinuedTrace(a new trace)"


def test_after_the_block_all_is_as_before(dspy_traces):
    """The block leaves MLflow's context, DSPy's and the scopes as they were."""
    with trace_context(tags={"a": "b"}):
        before = inject_headers()
        with continue_trace(sent(**NARROW)):
            assert inject_headers() != before
        assert inject_headers() == before


def test_random_orders(dspy_traces):
    """Parts that begin and end in any order, interleaved, each arrive once."""
    headers = sent()
    seeded = random.Random(7)
    scopes = [continue_trace(headers) for _ in range(6)]

    async def part(scope):
        for _ in range(seeded.randrange(3)):
            await asyncio.sleep(0)
        async with scope:
            for _ in range(seeded.randrange(3)):
                await asyncio.sleep(0)
            await Echo().acall()

    async def main():
        await asyncio.gather(*map(part, scopes))

    asyncio.run(main())
    assert dspy_traces.tree() == [bare("Runs", *[bare("Echo")] * 6)]


# When something fails


class Refuses(dict):
    """Takes no headers."""

    def __setitem__(self, key, value):
        raise OSError("no luck")


class Raises(SpanProcessor):
    """Fails when it is asked for what it has."""

    def force_flush(self, timeout_millis=0):
        raise OSError("no luck")


@pytest.mark.warns
def test_a_call_goes_out_without_its_trace(dspy_traces, warned):
    """Where headers cannot be written, the call goes out without them, with one warning."""
    carrier = Refuses()
    for _ in range(2):
        assert inject_headers(carrier) is carrier
    assert warned.messages == ["A call to another process goes out without its trace: OSError('no luck')"]


class Unprintable:
    """Fails when it is printed."""

    def __repr__(self):
        raise OSError("no luck")


@pytest.mark.warns
@pytest.mark.engine("native")
def test_a_part_whose_span_is_lost(dspy_traces, warned):
    """Where the span of a part cannot be opened, its program runs, and nothing of the trace is kept here."""
    headers = sent()

    def tag(call):
        return attrs.evolve(call, tags={"team": Unprintable()})

    with dspy.context(callbacks=[MlflowCallback(middleware=[tag])]), continue_trace(headers):
        assert Echo()() == "why?"
    (message,) = warned.messages
    assert "OSError('no luck')" in message
    assert mlflow.get_current_active_span() is None


@pytest.mark.warns
def test_work_runs_without_a_trace(dspy_traces, warned):
    """Where a trace cannot be continued, the work runs all the same, with one warning."""
    headers = sent(capture_inputs=False)
    with dspy.context(callbacks=5), continue_trace(headers):
        pass
    (message,) = warned.messages
    assert message.startswith("Another process's trace is not continued: TypeError(")


@pytest.mark.warns
@pytest.mark.engine("native")
def test_work_ends_where_its_trace_cannot_be_left(dspy_traces, warned):
    """Where what is in the way of a trace's end fails, the work is over all the same, with one warning."""
    headers = sent()
    mlflow.tracing.reset()
    mlflow_internals.tracer().provider.add_span_processor(Raises())
    with continue_trace(headers), mlflow.start_span("own"):
        pass
    mlflow.tracing.reset()
    REMOTE_TRACES._begin()  # it is still joined
    assert warned.messages == ["Another process's trace is not left as it should be: OSError('no luck')"]


def test_a_part_that_began_before_a_fork(dspy_traces):
    """A forked process leaves what its parent has joined, and joins anew."""
    REMOTE_TRACES.leave(5)
    with continue_trace(sent()):
        REMOTE_TRACES._begin()
    assert len(REMOTE_TRACES) == 0
