"""Spark: a driver and two workers are one trace."""

from __future__ import annotations

import pandas as pd
import pytest
from drivers import TASKS, questions
from program_of_tasks import answer
from pyspark.errors import PythonException
from pyspark.sql import SparkSession

from dspy_mlflow_callbacks.distributed.spark import attempt, spark_executor, traced

ATTEMPTS = 4

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def spark(server):
    """Run Spark with two workers, which begins a task up to four times."""
    builder = SparkSession.builder.master(f"local[2,{ATTEMPTS}]").config("spark.ui.enabled", "false")
    session = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


def answers(frames):
    """Answer the questions of a partition."""
    for frame in frames:
        yield pd.DataFrame({"answer": [answer(each) for each in frame["question"]]})


@pytest.fixture
def tasks(spark):
    def run(asked):
        frame = spark.createDataFrame([(each,) for each in asked], "question string").repartition(min(len(asked), 8))
        return [row.answer for row in frame.mapInPandas(traced(answers), "answer string").collect()]

    return run


def test_tasks(driver, tasks):
    """Each span of 200 calls is stored once, in one trace, under its parent."""
    assert driver.run(lambda: tasks(questions())) == ["some answer"] * TASKS
    driver.check(TASKS)


def test_sampling(driver, tasks):
    """Workers obey what was decided at the root."""
    driver.check_sampling(tasks, roots=4)


def test_an_erring_task(driver, tasks):
    """Each attempt at a task that raises is part of the trace, and Spark raises what it raised."""
    driver.check_erring(tasks, PythonException, attempts=ATTEMPTS)


def test_a_worker_that_dies(driver, spark):
    """What a task made before its worker died is kept, and the second attempt says that it is one."""
    # A question a partition: what else is in it is begun twice too.
    driver.check_death(lambda asked: spark.sparkContext.parallelize(asked, len(asked)).map(traced(answer)).collect())


def test_the_executor(driver, spark):
    """The executor's work is Spark's."""

    def run():
        with spark_executor(spark) as pool:
            return list(pool.map(answer, questions(20)))

    assert driver.run(run) == ["some answer"] * 20
    driver.check(20)


def test_outside_of_a_worker():
    """Where no task runs, it is the first attempt."""
    assert attempt() == 1
