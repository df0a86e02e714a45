"""Where a trace is found in MLflow's UI."""

from __future__ import annotations

from urllib.parse import urlsplit

import attrs
import mlflow

from dspy_mlflow_callbacks.stats import without_credentials

LOCAL_UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` serves a store that has no server."""


@attrs.frozen
class Pages:
    """The pages of an experiment's traces.

    Attributes:
        tracking_uri: The store, without credentials.
        experiment_id: The experiment; None if the store does not say.
    """

    tracking_uri: str
    experiment_id: str | None

    @classmethod
    def of(cls, experiment_id: str | None) -> Pages:
        """Return the pages of an experiment in MLflow's store of now."""
        return cls(without_credentials(mlflow.get_tracking_uri()), experiment_id)

    @property
    def _is_server(self) -> bool:
        return urlsplit(self.tracking_uri).scheme in {"http", "https"}

    def url(self, trace_id: str | None) -> str | None:
        """Return the address of a trace's page; None where it is not known.

        For a store that has no server, it is the address that `mlflow ui` gives it.
        """
        if trace_id is None or self.experiment_id is None or self.tracking_uri.startswith("databricks"):
            return None
        server = self.tracking_uri.rstrip("/") if self._is_server else LOCAL_UI
        return f"{server}/#/experiments/{self.experiment_id}/traces?selectedEvaluationId={trace_id}"

    def note(self, trace_id: str) -> str:
        """Return a line that says where a trace is."""
        url = self.url(trace_id)
        if url is None:
            return f"MLflow trace {trace_id} in {self.tracking_uri}"
        how = "" if self._is_server else f" (mlflow ui --backend-store-uri {self.tracking_uri})"
        return f"MLflow trace {trace_id}: {url}{how}"
