"""Celery: a driver and the two processes, or threads, of a worker are one trace."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
from drivers import TASKS, below, questions

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


@pytest.fixture(scope="module", params=["prefork", "threads"])
def worker(request, server, redis, tmp_path_factory):
    """Run a worker with two processes or threads, and return the kind of its pool."""
    import celery_app

    log = tmp_path_factory.mktemp("worker") / "log"
    command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "--pool", request.param]
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [*command, "--concurrency", "2", "--loglevel", "info"],
            stdout=file,
            stderr=file,
            env={**os.environ, "IS_WORKER": "1"},
        )
    end = time.monotonic() + 100
    while not celery_app.app.control.ping(timeout=1):
        assert worker.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, log.read_text()[-3000:]
    yield request.param
    worker.terminate()
    worker.wait(60)


@pytest.fixture
def tasks(worker):
    from celery_app import answer

    return lambda asked: [result.get(timeout=200) for result in [answer.delay(each) for each in asked]]


def test_tasks(driver, tasks):
    """Each span of 200 tasks is stored once, in one trace, under its parent."""
    assert driver.run(lambda: tasks(questions())) == ["some answer"] * TASKS
    driver.check(TASKS)


def test_sampling(driver, tasks):
    """Workers obey what was decided at the root."""
    driver.check_sampling(tasks)


def test_an_erring_task(driver, tasks):
    """A task that raises is part of the trace, and Celery raises what it raised."""
    driver.check_erring(tasks, ValueError)


def test_a_worker_that_dies(driver, tasks, worker):
    """What a task made before its worker died is kept, and the second attempt says that it is one."""
    if worker == "threads":
        pytest.skip("with a thread the worker would die as a whole")
    driver.check_death(tasks)


def test_a_task_that_is_tried_again(driver, tasks):
    """Celery's own retry is a second attempt too."""
    driver.run(lambda: tasks(["comes again"]))
    (trace,) = driver.traces()
    calls = [span for span in trace.data.spans if span.name == "Answers"]
    assert [span.get_attribute("dspy.attempt") for span in calls] == [None, 2]
    driver.check(2)


def test_tasks_of_others(driver, tasks, server):
    """A task that is sent without a trace begins one."""
    tasks(["alone"])
    (trace,) = driver.traces()
    assert below(trace)[None, "Answers"] == 1
