"""Optimizers: each `compile` is one trace below one WORKFLOW span, and its result is what it is without tracing."""

from __future__ import annotations

import importlib.util
import random
import threading
from collections import Counter

import dspy
import pytest
from dspy.utils.dummies import DummyVectorizer
from heard import Heard
from offline_lm import OfflineLM
from programs import Program, answering, program_tree

from dspy_mlflow_callbacks.testing.captured import tree

TRAINSET = [
    dspy.Example(question=f"question {index}", answer="some answer" if index % 2 else "another").with_inputs("question")
    for index in range(4)
]
SMALL = {"max_bootstrapped_demos": 1, "max_labeled_demos": 1}


def exact(example, prediction, trace=None):
    return float(example.answer == prediction.answer)


def with_feedback(gold, pred, trace=None, pred_name=None, pred_trace=None):
    return dspy.Prediction(score=exact(gold, pred), feedback="look again")


def student():
    return dspy.ChainOfThought("question -> answer")


def labeled_few_shot():
    return dspy.LabeledFewShot(k=2).compile(student(), trainset=TRAINSET)


def bootstrap_few_shot():
    return dspy.BootstrapFewShot(metric=exact, **SMALL).compile(student(), trainset=TRAINSET)


def random_search():
    optimizer = dspy.BootstrapFewShotWithRandomSearch(metric=exact, num_candidate_programs=1, num_threads=2, **SMALL)
    return optimizer.compile(student(), trainset=TRAINSET)


def mipro():
    optimizer = dspy.MIPROv2(metric=exact, auto=None, num_candidates=2, num_threads=2, **SMALL)
    return optimizer.compile(student(), trainset=TRAINSET, valset=TRAINSET, num_trials=2, minibatch=False)


def copro():
    optimizer = dspy.COPRO(metric=exact, breadth=2, depth=1)
    return optimizer.compile(student(), trainset=TRAINSET, eval_kwargs={"num_threads": 2, "display_progress": False})


def simba():
    optimizer = dspy.SIMBA(metric=exact, bsize=2, num_candidates=2, max_steps=1, max_demos=1, num_threads=2)
    return optimizer.compile(student(), trainset=TRAINSET)


def gepa():
    optimizer = dspy.GEPA(metric=with_feedback, max_metric_calls=12, num_threads=2, reflection_lm=OfflineLM())
    return optimizer.compile(student(), trainset=TRAINSET, valset=TRAINSET)


def infer_rules():
    optimizer = dspy.InferRules(metric=exact, num_candidates=1, num_rules=1, num_threads=2, **SMALL)
    return optimizer.compile(student(), trainset=TRAINSET, valset=TRAINSET)


def better_together():
    parts = {"labels": dspy.LabeledFewShot(k=1), "demos": dspy.BootstrapFewShot(metric=exact, **SMALL)}
    program = student()
    program.set_lm(OfflineLM())
    optimizer = dspy.BetterTogether(metric=exact, **parts)
    return optimizer.compile(program, trainset=TRAINSET, valset=TRAINSET, strategy="labels -> demos")


def ensemble():
    return dspy.Ensemble(reduce_fn=dspy.majority).compile([student(), student()])


def knn_few_shot():
    vectorizer = dspy.Embedder(DummyVectorizer(64), caching=False)
    return dspy.KNNFewShot(2, TRAINSET, vectorizer).compile(student())


needs_optuna = pytest.mark.skipif(not importlib.util.find_spec("optuna"), reason="MIPROv2 needs optuna")
needs_gepa = pytest.mark.skipif(not importlib.util.find_spec("gepa"), reason="dspy.GEPA needs gepa")

OPTIMIZERS = {
    "LabeledFewShot": labeled_few_shot,
    "BootstrapFewShot": bootstrap_few_shot,
    "BootstrapFewShotWithRandomSearch": random_search,
    "MIPROv2": pytest.param(mipro, marks=needs_optuna),
    "COPRO": copro,
    "SIMBA": simba,
    "GEPA": pytest.param(gepa, marks=needs_gepa),
    "InferRules": infer_rules,
    "BetterTogether": better_together,
    "Ensemble": ensemble,
    "KNNFewShot": knn_few_shot,
}


def compiled(optimizer, callbacks):
    """Compile as from a fresh start and return what came out as plain values."""
    random.seed(0)
    dspy.cache.reset_memory_cache()
    with dspy.context(lm=OfflineLM(), callbacks=callbacks):
        program = optimizer()
    members = program.programs if hasattr(program, "programs") else [program]
    return [member.dump_state() for member in members]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_compile_is_one_trace(dspy_traces, request, optimizer):
    """All calls of a `compile`, in all its threads, are one trace below a WORKFLOW span of the optimizer's name.

    Those of an evaluation are below its examples, for which DSPy emits no event.
    """
    heard = Heard()
    compiled(optimizer, [*dspy.settings.callbacks, heard])
    ((name, span_type, status, _),) = dspy_traces.tree()
    spans = dspy_traces.spans()
    assert (name, span_type, status) == (request.node.callspec.id, "WORKFLOW", "OK")
    kinds = Counter(span.get_attribute("dspy.kind") for span in spans)
    del kinds["example"]
    assert kinds == heard.kinds
    assert {span.parent_id for span in spans[1:]} <= {span.span_id for span in spans}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_compiled_program_is_the_same_without_tracing(dspy_traces, optimizer):
    """Tracing changes nothing in the program that an optimizer makes."""
    assert compiled(optimizer, dspy.settings.callbacks) == compiled(optimizer, [])


def test_a_compile_that_fails_is_one_failed_trace(dspy_traces):
    """An error in a `compile` ends its WORKFLOW span with an error status and reaches the caller."""

    def broken(example, prediction, trace=None):
        raise ZeroDivisionError

    with dspy.context(lm=OfflineLM()), pytest.raises(ZeroDivisionError):
        dspy.BootstrapFewShot(metric=broken, max_errors=1).compile(student(), trainset=TRAINSET)
    ((name, span_type, status, _),) = dspy_traces.tree()
    assert (name, span_type, status) == ("BootstrapFewShot", "WORKFLOW", "ERROR")


def test_a_compile_does_not_stop_tracing_in_other_threads(dspy_traces):
    """A program called while another thread compiles is a whole trace of its own."""
    compiles, called = threading.Event(), threading.Event()

    def waiting(example, prediction, trace=None):
        compiles.set()
        assert called.wait(timeout=60)
        return True

    def compile_one():
        with dspy.context(lm=OfflineLM()):
            dspy.BootstrapFewShot(metric=waiting, max_bootstrapped_demos=1).compile(student(), trainset=TRAINSET)

    compiler = threading.Thread(target=compile_one)
    compiler.start()
    assert compiles.wait(timeout=60)
    with dspy.context(lm=answering()):
        Program()(question="why?")
    called.set()
    compiler.join()
    compile_trace, call_trace = dspy_traces.all()
    assert [name for name, *_ in tree(compile_trace)] == ["BootstrapFewShot"]
    assert tree(call_trace) == [program_tree()]
