"""The built site; the tests here run only where this folder is named: `make site`."""

from __future__ import annotations

from pathlib import Path

from named_folders import is_named

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path, config):
    """Leave this folder out where it is not named: its tests need the site that `make site` has built."""
    return None if is_named(HERE, config) else True
