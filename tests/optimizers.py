"""Every optimizer that DSPy has and that runs offline, each on ten examples.

`BootstrapFinetune` and `GRPO` train models, for which they need a provider that does.
"""

from __future__ import annotations

import importlib.util
import random

import dspy
import pytest
from dspy.utils.dummies import DummyVectorizer
from offline_lm import OfflineLM

from dspy_mlflow_callbacks import dspy_internals

TRAINSET = [
    dspy.Example(question=f"question {index}", answer="some answer" if index % 2 else "another").with_inputs("question")
    for index in range(10)
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
    optimizer = dspy.GEPA(metric=with_feedback, max_metric_calls=30, num_threads=2, reflection_lm=OfflineLM())
    return optimizer.compile(student(), trainset=TRAINSET, valset=TRAINSET)


def infer_rules():
    optimizer = dspy.InferRules(metric=exact, num_candidates=1, num_rules=1, num_threads=2, **SMALL)
    return optimizer.compile(student(), trainset=TRAINSET, valset=TRAINSET)


def better_together():
    parts = {"labels": dspy.LabeledFewShot(k=1), "demos": dspy.BootstrapFewShot(metric=exact, **SMALL)}
    program = student()
    program.set_lm(OfflineLM())
    optimizer = dspy.BetterTogether(metric=exact, **parts)
    return optimizer.compile(program, trainset=TRAINSET, valset=TRAINSET, strategy="labels -> demos", seed=0)


def ensemble():
    return dspy.Ensemble(reduce_fn=dspy.majority).compile([student(), student()])


def knn_few_shot():
    vectorizer = dspy.Embedder(DummyVectorizer(64), caching=False)
    return dspy.KNNFewShot(2, TRAINSET, vectorizer).compile(student())


def optuna():
    optimizer = dspy.BootstrapFewShotWithOptuna(metric=exact, num_candidate_programs=2, num_threads=2, **SMALL)
    return optimizer.compile(student(), max_demos=1, trainset=TRAINSET)


class Actor(dspy.Module):
    """A program of the shape that `AvatarOptimizer` knows: an actor with tools, and the actions that it took."""

    def __init__(self):
        super().__init__()
        self.actor = dspy.Predict(dspy.Signature("question -> answer", "Act."))
        self.actor.lm = OfflineLM(answer="some answer")  # the optimizer's threads do not see `dspy.context`
        self.tools = []

    def forward(self, question):
        return dspy.Prediction(answer=self.actor(question=question).answer, actions=[])


def avatar():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dspy, "TypedPredictor", dspy.Predict, raising=False)  # which it asks for, and DSPy 3 has no more
        optimizer = dspy.AvatarOptimizer(metric=exact, max_iters=2)
    return optimizer.compile(Actor(), trainset=TRAINSET)


needs_optuna = pytest.mark.skipif(not importlib.util.find_spec("optuna"), reason="MIPROv2 needs optuna")
needs_gepa = pytest.mark.skipif(not importlib.util.find_spec("gepa"), reason="dspy.GEPA needs gepa")

OPTIMIZERS = {
    "LabeledFewShot": labeled_few_shot,
    "BootstrapFewShot": bootstrap_few_shot,
    "BootstrapFewShotWithRandomSearch": random_search,
    "BootstrapFewShotWithOptuna": pytest.param(optuna, marks=needs_optuna),
    "MIPROv2": pytest.param(mipro, marks=needs_optuna),
    "COPRO": copro,
    "SIMBA": simba,
    "GEPA": pytest.param(gepa, marks=needs_gepa),
    "InferRules": infer_rules,
    "BetterTogether": better_together,
    "Ensemble": ensemble,
    "KNNFewShot": knn_few_shot,
    "AvatarOptimizer": avatar,
}


def compiled(optimizer, callbacks):
    """Compile as from a fresh start and return what came out as plain values.

    The settings are those of the process: threads of an optimizer's own see no other.
    """
    random.seed(0)
    dspy.cache.reset_memory_cache()
    with dspy_internals.restored_settings(lm=OfflineLM(), callbacks=callbacks):
        program = optimizer()
    members = program.programs if hasattr(program, "programs") else [program]
    return [member.dump_state() for member in members]
