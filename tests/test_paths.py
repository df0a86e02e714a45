"""A span's name says where its module stands in the program."""

from __future__ import annotations

import collections

import dspy
import pytest
from programs import answering, tool_call

from dspy_mlflow_callbacks.describe import paths


class Leaf(dspy.Module):
    """A module without an LM."""

    def forward(self):
        return 1


class Holder(dspy.Module):
    """A module that calls what *find* gives for it, one after the other."""

    def __init__(self, find=lambda held: (), **held):
        super().__init__()
        self.__dict__.update(held)
        self.find = find

    def forward(self):
        for module in self.find(self):
            module()


def calls(program):
    program()
    return program


def names(traces):
    return [span.name for span in traces.spans()]


@pytest.mark.parametrize(
    ("held", "find", "name"),
    [
        ({"leaf": Leaf()}, lambda held: [held.leaf], "Holder.leaf"),
        ({"steps": [Leaf(), Leaf()]}, lambda held: [held.steps[1]], "Holder.steps[1]"),
        ({"steps": (Leaf(), Leaf())}, lambda held: [held.steps[0]], "Holder.steps[0]"),
        ({"by_name": {"x": Leaf()}}, lambda held: [held.by_name["x"]], "Holder.by_name['x']"),
        ({"by_name": {("a", 1): Leaf()}}, lambda held: [held.by_name["a", 1]], "Holder.by_name[('a', 1)]"),
        ({"deep": {"x": [(Leaf(),)]}}, lambda held: [held.deep["x"][0][0]], "Holder.deep['x'][0][0]"),
        (
            {"lazy": collections.defaultdict(Leaf, x=Leaf())},
            lambda held: [held.lazy["x"]],
            "Holder.lazy['x']",
        ),
        ({"far": [None] * paths.MAX_ITEMS + [Leaf()]}, lambda held: [held.far[-1]], "Leaf"),
        ({"near": [None] * (paths.MAX_ITEMS - 1) + [Leaf()]}, lambda held: [held.near[-1]], "Holder.near[99]"),
        ({"hidden": {Leaf()}}, lambda held: list(held.hidden), "Leaf"),
        ({"history": [Leaf()]}, lambda held: held.history, "Leaf"),
        ({}, lambda held: [Leaf()], "Leaf"),
    ],
    ids=["attribute", "list", "tuple", "dict", "tuple as key", "nested", "dict subclass", "too far back",
         "just near enough", "set", "history", "made on the fly"],
)  # fmt: skip
def test_where_a_module_is_held(dspy_traces, held, find, name):
    """Attributes are dotted, items in brackets; a module that is held nowhere has its class's name."""
    calls(Holder(find, **held))
    assert names(dspy_traces) == ["Holder", name]


def test_predictors_of_a_program(dspy_traces):
    """DSPy's own modules are named as in `named_predictors`."""
    program = Holder(
        lambda held: [lambda: held.generate(question="q")], generate=dspy.ChainOfThought("question -> answer")
    )
    with dspy.context(lm=answering()):
        program()
    modules = [span.name for span in dspy_traces.spans(kind="module")]
    assert modules == ["Holder", "Holder.generate", "Holder.generate.predict"]
    assert [name for name, _ in program.named_predictors()] == ["generate.predict"]


def test_shared_module_has_the_path_below_its_caller(dspy_traces):
    """A module that two others hold is named after the one that calls it."""
    shared = Leaf()
    left = Holder(lambda held: [held.mine], mine=shared)
    right = Holder(lambda held: [held.yours], yours=shared)
    calls(Holder(lambda held: [held.left, held.right], left=left, right=right))
    assert names(dspy_traces) == ["Holder", "Holder.left", "Holder.left.mine", "Holder.right", "Holder.right.yours"]


def test_shortest_of_two_paths(dspy_traces):
    """A module that is held twice by one program has the shorter path."""
    leaf = Leaf()
    calls(Holder(lambda held: [held.direct], nested=[Holder(leaf=leaf)], direct=leaf))
    assert names(dspy_traces) == ["Holder", "Holder.direct"]


def test_module_held_by_a_grandparent(dspy_traces):
    """A module that its caller does not hold is named by the nearest module above that does."""
    leaf = Leaf()
    calls(Holder(lambda held: [held.middle], middle=Holder(lambda _: [leaf]), far=leaf))
    assert names(dspy_traces) == ["Holder", "Holder.middle", "Holder.far"]


def test_modules_that_hold_each_other(dspy_traces):
    """A ring of modules is searched once around."""
    first, second = Holder(lambda held: [Leaf()]), Holder()
    first.other, second.other = second, first
    calls(first)
    assert names(dspy_traces) == ["Holder", "Leaf"]


def test_recursion(dspy_traces):
    """A module that calls itself keeps its name."""

    class Recursive(dspy.Module):
        def forward(self, depth):
            return self(depth=depth - 1) if depth else 0

    Recursive()(depth=2)
    assert names(dspy_traces) == ["Recursive"] * 3


@pytest.mark.parametrize("move", ["to another attribute", "into a list", "away"])
def test_moved_module_has_its_new_path(dspy_traces, move):
    """A path that was true at the last call is not believed at the next."""
    program = calls(Holder(lambda held: [leaf], old=(leaf := Leaf())))
    del program.old
    expected = {"to another attribute": "Holder.new", "into a list": "Holder.new[0]", "away": "Leaf"}[move]
    if move != "away":
        program.new = leaf if move == "to another attribute" else [leaf]
    calls(program)
    assert names(dspy_traces) == ["Holder", "Holder.old", "Holder", expected]


def test_replaced_module_has_the_path(dspy_traces):
    """A module that takes another's place is called by its path."""
    program = calls(Holder(lambda held: [held.steps[0]], steps=[Leaf()]))
    program.steps = [Leaf()]
    calls(program)
    assert names(dspy_traces) == ["Holder", "Holder.steps[0]"] * 2


def test_path_is_found_after_the_cache_was_cleared(dspy_traces, monkeypatch):
    """The cache of paths is bounded: a full one begins afresh."""
    monkeypatch.setattr(paths._PATHS._known, "limit", 1)
    program = Holder(lambda held: [held.a, held.b, held.a], a=Leaf(), b=Leaf())
    calls(program)
    assert names(dspy_traces) == ["Holder", "Holder.a", "Holder.b", "Holder.a"]
    assert len(paths._PATHS._known) == 1


def test_modules_that_compare_oddly(dspy_traces):
    """Identity decides, not equality: a module may be equal to all, raise when compared, and not be hashable."""

    class Odd(Leaf):
        __slots__ = ("extra",)
        __hash__ = None

        def __eq__(self, other):
            raise RuntimeError

    calls(Holder(lambda held: [held.second], first=Odd(), second=Odd()))
    assert names(dspy_traces) == ["Holder", "Holder.second"]


def test_key_that_cannot_be_shown(dspy_traces):
    """A key whose `repr` raises is described."""

    class Key:
        def __repr__(self):
            raise RuntimeError

    calls(Holder(lambda held: held.by_key.values(), by_key={Key(): Leaf()}))
    assert names(dspy_traces) == ["Holder", "Holder.by_key[<Key whose repr raised RuntimeError>]"]


def test_search_ends_in_a_program_full_of_data(dspy_traces):
    """A program that holds a corpus of nested lists is not searched to its end."""

    class Touched(list):
        """A list that counts who looks into it."""

        looks = 0

        def __getitem__(self, index):
            Touched.looks += 1
            return super().__getitem__(index)

    corpus = [Touched([[number] for number in range(100)]) for _ in range(100)]
    calls(Holder(lambda held: [Leaf()], corpus=corpus))
    assert names(dspy_traces) == ["Holder", "Leaf"]
    assert 0 < Touched.looks < len(corpus)


def test_module_called_from_a_tool(dspy_traces):
    """A module that a tool inside a ReAct calls is named after the program that holds it."""

    class Agent(dspy.Module):
        def __init__(self):
            super().__init__()
            self.lookup = Leaf()
            self.agent = dspy.ReAct("question -> answer", tools=[self.search])

        def search(self, query: str) -> str:
            return str(self.lookup())

        def forward(self, question):
            return self.agent(question=question)

    lm = answering(
        tool_call("search", query="q"),
        tool_call("finish"),
        {"reasoning": "r", "answer": "a"},
    )
    with dspy.context(lm=lm):
        Agent()(question="q")
    (tool,) = dspy_traces.spans(name="search")
    (lookup,) = dspy_traces.spans(name="Agent.lookup")
    assert lookup.parent_id == tool.span_id
    assert [span.name for span in dspy_traces.spans(kind="module")] == [
        "Agent",
        "Agent.agent",
        "Agent.agent.react",
        "Agent.lookup",
        "Agent.agent.react",
        "Agent.agent.extract",
        "Agent.agent.extract.predict",
    ]


def test_chosen_name_begins_the_paths_below(dspy_traces):
    """A name that a middleware chose is the beginning of the paths below it."""
    from dspy_mlflow_callbacks import MlflowCallback

    def renamed(call):
        import attrs

        return attrs.evolve(call, name="mine") if call.is_root else call

    with dspy.context(callbacks=[MlflowCallback(middleware=[renamed])]):
        calls(Holder(lambda held: [held.leaf], leaf=Leaf()))
    assert names(dspy_traces) == ["mine", "mine.leaf"]
