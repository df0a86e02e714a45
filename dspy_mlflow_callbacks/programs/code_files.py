"""Files of code that go along with a model as they are: a key that stands in one cannot be left out, but said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from dspy_mlflow_callbacks.secrets.shapes import SHAPES
from dspy_mlflow_callbacks.stats import logger

_MOST_BYTES = 1_000_000
_MOST_NAMED = 10


def warn_of_credentials(paths: Iterable[str | Path]) -> None:
    """Say once for a model in which lines of the files that it takes along something looks like a credential.

    Args:
        paths: Files and folders, as `code_paths` has them.
    """
    found = [place for path in paths for place in _credentials_in(Path(path))]
    if found:
        more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        logger.warning(
            "Credentials are saved with the model, for code_paths are saved as they are: %s%s. Whoever can read the "
            "model can read them. Take them from environment variables, and save again.",
            ", ".join(found[:_MOST_NAMED]),
            more,
        )


def _credentials_in(path: Path) -> Iterator[str]:
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    for file in files:
        for number, line in enumerate(_lines_of(file), start=1):
            if any(shape.redact(line) != line for shape in SHAPES):
                yield f"{file.name}, line {number}"


def _lines_of(file: Path) -> list[str]:
    try:
        if file.stat().st_size > _MOST_BYTES:
            return []
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):  # MLflow will say so, or it is no text
        return []
