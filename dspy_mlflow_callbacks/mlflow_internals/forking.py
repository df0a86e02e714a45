"""MLflow's own exporter in a fork of the process, where its threads are not.

MLflow does not look after it: what a fork puts into the exporter's queue stays there, and who flushes it waits for ever
(https://github.com/mlflow/mlflow, `AsyncTraceExportQueue`).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import suppress
from operator import attrgetter
from typing import Any

from mlflow.tracing import provider
from mlflow.tracing.export.async_export_queue import AsyncTraceExportQueue
from mlflow.tracing.processor import base_mlflow
from mlflow.tracing.trace_manager import InMemoryTraceManager

from dspy_mlflow_callbacks.forks import free, hold
from dspy_mlflow_callbacks.mlflow_internals.stores import renew_connections

_WAIT_SECONDS = 5.0

# What is held while a store or the tracer provider is made: for seconds. In a fork they may be made again.
_MAKING = (
    ("mlflow.tracking._tracking_service.registry", "_building_store_lock"),
    ("mlflow.tracking._model_registry.registry", "_building_store_lock"),
    ("mlflow.store.tracking.sqlalchemy_store", "SqlAlchemyStore._engine_map_lock"),
    ("mlflow.tracing.trace_manager", "InMemoryTraceManager._instance_lock"),
    ("mlflow.tracing.provider", "_trace_disabled_lock"),
    ("mlflow.tracing.provider", "provider._isolated_tracer_provider_once._Once__lock"),
    ("mlflow.tracing.provider", "provider._global_provider_init_once._Once__lock"),
    ("mlflow.tracing.processor.base_mlflow", "_batch_processor_registry_lock"),
    ("mlflow.tracking.fluent", "_experiment_lock"),
)


class _Forking:
    """Lets MLflow's exporter come to rest before a fork, and gives the fork an empty one with threads of its own."""

    def __init__(self) -> None:
        self._held: list[Any] = []

    def stand_ready(self) -> None:
        """Do so before and after each fork from now on."""
        if hasattr(os, "register_at_fork"):  # pragma: no branch  (Windows has no fork)
            os.register_at_fork(
                before=self._before, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child
            )

    def _before(self) -> None:
        end = time.monotonic() + _WAIT_SECONDS
        queues = [queue for _, queue in _processors() if queue is not None]
        pools = [queue._worker_threadpool for queue in queues if queue.is_active()]
        self._held = hold([pool._shutdown_lock for pool in pools], _WAIT_SECONDS)  # nothing new is begun
        for queue in queues:
            with suppress(RuntimeError):  # the set changes just now
                wait(list(queue._active_tasks), max(0.0, end - time.monotonic()))
        self._held += hold(_locks(), max(0.0, end - time.monotonic()))

    def _after_in_parent(self) -> None:
        for lock in reversed(self._held):
            lock.release()
        self._held = []

    def _after_in_child(self) -> None:
        self._held = []
        free(_locks())
        for module, name in _MAKING:
            with suppress(KeyError, AttributeError):  # not imported, or another release of MLflow
                free([attrgetter(name)(sys.modules[module])])
        for processor, queue in _processors():
            _begin_anew(processor, queue)


def _begin_anew(processor: Any, queue: Any) -> None:
    """Let a processor forget what is the parent's to store."""
    processor._pending_on_end_count = 0
    processor._pending_on_end_condition = threading.Condition(threading.Lock())
    exporter = processor.span_exporter
    getattr(exporter, "_deferred_root_spans", {}).clear()
    renew_connections(exporter._client)
    if queue is not None:
        # Its end is registered twice then, which is none too many: the first one comes after the processor's.
        AsyncTraceExportQueue.__init__(queue)


def _locks() -> list[Any]:
    places: list[tuple[Any, str]] = []
    for processor, queue in _processors():
        # Some are of newer releases of MLflow, and gevent's queue has none.
        places += [(queue, "_flush_lock"), (queue, "_lock"), (getattr(queue, "_queue", None), "mutex")]
        places += [(processor, "_deduplication_lock"), (processor.span_exporter, "_deferred_lock")]
    places.append((InMemoryTraceManager.get_instance(), "_lock"))
    return [lock for owner, name in places if (lock := getattr(owner, name, None)) is not None]


def _processors() -> Iterator[tuple[Any, Any]]:
    """Yield MLflow's span processors that may have something to store, each with its exporter's queue."""
    of_provider = getattr(provider.provider.get(), "_active_span_processor", None)
    current = getattr(of_provider, "_span_processors", ())
    flushed = getattr(base_mlflow, "_batch_processor_registry", ())
    for processor in {*current, *list(flushed)}:
        if isinstance(processor, base_mlflow.BaseMlflowSpanProcessor):
            yield processor, getattr(processor.span_exporter, "_async_queue", None)


_Forking().stand_ready()
