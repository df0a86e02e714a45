"""MLflow's UI as a test sees it: the server, and the pages in a browser."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.entities import Span, Trace
from playwright.sync_api import Locator, Page

SECONDS_TO_START = 120
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# LiteLLM would wait for a download of its price map; nothing here needs the server's background jobs.
_SERVER_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
# What MLflow shows to newcomers would cover the page.
_WELCOMED = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
localStorage.setItem("mlflow.detectIssues.guidanceShown_v1", "true");
"""


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Serve the store `mlflow.db` in *folder* and yield the address."""
    port = _free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, **_SERVER_ENVIRONMENT}
    log = folder / "server.log"
    with log.open("wb") as output:
        # A session of its own: the server's workers end with it.
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_healthy(url, process, log)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while not _is_healthy(url):
        if process.poll() is not None or time.monotonic() > deadline:
            message = f"The MLflow server did not start: {log.read_text(errors='replace')[-2000:]}"
            raise RuntimeError(message)
        time.sleep(0.1)


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:  # noqa: S310  (our own server)
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


class MlflowUI:
    """The pages of one experiment.

    Args:
        page: A page of a fresh browser profile.
        url: The server's address.
        experiment_id: Whose traces are shown.
    """

    def __init__(self, page: Page, url: str, experiment_id: str) -> None:
        self.page = page
        self._experiment = f"{url}/#/experiments/{experiment_id}"
        page.add_init_script(_WELCOMED)

    def open_list(self) -> None:
        """Open the list of traces."""
        self._open("traces")
        self.rows.first.wait_for()

    def open_model(self, model_id: str) -> Locator:
        """Open the traces of a logged model, which are another table than those of the experiment."""
        self._open(f"models/{model_id}/traces")
        return self.page.get_by_role("main")

    def open_run(self, run_id: str) -> Locator:
        """Open the traces of a run."""
        self._open(f"runs/{run_id}/traces")
        return self.page.get_by_role("main")

    def open_session(self, session: str) -> Locator:
        """Open a session: its traces, one a turn."""
        self._open(f"chat-sessions/{session}")
        return self.page.get_by_role("main")

    @property
    def rows(self) -> Locator:
        """The rows of the list of traces."""
        checkbox = self.page.locator('[data-component-id="web-shared.traces-table.row-select"]')
        return self.page.get_by_role("row").filter(has=checkbox)

    def toggle_columns(self, *names: str) -> None:
        """Show those of these columns that are hidden, and hide those that are shown."""
        self.page.get_by_role("button", name="Display").click()
        self.page.get_by_role("menuitem", name="Columns").click()
        for name in names:
            self.page.locator(f'[data-component-id="mlflow.traces-v4.column-selector.item.{name}"]').click()
        self.page.keyboard.press("Escape")

    def open_charts(self, name: str) -> Locator:
        """Open one of the overview's pages of charts."""
        self._open(f"overview/{name}")
        return self.page.get_by_role("main")

    def open_trace(self, trace: Trace) -> None:
        """Open *trace* and wait until its tree is complete."""
        self._open(f"traces?selectedEvaluationId={trace.info.trace_id}")
        for span in trace.data.spans:
            self.node(span).wait_for()

    def _open(self, path: str) -> None:
        # Another part after `#` would be the same page, with what it has loaded already.
        self.page.goto("about:blank")
        self.page.goto(f"{self._experiment}/{path}")

    def tree(self) -> list[tuple[int, str]]:
        """Return the tree of spans from top to bottom, each as its depth and name."""
        titles = self.page.locator('[data-testid^="span-title-row-"]').all()
        left = [title.bounding_box()["x"] for title in titles]
        indents = sorted(set(left))
        return [(indents.index(x), title.inner_text()) for x, title in zip(left, titles, strict=True)]

    def node(self, span: Span) -> Locator:
        """The tree's node of *span*."""
        return self.page.get_by_test_id(f"timeline-tree-node-{span.span_id}")

    def metrics(self, span: Span) -> Locator:
        """What the tree's node of *span* shows beside the duration: tokens and cost."""
        row = self.page.get_by_test_id(f"span-metric-row-{span.span_id}")
        return row.locator("> :not([title^='Duration'])")

    def select(self, span: Span) -> None:
        """Show *span* beside the tree."""
        self.node(span).click()

    @property
    def dialog(self) -> Locator:
        """The trace with all that is shown of it."""
        return self.page.get_by_role("dialog")

    @property
    def content(self) -> Locator:
        """Inputs and outputs of the selected span."""
        return self.page.get_by_test_id("model-trace-explorer-content-tab")
