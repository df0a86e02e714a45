"""Values in a text that a name stands around: sections of DSPy's chat prompts, XML elements.

[[ ## ssn ## ]] 123-45-6789    <ssn>123-45-6789</ssn>
"""

from __future__ import annotations

import re
from collections.abc import Callable

from dspy_mlflow_callbacks.secrets.shapes import REDACTED

Decision = Callable[[str], bool]

_SECTION = re.compile(r"\[\[ ## (?P<name>[\w.-]{1,100}) ## \]\](?!`)(?:\\[nr]|\s)*")
# What ends a section of DSPy's prompts (dspy.ChatAdapter) but another section.
_AFTER_SECTION = ("\n\nRespond with ", "\\n\\nRespond with ", "\n\nExpected to find output fields")


def without_sections(text: str, is_secret: Decision) -> str:
    """Return *text* without the sections of DSPy's chat prompts, `[[ ## name ## ]]`, that have a secret's name."""
    if "[[ ## " not in text:
        return text
    kept, at = [], 0
    while (header := _SECTION.search(text, at)) is not None:
        kept.append(text[at : header.end()])
        at = header.end()
        if is_secret(header["name"]):
            end = _section_end(text, at)
            if text[at:end].strip() not in ("", f"{{{header['name']}}}"):
                space = len(text[at:end]) - len(text[at:end].rstrip())
                kept.append(REDACTED + text[end - space : end])
                at = end
    return "".join([*kept, text[at:]])


def _section_end(text: str, at: int) -> int:
    end = text.find("[[ ## ", at)
    end = len(text) if end < 0 else end
    # The last of them: the value may hold such words itself.
    after = max(text.rfind(words, at, end) for words in _AFTER_SECTION)
    return end if after < 0 else after


_TAG = re.compile(r"<(?P<name>[A-Za-z_][\w.-]{0,99})>")
_CLOSING = re.compile(r"</(?P<name>[A-Za-z_][\w.-]{0,99})>")


def without_elements(text: str, is_secret: Decision, *, to_the_end: bool = False) -> str:
    """Return *text* without the content of XML elements, `<name>…</name>`, that have a secret's name.

    Args:
        text: Any text.
        is_secret: Decides by the name.
        to_the_end: Whether an element that is not closed goes on to the text's end; else it is none.
    """
    if ("<" if to_the_end else "</") not in text:
        return text
    closed = {closing["name"]: closing.start() for closing in _CLOSING.finditer(text)}  # where the last one stands
    kept, at = [], 0
    while (tag := _TAG.search(text, at)) is not None:
        kept.append(text[at : tag.end()])
        at, name = tag.end(), tag["name"]
        is_closed = closed.get(name, -1) >= at
        if is_secret(name) and (is_closed or to_the_end):
            kept.append(REDACTED)
            at = text.index(f"</{name}>", at) if is_closed else len(text)
    return "".join([*kept, text[at:]])
