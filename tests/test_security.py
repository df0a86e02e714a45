"""Nothing that is loaded runs code, and SECURITY.md says what is so."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest
from docs_blocks import ROOT, Page

import dspy_mlflow_callbacks
from dspy_mlflow_callbacks import TracingConfig
from dspy_mlflow_callbacks.config import OPTIONS

PACKAGE = Path(dspy_mlflow_callbacks.__file__).parent

# What makes code of data.
RUNS_CODE = {
    *("eval", "exec", "compile", "__import__", "execfile"),
    *(f"{module}.{name}" for module in ("pickle", "cloudpickle", "dill", "marshal") for name in ("load", "loads")),
    *("pickle.Unpickler", "shelve.open", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "os.system", "os.popen"),
    *("joblib.load", "torch.load", "runpy.run_path", "jsonpickle.decode"),
}
MAY = {
    (
        "programs/saving.py",
        "cloudpickle.loads",
    ): "a program that is saved whole is a pickle of DSPy's or "
    "MLflow's, loaded only where the user says allow_pickle or loads a model",
    (
        "distributed/carrying.py",
        "cloudpickle.loads",
    ): "a task's function, which the engine hands to its own workers as a pickle in any case",
    ("executor/remote.py", "pickle.loads"): "what this process pickled in the same line, to see whether it can be read",
}


def used(path):
    """Return what of these a file uses: a builtin where it is called, a module's function wherever it stands."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    called = [node.func for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    return {ast.unparse(node) for node in [*called, *attributes]} & RUNS_CODE


USES = {(str(path.relative_to(PACKAGE)), name) for path in PACKAGE.rglob("*.py") for name in used(path)}


def test_nothing_that_is_loaded_runs_code():
    """No file of the package makes code of data, but where it is named here with the reason."""
    assert set(MAY) == USES


def test_no_shell():
    """No command goes through a shell."""
    keywords = [
        (str(path), node.arg)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "shell"
    ]
    assert keywords == []


PAGE = Page("SECURITY.md")
ROWS = PAGE.rows("| what reaches the store |")


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_each_row_says_how_to_turn_it_off(row):
    """Whatever reaches the store by default can be turned off by options that exist, with values that they take."""
    said = re.findall(r"`(\w+)=([^`]+)`", row[2])
    assert said
    for name, value in said:
        assert name in OPTIONS
        TracingConfig(**{name: ast.literal_eval(value)})


def test_what_is_kept_back_by_default():
    """Redaction is on by default, as the page says."""
    assert TracingConfig().redact
    assert "`redact`" in PAGE.text


@pytest.fixture
def audit():
    """Return what `make security` asks pip-audit with."""
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FOUND = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.0"]}
SKIPPED = {"name": "ours", "skip_reason": "it is not there"}
AUDITS = {
    "nothing audited": ([SKIPPED], (), 0, "nothing was audited"),
    "no vulnerability": ([SKIPPED, {"name": "a", "version": "1", "vulns": []}], (), 0, "1 packages audited, 1 not"),
    "one": ([{"name": "a", "version": "1", "vulns": [FOUND]}], (), 1, "a 1: PYSEC-1; mended in 2.0."),
    "one that is accepted": ([{"name": "a", "version": "1", "vulns": [FOUND]}], ("CVE-1",), 0, "0 vulnerabilities"),
}


@pytest.mark.parametrize("case", AUDITS.values(), ids=AUDITS)
def test_what_an_audit_comes_to(audit, capsys, monkeypatch, case):
    """A vulnerability fails unless it is accepted; where nothing could be audited it says so and passes."""
    packages, accepted, status, said = case
    monkeypatch.setattr(audit, "ACCEPTED", dict.fromkeys(accepted, "a reason"))
    assert audit.verdict(packages) == status
    assert said in capsys.readouterr().out


def test_every_accepted_vulnerability_has_its_reason(audit):
    """What is accepted is accepted for a reason that somebody wrote."""
    assert [name for name, reason in audit.ACCEPTED.items() if len(reason) < 20] == []
