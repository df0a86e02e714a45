"""An evaluation: how long `dspy.Evaluate` takes, and which of its examples and scores are stored.

The program is `dspy.ChainOfThought("question -> answer")` (five spans) on an LM without latency, so that tracing is as
much of it as it can be; the metric compares two texts. The traces go to a SQLite store.
"""

from __future__ import annotations

import operator
import time

from contestants import AUTOLOG, CONTESTANTS, NO_OP
from measured import Cpu, NoWarnings, report
from stores import Place
from tables import beside, counted, median, number, table, worst

NAMES = (NO_OP, "ours", "ours_nested", "ours_native", AUTOLOG)
WARM_UP = 64  # examples
PATIENCE_S = 10.0


def figures(bench):
    options, names = bench.options, bench.names(NAMES)

    def evaluated(name):
        settings = {"contestant": name, "examples": options.examples, "threads": options.eval_threads}
        return bench.measured("evaluate.py", **settings)

    rounds = bench.rounds(names, 5, 360, evaluated)
    return {
        "examples": options.examples,
        "threads": options.eval_threads,
        "rounds": counted(rounds),
        "contestants": [row(name, figures, rounds.get(NO_OP)) for name, figures in rounds.items()],
    }


def row(name, figures, no_op):
    return {
        "contestant": CONTESTANTS[name].title,
        "seconds": median(figures, "seconds"),
        "to_no_op": beside(figures, no_op, "seconds", operator.truediv),
        "cpu_to_no_op": beside(figures, no_op, "cpu_ms", operator.truediv),
        "stored_after_s": median(figures, "stored_after_s"),
        "traces": worst(CONTESTANTS[name], figures, "traces"),
        "scored": worst(CONTESTANTS[name], figures, "scored"),
        "score": sorted({each["score"] for each in figures}),
        "rounds": figures,
    }


def tables(section):
    said = (
        f"{section['examples']:,} examples, {section['threads']} threads, an LM without latency. Medians over "
        f"{section['rounds']} rounds, each contestant in a process of its own, of its ratio to the no-op callback "
        "in the same round; traces and scores are those of the worst round. CPU is that of the program until all is "
        "stored."
    )
    head = (
        "",
        "until `Evaluate` returns, s",
        "to no-op",
        "CPU to no-op",
        "all stored after, s",
        "traces of the evaluation",
        "scores stored",
    )
    return [said, "", *table(head, [cells(row) for row in section["contestants"]])]


def cells(row):
    return (
        row["contestant"],
        number(row["seconds"], 2),
        number(row["to_no_op"], 2),
        number(row["cpu_to_no_op"], 2),
        number(row["stored_after_s"], 1),
        number(row["traces"], 0),
        number(row["scored"], 0),
    )


def measure(contestant, examples, threads, folder):
    import dspy
    from program import five_spans, warmed_up

    NoWarnings("dspy_mlflow_callbacks")
    store = CONTESTANTS[contestant].begin(Place(folder))
    program = warmed_up(five_spans(), 20, store)
    evaluated(program, WARM_UP, threads)
    store.flush()
    before, scored_before = len(store.spans_by_trace()), store.scores()
    cpu = Cpu()
    begun = time.perf_counter()
    result = evaluated(program, examples, threads)
    ended = time.perf_counter()
    stored_at = cpu.waiting(until_stored, store, scored_before + examples, CONTESTANTS[contestant].keeps)
    store.flush()
    assert isinstance(result, dspy.evaluate.EvaluationResult)
    return {
        **cpu.figures(examples),
        "seconds": ended - begun,
        "stored_after_s": None if stored_at is None else max(0.0, stored_at - ended),
        "traces": len(store.spans_by_trace()) - before,
        "scored": store.scores() - scored_before,
        "score": result.score,
    }


def evaluated(program, examples, threads):
    import dspy

    devset = [dspy.Example(question=f"{each}?", answer="42").with_inputs("question") for each in range(examples)]
    return dspy.Evaluate(devset=devset, metric=exact, num_threads=threads, display_progress=False)(program)


def exact(example, prediction, trace=None):
    return example.answer == prediction.answer


def until_stored(store, scores, keeps):
    """Return when all scores are stored; None if they are not, and no more come."""
    known, news = None, time.perf_counter()
    while keeps and time.perf_counter() - news < PATIENCE_S:
        found = store.scores()
        if found >= scores:
            return time.perf_counter()
        if found != known:
            known, news = found, time.perf_counter()
        time.sleep(0.1)
    return None


if __name__ == "__main__":
    report(measure)
