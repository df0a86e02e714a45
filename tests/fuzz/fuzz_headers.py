"""Fuzzes the reader of headers with atheris: `make fuzz`.

Whatever a stranger sends is read as far as it makes sense, without an error, and without a word in the log.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dspy_mlflow_callbacks", "opentelemetry"]):
    from opentelemetry.baggage.propagation import W3CBaggagePropagator
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    from dspy_mlflow_callbacks.config import TracingConfig, stricter
    from dspy_mlflow_callbacks.distributed.baggage import belongings_in
    from dspy_mlflow_callbacks.distributed.texts import well_formed

TRACE_CONTEXT, BAGGAGE = TraceContextTextMapPropagator(), W3CBaggagePropagator()
CONFIG = TracingConfig()

SEEDS = (
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\ntracestate: rojo=00f067aa0ba902b7,a@b=c",
    b"Baggage: mlflow.experiment.id=7,mlflow.run.id=0af7,session.id=s%20,user.id=u;p=1,dspy_mlflow.tag.team=a+b",
    b"baggage: dspy_mlflow.config=%7B%22capture_inputs%22%3Afalse%2C%22max_payload_bytes%22%3A10%7D\nBAGGAGE: other=1",
)


class Said(logging.Handler):
    """Fails for whatever is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage())


def read(data: bytes) -> None:
    """Read lines of *data* as the headers of a request, as `continue_trace` does."""
    pairs = [line.partition(b":")[::2] for line in data.split(b"\n")]
    carrier = well_formed([(name, value.strip(b" ")) for name, value in pairs])
    context = BAGGAGE.extract(carrier, TRACE_CONTEXT.extract(carrier, Context()))
    stricter(CONFIG, dict(belongings_in(context).config))


def main() -> None:
    """Fuzz until the time is over or something is found; arguments are libFuzzer's."""
    logging.getLogger().addHandler(Said())
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        atheris.Setup([*sys.argv, folder], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
