"""Fuzzes the reader of OTLP with atheris: `make fuzz`.

Any bytes are read, or refused with the one error that is documented.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dspy_mlflow_callbacks.export", "opentelemetry"]):
    from google.protobuf.message import DecodeError

    from dspy_mlflow_callbacks.export.otlp_reader import spans_of

sys.path.insert(0, str(Path(__file__).parents[1]))


def read(data: bytes) -> None:
    """Read *data* as the spool and the exporter's process do."""
    with suppress(DecodeError):
        spans_of(data)


def seeds(folder: Path) -> None:
    """Write what the reader is meant for, for the fuzzer to change."""
    from ended import spans_of_a_trace

    from dspy_mlflow_callbacks.export.otlp import request_of_texts, request_of_values

    for count in (1, 3):
        spans = spans_of_a_trace(count)
        (folder / f"texts-{count}").write_bytes(request_of_texts(spans))
        (folder / f"values-{count}").write_bytes(request_of_values(spans))


def main() -> None:
    """Fuzz until the time is over or something is found; arguments are libFuzzer's."""
    with tempfile.TemporaryDirectory() as folder:
        seeds(Path(folder))
        atheris.Setup([*sys.argv, folder], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
