"""What a secret looks like: the names it stands under, and its own shape in a text."""

from __future__ import annotations

import functools
import re
from typing import Any

REDACTED = "[redacted]"
"""What stands in place of a secret."""

# Names of parameters, headers and environment variables that carry credentials, in any provider's spelling.
# A word boundary is a separator or the ends; what counts tokens (`max_tokens`, `token_count`) stays.
_SECRET_NAME = re.compile(
    r"""(?ix)
    (?:^|[-_.])
    (?: api[-_]?key | key[-_]?id | access[-_]?key | private[-_]?key | subscription[-_]?key | secrets?
      | passwords? | passwd | passphrase | pwd | authorization | auth | bearer | cookies? | credentials? | jwt
      | connection[-_]?string | (?<!max[-_])token(?![-_.]?(?:count|limit|usage|budget|details)) )
    (?:$|[-_.])
    """
)
_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

# In a text under an innocent name: credentials of a URL (RFC 3986, userinfo), keys in its query, HTTP's schemes.
_SECRET_TEXT = re.compile(
    r"""(?ix)
    (?<=://)[^/@\s]+(?=@)
    | (?<=[?&]) ((?:api[-_]?)?key|(?:access[-_]?)?token|sig) = [^&\s]+
    | ^ (bearer|basic) \s+ \S+ $
    """
)


@functools.lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Return whether a parameter of this name holds a credential."""
    return _SECRET_NAME.search(_CAMEL_CASE.sub("_", name)) is not None


def without_secrets(value: Any) -> Any:
    """Return a JSON value with everything that stands under a secret's name redacted at any depth."""
    if isinstance(value, dict):
        return {
            key: REDACTED if item is not None and is_secret_name(key) else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return _SECRET_TEXT.sub(REDACTED, value) if isinstance(value, str) else value
