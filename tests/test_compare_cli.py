"""The command `dspy-mlflow compare`: what it prints, and how it exits."""

from __future__ import annotations

import json

import mlflow
import pytest
from compared import Answers, score, traced

from dspy_mlflow_callbacks.cli import main


@pytest.fixture
def ids(dspy_traces):
    """Return the ids of two traces; the second has a step more."""
    (first,) = traced(dspy_traces, Answers("one"), tags={"version": "1"})
    (second,) = traced(dspy_traces, Answers("one", "two"), tags={"version": "2"})
    score(second, 0.5)
    return first.info.trace_id, second.info.trace_id


@pytest.fixture
def compare(dspy_traces, capsys):
    """Return a function that runs the command; it returns exit status, standard output and standard error."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(["compare", *map(str, arguments)])
        return exited.value.code, *capsys.readouterr()

    return run


def test_two_traces(compare, ids):
    """Two ids are compared span by span, to a terminal by default; without checks it exits with 0."""
    status, out, _ = compare(*ids)
    assert status == 0
    assert "4 added" in out


def test_two_versions(compare, ids, dspy_traces):
    """With `--by` sets of traces are compared."""
    options = ["--by", "tag:version", "--experiment", dspy_traces.experiment_id, "--resamples", 0, "--format", "json"]
    status, out, _ = compare("1", "2", *options)
    assert status == 0
    assert json.loads(out)["structure_changed"] == 1
    status, out, _ = compare("1", "2", "--by=tag:version", f"--experiment={dspy_traces.experiment_id}", "--seed=1")
    assert "2,000" in out


@pytest.mark.parametrize("form", ["terminal", "markdown", "html", "json"])
def test_a_file(compare, ids, tmp_path, form):
    """Each form can be written to a file; then nothing is printed."""
    file = tmp_path / "report"
    assert compare(*ids, "--format", form, "--output", file)[:2] == (0, "")
    assert "Answers.two" in file.read_text()


def test_json_is_a_form(compare, ids):
    """`--json` is a form too, and goes with no other."""
    assert json.loads(compare(*ids, "--json")[1])["a"]["trace_id"] == ids[0]
    status, out, err = compare(*ids, "--json", "--format", "html")
    assert (status, out) == (2, "")
    assert "--json and --format html are two forms; give one" in err


def test_another_store(compare, ids):
    """The store can be named."""
    assert compare(*ids, "--tracking-uri", mlflow.get_tracking_uri())[0] == 0


def test_a_check_that_fails(compare, ids):
    """A check that fails exits with 1, says which on standard error, and the report is there all the same."""
    status, out, err = compare(*ids, "--max-latency-increase", "1e9", "--format=markdown")
    assert (status, err) == (1, "allow_structure_change: the structure changed (4 times)\n")
    assert "Answers.two" in out
    assert compare(*ids, "--no-allow-structure-change")[0] == 1


@pytest.mark.parametrize("limit", ["0.5", "quality=0.5"])
def test_checks_that_pass(compare, ids, limit):
    """Checks that pass exit with 0."""
    assert compare(*ids, "--min-score", limit, "--allow-structure-change")[0] == 0


COULD_NOT = [
    (["--min-score", "1", "--min-score", "2"], "--min-score is one NUMBER, or NAME=NUMBER once for each name"),
    (["--min-score", "other=1"], "the candidate has no score of other, it has quality"),
    (["--max-cost-increase", "-1"], "max_cost_increase must be a share such as 0.1 for 10%, from 0 on, got -1.0"),
    (["--by", "colour"], "by must be one of"),
    (["--output", "/nowhere/file"], "No such file"),
]


@pytest.mark.parametrize(("options", "reason"), COULD_NOT, ids=lambda value: str(value)[:40])
def test_what_could_not_be_compared(compare, ids, options, reason):
    """What could not be compared or checked exits with 2, and standard error has the reason."""
    status, _, err = compare(*ids, "--format=json", *options)
    assert status == 2
    assert err.startswith("dspy-mlflow compare: ")
    assert reason in err


def test_an_unknown_trace(compare):
    """A trace that is not there exits with 2."""
    assert compare("tr-none", "tr-none")[0] == 2
