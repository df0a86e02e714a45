"""A trace that still waits in a spool can be replayed, while its store is away."""

from __future__ import annotations

import json
from pathlib import Path

import dspy
import pytest
from ended import EndedTrace, spans_of_a_trace
from replays import counting, needs_engines, replay
from spooled_traces import spool_at, waiting_ids
from stored import tracking_to

import dspy_mlflow_callbacks.spooled as spooled_traces
from dspy_mlflow_callbacks import MlflowCallback, TracingConfig
from dspy_mlflow_callbacks.export.batch import Entry
from dspy_mlflow_callbacks.export.exporter import EXPORTER
from dspy_mlflow_callbacks.export.spool.contents import row_of
from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings
from dspy_mlflow_callbacks.replaying import ReplayError

pytestmark = [pytest.mark.engine("auto"), pytest.mark.warns, needs_engines]

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Looks(dspy.Module):
    """Says what a picture shows, twice."""

    def __init__(self):
        super().__init__()
        self.look = dspy.Predict("picture: dspy.Image, question -> answer")

    def forward(self, picture, question):
        first = self.look(picture=picture, question=question).answer
        return self.look(picture=picture, question=f"{question} {first}")


@pytest.fixture
def spooled(tmp_path, monkeypatch):
    """Return the id of a trace that waits in a spool, and the spool's folder; its store cannot be reached."""
    folder = tmp_path / "spool"
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    with tracking_to("http://127.0.0.1:9"):
        callback = MlflowCallback(engine="recorded", spool_dir=folder)
        with dspy.context(lm=counting(), callbacks=[callback]):
            outputs = Looks()(picture=dspy.Image(PIXEL), question="what?")
        EXPORTER.close(5.0)
        EXPORTER._begin()  # this process goes on
        (trace_id,) = waiting_ids(folder)
        yield trace_id, folder, outputs


@pytest.fixture
def there(spooled, dspy_traces):
    return spooled


def test_a_spooled_trace_is_replayed(there):
    """Given the spool's folder, the program runs again on what the trace recorded, its picture among it."""
    trace_id, folder, outputs = there
    again = replay(trace_id, Looks(), spool_dir=folder)
    assert again.is_equal, again.to_markdown()
    assert again.outputs.toDict() == outputs.toDict()


@pytest.mark.parametrize("where", ["variable", "callback"])
def test_the_spool_is_the_configured_one(there, monkeypatch, where):
    """Without a folder it is that of the program's callback, or of the variable."""
    trace_id, folder, _ = there
    program = Looks()
    if where == "variable":
        monkeypatch.setenv("DSPY_MLFLOW_SPOOL_DIR", str(folder))
        callbacks = []
    else:
        callbacks = [MlflowCallback(config=TracingConfig(spool_dir=folder))]
    with dspy.context(callbacks=callbacks):
        assert replay(trace_id, program).is_equal


def test_what_is_in_no_spool_is_looked_for_in_the_store(there, tmp_path):
    """An id that the spool does not have is the store's, and where that has none either it is said."""
    with pytest.raises(ReplayError, match="does not have it"):
        replay("tr-" + "0" * 32, Looks(), spool_dir=there[1])
    with pytest.raises(ReplayError, match="does not have it"):
        replay(there[0], Looks(), spool_dir="")


def test_a_spool_that_cannot_be_read_has_nothing(there, tmp_path):
    """A damaged spool does not stop a replay of what the store has."""
    (tmp_path / "spool.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ReplayError, match="does not have it"):
        replay(there[0], Looks(), spool_dir=tmp_path)


def test_a_spooled_trace_is_read_whole(spooled):
    """A trace that waits is read as MLflow has it, with its binary content; an id that does not wait is none."""
    trace_id, folder, _ = spooled
    found = spooled_traces.find(trace_id, SpoolSettings(folder=str(folder)))
    assert (found.trace.info.trace_id, found.trace.info.state.value) == (trace_id, "OK")
    assert {each.content_type for each in found.attachments.values()} == {"image/png"}
    assert spooled_traces.find("tr-none", SpoolSettings(folder=str(folder))) is None


def test_the_command_replays_from_a_spool(there, tmp_path, monkeypatch, capsys):
    """`dspy-mlflow replay ID --spool-dir DIR` does it from the shell."""
    from dspy_mlflow_callbacks.cli import main

    (tmp_path / "looks_app.py").write_text("from test_replay_spool import Looks\nprogram = Looks()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    trace_id, folder, _ = there
    with pytest.raises(SystemExit) as exited:
        main(["replay", trace_id, "--program", "looks_app:program", "--spool-dir", str(folder), "--json"])
    said = capsys.readouterr()
    assert exited.value.code == 0, said.err
    assert json.loads(said.out)["of"] == trace_id


def test_a_trace_of_spans_alone_is_read_by_its_root(tmp_path):
    """A trace with nothing beside its spans has its tags and metadata from its root; a part of it is no trace."""
    parts = [EndedTrace(spans=spans_of_a_trace(3, **{"mlflow.traceTag.team": "blue", "mlflow.modelId": "m-1"}))]
    parts.append(EndedTrace(spans=parts[0].spans[1:]))
    for number, trace in enumerate(parts):
        spool = spool_at(tmp_path / str(number))
        spool.add(row_of(Entry(0, trace, 1, trace.prepared()), 1e12), is_mine=False)
        spool.database.close()
    whole, part = (
        spooled_traces.find(parts[0].id, SpoolSettings(folder=str(tmp_path / str(number)))) for number in range(2)
    )
    assert part is None
    info = whole.trace.info
    assert (info.tags["team"], info.trace_metadata["mlflow.modelId"], info.state.value) == ("blue", "m-1", "OK")
