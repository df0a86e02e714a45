"""The names under which secrets stand: of parameters, headers, environment variables, in any provider's spelling."""

from __future__ import annotations

import functools
import re

MAX_NAME = 100
"""Characters of the longest name that is looked at; what is longer is a text."""

_MAX_SPACES = 2  # "my api key" is a name, a question about passwords is not

# What a key is for, where it opens something: a "primary key" or a "key" is another thing.
_KEYS = (
    "api|access|private|secret|subscription|account|signing|encryption|decryption|master|ssh|auth|service|admin|hmac"
    "|webhook|license|client|session|shared|deploy|app|application|server|rsa|aes|security"
    "|openai|anthropic|claude|azure|gemini|google|cohere|mistral|groq|together|huggingface|hf|aws|gcp|deepseek"
    "|openrouter|perplexity|replicate|pinecone|weaviate|qdrant|langsmith|langfuse|wandb|tavily|serper|serpapi"
)
# What more than one token is a credential of; `input_tokens` are counted.
_TOKENS = "access|auth|refresh|bearer|session|api|security|secret|service"
# What may follow the name of a credential that is a token; `token_count`, `token_type` and the like tell of it.
_TOLD_OF = "provider|secret|value|key|string|str|text|header|data|file|path"

_PASSES = "user|db|smtp|mail|ftp|ssh|redis|mysql|pg|my|login"

_WORDS = (
    rf"(?:{_KEYS})[-_. ]?keys?|secrets?|passwords?|passwd|passphrases?|passcodes?|pwd|(?:{_PASSES})[-_.]?pass"
    rf"|auth(?:orization)?|bearer|cookies?|credentials?|creds?|jwts?|(?:{_TOKENS})[-_. ]?tokens"
    r"|conn(?:ection)?[-_. ]?str(?:ing)?s?|shared[-_. ]?access[-_. ]?signature"
)

_BEYOND_ASCII = r"\x{80}-\x{10FFFF}"
NAME = rf"[A-Za-z0-9_.{_BEYOND_ASCII}-]"
"""A character of a name in a text, for `Mark`."""

_ANY_CASE = rf"(?i-u:{_WORDS}|token)[0-9]*"
_IN_KEY = rf"(?:(?i-u:{_WORDS})[0-9]*|(?i-u:token)[0-9]*(?:[-_. ]?(?i-u:{_TOLD_OF}))?)"

SPACE = r"(?:\s|\\+[nrt])"
"""White space in a text, be it in JSON at any depth; for `Mark`, and for `re`."""

KEYS = rf'{_IN_KEY}(?:[^"\\a-z0-9](?:[^"\\]|\\.)*)?"\s*:'
"""What a JSON text has in it that has a secret's name for a key, for `Mark`; other texts may have it too."""

# After a colon that no quote stands before, prose goes on with words; a value has other characters, or the line to
# itself, or a scheme of HTTP before it.
_AFTER_COLON = (
    r"[ \t]*(?:[^ \tA-Za-z]|[A-Za-z]+(?:[^ \tA-Za-z]|[ \t]*$)|(?i-u:bearer|basic|token|digest|apikey|negotiate)[ \t])"
)

VALUES = (
    rf"{_ANY_CASE}(?:[-_.A-Z{_BEYOND_ASCII}]{NAME}*)?"
    rf"(?:(?:\\*[\"'`])?\]?{SPACE}*=|(?:\\+\"|\\*['`])\]?{SPACE}*:|\]?{SPACE}*:{_AFTER_COLON}|>| ## \]\])"
    rf"|(?i-u:authorization|cookie2?){SPACE}*:"
    rf"|--[A-Za-z0-9_-]*(?i-u:{_WORDS}|token)[A-Za-z0-9_-]* "
)
"""What a text, be it in JSON, has in it that names a secret beside its value, for `Mark`."""

LITERALS = ("key", "secret", "pass", "pwd", "auth", "bearer", "cookie", "cred", "jwt", "conn", "signature", "token")
"""What each secret's name has in it, in lower case: one of these."""

_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SECRET_NAME = re.compile(
    rf"""(?x)
    (?<![a-z0-9])
    (?: [a-z0-9]*(?:{_KEYS})[-_.\ ]?keys? | [a-z0-9]*secrets? | [a-z0-9]*(?:passwords?|passwd|pwd)
      | passphrases? | passcodes? | (?:{_PASSES})[-_.]?pass
      | (?:o?auth|authorization)(?![-_.\ ]?(?:type|method|mode|scheme|ur[li]|endpoint|required|enabled))
      | bearer | [a-z]*cookies? | [a-z]*credentials? | creds? | jwts?
      | conn(?:ection)?[-_.\ ]?str(?:ing)?s? | shared[-_.\ ]?access[-_.\ ]?signature
      | (?:{_TOKENS})[-_.\ ]?tokens
      | (?:(?<![a-z0-9])|(?:{_TOKENS}))
        (?<!max[-_.\ ])(?<!first[-_.\ ])(?<!per[-_.\ ])(?<!bos[-_.\ ])(?<!eos[-_.\ ])(?<!pad[-_.\ ])(?<!unk[-_.\ ])
        (?<!sep[-_.\ ])(?<!cls[-_.\ ])(?<!mask[-_.\ ])(?<!stop[-_.\ ])(?<!next[-_.\ ])(?<!page[-_.\ ])
        token(?=[0-9]*(?:$|[-_.\ ](?:{_TOLD_OF})(?![a-z])))
    )
    [0-9]*(?![a-z0-9])
    """
)


@functools.lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Return whether a parameter of this name holds a credential.

    `api_key`, `Authorization`, `*_token`, `*_secret*`, `dbPassword`, … are such names; `max_tokens`, `token_count`,
    `key`, `author` are not.
    """
    if len(name) > MAX_NAME or name.count(" ") > _MAX_SPACES:
        return False
    return _SECRET_NAME.search(_CAMEL_CASE.sub("_", name).lower()) is not None
