"""A test's LM calls are answered from a recorded file beside it."""

from __future__ import annotations

import contextvars
import functools

import dspy
import hypothesis
import pytest
import yaml
from hypothesis import strategies
from offline_lm import OfflineLM
from openai_server import BACKENDS, HAS_ENGINES, chat, choice, tool_call
from programs import Program, answering
from threads import at_once
from werkzeug import Response

from dspy_mlflow_callbacks.testing import UnrecordedCallError, capture_traces, replay_lms
from dspy_mlflow_callbacks.testing.recorded_answers import read_answers, write_answers


def recorded(path, mode, program, lm):
    """Run *program* with *lm* under a record mode; return what it returns, and what answered its calls."""
    with capture_traces() as traces, dspy.context(lm=lm), replay_lms(traces, path, mode) as answers:
        return program(), answers


def ask(*questions):
    """Return a program that asks one question after the other."""
    return lambda: [Program()(question=question).answer for question in questions]


@pytest.fixture
def path(tmp_path):
    """Return the path of a file that is not there yet."""
    return tmp_path / "replays" / "answers.yaml"


@pytest.fixture
def none_left():
    """Return an LM that has no answer."""
    return answering({"answer": "not recorded"}, times=0)


def test_recorded_answers_are_given_again(path, none_left):
    """What `once` records answers the same calls afterwards, without the LM."""
    said, first = recorded(path, "once", ask("why?", "how?"), OfflineLM(answer=lambda prompt: prompt[:40]))
    again, second = recorded(path, "none", ask("why?", "how?"), none_left)
    assert again == said
    assert (first.answered, second.answered) == (0, 2)


def test_equal_calls_are_answered_in_turn(path, none_left):
    """Calls that ask the same get their answers in the order in which they were recorded; the last one stays."""
    recorded(path, "once", ask("why?", "why?"), answering(*[{"reasoning": "so", "answer": each} for each in "ab"]))
    again, _ = recorded(path, "none", ask("why?", "why?", "why?"), none_left)
    assert again == ["a", "b", "b"]


def test_threads_are_answered(path, none_left):
    """Calls in threads of the user's own are answered too, each with its own."""
    recorded(path, "once", ask("0", "1"), OfflineLM(answer=lambda prompt: "zero" if "\n0\n" in prompt else "one"))

    def in_threads():
        found = {}
        work = [functools.partial(lambda n: found.update({n: ask(n)()}), f"{number}") for number in range(2)]
        at_once(*[functools.partial(contextvars.copy_context().run, each) for each in work])
        return found

    found, _ = recorded(path, "none", in_threads, none_left)
    assert found == {"0": ["zero"], "1": ["one"]}


def test_a_call_that_is_not_recorded_says_how_it_differs(path, none_left):
    """Without a recorded answer the call raises an error with a diff to the nearest one, which no program catches."""
    recorded(path, "once", ask("why?"), OfflineLM())

    class Catching(dspy.Module):
        def forward(self):
            try:
                return Program()(question="how?")
            except Exception:
                return "caught"

    with pytest.raises(UnrecordedCallError) as missed:
        recorded(path, "none", Catching(), none_left)
    assert "differs from the nearest recorded one in messages[1] (user):" in str(missed.value)
    assert "\n-why?\n+how?\n" in str(missed.value)


def test_other_parameters_are_another_call(path, none_left):
    """A call with another temperature is not answered by one without."""
    recorded(path, "once", ask("why?"), OfflineLM())
    with pytest.raises(UnrecordedCallError, match=r"in parameters\.temperature"):
        recorded(path, "none", lambda: Program().generate(question="why?", config={"temperature": 0.7}), none_left)


def test_without_a_file_nothing_is_answered(path, none_left):
    """With `none` and no file the error says how to record one."""
    with pytest.raises(UnrecordedCallError, match="no recorded answers: record them with --dspy-record-mode=once"):
        recorded(path, "none", ask("why?"), none_left)


def test_once_does_not_record_into_a_file_that_is_there(path, none_left):
    """With `once` a file that is there answers, and what it does not have is an error."""
    recorded(path, "once", ask("why?"), OfflineLM())
    before = path.read_text()
    with pytest.raises(UnrecordedCallError):
        recorded(path, "once", ask("why?", "how?"), OfflineLM())
    assert path.read_text() == before


def test_new_adds_what_a_file_does_not_have(path, none_left):
    """With `new` the file answers what it has, and the rest is asked for and added."""
    recorded(path, "once", ask("why?"), OfflineLM(answer="old"))
    said, answers = recorded(path, "new", ask("why?", "how?"), OfflineLM(answer="new"))
    assert (said, answers.answered) == (["old", "new"], 1)
    assert len(read_answers(path)) == 2
    assert recorded(path, "none", ask("how?", "why?"), none_left)[0] == ["new", "old"]


def test_all_records_everything_again(path):
    """With `all` the file is written anew, and DSPy's cache is not asked."""
    recorded(path, "once", ask("why?", "how?"), OfflineLM(answer="old"))
    said, _ = recorded(path, "all", ask("why?"), OfflineLM(answer="new"))
    assert said == ["new"]
    assert len(read_answers(path)) == 1


def test_an_error_keeps_the_file_from_being_written(path):
    """A program that fails leaves no half of a recording."""

    def broken():
        ask("why?")()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        recorded(path, "once", broken, OfflineLM())
    assert not path.exists()


def test_a_failed_test_keeps_the_file_from_being_written(path):
    """What is marked as failed is not written."""
    with capture_traces() as traces, dspy.context(lm=OfflineLM()), replay_lms(traces, path, "once") as answers:
        ask("why?")()
        answers.is_failed = True
    assert not path.exists()


@pytest.mark.skipif(not HAS_ENGINES, reason="LMs have engines since DSPy 3.4")
def test_tokens_are_those_of_the_recording(path, openai_server):
    """An answer bills the tokens that were recorded, so that limits hold offline."""
    openai_server.script(chat(choice("[[ ## reasoning ## ]]\nso\n\n[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]")))
    lm = openai_server.lm("lm15", temperature=0.5)
    recorded(path, "once", ask("why?"), lm)
    asked = len(openai_server.requests)
    with capture_traces() as traces, dspy.context(lm=lm), replay_lms(traces, path):
        assert ask("why?")() == ["42"]
        assert traces.tokens()["total_tokens"] == 120
    assert len(openai_server.requests) == asked


def test_no_key_is_in_the_file(path, openai_server):
    """Keys of LMs and secrets in prompts are not in the file, and what had one is answered all the same."""
    openai_server.script(chat(choice("[[ ## reasoning ## ]]\nso\n\n[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]")))
    lm = openai_server.lm("litellm", api_key="sk-proj-0123456789abcdefghijABCDEFGHIJ")
    question = "who has sk-proj-abcdefghijABCDEFGHIJ0123456789?"
    recorded(path, "once", ask(question), lm)
    assert "sk-proj" not in path.read_text()
    assert recorded(path, "none", ask(question), lm)[0] == ["42"]


@pytest.mark.skipif(not HAS_ENGINES, reason="before DSPy 3.4 tool calls are LiteLLM's objects")
def test_tool_calls_and_errors_are_recorded(path, openai_server):
    """What an LM answers beside text, and what it raises, comes again."""
    call = choice(None, tool_calls=[tool_call("find", {"city": "Ulm"})], finish_reason="tool_calls")
    openai_server.script(chat(call))
    lm = openai_server.lm(BACKENDS[0], num_retries=0)
    said, _ = recorded(path, "once", lambda: lm("where?"), lm)
    assert recorded(path, "none", lambda: lm("where?"), lm)[0] == said
    openai_server.script(Response('{"error": {"message": "no such model"}}', 400, content_type="application/json"))

    def failing():
        with pytest.raises(Exception) as raised:
            lm("what?")
        return type(raised.value).__name__

    failed, _ = recorded(path, "new", failing, lm)
    assert recorded(path, "none", failing, lm)[0] == failed


def test_tools_run(path, none_left):
    """Tools are not answered from the file: they run."""
    ran = []

    def tell(city: str) -> str:
        """Tell."""
        ran.append(city)
        return city

    recorded(path, "once", lambda: dspy.Tool(tell)(city="Ulm"), none_left)
    assert ran == ["Ulm"]


def test_an_unknown_mode_is_refused(path):
    """A record mode that does not exist raises an error with those that do."""
    with (
        capture_traces() as traces,
        pytest.raises(ValueError, match="mode must be one of none, once, new, all, got 'twice'"),
        replay_lms(traces, path, "twice"),
    ):
        pass


@pytest.mark.parametrize(
    "content", ["", "version: 2\ncalls: []\n", "[", "version: 1\ncalls: [1]\n", "version: 1\ncalls:\n- model: x\n"]
)
def test_a_file_of_something_else_is_refused(path, content):
    """A file that holds no recorded answers is refused by name."""
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=r"answers\.yaml holds no recorded answers .*: delete it and record again"):
        recorded(path, "none", ask("why?"), OfflineLM())


def test_prompts_are_written_as_people_read_them(path):
    """A prompt of several lines stands in the file line by line, also where lines end with spaces."""
    recorded(path, "once", ask("why?"), OfflineLM())
    text = path.read_text()
    assert text.startswith("# What the LMs of a test answered")
    assert "content: |-\n        [[ ## question ## ]]\n        why?\n" in text
    assert "        In adhering to this structure, your objective is: \n" in text


_TEXTS = strategies.text() | strategies.text(alphabet=" \nab#:-|>\x85\u2028")


@hypothesis.settings(derandomize=True, max_examples=300, deadline=None)
@hypothesis.given(strategies.lists(_TEXTS, max_size=3))
def test_any_text_is_read_as_it_was_written(tmp_path_factory, texts):
    """Whatever an LM is asked and answers comes out of the file as it went in."""
    path = tmp_path_factory.mktemp("answers") / "any.yaml"
    path.write_text(yaml.dump({"version": 1, "calls": [{"model": "m", "inputs": {"messages": texts}}]}))
    calls = read_answers(path)
    write_answers(path, calls)
    assert [call.inputs for call in read_answers(path)] == [{"messages": texts}]
