"""Traces that begin with a call, and what is known of such a trace as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.export.waiting import Destination, Prepared
from dspy_mlflow_callbacks.spans.leaving import preview_content, run_steps, trace_content
from dspy_mlflow_callbacks.spans.recorded_traces import RecordedTrace, Settings, by_settings, not_delivered
from dspy_mlflow_callbacks.tail_sampling import EndedTrace, TailSamplerError


class OwnTrace(RecordedTrace):
    """A trace that begins with a call.

    Args:
        tracer: Where MLflow sends traces.
        otel_id: OpenTelemetry's id of the trace.
        settings: Those of the callback with which it begins.
        experiment_id: The experiment that it goes to.
        run: The MLflow run that it belongs to, if any.
    """

    def __init__(
        self, tracer: internals.Tracer, otel_id: int, settings: Settings, experiment_id: str, run: Any
    ) -> None:
        super().__init__(tracer, otel_id, settings, experiment_id)
        self._run_id: str | None = None if run is None else run.info.run_id
        self._tags, self._metadata = internals.surroundings()

    @property
    def destination(self) -> Destination:
        """Where it goes."""
        return attrs.evolve(super().destination, run_id=self._run_id)

    def _register(self) -> Any:
        info = self._info(self.spans[0], *self._facts())
        return internals.register_trace(self.otel_id, info, is_remote=False)

    def say(self, tags: Mapping[str, str], metadata: Mapping[str, str]) -> None:
        """Add tags and metadata to the trace."""
        if self._entry is None:
            self._tags.update(tags)
            self._metadata.update(metadata)
        else:
            self._entry.info.tags.update(tags)
            self._entry.info.trace_metadata.update(metadata)

    def end(self) -> None:
        """Hand the trace over: its root has ended."""
        self.is_over = True
        self._end_open()
        internals.set_last_active_trace_id(self.trace_id)
        self._leave_memory()
        is_expected = internals.note_evaluated(self._tags, self.trace_id)
        is_shown = not is_expected and internals.is_shown()
        ours = self._ended() if is_shown else []
        self._deliver(at_once=is_expected or is_shown)
        if ours and not self._is_dropped:
            self._show(ours)

    def _prepared(self) -> Prepared | None:
        """Return what leaves; None if the tail sampler drops it."""
        ended = self._ended()
        others = self._ended_others()
        if not self._is_kept([*ended, *others]):
            self._is_dropped = True
            self._settings.counters.dropped()
            return None
        leaving = not_delivered(ended)
        self.run_steps(leaving)
        return self._with_trace_facts([*leaving, *others], [*ended, *others])

    def _show(self, ours: list[Any]) -> None:
        root, spans = ours[0], [*ours, *self._ended_others()]
        info = self._info(root, *self._without_secrets(ours))
        internals.complete_info(info, root, spans, self.tracer.recorder.processor)
        internals.show(info, spans)

    def _is_kept(self, spans: list[Any]) -> bool:
        tail_sampler = self._settings.tail_sampler
        if tail_sampler is None:
            return True
        try:
            tags = self._tags if self._entry is None else self._entry.info.tags
            return tail_sampler.keeps(EndedTrace(self.trace_id, spans, tags))
        except Exception as error:  # noqa: BLE001  (the user's; a trace too many is better than one that is lost)
            failure = TailSamplerError(tail_sampler, error)
            failure.__cause__ = error
            self._settings.on_loss(failure)
            return True

    def _with_trace_facts(self, leaving: list[Any], spans: list[Any]) -> Prepared:
        """Say what is known of the trace as a whole where it can be said: by the root, or by MLflow's `TraceInfo`."""
        root, entry, recorder = self.spans[0], self._entry, self.tracer.recorder
        processor = recorder.processor
        # Before the steps, which may redact it: a remote repository's address with credentials.
        is_said = recorder.adds_up and internals.is_said_by_spans(self._facts()[1], processor)
        tags, metadata = self._without_secrets(self.spans)
        if is_said and (entry is None or internals.is_plain(entry)):
            for key, text in internals.attributes_of_trace(root.name, tags, metadata):
                root.replace_attribute(key, text)
            return Prepared(trace_id=self.trace_id, spans=leaving, feedback=self._feedback())
        info = self._info(root, tags, metadata)
        internals.complete_info(info, root, spans, processor)
        return Prepared(
            trace_id=self.trace_id,
            spans=leaving,
            info=info,
            feedback=self._feedback(),
            attachments={} if entry is None else internals.attachments_of(entry),
            prompts=() if entry is None else tuple(entry.prompts),
            is_shared=self.is_shared or internals.is_shared(info),
        )

    def _without_secrets(self, ours: Iterable[Any]) -> tuple[dict[str, str], dict[str, str]]:
        """Run the payload steps of each callback on what is known of the trace, and return its tags and metadata."""
        tags, metadata = self._facts()
        content = list(trace_content(tags, metadata))
        if self._entry is not None:
            content += preview_content(self._entry.info)
        for settings, _ in by_settings(ours):
            if settings.payload_steps:
                run_steps(settings.payload_steps, content, settings.on_loss)
        return tags, metadata

    def _facts(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the tags and metadata, those that MLflow adds among them."""
        if self._entry is not None:
            return self._entry.info.tags, self._entry.info.trace_metadata
        metadata = {**internals.source_metadata(self.tracer.recorder.processor), **self._metadata}
        if self._run_id is not None:
            metadata.setdefault(internals.SOURCE_RUN, self._run_id)
        return dict(self._tags), metadata

    def _info(self, root: Any, tags: dict[str, str], metadata: dict[str, str]) -> Any:
        """Return MLflow's `TraceInfo`: the one that it has in memory, or had, if somebody has looked."""
        if self._entry is not None:
            return self._entry.info
        return internals.new_info(self.trace_id, root, self._experiment_id, tags, metadata)
