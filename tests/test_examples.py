"""The examples run as a user runs them, and print what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import dspy
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

PREDICT = """\
{indent}├─ ChatAdapter.format PARSER <ms>
{indent}├─ offline/extractive CHAT_MODEL <ms> <tokens>
{indent}└─ ChatAdapter.parse PARSER <ms>"""

ANSWERED = f"""\
span type ms tokens in + out
───
Librarian CHAIN <ms>
├─ Librarian.search RETRIEVER <ms>
└─ Librarian.answer CHAIN <ms>
   └─ Librarian.answer.predict CHAIN <ms>
{PREDICT.format(indent="      ")}
───
7 spans, OK <ms> <tokens>
"""

RESEARCHED = f"""\
span type ms tokens in + out
───
Librarian CHAIN <ms>
├─ Librarian.search RETRIEVER <ms>
├─ Librarian.answer CHAIN <ms>
│  └─ Librarian.answer.predict CHAIN <ms>
{PREDICT.format(indent="│     ")}
└─ Librarian.research AGENT <ms>
   ├─ Librarian.research.react CHAIN <ms>
{PREDICT.format(indent="   │  ")}
   ├─ search_text TOOL <ms>
   │  └─ Librarian.search RETRIEVER <ms>
   ├─ Librarian.research.react CHAIN <ms>
{PREDICT.format(indent="   │  ")}
   ├─ search_text TOOL <ms>
   │  └─ Librarian.search RETRIEVER <ms>
   ├─ Librarian.research.react CHAIN <ms>
{PREDICT.format(indent="   │  ")}
   ├─ years_between TOOL <ms>
   ├─ Librarian.research.react CHAIN <ms>
{PREDICT.format(indent="   │  ")}
   ├─ finish TOOL <ms>
   └─ Librarian.research.extract CHAIN <ms>
      └─ Librarian.research.extract.predict CHAIN <ms>
{PREDICT.format(indent="         ")}
───
35 spans, OK <ms> <tokens>
"""

DEMO = f"""\
Who has the sole power to try all impeachments?

{ANSWERED}
What age must a person have attained to be eligible to the office of President?

{ANSWERED}
How many years lie between the ratification of the Fifteenth Amendment and that of the Nineteenth
Amendment?

{RESEARCHED}
Q: Who has the sole power to try all impeachments?
A: The Senate shall have the sole Power to try all Impeachments. (Article I, Section 3)

Q: What age must a person have attained to be eligible to the office of President?
A: No Person except a natural born Citizen, or a Citizen of the United States, at the time of the
   Adoption of this Constitution, shall be eligible to the Office of President; neither shall any
   Person be eligible to that Office who shall not have attained to the Age of thirty five Years,
   and been fourteen Years a Resident within the United States. (Article II, Section 1)

Q: How many years lie between the ratification of the Fifteenth Amendment and that of the Nineteenth
   Amendment?
A: 50 years, from 1870 to 1920

Open the traces in MLflow's UI:
  <bin>/mlflow ui --backend-store-uri sqlite:///demo/mlflow.db
"""

FIRST_TRACE = """\
span type ms tokens in + out
───
ChainOfThought CHAIN <ms>
└─ ChainOfThought.predict CHAIN <ms>
   ├─ ChatAdapter.format PARSER <ms>
   ├─ dummy CHAT_MODEL <ms> <tokens>
   └─ ChatAdapter.parse PARSER <ms>
───
5 spans, OK <ms> <tokens>
"""

REPLAY = """\
(looking up Bonn)
Recorded: no
Replayed, without LM and tool: no | equal: True
Changed: Answers.answer.predict > dummy, messages[0] (system)
--- recorded
+++ replayed
- Given the fields `question`, `population`, produce the fields `answer`.
+ Answer with a whole sentence.
Forked: It is not.
"""

OPTIMIZED = """\
BootstrapFewShotWithRandomSearch: 4 trials, 14 LM calls
  trial 1: 66.67% on 3 examples (full), demos {}
  trial 2: 66.67% on 3 examples (full), demos {'self': ['added', 'count']}
  trial 3: 66.67% on 3 examples (full), demos {'self': ['added', 'count', 'removed']}
  trial 4: 66.67% on 3 examples (full), demos {'self': ['count']}
  the best one fails: Who has the power to try all impeachments?
"""

TWO_SERVICES = """\
yes
span type ms tokens in + out
───
Answers CHAIN <ms>
└─ ChainOfThought CHAIN <ms>
   └─ ChainOfThought.predict CHAIN <ms>
      ├─ ChatAdapter.format PARSER <ms>
      ├─ dummy CHAT_MODEL <ms> <tokens>
      └─ ChatAdapter.parse PARSER <ms>
───
6 spans, OK <ms> <tokens>
"""

RUN_MANY = """\
How much is 0 + 0? 0
How much is 1 + 1? 2
How much is 2 + 2? 4
How much is 3 + 3? I cannot count to three
How much is 4 + 4? 8
['0', '2', '4', '6', '8'] of them 4 stored before
span type ms tokens in + out
───
Sums CHAIN <ms>
└─ Sums.answer CHAIN <ms>
   ├─ ChatAdapter.format PARSER <ms>
   ├─ dummy CHAT_MODEL <ms> <tokens>
   └─ ChatAdapter.parse PARSER <ms>
───
5 spans, OK <ms> <tokens>
"""

ONE_PROGRAM = f"""\
{{"question":"Is this call traced?"}} team: search
{FIRST_TRACE}"""


def run(example: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run an example in *folder* with nothing of this process's environment but what Python needs."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, str(EXAMPLES / example)],
        cwd=folder,
        env={**kept, "HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=140,
        check=False,
    )


def masked(output: str) -> str:
    """Return *output* without what differs from run to run, and without the width of its columns."""
    output = re.sub(r"(?m)  +[\d,]+\.\d(?=\s)", " <ms>", output)
    output = re.sub(r"(?m)  +[\d,]+ \+ [\d,]+$", " <tokens>", output)
    output = re.sub(r"(?m)^  \S+(?=/mlflow ui )", "  <bin>", output)
    output = output.replace("─" * 100, "───")
    return re.sub(r"(?<=[^\s│└├─])  +", " ", output)  # not what indents


def warnings_of_ours(stderr: str) -> list[str]:
    """Return the lines that name a file or a logger of this package or of the examples."""
    return [line for line in stderr.splitlines() if "dspy_mlflow_callbacks" in line or str(EXAMPLES) in line]


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import demo

    return demo


@pytest.mark.timeout(300)
def test_the_demo_prints_its_traces_and_nothing_else(tmp_path):
    """A run prints its own traces, answers and how to open the UI; a later one too, and no warning shown is ours."""
    first, later = run("demo.py", tmp_path), run("demo.py", tmp_path, PYTHONWARNINGS="default")
    assert (first.returncode, first.stderr, masked(first.stdout)) == (0, "", DEMO)
    assert (later.returncode, warnings_of_ours(later.stderr), masked(later.stdout)) == (0, [], DEMO)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("example", "output"),
    [
        ("first_trace.py", FIRST_TRACE),
        ("one_program.py", ONE_PROGRAM),
        ("replay.py", REPLAY),
        ("run_many.py", RUN_MANY),
        ("two_services.py", TWO_SERVICES),
    ],
    ids=["first", "one", "replay", "many", "services"],
)
def test_a_small_example_prints_its_trace(tmp_path, example, output):
    """An example prints the tree of its trace, or what it is about."""
    done = run(example, tmp_path)
    assert (done.returncode, done.stderr, masked(done.stdout)) == (0, "", output)


@pytest.mark.timeout(300)
def test_versions_are_compared(tmp_path):
    """The example on versions matches both questions, and does not ship what calls the model once more."""
    done = run("compare_versions.py", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "| matched | 2 |" in done.stdout
    assert done.stdout.endswith("Not shipped: the structure changed (2 times)\n")


@pytest.mark.timeout(300)
def test_an_optimizers_trials_are_printed(tmp_path):
    """The example on optimizers prints each trial with its score, and the question that the best one fails at."""
    done = run("optimize_program.py", tmp_path)
    assert (done.returncode, warnings_of_ours(done.stderr)) == (0, [])
    assert done.stdout.endswith(OPTIMIZED)


@pytest.mark.timeout(300)
def test_an_evaluation_is_looked_up(tmp_path):
    """The example on evaluations finds the traces of its examples, and the one that failed with the reason."""
    done = run("evaluate_program.py", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "66.67% of 3 examples\nHow old must a President be? 'thirty five years' is not in the answer.\n"
    )


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


def test_the_saved_program_is_traced_by_another_process(tmp_path):
    """A logged model is traced where it is loaded, and its trace says which model it is of."""
    done = run("saved_program.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-4:] == ["Yes.", "team: search", "of the logged model: True", "spans: 5"]
