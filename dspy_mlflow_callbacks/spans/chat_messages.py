"""Messages of OpenAI's chat, which MLflow's chat view reads, as messages of OpenTelemetry's conventions.

The conventions' JSON schemas (gen-ai-input-messages.json, gen-ai-output-messages.json, gen-ai-tool-definitions.json)
stand in https://github.com/open-telemetry/semantic-conventions-genai. What does not have the expected form is passed
over: middleware, payload steps and users write attributes too.
"""

from __future__ import annotations

from typing import Any

import orjson

# The schema's words.
_FINISH_REASONS = {"tool_calls": "tool_call", None: "unknown"}


def asked(inputs: Any) -> list[Any]:
    """Return what an LM was asked: a prompt is the user's message."""
    prompt = get(inputs, "prompt", str)
    first = [] if prompt is None else [{"role": "user", "content": prompt}]
    return [_message(message) for message in [*first, *(get(inputs, "messages", list) or ())]]


def answered(outputs: Any) -> list[Any]:
    """Return what an LM answered: a message for each choice."""
    return [_answer(choice) for choice in get(outputs, "choices", list) or ()]


def definition(tool: Any) -> dict[str, Any]:
    """Return a function's schema as the conventions have it: flat."""
    return {"type": "function", **(get(tool, "function", dict) or {})}


def get(value: Any, name: str, *types: type) -> Any:
    """Return what *value* has under *name* if it is one of *types*, or anything if none is named; else None."""
    return of(value.get(name), types) if isinstance(value, dict) else None


def of(value: Any, types: tuple[type, ...]) -> Any:
    """Return *value* if it is one of *types*, which may be empty; else None: in JSON a boolean is no integer."""
    return value if not types or type(value) in types else None


def loaded(text: str, otherwise: Any = None) -> Any:
    """Return what a JSON text says, *otherwise* if it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return otherwise


def dumped(value: Any) -> str | None:
    """Return plain values as JSON; None if they are nested too deep for it."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return None


def _answer(choice: Any) -> dict[str, Any]:
    reason = get(choice, "finish_reason", str)
    return {**_message(get(choice, "message")), "finish_reason": _FINISH_REASONS.get(reason, reason)}


def _message(message: Any) -> dict[str, Any]:
    role, content = get(message, "role", str) or "user", get(message, "content")
    if role == "tool":
        response = {"type": "tool_call_response", "id": get(message, "tool_call_id"), "response": content}
        return {"role": role, "parts": [response]}
    reasoning = get(message, "reasoning", str)
    parts = [] if reasoning is None else [{"type": "reasoning", "content": reasoning}]
    parts += [_part(part) for part in (content if isinstance(content, list) else [content]) if part not in (None, "")]
    parts += [_tool_call(call) for call in get(message, "tool_calls", list) or ()]
    return {"role": role, "parts": parts}


def _tool_call(call: Any) -> dict[str, Any]:
    function = get(call, "function")
    arguments = get(function, "arguments")
    if isinstance(arguments, str):
        arguments = loaded(arguments, otherwise=arguments)  # an LM may write what is no JSON
    return {"type": "tool_call", "id": get(call, "id"), "name": get(function, "name"), "arguments": arguments}


def _part(part: Any) -> dict[str, Any]:
    """Return a part of a message's content; one that the conventions have no word for stays as it is."""
    if isinstance(part, str):
        return {"type": "text", "content": part}
    if get(part, "type") == "text":
        return {"type": "text", "content": get(part, "text")}
    image, audio = get(part, "image_url"), get(part, "input_audio")
    url = image if isinstance(image, str) else get(image, "url", str)
    if url is not None:
        return _media("image", url)
    data = get(audio, "data", str)
    if data is not None:  # MLflow may have moved it to an attachment, and refers to it
        return _media("audio", data if "://" in data else f"data:audio/{get(audio, 'format')};base64,{data}")
    return part if get(part, "type", str) else {"type": "text", "content": dumped(part)}


def _media(modality: str, url: str) -> dict[str, Any]:
    head, comma, data = url.partition(";base64,")
    if not comma:
        return {"type": "uri", "modality": modality, "uri": url}
    return {"type": "blob", "modality": modality, "mime_type": head.removeprefix("data:"), "content": data}
