"""Light spans become MLflow's live spans when somebody looks, and only then: one test for each way to look."""

from __future__ import annotations

import asyncio
import threading

import dspy
import litellm
import mlflow
import pytest
from dspy.utils.callback import BaseCallback
from expected import FORMAT, PARSE, bare, ok
from mlflow.entities import SpanEvent, SpanStatusCode
from mlflow.tracing.distributed import (
    get_tracing_context_headers_for_http_request,
    set_tracing_context_from_http_request_headers,
)
from mlflow.tracing.trace_manager import InMemoryTraceManager
from offline_lm import OfflineLM
from openai_server import MODEL, usage
from programs import Program, Runs, predict_tree, program_tree

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.spans import recorded
from dspy_mlflow_callbacks.spans.light_spans import LightSpan
from dspy_mlflow_callbacks.spans.open_spans import OPEN_SPANS
from dspy_mlflow_callbacks.testing.captured import tree

pytestmark = pytest.mark.usefixtures("dspy_traces", "nothing_open")


@pytest.fixture(autouse=True)
def _recorded(dspy_traces):
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback(engine="recorded")]):
        yield
    assert in_mlflow() == []


def in_mlflow():
    """Return the ids of the traces that MLflow has in memory."""
    return list(InMemoryTraceManager.get_instance()._traces)


class LookingLM(OfflineLM):
    """An LM during whose call something is done."""

    def __init__(self, look):
        super().__init__()
        self.look = look

    def forward(self, *args, **kwargs):
        self.look()
        return super().forward(*args, **kwargs)


class Echoing(Runs):
    """Another name in a trace."""


def in_a_module(look):
    Runs(lambda _: look())()


def in_a_tool(look):
    def tool():
        look()

    Runs(lambda _: dspy.Tool(tool)())()


def in_an_lm(look):
    with dspy.context(lm=LookingLM(look)):
        Runs(lambda _: dspy.Predict("question -> answer")(question="why?"))()


PLACES = {"module": ("Runs", in_a_module), "tool": ("tool", in_a_tool), "lm": ("dummy", in_an_lm)}
everywhere = pytest.mark.parametrize(("name", "run"), PLACES.values(), ids=PLACES)


def current():
    return mlflow.get_current_active_span()


@everywhere
def test_what_is_set_on_the_current_span_is_stored(dspy_traces, name, run):
    """Attributes, inputs and events that the program puts on MLflow's active span are on the stored one."""

    def look():
        span = current()
        assert span.name == name
        span.set_attribute("mine", {"a": [1, 2]})
        span.set_attributes({"more": "text"})
        span.set_inputs({"chosen": "input"})
        span.add_event(SpanEvent("happened", attributes={"where": "here"}))

    run(look)
    (span,) = dspy_traces.spans(name=name)
    assert (span.get_attribute("mine"), span.get_attribute("more")) == ({"a": [1, 2]}, "text")
    assert span.inputs == {"chosen": "input"}
    assert [(event.name, event.attributes) for event in span.events] == [("happened", {"where": "here"})]


@everywhere
def test_a_status_and_an_exception_stay(dspy_traces, name, run):
    """A status of error and an exception that the program notes on its span are stored, though the call returns."""

    def look():
        current().set_status("ERROR")
        current().record_exception(ValueError("noted"))

    run(look)
    (span,) = dspy_traces.spans(name=name)
    assert span.status.status_code is SpanStatusCode.ERROR
    (event,) = span.events
    assert event.attributes["exception.message"] == "noted"


@everywhere
def test_the_type_and_ids_of_the_current_span_are_those_of_the_stored_one(dspy_traces, name, run):
    """The live span says the ids, the parent and the type that are stored."""
    seen = []
    run(lambda: seen.append([current().trace_id, current().span_id, current().parent_id, current().span_type]))
    (span,) = dspy_traces.spans(name=name)
    assert seen == [[span.trace_id, span.span_id, span.parent_id, span.span_type]]


@mlflow.trace(name="traced")
def traced(do):
    return do()


@mlflow.trace(name="traced")
async def traced_async(do):
    return do()


@mlflow.trace(name="traced")
def traced_generator(do):
    yield do()


def in_a_span(do):
    with mlflow.start_span("traced"):
        return do()


def in_a_span_of_its_own_context(do):
    span = mlflow.start_span_no_context("traced", parent_span=current())
    try:
        return do()
    finally:
        span.end()


WAYS = {
    "start_span": in_a_span,
    "trace": traced,
    "trace async": lambda do: asyncio.run(traced_async(do)),
    "trace generator": lambda do: list(traced_generator(do)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_users_span_stands_between(dspy_traces, way):
    """A span that the program opens below a module is its child, and the parent of the DSPy calls inside it."""
    Runs(lambda _: way(lambda: dspy.Predict("question -> answer")(question="why?")))()
    assert dspy_traces.tree() == [bare("Runs", ok("traced", "UNKNOWN", predict_tree()))]


def test_a_span_without_context_stands_beside(dspy_traces):
    """A span that the program opens out of the context is a child of its parent, and encloses nothing."""
    Runs(lambda _: in_a_span_of_its_own_context(lambda: dspy.Predict("question -> answer")(question="why?")))()
    assert dspy_traces.tree() == [bare("Runs", ok("traced", "UNKNOWN"), predict_tree())]


@pytest.mark.parametrize("way", [*WAYS.values(), in_a_span_of_its_own_context])
def test_a_users_span_below_an_lm_and_a_tool(dspy_traces, way):
    """A span that an LM's engine or a tool opens is a child of theirs."""
    in_an_lm(lambda: way(lambda: None))
    in_a_tool(lambda: way(lambda: None))
    mine = ok("traced", "UNKNOWN")
    predict = ok("Predict", "CHAIN", FORMAT, ok("dummy", "CHAT_MODEL", mine), PARSE)
    assert [tree(each) for each in dspy_traces.all()] == [
        [bare("Runs", predict)],
        [bare("Runs", ok("tool", "TOOL", mine))],
    ]


def test_nested_in_turns(dspy_traces):
    """DSPy, the user's span, DSPy and the user's span again nest as they are called."""
    inner = Runs(lambda _: in_a_span(lambda: current().set_attribute("mine", 1)))
    Runs(lambda _: in_a_span(inner))()
    traced_span = ok("traced", "UNKNOWN")
    assert dspy_traces.tree() == [bare("Runs", ok("traced", "UNKNOWN", bare("Runs", traced_span)))]
    assert [span.get_attribute("mine") for span in dspy_traces.spans(name="traced")] == [None, 1]


@everywhere
def test_the_trace_is_updated_from_anywhere(dspy_traces, name, run):
    """What `update_current_trace` sets from a module, an LM or a tool is the stored trace's."""

    def look():
        session = {"mlflow.trace.session": "session", "mlflow.trace.user": "ann"}  # as arguments only since MLflow 3.14
        mlflow.update_current_trace(
            tags={"tag": "1"},
            metadata={"meta": "2", **session},
            client_request_id="id",
            request_preview="asked",
            response_preview="said",
            state="ERROR",
        )

    run(look)
    info = dspy_traces.one().info
    assert info.tags["tag"] == "1"
    expected = {"meta": "2", "mlflow.trace.session": "session", "mlflow.trace.user": "ann"}
    assert {key: info.trace_metadata.get(key) for key in expected} == expected
    assert (info.client_request_id, info.request_preview, info.response_preview) == ("id", "asked", "said")
    assert info.state.value == "ERROR"


@everywhere
def test_the_active_and_the_last_trace_are_the_stored_one(dspy_traces, name, run):
    """`get_active_trace_id` inside a call and `get_last_active_trace_id` after it say the stored trace's id."""
    seen = []
    run(lambda: seen.append(mlflow.get_active_trace_id()))
    trace_id = dspy_traces.one().info.trace_id
    assert seen == [trace_id]
    assert mlflow.get_active_trace_id() is None
    assert mlflow.get_last_active_trace_id() == mlflow.get_last_active_trace_id(thread_local=True) == trace_id


def test_each_thread_has_its_last_trace(dspy_traces):
    """The last trace of a thread is that of the root that ended in it."""
    seen, program, settings = {}, Program(), dict(lm=OfflineLM(), callbacks=dspy.settings.callbacks)

    def work(number):
        with dspy.context(**settings):
            program(question=f"question {number}")
        seen[mlflow.get_last_active_trace_id(thread_local=True)] = f'{{"question":"question {number}"}}'

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {trace.info.trace_id: trace.info.request_preview for trace in dspy_traces.all()} == seen


@pytest.fixture
def _no_autolog(monkeypatch):
    for name in (
        "callbacks",
        "success_callback",
        "failure_callback",
        "_async_success_callback",
        "_async_failure_callback",
    ):
        monkeypatch.setattr(litellm, name, list(getattr(litellm, name)))  # MLflow leaves itself in some of them
    yield
    mlflow.openai.autolog(disable=True)
    mlflow.litellm.autolog(disable=True)


@pytest.mark.usefixtures("_no_autolog")
def test_openais_autolog_nests_below_the_lm(dspy_traces, openai_server):
    """A client's call that `mlflow.openai.autolog` records during an LM's call is a child of the LM's span."""
    openai = pytest.importorskip("openai")
    mlflow.openai.autolog()
    client = openai.OpenAI(base_url=openai_server.url, api_key="sk-secret")
    in_an_lm(lambda: client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "why?"}]))
    completions = ok("Completions", "CHAT_MODEL")
    assert dspy_traces.tree() == [
        bare("Runs", ok("Predict", "CHAIN", FORMAT, ok("dummy", "CHAT_MODEL", completions), PARSE))
    ]


@pytest.mark.usefixtures("_no_autolog")
def test_litellms_autolog_nests_below_the_lm(dspy_traces, openai_server):
    """What `mlflow.litellm.autolog` records of an LM that calls LiteLLM is a child of the LM's span, counted once."""
    mlflow.litellm.autolog()
    with dspy.context(lm=openai_server.lm("litellm")):
        Runs(lambda _: dspy.settings.lm("why?"))()
    trace = dspy_traces.one()
    by_name = {span.name: span for span in trace.data.spans}
    (lm,) = dspy_traces.spans(kind="lm")
    assert by_name["litellm-completion"].parent_id == lm.span_id
    counts = usage()
    assert trace.info.token_usage["total_tokens"] == counts["total_tokens"]


def test_headers_carry_the_trace_and_the_span(dspy_traces):
    """The headers for another process say the ids of the running span and that it is sampled."""
    headers = {}
    in_a_tool(lambda: headers.update(get_tracing_context_headers_for_http_request()))
    (span,) = dspy_traces.spans(name="tool")
    assert headers["traceparent"] == f"00-{span.trace_id.removeprefix('tr-')}-{span.span_id}-01"


def test_a_program_below_a_remote_parent_joins_its_trace(dspy_traces):
    """Below headers from another process a program's spans are part of that trace, below the span that sent them."""
    headers = {}

    in_a_tool(lambda: headers.update(get_tracing_context_headers_for_http_request()))
    with set_tracing_context_from_http_request_headers(headers):
        Program()(question="why?")
    mlflow.flush_trace_async_logging()
    assert dspy_traces.tree() == [bare("Runs", ok("tool", "TOOL", program_tree()))]


def test_a_look_below_a_remote_parent_is_a_look(dspy_traces):
    """Below a remote parent too, the module's span can be looked at and the user's own nest below it."""
    headers = {}
    in_a_tool(lambda: headers.update(get_tracing_context_headers_for_http_request()))

    def look(_):
        current().set_attribute("mine", 1)
        with mlflow.start_span("traced"):
            pass

    with set_tracing_context_from_http_request_headers(headers):
        Runs(look)()
    assert dspy_traces.tree() == [bare("Runs", ok("tool", "TOOL", bare("Runs", ok("traced", "UNKNOWN"))))]
    assert dspy_traces.spans(name="Runs")[1].get_attribute("mine") == 1


def test_a_remote_parent_that_is_sampled_out_is_obeyed(dspy_traces):
    """Below headers of a trace that is not sampled a program leaves nothing."""
    headers = {"traceparent": f"00-{1:032x}-{2:016x}-00"}
    with set_tracing_context_from_http_request_headers(headers):
        Program()(question="why?")
    assert dspy_traces.all() == []


class Watches(BaseCallback):
    """Looks, at the start and the end of each call, whether MLflow knows of a trace."""

    def __init__(self):
        super().__init__()
        self.seen, self.light = [], []

    def on_module_start(self, call_id, instance, inputs):
        self._note()

    def on_lm_end(self, call_id, outputs, exception):
        self._note()

    def _note(self):
        self.seen.append(in_mlflow())
        self.light += [isinstance(call.span, LightSpan) for call in OPEN_SPANS.calls()]


@pytest.mark.parametrize("tags", [{}, {"team": "search"}])
def test_nobody_looks(dspy_traces, tags):
    """While nobody looks MLflow has none of the trace in memory, be it that the callback has tags."""
    watches = Watches()
    with dspy.context(callbacks=[MlflowCallback(engine="recorded", tags=tags, session_id="session"), watches]):
        Program()(question="why?")
    assert watches.seen == [[]] * 4
    assert watches.light
    assert all(watches.light)
    assert dspy_traces.tree() == [program_tree()]


def test_a_call_that_ends_while_another_thread_looks(dspy_traces, monkeypatch):
    """What a call returns is stored also where another thread describes its span as the call ends."""
    looks, ended = threading.Event(), threading.Event()
    describe = recorded.opening_attributes

    def slowly(*arguments):
        described = describe(*arguments)
        if not ended.is_set():
            looks.set()
            assert ended.wait(timeout=60)
        return described

    def inner(_):
        span = OPEN_SPANS.calls()[-1].span
        threads.append(threading.Thread(target=lambda: span.texts))
        threads[0].start()
        assert looks.wait(timeout=60)
        return "said"

    def outer(_):
        Echoing(inner)()
        ended.set()
        threads[0].join()

    threads = []
    monkeypatch.setattr(recorded, "opening_attributes", slowly)
    Runs(outer)()
    (span,) = dspy_traces.spans(name="Echoing")
    assert span.outputs == "said"
