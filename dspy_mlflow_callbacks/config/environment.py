"""Options from environment variables: what their texts mean, and what is said of wrong ones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import orjson

from dspy_mlflow_callbacks.config.options import default_text
from dspy_mlflow_callbacks.stats import WarnOnce

PREFIX = "DSPY_MLFLOW_"
"""What the environment variable of each option begins with."""

OTHER_VARIABLES = ("DSPY_MLFLOW_AUTOLOG",)
"""Variables of this package that are no option."""

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

# What tells a JSON list of texts from a glob or a regular expression that begins with a set of characters.
_JSON_LIST = re.compile(r'\[\s*["\]]')

_WARN = WarnOnce()


@attrs.frozen
class Wrong:
    """A variable that is ignored, and why."""

    subject: object
    message: str

    def warn(self) -> None:
        """Say so, once in the process."""
        _WARN(self.subject, self.message)


def variable_of(option: str) -> str:
    """Return the environment variable of an option."""
    return f"{PREFIX}{option.upper()}"


def read(option: attrs.Attribute[Any], environ: Mapping[str, str]) -> Any:
    """Return what the variable of an option says: its value, None where it is unset or empty, or a `Wrong`."""
    variable = variable_of(option.name)
    text = environ.get(variable, "").strip()
    if not text:
        return None
    try:
        return option.metadata["check"](option.metadata["read"](text))
    except (TypeError, ValueError) as error:
        allowed, default = option.metadata["allowed"], default_text(option)
        message = f"{variable}={text!r} is ignored: {error}. Allowed: {allowed}. The default stands: {default}."
        return Wrong((variable, text), message)


def unknown(options: Mapping[str, object], environ: Mapping[str, str]) -> Iterator[Wrong]:
    """Return the variables that look like an option's and are none."""
    known = [*map(variable_of, options), *OTHER_VARIABLES]
    for variable, text in environ.items():
        if variable.startswith(PREFIX) and variable not in known and text.strip():
            close = difflib.get_close_matches(variable.removeprefix(PREFIX).lower(), options, n=1)
            hint = f"did you mean {variable_of(close[0])}?" if close else f"there are {', '.join(known)}"
            yield Wrong(variable, f"The environment variable {variable} is unknown and ignored; {hint}")


def as_bool(text: str) -> bool:
    """Return what *text* means: yes or no."""
    if text.lower() not in (*TRUE, *FALSE):
        message = f"must be one of {', '.join((*TRUE, *FALSE))}"
        raise ValueError(message)
    return text.lower() in TRUE


def as_manner(text: str) -> bool | str:
    """Return what *text* means: yes, no, or the manner that it names."""
    return as_bool(text) if text.lower() in (*TRUE, *FALSE) else text.lower()


def as_number(text: str) -> float:
    """Return the number that *text* is."""
    try:
        return float(text)
    except ValueError:
        message = "must be a number"
        raise ValueError(message) from None


def as_whole_number(text: str) -> int:
    """Return the whole number that *text* is."""
    try:
        return int(text)
    except ValueError:
        message = "must be a whole number"
        raise ValueError(message) from None


def as_json(text: str) -> Any:
    """Return what *text* says as JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        message = f"must be JSON ({error})"
        raise ValueError(message) from None


def as_list(text: str) -> Any:
    """Return the texts of a JSON list, or those between the commas."""
    if _JSON_LIST.match(text):
        return as_json(text)
    return [each.strip() for each in text.split(",") if each.strip()]


def as_expressions(text: str) -> Any:
    """Return the texts of a JSON list, or *text* as the only one: an expression may hold commas, as in `[0-9]{3,4}`."""
    return as_json(text) if _JSON_LIST.match(text) else [text]


def as_mapping(text: str) -> Any:
    """Return a JSON object, or what `name=value,name=value` says."""
    if text.startswith("{"):
        return as_json(text)
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(separator for _, separator, _ in pairs):
        message = "must be a JSON object, or name=value pairs with commas between them"
        raise ValueError(message)
    return {name.strip(): value.strip() for name, _, value in pairs}
