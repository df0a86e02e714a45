"""Dask: a driver and two workers are one trace."""

from __future__ import annotations

import dask.bag
import pytest
from distributed import Client, LocalCluster
from drivers import TASKS, questions
from program_of_tasks import answer

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


@pytest.fixture
def tasks(client):
    return lambda asked: client.gather(client.map(traced(answer), asked, pure=False))


def test_tasks(driver, tasks):
    """Each span of 200 tasks is stored once, in one trace, under its parent."""
    assert driver.run(lambda: tasks(questions())) == ["some answer"] * TASKS
    driver.check(TASKS)


def test_sampling(driver, tasks):
    """Workers obey what was decided at the root."""
    driver.check_sampling(tasks)


def test_an_erring_task(driver, tasks):
    """A task that raises is part of the trace, and Dask raises what it raised."""
    driver.check_erring(tasks, ValueError)


def test_a_worker_that_dies(driver, tasks):
    """What a task made before its worker died is kept, and the second attempt says that it is one."""
    driver.check_death(tasks)


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


def test_threads_of_one_worker(driver, server):
    """Four threads of one worker are part of the trace at once."""
    with LocalCluster(n_workers=1, threads_per_worker=4, dashboard_address=":0") as cluster, Client(cluster) as client:
        driver.run(lambda: client.gather(client.map(traced(answer), questions(40), pure=False)))
    driver.check(40)


def test_a_cluster_of_its_own(driver):
    """Without a client the executor has workers of its own."""

    def run():
        with dask_executor(max_workers=2) as pool:
            return [pool.submit(answer, each).result(100) for each in questions(4)]

    assert driver.run(run) == ["some answer"] * 4
    driver.check(4)


def test_outside_of_a_worker():
    """Where no worker says anything of attempts, it is the first."""
    assert attempt() == 1
