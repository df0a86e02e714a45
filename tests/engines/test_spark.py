"""Spark: a driver and two workers are one trace."""

from __future__ import annotations

import pandas as pd
import pytest
from drivers import PAGE, questions
from every_engine import EveryCarryingEngine, EveryRun
from program_of_tasks import answer, program
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


class TestTasks(EveryCarryingEngine):
    """Spark's tasks: those of a data frame with a partition for a few questions each."""

    raises = PythonException
    attempts = ATTEMPTS
    roots = 4

    @pytest.fixture
    def tasks(self, spark):
        def run(asked):
            rows = [(each,) for each in asked]
            frame = spark.createDataFrame(rows, "question string").repartition(min(len(asked), 8))
            return [row.answer for row in frame.mapInPandas(traced(answers), "answer string").collect()]

        return run

    @pytest.fixture
    def one_by_one(self, spark):
        """Run a partition a question: what else is in it would be begun twice too."""
        return lambda asked: spark.sparkContext.parallelize(asked, len(asked)).map(traced(answer)).collect()


@pytest.mark.usefixtures("spark")
class TestRuns(EveryRun):
    """`run(…, on="spark")`."""

    on = "spark"


def test_the_executor(driver, spark):
    """The executor's work is that of the session that it is given, or that runs, and leaves it open."""

    def run():
        with spark_executor(spark) as given, spark_executor() as found:
            return [*given.map(answer, questions(10)), *found.map(answer, questions(10))]

    assert driver.run(run) == ["some answer"] * 20
    driver.check(20)
    assert spark.range(3).count() == 3


def test_the_block_of_the_documentation(driver, spark):
    """What docs/scaling.md shows of Spark is one trace."""
    asked = spark.createDataFrame([(each,) for each in questions(4)], "question string")
    names = driver.run(lambda: PAGE.run("questions.mapInPandas(", program=program, questions=asked))
    assert [tuple(row) for row in names["answered"]] == [(each, "some answer") for each in questions(4)]
    driver.check(4)


def test_outside_of_a_worker():
    """Where no task runs, it is the first attempt."""
    assert attempt() == 1
