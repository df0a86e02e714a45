"""What the spans of modules, retrievers and embedders say."""

from __future__ import annotations

import contextvars
import importlib.metadata
import types
from concurrent.futures import ThreadPoolExecutor

import dspy
import numpy as np
import pytest
from programs import Program, answering

from dspy_mlflow_callbacks.describe.demos import demos_digest
from dspy_mlflow_callbacks.describe.signatures import program_fingerprint


class Echo(dspy.Module):
    """Returns nothing; what it was called with is what matters."""

    def forward(self, question, context=(), *, top_k=3):
        return None


class Rest(dspy.Module):
    def forward(self, first, *others, **options):
        return None


class Packed(dspy.Module):
    """Has parameters of the names in which DSPy packs arguments."""

    def forward(self, args, kwargs=None):
        return None


class OnlyAsync(dspy.Module):
    async def aforward(self, question):
        return None


class NoForward(dspy.Module):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)


def module_span(traces, name):
    (span,) = traces.spans(kind="module", name=name)
    return span


@pytest.mark.parametrize(
    ("module", "args", "kwargs", "inputs"),
    [
        (Echo(), ("q",), {}, {"question": "q"}),
        (Echo(), ("q", ["c"]), {"top_k": 1}, {"question": "q", "context": ["c"], "top_k": 1}),
        (Echo(), (), {"question": "q"}, {"question": "q"}),
        (Rest(), (1, 2, 3), {"x": 4}, {"first": 1, "others": [2, 3], "x": 4}),
        (Packed(), (), {"args": 1, "kwargs": {"a": 2}}, {"args": 1, "kwargs": {"a": 2}}),
        (Packed(), (1, 2), {}, {"args": 1, "kwargs": 2}),
    ],
)
def test_arguments_have_their_parameters_names(dspy_traces, module, args, kwargs, inputs):
    """Positional arguments are named as in `forward`, beside those given by name."""
    module(*args, **kwargs)
    assert module_span(dspy_traces, type(module).__name__).inputs == inputs


@pytest.mark.parametrize(("module", "args"), [(Echo(), ("q", (), "too many")), (NoForward(), ("q",))])
def test_arguments_that_forward_does_not_take(dspy_traces, module, args):
    """Arguments without a parameter are shown in a list; the call fails as it does without tracing."""
    with pytest.raises((TypeError, AttributeError)):
        module(*args)
    span = module_span(dspy_traces, type(module).__name__)
    assert span.inputs["args"] == ["too many" if len(args) > 1 else "q"]
    assert span.status.status_code == "ERROR"


async def _acall(module, *args):
    return await module.acall(*args)


def test_arguments_of_an_async_module(dspy_traces):
    """A module with `aforward` alone has named arguments as well."""
    import asyncio

    asyncio.run(_acall(OnlyAsync(), "q"))
    assert module_span(dspy_traces, "OnlyAsync").inputs == {"question": "q"}


def test_predict(dspy_traces):
    """A Predict shows its class, signature, instructions, fields and demos."""
    predict = dspy.Predict(dspy.Signature("question -> answer: int", "Count."))
    predict.demos = [dspy.Example(question="q", answer=1)]
    with dspy.context(lm=answering({"answer": "42"})):
        predict(question="how many?")
    span = module_span(dspy_traces, "Predict")
    shown = {key.removeprefix("dspy."): value for key, value in span.attributes.items() if key.startswith("dspy.")}
    assert shown["class"] == "dspy.predict.predict.Predict"
    assert shown["signature"] == "question -> answer"
    assert shown["instructions"] == "Count."
    assert [shown["fields"][side] for side in ("inputs", "outputs")] == [
        {"question": {"type": "str", "prefix": "Question:", "desc": "${question}"}},
        {"answer": {"type": "int", "prefix": "Answer:", "desc": "${answer}"}},
    ]
    assert shown["demos"] == {"count": 1, "digest": demos_digest(predict.demos)}
    assert (span.inputs, span.outputs) == ({"question": "how many?"}, {"answer": 42})


def test_changes_between_calls_are_seen(dspy_traces):
    """A changed instruction and a changed demo show at the next call."""
    predict = dspy.Predict("question -> answer")
    with dspy.context(lm=answering({"answer": "42"})):
        predict(question="q")
        predict.signature = predict.signature.with_instructions("Be brief.")
        predict(question="q")
        predict.demos = [dspy.Example(question="q", answer="a")]
        predict(question="q")
        predict.demos[0].answer = "b"
        predict(question="q")
    spans = dspy_traces.spans(kind="module")
    assert [span.get_attribute("dspy.instructions") for span in spans[1:]] == ["Be brief."] * 3
    demos = [span.get_attribute("dspy.demos") for span in spans]
    assert [each["count"] for each in demos] == [0, 0, 1, 1]
    assert len({each["digest"] for each in demos}) == 3
    assert len({span.get_attribute("dspy.program.fingerprint") for span in spans}) == 4


def test_config_of_a_predict_is_shown(dspy_traces):
    """What a Predict takes beside its fields is among its inputs."""
    with dspy.context(lm=answering({"answer": "42"})):
        dspy.Predict("question -> answer")(question="q", config={"temperature": 0.5, "max_tokens": 9})
    assert module_span(dspy_traces, "Predict").inputs == {
        "question": "q",
        "config": {"temperature": 0.5, "max_tokens": 9},
    }


def test_root_says_which_program_and_versions(dspy_traces):
    """The root, and no span below it, has the program's fingerprint, the versions and the CPU seconds."""
    program = Program()
    with dspy.context(lm=answering()):
        program(question="q")
    names = ["dspy.version", "mlflow.version", "dspy_mlflow_callbacks.version", "dspy.program.fingerprint"]
    root, *below = dspy_traces.spans()
    assert [root.get_attribute(name) for name in names] == [
        dspy.__version__,
        importlib.metadata.version("mlflow"),
        importlib.metadata.version("dspy-mlflow-callbacks"),
        program_fingerprint(program),
    ]
    assert root.get_attribute("dspy.cpu_time_s") > 0
    assert [span.get_attribute(name) for span in below for name in [*names, "dspy.cpu_time_s"]] == [None] * 25


class Telling(dspy.Module):
    def __init__(self, attributes):
        super().__init__()
        self.attributes = attributes

    def forward(self):
        return None

    def trace_attributes(self):
        return self.attributes() if callable(self.attributes) else self.attributes


class SurrogateKey:
    def __str__(self):
        return "\ud800"


@pytest.mark.parametrize(
    ("attributes", "key", "value"),
    [
        ({"index.size": 3, "note": None}, "index.size", 3),
        ({"ratio": float("nan")}, "ratio", "nan"),
        ({5: [1]}, "5", [1]),
        ({SurrogateKey(): 1}, "?", 1),
        ([1], "dspy.trace_attributes_error", "trace_attributes() must return a mapping, got list"),
        (None, "dspy.trace_attributes_error", "trace_attributes() must return a mapping, got NoneType"),
        (lambda: 1 / 0, "dspy.trace_attributes_error", "ZeroDivisionError('division by zero')"),
    ],
)
def test_modules_own_attributes(dspy_traces, attributes, key, value):
    """What a module's `trace_attributes()` returns stands on its span; if it cannot, the span says so."""
    Telling(attributes)()
    assert module_span(dspy_traces, "Telling").get_attribute(key) == value


def test_attribute_that_is_no_method_is_left_alone(dspy_traces):
    """A module may have a `trace_attributes` of another meaning."""
    echo = Echo()
    echo.trace_attributes = "mine"
    echo(question="q")
    assert module_span(dspy_traces, "Echo").get_attribute("dspy.trace_attributes_error") is None


def embed(texts):
    return np.array([[len(text), 1.0] for text in texts], dtype="float32")


class Searching(dspy.Module):
    def __init__(self):
        super().__init__()
        self.embedder = dspy.Embedder(embed)
        self.search = dspy.retrievers.Embeddings(corpus=["a", "bb"], embedder=self.embedder, k=1, cache=False)

    def forward(self, question):
        self.embedder([question])
        return self.search(question)


def test_retriever_and_embedder(dspy_traces):
    """A retriever and an embedder are spans of their MLflow types, with what they found."""
    Searching()(question="ccc")
    spans = {span.name: span for span in dspy_traces.spans()}
    assert {name: span.span_type for name, span in spans.items()} == {
        "Searching": "CHAIN",
        "Searching.embedder": "EMBEDDING",
        "Searching.search": "RETRIEVER",
    }
    assert spans["Searching.search"].inputs == {"query": "ccc"}
    assert spans["Searching.search"].outputs["passages"] == ["bb"]
    assert spans["Searching.embedder"].inputs == {"inputs": ["ccc"]}
    assert spans["Searching.embedder"].outputs == "<ndarray float32 (1, 2)>"


@pytest.mark.parametrize(
    ("cls", "span_type"),
    [
        ("ReAct", "AGENT"),
        ("ReActV2", "AGENT"),
        ("RLM", "AGENT"),
        ("CodeAct", "AGENT"),
        ("ProgramOfThought", "AGENT"),
        ("KNN", "RETRIEVER"),
        ("Retrieve", "RETRIEVER"),
        ("retrievers.Embeddings", "RETRIEVER"),
        ("Embedder", "EMBEDDING"),
        ("ChainOfThought", "CHAIN"),
        ("BestOfN", "CHAIN"),
    ],
)
def test_span_types(cls, span_type):
    """Agents, retrievers and embedders have MLflow's span types, and so have the user's classes of them."""
    from dspy_mlflow_callbacks.describe.modules import _span_type

    base = dspy
    for name in cls.split("."):
        if not hasattr(base, name):
            pytest.skip(f"this DSPy has no {cls}")
        base = getattr(base, name)
    assert _span_type(type("Mine", (base,), {})) == span_type


@types.coroutine
def pause():
    yield


class Pausing(dspy.Module):
    """Lets another thread go on."""

    async def aforward(self, question):
        await pause()
        return dspy.Prediction(answer=question)


def test_a_call_that_changes_threads_has_no_cpu_seconds(dspy_traces):
    """Where a call ends in another thread than it began in, neither thread's clock is its own."""
    context, call = contextvars.copy_context(), Pausing().acall(question="q")
    context.run(call.send, None)

    def go_on():
        with pytest.raises(StopIteration) as end:
            context.run(call.send, None)
        return end.value.value.answer

    with ThreadPoolExecutor() as pool:
        assert pool.submit(go_on).result() == "q"
    [root] = dspy_traces.spans()
    assert root.outputs == {"answer": "q"}
    assert root.get_attribute("dspy.cpu_time_s") is None
