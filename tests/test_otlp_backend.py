"""Traces that MLflow sends to an OTLP backend, and what one that is not MLflow reads there."""

from __future__ import annotations

import json
from contextlib import nullcontext

import dspy
import mlflow
import pytest
from dspy.utils.dummies import DummyVectorizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.tracing.constant import SpanAttributeKey
from openai_server import MODEL, TOOL_BACKENDS, backends, chat, choice, error, text_completion, tool_call, usage
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Status, StatusCode
from otlp_collector import attributes, gen_ai
from programs import PROGRAM_SPANS, Program, Runs, answering

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.spans import gen_ai as conventions

# LiteLLM's models make pydantic warn when they are first used.
pytestmark = pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning")

SENDS_TAGS = hasattr(SpanAttributeKey, "TRACE_TAG_PREFIX")  # MLflow did not always

SECRET = "sk-proj-" + "Secret7" * 6
CLIENT, INTERNAL = 3, 1  # kinds of spans in OTLP


def text(said):
    """Return a part of a message."""
    return {"type": "text", "content": said}


def user(*parts):
    """Return a message of the user's."""
    return {"role": "user", "parts": list(parts)}


def answer(*parts, finish_reason="stop"):
    """Return a message of the LM's."""
    return {"role": "assistant", "parts": list(parts), "finish_reason": finish_reason}


def plain(**changes):
    """Return what a plain call's span says, with *changes*; None takes a fact away."""
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.response.model": MODEL,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.input.messages": [user(text("why?"))],
        "gen_ai.output.messages": [answer(text("42"))],
    }
    said.update({f"gen_ai.{name.replace('__', '.')}": value for name, value in changes.items()})
    return {name: value for name, value in said.items() if value is not None}


@backends
def test_a_chat(openai_server, collector, backend):
    """The span of a call has operation, provider, models, parameters, messages, tokens and finish reason."""
    openai_server.script(chat(counts=usage(cached=30, reasoning=5)))
    lm = openai_server.lm(backend, temperature=0.5, max_tokens=50)
    lm(messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "why?"}], seed=7)
    assert collector.gen_ai() == [
        plain(
            request__temperature=0.5,
            request__max_tokens=50,
            request__seed=7,
            usage__cache_read__input_tokens=30,
            usage__reasoning__output_tokens=5,
            input__messages=[{"role": "system", "parts": [text("Be brief.")]}, user(text("why?"))],
        )
    ]


def test_a_program(collector):
    """All spans of a trace arrive under their names with what MLflow says of them; those of LMs say it in both ways."""
    dspy.configure(lm=answering())
    Program()(question="why?")
    spans = collector.spans()
    assert [span.name for span in spans] == PROGRAM_SPANS
    assert [bool(gen_ai(attributes(span))) for span in spans] == [name == "dummy" for name in PROGRAM_SPANS]
    assert json.loads(attributes(spans[0])["mlflow.spanInputs"]) == {"question": "why?"}
    assert {span.trace_id for span in spans} == {spans[0].trace_id}


WEATHER = {
    "name": "weather",
    "description": "Tell the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.mark.parametrize("backend", TOOL_BACKENDS)
def test_tool_calls(openai_server, collector, backend):
    """Tools, the LM's calls of them and their results stand in definitions and messages, arguments as values."""
    called = tool_call("weather", {"city": "Rome"}, "call_2")
    openai_server.script(chat(choice(None, finish_reason="tool_calls", tool_calls=[called])))
    messages = [
        {"role": "user", "content": "Paris and Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [tool_call("weather", {"city": "Paris"})]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rainy"},
    ]
    openai_server.lm(backend)(messages=messages, tools=[{"type": "function", "function": WEATHER}])
    paris, rome = (
        {"type": "tool_call", "id": call_id, "name": "weather", "arguments": {"city": city}}
        for call_id, city in (("call_1", "Paris"), ("call_2", "Rome"))
    )
    assert collector.gen_ai() == [
        plain(
            response__finish_reasons=["tool_calls"],
            input__messages=[
                user(text("Paris and Rome?")),
                {"role": "assistant", "parts": [paris]},
                {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1", "response": "rainy"}]},
            ],
            output__messages=[answer(rome, finish_reason="tool_call")],
            tool__definitions=[{"type": "function", **WEATHER}],
        )
    ]


def weather(city: str) -> str:
    """Tell the weather."""
    return f"rainy in {city}"


REACTS = [
    {"next_thought": "look", "next_tool_name": "weather", "next_tool_args": '{"city": "Paris"}'},
    {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": "{}"},
    {"reasoning": "it said so", "answer": "rainy"},
]


def test_an_agent(collector):
    """An agent's span has its name, a tool's span name, description, arguments and result."""
    dspy.configure(lm=answering(*REACTS))
    dspy.ReAct("question -> answer", tools=[weather])(question="weather?")
    said = collector.gen_ai()
    assert [each["gen_ai.operation.name"] for each in said] == [
        "invoke_agent",
        *("chat", "execute_tool"),
        *("chat", "execute_tool"),
        "chat",
    ]
    assert said[0] == {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "ReAct"}
    assert said[2] == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "weather",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.description": "Tell the weather.",
        "gen_ai.tool.call.arguments": {"city": "Paris"},
        "gen_ai.tool.call.result": "rainy in Paris",
    }


@backends
def test_two_completions(openai_server, collector, backend):
    """With `n=2` there are two answers, each with its finish reason."""
    openai_server.script(lambda body: chat(*[choice(index=index) for index in range(body.get("n") or 1)]))
    openai_server.lm(backend)("why?", n=2)
    sent = len(openai_server.requests)
    assert collector.gen_ai() == [
        plain(
            request__choice__count=2,
            response__finish_reasons=["stop", "stop"],
            usage__input_tokens=100 * sent,
            usage__output_tokens=20 * sent,
            output__messages=[answer(text("42")), answer(text("42"))],
        )
    ]


@backends
def test_a_failed_call(openai_server, collector, backend):
    """The span of a call that failed says by which error, and what was asked."""
    openai_server.script(error(400, "no"))
    with pytest.raises(Exception, match="no") as raised:
        openai_server.lm(backend)("why?")
    [said] = collector.gen_ai()
    error_type = said.pop("error.type")
    ends = dict.fromkeys(("response__model", "response__finish_reasons", "output__messages"))
    assert said == plain(**ends, usage__input_tokens=None, usage__output_tokens=None)
    assert error_type == type(raised.value).__name__
    assert collector.spans()[0].status.code == 2


@backends
def test_a_cache_hit(openai_server, collector, backend):
    """An answer from DSPy's cache says the same, but for tokens: none were used."""
    lm = openai_server.lm(backend, cache=True)
    question = f"why, {collector.url}, {backend}?"  # that no other test has asked
    lm(question)
    lm(question)
    asked = plain(input__messages=[user(text(question))])
    tokens = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
    assert collector.gen_ai() == [asked, {name: value for name, value in asked.items() if name not in tokens}]


def test_a_text_model(openai_server, collector):
    """A text completion has its own operation; a prompt is the user's message."""
    openai_server.script(text_completion())
    openai_server.lm("litellm", model_type="text")("why?", stop=["x", "y"], top_p=1)
    assert collector.gen_ai() == [
        plain(operation__name="text_completion", request__stop_sequences=["x", "y"], request__top_p=1.0)
    ]


def test_json_is_asked_for(openai_server, collector):
    """A call that asks for JSON says so."""
    openai_server.script(chat(choice('{"answer": "42"}')))
    dspy.configure(lm=openai_server.lm("litellm"), adapter=dspy.JSONAdapter())
    dspy.Predict("question -> answer")(question="why?")
    [said] = collector.gen_ai()
    assert said["gen_ai.output.type"] == "json"


IMAGE = "iVBORw0KGgo="


@pytest.mark.parametrize("moved", [True, False])
def test_an_image(openai_server, collector, monkeypatch, moved):
    """An image is a part of its message: a reference where MLflow moves it to an attachment, else its data."""
    monkeypatch.setenv("MLFLOW_TRACE_EXTRACT_ATTACHMENTS", str(moved).lower())
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}
    openai_server.lm("litellm")(messages=[{"role": "user", "content": [{"type": "text", "text": "what?"}, part]}])
    [said] = collector.gen_ai()
    [asked] = said["gen_ai.input.messages"]
    blob = {"type": "blob", "modality": "image", "mime_type": "image/png", "content": IMAGE}
    if moved:
        uri = asked["parts"][1].pop("uri")
        assert uri.startswith("mlflow-attachment://")
        blob = {"type": "uri", "modality": "image"}
    assert asked == user(text("what?"), blob)


def search(query: str) -> str:
    """Search with a key."""
    return f"found with {SECRET}"


def test_secrets_do_not_leave(collector):
    """What is redacted in MLflow's attributes is redacted in OpenTelemetry's: prompts, answers, arguments, results."""
    reacts = [{**REACTS[0], "next_tool_name": "search", "next_tool_args": json.dumps({"query": SECRET})}, *REACTS[1:]]
    dspy.configure(lm=answering(*reacts))
    dspy.ReAct("question -> answer", tools=[search])(question=f"Is {SECRET} a key?")
    [tool, _] = [each for each in collector.gen_ai() if each["gen_ai.operation.name"] == "execute_tool"]
    assert tool["gen_ai.tool.call.arguments"] == {"query": "[redacted]"}
    assert tool["gen_ai.tool.call.result"] == "found with [redacted]"
    assert SECRET.encode() not in b"".join(collector.received)
    assert "Is [redacted] a key?" in str(collector.gen_ai()[1]["gen_ai.input.messages"])


@backends
def test_messages_that_are_not_captured(openai_server, collector, backend):
    """With `capture_messages=False` the span of a call has all but its messages."""
    dspy.configure(callbacks=[MlflowCallback(capture_messages=False)])
    openai_server.lm(backend)("why?")
    assert collector.gen_ai() == [plain(input__messages=None, output__messages=None)]


@pytest.mark.warns
def test_a_step_that_fails(collector):
    """What a payload step withholds is withheld in both."""

    def broken(payload):
        raise RuntimeError

    dspy.configure(lm=answering(), callbacks=[MlflowCallback(payload_steps=[broken])])
    Program()(question="why?")
    assert collector.names() == PROGRAM_SPANS
    assert b"why?" not in b"".join(collector.received)


def test_the_store_gets_nothing_more(dspy_traces):
    """Where MLflow's store is the only destination, no attribute of OpenTelemetry's is made."""
    dspy.configure(lm=answering())
    Program()(question="why?")
    assert [gen_ai(span.attributes) for span in dspy_traces.spans()] == [{}] * len(PROGRAM_SPANS)


@pytest.mark.parametrize("switch", ["false", "true"])
def test_both_destinations(collector, dspy_traces, monkeypatch, switch):
    """Under dual export both have the whole trace, and the store's has nothing more than without a collector."""
    monkeypatch.setenv("MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT", "true")
    monkeypatch.setenv("MLFLOW_ENABLE_OTEL_GENAI_SEMCONV", switch)
    mlflow.tracing.reset()
    dspy.configure(lm=answering())
    Program()(question="why?")
    assert [span.name for span in dspy_traces.spans()] == PROGRAM_SPANS
    assert [gen_ai(span.attributes) for span in dspy_traces.spans()] == [{}] * len(PROGRAM_SPANS)
    sent = {
        bytes(span.span_id).hex(): gen_ai(attributes(span)).get("gen_ai.operation.name") for span in collector.spans()
    }
    assert sent == {span.span_id: "chat" if span.name == "dummy" else None for span in dspy_traces.spans()}


def test_opentelemetry_alone(collector, monkeypatch):
    """Under MLflow's switch names and kinds are the conventions' too, and MLflow's attributes stay at home.

    A span that they have no word for keeps its name; the user's own are translated by MLflow.
    """
    monkeypatch.setenv("MLFLOW_ENABLE_OTEL_GENAI_SEMCONV", "true")
    dspy.configure(lm=answering(*REACTS), callbacks=[MlflowCallback(level="info", tags={"team": "a"})])
    with mlflow.start_span("outer", span_type="CHAIN"):
        dspy.ReAct("question -> answer", tools=[weather])(question="weather?")
        Runs(dspy.Embedder(DummyVectorizer(64), caching=False))("snow")
    spans = collector.spans()
    assert [(span.name, span.kind) for span in [*spans[:5], spans[-1]]] == [
        ("CHAIN", INTERNAL),
        ("invoke_agent ReAct", INTERNAL),
        ("ReAct.react", INTERNAL),
        ("chat dummy", CLIENT),
        ("execute_tool weather", INTERNAL),
        ("embeddings Runs.function", CLIENT),
    ]
    said = [key for span in spans for key in attributes(span)]
    assert [key for key in said if key.startswith("mlflow.") and not key.startswith("mlflow.traceTag.")] == []
    assert attributes(spans[3])["gen_ai.input.messages"]


def test_a_new_tracking_store(collector, tmp_path):
    """When MLflow makes its tracer provider anew, what it sends is described as before, by whichever callback."""
    dspy.configure(lm=answering())
    Program()(question="why?")
    before = collector.gen_ai()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    Program()(question="why?")
    dspy.configure(callbacks=[MlflowCallback()])
    Program()(question="why?")
    assert collector.gen_ai() == before * 3


@pytest.mark.parametrize("around", [nullcontext, lambda: mlflow.start_span("outer")])
def test_tags(collector, around):
    """The trace's tags stand on its root, be it the user's own span; no span is lost for them."""
    dspy.configure(lm=answering(), callbacks=[MlflowCallback(tags={"team": "a"})])
    with around():
        Program()(question="why?")
    tags = [attributes(span).get("mlflow.traceTag.team") for span in collector.spans()]
    assert tags == ["a" if SENDS_TAGS else None, *[None] * (len(tags) - 1)]
    assert collector.names()[-len(PROGRAM_SPANS) :] == PROGRAM_SPANS


# What a span may say, without a network.


def ended(span_type, name="span", status=StatusCode.OK, events=(), **said):
    """Return a span of ours that has ended; *said* are its attributes, as values."""
    texts = {key.replace("__", "."): json.dumps(value) for key, value in said.items()}
    return ReadableSpan(
        name,
        attributes={"dspy.call_id": '"1"', "mlflow.spanType": json.dumps(span_type), **texts},
        status=Status(status),
        events=events,
    )


@pytest.mark.parametrize(("span_type", "operation"), [("EMBEDDING", "embeddings"), ("RETRIEVER", "retrieval")])
def test_other_operations(span_type, operation):
    """An embedding and a retrieval say what they are."""
    assert conventions.describe(ended(span_type)) == {"gen_ai.operation.name": operation}


def test_a_call_that_never_ended():
    """A span that failed without an exception has OpenTelemetry's word for an error of no class."""
    span = ended("AGENT", status=StatusCode.ERROR, events=[Event("note", attributes={"exception.type": "KeyError"})])
    assert conventions.describe(span)["error.type"] == "_OTHER"


@pytest.mark.parametrize(
    ("model", "provider", "names"),
    [
        ("azure/gpt-4o", "azure", ("azure.ai.openai", "gpt-4o")),
        ("bedrock/anthropic.claude", "bedrock", ("aws.bedrock", "anthropic.claude")),
        ("groq/meta/llama", "groq", ("groq", "meta/llama")),
        ("gpt-4o", "openai", ("openai", "gpt-4o")),
        ("dummy", None, (None, "dummy")),
        (None, None, (None, None)),
    ],
)
def test_models_and_providers(model, provider, names):
    """The model has its provider's name for it, the provider that of the conventions; none is made up."""
    said = conventions.describe(ended("CHAT_MODEL", mlflow__llm__model=model, mlflow__llm__provider=provider))
    assert (said.get("gen_ai.provider.name"), said.get("gen_ai.request.model")) == names


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"max_completion_tokens": 5}, {"request.max_tokens": 5}),
        ({"max_output_tokens": 5, "n": 1}, {"request.max_tokens": 5}),
        ({"top_k": 3, "frequency_penalty": 1}, {"request.top_k": 3, "request.frequency_penalty": 1.0}),
        ({"max_tokens": "[redacted]", "temperature": True}, {}),
        ({"seed": 2**63}, {}),  # OTLP has no such integer
        ({"stop": "x"}, {"request.stop_sequences": ["x"]}),
        ({"response_format": {"type": "text"}}, {"output.type": "text"}),
        ({"response_format": {"type": "json_object"}}, {"output.type": "json"}),
        ("[withheld]", {}),
    ],
)
def test_request_parameters(request_, said):
    """Parameters have the conventions' names and types; what does not have its type is passed over."""
    described = conventions.describe(ended("CHAT_MODEL", dspy__lm__request=request_))
    words = {f"gen_ai.{name}": value for name, value in said.items()}
    assert described == {"gen_ai.operation.name": "chat", **words}


def audio(data):
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", []),
        (None, []),
        (7, [text("7")]),
        (["why?"], [text("why?")]),
        (
            [{"type": "image_url", "image_url": "https://a.example/b.png"}],
            [{"type": "uri", "modality": "image", "uri": "https://a.example/b.png"}],
        ),
        ([audio("UklGRg==")], [{"type": "blob", "modality": "audio", "mime_type": "audio/wav", "content": "UklGRg=="}]),
        ([audio("mlflow-attachment://1")], [{"type": "uri", "modality": "audio", "uri": "mlflow-attachment://1"}]),
        ([{"type": "file", "file": {"file_id": "f"}}], [{"type": "file", "file": {"file_id": "f"}}]),
        ([{"odd": 1}], [text('{"odd":1}')]),
    ],
)
def test_parts(content, parts):
    """Each kind of content is a part in the conventions' form; of a kind that they do not know it stays as it is."""
    span = ended("CHAT_MODEL", mlflow__spanInputs={"messages": [{"role": "user", "content": content}]})
    assert json.loads(conventions.describe(span)["gen_ai.input.messages"]) == [user(*parts)]


@pytest.mark.parametrize("arguments", ["{not JSON", {"a": 1}])
def test_an_answer_in_all_its_parts(arguments):
    """An answer has its reasoning, its text and its tool calls, as the LM wrote them; no reason to end is unknown."""
    call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "content": "so", "reasoning": "hm", "tool_calls": [call]}
    span = ended("CHAT_MODEL", mlflow__spanOutputs={"choices": [{"message": message, "finish_reason": None}]})
    assert json.loads(conventions.describe(span)["gen_ai.output.messages"]) == [
        answer(
            {"type": "reasoning", "content": "hm"},
            text("so"),
            {"type": "tool_call", "id": "c", "name": "f", "arguments": arguments},
            finish_reason="unknown",
        )
    ]


def test_what_is_nested_too_deep():
    """Arguments that JSON cannot hold are left out, and nothing else."""
    deep = "[" * 300 + "]" * 300
    call = {"id": "c", "function": {"name": "f", "arguments": deep}}
    span = ended("CHAT_MODEL", mlflow__spanOutputs={"choices": [{"message": {"tool_calls": [call]}}]})
    assert conventions.describe(span) == {"gen_ai.operation.name": "chat"}


KEYS = ["role", "content", "messages", "prompt", "choices", "message", "tool_calls", "function", "arguments", "type"]
KEYS += ["image_url", "url", "input_audio", "data", "reasoning", "finish_reason", "text", "n", "stop", "temperature"]
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)
READ = ["mlflow.spanInputs", "mlflow.spanOutputs", "mlflow.chat.tools", "mlflow.chat.tokenUsage", "mlflow.llm.model"]
READ += ["mlflow.llm.provider", "dspy.lm.request", "dspy.lm.finish_reason", "dspy.lm.response_model"]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["CHAT_MODEL", "TOOL"]), st.dictionaries(st.sampled_from(READ), ANYTHING | st.just(b"no text")))
def test_whatever_attributes_hold(span_type, said):
    """Whatever a user, a middleware or a payload step wrote into a span, it is described without an error."""
    texts = {key: value if isinstance(value, bytes) else json.dumps(value) for key, value in said.items()}
    own = {"dspy.call_id": '"1"', "mlflow.spanType": json.dumps(span_type)}
    described = conventions.describe(ReadableSpan("span", attributes={**own, **texts}))
    assert described["gen_ai.operation.name"] in ("chat", "execute_tool")
    assert all(isinstance(value, (str, int, float, list)) for value in described.values())
