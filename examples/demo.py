"""Ask a text three questions, trace each call into a local MLflow store, and print what the store holds.

The program searches the text with BM25, answers from what it finds, and where that is not enough sends an agent with
tools. The model is the one that the environment variable DSPY_MODEL names, else one that works offline. Questions of
your own may follow on the command line.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
import uuid
from pathlib import Path

# Before dspy is imported: LiteLLM would download its price map.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import bm25s
import dspy
import litellm
from offline import offline_lm
from trees import WIDTH, open_store, print_tree, stored_traces

from dspy_mlflow_callbacks import MlflowCallback, TagInjector

TEXT = Path(__file__).with_name("constitution.txt")
STORE = Path("demo")
QUESTIONS = (
    "Who has the sole power to try all impeachments?",
    "What age must a person have attained to be eligible to the office of President?",
    "How many years lie between the ratification of the Fifteenth Amendment and that of the Nineteenth Amendment?",
)
_HEADING = re.compile(r"Preamble|Article [IVX]+|[\w-]+ Amendment")
_SECTION = re.compile(r"Section \d+")


def read_passages(text: str) -> list[str]:
    """Split *text* into its paragraphs, each after the heading that it stands under: `Article I, Section 3 | The …`."""
    passages, heading, section = [], "", ""
    for block in text.split("\n\n"):
        paragraph = " ".join(block.split())
        if _HEADING.fullmatch(paragraph):
            heading, section = paragraph, ""
        elif _SECTION.fullmatch(paragraph):
            section = f", {paragraph}"
        elif heading:
            passages.append(f"{heading}{section} | {paragraph}")
    return passages


class BM25Search(dspy.Retrieve):
    """Finds passages by their words."""

    def __init__(self, passages: list[str], k: int = 5) -> None:
        super().__init__(k=k)
        self.passages = passages
        self._index = bm25s.BM25()
        self._index.index(_tokens(passages), show_progress=False)

    def forward(self, query: str) -> dspy.Prediction:
        """Return the *k* passages that fit *query* best."""
        found, _ = self._index.retrieve(_tokens([query]), corpus=self.passages, k=self.k, show_progress=False)
        return dspy.Prediction(passages=[str(passage) for passage in found[0]])


def _tokens(texts: list[str]) -> list[list[str]]:
    return bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)


class AnswerFromPassages(dspy.Signature):
    """Answer the question from the passages, in their words."""

    passages: list[str] = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()
    answered: bool = dspy.OutputField(desc="False if it takes another search or a calculation to answer.")


def years_between(earlier: int, later: int) -> int:
    """Count the years from one year to another."""
    return later - earlier


class Librarian(dspy.Module):
    """Answers questions on a text."""

    def __init__(self, passages: list[str]) -> None:
        super().__init__()
        self.search = BM25Search(passages)
        self.answer = dspy.ChainOfThought(AnswerFromPassages)
        self.research = dspy.ReAct("question -> answer", tools=[self.search_text, years_between], max_iters=6)

    def search_text(self, query: str) -> list[str]:
        """Search the text for passages."""
        return self.search(query).passages

    def forward(self, question: str) -> dspy.Prediction:
        """Answer from one search where that is enough, else by research."""
        answer = self.answer(passages=self.search(question).passages, question=question)
        return answer if answer.answered else self.research(question=question)


def language_model() -> dspy.BaseLM:
    """Return the model that DSPY_MODEL names, else the one that works offline."""
    name = os.environ.get("DSPY_MODEL")
    return dspy.LM(name) if name else offline_lm()


def main() -> None:
    """Ask all questions, then show their traces and the answers."""
    # MLflow asks LiteLLM for prices, and LiteLLM prints where it finds its list of providers when it knows none.
    litellm.suppress_debug_info = True
    experiment_id = open_store(STORE)
    run = uuid.uuid4().hex
    dspy.configure(lm=language_model(), callbacks=[MlflowCallback(middleware=[TagInjector({"demo.run": run})])])
    librarian = Librarian(read_passages(TEXT.read_text(encoding="utf-8")))
    questions = sys.argv[1:] or QUESTIONS
    answers = [librarian(question=question).answer for question in questions]
    for question, trace in zip(questions, stored_traces(experiment_id, f"tags.`demo.run` = '{run}'"), strict=True):
        print(textwrap.fill(question, WIDTH))
        print()
        print_tree(trace)
        print()
    for question, answer in zip(questions, answers, strict=True):
        print(textwrap.fill(f"Q: {question}", WIDTH, subsequent_indent="   "))
        print(textwrap.fill(f"A: {answer}", WIDTH, subsequent_indent="   "))
        print()
    print("Open the traces in MLflow's UI:")
    print(f"  {_mlflow_command()} ui --backend-store-uri sqlite:///{STORE}/mlflow.db")


def _mlflow_command() -> Path:
    command = Path(sys.executable).with_name("mlflow")
    return command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command


if __name__ == "__main__":
    main()
