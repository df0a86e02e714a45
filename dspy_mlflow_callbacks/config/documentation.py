"""What `help(TracingConfig)` says of the options."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import attrs

from dspy_mlflow_callbacks.config.environment import variable_of
from dspy_mlflow_callbacks.config.options import default_text


def attributes_section(options: Mapping[str, attrs.Attribute[Any]]) -> str:
    """Return the section of a docstring that documents *options*, each in one paragraph."""
    paragraphs = [f"{name}: {_documentation(field)}" for name, field in options.items()]
    wrapped = [textwrap.fill(each, 112, initial_indent=" " * 8, subsequent_indent=" " * 12) for each in paragraphs]
    return "\n".join(["\n    Attributes:", *wrapped, "    "])


def _documentation(field: attrs.Attribute[Any]) -> str:
    allowed = f"Allowed: {field.metadata['allowed']}."
    unit = f" Unit: {field.metadata['unit']}." if field.metadata["unit"] else ""
    variable = f"Variable: {variable_of(field.name)}."
    return f"{field.metadata['doc']} {allowed}{unit} Default: {default_text(field)}. {variable}"
