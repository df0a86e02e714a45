"""The code blocks of the documentation, for the tests that run them."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class Page:
    """A page of the documentation.

    Args:
        path: Where it stands in the project, such as `docs/production.md`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.text = (ROOT / path).read_text(encoding="utf-8")

    def blocks(self, language: str = "python") -> list[str]:
        """Return the code blocks in a language, in their order."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)

    def block(self, holds: str, language: str = "python") -> str:
        """Return the only block that holds a text."""
        (block,) = [block for block in self.blocks(language) if holds in block]
        return block

    def run(self, holds: str, replace: tuple[str, str] = ("", ""), **names: Any) -> dict[str, Any]:
        """Run the Python block that holds a text, and return its names.

        Args:
            holds: A text that no other block holds.
            replace: A text, and what the test puts in its place, such as the address of a server.
            names: What the page takes for granted.
        """
        before, after = replace
        assert before in self.block(holds)
        exec(compile(self.block(holds).replace(before, after), self.path, "exec"), names)
        return names

    def script(self, holds: str) -> str:
        """Return the commands of the console block that holds a text; one may go on in lines below it."""
        lines = self.block(holds, "console").splitlines()
        return "\n".join(line.removeprefix("$ ") for line in lines)

    def rows(self, head: str) -> list[list[str]]:
        """Return the cells of each row of the table whose first line begins with *head*."""
        lines = self.text.splitlines()
        (top,) = [number for number, line in enumerate(lines) if line.startswith(head)]
        body = lines[top + 2 :]
        end = next((number for number, line in enumerate(body) if not line.startswith("|")), len(body))
        return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body[:end]]


def blocks_that_run(path: str) -> list[str]:
    """Return the texts by which the tests in a file find blocks: what stands first in `run`, `block` and `script`."""
    calls = [node for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [
        call.args[0].value
        for call in calls
        if getattr(call.func, "attr", getattr(call.func, "id", None)) in ("run", "block", "script")
        and call.args
        and isinstance(call.args[0], ast.Constant)
    ]
