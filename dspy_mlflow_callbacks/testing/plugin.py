"""The pytest plugin: the fixtures `dspy_traces` and `dspy_replay`, the marker `dspy_trace`, two options.

pytest loads this file in every project of an environment that has this package, so it imports dspy and mlflow only
when a test asks for them.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dspy_mlflow_callbacks.testing import RECORD_MODES

if TYPE_CHECKING:
    from dspy_mlflow_callbacks.testing.answering import RecordedAnswers
    from dspy_mlflow_callbacks.testing.captured import CapturedTraces

_TRACES: pytest.StashKey[CapturedTraces] = pytest.StashKey()
_HAS_FAILED: pytest.StashKey[bool] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("dspy")
    group.addoption(
        "--dspy-record-mode",
        choices=RECORD_MODES,
        default="none",
        help="what dspy_replay records: none; once, where there is no file yet; new, what a file does not have; all",
    )
    group.addoption(
        "--dspy-trace-dir",
        metavar="DIR",
        type=Path,
        help="keep the traces of failing tests in this folder, one JSON file each",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "dspy_trace(max_lm_calls=None, max_tokens=None, max_cost_usd=None, max_retries=None): "
        "the most that the DSPy programs of the test may spend",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Capture the traces of tests with the marker, and of all tests whose traces are kept."""
    for item in items:
        fixtures = getattr(item, "fixturenames", None)  # a doctest has none
        is_captured = item.get_closest_marker("dspy_trace") or config.getoption("--dspy-trace-dir")
        if fixtures is not None and is_captured and "dspy_traces" not in fixtures:
            fixtures.insert(0, "dspy_traces")


@pytest.fixture
def dspy_traces(request: pytest.FixtureRequest) -> Iterator[CapturedTraces]:
    """Capture in memory the traces of DSPy programs that the test runs, isolated from other tests and your settings."""
    from dspy_mlflow_callbacks.testing.capture import capture_traces  # noqa: PLC0415  (see above)

    with capture_traces() as traces:
        request.node.stash[_TRACES] = traces
        yield traces


@pytest.fixture
def dspy_replay(request: pytest.FixtureRequest, dspy_traces: CapturedTraces) -> Iterator[RecordedAnswers]:
    """Answer the test's LM calls from `dspy_replays/<module>/<test>.yaml` beside it; see `--dspy-record-mode`."""
    from dspy_mlflow_callbacks.testing.answering import replay_lms  # noqa: PLC0415  (see above)

    node = request.node
    path = node.path.parent / "dspy_replays" / node.path.stem / f"{_file_name(_name_within(node))}.yaml"
    with replay_lms(dspy_traces, path, request.config.getoption("--dspy-record-mode")) as answers:
        yield answers
        answers.is_failed = node.stash.get(_HAS_FAILED, False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a test whose programs spend more than its marker allows."""
    __tracebackhide__ = True
    result = yield
    marker = item.get_closest_marker("dspy_trace")
    if marker is not None:
        from dspy_mlflow_callbacks.testing.limits import SpendingLimits  # noqa: PLC0415  (see above)

        SpendingLimits(*marker.args, **marker.kwargs).check(item.stash[_TRACES])
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the traces of a test that failed, and keep them where `--dspy-trace-dir` says."""
    report = yield
    traces = item.stash.get(_TRACES, None)
    if report.failed and report.when == "call" and traces is not None:
        item.stash[_HAS_FAILED] = True
        report.sections.append(("DSPy traces", str(traces)))
        folder = item.config.getoption("--dspy-trace-dir")
        if folder is not None:
            _keep(traces, folder / _file_name(item.nodeid))
    return report


def _keep(traces: CapturedTraces, folder: Path) -> None:
    for number, trace in enumerate(traces.all(), 1):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.json").write_text(trace.to_json(), encoding="utf-8")


def _name_within(node: Any) -> str:
    """Return a test's name behind those of its classes."""
    return "::".join(node.nodeid.split("::")[1:])


def _file_name(text: str) -> str:
    """Return what a file or folder of that name may be called on every system."""
    return re.sub(r"[^\w.=,+-]+", "_", text.replace("::", "."))[:200].strip("._") or "_"
