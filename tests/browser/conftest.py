"""A server, a browser and its pages; the tests here run only where this folder is named: `make test-browser`.

pytest loads this file in every run of the suite, so it imports Playwright only when a test asks for it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from named_folders import is_named

HERE = Path(__file__).parent
MILLISECONDS_TO_SHOW = 30_000


def pytest_ignore_collect(collection_path, config):
    """Leave this folder out where it is not named: its tests need Chromium and start a server."""
    return None if is_named(HERE, config) else True


@pytest.fixture(scope="session")
def server(store_folder):
    """Serve the store that `dspy_traces` writes."""
    from mlflow_ui import mlflow_server

    with mlflow_server(store_folder) as url:
        yield url


@pytest.fixture(scope="session")
def browser():
    """Start Chromium with a fresh profile, which the tests share: MLflow keeps its settings by experiment."""
    from mlflow_ui import FLAGS
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=MILLISECONDS_TO_SHOW)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        context.set_default_timeout(MILLISECONDS_TO_SHOW)
        yield context
        browser.close()


@pytest.fixture
def ui(server, browser, dspy_traces):
    """Show the test's traces."""
    from mlflow_ui import MlflowUI

    page = browser.new_page()
    yield MlflowUI(page, server, dspy_traces.experiment_id)
    page.close()
