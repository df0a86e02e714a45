"""What spans say of LMs of every kind: custom engines, whole requests, legacy subclasses, objects that are like LMs."""

from __future__ import annotations

import asyncio
import gc
import sys
from types import SimpleNamespace

import dspy
import litellm  # noqa: F401  (with it MLflow's store asks for prices, without it the package)
import pytest
from dspy.utils.callback import with_callbacks
from openai_server import HAS_ENGINES

from dspy_mlflow_callbacks import MlflowCallback, lm_internals
from dspy_mlflow_callbacks.describe import describe_end
from dspy_mlflow_callbacks.events import CallEnd, CallKind, CallStart

new = pytest.mark.skipif(not HAS_ENGINES, reason="DSPy's engines and lm15 came with 3.4")
old = pytest.mark.skipif(HAS_ENGINES, reason="DSPy's typed requests went with 3.4")

PNG = "iVBORw0KGgo="


def tokens(span):
    return span.get_attribute("mlflow.chat.tokenUsage")


def counted(inputs, outputs):
    return {"input_tokens": inputs, "output_tokens": outputs, "total_tokens": inputs + outputs}


def said(*contents, finish_reason="stop"):
    """Return the outputs of a span whose completions are *contents*."""
    choices = [
        {"index": index, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
        for index, content in enumerate(contents)
    ]
    return {"choices": choices}


class Engine:
    """Answers each request with the next of *answers*, or raises it."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def complete(self, request):
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer(request) if callable(answer) else answer


class AsyncEngine(Engine):
    async def complete(self, request):
        return super().complete(request)


def answer(*parts, inputs=10, outputs=2, finish_reason="stop"):
    """Return a response that bills so many tokens."""
    from dspy import lm15

    parts = parts or (lm15.TextPart("42"),)
    return lm15.Response(
        id="1",
        model="my-model-2",
        message=lm15.Message(role="assistant", parts=parts),
        finish_reason=finish_reason,
        usage=lm15.Usage(input_tokens=inputs, output_tokens=outputs),
    )


def engine_lm(*answers, **kwargs):
    settings = {"model": "my-model", "cache": False, "num_retries": 0}
    return dspy.LM(engine=Engine(*answers), async_engine=AsyncEngine(*answers), **{**settings, **kwargs})


@new
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_custom_engine(dspy_traces, way):
    """A call of a custom engine has its tokens, and neither cost nor provider, which nobody knows."""
    lm = engine_lm(answer())
    assert (lm("why?") if way == "sync" else asyncio.run(lm.acall("why?"))) == ["42"]
    [span] = dspy_traces.spans()
    assert (span.name, span.span_type) == ("my-model", "CHAT_MODEL")
    assert span.outputs == said("42")
    assert tokens(span) == counted(10, 2)
    assert span.get_attribute("mlflow.llm.cost") is None
    assert span.get_attribute("mlflow.llm.provider") is None


@new
def test_changed_parameters_are_seen(dspy_traces):
    """What is changed in an LM's parameters, or in a list that is one of them, shows at the next call."""
    lm = engine_lm(*[answer() for _ in range(4)], temperature=0.5, stop=["a"])
    lm("why?")
    lm.kwargs["temperature"] = 0.25
    lm("why?")
    lm.kwargs["stop"].append("b")
    lm("why?")
    lm("why?", temperature=1.0)
    asked = [span.get_attribute("dspy.lm.request") for span in dspy_traces.spans()]
    assert [(each["temperature"], each["stop"]) for each in asked] == [
        (0.5, ["a"]),
        (0.25, ["a"]),
        (0.25, ["a", "b"]),
        (1.0, ["a", "b"]),
    ]


@new
def test_changed_model_is_seen(dspy_traces):
    """An LM that is given another model has it on its next span."""
    lm = engine_lm(answer(), answer())
    lm("why?")
    lm.model = "openai/other"
    lm("why?")
    spans = dspy_traces.spans()
    names = ["mlflow.llm.model", "mlflow.llm.provider"]
    assert [[span.get_attribute(name) for name in names] for span in spans] == [
        ["my-model", None],
        ["openai/other", "openai"],
    ]


@new
def test_changed_tool_schema_is_seen(dspy_traces):
    """A tool's schema that is changed in place shows at the next call."""
    parameters = {"type": "object", "properties": {}}
    tools = [{"type": "function", "function": {"name": "search", "parameters": parameters}}]
    lm = engine_lm(answer(), answer())
    lm("why?", tools=tools)
    parameters["properties"]["query"] = {"type": "string"}
    lm("why?", tools=tools)
    shown = [span.get_attribute("mlflow.chat.tools")[0]["function"]["parameters"] for span in dspy_traces.spans()]
    assert [each["properties"] for each in shown] == [{}, {"query": {"type": "string"}}]


def test_retries_that_nobody_knows_of_are_not_told():
    """Where DSPy does not say how often it tried, before 3.4, the span does not either."""
    watch = SimpleNamespace(answers=[{"usage": {"prompt_tokens": 2}}], retries=None)
    start = CallStart(kind=CallKind.LM, call_id="1", root_call_id="1", instance=None, inputs={}, watch=watch)
    described = describe_end(start, CallEnd(call_id="1", outputs=["42"])).whole()
    assert described.attributes == {"dspy.lm.cache_hit": "false", "mlflow.chat.tokenUsage": '{"input_tokens":2}'}


@new
def test_what_was_billed_before_a_failure_is_counted(dspy_traces):
    """A call that fails at the second of two completions has an error status and the tokens of the first."""
    with pytest.raises(dspy.LMError):
        engine_lm(answer(), RuntimeError("gone"))("why?", n=2)
    [span] = dspy_traces.spans()
    assert (span.status.status_code.value, span.outputs) == ("ERROR", None)
    assert tokens(span) == counted(10, 2)
    assert span.get_attribute("dspy.lm.cache_hit") is False


@new
def test_what_was_billed_before_a_cancellation_is_counted(dspy_traces):
    """A call that is cancelled has an error status and the tokens of what it had received."""
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(engine_lm(answer(), asyncio.CancelledError()).acall("why?", n=2))
    [span] = dspy_traces.spans()
    assert span.status.status_code.value == "ERROR"
    assert tokens(span) == counted(10, 2)


def _whole_request():
    from dspy import lm15

    call = lm15.ToolCallPart(id="call_1", name="search", input={"query": "dspy"})
    result = lm15.ToolResultPart(id="call_1", content=(lm15.TextPart("found"),))
    png = lm15.ImagePart(data=PNG, detail="low")
    return lm15.Request(
        model="my-model",
        system="Be brief.",
        messages=(
            lm15.Message(role="developer", parts=(lm15.TextPart("Really."),)),
            lm15.Message(role="user", parts=(lm15.TextPart("What is "), lm15.TextPart("this?"))),
            lm15.Message(role="user", parts=(lm15.TextPart("And this?"), png, lm15.ImagePart(url="https://x.y/z.png"))),
            lm15.Message(role="assistant", parts=(lm15.ThinkingPart("Hm."), call)),
            lm15.Message(role="tool", parts=(result,)),
        ),
        tools=(
            lm15.FunctionTool(name="search", parameters={"type": "object", "properties": {}}),
            lm15.BuiltinTool(name="web_search", config={"region": "eu"}),
        ),
        config=lm15.Config(max_tokens=50, stop=("END",), cache=lm15.CacheConfig(mode="off")),
    )


CALL = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": '{"query":"dspy"}'}}

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "system", "content": "Really."},
    {"role": "user", "content": "What is this?"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "And this?"},
            {"type": "image_url", "image_url": {"url": "attachment", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "https://x.y/z.png"}},
        ],
    },
    {"role": "assistant", "content": None, "reasoning": "Hm.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "found"},
]


def without_attachments(value):
    """Return *value* with the references to attachments, which hold random ids, made equal."""
    if isinstance(value, dict):
        return {key: without_attachments(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_attachments(item) for item in value]
    return "attachment" if isinstance(value, str) and value.startswith("mlflow-attachment://") else value


@new
def test_a_whole_request(dspy_traces):
    """A request in DSPy's own vocabulary is shown as the chat that it is, with its parameters alone."""
    from dspy import lm15

    lm = engine_lm(answer(lm15.TextPart("42"), lm15.ThinkingPart("Hm.")), temperature=0.5)
    lm(_whole_request())
    [span] = dspy_traces.spans()
    tools = [
        {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}},
        {"type": "web_search", "region": "eu"},
    ]
    assert without_attachments(span.inputs) == {"messages": CONVERSATION, "tools": tools}
    assert span.get_attribute("mlflow.chat.tools") == tools[:1]  # MLflow knows functions only
    asked = span.get_attribute("dspy.lm.request")
    assert asked.pop("prompt_cache")["mode"] == "off"
    assert asked == {"cache": False, "max_tokens": 50, "stop": ["END"]}
    message = {"role": "assistant", "content": "42", "reasoning": "Hm."}
    assert span.outputs["choices"] == [{"index": 0, "message": message, "finish_reason": "stop"}]
    assert tokens(span) == counted(10, 2)


@new
def test_a_whole_request_by_keyword(dspy_traces):
    """A request that is passed by keyword is shown the same way, and its answer with tool calls too."""
    from dspy import lm15

    request = lm15.Request(model="my-model", messages=(lm15.Message.user("why?"),))
    call = lm15.ToolCallPart(id="call_1", name="search", input={"query": "dspy"})
    engine_lm(answer(call, finish_reason="tool_call"))(request=request)
    [span] = dspy_traces.spans()
    assert span.inputs == {"messages": [{"role": "user", "content": "why?"}]}
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert span.outputs["choices"] == [{"index": 0, "message": message, "finish_reason": "tool_calls"}]


@new
def test_parts_that_a_chat_has_no_word_for(dspy_traces):
    """Documents, data and refusals are shown as text, and binary data becomes an attachment."""
    from dspy import lm15

    parts = (
        lm15.AudioPart(data="UklGRg==", media_type="audio/mpeg"),
        lm15.AudioPart(data="UklGRg=="),
        lm15.AudioPart(url="https://x.y/z.wav"),
        lm15.DocumentPart(data="JVBERi0="),
        lm15.DocumentPart(file_id="file-1"),
    )
    request = lm15.Request(model="my-model", messages=(lm15.Message(role="user", parts=parts),))
    said_parts = (lm15.RefusalPart("No."), lm15.CitationPart(title="A book"), lm15.DataPart({"a": 1}))
    engine_lm(answer(*said_parts))(request)
    [span] = dspy_traces.spans()
    [message] = without_attachments(span.inputs)["messages"]
    assert message["content"] == [
        {"type": "input_audio", "input_audio": {"data": "attachment", "format": "mp3"}},
        {"type": "input_audio", "input_audio": {"data": "attachment", "format": "wav"}},
        {"type": "text", "text": "https://x.y/z.wav"},
        {"type": "text", "text": "attachment"},
        {"type": "text", "text": "file-1"},
    ]
    assert [part["text"] for part in span.outputs["choices"][0]["message"]["content"]] == ["No.", "A book", '{"a":1}']


@old
def test_a_typed_request_before_lm15(openai_server, dspy_traces):
    """A typed request of DSPy 3.3 is shown as the chat that it is, with its parameters alone."""
    request = dspy.LMRequest.from_call(
        model="openai/gpt-4o-mini",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "why?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "found"},
        ],
        max_tokens=50,
    )
    assert openai_server.lm("litellm", temperature=0.5)(request).text == "42"
    [span] = dspy_traces.spans()
    assert span.inputs["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "why?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "found"},
    ]
    assert span.get_attribute("dspy.lm.request") == {"cache": False, "max_tokens": 50}
    assert span.outputs == said("42")
    assert tokens(span) == counted(100, 20)
    assert span.get_attribute("mlflow.llm.cost")["total_cost"] == pytest.approx(2.7e-05)


class LegacyLM(dspy.BaseLM):
    """An LM as users wrote it before engines."""

    def forward(self, prompt=None, messages=None, **kwargs):
        message = SimpleNamespace(content="42", tool_calls=None)
        choice = SimpleNamespace(message=message, finish_reason="stop")
        counts = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
        return SimpleNamespace(choices=[choice], usage=counts, model="my-model-2", _hidden_params=self.beside())

    async def aforward(self, prompt=None, messages=None, **kwargs):
        return self.forward(prompt, messages, **kwargs)

    def beside(self):
        return {}


class PricedLM(LegacyLM):
    def beside(self):
        return {"response_cost": 0.25}


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize(("lm_class", "cost"), [(LegacyLM, None), (PricedLM, {"total_cost": 0.25})])
def test_a_legacy_lm(dspy_traces, way, lm_class, cost):
    """A subclass with a `forward` of its own has its tokens, and the cost that it says itself."""
    lm = lm_class("my-model")
    assert (lm("why?") if way == "sync" else asyncio.run(lm.acall("why?"))) == ["42"]
    [span] = dspy_traces.spans()
    assert span.outputs == said("42")
    assert tokens(span) == counted(10, 2)
    assert span.get_attribute("mlflow.llm.cost") == cost


class WrappingLM(dspy.LM):
    """An LM that adds something of its own around DSPy's."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


def test_a_cache_hit_inside_a_wrapping_lm(openai_server, dspy_traces):
    """A cache hit is one, too, when a subclass hands it on."""
    lm = WrappingLM("openai/gpt-4o-mini", api_base=openai_server.url, api_key="sk-secret")
    lm("asked twice by a wrapping LM")
    lm("asked twice by a wrapping LM")
    first, second = dspy_traces.spans()
    assert [tokens(first), tokens(second)] == [counted(100, 20), None]
    hits = [span.get_attribute("dspy.lm.cache_hit") for span in (first, second)]
    assert hits == [False, True]


class OwnCallLM(LegacyLM):
    """An LM that even settles its calls itself."""

    @with_callbacks
    def __call__(self, prompt=None, messages=None, **kwargs):
        return self._process_lm_response(self.forward(prompt), prompt, messages, **kwargs)


def test_an_lm_with_a_call_of_its_own(dspy_traces):
    """An LM that overrides `__call__` and uses DSPy's helpers has its tokens."""
    OwnCallLM("my-model")("why?")
    [span] = dspy_traces.spans()
    assert span.outputs == said("42")
    assert tokens(span) == counted(10, 2)


class Stranger(dspy.BaseLM):
    """Something that DSPy calls as an LM, without anything that LMs have."""

    def __init__(self):
        self.callbacks = []

    @with_callbacks
    def __call__(self, prompt):
        return {"answer": prompt}


def test_an_lm_that_tells_nothing(dspy_traces):
    """An object without model, model type, parameters and history has a span with inputs and outputs."""
    Stranger()("why?")
    [span] = dspy_traces.spans()
    assert (span.name, span.span_type) == ("Stranger", "LLM")
    assert (span.inputs, span.outputs) == ({"prompt": "why?"}, {"answer": "why?"})
    assert span.get_attribute("dspy.lm.model_type") is None
    assert span.get_attribute("dspy.lm.request") is None
    assert tokens(span) is None


DECISION = {"answers": {"sure": {"score": 4}}, "usage": {"prompt_tokens": 7, "completion_tokens": 1}, "model": "jev-1"}


def typesafe(**kwargs):
    from dspy.experimental import TypeSafe

    return TypeSafe(model="jev-latest", api_key="sk-secret", **kwargs)


class TypeSafeSDK:
    """What `dspy.experimental.TypeSafe` uses of its vendor's package, without the network."""

    def __init__(self, **kwargs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def system_one(self, *, state, questions):
        counts = SimpleNamespace(input_tokens=7, output_tokens=1)
        return SimpleNamespace(model="jev-1", usage=counts, answers={"sure": SimpleNamespace(score=4)})


@new
def test_a_decision_model(dspy_traces, monkeypatch):
    """An LM that decides and does not chat has its own inputs and outputs, its tokens, and no secret."""
    monkeypatch.setitem(sys.modules, "typesafe_sdk", SimpleNamespace(TypeSafeClient=TypeSafeSDK))
    assert typesafe(cache=False)("A text.", ["sure?"]) == {"sure": {"score": 4}}
    [span] = dspy_traces.spans()
    assert (span.name, span.span_type) == ("jev-latest", "LLM")
    assert (span.inputs, span.outputs) == ({"state": "A text.", "questions": ["sure?"]}, {"sure": {"score": 4}})
    assert tokens(span) == counted(7, 1)
    assert span.get_attribute("dspy.lm.response_model") == "jev-1"
    assert "sk-secret" not in str(dspy_traces.one().to_dict())


@new
def test_a_decision_from_the_cache(dspy_traces):
    """A decision that DSPy's cache knows bills nothing."""
    lm = typesafe()
    dspy.cache.put(lm._request("A text.", ["sure?"]), DECISION)
    lm("A text.", ["sure?"])
    [span] = dspy_traces.spans()
    assert span.get_attribute("dspy.lm.cache_hit") is True
    assert tokens(span) is None


@new
@pytest.mark.parametrize("tracked", [False, True])
def test_an_lm_that_calls_an_lm(dspy_traces, tracked):
    """Tokens stand on the inner LM's span alone, and the trace counts them once."""
    inner = engine_lm(answer(inputs=100), model="inner")
    outer = engine_lm(lambda request: answer(inputs=None, outputs=None) if inner("why?") else None, model="outer")
    with dspy.context(track_usage=tracked):
        outer("why?")
    assert dspy_traces.tree() == [("outer", "CHAT_MODEL", "OK", [("inner", "CHAT_MODEL", "OK", [])])]
    spans = {span.name: tokens(span) for span in dspy_traces.spans()}
    assert spans == {"outer": None, "inner": counted(100, 2)}
    assert dspy_traces.one().info.token_usage == counted(100, 2)


@new
def test_a_dropped_lm_leaves_its_usage_to_nobody(dspy_traces):
    """Tokens of an LM call that middleware drops are not counted on the span of the LM that called it."""

    def only_outer(call):
        return None if call.kind is CallKind.LM and call.instance.model == "inner" else call

    inner = engine_lm(answer(inputs=100), model="inner")
    outer = engine_lm(lambda request: answer() if inner("why?") else None, model="outer")
    with dspy.context(callbacks=[MlflowCallback(middleware=[only_outer])]):
        outer("why?")
    [span] = dspy_traces.spans()
    assert tokens(span) == counted(10, 2)


@new
def test_a_program_inside_an_lm_tracks_its_usage(dspy_traces):
    """A program that an LM calls is given its usage by `track_usage=True`, as without tracing."""
    inner = engine_lm(answer(inputs=100), model="inner")
    found = []

    def ask(request):
        with dspy.context(lm=inner), dspy.track_usage() as tracker:
            dspy.Predict("question -> answer")(question="why?", config={"n": 1})
        found.append(tracker.get_total_tokens()["inner"]["prompt_tokens"])
        return answer()

    text = "[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"
    from dspy import lm15

    inner._engine_spec.answers[:] = [answer(lm15.TextPart(text), inputs=100)]
    engine_lm(ask, model="outer")("why?")
    assert found == [100]


def test_a_finished_call_leaves_nothing_behind(dspy_traces):
    """No watch outlives the delivery of its call."""
    gc.collect()
    others = set(lm_internals._WATCHES)
    LegacyLM("my-model")("why?")
    assert len(dspy_traces.spans()) == 1
    gc.collect()
    assert set(lm_internals._WATCHES) <= others


@new
def test_installing_again_changes_nothing(dspy_traces):
    """However often the watching is installed, an answer is heard once."""
    lm_internals.install()
    lm_internals.install()
    engine_lm(answer())("why?")
    [span] = dspy_traces.spans()
    assert tokens(span) == counted(10, 2)
