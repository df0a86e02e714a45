"""Who is measured: one row for each way of tracing, and where its traces go."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs


class Nowhere:
    """For contestants that store nothing."""

    def flush(self):
        pass

    def spans_by_trace(self):
        return {}


@attrs.frozen
class MlflowStore:
    """A SQLite store of its own, written by MLflow's own exporter as it comes."""

    experiment_id: str

    def flush(self):
        import mlflow

        mlflow.flush_trace_async_logging()

    def spans_by_trace(self):
        import mlflow

        traces = mlflow.search_traces(locations=[self.experiment_id], return_type="list", max_results=100_000)
        return {trace.info.trace_id: len(trace.data.spans) for trace in traces}


@attrs.frozen
class Memory:
    """An OpenTelemetry SDK provider that batches spans into a list: nothing is serialised, sent or stored."""

    provider: Any
    exporter: Any

    def flush(self):
        self.provider.force_flush()

    def spans_by_trace(self):
        return dict(Counter(span.context.trace_id for span in self.exporter.get_finished_spans()))


def new_store(folder: Path) -> MlflowStore:
    """Return a new, empty SQLite store, the one that MLflow writes to from now on.

    MLflow takes seconds to make one, so those after the first in *folder* are copies of it.
    """
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    template, store = folder / "empty.db", Path(tempfile.mkdtemp(dir=folder), "mlflow.db")
    if template.exists():
        shutil.copy(template, store)
    mlflow.set_tracking_uri(f"sqlite:///{store}")
    experiment = mlflow.set_experiment("bench")
    if not template.exists():
        with closing(sqlite3.connect(store)) as source, closing(sqlite3.connect(template)) as copy:
            source.backup(copy)
    return MlflowStore(experiment.experiment_id)


def with_callbacks(*callbacks: Any) -> None:
    import dspy

    dspy.configure(callbacks=list(callbacks))


def no_callback(folder):
    new_store(folder)  # all contestants run with the same modules loaded and the same threads
    return Nowhere()


def no_op_callback(folder):
    from dspy.utils.callback import BaseCallback

    new_store(folder)
    with_callbacks(BaseCallback())
    return Nowhere()


def bare_mlflow_spans(folder):
    """Open and close MLflow's spans and do nothing else: what the native engine cannot go below."""
    import mlflow
    from dspy.utils.callback import BaseCallback

    from dspy_mlflow_callbacks.dspy_internals import active_call_id

    class BareSpans(BaseCallback):
        def __init__(self):
            self.open = {}

        def start(self, call_id, instance, inputs):
            parent = self.open.get(active_call_id())
            self.open[call_id] = mlflow.start_span_no_context(type(instance).__name__, parent_span=parent)

        def end(self, call_id, outputs, exception):
            self.open.pop(call_id).end()

        on_module_start = on_lm_start = on_adapter_format_start = on_adapter_parse_start = start
        on_module_end = on_lm_end = on_adapter_format_end = on_adapter_parse_end = end

    store = new_store(folder)
    with_callbacks(BareSpans())
    return store


def ours(folder, **options):
    from dspy_mlflow_callbacks import MlflowCallback

    store = new_store(folder)
    with_callbacks(MlflowCallback(**options))
    return store


def ours_with_middleware(folder):
    from dspy_mlflow_callbacks import RatioSampler, TagInjector

    return ours(folder, middleware=[RatioSampler(1.0), TagInjector({"team": "search"})])


def ours_with_little(folder):
    return ours(folder, level="info", capture_messages=False)


def ours_without_redaction(folder):
    return ours(folder, redact=False)


def ours_sampled_out(folder):
    from dspy_mlflow_callbacks import RatioSampler

    return ours(folder, middleware=[RatioSampler(0.0)])


def mlflow_autolog(folder):
    import mlflow

    store = new_store(folder)
    mlflow.dspy.autolog()
    return store


def openinference(folder):
    from openinference.instrumentation.dspy import DSPyInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    new_store(folder)
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    DSPyInstrumentor().instrument(tracer_provider=provider)
    return Memory(provider, exporter)


@attrs.frozen
class Contestant:
    """One way of tracing.

    Attributes:
        title: What the table calls it.
        begin: Switches the tracing on and returns where the traces go; given a folder for its store.
        keeps: Whether it is meant to keep traces.
        needs: The module without which it cannot run.
    """

    title: str
    begin: Callable[[Path], Any]
    keeps: bool = True
    needs: str = "dspy_mlflow_callbacks"

    def is_installed(self) -> bool:
        try:
            return importlib.util.find_spec(self.needs) is not None
        except ModuleNotFoundError:  # not even the package that it would be in
            return False


NO_OP = "no_op"
AUTOLOG = "autolog"

CONTESTANTS = {
    "none": Contestant("no callback", no_callback, keeps=False),
    NO_OP: Contestant("no-op callback", no_op_callback, keeps=False),
    "bare": Contestant("bare MLflow spans, no content", bare_mlflow_spans),
    "ours": Contestant("`MlflowCallback()`", ours),
    "ours_middleware": Contestant("`MlflowCallback`, `RatioSampler(1.0)` and `TagInjector`", ours_with_middleware),
    "ours_info": Contestant('`MlflowCallback(level="info", capture_messages=False)`', ours_with_little),
    "ours_raw": Contestant("`MlflowCallback(redact=False)`", ours_without_redaction),
    "ours_sampled_out": Contestant("`MlflowCallback`, `RatioSampler(0.0)`", ours_sampled_out, keeps=False),
    AUTOLOG: Contestant("`mlflow.dspy.autolog()`", mlflow_autolog),
    "openinference": Contestant("OpenInference, to memory", openinference, needs="openinference.instrumentation.dspy"),
}
