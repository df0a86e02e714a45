"""Language models, in the form that MLflow's chat view and its token and cost charts read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspy_mlflow_callbacks.describe import usage
from dspy_mlflow_callbacks.describe.payloads import to_json
from dspy_mlflow_callbacks.describe.secrets import without_secrets
from dspy_mlflow_callbacks.events import CallEnd, CallStart, SpanEnd, SpanStart

# What is shown by itself; the rest of a call's arguments are request parameters.
_CONTENT = frozenset({"items", "prompt", "messages", "request", "tools", "state", "questions"})
_NOTHING_BILLED = '{"input_cost":0.0,"output_cost":0.0,"total_cost":0.0}'


def start(call: CallStart) -> SpanStart:
    """Describe the start of an LM's call: its messages and tools as inputs, its parameters as attributes."""
    lm, arguments = call.instance, _arguments(call)
    model, model_type = str(getattr(lm, "model", type(lm).__name__)), getattr(lm, "model_type", None)
    provider, separator, _ = model.partition("/")
    attributes = {
        "dspy.class": to_json(type(lm)),
        "mlflow.llm.model": to_json(model),
        "dspy.lm.request": to_json(_parameters(lm, arguments)),
        "dspy.lm.model_type": to_json(model_type),
        "mlflow.message.format": '"openai"',
    }
    if separator:
        attributes["mlflow.llm.provider"] = to_json(provider)
    if arguments.get("tools"):
        attributes["mlflow.chat.tools"] = to_json(arguments["tools"])
    return SpanStart(
        name=call.name or model,
        span_type="LLM" if model_type == "text" else "CHAT_MODEL",
        inputs=to_json(_content(arguments, model_type)),
        attributes=attributes,
    )


def end(call: CallStart, end: CallEnd) -> SpanEnd:
    """Describe the completions as chat choices, and what the call cost."""
    failed = end.exception is not None
    known = usage.report(call.instance, call.watch, end.outputs, failed=failed)
    return SpanEnd(
        outputs=to_json(_choices(end.outputs, known)) if not failed else None,
        attributes=_report_attributes(known),
    )


def _arguments(call: CallStart) -> dict[str, Any]:
    arguments = dict(call.inputs)
    arguments.update(arguments.pop("kwargs", None) or {})
    return {name: value for name, value in arguments.items() if value is not None and value != ()}


def _parameters(lm: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    own = getattr(lm, "kwargs", None) or {}
    merged = {**own, "cache": getattr(lm, "cache", None), **arguments}
    shown = {key: value for key, value in merged.items() if key not in _CONTENT and value is not None}
    return dict(without_secrets(shown))


def _content(arguments: Mapping[str, Any], model_type: str | None) -> dict[str, Any]:
    prompt = arguments.get("prompt", arguments.get("items"))
    if isinstance(prompt, (list, tuple)) and len(prompt) == 1:
        prompt = prompt[0]
    request = arguments.get("request", prompt if hasattr(prompt, "messages") else None)
    if request is not None:
        return {"messages": _request_messages(request)}
    if isinstance(prompt, str) and model_type != "text":
        return {"messages": [{"role": "user", "content": prompt}]}
    return {name: arguments[name] for name in _CONTENT if name in arguments}


def _request_messages(request: Any) -> list[dict[str, Any]]:
    """Return the messages of a `dspy.lm15.Request` (or, before DSPy 3.4, a `dspy.LMRequest`) as chat messages."""
    system = getattr(request, "system", None)
    messages = [{"role": "system", "content": system}] if system is not None else []
    return messages + [{"role": each.role, "content": _request_content(each)} for each in request.messages]


def _request_content(message: Any) -> Any:
    text = getattr(message, "text", None)
    return text if isinstance(text, str) else message.parts


def _choices(outputs: Any, known: usage.LMReport) -> Any:
    """Return *outputs* as OpenAI's chat completion; what is no list of completions stays as it is."""
    message = getattr(outputs, "message", None)
    if message is not None:  # an lm15.Response, the answer to an explicit Request
        outputs = [{"text": outputs.text, "tool_calls": _tool_calls(outputs), "reasoning_content": _thinking(message)}]
    elif hasattr(outputs, "outputs"):  # an LMResponse of DSPy 3.3
        outputs = outputs.to_legacy_outputs()
    if not isinstance(outputs, list):
        return outputs
    reasons = dict(enumerate(known.finish_reasons))
    choices = [
        {"index": index, "message": _message(output), "finish_reason": reasons.get(index)}
        for index, output in enumerate(outputs)
    ]
    return {"choices": choices, "model": known.response_model, "object": "chat.completion"}


def _message(output: Any) -> dict[str, Any]:
    if not isinstance(output, Mapping):
        return {"role": "assistant", "content": output}
    rest = {key: value for key, value in output.items() if key != "text" and value}
    return {"role": "assistant", "content": output.get("text"), **rest}


def _tool_calls(response: Any) -> list[dict[str, Any]]:
    return [
        {"id": each.id, "type": "function", "function": {"name": each.name, "arguments": to_json(each.input)}}
        for each in getattr(response, "tool_calls", None) or ()
    ]


def _thinking(message: Any) -> str:
    return "".join(part.text for part in message.parts if type(part).__name__ == "ThinkingPart")


def _report_attributes(known: usage.LMReport) -> dict[str, str]:
    attributes = {"dspy.lm.cache_hit": to_json(known.cache_hit), "dspy.lm.retries": to_json(known.retries)}
    if known.tokens:
        attributes["mlflow.chat.tokenUsage"] = to_json(known.tokens)
    if known.cache_hit:
        attributes["mlflow.llm.cost"] = _NOTHING_BILLED
    elif known.cost is not None:
        attributes["mlflow.llm.cost"] = to_json({"total_cost": known.cost})
    if known.finish_reasons:
        reasons = known.finish_reasons
        attributes["dspy.lm.finish_reason"] = to_json(reasons[0] if len(reasons) == 1 else reasons)
    if known.response_model:
        attributes["dspy.lm.response_model"] = to_json(known.response_model)
    return attributes
