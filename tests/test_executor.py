"""`run`: a program over many inputs, and what its traces say."""

from __future__ import annotations

import itertools
import traceback

import dspy
import mlflow
import pytest
from answers import Answers, asking
from expected import bare, failed
from offline_lm import OfflineLM
from openai_server import BACKENDS, chat, choice
from programs import Program, Runs, program_tree

from dspy_mlflow_callbacks import MlflowCallback, attach, program_fingerprint, run, suppress_tracing, trace_context
from dspy_mlflow_callbacks.spans.open_spans import OPEN_SPANS
from dspy_mlflow_callbacks.testing.captured import tree

ON_BOTH = pytest.mark.parametrize("engine", ["auto", "native"], indirect=True)
IN_PROCESS = pytest.mark.parametrize("on", ["threads", "asyncio"])
USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
LETTERS = [{"question": letter} for letter in "abcdefgh"]


@pytest.fixture(autouse=True)
def nothing_left():
    """Fail a test that leaves a call open."""
    yield
    assert len(OPEN_SPANS) == 0


class Counted(dspy.Module):
    """Costs tokens."""

    def forward(self, question):
        mlflow.get_current_active_span().set_attribute("mlflow.chat.tokenUsage", USAGE)
        return question

    async def aforward(self, question):
        return self.forward(question)


@IN_PROCESS
def test_results_come_in_order(dspy_traces, on):
    """Results come in the order of their inputs, whichever ends first."""
    results = run(Answers(), asking("wait", "a", "b", "last"), on=on, max_workers=4).all()
    assert [result.prediction.answer for result in results] == ["WAIT", "A", "B", "LAST"]
    assert [result.index for result in results] == [0, 1, 2, 3]


@ON_BOTH
@IN_PROCESS
def test_each_input_is_a_trace(dspy_traces, on):
    """By default each input is a trace of its own, as a call by hand would be, found by the run, input and program."""
    program = Program()
    with dspy.context(lm=OfflineLM()), trace_context(session_id="seven"):
        results = run(program, LETTERS, on=on, max_workers=4, name="letters")
        by_id = {result.trace_id: result for result in results}
    traces = dspy_traces.all()
    assert {trace.info.trace_id for trace in traces} == by_id.keys()
    assert [tree(trace) for trace in traces] == [[program_tree()]] * 8
    for trace in traces:
        result, (root, *_) = by_id[trace.info.trace_id], trace.data.spans
        said = {"dspy.run.name": "letters", "dspy.run.input": result.input_id, "dspy.run.attempt": "1"}
        assert {**said, "dspy.program.fingerprint": program_fingerprint(program)}.items() <= trace.info.tags.items()
        assert said.items() <= root.attributes.items()
        assert root.inputs == result.inputs
        assert trace.info.trace_metadata["mlflow.trace.session"] == "seven"


@ON_BOTH
@IN_PROCESS
def test_one_trace_for_all(dspy_traces, on):
    """With `trace="one"` all inputs are below one span, and the trace's totals are those of all of them."""
    results = run(Counted(), LETTERS, on=on, max_workers=4, trace="one")
    assert results.predictions == list("abcdefgh")
    trace = dspy_traces.one()
    assert tree(trace) == [bare("Run", *[bare("Counted")] * 8)]
    assert (results.trace_id, trace.info.tags["dspy.run.name"]) == (trace.info.trace_id, results.name)
    assert trace.info.token_usage == {name: 8 * number for name, number in USAGE.items()}
    root, *below = trace.data.spans
    assert root.inputs == {"program": "Counted", "on": on}
    assert (root.outputs["done"], root.outputs["ok"]) == (8, 8)
    assert {span.attributes["dspy.run.input"] for span in below} == {result.input_id for result in results.done}
    assert all(span.start_time_ns >= root.start_time_ns and span.end_time_ns <= root.end_time_ns for span in below)


@ON_BOTH
@pytest.mark.parametrize("trace", ["each", "one"])
def test_inside_a_program(dspy_traces, trace):
    """Inside a program that is traced, the inputs are part of its trace, and leave its tags alone."""
    Runs(lambda _: run(Answers(), asking("a", "b"), trace=trace).all())()
    answers = [bare("Answers")] * 2
    assert dspy_traces.tree() == [bare("Runs", *(answers if trace == "each" else [bare("Run", *answers)]))]
    tags = dspy_traces.one().info.tags
    assert [tag for tag in tags if tag.startswith(("dspy.run.input", "dspy.program"))] == []


@ON_BOTH
def test_sampling(engine, dspy_traces):
    """Sampling leaves whole inputs out; their results know of no trace, and the others' traces are stored."""
    callback = MlflowCallback(engine=engine, sampling_ratio=0.5)
    with dspy.context(lm=OfflineLM(), callbacks=[callback]):
        results = run(Program(), [{"question": str(number)} for number in range(40)], max_workers=4).all()
    kept = {result.trace_id for result in results} - {None}
    traces = dspy_traces.all()
    assert 0 < len(kept) < 40
    assert {trace.info.trace_id for trace in traces} == kept
    assert {str(tree(trace)) for trace in traces} == {str([program_tree()])}


@ON_BOTH
@pytest.mark.parametrize("scope", ["suppressed", "dropped"])
def test_a_root_that_is_left_out(engine, dspy_traces, scope):
    """What leaves the run's span out leaves its inputs out, which run all the same."""
    callback = MlflowCallback(engine=engine, sampling_ratio=0.0 if scope == "dropped" else 1.0)
    around = suppress_tracing() if scope == "suppressed" else trace_context()
    with dspy.context(callbacks=[callback]), around:
        results = run(Answers(), asking("a", "b"), trace="one")
        assert [each.answer for each in results.predictions] == ["A", "B"]
    assert (results.trace_id, dspy_traces.all()) == (None, [])


@ON_BOTH
@IN_PROCESS
@pytest.mark.parametrize("trace", ["each", "one"])
def test_an_error_leads_to_its_trace(dspy_traces, on, trace):
    """The first error in order is raised, and its traceback says the trace's id and page; what is done is kept."""
    results = run(Answers(), asking("a", "b", "fail", "c"), on=on, max_workers=1, trace=trace)
    with pytest.raises(ValueError, match="I do not know") as raised:
        results.all()
    (error,) = results.errors
    assert error.error is raised.value
    text = "".join(traceback.format_exception(raised.value))
    experiment = dspy_traces.experiment_id
    page = f"http://127.0.0.1:5000/#/experiments/{experiment}/traces?selectedEvaluationId={error.trace_id}"
    assert error.url == page
    assert f"MLflow trace {error.trace_id}: {page} (mlflow ui --backend-store-uri sqlite:" in text
    assert [result.index for result in results.done][:2] == [0, 1]
    assert next(results, None) is None
    states = {stored.info.trace_id: stored.info.state for stored in dspy_traces.all()}
    assert states[error.trace_id] == "ERROR"
    if trace == "one":
        (root,) = tree(dspy_traces.one())
        assert (root[0], root[2]) == ("Run", "ERROR")
        assert failed("Answers", "CHAIN") in root[3]


def test_a_traces_page_is_the_servers():
    """Where MLflow has a server, a page is there; an error of Python's 3.10 has its note too."""
    from dspy_mlflow_callbacks.executor.pages import Pages

    server = Pages("https://mlflow.example/", "3")
    assert server.url("tr-1") == "https://mlflow.example/#/experiments/3/traces?selectedEvaluationId=tr-1"
    assert server.note("tr-1") == f"MLflow trace tr-1: {server.url('tr-1')}"
    assert Pages("databricks", "3").note("tr-1") == "MLflow trace tr-1 in databricks"
    assert (server.url(None), Pages("https://mlflow.example", None).url("tr-1")) == (None, None)


@pytest.mark.parametrize("around", [None, KeyError("before"), "cause"])
def test_a_note_where_python_has_none(around):
    """On Python 3.10 the note stands in the traceback as the first cause."""
    from dspy_mlflow_callbacks.executor.errors import say_in_chain

    error = ValueError("no")
    if around == "cause":
        error.__cause__ = error  # a ring
    elif around is not None:
        error.__context__ = around
    if around != "cause":
        say_in_chain(error, "MLflow trace tr-1")
        say_in_chain(error, "MLflow trace tr-1")
        assert "MLflow trace tr-1" in "".join(traceback.format_exception(error))
    else:
        say_in_chain(error, "MLflow trace tr-1")
    assert error.__notes__[0] == "MLflow trace tr-1"


@IN_PROCESS
def test_errors_are_kept_or_skipped(dspy_traces, on):
    """An error stands in its place with `on_error="keep"`, and is left out and counted with `"skip"`."""
    inputs = asking("a", "fail", "b")
    kept = run(Answers(), inputs, on=on, on_error="keep").predictions
    assert [getattr(each, "answer", type(each)) for each in kept] == ["A", ValueError, "B"]
    skipping = run(Answers(), inputs, on=on, on_error="skip")
    assert [result.index for result in skipping] == [0, 2]
    assert (skipping.counts.done, skipping.counts.ok, skipping.counts.errors) == (3, 2, 1)
    assert [result.index for result in skipping.errors] == [1]
    assert "errors=1" in repr(skipping)


def test_errors_are_kept_within_bounds(dspy_traces, monkeypatch):
    """All errors are counted; the first ones are there to be looked at."""
    monkeypatch.setattr("dspy_mlflow_callbacks.executor.results.MAX_ERRORS", 1)
    results = run(Answers(), asking("fail", "fail"), on_error="skip")
    assert list(results) == []
    assert (results.counts.errors, len(results.errors)) == (2, 1)


@pytest.mark.parametrize("where", ["nowhere", "attached"])
def test_whose_traces_they_are(dspy_traces, where):
    """Without a callback a program runs without traces; with one of its own, its experiment is that of the pages."""
    program = Answers()
    if where == "attached":
        attach(program, MlflowCallback(experiment="answers"))
    with dspy.context(callbacks=[]):
        (result,) = run(program, asking("a"))
    if where == "attached":
        experiment = mlflow.get_experiment_by_name("answers").experiment_id
        assert f"/experiments/{experiment}/traces?selectedEvaluationId={result.trace_id}" in result.url
    else:
        assert (result.trace_id, result.url, result.prediction.answer) == (None, None, "A")


@ON_BOTH
@IN_PROCESS
def test_each_attempt_is_a_call(dspy_traces, on):
    """With retries each attempt is a trace beside the others', which says which one it is."""
    (result,) = run(Answers(), asking("fail once"), on=on, retries=2)
    assert (result.attempts, result.prediction.answer, result.error) == (2, "FAIL ONCE", None)
    by_id = {trace.info.trace_id: trace.info for trace in dspy_traces.all()}
    said = [(by_id[each].tags["dspy.run.attempt"], by_id[each].state) for each in result.trace_ids]
    assert said == [("1", "ERROR"), ("2", "OK")]
    assert result.trace_id == result.trace_ids[-1]


@IN_PROCESS
def test_attempts_in_one_trace(dspy_traces, on):
    """In one trace attempts stand beside each other; an input that uses them up has the last one's error."""
    results = run(Answers(), asking("fail"), on=on, retries=2, trace="one", on_error="keep")
    (result,) = results
    assert (result.attempts, results.counts.retries) == (3, 2)
    list(results)
    trace = dspy_traces.one()
    assert tree(trace) == [bare("Run", *[failed("Answers", "CHAIN")] * 3)]
    assert [span.attributes["dspy.run.attempt"] for span in trace.data.spans[1:]] == ["1", "2", "3"]


def test_what_is_stored_is_skipped(dspy_traces):
    """`resume` runs what is not stored of this program and run, and reads the rest from its traces."""
    program = Answers()
    first = run(program, asking("a", "fail once", "b"), name="nightly", on_error="keep").all()
    again = run(program, asking("a", "fail once", "b"), name="nightly", resume=True)
    results = again.all()
    assert program.asked.count("a") == 1
    assert [result.is_stored for result in results] == [True, False, True]
    assert [result.prediction.answer for result in results] == ["A", "FAIL ONCE", "B"]
    assert [result.trace_id for result in results][::2] == [result.trace_id for result in first][::2]
    assert (again.counts.stored, again.counts.ok) == (2, 1)


def test_what_counts_as_stored(dspy_traces):
    """Another run's inputs are run again, unless no run is named; another program's always, and ids may be chosen."""
    by_question = {"input_id": lambda given: given["question"]}
    run(Answers(), asking("a"), name="monday", **by_question).all()
    (other_run,) = run(Answers(), asking("a"), name="tuesday", resume=True, **by_question)
    (any_run,) = run(Answers(), asking("a"), resume=True, **by_question)
    (other_id,) = run(Answers(), asking("a"), resume=True)
    (other_program,) = run(Counted(), asking("a"), resume=True, **by_question)
    assert [each.is_stored for each in (other_run, any_run, other_id, other_program)] == [False, True, False, False]
    assert other_program.prediction == "a"


def test_a_stored_text_is_read_back(dspy_traces):
    """What a program returned that is no prediction is read as the JSON value that it was stored as."""
    run(Counted(), asking("a")).all()
    (result,) = run(Counted(), asking("a"), resume=True)
    assert (result.prediction, result.is_stored, result.attempts) == ("a", True, 0)


def test_many_stored_inputs(dspy_traces, monkeypatch):
    """Stored inputs are found page by page."""
    monkeypatch.setattr("dspy_mlflow_callbacks.executor.stored._PAGE", 3)
    run(Answers(), LETTERS).all()
    assert all(result.is_stored for result in run(Answers(), LETTERS, resume=True))


def test_tokens_and_cost(dspy_traces, openai_server):
    """A result says what its LM calls were billed, and the counts add that up."""
    openai_server.script(chat(choice("[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]")))
    with dspy.context(lm=openai_server.lm(BACKENDS[0]), adapter=dspy.ChatAdapter()):
        results = run(dspy.Predict("question -> answer"), asking("Who?", "Why?"), max_workers=1)
        first, second = results
    stored = {trace.info.trace_id: trace.info for trace in dspy_traces.all()}
    assert [stored[each.trace_id].token_usage["total_tokens"] for each in (first, second)] == [120, 120]
    assert (first.tokens, second.tokens, results.counts.tokens) == (120, 120, 240)
    assert first.cost == second.cost == pytest.approx(stored[first.trace_id].cost["total_cost"])
    assert results.counts.cost == first.cost + second.cost


def test_every_kind_of_input(dspy_traces):
    """Inputs are arguments by name, examples, or positional arguments."""
    example = dspy.Example(question="b", answer="?").with_inputs("question")
    results = run(Answers(), [{"question": "a"}, example, ("c",)]).all()
    assert [result.prediction.answer for result in results] == ["A", "B", "C"]
    assert results[1].inputs is example


@pytest.mark.parametrize("inputs", [["why?"], itertools.chain(asking("a"), [7])])
def test_what_is_no_input(dspy_traces, inputs):
    """Something else is refused in its place, after the results before it."""
    results = run(Answers(), iter(inputs))
    with pytest.raises(TypeError, match="an input must be a mapping of arguments by name"):
        results.all()
    assert [result.index for result in results.done] == ([0] if not isinstance(inputs, list) else [])


@pytest.mark.parametrize("said", ["", "x" * 4_097])
def test_an_id_that_mlflow_cannot_store(dspy_traces, said):
    """An id of an input is a text that a tag can hold."""
    with pytest.raises(ValueError, match="input_id must return a text of 1 to 4096 characters"):
        run(Answers(), asking("a"), input_id=lambda _: said).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"program": len}, "program must be a dspy.Module, got <built-in"),
        ({"inputs": {"question": "a"}}, "inputs must be an iterable of inputs, got {"),
        ({"inputs": 3}, "inputs must be an iterable of inputs, got 3"),
        ({"on": "moon"}, "on must be one of 'threads', 'asyncio', 'processes', 'ray', 'dask', 'spark', got 'moon'"),
        ({"max_workers": 0}, "max_workers must be at least 1, got 0"),
        ({"retries": 1.5}, "retries must be a whole number, got 1.5"),
        ({"retries": True}, "retries must be a whole number, got True"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"trace": "two"}, "trace must be one of 'each', 'one', got 'two'"),
        ({"on_error": "cry"}, "on_error must be one of 'raise', 'keep', 'skip', got 'cry'"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0, or None, got 0"),
        ({"progress": "never"}, "progress must be one of True, False, 'always', got 'never'"),
        ({"name": ""}, "name must be a text of 1 to 250 characters, or None, got ''"),
        ({"resume": 1}, "resume must be one of True, False, got 1"),
        ({"input_id": "question"}, "input_id must be a function of an input, or None, got 'question'"),
        ({"resume": True, "trace": "one"}, "resume=True finds the traces of inputs, and needs trace='each'"),
    ],
)
def test_bad_options(options, said):
    """Each error says what was given and what is allowed."""
    options = {"program": Answers(), "inputs": [], **options}
    with pytest.raises((TypeError, ValueError)) as refused:
        run(**options)
    assert str(refused.value).startswith(said)


def test_nothing_to_do(dspy_traces):
    """A run without inputs has no results."""
    assert run(Answers(), []).all() == []
    assert run(Answers(), [], trace="one").predictions == []
    assert dspy_traces.tree() == [bare("Run")]
