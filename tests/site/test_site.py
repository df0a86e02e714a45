"""The built site: every page is there, and stands by itself."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from urllib.parse import urldefrag, urlsplit

import pytest
from docs_blocks import ROOT

SITE = ROOT / "site"
PAGES = sorted(SITE.rglob("*.html"))

# What a browser fetches by itself; what somebody has to click on is none of it.
FETCHED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "object": "data",
    "embed": "src",
    "form": "action",
}
LINKS_THAT_FETCH = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload"}


class Reader(HTMLParser):
    """Reads what a page fetches, links to, and can be linked to at."""

    def __init__(self, page):
        super().__init__()
        self.fetched, self.links, self.anchors = [], [], set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        said = dict(attrs)
        self.anchors.add(said.get("id"))
        if tag == "a":
            self.links.append(said.get("href"))
        elif tag == "link" and LINKS_THAT_FETCH & set((said.get("rel") or "").split()):
            self.fetched.append(said["href"])
        elif FETCHED.get(tag) in said:
            self.fetched.append(said[FETCHED[tag]])


READ = {page: Reader(page) for page in PAGES}


def is_away(address):
    """Return whether an address leads out of the site."""
    return bool(urlsplit(address).netloc)


def test_every_page_is_built():
    """Each page of docs/ is a page of the site."""
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= {page.stem for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_asks_the_network_for_nothing(page):
    """Scripts, styles, fonts and pictures of a page come from the site itself."""
    assert [address for address in READ[page].fetched if is_away(address)] == []


def test_styles_ask_the_network_for_nothing():
    """No style sheet loads anything from elsewhere."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in SITE.rglob("*.css")}
    found = {
        name: re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^\"')]+", text) for name, text in texts.items()
    }
    assert {name: addresses for name, addresses in found.items() if addresses} == {}


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "404"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    """Each link inside the site leads to a page that is there, and to an anchor on it."""
    broken = []
    for link in filter(None, READ[page].links):
        path, anchor = urldefrag(link)
        target = (page.parent / path).resolve() if path else page
        target = target / "index.html" if target.is_dir() else target
        if not (is_away(link) or (target.exists() and (not anchor or anchor in READ[target].anchors))):
            broken.append(link)
    assert broken == []


def test_pages_can_be_searched_for():
    """The index of the search has every page."""
    index = json.loads((SITE / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {urldefrag(entry["location"])[0] for entry in index["docs"]}
    assert {page.name for page in PAGES} - {"404.html"} <= found
