"""What a span says, in the words of OpenTelemetry's conventions for generative AI.

The words are those of https://github.com/open-telemetry/semantic-conventions-genai. They are derived from what leaves
with the span: after the payload steps, and without what is not captured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.spans.chat_messages import answered, asked, definition, dumped, get, loaded, of

_OURS = "dspy.call_id"

# DSPy's names of providers, which are LiteLLM's, where the conventions have another.
_PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "cohere_chat": "cohere",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}

_NUMBERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
}
_INTEGERS = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
}
_USAGE = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cache_read_input_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_creation_input_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}
_INTEGER_BITS = 64  # in OTLP, one of them for the sign


def describe(span: ReadableSpan) -> dict[str, Any] | None:
    """Return the conventions' attributes for *span*, which has ended.

    They are none if it is of no model, tool, agent, embedding or retrieval; None stands for a span that is not ours.
    """
    if _OURS not in (span.attributes or {}):
        return None
    operation, facts = _OPERATIONS.get(_said(span, internals.SPAN_TYPE, str), (None, _nothing))
    if operation is None:
        return {}
    attributes = {"gen_ai.operation.name": operation, "error.type": _error_type(span), **facts(span)}
    return {key: value for key, value in attributes.items() if value not in (None, [])}


def _error_type(span: ReadableSpan) -> Any:
    if span.status.status_code is not StatusCode.ERROR:
        return None
    types = [(event.attributes or {}).get("exception.type") for event in span.events if event.name == "exception"]
    return types[-1] if types else "_OTHER"


def _lm(span: ReadableSpan) -> dict[str, Any]:
    model, provider = _said(span, "mlflow.llm.model", str), _said(span, "mlflow.llm.provider", str)
    tools = _said(span, "mlflow.chat.tools", list) or ()
    return {
        "gen_ai.provider.name": _PROVIDERS.get(provider, provider),
        "gen_ai.request.model": model and model.removeprefix(f"{provider}/"),
        "gen_ai.response.model": _said(span, "dspy.lm.response_model", str),
        **_request(_said(span, "dspy.lm.request")),
        # In the provider's words, as other instrumentations have them.
        "gen_ai.response.finish_reasons": _texts(_said(span, "dspy.lm.finish_reason")),
        **_integers(_said(span, "mlflow.chat.tokenUsage"), _USAGE),
        "gen_ai.input.messages": _messages(asked(_said(span, internals.INPUTS))),
        "gen_ai.output.messages": _messages(answered(_said(span, internals.OUTPUTS))),
        "gen_ai.tool.definitions": _messages([definition(tool) for tool in tools]),
    }


def _tool(span: ReadableSpan) -> dict[str, Any]:
    return {
        "gen_ai.tool.name": span.name,
        "gen_ai.tool.type": "function",
        "gen_ai.tool.description": _said(span, "dspy.tool.description", str),
        "gen_ai.tool.call.arguments": _text(_said(span, internals.INPUTS)),
        "gen_ai.tool.call.result": _text(_said(span, internals.OUTPUTS)),
    }


def _agent(span: ReadableSpan) -> dict[str, Any]:
    return {"gen_ai.agent.name": span.name}


def _nothing(span: ReadableSpan) -> dict[str, Any]:
    return {}


_OPERATIONS: dict[str, tuple[str, Callable[[ReadableSpan], dict[str, Any]]]] = {
    "CHAT_MODEL": ("chat", _lm),
    "LLM": ("text_completion", _lm),
    "TOOL": ("execute_tool", _tool),
    "AGENT": ("invoke_agent", _agent),
    "EMBEDDING": ("embeddings", _nothing),
    "RETRIEVER": ("retrieval", _nothing),
}


def _request(request: Any) -> dict[str, Any]:
    numbers = {key: get(request, name, int, float) for name, key in _NUMBERS.items()}
    integers = _integers(request, _INTEGERS)
    if integers.get("gen_ai.request.choice.count") == 1:
        del integers["gen_ai.request.choice.count"]  # the conventions leave it out
    output = get(request, "response_format")
    return {
        **{key: float(number) for key, number in numbers.items() if number is not None},
        **integers,
        "gen_ai.request.stop_sequences": _texts(get(request, "stop")),
        "gen_ai.output.type": None if output is None else "text" if get(output, "type") == "text" else "json",
    }


def _integers(value: Any, names: Mapping[str, str]) -> dict[str, int]:
    """Return by the conventions' names what *value* has."""
    integers = {name: get(value, name, int) for name in names}
    return {names[name]: n for name, n in integers.items() if n is not None and n.bit_length() < _INTEGER_BITS}


def _said(span: ReadableSpan, key: str, *types: type) -> Any:
    """Return what an attribute says if it is one of *types*, or anything if none is named; else None."""
    text = (span.attributes or {}).get(key)
    return of(loaded(text), types) if isinstance(text, str) else None


def _texts(value: Any) -> list[str]:
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]


def _messages(messages: list[Any]) -> str | None:
    return dumped(messages) if messages else None


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else dumped(value)
