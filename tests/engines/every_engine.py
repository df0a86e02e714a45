"""What holds on every engine; each engine's file says how its tasks run there, and which of these it has."""

from __future__ import annotations

from collections import Counter

import pytest
from drivers import TASKS, below, in_sequence, questions
from program_of_tasks import SPANS, program

from dspy_mlflow_callbacks import program_fingerprint, run


class EveryEngine:
    """Tasks of an engine; the fixture `tasks` runs as many as it is given questions.

    Attributes:
        raises: What the engine raises where a task raises `ValueError`.
        attempts: How often it begins a task that raises.
        roots: How many traces there are where half of them are sampled.
    """

    raises: type[Exception] = ValueError
    attempts = 1
    roots = 8

    def test_tasks(self, driver, tasks):
        """Each span of 200 tasks is stored once, in one trace, under its parent."""
        assert driver.run(lambda: tasks(questions())) == ["some answer"] * TASKS
        driver.check(TASKS)

    def test_sampling(self, driver, tasks):
        """Workers obey what was decided at the root."""
        driver.check_sampling(tasks, roots=self.roots)

    def test_an_erring_task(self, driver, tasks):
        """Each attempt at a task that raises is part of the trace, and the engine raises what it raised."""
        driver.check_erring(tasks, self.raises, attempts=self.attempts)

    def test_a_worker_that_dies(self, driver, one_by_one):
        """What a task made before its worker died is kept, and the second attempt says that it is one."""
        driver.check_death(one_by_one)

    @pytest.fixture
    def one_by_one(self, tasks):
        """Run each question in a task of its own."""
        return tasks


class EveryCarryingEngine(EveryEngine):
    """Tasks that store where their driver does; the driver's other tests have PostgreSQL."""

    @pytest.mark.parametrize("driver", ["sqlite_server"], indirect=True)
    def test_tasks_with_sqlite(self, driver, tasks):
        """SQLite, which has one writer at a time, stores the same."""
        self.test_tasks(driver, tasks)


class EveryRun:
    """`run` by an engine's name, on the cluster that the engine's file has running.

    Attributes:
        on: The engine's name.
    """

    on: str

    def run(self, driver, asked, **options):
        """Run the program of ten spans over questions, on two workers."""
        inputs = [{"question": each} for each in asked]
        with driver.tracing():
            results = run(program, inputs, on=self.on, max_workers=2, **options)
            return results, results.all()

    def test_run(self, driver):
        """Results are all there, in order, each with a trace of its own that is found by the run's name."""
        asked = questions(20)
        _, results = self.run(driver, asked, name="nightly", input_id=lambda given: given["question"])
        assert [(each.index, each.input_id, each.prediction.answer) for each in results] == [
            (number, question, "some answer") for number, question in enumerate(asked)
        ]
        found = {trace.info.tags["dspy.run.input"]: trace for trace in driver.traces("tag.`dspy.run.name` = 'nightly'")}
        assert {name: trace.info.trace_id for name, trace in found.items()} == {
            each.input_id: each.trace_id for each in results
        }
        assert all(below(trace) == in_sequence(1, root=None) for trace in found.values())
        fingerprints = {trace.info.tags["dspy.program.fingerprint"] for trace in found.values()}
        assert fingerprints == {program_fingerprint(program)}

    def test_run_in_one_trace(self, driver):
        """With `trace="one"` all inputs are below one span."""
        results, made = self.run(driver, questions(20), trace="one")
        assert [each.prediction.answer for each in made] == ["some answer"] * 20
        assert driver.check(20, root="Run").info.trace_id == results.trace_id

    def test_run_with_an_erring_input(self, driver):
        """An input that fails is attempted again; its error names its trace, and the others are as without it."""
        first, *asked = questions(4)
        results, made = self.run(driver, [first, "fails at once", *asked], on_error="keep", retries=1)
        assert [each.error is None for each in made] == [True, False, True, True, True]
        failed = made[1]
        assert (str(failed.error), failed.attempts, results.counts.errors) == ("fails at once", 2, 1)
        assert failed.trace_id in "".join(failed.error.__notes__)
        traces = {trace.info.trace_id: trace for trace in driver.traces() if trace.info.state == "ERROR"}
        assert traces.keys() == set(failed.trace_ids)
        assert {trace.info.tags["dspy.run.attempt"] for trace in traces.values()} == {"1", "2"}
        assert all(len(trace.data.spans) == SPANS - 4 for trace in traces.values())

    def test_run_with_a_worker_that_dies(self, driver):
        """The engine begins its input again: all results are right, and what was stored of the first attempt stays."""
        results, made = self.run(driver, [driver.dying(), *questions(6)], retries=1)
        assert [each.prediction.answer for each in made] == ["some answer"] * 7
        assert results.counts.errors == 0
        traces = {each.info.trace_id: each for each in driver.traces()}
        (dead,) = traces.keys() - {each.trace_id for each in made}
        assert "Answers.first" in {span.name for span in traces[dead].data.spans}
        attempts = Counter(traces[each.trace_id].data.spans[0].get_attribute("dspy.attempt") for each in made)
        assert attempts == {None: 6, 2: 1}

    def test_run_with_an_input_that_kills_each_worker(self, driver):
        """When the engine gives up on an input, it has the engine's error, and the others are as without it."""
        _, made = self.run(driver, [*questions(2), "kills each worker", *questions(2)], on_error="keep")
        answers = [each.prediction and each.prediction.answer for each in made]
        assert answers == ["some answer", "some answer", None, "some answer", "some answer"]
        assert [each.index for each in made if each.error is not None] == [2]
        stored = {trace.info.trace_id: below(trace) for trace in driver.traces()}
        assert all(stored[each.trace_id] == in_sequence(1, root=None) for each in made if each.error is None)
