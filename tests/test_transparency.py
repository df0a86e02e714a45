"""A program does the same with tracing on and off."""

from __future__ import annotations

import asyncio
import random

import dspy
from dspy.utils.callback import BaseCallback
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import answering

from dspy_mlflow_callbacks import MlflowCallback, RatioSampler

STEPS = st.recursive(
    st.sampled_from(["predict", "chain", "raise", "random", "tool", "history", "settings"]),
    lambda step: st.one_of(
        st.lists(step, min_size=1, max_size=3),
        st.tuples(st.sampled_from(["module", "parallel", "caught", "context", "async"]), step),
    ),
    max_leaves=6,
)


class Step(dspy.Module):
    """Does what a generated plan says and returns all that it saw."""

    def __init__(self, plan):
        super().__init__()
        self.plan = plan
        self.predict = dspy.Predict("question -> answer")
        self.chain = dspy.ChainOfThought("question -> answer")
        self.tool = dspy.Tool(lambda number: number + 1, name="add", args={"number": {"type": "integer"}})
        self.children = [Step(each) for each in (plan[1:] if isinstance(plan, tuple) else plan)] if plan[1:] else []

    def forward(self, **inputs):
        if isinstance(self.plan, str):
            return self.leaf(self.plan)
        if isinstance(self.plan, list):
            return [child() for child in self.children]
        return getattr(self, f"do_{self.plan[0]}")(self.children[0])

    async def aforward(self, **inputs):
        if self.plan in ("predict", "chain"):
            return dict(await getattr(self, self.plan).acall(question="why?"))
        return self.forward()

    def leaf(self, name):
        if name == "raise":
            raise ValueError(name)
        if name == "random":
            return random.random()
        if name == "tool":
            return self.tool(number=1)
        if name == "history":
            return len(dspy.settings.lm.history)
        if name == "settings":
            return sorted(key for key in dspy.settings.config if key != "callbacks")
        return dict(getattr(self, name)(question="why?"))

    def do_module(self, child):
        return child(question="positional"[:3])

    def do_parallel(self, child):
        # One thread: two would share the scripted answers in an order of their own.
        return dspy.Parallel(num_threads=1, disable_progress_bar=True, max_errors=99)([(child, {})] * 2)

    def do_caught(self, child):
        try:
            return child()
        except ValueError as error:
            return repr(error)

    def do_context(self, child):
        with dspy.context(temperature=0.5):
            return child()

    def do_async(self, child):
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(child.acall())
        return child()  # no loop runs inside a loop


class Hearing(BaseCallback):
    """Notes what another callback is given."""

    def __init__(self):
        self.heard = []

    def on_module_start(self, call_id, instance, inputs):
        self.heard.append((type(instance).__name__, repr(sorted(inputs.items(), key=str))))

    def on_module_end(self, call_id, outputs, exception=None):
        self.heard.append((type(outputs).__name__, repr(exception)))

    def on_lm_start(self, call_id, instance, inputs):
        self.heard.append((instance.model, repr(inputs)))

    def on_adapter_parse_start(self, call_id, instance, inputs):
        self.heard.append((type(instance).__name__, repr(inputs)))

    def on_tool_start(self, call_id, instance, inputs):
        self.heard.append((instance.name, repr(inputs)))


def run(plan, tracing):
    """Return everything that can be seen of one run of *plan*."""
    hearing, lm = Hearing(), answering({"answer": "42", "reasoning": "so"}, times=100)
    random.seed(7)
    with dspy.context(lm=lm, callbacks=[hearing, *tracing]):
        before = {key: value for key, value in dspy.settings.config.items() if key != "callbacks"}
        try:
            outcome = Step(plan)()
        except ValueError as error:
            outcome = repr(error)
        after = {key: value for key, value in dspy.settings.config.items() if key != "callbacks"}
    untimed = [{k: v for k, v in entry.items() if k not in ("timestamp", "uuid")} for entry in lm.history]
    return {
        "outcome": repr(outcome),
        "settings": before == after,
        "heard": hearing.heard,
        "history": repr([sorted(entry.items()) for entry in untimed]).count("question"),
        "history entries": [(entry["messages"], entry["outputs"], entry["usage"]) for entry in untimed],
        "random": random.random(),
    }


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=STEPS, ratio=st.sampled_from([0.0, 1.0]))
def test_a_program_does_the_same_traced_and_untraced(dspy_traces, plan, ratio):
    """Outputs, exceptions, settings, history, other callbacks' inputs and random numbers are the same."""
    untraced = run(plan, [])
    callback = MlflowCallback(middleware=[RatioSampler(ratio)])
    assert run(plan, [callback]) == untraced
    assert (callback.stats().open, callback.stats().failed) == (0, 0)
