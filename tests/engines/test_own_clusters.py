"""Where no cluster runs a run starts one of its own, and ends it."""

from __future__ import annotations

import pytest
import ray
from distributed import default_client
from drivers import questions
from ended import wait_until
from program_of_tasks import answer, program
from pyspark import SparkContext
from ray.cluster_utils import Cluster

from dspy_mlflow_callbacks import run
from dspy_mlflow_callbacks.distributed.ray import ray_executor

pytestmark = pytest.mark.timeout(280)


def is_running(engine):
    """Return whether this process has a cluster."""
    if engine == "ray":
        return ray.is_initialized()
    if engine == "spark":
        return SparkContext._active_spark_context is not None
    try:
        return default_client().status == "running"
    except ValueError:
        return False


def run_four(driver, on):
    """Run four inputs in one trace, and check that it has all of them."""
    with driver.tracing():
        results = run(program, [{"question": each} for each in questions(4)], on=on, max_workers=2, trace="one")
        assert [each.answer for each in results.predictions] == ["some answer"] * 4
    driver.check(4, root="Run")


@pytest.mark.parametrize("on", ["ray", "dask", "spark"])
def test_a_run(driver, on):
    """A run by an engine's name has workers of its own, which are gone when it is over."""
    assert not is_running(on)
    run_four(driver, on)
    assert not is_running(on)


def test_a_run_joins_the_cluster_that_ray_is_told_of(driver, monkeypatch):
    """Where `RAY_ADDRESS` says a cluster, the run is on that one, and leaves it running."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        run_four(driver, "ray")
        assert not ray.is_initialized()
        ray.init()
        assert ray.cluster_resources()["CPU"] == 2
        ray.shutdown()
    finally:
        cluster.shutdown()


def test_nobody_waits_for_rays_end(driver):
    """An executor that is shut down without waiting ends its cluster when what it was given is done."""

    def work():
        pool = ray_executor(2)
        future = pool.submit(answer, "why?")
        pool.shutdown(wait=False)
        return future.result(100)

    assert driver.run(work) == "some answer"
    wait_until(lambda: not ray.is_initialized())
    driver.check(1)
