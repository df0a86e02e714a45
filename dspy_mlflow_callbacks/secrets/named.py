"""Values that stand beside a name in a text: JSON, Python's reprs and code, headers, queries, DSPy's prompts.

{"api_key": "abc"}    {'api_key': 'abc'}    api_key="abc"    password=hunter2    Authorization: Basic YTpi
[[ ## ssn ## ]] 123-45-6789    <ssn>123-45-6789</ssn>    --api-key abc
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator

from dspy_mlflow_callbacks.secrets.names import SPACE
from dspy_mlflow_callbacks.secrets.shapes import REDACTED, looks_random

Decision = Callable[[str], bool]

_NAME_REVERSED = re.compile(r"[\w.-]{0,100}")
# What may stand between a name and its value: the rest of the name (as one: there is nothing to go back for), closing
# quote and bracket, a sign.
_TO_SIGN = r"(?=(?P<rest>[\w.-]{0,100}))(?P=rest)(?P<quote>\\*[\"'`])?\]?" + SPACE + "{0,4}"
_SIGN = r"(?P<sign>=>|:=|==|=|:)(?P<space>" + SPACE + "{0,40})"
# A colon after which prose goes on with words.
_PROSE = r"(?!(?<!\W)[ \t]*:[ \t]*(?!bearer|basic|token|digest|apikey|negotiate)[a-z]+[ \t]+[^\s])"

_OPENING = re.compile(r"[rbfuRBFU]{0,2}(?P<slashes>\\*)(?P<mark>\"{3}|'{3}|\"|'|`)")
_BRACKETS = re.compile(r"[\[\](){}\"']")
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


def without_named_values(text: str, literal: str, is_secret: Decision, *, whole_lines: bool = False) -> str:
    """Return *text* without the values of names that have *literal* in them.

    Args:
        text: Any text.
        literal: What a name has in it, in lower case.
        is_secret: Decides by the whole name.
        whole_lines: Whether a value that follows a colon goes on to the line's end, whatever it looks like.
    """
    kept, at = [], 0
    for start, end, replacement in _values(text, literal, is_secret, whole_lines=whole_lines):
        kept += [text[at:start], replacement]
        at = end
    return "".join([*kept, text[at:]]) if at else text


def _values(text: str, literal: str, is_secret: Decision, *, whole_lines: bool) -> Iterator[tuple[int, int, str]]:
    found = _expression(literal, reads_lines=whole_lines or literal in ("auth", "cookie"))
    lowered = _lowered(text)
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


def _lowered(text: str) -> str:
    return text.replace("İ", "i").lower()  # the only letter whose lower case has another length


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
    opening = _OPENING.match(text, at)
    if opening is not None:
        end = _quoted_end(text, opening)
        return (opening.end(), end, REDACTED) if end > opening.end() else None
    replacement = f"{quote}{REDACTED}{quote}"
    if text[at : at + 1] in ("{", "[", "("):
        return at, _bracket_end(text, at), replacement
    bare = _BARE.match(text, at)
    if bare is None:
        return None
    if quote:
        return None if bare[0].lower() in _NOTHING else (at, bare.end(), replacement)
    bare_end = _bare_end(text, bare, match, is_header=is_header, whole_lines=whole_lines)
    return None if bare_end is None else (at, bare_end, REDACTED)


def _quoted_end(text: str, opening: re.Match[str]) -> int:
    """Return where a quoted value ends: at the next quote that is escaped as deep as the first, or at the text's end.

    A quote inside n texts of JSON has 2**n - 1 backslashes; those of the value itself come on top, in pairs.
    """
    mark, slashes = opening["mark"], len(opening["slashes"])
    cycle = 2 * (slashes + 1)
    at = text.find(mark, opening.end())
    while at >= 0:
        before = _slashes_before(text, at, opening.end())
        if before % cycle <= slashes:
            return at - before % cycle
        at = text.find(mark, at + 1)
    return len(text)


def _slashes_before(text: str, at: int, start: int) -> int:
    first = at
    while first > start and text[first - 1] == "\\":
        first -= 1
    return at - first


def _bracket_end(text: str, at: int) -> int:
    """Return where the bracket at a position is closed; the text's end where it is not."""
    depth, start = 0, at
    while (found := _BRACKETS.search(text, at)) is not None:
        at = found.end()
        if found[0] in "\"'":
            slashes = _slashes_before(text, found.start(), start)
            opening = _OPENING.match(text, found.start() - slashes)
            at = _quoted_end(text, opening) + slashes + 1 if opening is not None else at
            continue
        depth += 1 if found[0] in "[({" else -1
        if depth == 0:
            return at
    return len(text)


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


_SECTION = re.compile(r"\[\[ ## (?P<name>[\w.-]{1,100}) ## \]\](?!`)(?:\\[nr]|\s)*")
# What ends a section of DSPy's prompts (dspy.ChatAdapter) but another section.
_AFTER_SECTION = ("\n\nRespond with ", "\\n\\nRespond with ", "\n\nExpected to find output fields")


def without_sections(text: str, is_secret: Decision) -> str:
    """Return *text* without the sections of DSPy's chat prompts, `[[ ## name ## ]]`, that have a secret's name."""
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


_FLAG = re.compile(r"--(?P<name>[A-Za-z][\w-]{1,60})(?P<space>[ ]+)(?P<value>[^\s\"'`\\-][^\s\"'`\\]*)")


def without_flags(text: str, is_secret: Decision) -> str:
    """Return *text* without the values of command line options, `--name value`, that have a secret's name."""

    def replaced(match: re.Match[str]) -> str:
        is_value = is_secret(match["name"]) and _has_sign(match["value"])
        return f"--{match['name']}{match['space']}{REDACTED}" if is_value else match[0]

    return _FLAG.sub(replaced, text)
