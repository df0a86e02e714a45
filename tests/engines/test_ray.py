"""Ray: a driver and two workers are one trace."""

from __future__ import annotations

import pytest
import ray
from drivers import PAGE, questions
from every_engine import EveryCarryingEngine, EveryRun
from program_of_tasks import answer, program

from dspy_mlflow_callbacks.distributed.ray import TracedActor, TracedTask, ray_executor, traced_batches

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module", autouse=True)
def cluster(server):
    """Run Ray with two workers; `ray.data` needs a CPU beside them."""
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


class TestTasks(EveryCarryingEngine):
    """Ray's tasks."""

    @pytest.fixture
    def tasks(self):
        task = TracedTask(answer, num_cpus=2)
        return lambda asked: ray.get([task.remote(each) for each in asked])


class TestRuns(EveryRun):
    """`run(…, on="ray")`."""

    on = "ray"


class Panel:
    """Lives in an actor."""

    def __init__(self, greeting):
        self.greeting = greeting

    def answer(self, question):
        return f"{self.greeting} {answer(question)}"


def test_actors(driver):
    """What two actors' methods make is part of the trace of their caller."""

    def run():
        actors = [TracedActor(Panel, greeting, options={"num_cpus": 2}) for greeting in ("hello", "bye")]
        called = [actors[number % 2].call("answer", each) for number, each in enumerate(questions(20))]
        return ray.get(called)

    assert driver.run(run) == ["hello some answer", "bye some answer"] * 10
    driver.check(20)


def test_batches(driver):
    """`map_batches` works on each batch in the trace."""

    def answers(batch):
        return {"answer": [answer(f"question {each}") for each in batch["id"]]}

    def run():
        dataset = ray.data.range(40, override_num_blocks=4)
        return dataset.map_batches(traced_batches(answers), batch_size=5, concurrency=2).take_all()

    ray.data.DataContext.get_current().enable_progress_bars = False
    assert driver.run(run) == [{"answer": "some answer"}] * 40
    driver.check(40)


def test_the_executor(driver):
    """The executor's work is Ray's, and its futures are those of the standard library."""

    def run():
        with ray_executor(2) as pool:
            return list(pool.map(answer, questions(20)))

    assert driver.run(run) == ["some answer"] * 20
    driver.check(20)


def test_the_block_of_the_documentation(driver):
    """What docs/scaling.md shows of Ray is one trace."""
    names = driver.run(lambda: PAGE.run("import ray\n", program=program, questions=questions(4)))
    assert [each.answer for each in names["answers"]] == ["some answer"] * 4
    driver.check(4)


def test_options():
    """Ray's options may be changed."""
    named = TracedTask(answer, num_cpus=1).options(name="another", num_cpus=2)
    assert named._options == {"name": "another", "num_cpus": 2}
