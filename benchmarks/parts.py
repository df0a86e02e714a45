"""Parts of the way of a call, each alone."""

from __future__ import annotations

import statistics
import time
import uuid

import attrs
from measured import report
from tables import number, table

from dspy_mlflow_callbacks import (
    CallKind,
    CallStart,
    KindFilter,
    LevelFilter,
    NameFilter,
    Payload,
    PayloadLimit,
    RatioSampler,
    Redactor,
    RuleSampler,
    SamplingRule,
    TagInjector,
)
from dspy_mlflow_callbacks.describe.payloads import to_json
from dspy_mlflow_callbacks.payload import PayloadSteps

PAYLOADS = {"1 kB": 1_000, "100 kB": 100_000, "10 MB": 10_000_000}
SENTENCE = 'He said: "Grüße",\nand left.\n'
# Repeated to the payload's size. What looks like a secret here is none that anybody has used.
CONTENTS = {
    "prose": SENTENCE,
    "prose with a key in each 2 kB": SENTENCE * 64 + "sk-proj-" + "a1B2" * 12 + "\n",
    "prose about keys and tokens": "The token is the key to the author's secret password, she said.\n",
    "many small fields": {"name": "x", "input_tokens": 12, "score": 0.5, "tags": ["a", "b"]},
    "many small fields, some secret": {"name": "x", "api_key": "abc", "score": 0.5, "tags": ["a", "b"]},
}


def any_function(call):
    return call


MIDDLEWARE = {
    "a function that keeps all": any_function,
    "`RatioSampler(0.5)`": RatioSampler(0.5),
    "`RuleSampler`, three rules": RuleSampler(
        [
            SamplingRule(name="Health*", ratio=0.0),
            SamplingRule(tags={"team": "search"}, ratio=0.5),
            SamplingRule(ratio=0.5, max_per_second=1e6),
        ]
    ),
    "`TagInjector`": TagInjector({"team": "search", "stage": "production"}),
    "`KindFilter`, hides": KindFilter(["lm", "tool"]),
    "`NameFilter`, three globs": NameFilter(include=["Program*"], exclude=["Health*", "*.judge"]),
    "`LevelFilter`": LevelFilter("info"),
}


def figures(bench):
    return bench.measured("parts.py", batches=bench.options.batches)


def tables(section):
    payloads, limits, steps = section["serialisation"], section["limits"], section["middleware"]
    return [
        *table(
            ("payload", "`to_json`, µs", "`Redactor()`, µs", "both, µs", "MB/s"),
            [(row["payload"], *payload_cells(row)) for row in payloads],
        ),
        "",
        *table(("`PayloadLimit`", "µs"), [(row["step"], number(row["us"], 1)) for row in limits]),
        "",
        *table(
            ("middleware", "µs a root call", "µs a call below"),
            [(row["step"], number(row["root_us"], 2), number(row["child_us"], 2)) for row in steps],
        ),
    ]


def payload_cells(row):
    return (*(number(row[column], 1) for column in ("json_us", "redact_us", "us")), number(row["mb_per_s"], 0))


def measure(batches, folder):
    stopwatch = Stopwatch(batches)
    return {
        "serialisation": serialisation(stopwatch),
        "limits": limits(stopwatch),
        "middleware": middleware(stopwatch),
    }


@attrs.frozen
class Stopwatch:
    batches: int

    def microseconds(self, function, argument, times):
        """Return the median time of *function(argument)* over batches of *times*."""
        function(argument)
        batches = []
        for _ in range(self.batches if times > 1 else min(self.batches, 5)):  # what takes long alone is less noisy
            start = time.perf_counter_ns()
            for _ in range(times):
                function(argument)
            batches.append((time.perf_counter_ns() - start) / times / 1e3)
        return statistics.median(batches)


def serialisation(stopwatch):
    return [
        serialised(stopwatch, f"{title}, {name}", value_of(content, size), max(1, 1_000_000 // size))
        for name, content in CONTENTS.items()
        for title, size in PAYLOADS.items()
    ]


def serialised(stopwatch, title, value, times):
    """Return what it takes to make JSON of a payload, and to redact it, as the default configuration does."""
    steps, text = PayloadSteps([Redactor()]), to_json(value)
    payload = Payload(place="inputs", name="inputs", text=text)
    json_us = stopwatch.microseconds(to_json, value, times)
    redact_us = stopwatch.microseconds(lambda each: steps.run([each], print), payload, times)
    return {
        "payload": title,
        "json_us": json_us,
        "redact_us": redact_us,
        "us": json_us + redact_us,
        "mb_per_s": len(text.encode()) / (json_us + redact_us),
    }


def value_of(content, size):
    if isinstance(content, str):
        return {"text": (content * (size // len(content.encode()) + 1)).encode()[:size].decode(errors="ignore")}
    return {"rows": [content] * (size // len(to_json(content)) + 1)}


def limits(stopwatch):
    """Return what it takes to cut a payload of 100 kB."""
    payload = Payload(place="inputs", name="inputs", text=to_json(value_of(SENTENCE, 100_000)))
    steps = PayloadSteps([PayloadLimit(10_000)])
    cut_us = stopwatch.microseconds(lambda each: steps.run([each], print), payload, 10)
    return [{"step": "100 kB to 10 kB", "us": cut_us}]


def middleware(stopwatch):
    root_id = uuid.uuid4().hex
    root = CallStart(
        kind=CallKind.MODULE, call_id=root_id, root_call_id=root_id, instance=None, inputs={}, name="Program"
    )
    child = attrs.evolve(root, call_id=uuid.uuid4().hex, parent=root, parent_call_id=root_id, is_entry=False)
    return [
        {
            "step": title,
            "root_us": stopwatch.microseconds(step, root, 20_000),
            "child_us": stopwatch.microseconds(step, child, 20_000),
        }
        for title, step in MIDDLEWARE.items()
    ]


if __name__ == "__main__":
    report(measure)
