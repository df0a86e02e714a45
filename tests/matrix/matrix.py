"""Runs `smoke.py` on each Python with the lowest and newest dspy and mlflow, from the built wheel: `make test-matrix`.

A machine needs the interpreters that it is to try: `python3.10` to `python3.13` on the path, or under `~/.pyenv/versions`. What is not
there is skipped, and the table says so. A run of everything writes docs/compatibility.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import attrs

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ENVIRONMENTS = ROOT / ".venv-matrix"
PAGE = ROOT / "docs" / "compatibility.md"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
VERSIONS = ("oldest", "newest")
LIMIT_S = 1200

INSTALLED = """
import platform
from importlib.metadata import version
from dspy_mlflow_callbacks.mlflow_internals import missing_in_mlflow
engines = "native" if missing_in_mlflow() else "native,recorded"
print(platform.python_version(), version("dspy"), version("mlflow"), engines)
"""

TEXT = """\
<!-- Written by tests/matrix/matrix.py: `make test-matrix`. -->

# Compatibility

From the built wheel, in an environment of its own for each cell: traces of modules, LMs, adapters, threads, tools, interpreters, evaluations, optimizers and saved programs, on the engines that the row names, and the command. The lowest versions are those that
pyproject.toml allows, the newest what the index had on the day of the run; the one beside the other is tried on the lowest Python.

{table}

{notes}The whole suite runs on one Python with the newest versions (`make test`) and with the oldest (`make test-oldest`). Where MLflow has not what the recorded engine needs, `engine="auto"` takes the native one.

## mlflow-skinny

`mlflow-skinny` alone does not serve. This package depends on `mlflow`, so pip installs all of it; and what is needed of it is not in the small one: {skinny}
With numpy, pandas, SQLAlchemy and Alembic beside it, `mlflow` itself is still asked for its version.

## Repeat it

```console
$ make test-matrix
$ make test-matrix MATRIX="--python 3.12 --dspy oldest"
```

It needs `python3.10` to `python3.13` on the path, or under `~/.pyenv/versions`; what is not there is skipped, and said.
"""


@attrs.frozen
class Cell:
    """One environment.

    Attributes:
        python: Such as `3.12`.
        dspy: `oldest` or `newest`.
        mlflow: `oldest` or `newest`.
    """

    python: str
    dspy: str
    mlflow: str

    @property
    def folder(self) -> Path:
        """Where the environment is."""
        return ENVIRONMENTS / f"{self.python}-{self.dspy}-{self.mlflow}"

    @property
    def executable(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"


def cells(python: str, options: argparse.Namespace) -> list[Cell]:
    """Return the cells of a Python that are asked for; the lowest and newest beside each other on the first one only."""
    asked = [Cell(python, dspy, mlflow) for dspy in options.dspy for mlflow in options.mlflow]
    return [cell for cell in asked if cell.dspy == cell.mlflow or python == PYTHONS[0] or options.mixed]


def interpreter(python: str) -> str | None:
    """Return the interpreter of a version on this machine; None if there is none."""
    pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{python}.*/bin/python"))
    for candidate in filter(None, (shutil.which(f"python{python}"), *map(str, pyenv))):
        done = _run([candidate, "-c", "import sys, ssl, sqlite3; print('%d.%d' % sys.version_info[:2])"])
        if done.stdout.strip() == python:
            return candidate
    return None


def _run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]  # what it takes is handed on as it came
        command, capture_output=True, text=True, check=False, timeout=LIMIT_S, **options
    )


def uv(*arguments: str) -> None:
    """Run uv, and stop with what it says if it fails."""
    done = _run([sys.executable, "-m", "uv", *arguments])
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])


def wheel() -> Path:
    """Build the wheel and return its path."""
    folder = ENVIRONMENTS / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(ROOT)]
    done = _run(command)
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    (path,) = folder.glob("*.whl")
    return path


def requirements(cell: Cell) -> list[str]:
    """Return dspy and mlflow as a cell has them."""
    lowest = dict(re.findall(r"(?m)^(\w+)==(\S+)$", (ROOT / "tests" / "oldest.txt").read_text(encoding="utf-8")))
    asked = {"dspy": cell.dspy, "mlflow": cell.mlflow}
    return [f"{name}=={lowest[name]}" if version == "oldest" else name for name, version in asked.items()]


def result(cell: Cell, base: str, built: Path) -> str:
    """Make a cell's environment, run the smoke tests in it, and return what its row says."""
    shutil.rmtree(cell.folder, ignore_errors=True)
    try:
        uv("venv", "--quiet", "--python", base, str(cell.folder))
        packages = [str(built), "pytest", *requirements(cell)]
        uv("pip", "install", "--quiet", "--python", str(cell.executable), *packages)
    except RuntimeError as error:
        return f"cannot be installed: {_first(str(error))}"
    # Away from the source tree: what is tested is what is installed.
    shutil.copy(HERE / "smoke.py", cell.folder / "smoke.py")
    (cell.folder / "pytest.ini").write_text("[pytest]\n")  # else pytest would find the project's
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("PYTHONPATH", None)
    command = [str(cell.executable), "-m", "pytest", "-q", "-p", "no:cacheprovider", "smoke.py"]
    done = _run(command, cwd=cell.folder, env={**environment, "HOME": str(cell.folder)})
    (cell.folder / "smoke.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    summary = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "no output"
    counts = ", ".join(re.findall(r"\d+ (?:passed|failed|errors?|skipped)", summary))
    return counts if done.returncode == 0 else f"**{counts or _first(done.stderr)}**"


def _first(text: str) -> str:
    lines = [line.strip(" \u00d7\u2570\u2500\u25b6") for line in text.splitlines() if line.strip()]
    return lines[0][:120].replace("|", " ") if lines else "no output"


def installed(cell: Cell) -> dict[str, str]:
    """Return the versions that an environment has."""
    words = _run([str(cell.executable), "-c", INSTALLED]).stdout.split()
    return dict(zip(("python", "dspy", "mlflow", "engines"), (word.replace(",", ", ") for word in words), strict=False))


def skinny(base: str, built: Path) -> str:
    """Return what is missing where mlflow-skinny stands in for mlflow."""
    folder = ENVIRONMENTS / "skinny"
    shutil.rmtree(folder, ignore_errors=True)
    uv("venv", "--quiet", "--python", base, str(folder))
    python = str(folder / "bin" / "python")
    uv("pip", "install", "--quiet", "--python", python, "dspy", "mlflow-skinny", "rich")
    uv("pip", "install", "--quiet", "--python", python, "--no-deps", str(built))
    done = _run([python, "-c", "from dspy_mlflow_callbacks import MlflowCallback; MlflowCallback()"], cwd=folder)
    said = done.stderr.strip().splitlines()
    return "nothing was found missing." if done.returncode == 0 else f"`{said[-1]}`."


def page(rows: Iterable[tuple[str, ...]], skipped: Iterable[str], said_of_skinny: str) -> str:
    """Return the text of docs/compatibility.md."""
    head = ("Python", "dspy", "mlflow", "engines", "tests")
    lines = [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
    missing = ", ".join(skipped)
    notes = f"Not tried, for want of an interpreter: {missing}.\n\n" if missing else ""
    return TEXT.format(table="\n".join(lines), notes=notes, skinny=said_of_skinny)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", nargs="+", choices=PYTHONS, default=PYTHONS)
    parser.add_argument("--dspy", nargs="+", choices=VERSIONS, default=VERSIONS)
    parser.add_argument("--mlflow", nargs="+", choices=VERSIONS, default=VERSIONS)
    parser.add_argument("--mixed", action="store_true", help="the lowest beside the newest on every Python")
    return parser.parse_args()


def main() -> int:
    """Run the cells that are asked for; 1 if one failed."""
    options = parse()
    ENVIRONMENTS.mkdir(exist_ok=True)
    built, rows, skipped, bases = wheel(), [], [], {}
    for python in options.python:
        base = interpreter(python)
        if base is None:
            skipped.append(f"Python {python}")
            print(f"Python {python}: skipped, there is no interpreter", flush=True)
            continue
        bases[python] = base
        for cell in cells(python, options):
            said, found = result(cell, base, built), installed(cell)
            rows.append(
                (found.get("python", python), *(found.get(name, "") for name in ("dspy", "mlflow", "engines")), said)
            )
            print(*rows[-1], sep="  ", flush=True)
    if (tuple(options.python), tuple(options.dspy), tuple(options.mlflow)) == (PYTHONS, VERSIONS, VERSIONS) and bases:
        PAGE.write_text(page(rows, skipped, skinny(bases[max(bases)], built)), encoding="utf-8")
    return 0 if all(re.fullmatch(r"\d+ passed(, \d+ skipped)?", row[-1]) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
