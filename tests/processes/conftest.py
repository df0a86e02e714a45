"""Fresh interpreters and servers; the tests here run only where this folder is named: `make test-processes`."""

from __future__ import annotations

from pathlib import Path

from named_folders import is_named


def pytest_ignore_collect(collection_path, config):
    """Leave this folder out where it is not named: each of its tests takes seconds."""
    return None if is_named(Path(__file__).parent, config) else True
