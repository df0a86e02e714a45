"""Credentials that are known by their own look, whatever they stand under."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable

import attrs

from dspy_mlflow_callbacks.secrets.marks import Mark
from dspy_mlflow_callbacks.secrets.names import SPACE

REDACTED = "[redacted]"
"""What stands in place of a secret."""


@attrs.frozen
class Shape:
    """One kind of credential.

    Attributes:
        pattern: What it looks like, for `Mark`: nothing of this kind is in a text in which it does not match.
        redact: Returns a text without it.
    """

    pattern: str
    redact: Callable[[str], str]
    mark: Mark = attrs.field(init=False, default=attrs.Factory(lambda self: Mark(self.pattern), takes_self=True))


def _key(start: str, rest: str, *, checked: str | None = None) -> Shape:
    r"""Return the shape of a key that begins with the text *start*, which no letter or digit stands before.

    A text inside another may have a line's end as `\n` before it. The start comes first in the expression: `re` finds
    a literal fast.
    """
    found = re.compile(_beginning(start) + (rest if checked is None else checked))
    return Shape(re.escape(start) + rest, lambda text: found.sub(REDACTED, text))


def _beginning(start: str) -> str:
    literal = re.escape(start)
    return rf"{literal}(?:(?<![A-Za-z0-9]{literal})|(?<=\\[nrtbf]{literal})|(?<=\\u[0-9a-fA-F]{{4}}{literal}))"


def _keys(starts: Iterable[str], rest: str) -> list[Shape]:
    return [_key(start, rest) for start in starts]


def _pattern(pattern: str, found: str, replacement: str | Callable[[re.Match[str]], str] = REDACTED) -> Shape:
    compiled = re.compile(found)
    return Shape(pattern, lambda text: compiled.sub(replacement, text))


_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")


def _without_private_keys(text: str) -> str:
    """Redact PEM blocks (RFC 7468) of private keys; one that is cut off goes to the text's end."""
    kept, at = [], 0
    while (begin := _BEGIN.search(text, at)) is not None:
        end = _END.search(text, begin.end())
        kept += [text[at : begin.start()], REDACTED]
        at = len(text) if end is None else end.end()
    return "".join([*kept, text[at:]])


def _without_user(match: re.Match[str]) -> str:
    """Redact the credentials of a URL (RFC 3986, userinfo); a plain user's name, as in `ssh://git@host`, stays."""
    user = match["user"]
    return match[0] if _USER.fullmatch(user) else f"{match['slashes']}{REDACTED}@"


_USER = re.compile(r"[a-z][a-z._-]{0,15}")


def _scheme(name: str) -> Shape:
    """Return the shape of what follows HTTP's `Bearer` (RFC 6750) or `Basic` (RFC 7617); prose is another thing."""
    is_credential = _is_user_and_password if name.lower() == "basic" else looks_random
    found = re.compile(_beginning(name) + rf"(?P<space>{SPACE}{{1,4}})" + r"(?P<value>[A-Za-z0-9._~+/-]{4,}=*)")

    def without_value(match: re.Match[str]) -> str:
        is_header = match[0] == match.string and name.lower() == "bearer"  # nothing but that: the header's value
        is_secret = is_header or is_credential(match["value"])
        return f"{name}{match['space']}{REDACTED}" if is_secret else match[0]

    return Shape(rf"{name}{SPACE}+[A-Za-z0-9._~+/-]{{4}}", lambda text: found.sub(without_value, text))


def _is_user_and_password(value: str) -> bool:
    try:
        return b":" in base64.b64decode(value, validate=True)
    except binascii.Error:
        return False


_MIN_RANDOM = 12
_MIN_LETTERS = 24


def looks_random(value: str) -> bool:
    """Return whether *value* is no word of a language: long, and with a digit in it or very long."""
    has_digit = any(map(str.isdigit, value))
    return len(value) >= (_MIN_RANDOM if has_digit else _MIN_LETTERS)


SHAPES: tuple[Shape, ...] = (
    # OpenAI, Anthropic, OpenRouter, LiteLLM, DeepSeek, Langfuse, …; scikit-learn's CSS classes begin alike.
    _key(
        "sk-",
        r"[A-Za-z0-9_-]{12}",
        checked=r"(?:(?:proj|ant|svcacct|admin|or|lf|None)-[\w-]{8,}"
        r"|(?=[\w-]{0,100}[0-9])(?:(?=[A-Za-z0-9]{16})|(?=[\w-]{0,100}[A-Z]))[\w-]{16,})",
    ),
    *_keys(("sk_live_", "sk_test_", "rk_live_", "rk_test_", "whsec_"), r"[A-Za-z0-9+/]{10,}=*"),  # Stripe
    *_keys(("AKIA", "ASIA"), r"[A-Z0-9]{16}"),  # AWS
    _key("AIza", r"[A-Za-z0-9_-]{30,}"),  # Google, from here on
    _key("ya29.", r"[A-Za-z0-9_.-]{16,}"),
    _key("GOCSPX-", r"[A-Za-z0-9_-]{16,}"),
    _key("1//0", r"[A-Za-z0-9_-]{20,}"),
    *_keys(("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"[A-Za-z0-9]{20,}"),  # GitHub
    _key("github_pat_", r"[A-Za-z0-9_]{20,}"),
    *_keys(("glpat-", "gldt-", "glrt-"), r"[A-Za-z0-9_.-]{16,}"),  # GitLab
    *_keys(("xoxa-", "xoxb-", "xoxe-", "xoxe.", "xoxp-", "xoxr-", "xoxs-", "xoxc-", "xoxd-"), r"[A-Za-z0-9.%-]{10,}"),
    _key("xapp-", r"[0-9]-[A-Za-z0-9-]{10,}"),  # Slack, as the line above and the one below
    _pattern(r"hooks\.slack\.com/", r"(?<=hooks\.slack\.com/)(?:services|workflows)/[\w/]{8,}"),
    _pattern(r"/api/webhooks/", r"(?<=/api/webhooks/)\d+/[\w-]{20,}"),  # Discord
    *_keys(("hf_", "npm_", "gsk_", "r8_", "fw_", "xai-", "pplx-"), r"[A-Za-z0-9]{20,}"),  # Hugging Face, npm, Groq, …
    _key("pcsk_", r"[A-Za-z0-9_]{20,}"),  # Pinecone
    _key("nvapi-", r"[A-Za-z0-9_-]{20,}"),  # NVIDIA
    _key("tvly-", r"(?:dev-|prod-)?[A-Za-z0-9]{16,}"),  # Tavily
    _key("pypi-AgE", r"[A-Za-z0-9_-]{16,}"),  # PyPI
    *_keys(("lsv2_pt_", "lsv2_sk_"), r"[0-9a-f]{20,}(?:_[0-9a-f]+)?"),  # LangSmith
    _key("dapi", r"[0-9a-f]{32}(?:-\d+)?"),  # Databricks
    _key("SG.", r"[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),  # SendGrid
    _key("eyJ", r"[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]{4,}){1,4}\.?"),  # JWT (RFC 7519)
    Shape(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY", _without_private_keys),
    _pattern(
        r":\\*/\\*/[^\s/?#\"'<>]+@",
        r"(?P<slashes>:\\{0,64}/\\{0,64}/)(?P<user>[^\s/?#\"'<>]{1,400})@",
        _without_user,
    ),
    *map(_scheme, ("Bearer", "bearer", "BEARER", "Basic", "basic", "BASIC")),
    # A key or a signature in a URL's query stands under a short name.
    _pattern(
        r"[?&](?i:key|sig|signature|x-(?:amz|goog)-(?:signature|credential))=",
        r"(?<=[?&])((?i:key|sig|signature|x-(?:amz|goog)-(?:signature|credential)))=[^\s&\"'<>\\]{6,}",
        lambda match: f"{match[1]}={REDACTED}",
    ),
)

SHAPES_PATTERN = "|".join(f"(?:{shape.pattern})" for shape in SHAPES)
"""What a text has in it that has one of them, for `Mark`."""
