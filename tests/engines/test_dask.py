"""Dask: a driver and two workers are one trace."""

from __future__ import annotations

import time
from concurrent import futures

import dask
import dask.bag
import pytest
from distributed import Client, LocalCluster
from drivers import PAGE, questions
from every_engine import EveryCarryingEngine, EveryRun
from program_of_tasks import answer, program

from dspy_mlflow_callbacks.distributed.dask import AttemptPlugin, attempt, dask_executor, traced

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def client(server):
    """Run Dask with two workers."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(AttemptPlugin())
        yield client


@pytest.fixture(autouse=True)
def both_workers(client):
    """Wait until a worker that died in another test is replaced."""
    client.wait_for_workers(2, timeout=100)


class TestTasks(EveryCarryingEngine):
    """Dask's tasks."""

    @pytest.fixture
    def tasks(self, client):
        return lambda asked: client.gather(client.map(traced(answer), asked, pure=False))


@pytest.mark.usefixtures("client")
class TestRuns(EveryRun):
    """`run(…, on="dask")`."""

    on = "dask"

    def test_run_with_an_input_that_kills_each_worker(self, driver):
        """Dask gives up after two deaths here, which a cluster of three outlives if no worker comes back."""
        with (
            dask.config.set({"distributed.scheduler.allowed-failures": 1}),
            LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster),
        ):
            super().test_run_with_an_input_that_kills_each_worker(driver)


def test_bags(driver, client):
    """A bag's tasks are part of the trace."""
    bag = dask.bag.from_sequence(questions(20), npartitions=4)
    assert driver.run(lambda: bag.map(traced(answer)).compute()) == ["some answer"] * 20
    driver.check(20)


def test_the_executor(driver, client):
    """The executor's work is Dask's."""

    def run():
        with dask_executor(client) as pool:
            return list(pool.map(answer, questions(20)))

    assert driver.run(run) == ["some answer"] * 20
    driver.check(20)


def test_the_executor_is_shut_down(client):
    """What it was given and nobody wants any more is cancelled; the client is open as before."""
    pool = dask_executor()
    submitted = [pool.submit(time.sleep, 0.1) for _ in range(100)]
    pool.shutdown(cancel_futures=True)
    assert any(future.cancelled() for future in futures.wait(submitted).done)
    assert client.submit(len, "open").result() == 4


def test_the_block_of_the_documentation(driver, client):
    """What docs/scaling.md shows of Dask is one trace."""
    names = driver.run(
        lambda: PAGE.run("client.register_plugin(", client=client, program=program, questions=questions(4))
    )
    assert [each.answer for each in names["answers"]] == ["some answer"] * 4
    driver.check(4)


def test_threads_of_one_worker(driver, server):
    """Four threads of one worker are part of the trace at once."""
    with LocalCluster(n_workers=1, threads_per_worker=4, dashboard_address=":0") as cluster, Client(cluster) as client:
        driver.run(lambda: client.gather(client.map(traced(answer), questions(40), pure=False)))
    driver.check(40)


def test_outside_of_a_worker():
    """Where no worker says anything of attempts, it is the first."""
    assert attempt() == 1
