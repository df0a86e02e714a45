"""Says once why traces do not arrive.

MLflow stores traces in the background: it logs a line for each one that it lost, and tries a server that is away for
minutes before it does. Here one line says it for all, and a server is asked at the first trace whether it is there.
"""

from __future__ import annotations

import logging
import threading
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import mlflow

from dspy_mlflow_callbacks.stats import WarnNotStored

PROBE_SECONDS = 5.0
_MLFLOW_EXPORT_LOGGER = "mlflow.tracing.export.mlflow_v3"
_LOST = "Failed to send trace"


class DeliveryWatch(logging.Filter):
    """Watches whether traces arrive in the tracking store; one object for the process."""

    def __init__(self) -> None:
        super().__init__()
        self._warn = WarnNotStored()
        self._probed: set[str] = set()

    def start(self) -> None:
        """Listen to what MLflow's exporter logs; doing so twice is doing it once."""
        logging.getLogger(_MLFLOW_EXPORT_LOGGER).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a line of MLflow's through, but for one that says that a trace is lost: it is said once for all."""
        message = record.getMessage()
        if not message.startswith(_LOST):
            return True
        self._warn.store(mlflow.get_tracking_uri(), message)
        return False

    def probe(self) -> None:
        """Ask a tracking server once, in the background, whether it is there."""
        uri = mlflow.get_tracking_uri()
        if uri not in self._probed:
            self._probed.add(uri)
            if urlsplit(uri).scheme in ("http", "https"):
                threading.Thread(target=self._ask, args=(uri,), name="dspy-mlflow-probe", daemon=True).start()

    def _ask(self, uri: str) -> None:
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS):  # noqa: S310  (http only)
                pass
        except urllib.error.HTTPError:
            return  # it answers, be it that we may not ask
        except OSError as error:
            self._warn.store(uri, f"the server does not answer ({error})")


DELIVERY_WATCH = DeliveryWatch()
