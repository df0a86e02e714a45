"""docs/scaling.md: what it says is so, and its blocks run as they stand."""

from __future__ import annotations

import ast

import dspy
import httpx
import pytest
import requests
from answers import Answers, asking
from docs_blocks import Page, blocks_that_run
from expected import bare
from fastapi.testclient import TestClient
from programs import Echo, Runs

from dspy_mlflow_callbacks import continue_trace, inject_headers, run
from dspy_mlflow_callbacks.config.strictness import NARROWING
from dspy_mlflow_callbacks.distributed import attempts
from dspy_mlflow_callbacks.distributed.baggage import MAX_BYTES, MAX_ENTRIES, PARTS
from dspy_mlflow_callbacks.executor.options import PLACES
from dspy_mlflow_callbacks.executor.results import MAX_ERRORS

PAGE = Page("docs/scaling.md")


def test_each_block_is_run():
    """No code block of the page is left out of these tests."""
    texts = blocks_that_run(__file__)
    assert [block for block in PAGE.blocks() if not any(text in block for text in texts)] == []


def test_a_pool_of_ones_own(dspy_traces):
    """The block's three questions are one trace."""
    answers = PAGE.run("class Panel", dspy=dspy, program=Echo())["answers"]
    assert answers == ["Why?", "How?", "When?"]
    assert dspy_traces.tree() == [bare("Panel", *[bare("Panel.program")] * 3)]


def test_many_inputs(dspy_traces):
    """The first block gives each result of its inputs; the second prints what is done when an input fails."""
    saved = []
    PAGE.run("for result in run(", program=Echo(), questions=["Why?", "How?"], save=lambda *each: saved.append(each))
    assert [each[1:3] for each in saved] == [("Why?", None), ("How?", None)]
    assert {trace.info.tags["dspy.run.name"] for trace in dspy_traces.all()} == {"nightly"}
    assert {trace.info.tags["dspy.run.input"] for trace in dspy_traces.all()} == {each[0] for each in saved}


@pytest.mark.parametrize("question", ["a", "fail"])
def test_many_inputs_with_retries(dspy_traces, capsys, question):
    """The second block has all predictions, or prints what is done when an input fails."""
    names = PAGE.run("results = run(", run=run, program=Answers(), inputs=asking(question))
    assert names["results"].counts.retries == (2 if question == "fail" else 0)
    assert ("predictions" in names) is (question != "fail")
    assert ("errors=1" in capsys.readouterr().out) is (question == "fail")


def test_the_ways_to_run():
    """The table has each value of `on`, and the numbers are those of the code."""
    rows = PAGE.rows("| `on` | where")
    assert [place.strip("` ") for row in rows[:-1] for place in row[0].split(",")] == list(PLACES)
    assert f"the first {MAX_ERRORS:,}" in PAGE.text


def test_from_one_process_to_another(dspy_traces):
    """What the first block sends, the second goes on with."""
    work = PAGE.run("def work(", program=Echo())["work"]
    sent = PAGE.run("class Remote", dspy=dspy, send=work)
    assert sent["answer"] == "Why is the sky blue?"
    assert dspy_traces.tree() == [bare("Remote", bare("Echo"))]


@pytest.mark.parametrize("name", ["app", "service"])
def test_the_middlewares(dspy_traces, name):
    """A request to either service continues the trace that its headers say."""
    made = (PAGE.run("FastAPI()") if name == "app" else PAGE.run("Flask(__name__)", __name__=__name__))[name]
    callbacks = dspy.settings.callbacks

    def answer():
        with dspy.context(callbacks=callbacks):
            return Echo()()

    if name == "app":
        made.get("/")(answer)
        client = TestClient(made)
    else:
        made.route("/")(answer)
        client = made.test_client()
    Runs(lambda _: client.get("/", headers=inject_headers()))()
    assert dspy_traces.tree() == [bare("Runs", bare("Echo"))]


def test_the_clients():
    """The block makes clients that tell the hosts that it says."""
    names = PAGE.run("trace_client(httpx.Client")
    assert isinstance(names["client"], httpx.Client)
    assert isinstance(names["session"], requests.Session)


def test_the_table_of_parts():
    """The table has each part that headers may say, and the option that leaves parts out takes them."""
    rows = PAGE.rows("| part | header")
    assert [part for row in rows for part in row[0].replace("`", "").split(", ")] == list(PARTS)
    (config,) = [row[2] for row in rows if "config" in row[0]]
    patterns = [text.strip("` ,") for text in config.split("where")[0].split(",")]
    assert {name for name in NARROWING if any(name.startswith(each.rstrip("*")) for each in patterns)} == set(NARROWING)
    for allow in (["trace", "session"], []):
        assert f"allow={allow}".replace("'", '"') in PAGE.text
        continue_trace({}, allow=allow)


def test_the_limits_are_those_of_the_code():
    """The page's numbers are the code's."""
    assert f"{MAX_BYTES:,} bytes and {MAX_ENTRIES} entries" in PAGE.text


def test_the_engines_blocks():
    """The blocks of the engines are whole; tests/engines runs them on clusters."""
    blocks = [
        PAGE.block("import ray\n"),
        PAGE.block("client.register_plugin("),
        PAGE.block("questions.mapInPandas("),
        PAGE.block("trace_tasks(app)"),
    ]
    assert all(map(ast.parse, blocks))
    assert f"`{attempts.ATTEMPT}` 2" in PAGE.text
    assert f"`{attempts.RETRIED}`" in PAGE.text


def test_a_thousand_a_second(dspy_traces):
    """The block's callback traces, keeps what failed, and has the numbers that the text reckons with."""
    callback = PAGE.run("max_queue_traces=50_000", dspy=dspy)["callback"]
    with pytest.raises(ValueError, match="no"):
        Runs(fail)()
    assert dspy_traces.one().info.state == "ERROR"
    assert callback.config.max_spool_bytes // 9_000 == 1_111_111


def fail(_):
    raise ValueError("no")
