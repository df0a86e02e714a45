"""Where the dashboard's files are, and how many calls its service makes for the tests."""

from __future__ import annotations

from docs_blocks import ROOT

FILES = ROOT / "examples" / "dashboard"
CALLS = 40
