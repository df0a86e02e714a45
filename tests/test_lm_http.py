"""LM calls over HTTP, on each of DSPy's backends, and what their spans say of real responses."""

from __future__ import annotations

import asyncio
import logging

import dspy
import pytest
from openai_server import (
    DROP,
    HAS_ENGINES,
    MODEL,
    TOOL_BACKENDS,
    backends,
    broken_json,
    chat,
    choice,
    error,
    responses,
    stream,
    text_completion,
    tool_call,
    usage,
)

# LiteLLM's models make pydantic warn when they are first used.
pytestmark = pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning")

RETRIES_ARE_COUNTED = HAS_ENGINES

# Of 100 + 20 tokens, in US dollars: gpt-4o-mini bills 0.15 and 0.60 for a million, and half for cached input.
COST = {"input_cost": 1.5e-05, "output_cost": 1.2e-05, "total_cost": 2.7e-05}
TOKENS = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}

# The same with 30 tokens from the provider's cache and 5 of thought, which cost as much as others.
DETAILED_TOKENS = {**TOKENS, "cache_read_input_tokens": 30, "reasoning_tokens": 5}
DETAILED_COST = {"input_cost": 1.275e-05, "output_cost": 1.2e-05, "total_cost": 2.475e-05}


def facts(span):
    """Return what the span of an LM call says of its end."""
    found = {name: value for name, value in span.attributes.items() if name.startswith(ENDS)}
    return {name: pytest.approx(value) if name == "mlflow.llm.cost" else value for name, value in found.items()}


ENDS = (
    "mlflow.chat.tokenUsage",
    "mlflow.llm.cost",
    "dspy.lm.cache_hit",
    "dspy.lm.finish_reason",
    "dspy.lm.response_model",
    "dspy.lm.retries",
)


def ended(**changes):
    """Return what the span of a plain call says of its end, with *changes*; None takes a fact away."""
    plain = {
        "mlflow.chat.tokenUsage": TOKENS,
        "mlflow.llm.cost": COST,
        "dspy.lm.cache_hit": False,
        "dspy.lm.finish_reason": "stop",
        "dspy.lm.response_model": MODEL,
        "dspy.lm.retries": 0 if RETRIES_ARE_COUNTED else None,
    }
    names = {name.rpartition(".")[2]: name for name in plain}
    plain.update({names[name]: value for name, value in changes.items()})
    return {name: value for name, value in plain.items() if value is not None}


def failed(**changes):
    """Return what the span of a failed call says of its end."""
    return ended(tokenUsage=None, cost=None, finish_reason=None, response_model=None, **changes)


def completion(*choices):
    """Return the outputs of a span whose completions are *choices*."""
    return {"choices": list(choices)}


def call(lm, way, prompt="why?"):
    """Call *lm* in one of the ways that DSPy has."""
    return lm(prompt) if way == "sync" else asyncio.run(lm.acall(prompt))


@backends
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_call_says_its_facts(openai_server, dspy_traces, backend, way):
    """The span of a call has messages, completion, tokens, cost, finish reason and both models' names."""
    call(openai_server.lm(backend, temperature=0.5), way)
    [span] = dspy_traces.spans()
    assert (span.name, span.span_type) == ("openai/gpt-4o-mini", "CHAT_MODEL")
    assert span.inputs == {"messages": [{"role": "user", "content": "why?"}]}
    assert span.outputs == completion(choice())
    assert facts(span) == ended()
    assert span.get_attribute("mlflow.llm.model") == "openai/gpt-4o-mini"
    assert span.get_attribute("mlflow.llm.provider") == "openai"
    assert span.get_attribute("mlflow.message.format") == "openai"


@backends
def test_request_parameters_are_merged_without_secrets(openai_server, dspy_traces, backend):
    """The parameters of the LM and of the call stand together, and the key is hidden."""
    openai_server.lm(backend, temperature=0.5)("why?", temperature=0.7, max_tokens=50)
    [span] = dspy_traces.spans()
    assert span.get_attribute("dspy.lm.request") == {
        "temperature": 0.7,
        "max_tokens": 50,
        "cache": False,
        "api_key": "[redacted]",
        "api_base": openai_server.url,
    }
    assert "sk-secret" not in str(dspy_traces.one().to_dict())


@backends
def test_cached_and_reasoning_tokens(openai_server, dspy_traces, backend):
    """Tokens that the provider's cache saved and that were thought are counted, and priced."""
    openai_server.script(chat(counts=usage(cached=30, reasoning=5)))
    openai_server.lm(backend)("why?")
    [span] = dspy_traces.spans()
    assert facts(span) == ended(tokenUsage=DETAILED_TOKENS, cost=DETAILED_COST)


@pytest.mark.parametrize("backend", TOOL_BACKENDS)
def test_tool_calls_and_reasoning(openai_server, dspy_traces, backend):
    """Tool calls, reasoning and the tools on offer stand where MLflow's chat view reads them."""
    called = tool_call("search", {"query": "dspy"})
    openai_server.script(
        chat(choice(None, finish_reason="tool_calls", tool_calls=[called], reasoning_content="I must look."))
    )
    tools = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}]
    openai_server.lm(backend)("why?", tools=tools)
    [span] = dspy_traces.spans()
    assert span.outputs == completion(
        choice(None, finish_reason="tool_calls", tool_calls=[called], reasoning="I must look.")
    )
    assert span.get_attribute("mlflow.chat.tools") == tools
    assert facts(span) == ended(finish_reason="tool_calls")


@backends
def test_a_truncated_answer(openai_server, dspy_traces, backend):
    """An answer that was cut off says so."""
    openai_server.script(chat(choice("4", finish_reason="length")))
    openai_server.lm(backend)("why?")
    [span] = dspy_traces.spans()
    assert facts(span) == ended(finish_reason="length")


@backends
def test_two_completions(openai_server, dspy_traces, backend):
    """With `n=2` both completions stand in one span, whether they came in one response or in two."""
    openai_server.script(lambda body: chat(*[choice(index=index) for index in range(body.get("n") or 1)]))
    lm = openai_server.lm(backend)
    lm("why?", n=2)
    [span] = dspy_traces.spans()
    sent = len(openai_server.requests)
    assert span.outputs == completion(choice(), choice(index=1))
    assert facts(span) == ended(
        finish_reason=["stop", "stop"],
        tokenUsage={name: count * sent for name, count in TOKENS.items()},
        cost={name: dollars * sent for name, dollars in COST.items()},
    )


@backends
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("status", [429, 500])
def test_a_retry_is_counted(openai_server, dspy_traces, backend, status, way):
    """A call that succeeds on the second attempt has an OK status, one retry and the error that caused it."""
    openai_server.script(error(status, "come back later"), chat())
    assert call(openai_server.lm(backend), way) == ["42"]
    [span] = dspy_traces.spans()
    assert span.status.status_code.value == "OK"
    assert len(openai_server.requests) == 2
    assert facts(span) == ended(retries=1 if RETRIES_ARE_COUNTED else None)
    errors = span.get_attribute("dspy.lm.retry_errors") or []
    assert ["come back later" in text for text in errors] == [True] * RETRIES_ARE_COUNTED


@backends
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize(
    "answer", [error(400, "no"), error(500, "no"), broken_json(), DROP], ids=["400", "500", "broken JSON", "dropped"]
)
def test_a_failed_call(openai_server, dspy_traces, backend, answer, way):
    """A call that fails has the error's status and event, no outputs, and says that nothing was billed."""
    openai_server.script(answer)
    with pytest.raises(dspy.LMError) as raised:
        call(openai_server.lm(backend, num_retries=0), way)
    [span] = dspy_traces.spans()
    assert (span.status.status_code.value, span.outputs) == ("ERROR", None)
    assert [event.name for event in span.events] == ["exception"]
    assert span.events[0].attributes["exception.type"] == type(raised.value).__name__
    assert facts(span) == failed()


@backends
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_cache_hit_bills_nothing(openai_server, dspy_traces, backend, way):
    """The second call is answered by DSPy's cache: no tokens and no cost, but the same completion."""
    lm = openai_server.lm(backend, cache=True)
    prompt = f"asked twice by {backend}, {way}"  # DSPy's cache on disk outlives the test
    call(lm, way, prompt)
    call(lm, way, prompt)
    first, second = dspy_traces.spans()
    assert len(openai_server.requests) == 1
    assert first.outputs == second.outputs == completion(choice())
    assert facts(first) == ended()
    nothing = dict.fromkeys(COST, 0.0)
    assert facts(second) == ended(tokenUsage=None, cost=nothing, cache_hit=True)


@backends
@pytest.mark.parametrize("settings", [{"disable_history": True}, {"max_history_size": 0}], ids=str)
def test_facts_do_not_hang_on_the_history(openai_server, dspy_traces, backend, settings):
    """A span says the same where DSPy keeps no history."""
    lm = openai_server.lm(backend)
    with dspy.context(**settings):
        lm("why?")
    assert lm.history == []
    [span] = dspy_traces.spans()
    assert facts(span) == ended()
    assert span.outputs == completion(choice())


@backends
def test_a_call_that_is_not_traced(openai_server, dspy_traces, backend):
    """A call without callbacks is retried and answered as ever, and nothing is recorded."""
    openai_server.script(error(429, "come back later"), chat())
    with dspy.context(callbacks=[]):
        assert openai_server.lm(backend)("why?") == ["42"]
    assert dspy_traces.all() == []


def _by_prompt(body):
    """Answer a prompt that is a number with as many input tokens."""
    count = int(body["messages"][-1]["content"])
    return chat(choice(str(count)), counts=usage(count, 1))


def _tokens_by_prompt(spans):
    return {span.inputs["messages"][0]["content"]: span.get_attribute("mlflow.chat.tokenUsage") for span in spans}


@backends
@pytest.mark.parametrize("way", ["threads", "gather"])
def test_calls_side_by_side_have_their_own_usage(openai_server, dspy_traces, backend, way):
    """Of eight calls at once, in threads or in one event loop, each span has the usage of its own response."""
    openai_server.script(_by_prompt)
    lm = openai_server.lm(backend)
    prompts = [str(number) for number in range(10, 18)]
    if way == "threads":
        dspy.Parallel(num_threads=8, disable_progress_bar=True)([(lm, {"prompt": prompt}) for prompt in prompts])
    else:
        asyncio.run(_gathered(lm, prompts))
    assert _tokens_by_prompt(dspy_traces.spans()) == {
        prompt: {"input_tokens": int(prompt), "output_tokens": 1, "total_tokens": int(prompt) + 1} for prompt in prompts
    }


async def _gathered(lm, prompts):
    return await asyncio.gather(*(lm.acall(prompt) for prompt in prompts))


@backends
def test_the_trace_adds_up_its_lm_spans(openai_server, dspy_traces, backend):
    """Tokens and cost of the trace are the sums over its LM spans, a cache hit among them."""

    class Twice(dspy.Module):
        def forward(self):
            lm = dspy.settings.lm
            return [lm(f"{backend} adds one"), lm(f"{backend} adds two"), lm(f"{backend} adds two")]

    with dspy.context(lm=openai_server.lm(backend, cache=True)):
        Twice()()
    info = dspy_traces.one().info
    assert info.token_usage == {name: count * 2 for name, count in TOKENS.items()}
    assert info.cost == pytest.approx({name: dollars * 2 for name, dollars in COST.items()})


def _program():
    return dspy.Predict("question -> answer")


ANSWER = "[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"


@backends
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_stream_says_its_facts(openai_server, dspy_traces, backend, way):
    """The span of a streamed call has the whole answer, and the tokens that the last chunk reports."""
    openai_server.script(stream(*ANSWER.splitlines(keepends=True)))
    streaming = dspy.streamify(
        _program(),
        stream_listeners=[dspy.streaming.StreamListener("answer")],
        async_streaming=way == "async",
    )
    with dspy.context(lm=openai_server.lm(backend), track_usage=True):
        streamed = asyncio.run(_collected(streaming)) if way == "async" else list(streaming(question="why?"))
    assert streamed[-1].answer == "42"
    [span] = dspy_traces.spans(kind="lm")
    asked = "gpt-4o-mini"  # the backends do not read from a stream which model answers
    assert span.outputs == completion(choice(ANSWER))
    assert facts(span) == ended(response_model=asked, tokenUsage=DETAILED_TOKENS, cost=DETAILED_COST)


async def _collected(streaming):
    return [chunk async for chunk in streaming(question="why?")]


@pytest.mark.parametrize("backend", TOOL_BACKENDS)
def test_the_responses_api(openai_server, dspy_traces, backend):
    """A call of the Responses API is told in the words of a chat."""
    openai_server.script(responses())
    openai_server.lm(backend, model_type="responses")("why?")
    [span] = dspy_traces.spans()
    assert span.span_type == "CHAT_MODEL"
    assert span.outputs == completion(choice())
    assert facts(span) == ended(tokenUsage=DETAILED_TOKENS, cost=DETAILED_COST)


FUNCTION_CALL = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "name": "search",
    "call_id": "call_1",
    "arguments": '{"query": "dspy"}',
}


@pytest.mark.parametrize("backend", TOOL_BACKENDS)
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (responses(FUNCTION_CALL), "tool_calls"),
        (responses(status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "length"),
    ],
    ids=["tool call", "cut off"],
)
def test_how_a_response_of_the_responses_api_ends(openai_server, dspy_traces, backend, answer, reason):
    """A status of the Responses API becomes the finish reason of a chat."""
    openai_server.script(answer)
    openai_server.lm(backend, model_type="responses")("why?")
    [span] = dspy_traces.spans()
    assert span.get_attribute("dspy.lm.finish_reason") == reason


def test_a_text_model(openai_server, dspy_traces):
    """A text model's span is of type LLM, has the prompt as it is, and all the facts of a chat."""
    openai_server.script(text_completion())
    openai_server.lm("litellm", model_type="text")("why?")
    [span] = dspy_traces.spans()
    assert (span.span_type, span.inputs) == ("LLM", {"prompt": "why?"})
    assert span.outputs == completion(choice())
    assert {**facts(span), "mlflow.llm.cost": None} == {**ended(), "mlflow.llm.cost": None}


@backends
def test_a_model_without_provider_is_named_one_by_its_backend(openai_server, dspy_traces, backend):
    """Where the model's name has no provider, the span has the one that the backend chose."""
    openai_server.lm(backend, model="gpt-4o-mini")("why?")
    [span] = dspy_traces.spans()
    assert span.name == "gpt-4o-mini"
    assert span.get_attribute("mlflow.llm.provider") == "openai"
    assert facts(span) == ended()


@backends
def test_a_model_without_price(openai_server, dspy_traces, backend):
    """A model that no price map knows has tokens and no cost."""
    openai_server.script(chat(model="my-model"))
    openai_server.lm(backend, model="openai/my-model")("why?")
    [span] = dspy_traces.spans()
    assert facts(span) == ended(cost=None, response_model="my-model")


@backends
def test_usage_that_the_user_tracks_is_the_same(openai_server, dspy_traces, backend):
    """`track_usage=True` gives a prediction the same usage with and without tracing."""
    openai_server.script(chat(choice(ANSWER)))
    with dspy.context(lm=openai_server.lm(backend), track_usage=True):
        traced = _program()(question="why?").get_lm_usage()
        with dspy.context(callbacks=[]):
            untraced = _program()(question="why?").get_lm_usage()
    assert traced == untraced
    assert traced["openai/gpt-4o-mini"]["total_tokens"] == 120
    [span] = dspy_traces.spans(kind="lm")
    assert facts(span) == ended()


@backends
def test_a_tracker_of_the_users_hears_every_call(openai_server, dspy_traces, backend):
    """A usage tracker of the user's own gets one report a call, and so does the span."""
    lm = openai_server.lm(backend)
    with dspy.track_usage() as tracker:
        lm("one")
        lm("two")
    assert [entry["total_tokens"] for entry in tracker.usage_data["openai/gpt-4o-mini"]] == [120, 120]
    assert [facts(span) for span in dspy_traces.spans()] == [ended(), ended()]


@backends
def test_dspy_says_nothing_more_than_without_tracing(openai_server, dspy_traces, backend, caplog):
    """History and log of a traced call are those of an untraced one."""
    untraced, traced = openai_server.lm(backend), openai_server.lm(backend)
    with caplog.at_level(logging.INFO, "dspy"):
        with dspy.context(callbacks=[]):
            untraced("why?")
        before = _said_by_dspy(caplog)
        caplog.clear()
        traced("why?")
    assert _said_by_dspy(caplog) == before
    assert _comparable(traced.history) == _comparable(untraced.history)


def _said_by_dspy(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("dspy")]


def _comparable(history):
    changing = {"uuid", "timestamp", "response"}
    return [{name: value for name, value in entry.items() if name not in changing} for entry in history]
