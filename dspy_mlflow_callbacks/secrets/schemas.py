"""JSON Schema: what it says of a parameter that holds a secret is no secret, but for examples of it."""

from __future__ import annotations

from typing import Any

_TYPES = frozenset({"string", "number", "integer", "boolean", "array", "object", "null", "str", "int", "float"})
_WORDS = frozenset(
    {
        "type", "description", "title", "desc", "prefix", "format", "anyOf", "oneOf", "allOf", "items",
        "properties", "required", "additionalProperties", "minLength", "maxLength", "minimum", "maximum", "pattern",
        "nullable", "$ref",
    }
)  # fmt: skip
_EXAMPLES = frozenset({"default", "enum", "const", "example", "examples"})


def is_schema(value: Any) -> bool:
    """Return whether *value* describes a parameter in place of being its value."""
    if not isinstance(value, dict) or not ({"type", "anyOf", "$ref"} & value.keys()):
        return False
    is_type = "type" not in value or str(value["type"]) in _TYPES
    return is_type and value.keys() <= _WORDS | _EXAMPLES


def examples(schema: dict[str, Any]) -> list[str]:
    """Return the keys of a schema under which values of the parameter stand."""
    return [key for key in schema if key in _EXAMPLES and schema[key] is not None]
