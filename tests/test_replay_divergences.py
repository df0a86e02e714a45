"""Where a replay leaves its recording: strict stops there, lenient goes on, live asks the LM."""

from __future__ import annotations

import json

import dspy
import pytest
from dspy.utils.dummies import DummyLM
from offline_lm import OfflineLM
from replays import (
    AGENT_STEPS,
    Adding,
    Look,
    Many,
    Steps,
    Twice,
    agent,
    counting,
    divide,
    fields,
    instructed,
    needs_engines,
    record,
    replay,
    seen,
    span_of,
)

WHY = {"question": "why?"}


def said(divergences):
    return [(each.kind, each.span, each.field) for each in divergences]


@pytest.fixture
def steps(dspy_traces):
    """Return the trace of `Steps`."""
    trace, _ = record(dspy_traces, lambda: Steps()(**WHY))
    return trace


def lm_below(trace, name):
    module = span_of(trace, name)
    return next(
        span for span in trace.data.spans if span.parent_id == module.span_id and span.span_type == "CHAT_MODEL"
    )


def test_a_changed_instruction_is_the_first_divergence(steps):
    """Strict stops at the span whose prompt has changed, and names message, role and lines."""
    again = replay(steps, instructed(Steps(), "Answer in one word."))
    (divergence,) = again.divergences
    assert said([divergence]) == [("prompt", "Steps.second > dummy", "messages[0] (system)")]
    assert divergence.span_id == lm_below(steps, "Steps.second").span_id
    changed = [line for line in divergence.diff.splitlines() if line[0] in "+-"]
    assert changed == [
        "--- recorded",
        "+++ replayed",
        "-        Given the fields `question`, `hint`, produce the fields `answer`.",
        "+        Answer in one word.",
    ]
    assert (again.is_equal, again.outputs, again.error) == (False, None, None)
    assert str(divergence) in again.stopped
    statuses = {span.name: span.status.status_code.value for span in again.trace.data.spans}
    assert (statuses["Steps.first"], statuses["Steps.second"]) == ("OK", "ERROR")


def test_lenient_serves_the_nearest_and_lists_all(steps):
    """Lenient answers all the same, and lists each divergence."""
    program = instructed(Steps(), "Answer in one word.")
    program.first.signature = program.first.signature.with_instructions("Give a hint.")
    again = replay(steps, program, mode="lenient")
    assert said(again.divergences) == [
        ("prompt", "Steps.first > dummy", "messages[0] (system)"),
        ("prompt", "Steps.second > dummy", "messages[0] (system)"),
    ]
    assert (fields(again.outputs), again.stopped) == ({"answer": "answer 1"}, None)


def test_lenient_takes_the_most_alike_in_another_order(dspy_traces):
    """A program that asks the same in another order, and otherwise, gets the answers to what it asks."""

    class Series(Twice):
        def forward(self, *questions):
            return [self.ask(question=question).answer for question in questions]

    lm = OfflineLM(answer=lambda prompt: prompt.split("\n")[1])
    trace, _ = record(dspy_traces, lambda: Series()("a", "b", "c", "d"), lm)
    program = Series()
    program.ask.signature = program.ask.signature.with_instructions("Be brief.")

    def turned(**inputs):
        return program("c", "a", "d", "b")

    assert replay(trace, turned, mode="lenient", inputs={}).outputs == ["c", "a", "d", "b"]


def test_lenient_takes_the_most_alike_in_threads(dspy_traces):
    """Of several recordings at a place the one is served that was asked what is most like it."""
    lm = OfflineLM(answer=lambda prompt: prompt.split("\n")[1])
    trace, outputs = record(dspy_traces, lambda: Many()("the first", "another one"), lm)
    program = Many()
    program.inner.ask.signature = program.inner.ask.signature.with_instructions("Be brief.")
    again = replay(trace, program, mode="lenient")
    assert again.outputs == outputs
    assert [each.kind for each in again.divergences] == ["prompt"] * 4


@pytest.mark.parametrize("mode", ["strict", "lenient"])
def test_a_call_too_many_is_a_divergence(dspy_traces, mode):
    """A call at a place where all recordings are taken is served again by lenient, and ends strict."""
    trace, _ = record(dspy_traces, lambda: Twice()(**WHY))

    class Thrice(Twice):
        def forward(self, question):
            return [*super().forward(question), self.ask(question=question).answer]

    Thrice.__name__ = "Twice"
    again = replay(trace, Thrice(), mode=mode)
    assert again.divergences[0].kind == "extra"
    assert again.divergences[0].span_id is None
    assert again.outputs == (["answer 0", "answer 1", "answer 0"] if mode == "lenient" else None)


@pytest.mark.parametrize("mode", ["strict", "lenient"])
def test_a_call_at_a_new_place_ends_the_replay(steps, mode):
    """Where the recording has nothing like a call, no answer is made up."""

    class More(Steps):
        def __init__(self):
            super().__init__()
            self.third = dspy.Predict("answer -> judgement")

        def forward(self, question):
            return self.third(answer=super().forward(question).answer)

    More.__name__ = "Steps"
    again = replay(steps, More(), mode=mode)
    assert said(again.divergences) == [("extra", "Steps.third", "call")]
    assert again.outputs is None
    assert "mode='live'" in again.stopped or mode == "strict"


@pytest.mark.parametrize(("mode", "count"), [("strict", 1), ("lenient", 3)])
def test_calls_that_are_not_made_are_missing(dspy_traces, mode, count):
    """Recorded calls that the program does not make are divergences, and other outputs are."""
    trace, _ = record(dspy_traces, lambda: Twice()(**WHY))

    class Lazy(Twice):
        def forward(self, question):
            return "no"

    Lazy.__name__ = "Twice"
    again = replay(trace, Lazy(), mode=mode)
    missing = ("missing", "Twice.ask > dummy", "call")
    assert said(again.divergences) == [missing, missing, ("outputs", "Twice", "outputs")][:count]
    assert again.outputs == "no"


def test_other_outputs_are_a_divergence(steps):
    """A program that makes other outputs of the same answers has diverged."""

    class Loud(Steps):
        def forward(self, question):
            return super().forward(question).answer.upper()

    Loud.__name__ = "Steps"
    again = replay(steps, Loud())
    assert (said(again.divergences), again.outputs) == ([("outputs", "Steps", "outputs")], "ANSWER 1")
    assert '"answer": "answer 1"' in again.divergences[0].diff


def test_an_exception_is_a_divergence(steps):
    """A program that raises where it returned has diverged, and the exception is at hand."""

    class Failing(Steps):
        def forward(self, question):
            raise ValueError(super().forward(question).answer)

    Failing.__name__ = "Steps"
    again = replay(steps, Failing())
    assert (said(again.divergences), repr(again.error)) == (
        [("error", "Steps", "exception")],
        "ValueError('answer 1')",
    )
    assert "The program raised ValueError: answer 1" in again.to_markdown()


def test_other_parameters_are_a_divergence(steps):
    """A parameter that a call gives is compared, and so are those of an LM of the program's own, with its model."""
    program = Steps()
    program.second.config = {"temperature": 0.3}
    assert said(replay(steps, program).divergences) == [
        ("parameters", "Steps.second > dummy", "parameters.temperature")
    ]
    program = Steps()
    program.first.lm = dspy.LM("openai/other")
    assert said(replay(steps, program).divergences) == [("parameters", "Steps.first > dummy", "parameters.model")]


@needs_engines
def test_how_a_provider_is_reached_is_no_parameter(steps):
    """Keys and addresses that a call gives are no divergence, and no obstacle."""
    program = Steps()
    program.first.config = {"api_key": "sk-1", "api_base": "http://nowhere"}
    assert replay(steps, program).is_equal


def test_other_arguments_of_a_tool_are_a_divergence(dspy_traces):
    """A tool that is called with other arguments ends strict; lenient returns the nearest result, and runs nothing."""

    class Calls(dspy.Module):
        def __init__(self, tool, *arguments):
            super().__init__()
            self.tool, self.arguments = dspy.Tool(tool), arguments

        def forward(self):
            return [self.tool(a=a, b=b) for a, b in self.arguments]

    trace, _ = record(dspy_traces, Calls(Adding().add, (1, 2), (3, 4)))
    adding = Adding()
    changed = Calls(adding.add, (1, 2), (3, 5))
    strict, lenient = replay(trace, changed), replay(trace, changed, mode="lenient")
    assert said(strict.divergences) == said(lenient.divergences) == [("tool", "Calls > add", "b")]
    assert (strict.outputs, lenient.outputs, adding.called) == (None, [3, 7], [])
    assert said(replay(trace, Calls(adding.add, (1, 2)), mode="lenient").divergences)[0] == (
        "missing",
        "Calls > add",
        "call",
    )
    unknown = replay(trace, Calls(divide, (1, 2)), mode="lenient")
    assert (said(unknown.divergences), unknown.outputs) == ([("extra", "Calls", "call")], None)
    assert "tools='live'" in unknown.stopped


def test_no_program_catches_the_end_of_a_replay(steps):
    """A program that goes on after errors does not go on after the replay has ended, in threads neither."""

    class Stubborn(Steps):
        def forward(self, question):
            for _ in range(3):
                try:
                    super().forward(question)
                except BaseException:
                    self.tried = True
            return dspy.Parallel(num_threads=2, disable_progress_bar=True)([(self.first, WHY)] * 2)

    Stubborn.__name__ = "Steps"
    again = replay(steps, instructed(Stubborn(), "Otherwise."))
    assert (said(again.divergences), again.outputs) == (
        [("prompt", "Steps.second > dummy", "messages[0] (system)")],
        None,
    )


def test_what_a_program_makes_of_the_end_is_no_output(steps):
    """A program that returns after the replay has ended has no outputs."""

    class Stubborn(Steps):
        def forward(self, question):
            try:
                return super().forward(question)
            except BaseException:
                return "all is well"

    Stubborn.__name__ = "Steps"
    again = replay(steps, instructed(Stubborn(), "Otherwise."))
    assert (again.outputs, again.error, again.is_equal) == (None, None, False)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_not_taken_for_an_outcome(steps, error):
    """An interrupt that the recording does not have leaves the replay."""

    class Interrupted(Steps):
        def forward(self, question):
            raise error

    Interrupted.__name__ = "Steps"
    with pytest.raises(error):
        replay(steps, Interrupted())


def test_a_recorded_interrupt_is_an_outcome(dspy_traces):
    """An interrupt that was recorded comes again, and is equal."""

    class Interrupted(Steps):
        def forward(self, question):
            super().forward(question)
            raise KeyboardInterrupt

    def run():
        with pytest.raises(KeyboardInterrupt):
            Interrupted()(**WHY)

    trace, _ = record(dspy_traces, run)
    again = replay(trace, Interrupted())
    assert (again.is_equal, type(again.error)) == (True, KeyboardInterrupt)


def test_images_are_named_by_their_digest_in_a_diff(dspy_traces):
    """A diff shows of an image how long it is, and its digest."""
    trace, _ = record(dspy_traces, lambda: Look()(**seen()), OfflineLM())
    program = Look()
    (divergence,) = replay(trace, program, inputs={**seen(), "sounds": []}).divergences
    assert (divergence.field, "characters, sha256 " in divergence.diff) == ("messages[1] (user)", True)
    assert max(map(len, divergence.diff.splitlines())) < 300


def test_live_goes_on_from_the_first_divergence(steps):
    """Live answers from the recording until the program asks for something else, and then asks the LM."""
    lm = counting()
    again = replay(steps, instructed(Steps(), "Otherwise."), mode="live", lm=lm)
    assert said(again.divergences)[0] == ("prompt", "Steps.second > dummy", "messages[0] (system)")
    assert (fields(again.outputs), len(lm.history)) == ({"answer": "answer 0"}, 1)
    assert lm.history[0]["messages"][-1]["content"].count("answer 0") == 1


@pytest.mark.parametrize("place", ["Steps.second", "Steps.second > dummy", "its id"])
def test_live_forks_at_a_span(steps, place):
    """From a span on, named or by its id, the LM is real, be it that nothing has changed."""
    lm = DummyLM([{"answer": "real"}])
    place = lm_below(steps, "Steps.second").span_id if place == "its id" else place
    again = replay(steps, Steps(), mode="live", from_span=place, lm=lm)
    assert (fields(again.outputs), len(lm.history)) == ({"answer": "real"}, 1)
    assert said(again.divergences) == [("outputs", "Steps", "outputs")]


def test_live_before_its_span_serves_the_nearest(steps):
    """What has changed before the fork is listed, and answered from the recording."""
    program = Steps()
    program.first.signature = program.first.signature.with_instructions("Give a hint.")
    again = replay(steps, program, mode="live", from_span="Steps.second", lm=DummyLM([{"answer": "real"}]))
    assert said(again.divergences)[0] == ("prompt", "Steps.first > dummy", "messages[0] (system)")
    assert fields(again.outputs) == {"answer": "real"}


def test_live_takes_the_programs_own_lm(steps):
    """Without `lm` a predictor's own LM is asked, or that of DSPy's settings."""
    program = instructed(Steps(), "Otherwise.")
    program.second.lm = DummyLM([{"answer": "its own"}])
    assert fields(replay(steps, program, mode="live").outputs) == {"answer": "its own"}
    named = DummyLM([{"answer": "configured"}])
    named.model = "other"
    with dspy.context(lm=named):
        assert fields(replay(steps, instructed(Steps(), "No."), mode="live").outputs) == {"answer": "configured"}


@pytest.mark.parametrize(("tools", "called"), [("recorded", []), ("live", [(5, 6)])])
def test_tools_after_a_fork(dspy_traces, tools, called):
    """After a fork a tool that is called otherwise runs with `tools="live"`; else the replay ends and says so."""
    trace, _ = record(dspy_traces, lambda: agent()(**WHY), DummyLM(AGENT_STEPS))
    adding = Adding()
    steps = [{**AGENT_STEPS[0], "next_tool_args": {"a": 5, "b": 6}}, *AGENT_STEPS[3:]]
    again = replay(trace, agent(adding), mode="live", from_span="ReAct.react", lm=DummyLM(steps), tools=tools)
    assert adding.called == called
    assert ("tools='live'" in (again.stopped or "")) == (tools == "recorded")
    assert (again.outputs is None) == (tools == "recorded")


def test_inputs_of_your_own(steps):
    """Other inputs than the recorded ones make other prompts."""
    again = replay(steps, Steps(), inputs={"question": "how?"})
    (divergence,) = again.divergences
    assert said([divergence]) == [("prompt", "Steps.first > dummy", "messages[1] (user)")]
    assert ("-why?" in divergence.diff, "+how?" in divergence.diff) == (True, True)


def test_another_program_runs_leniently(dspy_traces, steps):
    """Lenient runs a program of another class on the recorded answers, place by place."""

    class Renamed(Steps):
        pass

    again = replay(steps, Renamed(), mode="lenient")
    assert (again.divergences, fields(again.outputs)) == ((), {"answer": "answer 1"})


def test_a_report_says_it_all(steps):
    """The report names trace, verdict, each divergence with its diff, and durations; JSON has the same."""
    again = replay(steps, instructed(Steps(), "Say ```so```."), mode="lenient")
    report = again.to_markdown()
    assert report.startswith(f"# Replay of {steps.info.trace_id}\n\n1 divergence; mode lenient, its trace is tr-")
    span_id = again.divergences[0].span_id
    assert f"## 1. prompt: Steps.second > dummy (span {span_id}), messages[0] (system)\n\n````diff\n" in report
    assert "| call | recorded, s | replayed, s |" in report
    read = json.loads(json.dumps(again.to_dict()))
    assert (read["of"], read["is_equal"], read["outputs"]) == (steps.info.trace_id, False, {"answer": "answer 1"})
    assert (read["trace_id"], read["divergences"][0]["kind"]) == (again.trace.info.trace_id, "prompt")
    assert len(read["timings"]) == 5


def test_lenient_takes_the_most_alike_of_one_callers_calls(dspy_traces):
    """Of the calls that a module made itself, the one is served that was asked what is most like it."""

    class Direct(dspy.Module):
        def forward(self, *prompts):
            return [dspy.settings.lm(prompt)[0] for prompt in prompts]

    lm = OfflineLM()
    lm._use_example = lambda messages: messages[-1]["content"][:1]
    trace, _ = record(dspy_traces, lambda: Direct()("a\n1", "b\n2", "c\n3", "d\n4"), lm)

    def turned():
        return Direct()("x\n3", "x\n1", "x\n4", "x\n2")

    assert replay(trace, turned, mode="lenient", inputs={}).outputs == ["c", "a", "d", "b"]
