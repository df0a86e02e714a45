"""What this package relies on in DSPy without DSPy's promise: each thing by its name, so that its change is told."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor

import dspy
import pytest
from dspy.dsp.utils.settings import main_thread_config, thread_local_overrides
from dspy.utils.callback import BaseCallback
from dspy.utils.callback_context import ACTIVE_CALL_ID
from dspy.utils.dummies import DummyVectorizer
from dspy.utils.parallelizer import ParallelExecutor
from expected import ok
from heard import Heard
from offline_lm import OfflineLM
from programs import Program

from dspy_mlflow_callbacks import MlflowCallback, dspy_internals, lm_internals

CORPUS = ["snow is white", "grass is green"]
WRAPPED = {
    "ParallelExecutor.execute": (ParallelExecutor, "execute", ["self", "function", "data"]),
    "Embeddings.__call__": (dspy.retrievers.Embeddings, "__call__", ["self", "query"]),
    "KNN.__call__": (dspy.KNN, "__call__", ["self", "kwargs"]),
    "Embedder.__call__": (dspy.Embedder, "__call__", ["self", "inputs", "batch_size", "caching", "kwargs"]),
    "Embedder.acall": (dspy.Embedder, "acall", ["self", "inputs", "batch_size", "caching", "kwargs"]),
}

# Where DSPy settles an LM call: other places before 3.4 and since.
if lm_internals.execution is None:
    WRAPPED |= {
        "BaseLM._process_lm_response": (
            dspy.BaseLM,
            "_process_lm_response",
            ["self", "response", "prompt", "messages", "kwargs"],
        ),
        "BaseLM._finalize_lm_response": (dspy.BaseLM, "_finalize_lm_response", ["self", "request", "response"]),
    }
else:
    execution, typesafe = lm_internals.execution, lm_internals.typesafe
    WRAPPED |= {
        "execution.finalize": (execution, "finalize", ["lm", "call", "result"]),
        "execution._account_failed_call": (execution, "_account_failed_call", ["lm", "results", "primary"]),
        "execution._delay": (execution, "_delay", ["exc", "attempt"]),
        "TypeSafe._finish": (typesafe.TypeSafe, "_finish", ["self", "request", "response", "cache_hit"]),
    }


def embedder(function=None):
    return dspy.Embedder(function or DummyVectorizer(64), caching=False)


def embeddings():
    return dspy.retrievers.Embeddings(CORPUS, embedder(), k=1)


class Ids(BaseCallback):
    """Keeps for each module's class the id of its call and its parent's."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def on_module_start(self, call_id, instance, inputs):
        self.calls.setdefault(type(instance).__name__, []).append((call_id, ACTIVE_CALL_ID.get()))


def test_active_call_id_is_the_parents_in_a_start_hook():
    """In a start hook `ACTIVE_CALL_ID` is the id of the enclosing call, and None for a root."""
    ids = Ids()
    with dspy.context(lm=OfflineLM(), callbacks=[ids]):
        Program()(question="why?")
    ((program, none),), ((thought, above_thought),), ((_, above_predict),) = ids.calls.values()
    assert (none, above_thought, above_predict) == (None, program, thought)
    assert dspy_internals.active_call_id() is None


class Inner(dspy.Module):
    def forward(self, question):
        return question

    async def aforward(self, question):
        return question


class Outer(dspy.Module):
    """Runs `Inner` in one of DSPy's ways."""

    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self):
        return self.run(Inner())


async def gathered(inner):
    return await asyncio.gather(inner.acall(question="a"), inner.acall(question="b"))


async def asyncified(inner):
    return await dspy.asyncify(inner)(question="a")


async def streamed(inner):
    def run(question):
        inner(question=question)
        return dspy.Prediction()

    return [value async for value in dspy.streamify(run)(question="a")]


WAYS = {
    "Parallel": lambda inner: dspy.Parallel(num_threads=2, disable_progress_bar=True)([(inner, {"question": "a"})] * 2),
    "gather": lambda inner: asyncio.run(gathered(inner)),
    "asyncify": lambda inner: asyncio.run(asyncified(inner)),
    "streamify": lambda inner: asyncio.run(streamed(inner)),
}


@pytest.mark.parametrize("run", WAYS.values(), ids=WAYS)
def test_active_call_id_crosses_into_worker_threads_and_tasks(run):
    """`ACTIVE_CALL_ID` leads from a call in DSPy's threads and tasks to the call that started it."""
    ids = Ids()
    with dspy.context(callbacks=[ids]):
        Outer(run)()
    ((outer, _),) = ids.calls["Outer"]
    assert {parent for _, parent in ids.calls["Inner"]} == {outer}


@pytest.mark.parametrize("run", [WAYS["Parallel"], WAYS["asyncify"], WAYS["streamify"]])
def test_thread_local_overrides_cross_into_worker_threads(run):
    """A setting in `thread_local_overrides` is seen by `dspy.settings` in DSPy's threads, and nowhere once undone."""
    seen = []

    class Looks(Inner):
        def forward(self, question):
            seen.append(dspy.settings.get("async_max_workers"))
            return question

    before = dspy.settings.async_max_workers
    override = dspy_internals.SettingsOverride(async_max_workers=before + 1)
    run(Looks())
    override.undo()
    assert set(seen) == {before + 1}
    assert dspy.settings.async_max_workers == before
    assert "async_max_workers" not in thread_local_overrides.get()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_overrides_of_one_call_are_undone_in_any_order(order):
    """Overrides by several callbacks for one call leave nothing behind, in whatever order they are undone."""
    before = dict(thread_local_overrides.get())
    overrides = [dspy_internals.SettingsOverride(**{f"setting_{number}": number}) for number in range(3)]
    assert [dspy.settings.get(f"setting_{number}") for number in range(3)] == [0, 1, 2]
    for number in order:
        overrides[number].undo()
    assert dict(thread_local_overrides.get()) == before


def test_an_override_is_undone_in_its_own_context_only():
    """Undoing an override in a context that never saw it does nothing."""
    override = contextvars.copy_context().run(dspy_internals.SettingsOverride, num_threads=1)
    before = dict(thread_local_overrides.get())
    override.undo()
    assert thread_local_overrides.get() == before


def test_main_thread_config_is_what_configure_sets():
    """`dspy.configure` writes to `main_thread_config`, and all threads read it there."""
    with dspy_internals.restored_settings(num_threads=3), ThreadPoolExecutor(1) as executor:
        assert main_thread_config["num_threads"] == 3
        assert executor.submit(lambda: dspy.settings.num_threads).result() == 3


def test_settings_are_put_back_from_any_thread():
    """All global settings are put back in a thread that may not call `dspy.configure`, whatever was added meanwhile."""
    before = dict(main_thread_config)

    def change():
        with dspy_internals.restored_settings(num_threads=3):
            main_thread_config["something_new"] = 1

    thread = threading.Thread(target=change)
    thread.start()
    thread.join()
    assert main_thread_config == before


@pytest.mark.parametrize(("owner", "name", "parameters"), WRAPPED.values(), ids=WRAPPED)
def test_what_is_wrapped_is_there_and_takes_what_it_took(owner, name, parameters):
    """What this package wraps exists with these parameters, and the wrapper has the original's signature."""
    MlflowCallback()
    wrapper = getattr(owner, name)
    assert list(inspect.signature(wrapper._traced_original).parameters) == parameters
    assert inspect.signature(wrapper) == inspect.signature(wrapper._traced_original)
    assert inspect.iscoroutinefunction(wrapper) == inspect.iscoroutinefunction(wrapper._traced_original)


@pytest.mark.parametrize(("owner", "name", "_"), WRAPPED.values(), ids=WRAPPED)
def test_wrapping_twice_is_wrapping_once(owner, name, _):
    """Another callback wraps nothing again."""
    MlflowCallback()
    wrapper = getattr(owner, name)
    MlflowCallback()
    assert getattr(owner, name) is wrapper
    assert not hasattr(wrapper._traced_original, "_traced_original")


def test_other_callbacks_hear_what_dspy_tells_them(dspy_traces):
    """Calls that DSPy keeps quiet about have spans here, and other callbacks hear nothing of them."""

    class Searches(dspy.Module):
        def __init__(self):
            super().__init__()
            self.search, self.embed = embeddings(), embedder()

        def forward(self, question):
            return self.search(question).passages, self.embed(question).shape

    heard, alone = Heard(), Heard()
    with dspy.context(callbacks=[heard, *dspy.settings.callbacks, heard]):
        traced = Searches()(question="snow")
    with dspy.context(callbacks=[alone]):
        assert Searches()(question="snow") == traced
    assert heard.kinds == alone.kinds == {"module": 1}
    search, embed = ok("Searches.search", "RETRIEVER"), ok("Searches.embed", "EMBEDDING")
    assert dspy_traces.tree() == [ok("Searches", "CHAIN", search, embed)]


def test_nothing_is_announced_where_nobody_listens(dspy_traces):
    """Without a callback of this package a retriever runs under no call id of ours."""
    seen = []
    retriever = embeddings()
    search = retriever.search_fn
    retriever.search_fn = lambda query: seen.append(ACTIVE_CALL_ID.get()) or search(query)
    with dspy.context(callbacks=[Heard()]):
        retriever("snow")
    assert (seen, dspy_traces.all()) == ([None], [])


def test_a_retriever_may_have_callbacks_of_its_own(dspy_traces):
    """A retriever with a callback in its own `callbacks` is traced by it; one with None there is traced as any."""
    own, global_ones = embeddings(), embeddings()
    own.callbacks, global_ones.callbacks = dspy.settings.callbacks, None
    with dspy.context(callbacks=[]):
        own("snow")
        global_ones("snow")
    assert dspy_traces.tree() == [ok("Embeddings", "RETRIEVER")]
    global_ones("snow")
    assert len(dspy_traces.all()) == 2


class RaisingCallback(MlflowCallback):
    """A user's own class with broken hooks."""

    def on_module_start(self, call_id, instance, inputs):
        raise ZeroDivisionError

    def on_module_end(self, call_id, outputs, exception=None):
        raise ZeroDivisionError


@pytest.mark.warns
def test_a_raising_hook_does_not_reach_the_program(warned):
    """A hook of the user's own class that raises is logged, as DSPy does, and the retriever answers."""
    with dspy.context(callbacks=[RaisingCallback()]):
        assert embeddings()("snow is").passages == CORPUS[:1]
    assert warned.messages == ["A callback's hook failed: ZeroDivisionError()"] * 2


def test_a_retrievers_call_is_the_parent_of_what_runs_inside(dspy_traces):
    """What an embedder's own function calls of DSPy is below the embedder, which is below the retriever."""
    inside = Inner()

    def embed(texts):
        inside(question="a")
        return DummyVectorizer(64)(texts)

    trainset = [dspy.Example(question=text).with_inputs("question") for text in CORPUS]
    with dspy.context(callbacks=[]):
        knn = dspy.KNN(1, trainset, embedder(embed))
    knn(question="snow is white")
    assert dspy_traces.tree() == [ok("KNN", "RETRIEVER", ok("Embedder", "EMBEDDING", ok("Inner", "CHAIN")))]
