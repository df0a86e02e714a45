"""What stands in a recording in place of content: redacted, cut, withheld, moved away."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from dspy_mlflow_callbacks.replaying.attachments import is_reference
from dspy_mlflow_callbacks.secrets import REDACTED

_CUT = re.compile(r"(?s)(?P<beginning>.*)… \[cut: (?P<length>\d+) characters, sha256 (?P<digest>[0-9a-f]{16})\]\Z")
_WITHHELD = re.compile(r"\A\[withheld: .*\]\Z", re.DOTALL)

# What a tool's exception looks like in a prompt: where it was raised, and while handling what, is not the same in a
# replay.
_FRAMES = re.compile(r'(?m)^ *File "[^"\n]*", line \d+, in .*\n(?:    .*\n)*')
_TRACE = "Traceback (most recent call last)"
_CHAINED = re.compile(
    r"Traceback \(most recent call last\):\n(?:(?!Traceback \().*\n)*?\n"
    r"(?:During handling of the above exception, another exception occurred"
    r"|The above exception was the direct cause of the following exception):\n\n"
)

CHANGES = {
    "redacted": "was redacted; record it with `redact=False` or narrower `redact_*` options",
    "cut": "was cut; record it with a larger `max_payload_chars`",
    "withheld": "was withheld, because a payload step failed; repair that step",
    "moved": "has an attachment that cannot be read here; set the tracking URI of the store that has it",
}
"""Why content is not there, and what to change."""


def mark_in(value: Any) -> str | None:
    """Return the key in `CHANGES` of the first thing that is missing in *value*; None where it is whole."""
    if isinstance(value, dict):
        return next((mark for item in value.values() if (mark := mark_in(item))), None)
    if isinstance(value, list):
        return next((mark for item in value if (mark := mark_in(item))), None)
    return _mark_in_text(value) if isinstance(value, str) else None


def _mark_in_text(text: str) -> str | None:
    if is_reference(text):
        return "moved"
    if REDACTED in text:
        return "redacted"
    if _cut_in(text):
        return "cut"
    return "withheld" if _WITHHELD.match(text) else None


def is_loose(value: Any) -> bool:
    """Return whether other values than *value* itself can agree with it."""
    if isinstance(value, dict):
        return any(map(is_loose, value.values()))
    if isinstance(value, list):
        return any(map(is_loose, value))
    return isinstance(value, str) and (_mark_in_text(value) is not None or _TRACE in value)


def _cut_in(text: str) -> re.Match[str] | None:
    return _CUT.match(text) if "[cut: " in text else None


def agrees(recorded: Any, actual: Any) -> bool:
    """Return whether *actual* can have been what *recorded* stands for, as far as that can be told.

    Anything can be what was redacted. What was cut is known by its length and digest, or, where something in it was
    redacted, by its beginning. Where an exception was raised, with file and line, does not count.
    """
    if isinstance(recorded, dict) and isinstance(actual, dict):
        return recorded.keys() == actual.keys() and all(agrees(recorded[key], actual[key]) for key in recorded)
    if isinstance(recorded, list) and isinstance(actual, list):
        return len(recorded) == len(actual) and all(map(agrees, recorded, actual))
    if recorded == actual:
        return True
    if recorded == REDACTED or is_reference(recorded):
        return True
    return isinstance(recorded, str) and isinstance(actual, str) and _texts_agree(recorded, actual)


def _texts_agree(recorded: str, actual: str) -> bool:
    cut = _cut_in(recorded)
    if cut is not None:
        return _is_cut_from(cut, actual)
    recorded, actual = without_frames(recorded), without_frames(actual)
    return recorded == actual or (REDACTED in recorded and _matches(recorded, actual, end=r"\Z"))


def without_frames(text: str) -> str:
    """Return *text* with only the last line of each stack trace in it, which names the exception."""
    return _CHAINED.sub("", _FRAMES.sub("", text)) if _TRACE in text else text


def _is_cut_from(cut: re.Match[str], actual: str) -> bool:
    digest = hashlib.sha256(actual.encode("utf-8", "replace")).hexdigest()[:16]
    if (int(cut["length"]), cut["digest"]) == (len(actual), digest):
        return True
    return REDACTED in cut["beginning"] and _matches(cut["beginning"], actual, end="")


def _matches(recorded: str, actual: str, *, end: str) -> bool:
    pattern = ".*?".join(map(re.escape, recorded.split(REDACTED)))
    return re.match(pattern + end, actual, re.DOTALL) is not None
