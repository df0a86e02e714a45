"""The example's service, scraped by a real Prometheus; its tests run only where this folder is named.

That is what `make test-dashboard` does.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from dashboard_files import CALLS, FILES
from named_folders import is_named

HERE = Path(__file__).parent
WAIT_SECONDS = 120


def pytest_ignore_collect(collection_path, config):
    """Leave this folder out where it is not named: its tests need Prometheus."""
    return None if is_named(HERE, config) else True


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def running(*command, **options):
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            yield process
        finally:
            process.stdin.close()
            process.terminate()


class Prometheus:
    """Answers PromQL."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"

    def asked(self, path, **query):
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=10) as response:  # noqa: S310  (on this machine)
            return json.load(response)["data"]

    def values(self, expression):
        """Return the values of an expression now."""
        return [float(each["value"][1]) for each in self.asked("query", query=expression)["result"]]

    def wait(self, expression, least):
        """Wait until an expression has a value of at least *least*."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            try:
                if any(value >= least for value in self.values(expression)):
                    return
            except (urllib.error.URLError, ConnectionError):
                pass  # it has just been started
            time.sleep(0.2)
        message = f"{expression} was never {least}"
        raise AssertionError(message)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Return the folder of the service's traces."""
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="session")
def prometheus(store, tmp_path_factory):
    """Run the service and a Prometheus that scrapes it, until all calls are stored and have been scraped."""
    folder, scraped, port = tmp_path_factory.mktemp("prometheus"), free_port(), free_port()
    (folder / "rules.yml").write_text((FILES / "rules.yml").read_text())
    config = (FILES / "prometheus.yml").read_text()
    assert "127.0.0.1:9464" in config
    config = config.replace("127.0.0.1:9464", f"127.0.0.1:{scraped}").replace(": 5s", ": 1s")
    (folder / "prometheus.yml").write_text(config)
    service = (sys.executable, str(FILES / "service.py"), "--port", str(scraped), "--calls", str(CALLS))
    server = (
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    )
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    with running(*service, "--store", str(store), cwd=store, env=environment), running(*server, cwd=folder):
        prometheus = Prometheus(port)
        prometheus.wait("dspy_mlflow_traces_stored_total", CALLS)
        yield prometheus
