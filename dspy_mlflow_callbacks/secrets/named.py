"""Values that stand beside a name in a text: JSON, Python's reprs and code, headers, queries, command lines.

{"api_key": "abc"}    {'api_key': 'abc'}    api_key="abc"    password=hunter2    Authorization: Basic YTpi
--api-key abc
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator

from dspy_mlflow_callbacks.secrets.names import SPACE
from dspy_mlflow_callbacks.secrets.quotes import OPENING, bracket_end, quoted_end
from dspy_mlflow_callbacks.secrets.shapes import REDACTED, looks_random

Decision = Callable[[str], bool]

_NAME_REVERSED = re.compile(r"[\w.-]{0,100}")
# What may stand between a name and its value: the rest of the name (as one: there is nothing to go back for), closing
# quote and bracket, a sign.
_TO_SIGN = r"(?=(?P<rest>[\w.-]{0,100}))(?P=rest)(?P<quote>\\*[\"'`])?\]?" + SPACE + "{0,4}"
_SIGN = r"(?P<sign>=>|:=|==|=|:)(?P<space>" + SPACE + "{0,40})"
# A colon after which prose goes on with words.
_PROSE = r"(?!(?<!\W)[ \t]*:[ \t]*(?!bearer|basic|token|digest|apikey|negotiate)[a-z]+[ \t]+[^\s])"

_BARE = re.compile(r"[^\s,;&|\"'`<>(){}\[\]\\]+")
_SCHEME = re.compile(r"(?i:bearer|basic|token|digest|apikey|negotiate)[ \t]+(?P<value>[^\s,;\"'\\]+)")
_LINE = re.compile(r"[^\r\n\\]{0,4096}")
_HEADER = re.compile(r"(?:=\"[^\r\n\\\"]{0,4096}\"|[^\r\n\\\"']){0,4096}")

# Words that stand for a value, or for its type, or tell of it.
_NO_SECRETS = frozenset(
    {
        "none", "null", "nil", "undefined", "true", "false", "str", "string", "int", "integer", "float", "bool",
        "boolean", "bytes", "any", "object", "optional", "required", "missing", "invalid", "expired", "unknown",
        "empty", "unset", "hidden", "secretstr", "text", "varchar", "redacted",
    }
)  # fmt: skip
_NOTHING = frozenset({"none", "null", "nil", "undefined"})
_IDENTIFIER = re.compile(r"[A-Za-z_]+")
_DOTTED = re.compile(r"[A-Za-z_]+(?:\.[A-Za-z_]+)+")
_LAST_IN_LINE = re.compile(r"[ \t]*(?:[\r\n]|\\[nr]|$)")


def without_named_values(
    text: str, literals: Collection[str], is_secret: Decision, *, whole_lines: Collection[str] = ()
) -> str:
    """Return *text* without the values of names that have one of *literals* in them.

    Args:
        text: Any text.
        literals: What a name has in it, in lower case.
        is_secret: Decides by the whole name.
        whole_lines: Those of *literals* after which a value that follows a colon goes on to the line's end, whatever it
            looks like.
    """
    if not literals:
        return text
    lowered = _lowered(text)
    for literal in literals:
        if literal in lowered:
            values = list(_values(text, lowered, literal, is_secret, whole_lines=literal in whole_lines))
            if values:
                text = _replaced(text, values)
                lowered = _lowered(text)
    return text


def _lowered(text: str) -> str:
    """Return *text* with ASCII's letters in lower case: others could change its length."""
    return (
        text.lower() if text.isascii() else text.encode(errors="surrogatepass").lower().decode(errors="surrogatepass")
    )


def _replaced(text: str, values: list[tuple[int, int, str]]) -> str:
    kept, at = [], 0
    for start, end, replacement in values:
        kept += [text[at:start], replacement]
        at = end
    return "".join([*kept, text[at:]])


def _values(
    text: str, lowered: str, literal: str, is_secret: Decision, *, whole_lines: bool
) -> Iterator[tuple[int, int, str]]:
    found = _expression(literal, reads_lines=whole_lines or literal in ("auth", "cookie"))
    at = 0
    while (match := found.search(lowered, at)) is not None:
        at = match.end()
        name = _name_before(text, match.start()) + text[match.start() : match.end("rest")]
        if is_secret(name):
            value = _value(text, match, is_header=_is_header(name), whole_lines=whole_lines)
            if value is not None:
                yield value
                at = max(at, value[1])


@functools.lru_cache(maxsize=256)
def _expression(literal: str, *, reads_lines: bool) -> re.Pattern[str]:
    return re.compile(re.escape(literal) + _TO_SIGN + ("" if reads_lines else _PROSE) + _SIGN)


def _name_before(text: str, at: int) -> str:
    """Return the part of a name that stands before a position."""
    start = max(0, at - 100)
    matched = _NAME_REVERSED.match(text[start:at][::-1])
    name = matched[0][::-1] if matched else ""
    before = at - len(name) - 1
    is_escape = name[:1] in ("n", "r", "t") and before >= 0 and text[before] == "\\"
    return name[1:] if is_escape else name


def _is_header(name: str) -> bool:
    return name.lower().endswith(("authorization", "cookie"))


def _value(text: str, match: re.Match[str], *, is_header: bool, whole_lines: bool) -> tuple[int, int, str] | None:
    """Return where a value stands and what is to stand there instead; None for what is no secret."""
    quote, at = match["quote"] or "", match.end()
    opening = OPENING.match(text, at)
    if opening is not None:
        end = quoted_end(text, opening)
        return (opening.end(), end, REDACTED) if end > opening.end() else None
    replacement = f"{quote}{REDACTED}{quote}"
    if text[at : at + 1] in ("{", "[", "("):
        return at, bracket_end(text, at), replacement
    bare = _BARE.match(text, at)
    if bare is None:
        return None
    if quote:
        return None if bare[0].lower() in _NOTHING else (at, bare.end(), replacement)
    bare_end = _bare_end(text, bare, match, is_header=is_header, whole_lines=whole_lines)
    return None if bare_end is None else (at, bare_end, REDACTED)


def _bare_end(
    text: str, bare: re.Match[str], match: re.Match[str], *, is_header: bool, whole_lines: bool
) -> int | None:
    """Return where a value without quotes ends, where it is a value: code and prose look alike."""
    if match["sign"] == ":" and (whole_lines or is_header):
        line = (_LINE if whole_lines else _HEADER).match(text, bare.start())
        if line is not None and (whole_lines or _has_sign(line[0])):
            return line.end()
    scheme = _SCHEME.match(text, bare.start())
    if scheme is not None:
        return scheme.end() if looks_random(scheme["value"]) else None
    word = bare[0].rstrip(".!?:")
    end = bare.start() + len(word)
    if not word or text[bare.end() : bare.end() + 1] in ("(", "[") or word.lower() in _NO_SECRETS:
        return None
    if _DOTTED.fullmatch(word):
        return None
    is_word = _IDENTIFIER.fullmatch(word) is not None
    if match["sign"] == ":":
        return end if not is_word or _LAST_IN_LINE.match(text, bare.end()) else None
    return None if is_word and match["space"] else end


def _has_sign(value: str) -> bool:
    return any(not each.isalpha() and not each.isspace() for each in value)


_FLAG = re.compile(r"--(?P<name>[A-Za-z][\w-]{1,60})(?P<space>[ ]+)(?P<value>[^\s\"'`\\-][^\s\"'`\\]*)")


def without_flags(text: str, is_secret: Decision) -> str:
    """Return *text* without the values of command line options, `--name value`, that have a secret's name."""
    if "--" not in text:
        return text

    def replaced(match: re.Match[str]) -> str:
        is_value = is_secret(match["name"]) and _has_sign(match["value"])
        return f"--{match['name']}{match['space']}{REDACTED}" if is_value else match[0]

    return _FLAG.sub(replaced, text)
