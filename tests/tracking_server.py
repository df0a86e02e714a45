"""A real tracking server: a process of its own, with a database of its own, on a free port of the loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

START_SECONDS = 100.0


class TrackingServer:
    """Runs `mlflow server` in a folder, from `start` to `stop`; it may be started again, and has then what it had.

    Its database is an SQLite file in the folder, or what *database* names.
    """

    def __init__(self, folder, database=None):
        self.folder = folder
        self._database = () if database is None else ("--backend-store-uri", database)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--workers", "1", *self._database],
                cwd=self.folder,
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes that nobody asks for
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_healthy()
        return self

    def stop(self):
        os.killpg(self._process.pid, signal.SIGKILL)  # with its worker, which is a process of its own
        self._process.wait()

    def _wait_until_healthy(self):
        end = time.monotonic() + START_SECONDS
        while not self._is_healthy():
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < end, "the server does not come up"
            time.sleep(0.2)

    def _is_healthy(self):
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):  # noqa: S310  (http only)
                return True
        except (urllib.error.URLError, OSError):
            return False
