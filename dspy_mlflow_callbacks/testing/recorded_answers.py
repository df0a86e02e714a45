"""A file with what LMs answered, to which people can look, and of which a test's LM calls are answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dspy_mlflow_callbacks.events import CallKind
from dspy_mlflow_callbacks.replaying.recording import Recorded

_HEADER = "# What the LMs of a test answered, written by `dspy_replay`. `--dspy-record-mode=all` records it again.\n"
_VERSION = 1

# Of an LM's span what a call of it is known by, and what it answers with.
_ATTRIBUTES = {
    "model": "mlflow.llm.model",
    "model_type": "dspy.lm.model_type",
    "parameters": "dspy.lm.request",
    "response_model": "dspy.lm.response_model",
    "usage": "mlflow.chat.tokenUsage",
    "cost": "mlflow.llm.cost",
}


def read_answers(path: Path) -> list[Recorded]:
    """Return the recorded LM calls in a file, in its order.

    Raises:
        ValueError: if it is no such file.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        return [_recorded(index, each) for index, each in enumerate(_calls(found))]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        message = f"{path} holds no recorded answers ({error!r}): delete it and record again"
        raise ValueError(message) from error


def _calls(found: Mapping[str, Any]) -> list[Any]:
    if found["version"] != _VERSION:
        message = f"its version is {found['version']!r}, allowed is {_VERSION}"
        raise ValueError(message)
    calls: list[Any] = found["calls"]
    return calls


def _recorded(index: int, entry: Mapping[str, Any]) -> Recorded:
    attributes = {attribute: entry[name] for name, attribute in _ATTRIBUTES.items() if entry.get(name) is not None}
    error = entry.get("error")
    return Recorded(
        span_id=str(index),
        name=entry["model"],
        kind=CallKind.LM,
        inputs=entry["inputs"],
        outputs=entry.get("outputs"),
        attributes=attributes,
        error=None if error is None else (error["type"], error["message"]),
        start_ns=0,
        duration_s=None,
    )


def write_answers(path: Path, calls: Iterable[Recorded]) -> None:
    """Write recorded LM calls to a file, in their order."""
    content = {"version": _VERSION, "calls": list(map(_entry, calls))}
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_HEADER + text, encoding="utf-8")


def _entry(call: Recorded) -> dict[str, Any]:
    said = {name: call.attributes.get(attribute) for name, attribute in _ATTRIBUTES.items()}
    said |= {"inputs": call.inputs, "outputs": call.outputs, "error": _error(call)}
    return {name: value for name, value in said.items() if value is not None}


def _error(call: Recorded) -> dict[str, str] | None:
    return None if call.error is None else dict(zip(("type", "message"), call.error, strict=True))


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as people read them, so that a prompt's change is seen line by line."""

    def analyze_scalar(self, scalar: str) -> Any:
        """Let a text of several lines be a block although some lines end with spaces, as DSPy's prompts have them."""
        analysis = super().analyze_scalar(scalar)
        analysis.allow_block = analysis.allow_block or ("\n" in scalar and _is_readable(scalar))
        return analysis


def _text(dumper: Any, text: str) -> Any:
    style = ("|" if "\n" in text else None) if _is_readable(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _is_readable(text: str) -> bool:
    """Return whether nothing in *text* needs an escape."""
    return text.replace("\n", "").isprintable()


_Dumper.add_representer(str, _text)
