"""Options for production: rules for sampling, errors that are always kept, secrets and long texts that are not."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import attrs
import dspy
from trees import open_store, stored_traces

from dspy_mlflow_callbacks import MlflowCallback, SamplingRule, TailSampler, TracingConfig

CONFIG = TracingConfig(
    sampling_rules=[SamplingRule(name="HealthCheck", ratio=0.0)],  # all others: sampling_ratio, which is 1
    tail_sampler=TailSampler(keep_errors=True, background_ratio=0.0),  # of what has ended, errors alone
    redact_fields=["ssn"],
    redact_patterns=["[A-Z]{2}[0-9]{6}"],  # numbers of passports; keys and tokens are taken out anyway
    max_payload_chars=120,
    level="info",  # no adapter spans
)


class HealthCheck(dspy.Module):
    """Says that the service is alive."""

    def forward(self) -> str:
        """Return a word."""
        return "alive"


class Register(dspy.Module):
    """Registers a traveller, if there is room for the note."""

    room = 50  # characters

    def forward(self, name: str, ssn: str, note: str) -> str:
        """Return the traveller's name."""
        if len(note) > self.room:
            message = f"No room for {name}: {note}"
            raise ValueError(message)
        return name


def main() -> None:
    """Run three programs, and print what is stored and what was counted."""
    with tempfile.TemporaryDirectory() as folder:
        experiment_id = open_store(Path(folder))
        callback = MlflowCallback(config=CONFIG)
        dspy.configure(callbacks=[callback])

        HealthCheck()()
        register = Register()
        register(name="Ada", ssn="078-05-1120", note="by train")
        with contextlib.suppress(ValueError):
            register(name="Bob", ssn="219-09-9999", note="passport AB123456, " + "and luggage, " * 12)

        for trace in stored_traces(experiment_id):
            (span,) = trace.data.spans
            print(span.name, span.status.status_code.value)
            for name, value in span.inputs.items():
                print(f"  {name}: {value}")
        counts = {name: count for name, count in attrs.asdict(callback.stats()).items() if count}
        print(counts)


if __name__ == "__main__":
    main()
