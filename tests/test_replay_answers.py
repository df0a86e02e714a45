"""What LMs and tools answered, and what they raised, comes again as it was."""

from __future__ import annotations

import asyncio
import json

import dspy
import mlflow
import pytest
from dspy.utils.dummies import DummyLM
from replays import Adding, Steps, counting, fields, needs_engines, record, replay, shape

from dspy_mlflow_callbacks import dspy_internals
from dspy_mlflow_callbacks.dspy_internals.standing_in import by_forward
from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.replaying.answers import LMAnswer
from dspy_mlflow_callbacks.replaying.recorded_lm import recorded_lm
from dspy_mlflow_callbacks.replaying.recording import read

WHY = {"question": "why?"}


class Asks(dspy.Module):
    """Asks the LM itself, and returns what it says."""

    def __init__(self, *args, lm=None, **kwargs):
        super().__init__()
        self.lm, self.args, self.kwargs = lm, args, kwargs

    def forward(self):
        lm = self.lm or dspy.settings.lm
        return lm(*self.args, **self.kwargs)

    async def aforward(self):
        lm = self.lm or dspy.settings.lm
        return await lm.acall(*self.args, **self.kwargs)


class Saying:
    """An engine that gives answers one after the other."""

    def __init__(self, *parts, reason="stop", **fields):
        self.parts, self.reason, self.fields = parts, reason, fields

    def complete(self, request):
        lm15 = dspy.lm15
        message = lm15.Message.assistant(list(self.parts))
        usage = lm15.Usage(input_tokens=3, output_tokens=5, total_tokens=8)
        return lm15.Response(id="1", model="m", message=message, finish_reason=self.reason, usage=usage, **self.fields)


def answers():
    lm15 = getattr(dspy, "lm15", None)
    if lm15 is None:
        return {}
    top = lm15.TopLogprob("4", -0.1, (52,))
    token = lm15.TokenLogprob("42", -0.5, None, top=(top,))
    text = lm15.TextPart("42")
    return {
        "a text": ([text], {}, {}),
        "thoughts": ([lm15.ThinkingPart("hm"), text], {}, {}),
        "tool calls": (
            [lm15.ToolCallPart("call_1", "add", {"a": 1}), lm15.ToolCallPart("call_2", "add", {})],
            {"reason": "tool_call"},
            {},
        ),
        "citations": ([text, lm15.CitationPart(url="http://a", title="A", text="42")], {}, {}),
        "log probabilities": ([text], {"logprobs": (token,)}, {"logprobs": True}),
        "the end of its tokens": ([text], {"reason": "length"}, {}),
    }


@needs_engines
@pytest.mark.parametrize("model_type", ["chat", "responses"])
@pytest.mark.parametrize(("parts", "fields", "asked"), answers().values(), ids=answers())
def test_an_answer_comes_again_whole(dspy_traces, parts, fields, asked, model_type):
    """Text, reasoning, tool calls with their ids, citations, log probabilities and finish reasons are the same."""
    lm = dspy.LM("a/m", engine=Saying(*parts, **fields), cache=False, model_type=model_type)
    program = Asks("what?", **asked)
    trace, outputs = record(dspy_traces, program, lm)
    again = replay(trace, program)
    assert (again.divergences, again.outputs) == ((), outputs)
    (before,), (after,) = (
        [span for span in each.data.spans if span.span_type == "CHAT_MODEL"] for each in (trace, again.trace)
    )
    assert after.outputs == before.outputs
    assert after.get_attribute("dspy.lm.finish_reason") == before.get_attribute("dspy.lm.finish_reason")


@needs_engines
def test_an_answer_to_a_request_comes_again(dspy_traces):
    """A call with DSPy's own request gets a response again, not a list."""
    lm15 = dspy.lm15
    request = lm15.Request(model="a/m", messages=(lm15.Message.user("what?"),))
    lm = dspy.LM("a/m", engine=Saying(lm15.TextPart("42")), cache=False)

    class Says(Asks):
        def forward(self):
            return super().forward().message

    program = Says(request)
    trace, outputs = record(dspy_traces, program, lm)
    again = replay(trace, program)
    assert (again.divergences, again.outputs) == ((), outputs)


class Calling(Saying):
    """An engine that calls functions."""

    supports_function_calling = True
    supported_params = frozenset({"tools", "tool_choice"})

    def __init__(self, *answers):
        super().__init__()
        self.answers = list(answers)

    def complete(self, request):
        self.parts = self.answers.pop(0)
        return super().complete(request)


@needs_engines
def test_native_tool_calls_replay(dspy_traces):
    """An agent whose LM calls functions natively, several at once, gets the calls again, with their ids."""
    call = dspy.lm15.ToolCallPart
    added = [call("call_1", "add", {"a": 1, "b": 2}), call("call_2", "add", {"a": 3, "b": 2})]
    engine = Calling(added, [call("call_3", "submit", {"answer": "3"})])
    lm = dspy.LM("openai/gpt-4o", engine=engine, cache=False)
    adding = Adding()
    with dspy.context(adapter=dspy.ChatAdapter(use_native_function_calling=True)):
        trace, outputs = record(dspy_traces, lambda: dspy.ReActV2("question -> answer", tools=[adding.add])(**WHY), lm)
        again = replay(trace, dspy.ReActV2("question -> answer", tools=[adding.add]))
    assert (again.divergences, again.outputs.history, shape(again.trace)) == ((), outputs.history, shape(trace))
    assert sorted(adding.called) == [(1, 2), (3, 2)]


class Failing(DummyLM):
    """Raises what it is given, then answers."""

    def __init__(self, *errors):
        super().__init__([], follow_examples=True)
        self.errors = list(errors)

    def _use_example(self, messages):
        if self.errors:
            raise self.errors.pop(0)
        return json.dumps({"answer": "42"})


def context_window():
    return dspy.ContextWindowExceededError(model="m", message="too long")


@pytest.mark.parametrize("error", [dspy.LMServerError("down"), context_window(), asyncio.CancelledError()])
def test_what_an_lm_raised_is_raised_again(dspy_traces, error):
    """An LM's exception comes again with its class and message, and the program goes on as it did."""

    def run(program):
        try:
            return program(**WHY)
        except BaseException as raised:
            return repr(raised)

    class Catches(dspy.Module):
        def __init__(self):
            super().__init__()
            self.ask = dspy.Predict("question -> answer")

        def forward(self, question):
            return fields(run(self.ask))

    trace, outputs = record(dspy_traces, lambda: Catches()(**WHY), Failing(error))
    again = replay(trace, Catches())
    assert (again.divergences, again.outputs, shape(again.trace)) == ((), outputs, shape(trace))


class Own(dspy.BaseLM):
    """An LM of a user's own class, by the way of DSPy before 3.4, that has neither engine nor retries."""

    def forward(self, prompt=None, messages=None, **kwargs):
        raise LookupError("no answer")

    async def aforward(self, prompt=None, messages=None, **kwargs):
        return self.forward()


@pytest.mark.filterwarnings("ignore:Implementing custom LMs:DeprecationWarning")
@pytest.mark.parametrize("name", ["forward", "aforward"])
def test_exceptions_of_other_classes_are_raised_again(dspy_traces, name):
    """What no engine of DSPy's would raise comes again as it was, and so does a class that is not known here."""

    class OddError(Exception):
        """Nobody else knows it."""

    class OddLM(Own):
        def forward(self, prompt=None, messages=None, **kwargs):
            raise OddError("very")

    for lm in (Own("own"), OddLM("own")):
        program = Asks("what?")
        call = program if name == "forward" else lambda program=program: asyncio.run(program.acall())
        with dspy.context(lm=lm), pytest.raises(Exception) as raised:
            call()
        (trace, *_) = dspy_traces.all()[-1:]
        again = replay(trace, program if name == "forward" else program.acall)
        assert again.divergences == ()
        assert (type(again.error).__name__, str(again.error)) == (type(raised.value).__name__, str(raised.value))


@pytest.mark.filterwarnings("ignore:Implementing custom LMs:DeprecationWarning")
@pytest.mark.parametrize("model_type", ["chat", "responses"])
@pytest.mark.parametrize("reasoning", [False, True])
def test_before_engines_an_lm_stands_in_by_its_forward(dspy_traces, model_type, reasoning):
    """On DSPy before 3.4 an LM answers by `forward`, with whatever the answer is made of."""
    trace, _ = record(dspy_traces, Asks("what?"), DummyLM([{"answer": "42"}] * 2, reasoning=reasoning))
    (call,) = read(trace).calls(CallKind.LM)
    call.attributes["dspy.lm.model_type"] = model_type
    lm = dspy.LM("a/m", model_type=model_type, cache=True)
    made = by_forward(lm, LMAnswer(call))
    text = "[[ ## answer ## ]]\n42"
    said = {"text": text, "reasoning_content": "Some reasoning"} if reasoning else {"text": text}
    expected = [said if reasoning or model_type == "responses" else text]
    assert made("what?") == asyncio.run(made.acall("what?")) == expected
    assert (made.__class__.__name__, isinstance(made, dspy.LM), lm.history) == ("LM", True, [])
    with pytest.raises(AttributeError, match="nothing"):
        _ = made.forward().nothing
    call.error = ("LookupError", "no answer")
    with pytest.raises(LookupError, match="no answer"):
        by_forward(lm, LMAnswer(call))("what?")


@needs_engines
def test_an_lm_of_a_users_own_class_stands_in_by_its_engine(dspy_traces):
    """A subclass of `dspy.LM` that answers by its own `forward` is not asked."""

    class Mine(dspy.LM):
        def forward(self, prompt=None, messages=None, **kwargs):
            raise AssertionError("it was asked")

    trace, _ = record(dspy_traces, lambda: Steps()(**WHY))
    program = Steps()
    program.first.lm = Mine("dummy", temperature=0.0, max_tokens=1000)
    program.second.lm = Own("dummy", temperature=0.0, max_tokens=1000)
    again = replay(trace, program)
    assert (again.divergences, fields(again.outputs)) == ((), {"answer": "answer 1"})


def test_the_recorded_lm_says_what_it_can_do(dspy_traces):
    """A program that asks whether the LM can answer in a schema, or call functions, is told what the trace shows."""
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    kwargs = {"response_format": schema, "tools": tools, "reasoning_effort": "low", "n": 1}
    trace, _ = record(dspy_traces, Asks("what?", **kwargs))
    lm = recorded_lm(read(trace), None)
    assert (lm.model, type(lm).__name__, lm.kwargs["n"]) == ("dummy", "DummyLM", 1)
    assert (lm.supports_response_schema, lm.supports_function_calling, lm.supports_reasoning) == (True, True, True)
    assert "response_format" in lm.supported_params
    configured = counting()
    assert recorded_lm(read(trace), configured) is configured


def test_a_call_that_had_not_ended_raises(dspy_traces):
    """A call that was given up when its trace ended has no answer and no exception: it raises what its span says."""
    trace, _ = record(dspy_traces, Asks("what?"))
    said = json.loads(trace.to_json())
    (span,) = [each for each in said["data"]["spans"] if each["name"] == "dummy"]
    reason = "The call had not ended when its trace ended."
    span["status"] = {"code": "STATUS_CODE_ERROR", "message": reason}
    span["events"] = [{"name": "note", "time_unix_nano": 1, "attributes": {}}]
    again = replay(mlflow.entities.Trace.from_json(json.dumps(said)), Asks("what?"))
    assert (type(again.error).__name__, str(again.error)) == ("RecordedError", reason)


def odd_answers():
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{"}}
    said = {"role": "assistant", "content": None}
    return {
        "no choices": {"answer": 42},
        "no completion": {"choices": []},
        "content of parts": {"choices": [{"message": {**said, "content": [{"type": "image"}]}}]},
        "something else": {"choices": [{"message": {**said, "audio": {}}}]},
        "arguments that are no JSON": {"choices": [{"message": {**said, "tool_calls": [call]}}]},
    }


@pytest.mark.parametrize("outputs", odd_answers().values(), ids=odd_answers())
def test_an_answer_that_cannot_be_made_again_is_named(dspy_traces, outputs):
    """An answer of a kind that a span does not hold whole is an obstacle, unless the LM is real from there on."""
    trace, _ = record(dspy_traces, lambda: Steps()(**WHY))
    text = json.loads(trace.to_json())
    (span,) = [each for each in text["data"]["spans"] if each["name"] == "dummy"][1:]
    span["attributes"]["mlflow.spanOutputs"] = json.dumps(outputs)
    changed = mlflow.entities.Trace.from_json(json.dumps(text))
    with pytest.raises(Exception, match="its answer is of a kind that cannot be rebuilt from a span") as raised:
        replay(changed, Steps())
    assert "Steps.second > dummy" in str(raised.value)
    lm = DummyLM([{"answer": "real"}])
    again = replay(changed, Steps(), mode="live", from_span="Steps.second", lm=lm)
    assert fields(again.outputs) == {"answer": "real"}


def test_stand_ins_are_made_by_the_way_of_the_installed_dspy():
    """From DSPy 3.4 on there are engines."""
    assert dspy_internals.HAS_ENGINES is hasattr(dspy, "lm15")
