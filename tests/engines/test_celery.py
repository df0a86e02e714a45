"""Celery: a driver and the two processes, or threads, of a worker are one trace."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
from drivers import PAGE, below, driving
from every_engine import EveryEngine

from dspy_mlflow_callbacks.distributed.celery import DrainedTask

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    """Run a Redis on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    server = subprocess.Popen(
        [shutil.which("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    os.environ["CELERY_URL"] = f"redis://127.0.0.1:{port}/0"
    yield os.environ["CELERY_URL"]
    server.terminate()
    server.wait()


@pytest.fixture(scope="module", params=[("prefork", "server"), ("threads", "sqlite_server")], ids=lambda each: each[0])
def worker(request, redis, tmp_path_factory):
    """Run a worker with two processes or threads, each kind with another database; return the kind and the server."""
    import celery_app

    pool, server = request.param[0], request.getfixturevalue(request.param[1])
    log = tmp_path_factory.mktemp("worker") / "log"
    command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "--pool", pool]
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [*command, "--concurrency", "2", "--loglevel", "info"],
            stdout=file,
            stderr=file,
            env={**os.environ, "IS_WORKER": "1", "MLFLOW_TRACKING_URI": server.uri},
        )
    end = time.monotonic() + 100
    while not celery_app.app.control.ping(timeout=1):
        assert worker.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, log.read_text()[-3000:]
    yield pool, server
    worker.terminate()
    worker.wait(60)


@pytest.fixture
def driver(worker, tmp_path):
    """Return a driver with the worker's store, which headers never say."""
    with driving(worker[1], tmp_path) as driver:
        yield driver


@pytest.fixture
def tasks(worker):
    from celery_app import answer

    return lambda asked: [result.get(timeout=200) for result in [answer.delay(each) for each in asked]]


class TestTasks(EveryEngine):
    """Celery's tasks."""

    @pytest.fixture
    def one_by_one(self, tasks, worker):
        if worker[0] == "threads":
            pytest.skip("with a thread the worker would die as a whole")
        return tasks


def test_a_task_that_is_tried_again(driver, tasks):
    """Celery's own retry is a second attempt too."""
    driver.run(lambda: tasks(["comes again"]))
    (trace,) = driver.traces()
    calls = [span for span in trace.data.spans if span.name == "Answers"]
    assert [span.get_attribute("dspy.attempt") for span in calls] == [None, 2]
    driver.check(2)


def test_the_block_of_the_documentation():
    """What docs/scaling.md shows of Celery makes an app whose tasks are over when what they made is stored."""
    app = PAGE.run("trace_tasks(app)")["app"]
    assert issubclass(app.Task, DrainedTask)


def test_tasks_of_others(driver, tasks):
    """A task that is sent without a trace begins one."""
    tasks(["alone"])
    (trace,) = driver.traces()
    assert below(trace)[None, "Answers"] == 1
