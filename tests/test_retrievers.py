"""Retrievers and embedders: one RETRIEVER or EMBEDDING span for each use, also where DSPy emits no event."""

from __future__ import annotations

import asyncio

import dspy
import pytest
from dspy.utils.dummies import DummyVectorizer, dummy_rm
from expected import chain_of_thought, failed, ok
from offline_lm import OfflineLM

CORPUS = ["snow is white", "grass is green", "coal is black"]
TRAINSET = [dspy.Example(question=text, answer=text).with_inputs("question") for text in CORPUS]


def embedder():
    return dspy.Embedder(DummyVectorizer(64), caching=False)


class Rag(dspy.Module):
    """Retrieves, then answers."""

    def __init__(self, retrieve):
        super().__init__()
        self.retrieve = retrieve
        self.answer = dspy.ChainOfThought("context, question -> answer")

    def forward(self, question):
        return self.answer(context=str(self.retrieve(question)), question=question)


class Embeds(dspy.Module):
    """Embeds its input."""

    def __init__(self, embed):
        super().__init__()
        self.embed = embed

    def forward(self, question):
        return self.embed(question)

    async def aforward(self, question):
        return await self.embed.acall(question)


def call(program):
    return program(question="snow")


def acall(program):
    return asyncio.run(program.acall(question="snow"))


RETRIEVERS = {
    "Retrieve": lambda: dspy.Retrieve(k=1),
    "Embeddings": lambda: dspy.retrievers.Embeddings(CORPUS, embedder(), k=1),
    "EmbeddingsWithScores": lambda: dspy.retrievers.EmbeddingsWithScores(CORPUS, embedder(), k=1),
}


@pytest.mark.parametrize("retriever", RETRIEVERS.values(), ids=RETRIEVERS)
def test_a_retriever_in_a_program_is_a_span(dspy_traces, retriever):
    """A retriever's call is a RETRIEVER span in the program's trace, and what embeds for it makes no other trace."""
    with dspy.context(lm=OfflineLM(), rm=dummy_rm(CORPUS)):
        call(Rag(retriever()))
    assert dspy_traces.tree() == [ok("Rag", "CHAIN", ok("Rag.retrieve", "RETRIEVER"), chain_of_thought("Rag.answer"))]


@pytest.mark.parametrize("retriever", RETRIEVERS.values(), ids=RETRIEVERS)
def test_a_retrievers_span_has_the_query_and_the_passages(dspy_traces, retriever):
    """A retriever's span names its positional argument and says what was found."""
    with dspy.context(lm=OfflineLM(), rm=dummy_rm(CORPUS)):
        found = retriever()("snow")
    (span,) = dspy_traces.spans()
    assert (span.inputs, span.outputs["passages"]) == ({"query": "snow"}, found.passages)


def test_a_retriever_that_fails_has_an_error_status(dspy_traces):
    """An error in a retriever ends its span and the program's with an error status and reaches the caller."""
    retriever = dspy.retrievers.Embeddings(CORPUS, embedder(), k=1)
    retriever.embedder = dspy.Embedder(lambda texts: 1 / 0, caching=False)
    with dspy.context(lm=OfflineLM()), pytest.raises(ZeroDivisionError):
        call(Rag(retriever))
    assert dspy_traces.tree() == [failed("Rag", "CHAIN", failed("Rag.retrieve", "RETRIEVER"))]


@pytest.mark.parametrize("how", [call, acall])
def test_an_embedder_in_a_program_is_a_span(dspy_traces, how):
    """An embedder's call inside a program is an EMBEDDING span."""
    how(Embeds(embedder()))
    assert dspy_traces.tree() == [ok("Embeds", "CHAIN", ok("Embeds.embed", "EMBEDDING"))]


@pytest.mark.parametrize("how", [call, acall])
def test_an_embedder_that_fails_has_an_error_status(dspy_traces, how):
    """An embedder's error ends its span with an error status and reaches the caller."""
    with pytest.raises(ZeroDivisionError):
        how(Embeds(dspy.Embedder(lambda texts: 1 / 0, caching=False)))
    assert dspy_traces.tree() == [failed("Embeds", "CHAIN", failed("Embeds.embed", "EMBEDDING"))]


@pytest.mark.parametrize("how", [lambda embed: embed("snow"), lambda embed: asyncio.run(embed.acall("snow"))])
def test_an_embedder_alone_is_no_trace(dspy_traces, how):
    """An embedder outside any program is no execution of a program."""
    how(embedder())
    assert dspy_traces.all() == []


def test_knn_is_a_retriever(dspy_traces):
    """A KNN's call is a RETRIEVER span with its embedder below."""
    assert [example.answer for example in dspy.KNN(1, TRAINSET, embedder())(question="snow is white")] == CORPUS[:1]
    assert dspy_traces.tree() == [ok("KNN", "RETRIEVER", ok("Embedder", "EMBEDDING"))]


def test_wrong_arguments_are_the_callers_error(dspy_traces):
    """A retriever called with wrong arguments raises what it always raises, and its span has an error status."""
    retriever = dspy.retrievers.Embeddings(CORPUS, embedder(), k=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'top'"):
        retriever("snow", top=1)
    assert dspy_traces.tree() == [failed("Embeddings", "RETRIEVER")]
