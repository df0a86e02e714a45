"""An agent with tools: each thought, each tool call with its arguments and result, and one that fails."""

from __future__ import annotations

import tempfile
from pathlib import Path

import dspy
from dspy.utils.dummies import DummyLM
from trees import open_store, print_tree, stored_traces

from dspy_mlflow_callbacks import MlflowCallback

STEPS = [("population", {"city": "Bonn"}), ("population", {"city": "Köln"}), ("add", {"a": 330000, "b": 1000})]


def population(city: str) -> int:
    """Return how many people live in a city."""
    return {"Bonn": 330_000}[city]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def model() -> DummyLM:
    """Return a model that takes the steps above, and then answers."""
    steps = [
        {"next_thought": f"I ask {tool}.", "next_tool_name": tool, "next_tool_args": arguments}
        for tool, arguments in [*STEPS, ("finish", {})]
    ]
    return DummyLM([*steps, {"reasoning": "It was added.", "answer": "331000"}])


def main() -> None:
    """Let the agent work, and print its trace and what its tools were asked."""
    with tempfile.TemporaryDirectory() as folder:
        experiment_id = open_store(Path(folder))
        dspy.configure(lm=model(), callbacks=[MlflowCallback(level="info")])  # no adapter spans
        agent = dspy.ReAct("question -> answer", tools=[population, add])
        agent(question="How many people live in Bonn, and 1000 more?")

        (trace,) = stored_traces(experiment_id)
        print_tree(trace)
        for call in trace.search_spans(span_type="TOOL"):
            print(f"{call.name}({call.inputs}) = {call.outputs}")


if __name__ == "__main__":
    main()
