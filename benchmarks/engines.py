"""What a task costs its driver on Ray, Dask, Celery and Spark, traced and as the engine has it, and what is stored.

    python benchmarks/engines.py [--rounds 5] [--tasks 200] [ray dask celery spark]

Two workers and tasks of ten spans, into a tracking server with SQLite on this machine. An engine's driver asks how its
tasks are as long as they last, so what it pays while traced tasks wait for the store is compared with what it pays for
untraced ones that sleep as long. Not part of `make bench`: it needs what `make test-engines` installs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS / "engines"), str(TESTS)]
os.environ.update(
    PYTHONPATH=os.pathsep.join(sys.path[:2]),
    PYSPARK_PYTHON=sys.executable,
    RAY_USAGE_STATS_ENABLED="0",
    LITELLM_LOCAL_MODEL_COST_MAP="True",
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_ENABLE_ASYNC_TRACE_LOGGING="true",
)

import dspy
from drivers import Driver, questions
from program_of_tasks import LM, SPANS, answer
from tracking_server import TrackingServer

TASKS = 200


WORKERS = 2


def untraced(seconds):
    """Return what answers without a trace, in so many seconds at least."""

    def untraced(question):
        began = time.perf_counter()
        with dspy.context(lm=LM, callbacks=[]):
            answered = answer(question)
        time.sleep(max(0.0, began + seconds - time.perf_counter()))
        return answered

    return untraced


@contextmanager
def on_ray():
    import ray

    from dspy_mlflow_callbacks.distributed.ray import TracedTask

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")

    def sent(task):
        return lambda asked: ([task.remote(each) for each in asked], ray.get)

    yield lambda seconds: sent(ray.remote(untraced(seconds))), sent(TracedTask(answer))
    ray.shutdown()


@contextmanager
def on_dask():
    from distributed import Client, LocalCluster

    from dspy_mlflow_callbacks.distributed.dask import AttemptPlugin, traced

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        client.register_plugin(AttemptPlugin())

        def mapped(function):
            return lambda asked: (client.map(function(), asked, pure=False), client.gather)

        yield (
            lambda seconds: mapped(lambda: untraced(seconds)),
            mapped(lambda: traced(answer)),
        )


@contextmanager
def on_spark():
    from pyspark.sql import SparkSession

    from dspy_mlflow_callbacks.distributed.spark import traced

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    session = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
    session.sparkContext.setLogLevel("OFF")

    def mapped(function, asked):
        return session.sparkContext.parallelize(asked, 8).map(function), lambda rows: rows.collect()

    yield (
        lambda seconds: lambda asked: mapped(untraced(seconds), asked),
        lambda asked: mapped(traced(answer), asked),
    )
    session.stop()


@contextmanager
def on_celery():
    with tempfile.TemporaryDirectory() as folder:
        port = "6399"
        redis = subprocess.Popen(
            ["redis-server", "--port", port, "--save", "", "--dir", folder], stdout=subprocess.DEVNULL
        )
        os.environ.update(CELERY_URL=f"redis://127.0.0.1:{port}/0", IS_WORKER="1")
        import celery_app

        command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "--concurrency", "2"]
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not celery_app.app.control.ping(timeout=1):
            pass

        def sent(asked):
            return [celery_app.answer.delay(each) for each in asked], lambda results: [each.get() for each in results]

        yield lambda _: plain_celery(), sent  # its tasks last as long: the worker traces them too
        worker.terminate()
        worker.wait()
        redis.terminate()


def measured(run, number):
    """Return what a task costs the driver, in ms: to hand it over, in CPU until all are answered, and all of it."""
    began, cpu = time.perf_counter(), time.process_time()
    handed, answers = run(questions(number))
    handed_over = time.perf_counter() - began
    assert answers(handed) == ["some answer"] * number
    return [1e3 * each / number for each in (handed_over, time.process_time() - cpu, time.perf_counter() - began)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("engines", nargs="*", default=["ray", "dask", "celery", "spark"])
    options = parser.parse_args()
    engines = {"ray": on_ray, "dask": on_dask, "celery": on_celery, "spark": on_spark}
    print("| engine | hand over | driver's CPU | until answered | stored |")
    print("| --- | --- | --- | --- | --- |")
    for name in options.engines:
        with tempfile.TemporaryDirectory() as folder:
            server = TrackingServer(Path(folder)).start()
            os.environ["MLFLOW_TRACKING_URI"] = server.uri
            import mlflow

            mlflow.set_tracking_uri(server.uri)
            try:
                with engines[name]() as (own, ours):
                    print(row(name, own, ours, options.rounds, options.tasks), flush=True)
            finally:
                server.stop()


def row(name, own, ours, rounds, tasks):
    """Return what an engine's own tasks cost, its own that last as long as traced ones, and traced ones."""
    driver, figures = Driver(Path()), ([], [], [])
    for number in range(rounds + 1):  # the first lets workers import what they need
        plain = measured(own(0.0), tasks)
        traced = driver.run(lambda: measured(ours, tasks))
        as_long = measured(own(WORKERS * traced[-1] / 1e3), tasks)
        if number:
            for each, found in zip(figures, (plain, as_long, traced), strict=True):
                each.append(found)
    spans = sum(len(trace.data.spans) for trace in driver.traces("trace.name = 'Runs'"))  # Celery's own have others
    columns = [[statistics.median(each) for each in zip(*rows, strict=True)] for rows in figures]
    cells = [" → ".join(f"{each:.2f}" for each in cell) + " ms" for cell in zip(*columns, strict=True)]
    return f"| {name} | {' | '.join(cells)} | {spans:,} of {(rounds + 1) * (1 + SPANS * tasks):,} |"


def plain_celery():
    """Return what sends tasks as Celery does by itself; what they are in the worker is left out of the figures."""
    import celery_app
    from celery import signals

    def sent(asked):
        receivers, signals.before_task_publish.receivers = signals.before_task_publish.receivers, []
        try:
            results = [celery_app.answer.delay(each) for each in asked]
        finally:
            signals.before_task_publish.receivers = receivers
        return results, lambda handed: [each.get() for each in handed]

    return sent


if __name__ == "__main__":
    main()
