"""A large evaluation: nothing of it is lost, and each score is on its own trace."""

from __future__ import annotations

from collections import Counter

import pytest
from evaluations import EVALUATION, INDEX, devset, evaluate, said

pytestmark = pytest.mark.usefixtures("nothing_left")

EXAMPLES = 2_000


@pytest.mark.timeout(300)  # two thousand traces are written
def test_a_large_evaluation_is_stored_whole(dspy_traces):
    """Of 2,000 examples in 16 threads there are 2,000 traces, each with the one score that is its own."""

    def graded(example, prediction, trace=None):
        return int(prediction.removeprefix("question ")) / EXAMPLES

    evaluate(graded, examples=devset(EXAMPLES), num_threads=16)
    evaluation, *traces = dspy_traces.all()
    ids, scores = {}, Counter()
    for trace in traces:
        index = int(trace.info.tags[INDEX])
        ids[index] = trace.info.trace_id
        scores.update((index, name, value) for name, value, *_ in said(trace))
    assert scores == Counter((index, "graded", index / EXAMPLES) for index in range(EXAMPLES))
    assert {trace.info.tags[EVALUATION] for trace in traces} == {evaluation.info.trace_id}
    root = evaluation.data.spans[0]
    assert root.get_attribute("dspy.evaluation.traces") == [ids[index] for index in range(1_000)]
    assert root.get_attribute("dspy.evaluation.example_count") == EXAMPLES
