"""Trees of spans as a test writes them: `ok("Program", "CHAIN", ok("Program.retrieve", "RETRIEVER"))`."""

from __future__ import annotations

from programs import predict_tree

FORMAT, LM, PARSE = [
    (name, span_type, "OK", [])
    for name, span_type in (("ChatAdapter.format", "PARSER"), ("dummy", "CHAT_MODEL"), ("ChatAdapter.parse", "PARSER"))
]
"""What a Predict on a `DummyLM` calls."""


def ok(name: str, span_type: str, *children):
    """Return a span that went well, with *children* below it."""
    return (name, span_type, "OK", list(children))


def bare(name: str, *children):
    """Return a module's span that went well, with *children* below it and nothing else."""
    return ok(name, "CHAIN", *children)


def example(*children):
    """Return an example of an evaluation that went well, with the calls of the program and the metric below it."""
    return ok("Example", "CHAIN", *children)


def failed(name: str, span_type: str, *children):
    """Return a span with an error status, with *children* below it."""
    return (name, span_type, "ERROR", list(children))


def chain_of_thought(name: str = "ChainOfThought"):
    """Return one call of a `dspy.ChainOfThought` that went well."""
    return ok(name, "CHAIN", predict_tree(f"{name}.predict"))


def ordered(tree):
    """Return *tree* with the children of each span sorted: threads start them in any order."""
    return sorted(((name, kind, status, ordered(below)) for name, kind, status, below in tree), key=repr)


UNPARSED = (
    ok("ChatAdapter.format", "PARSER"),
    ok("dummy", "CHAT_MODEL"),
    failed("ChatAdapter.parse", "PARSER"),
    ok("JSONAdapter.format", "PARSER"),
    ok("dummy", "CHAT_MODEL"),
    failed("JSONAdapter.parse", "PARSER"),
)
"""What a Predict calls for an answer that neither its adapter can parse nor the one that it falls back to."""
