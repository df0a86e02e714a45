"""What MLflow's UI makes of our traces, seen in a real browser."""

from __future__ import annotations

import base64
import importlib
import io
import os
import re
from pathlib import Path

import dspy
import mlflow
import pytest
from dspy.lm15 import (
    FunctionTool,
    Message,
    Request,
    Response,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from PIL import Image
from playwright.sync_api import expect
from programs import Program, answering

from dspy_mlflow_callbacks import MlflowCallback, attach, log_model, trace_context

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "images" / "trace.png"
PICTURE_SIZE = (1400, 822)
PICTURE_BYTES = 250_000
PRICED = "openai/gpt-4o-mini"


class Engine:
    """Gives the answers that it was made with, one after the other."""

    def __init__(self, *answers):
        self._answers = list(answers)

    def complete(self, request):
        message = Message.assistant(self._answers.pop(0))
        calls_tools = any(part.type == "tool_call" for part in message.parts)
        return Response(
            id=None,
            model=request.model,
            message=message,
            finish_reason="tool_call" if calls_tools else "stop",
            usage=Usage(input_tokens=1200, output_tokens=300),
        )


def engine_lm(*answers):
    return dspy.LM(PRICED, engine=Engine(*answers), cache=False)


def fields(**values):
    """Return *values* in the form in which `ChatAdapter` reads an LM's answer."""
    sections = [f"[[ ## {name} ## ]]\n{value}" for name, value in values.items()]
    return "\n\n".join([*sections, "[[ ## completed ## ]]"])


def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"Sunny in {city}."


def run_agent():
    """Run an agent that calls one tool and finishes."""
    answers = (
        fields(next_thought="I ask.", next_tool_name="weather", next_tool_args='{"city": "Oslo"}'),
        fields(next_thought="I know.", next_tool_name="finish", next_tool_args="{}"),
        fields(reasoning="I asked.", answer="sunny"),
    )
    with dspy.context(lm=engine_lm(*answers)):
        dspy.ReAct("question -> answer", tools=[weather])(question="Weather in Oslo?")


def test_the_list_shows_a_trace(ui, dspy_traces):
    """The list of traces shows name, input, output, state, tokens, cost and tags of a program's call."""
    with dspy.context(lm=engine_lm(fields(reasoning="Because.", answer="42"))):
        Program()(question="why?")
    ui.open_list()
    ui.toggle_columns("trace_name", "cost", "start_time", "duration")
    outputs = '{"reasoning":"Because.","answer":"42"}'
    shown = ["Program", '{"question":"why?"}', outputs, "OK", "1500", "$0.00036", "-"]
    expect(ui.rows).to_have_text([" ".join(shown)], use_inner_text=True)


def test_the_tree_shows_the_program(ui, dspy_traces):
    """The tree of spans shows the program's modules by their paths, in the order of their calls."""
    with dspy.context(lm=answering()):
        Program()(question="why?")
    ui.open_trace(dspy_traces.one())
    assert ui.tree() == [
        (0, "Program"),
        (1, "Program.generate"),
        (2, "Program.generate.predict"),
        (3, "ChatAdapter.format"),
        (3, "dummy"),
        (3, "ChatAdapter.parse"),
    ]


def test_the_tree_shows_an_agent(ui, dspy_traces):
    """The tree of an agent's trace shows its steps and tools in the order of their calls."""
    run_agent()
    ui.open_trace(dspy_traces.one())
    step = [(2, "ChatAdapter.format"), (2, PRICED), (2, "ChatAdapter.parse")]
    assert ui.tree() == [
        (0, "ReAct"),
        (1, "ReAct.react"),
        *step,
        (1, "weather"),
        (1, "ReAct.react"),
        *step,
        (1, "finish"),
        (1, "ReAct.extract"),
        (2, "ReAct.extract.predict"),
        *[(depth + 1, name) for depth, name in step],
    ]


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        pytest.param("Sunny.", "Sunny.", id="text"),
        pytest.param([ToolCallPart("call_1", "weather", {"city": "Oslo"})], "Tool calls weather city Oslo", id="tools"),
        pytest.param([ThinkingPart("Let me see."), TextPart("Sunny.")], "Reasoning Sunny.", id="reasoning"),
    ],
)
def test_an_lm_span_is_a_chat(ui, dspy_traces, answer, shown):
    """An LM's span shows the tools it is given, and the system's, the user's and the assistant's messages as a chat."""
    tool = FunctionTool(name="weather", description="Return the weather.", parameters={"type": "object"})
    request = Request(model=PRICED, system="Be brief.", messages=(Message.user("Weather?"),), tools=(tool,))
    engine_lm(answer)(request)
    ui.open_trace(dspy_traces.one())
    expect(ui.content).to_have_text(
        f"Tools (1) Click to Expand Inputs Pretty System Be brief. User Weather? Outputs Pretty Assistant {shown}",
        use_inner_text=True,
    )


def test_reasoning_unfolds(ui, dspy_traces):
    """A click on an LM's reasoning shows what it thought above its answer."""
    engine_lm([ThinkingPart("Let me see."), TextPart("Sunny.")])("Weather?")
    ui.open_trace(dspy_traces.one())
    ui.content.get_by_role("button", name="Reasoning").click()
    expect(ui.content).to_contain_text("Assistant Reasoning Let me see. Sunny.", use_inner_text=True)


def test_a_conversation_is_a_chat(ui, dspy_traces):
    """Earlier turns of a conversation, calls and results of tools among them, are shown as a chat."""
    turns = (
        Message.user("Weather?"),
        Message.assistant([ToolCallPart("call_1", "weather", {"city": "Oslo"})]),
        Message(role="tool", parts=(ToolResultPart("call_1", (TextPart("Sunny in Oslo."),)),)),
        Message(role="developer", parts=(TextPart("Be brief."),)),
    )
    engine_lm("Sunny.")(Request(model=PRICED, messages=turns))
    ui.open_trace(dspy_traces.one())
    expect(ui.content).to_have_text(
        "Inputs Pretty User Weather? Assistant Tool calls weather city Oslo weather Sunny in Oslo. System Be brief. "
        "Outputs Pretty Assistant Sunny.",
        use_inner_text=True,
    )


def test_what_an_adapter_asks_is_a_chat(ui, dspy_traces):
    """The LM's span of a Predict shows what the adapter wrote as a chat of system, user and assistant."""
    with dspy.context(lm=answering()):
        dspy.Predict("question -> answer")(question="why?")
    ui.open_trace(dspy_traces.one())
    ui.select(dspy_traces.spans(kind="lm")[0])
    roles = ui.content.get_by_text(re.compile("^(System|User|Assistant)$"))
    expect(roles).to_have_text(["System", "User", "Assistant"])


def test_an_engines_call_shows_tokens_and_cost(ui, dspy_traces):
    """A call of which DSPy knows no price shows what MLflow works out from tokens, model and provider."""
    engine_lm("Sunny.")("Weather?")
    trace = dspy_traces.one()
    ui.open_trace(trace)
    expect(ui.metrics(trace.data.spans[0])).to_have_text(["1.5K", "$0.00036"], use_inner_text=True)


@pytest.mark.parametrize(("calls", "shown"), [(1, "$0.000345"), (2, "$0.00")], ids=["billed", "cache hit"])
def test_a_providers_call_shows_tokens_and_cost(ui, dspy_traces, httpserver, calls, shown):
    """A call over HTTP shows the cost that DSPy knows, the provider's cache counted; DSPy's cache is free."""
    httpserver.expect_request("/v1/chat/completions").respond_with_json(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-4o-mini-2024-07-18",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Sunny."}, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": 1200,
                "completion_tokens": 300,
                "total_tokens": 1500,
                "prompt_tokens_details": {"cached_tokens": 200},
            },
        }
    )
    lm = dspy.LM(PRICED, api_base=httpserver.url_for("/v1"), api_key="key", cache=calls > 1)
    for _ in range(calls):
        lm("Weather?")
    trace = dspy_traces.all()[-1]
    ui.open_trace(trace)
    tokens = ["1.5K"] if calls == 1 else []
    expect(ui.metrics(trace.data.spans[0])).to_have_text([*tokens, shown], use_inner_text=True)


@pytest.mark.parametrize("kind", ["module", "lm"])
def test_an_image_is_displayed(ui, dspy_traces, kind):
    """An image is shown as such in the Predict's inputs and in the LM's chat."""

    class Caption(dspy.Signature):
        image: dspy.Image = dspy.InputField()
        caption: str = dspy.OutputField()

    data = io.BytesIO()
    Image.effect_noise((64, 48), 90).save(data, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    with dspy.context(lm=answering({"caption": "noise"})):
        dspy.Predict(Caption)(image=dspy.Image(url))
    ui.open_trace(dspy_traces.one())
    ui.select(dspy_traces.spans(kind=kind)[0])
    image = ui.content.locator("img")
    expect(image).to_have_js_property("naturalWidth", 64)
    expect(image).to_have_js_property("naturalHeight", 48)


class Failing(dspy.Module):
    """A program that fails."""

    def forward(self, question: str) -> dspy.Prediction:
        raise LookupError(f"nobody knows {question}")


def run_failing():
    with pytest.raises(LookupError):
        Failing()(question="why")


def test_a_failure_shows_its_exception(ui, dspy_traces):
    """A span that failed opens on its exception: type, message and stack trace."""
    run_failing()
    ui.open_trace(dspy_traces.one())
    events = ui.page.get_by_role("tabpanel", name="Events")
    expect(events).to_contain_text(
        "Exception exception.type Text 1LookupError exception.message Text 1nobody knows why exception.stacktrace Text "
        "1Traceback (most recent call last):",
        use_inner_text=True,
    )


def test_the_usage_charts_fill(ui, dspy_traces):
    """The overview's charts show the number of traces, errors, tokens and cost."""
    run_agent()
    run_failing()
    charts = ui.open_charts("usage")
    for shown in (
        "Traces 2",
        "Errors 1 (Overall error rate: 50.0%)",
        "Token Usage 4.50K (3.60K input, 900 output)",
        "Tokens per Trace 4.50K avg per trace",
        f"Cost Breakdown $0.00108 Total Cost Model Provider {PRICED}100%",
        "Cost Over Time $0.00108 Total Cost",
    ):
        expect(charts).to_contain_text(shown, use_inner_text=True)


def test_the_latency_chart_fills(ui, dspy_traces):
    """The overview's chart of latency shows how long the traces took."""
    run_agent()
    charts = ui.open_charts("usage")
    taken = f"{dspy_traces.one().info.execution_duration:.2f}ms"
    expect(charts).to_contain_text(f"Latency {taken} p50p90p99", use_inner_text=True)


def rate(example, prediction, trace=None):
    """Return a score with its reason."""
    return dspy.Prediction(score=0.5, feedback="well said")


def test_what_a_metric_says_is_feedback(ui, dspy_traces):
    """An evaluation's score is in the charts of quality, and on its example's trace with the metric's words."""
    evaluate = dspy.Evaluate(devset=[dspy.Example(question="why?").with_inputs("question")], metric=rate)
    with dspy.context(lm=answering()):
        evaluate(Program(), display_progress=False)
    expect(ui.open_charts("quality")).to_contain_text("rate 1 0.50", use_inner_text=True)
    (example,) = [trace for trace in dspy_traces.all() if trace.info.assessments]
    ui.open_trace(example)
    ui.dialog.get_by_role("button", name="Assess").click()
    expect(ui.dialog).to_contain_text("Feedback (1) Add feedback rate 0.5", use_inner_text=True)
    ui.dialog.locator('[data-component-id="shared.model-trace-explorer.toggle-assessment-expanded"]').click()
    expect(ui.dialog).to_contain_text("well said")


def test_a_session_shows_its_turns(ui, dspy_traces):
    """The page of a session has a turn for each trace, in order, and the list names the session."""
    with dspy.context(lm=answering()), trace_context(session_id="chat-of-ada"):
        for question in ("why?", "and then?"):
            Program()(question=question)
    session = ui.open_session("chat-of-ada")
    for turn in ("Turn 1 Inputs question why?", "Turn 2 Inputs question and then?"):
        expect(session).to_contain_text(turn, use_inner_text=True)
    ui.open_list()
    for row in ui.rows.all():
        expect(row).to_contain_text("chat-of-ada")


def test_a_run_shows_its_traces(ui, dspy_traces):
    """The page of a run lists the traces that were made in it, and no others."""
    with dspy.context(lm=answering()):
        with mlflow.start_run() as run:
            Program()(question="in the run")
        Program()(question="after it")
    page = ui.open_run(run.info.run_id)
    for shown in ("1 of 1", '{ "question": "in the run" }'):
        expect(page).to_contain_text(shown, use_inner_text=True)
    expect(page).not_to_contain_text("after it")


def test_the_tool_charts_fill(ui, dspy_traces):
    """The overview's charts of tools show how often each tool was called, and how that went."""
    run_agent()
    charts = ui.open_charts("tool-calls")
    for shown in ("2 Total Tool Calls", "100.00% Success Rate 0 Failed Calls"):
        expect(charts).to_contain_text(shown, use_inner_text=True)
    for name in ("weather", "finish"):
        chart = charts.get_by_test_id(f"tool-chart-{name}")
        expect(chart).to_contain_text(f"{name} 0.00% overall error rate", use_inner_text=True)


def test_the_picture_of_the_readme(ui, dspy_traces, monkeypatch):
    """The README's picture shows the demo's program in MLflow; REFRESH_IMAGES=1 takes it again."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    demo, offline = importlib.import_module("demo"), importlib.import_module("offline")
    librarian = demo.Librarian(demo.read_passages(demo.TEXT.read_text(encoding="utf-8")))
    with dspy.context(lm=offline.offline_lm()):
        librarian(question=demo.QUESTIONS[-1])
    ui.page.set_viewport_size({"width": PICTURE_SIZE[0], "height": PICTURE_SIZE[1]})
    ui.open_trace(dspy_traces.one())
    ui.page.get_by_role("button", name="Full screen").click()
    ui.select(dspy_traces.spans(kind="lm")[1])
    expect(ui.content.get_by_text("Assistant", exact=True)).to_be_visible()
    ui.page.mouse.move(0, 0)
    taken = ui.page.screenshot(animations="disabled")
    if os.environ.get("REFRESH_IMAGES"):
        PICTURE.write_bytes(taken)
    for picture in (taken, PICTURE.read_bytes()):
        assert Image.open(io.BytesIO(picture)).size == PICTURE_SIZE
        assert len(picture) < PICTURE_BYTES


def test_a_logged_model_shows_its_traces(ui, dspy_traces):
    """The page of a logged model lists the traces of the program that was loaded from it, and no others."""
    with dspy.context(lm=answering()):
        info = log_model(attach(Program(), MlflowCallback()), name="answers", pip_requirements=["dspy"])
        Program()(question="not of the model")
    mlflow.pyfunc.load_model(info.model_uri).predict("of the model")
    mlflow.clear_active_model()
    page = ui.open_model(info.model_id)
    for shown in ("answers", "1 of 1", '{ "question": "of the model" }'):
        expect(page).to_contain_text(shown, use_inner_text=True)
    expect(page).not_to_contain_text("not of the model")
