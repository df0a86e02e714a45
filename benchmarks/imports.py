"""What importing this package takes, beside dspy and mlflow, which it needs and a program has imported anyway."""

from __future__ import annotations

import statistics

from measured import report
from tables import between, number, percent, table

BOTH = "import dspy, mlflow"
STORE = f"{BOTH}; import mlflow.store.tracking.sqlalchemy_store, mlflow.pyfunc"
CALLBACK = "import dspy_mlflow_callbacks as ours; ours.MlflowCallback()"

# What is imported, and after what: its time is counted from there.
ROWS = {
    "dspy and mlflow": (BOTH, None),
    "this package": ("import dspy_mlflow_callbacks", None),
    "`MlflowCallback()`, after MLflow's SQL store and `mlflow.pyfunc`": (f"{STORE}; {CALLBACK}", STORE),
    "`MlflowCallback()`, after neither": (f"{BOTH}; {CALLBACK}", BOTH),
}


def figures(bench):
    statements = {each for row in ROWS.values() for each in row if each is not None}
    rounds = bench.options.rounds or 7
    seconds = {statement: [] for statement in statements}
    for _ in range(rounds):
        for statement in statements:
            seconds[statement].append(bench.measured("imports.py", statement=statement))
    return {"rounds": rounds, "seconds": seconds}


def tables(section):
    said = (
        f"CPU time of fresh interpreters with the files' caches warm, the median of {section['rounds']} each, beyond "
        "what has been imported before."
    )
    head = ("", "CPU, ms", "lowest to highest", "of importing dspy and mlflow")
    return [said, "", *table(head, [cells(title, section["seconds"]) for title in ROWS])]


def cells(title, seconds):
    statement, before = ROWS[title]
    base = [0.0] * len(seconds[BOTH]) if before is None else seconds[before]
    own = [mine - theirs for mine, theirs in zip(seconds[statement], base, strict=True)]
    shares = [mine / both for mine, both in zip(own, seconds[BOTH], strict=True)]
    return (
        title,
        number(statistics.median(own) * 1e3, 0),
        between([each * 1e3 for each in own], 0),
        percent(statistics.median(shares)),
    )


def measure(statement, folder):
    """Return the seconds of CPU that a statement takes; by now the interpreter has what `measured` imports."""
    import time

    begun = time.process_time()
    exec(statement, {})  # noqa: S102  (one of those above)
    return time.process_time() - begun


if __name__ == "__main__":
    report(measure)
