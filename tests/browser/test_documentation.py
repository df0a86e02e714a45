"""The documentation's site, seen in a real browser."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
DESK, PHONE = {"width": 1300, "height": 900}, {"width": 390, "height": 800}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Logs no requests."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Build the site, and serve it on a free port."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(browser):
    """Return a page that remembers what it asked for, and what went wrong on it."""
    page = browser.new_page()
    page.add_init_script("localStorage.clear()")  # the scheme of the page before is remembered there
    page.asked, page.wrong = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    yield page
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_stand_by_themselves(site, page, scheme):
    """No page asks another host for anything or has an error, and none is wider than a desk's or a phone's screen."""
    page.emulate_media(color_scheme=scheme)
    too_wide = []
    for name in PAGES:
        for size in (DESK, PHONE):
            page.set_viewport_size(size)
            page.goto(f"{site}/{name}.html", wait_until="networkidle")
            width = page.evaluate("document.documentElement.scrollWidth")
            too_wide.extend([(name, width)] if width > size["width"] else [])
    assert too_wide == []
    assert [address for address in page.asked if not address.startswith((site, "data:"))] == []
    assert page.wrong == []


def test_the_scheme_is_that_of_the_system(site, page):
    """Who has a dark desk sees dark pages."""
    seen = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto(f"{site}/index.html")
        seen.append(page.locator("body").get_attribute("data-md-color-scheme"))
    assert seen == ["default", "slate"]


def test_the_search_finds_an_option(site, page):
    """The search knows the pages: an option's name leads to the reference."""
    page.set_viewport_size(DESK)
    page.goto(f"{site}/index.html")
    page.locator(".md-search__input").click()
    page.locator(".md-search__input").fill("max_queue_bytes")
    found = page.locator(".md-search-result__link")
    found.first.wait_for()
    assert any("configuration.html" in link.get_attribute("href") for link in found.all())
