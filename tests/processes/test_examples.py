"""The examples run as a user runs them, and print what they promise."""

from __future__ import annotations

import re
import runpy

import dspy
import pytest
from docs_blocks import ROOT, Page

PAGE = Page("docs/examples.md")
SCRIPT = runpy.run_path(str(ROOT / "docs" / "generate_examples.py"))
SHOWN, EXAMPLES, run = SCRIPT["SHOWN"], SCRIPT["EXAMPLES"], SCRIPT["printed"]
HELPERS = {"offline.py", "trees.py"}
ON_ENGINES = {"on_celery.py", "on_dask.py", "on_ray.py", "on_spark.py"}  # run by `make test-engines`


TITLES = [title for title, _ in SHOWN.values()]


def section(example: str) -> str:
    """Return what the page says of an example."""
    title, _ = SHOWN[example]
    begun = PAGE.text.partition(f"\n## {title}\n")[2]
    following = TITLES[TITLES.index(title) + 1 :]
    return begun.partition(f"\n## {following[0]}\n")[0] if following else begun


def output(example: str) -> str:
    """Return what the page says that an example prints."""
    return re.findall(r"^```text\n(.*?)^```$", section(example), re.DOTALL | re.MULTILINE)[0]


def masked(output: str) -> str:
    """Return *output* without what differs from run to run, and without the width of its columns."""
    output = re.sub(r"(?m)  +[\d,]+\.\d(?=\s)", " <ms>", output)
    output = re.sub(r"(?m)  +[\d,]+ \+ [\d,]+$", " <tokens>", output)
    output = re.sub(r"(?m)^  \S+(?=/mlflow ui )", "  <bin>", output)
    output = re.sub(r"\btr-[0-9a-f]{32}\b", "<trace>", output)
    output = re.sub(r"(?m)^\| latency.*$", "| latency <ms> |", output)
    output = re.sub(r"in [\d.]+s$", "in <s>", output)
    output = output.replace("─" * 100, "───")
    return re.sub(r"(?<=[^\s│└├─])  +", " ", output).strip()  # not what indents


def warnings_of_ours(stderr: str) -> list[str]:
    """Return the lines that name a file or a logger of this package or of the examples."""
    return [line for line in stderr.splitlines() if "dspy_mlflow_callbacks" in line or str(EXAMPLES) in line]


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import demo

    return demo


def test_every_example_is_on_the_page():
    """The page shows every example in the order of its table, with its idea, and the list of examples names each."""
    assert {path.name for path in EXAMPLES.glob("*.py")} - HELPERS - ON_ENGINES == set(SHOWN)
    assert [title for title in re.findall(r"(?m)^## (.*)$", PAGE.text) if title in TITLES] == TITLES
    assert [name for name in SHOWN if SCRIPT["idea_of"](name) not in section(name)] == []
    listed = (*SHOWN, *HELPERS, *ON_ENGINES)
    assert [name for name in listed if f"]({name})" not in Page("examples/README.md").text] == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("example", [name for name in SHOWN if name != "demo.py"])
def test_an_example_prints_what_the_page_says(tmp_path, example):
    """An example ends well, warns of nothing of ours, and prints what the page shows of it."""
    done = run(example, tmp_path)
    assert (done.returncode, warnings_of_ours(done.stderr)) == (0, []), done.stdout
    _, begins = SHOWN[example]
    assert masked(done.stdout[done.stdout.index(begins) :]) == masked(output(example))


@pytest.mark.timeout(300)
def test_the_demo_prints_its_traces_and_nothing_else(tmp_path):
    """A run prints its own traces, answers and how to open the UI; a later one too, and no warning shown is ours."""
    first, later = run("demo.py", tmp_path), run("demo.py", tmp_path, PYTHONWARNINGS="default")
    said = masked(output("demo.py"))
    assert (first.returncode, first.stderr, masked(first.stdout)) == (0, "", said)
    assert (later.returncode, warnings_of_ours(later.stderr), masked(later.stdout)) == (0, [], said)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (
            "Which house originates bills for raising revenue?",
            (
                "All Bills for raising Revenue shall originate in the House of Representatives; but the Senate may "
                "propose or concur with Amendments as on other Bills. (Article I, Section 7)"
            ),
        ),
        ("When was the Thirteenth Amendment ratified?", "Ratified December 6, 1865. (Thirteenth Amendment)"),
        (
            "How many years after the Eighteenth Amendment was the Twenty-first Amendment ratified?",
            "14 years, from 1919 to 1933",
        ),
        (
            "How many witnesses does a conviction of treason need?",
            (
                "No Person shall be convicted of Treason unless on the Testimony of two Witnesses to the same overt "
                "Act, or on Confession in open Court. (Article III, Section 3)"
            ),
        ),
        ("Zyzzyva?", "The passages do not say."),
    ],
    ids=["a house", "a date", "years between", "after research", "nothing found"],
)
def test_the_offline_model_answers_other_questions(demo, question, answer):
    """The offline model answers from the text what the demo does not ask."""
    librarian = demo.Librarian(demo.read_passages(demo.TEXT.read_text(encoding="utf-8")))
    with dspy.context(lm=demo.offline_lm()):
        assert librarian(question=question).answer == answer


def test_the_offline_model_counts_words_as_tokens(demo, dspy_traces):
    """Each LM call says how many words were read and written, and the trace adds them up."""
    with dspy.context(lm=demo.offline_lm()):
        dspy.Predict("passages: list[str], question -> answer")(
            passages=["One | A rose is a rose."], question="A rose?"
        )
    (call,) = dspy_traces.spans(kind="lm")
    messages, choices = call.inputs["messages"], call.outputs["choices"]
    read = sum(len(_text(message["content"]).split()) for message in messages)
    written = len(choices[0]["message"]["content"].split())
    tokens = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    assert (call.get_attribute("mlflow.chat.tokenUsage"), dspy_traces.one().info.token_usage) == (tokens, tokens)


def _text(content):
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@pytest.mark.parametrize(("name", "model"), [("openai/some-model", "openai/some-model"), ("", "offline/extractive")])
def test_the_model_is_the_one_that_the_environment_names(demo, monkeypatch, name, model):
    """DSPY_MODEL names the demo's model; unset or empty it is the offline one."""
    monkeypatch.setenv("DSPY_MODEL", name)
    assert demo.language_model().model == model


def test_passages_say_where_they_stand(demo):
    """A text is split into its paragraphs, each after its heading and section."""
    text = "A title\n\nArticle I\n\nSection 1\n\nAll\nPowers.\n\nSome.\n\nFirst Amendment\n\nNo law."
    assert demo.read_passages(text) == [
        "Article I, Section 1 | All Powers.",
        "Article I, Section 1 | Some.",
        "First Amendment | No law.",
    ]


def test_a_tree_shows_errors(monkeypatch, dspy_traces, capsys):
    """A span that failed has its exception on a line of its own, cut to the screen's width."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import trees

    def fail() -> str:
        raise ValueError("no\nluck " + "x" * 200)

    with pytest.raises(ValueError, match="no\nluck"):
        dspy.Tool(fail)()
    trees.print_tree(dspy_traces.one())
    printed = capsys.readouterr().out
    assert masked(printed).splitlines()[2:] == [
        "fail TOOL <ms>",
        "   ! ValueError: no luck " + "x" * 74 + "…",
        "───",
        "1 span, ERROR <ms>",
    ]
    assert {len(line) for line in printed.splitlines()} <= set(range(101))
