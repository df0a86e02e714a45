"""Request parameters without the secrets that stand among them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "[hidden]"

# Names of parameters, headers and environment variables that carry credentials, in any provider's spelling.
# A word boundary is a separator or the ends; `max_tokens` and `input_tokens` count tokens and stay.
_SECRET_NAME = re.compile(
    r"""(?ix)
    (?:^|[-_.])
    (?: api[-_]?key | key[-_]?id | access[-_]?key | secret | secrets | password | passwd | pwd
      | authorization | bearer | cookie | credential | credentials | private[-_]?key | token | auth )
    (?:$|[-_.])
    """
)
_TOKEN_COUNTS = frozenset({"max_token", "token_count"})


def is_secret_name(name: str) -> bool:
    """Return whether a parameter of this name holds a credential."""
    return _SECRET_NAME.search(name) is not None and name.lower() not in _TOKEN_COUNTS


def without_secrets(value: Any) -> Any:
    """Return *value* with everything that stands under a secret's name hidden, at any depth of dicts and lists."""
    if isinstance(value, Mapping):
        return {key: HIDDEN if _is_secret(key, item) else without_secrets(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(item) for item in value]
    return value


def _is_secret(key: Any, item: Any) -> bool:
    return isinstance(key, str) and item is not None and is_secret_name(key)
