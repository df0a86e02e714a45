"""What MkDocs does beside its own: pages that stand at the root of the repository are part of the site too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

# The page in docs/ is a link for who reads the repository; the site shows what it points to.
SHOWN = {"security.md": "SECURITY.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
# Their tables need the room that the table of contents would take.
WIDE = {"configuration.md", "performance.md"}
_LINK = re.compile(r"\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return a page's text: for those in `SHOWN`, that of the file at the root, with links as they are in docs/."""
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["toc"]
    name = SHOWN.get(page.file.src_uri)
    return markdown if name is None else _LINK.sub(_in_docs, (ROOT / name).read_text(encoding="utf-8"))


def _in_docs(link: re.Match[str]) -> str:
    target, anchor = link["target"], link["anchor"] or ""
    pages = {shown: page for page, shown in SHOWN.items()} | {"examples/README.md": "examples.md"}
    return f"]({pages.get(target, target.removeprefix('docs/'))}{anchor})"
