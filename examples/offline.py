"""A language model that needs no network: it answers with the sentence of its prompt that fits the question best.

All it knows stands in the prompt. It reads the sections that DSPy's `ChatAdapter` writes, and fills those that it is
asked for: an answer taken from passages, or an agent's next step, decided from the trajectory so far.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import dspy

MODEL = "offline/extractive"

_REQUIREMENTS = "Respond with the corresponding output fields"
_HEADER = re.compile(r"\[\[ ## (\w+) ## \]\]")
_QUOTED = re.compile(r"«(.*?)»", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.:;]) (?=[A-Z])")
_YEAR = re.compile(r"\b1[5-9]\d\d\b|\b20\d\d\b")
_NAMED = re.compile(r"(?<!^)\b[A-Z][\w-]*(?: [A-Z][\w-]*)*")
_SUFFIX = re.compile(r"(?<=\w{3})(?:ications?|ified|ifies|ations?|ions?|ments?|ings?|ied|ies|ed|es|s|e|y)$")
_EMPTY_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an and any are as at be been by can did do does for from had has have how if in into is it its lie many may
        must much of on or shall than that the their them there these they this those to under was were what when where
        which who whom whose why will with""",
    )
)
_ENOUGH = 0.6
"""The share of the question's words, weighed by how rare they are, that a sentence must hold to answer it."""


def offline_lm() -> dspy.BaseLM:
    """Return the model in the form that the installed DSPy takes."""
    if hasattr(dspy, "lm15"):
        return dspy.LM(MODEL, engine=OfflineEngine(), cache=False)
    return OfflineLM(MODEL, cache=False)


class OfflineEngine:
    """The model as an engine of `dspy.LM`, from DSPy 3.4 on."""

    def complete(self, request: Any) -> Any:
        """Answer a `dspy.lm15.Request` with a `dspy.lm15.Response`."""
        prompt = request.messages[-1].text
        text = complete(prompt)
        read = [request.system or "", *(message.text or "" for message in request.messages)]
        return dspy.lm15.Response(
            id=None,
            model=request.model,
            message=dspy.lm15.Message.assistant(text),
            finish_reason="stop",
            usage=dspy.lm15.Usage(input_tokens=count_tokens(read), output_tokens=count_tokens([text])),
        )


class OfflineLM(dspy.BaseLM):
    """The model as an LM of DSPy 3.3, which has no engines."""

    forward_contract = "typed_lm"

    def forward(self, request: Any) -> Any:
        """Answer a `dspy.LMRequest` with a `dspy.LMResponse`."""
        text = complete(request.messages[-1].text)
        read = [message.text or "" for message in request.messages]
        usage = {"input_tokens": count_tokens(read), "output_tokens": count_tokens([text])}
        output = {"parts": [{"type": "text", "text": text}], "finish_reason": "stop"}
        return dspy.LMResponse(model=request.model, outputs=[output], usage=usage)


def count_tokens(texts: Iterable[str]) -> int:
    """Count tokens: this model's are words."""
    return sum(len(text.split()) for text in texts)


def complete(prompt: str) -> str:
    """Return a section for each field that *prompt* asks for."""
    given, _, asked = prompt.rpartition(_REQUIREMENTS)
    page = Page.read(given)
    writers = {
        "answer": page.answer,
        "answered": page.is_answered,
        "next_thought": lambda: page.next_step.thought,
        "next_tool_name": lambda: page.next_step.tool,
        "next_tool_args": lambda: json.dumps(page.next_step.arguments),
        "reasoning": page.reasoning,
        "completed": str,
    }
    return "\n\n".join(f"[[ ## {name} ## ]]\n{writers[name]()}" for name in _HEADER.findall(asked)).strip()


@attrs.frozen
class Step:
    """A step of an agent."""

    tool: str
    arguments: dict[str, Any]
    thought: str = ""
    observation: str = ""


@attrs.frozen(slots=False)
class Sentence:
    """A sentence of a passage, with the title of the passage that it stands in."""

    title: str
    text: str

    @functools.cached_property
    def words(self) -> frozenset[str]:
        """Its stems and those of its title."""
        return frozenset([*stems(self.title), *stems(self.text)])


@attrs.frozen(slots=False)
class Page:
    """What a prompt holds: a question, passages to answer it from, and the steps that an agent has taken."""

    question: str
    sentences: list[Sentence]
    steps: list[Step]

    @classmethod
    def read(cls, prompt: str) -> Page:
        """Read the sections of a prompt."""
        _, *parts = _HEADER.split(prompt)
        sections = {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}
        steps = list(_steps(sections))
        texts = [sections.get("passages", ""), *(step.observation for step in steps)]
        sentences = [sentence for text in texts for passage in _passages(text) for sentence in _sentences(passage)]
        return cls(question=sections["question"], sentences=sentences, steps=steps)

    def answer(self) -> str:
        """Return what a tool worked out, else the best sentence and where it stands."""
        if self.counted is not None:
            return "{} years, from {earlier} to {later}".format(self.counted.observation, **self.counted.arguments)
        return f"{self.best.text} ({self.best.title})" if self.best is not None else "The passages do not say."

    def is_answered(self) -> bool:
        """Return whether the best sentence holds enough of the question, and nothing is left to work out."""
        return self.best is not None and self._share(self.best) >= _ENOUGH and not self.dated_names

    def reasoning(self) -> str:
        """Say where the answer comes from."""
        if self.counted is not None:
            return "The years were counted from the dates that the text gives."
        if self.best is None:
            return "No passage has a word of the question."
        return f"{self.best.title} holds {self._share(self.best):.0%} of what the question asks for."

    @functools.cached_property
    def best(self) -> Sentence | None:
        """The sentence that fits the question best; None where none has a word of it."""
        return max((each for each in self.sentences if self._share(each)), key=self._score, default=None)

    @functools.cached_property
    def counted(self) -> Step | None:
        """The step that counted years."""
        return next((step for step in self.steps if step.tool == "years_between"), None)

    @functools.cached_property
    def next_step(self) -> Step:
        """What an agent should do next: look up what it has not, work out what it can, or finish."""
        searched = {step.arguments.get("query") for step in self.steps}
        for query in self.dated_names or [self.question]:
            if query not in searched:
                return Step("search_text", {"query": query}, f"I look up what the text says of: {query}")
        years = [year for name in self.dated_names if (year := self._year_of(name)) is not None]
        if years and len(years) == len(self.dated_names) and self.counted is None:
            arguments = {"earlier": min(years), "later": max(years)}
            return Step("years_between", arguments, f"The years are {min(years)} and {max(years)}.")
        return Step("finish", {}, "I have seen what the text says.")

    @functools.cached_property
    def dated_names(self) -> list[str]:
        """The two things between which the question counts years; empty where it does not."""
        names = _NAMED.findall(self.question)
        return names[-2:] if len(names) > 1 and "how many years" in self.question.lower() else []

    def _year_of(self, name: str) -> int | None:
        dated = [
            sentence
            for sentence in self.sentences
            if _YEAR.search(sentence.text) and set(stems(name)) <= set(stems(sentence.title))
        ]
        if not dated:
            return None
        found = _YEAR.search(max(dated, key=self._score).text)
        return int(found.group()) if found else None

    def _score(self, sentence: Sentence) -> float:
        # A long sentence holds many words by chance.
        return self._share(sentence) / (10 + len(sentence.text.split())) ** 0.2

    def _share(self, sentence: Sentence) -> float:
        wanted = set(stems(self.question))
        return sum(map(self._weight, wanted & sentence.words)) / (sum(map(self._weight, wanted)) or 1.0)

    def _weight(self, word: str) -> float:
        return math.log(1 + len(self.sentences) / (1 + self._occurrences[word]))

    @functools.cached_property
    def _occurrences(self) -> Counter[str]:
        return Counter(word for sentence in self.sentences for word in sentence.words)


def stems(text: str) -> list[str]:
    """Return the words of *text* that mean something, in lower case and without their endings."""
    words = re.findall(r"\w+", text.lower())
    return [_SUFFIX.sub("", word) for word in words if word not in _EMPTY_WORDS]


def _steps(sections: dict[str, str]) -> Iterator[Step]:
    index = 0
    while (tool := sections.get(f"tool_name_{index}")) is not None:
        arguments = json.loads(sections[f"tool_args_{index}"])
        yield Step(tool, arguments, observation=sections.get(f"observation_{index}", ""))
        index += 1


def _passages(text: str) -> list[str]:
    """Return the texts of a list as DSPy writes it: as JSON, or numbered in guillemets."""
    return json.loads(text) if text.startswith("[") and text.endswith('"]') else _QUOTED.findall(text)


def _sentences(passage: str) -> Iterator[Sentence]:
    title, separator, text = passage.partition(" | ")
    for sentence in _SENTENCE_END.split(text if separator else passage):
        yield Sentence(title if separator else "The text", sentence)
