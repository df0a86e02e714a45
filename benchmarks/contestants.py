"""Who is measured: one row for each way of tracing, and where its traces go."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import attrs
from stores import Memory, Nowhere, Place


def with_callbacks(*callbacks: Any) -> None:
    import dspy

    dspy.configure(callbacks=list(callbacks))


def no_callback(place):
    place.new_store()  # all contestants run with the same modules loaded and the same threads
    return Nowhere()


def no_op_callback(place):
    from dspy.utils.callback import BaseCallback

    place.new_store()
    with_callbacks(BaseCallback())
    return Nowhere()


def bare_mlflow_spans(place):
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

    store = place.new_store()
    with_callbacks(BareSpans())
    return store


def ours(place, **options):
    from dspy_mlflow_callbacks import MlflowCallback

    store = place.new_store()
    with_callbacks(MlflowCallback(**options))
    return store


def ours_nested(place):
    return ours(place, evaluate="nested")


def ours_native(place):
    return ours(place, engine="native")


def ours_with_middleware(place):
    from dspy_mlflow_callbacks import RatioSampler, TagInjector

    return ours(place, middleware=[RatioSampler(1.0), TagInjector({"team": "search"})])


def ours_with_little(place):
    return ours(place, level="info", capture_messages=False)


def ours_without_redaction(place):
    return ours(place, redact=False)


def ours_sampled_out(place):
    from dspy_mlflow_callbacks import RatioSampler

    return ours(place, middleware=[RatioSampler(0.0)])


def mlflow_autolog(place):
    import mlflow

    store = place.new_store()
    mlflow.dspy.autolog()
    return store


def openinference(place):
    from openinference.instrumentation.dspy import DSPyInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    place.new_store()
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    DSPyInstrumentor().instrument(tracer_provider=provider)
    return Memory(provider, exporter)


@attrs.frozen
class Contestant:
    """One way of tracing.

    Attributes:
        title: What the table calls it.
        begin: Switches the tracing on and returns where the traces go; given a place for its store.
        keeps: Whether it is meant to keep traces.
        needs: The module without which it cannot run.
    """

    title: str
    begin: Callable[[Place], Any]
    keeps: bool = True
    needs: str = "dspy_mlflow_callbacks"

    def is_installed(self) -> bool:
        try:
            return importlib.util.find_spec(self.needs) is not None
        except ModuleNotFoundError:  # not even the package that it would be in
            return False


NONE = "none"
NO_OP = "no_op"
AUTOLOG = "autolog"

CONTESTANTS = {
    NONE: Contestant("no callback", no_callback, keeps=False),
    NO_OP: Contestant("no-op callback", no_op_callback, keeps=False),
    "bare": Contestant("bare MLflow spans, no content", bare_mlflow_spans),
    "ours": Contestant("`MlflowCallback()`", ours),
    "ours_nested": Contestant('`MlflowCallback(evaluate="nested")`', ours_nested),
    "ours_native": Contestant('`MlflowCallback(engine="native")`', ours_native),
    "ours_middleware": Contestant("`MlflowCallback`, `RatioSampler(1.0)` and `TagInjector`", ours_with_middleware),
    "ours_info": Contestant('`MlflowCallback(level="info", capture_messages=False)`', ours_with_little),
    "ours_raw": Contestant("`MlflowCallback(redact=False)`", ours_without_redaction),
    "ours_sampled_out": Contestant("`MlflowCallback`, `RatioSampler(0.0)`", ours_sampled_out, keeps=False),
    AUTOLOG: Contestant("`mlflow.dspy.autolog()`", mlflow_autolog),
    "openinference": Contestant("OpenInference, to memory", openinference, needs="openinference.instrumentation.dspy"),
}
