"""Requests in DSPy's own vocabulary as OpenAI's chat messages, which MLflow's chat view reads.

A `dspy.lm15.Request` and, before DSPy 3.4, a `dspy.LMRequest` are made of the same parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import dspy

from dspy_mlflow_callbacks.describe.payloads import to_json

_REQUESTS: tuple[type, ...] = tuple(
    found
    for found in (getattr(getattr(dspy, "lm15", None), "Request", None), getattr(dspy, "LMRequest", None))
    if isinstance(found, type)
)


def is_request(value: Any) -> bool:
    """Return whether *value* is a whole request, not a prompt."""
    return isinstance(value, _REQUESTS)


def messages(request: Any) -> list[dict[str, Any]]:
    """Return the messages of *request*, its system prompt first."""
    system = getattr(request, "system", None)
    first = [] if system is None else [{"role": "system", "content": _content(system)}]
    return first + [each for message in request.messages for each in _messages(message)]


def tools(request: Any) -> list[dict[str, Any]]:
    """Return the tools of *request* as OpenAI's function schemas."""
    return [_tool(tool) for tool in request.tools]


def parameters(request: Any) -> dict[str, Any]:
    """Return what *request* sets of its generation parameters."""
    config = request.config
    names = list(getattr(type(config), "model_fields", None) or config.__dataclass_fields__)
    found = {name: getattr(config, name) for name in names}
    # In lm15, `cache` is the provider's: DSPy's own is no part of a request.
    found.setdefault("prompt_cache", found.pop("cache"))
    return {name: value for name, value in found.items() if value is not None and value not in ((), {})}


def assistant(parts: Iterable[Any]) -> dict[str, Any]:
    """Return what an LM said in *parts* as the assistant's message.

    OpenAI has no word for an LM's thoughts; `reasoning` is the one that MLflow's chat view reads.
    """
    parts = list(parts)
    said = {"role": "assistant", "content": _content([part for part in parts if part.type not in _BESIDE_CONTENT])}
    thinking = "".join(part.text for part in parts if part.type == "thinking")
    calls = [_tool_call(part) for part in parts if part.type == "tool_call"]
    return said | ({"reasoning": thinking} if thinking else {}) | ({"tool_calls": calls} if calls else {})


_BESIDE_CONTENT = frozenset({"thinking", "tool_call"})


def _messages(message: Any) -> list[dict[str, Any]]:
    """Return one chat message, but for tool results: each is a message in OpenAI's chat."""
    results = [_tool_result(part) for part in message.parts if part.type == "tool_result"]
    rest = [part for part in message.parts if part.type != "tool_result"]
    if not rest:
        return results
    if message.role == "assistant":
        return [*results, assistant(rest)]
    # MLflow's chat view knows no other name for the developer's instructions.
    role = "system" if message.role == "developer" else message.role
    return [*results, {"role": role, "content": _content(rest)}]


def _content(parts: Any) -> Any:
    """Return content as one text where it is only text, else as OpenAI's content parts; None where there is none."""
    if isinstance(parts, str):
        return parts
    if all(part.type == "text" for part in parts):
        return "".join(part.text for part in parts) if parts else None
    return [_PARTS.get(part.type, _other_part)(part) for part in parts]


def _tool_call(part: Any) -> dict[str, Any]:
    arguments = part.input if hasattr(part, "input") else part.args
    return {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": to_json(arguments)}}


def _tool_result(part: Any) -> dict[str, Any]:
    call_id = part.id if hasattr(part, "id") else part.call_id
    return {"role": "tool", "tool_call_id": call_id, "content": _content(part.content)}


def _tool(tool: Any) -> dict[str, Any]:
    if tool.type != "function":
        return {"type": tool.name, **(tool.config or {})}
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


def _text_part(part: Any) -> dict[str, Any]:
    return {"type": "text", "text": part.text}


def _image_part(part: Any) -> dict[str, Any]:
    image = {"url": _url(part)} if part.detail is None else {"url": _url(part), "detail": part.detail}
    return {"type": "image_url", "image_url": image}


def _audio_part(part: Any) -> dict[str, Any]:
    if part.data is None:
        return _other_part(part)
    kind = part.media_type.rpartition("/")[2]
    return {"type": "input_audio", "input_audio": {"data": part.data, "format": "mp3" if kind == "mpeg" else kind}}


def _other_part(part: Any) -> dict[str, Any]:
    """Show as text what OpenAI's chat has no part for: MLflow's chat view would drop the whole conversation."""
    if hasattr(part, "media_type"):
        text = _url(part)  # MLflow moves a data URI to an attachment, wherever it stands
    elif hasattr(part, "value"):
        text = to_json(part.value)
    else:
        text = part.text or part.title or part.url
    return {"type": "text", "text": text}


def _url(part: Any) -> str:
    if part.data is not None:
        return f"data:{part.media_type};base64,{part.data}"
    return str(part.url or part.file_id or part.path)


_PARTS: dict[str, Callable[[Any], dict[str, Any]]] = {"text": _text_part, "image": _image_part, "audio": _audio_part}
