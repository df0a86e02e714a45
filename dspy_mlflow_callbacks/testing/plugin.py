"""The pytest plugin: the fixture `dspy_traces`.

pytest loads this file in every project of an environment that has this package, so it imports dspy and mlflow only
when a test asks for the fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from dspy_mlflow_callbacks.testing.captured import CapturedTraces


@pytest.fixture(scope="session")
def _dspy_traces_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store's folder: setting up the database takes seconds, so the tests of a process share it."""
    return tmp_path_factory.mktemp("dspy_traces")


@pytest.fixture
def dspy_traces(_dspy_traces_folder: Path) -> Iterator[CapturedTraces]:
    """Capture the traces of DSPy programs that the test runs, isolated from other tests and your configuration."""
    from dspy_mlflow_callbacks.testing.capture import capture_traces  # noqa: PLC0415  (see above)

    with capture_traces(_dspy_traces_folder) as traces:
        yield traces
