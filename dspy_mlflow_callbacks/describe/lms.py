"""Language models, in the form that MLflow's chat view and its token and cost charts read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from dspy_mlflow_callbacks.describe import chat, usage
from dspy_mlflow_callbacks.describe.content import RETRY_ERRORS, Closing, Opening
from dspy_mlflow_callbacks.describe.payloads import describe_value, parameters_to_json, to_json, word_to_json
from dspy_mlflow_callbacks.events import CallEnd, CallKind, CallStart

# What is shown by itself; the rest of a call's arguments are request parameters.
_CONTENT = frozenset({"prompt", "messages", "tools", "state", "questions", "prediction", "suffix", "input"})
_CHAT_TYPES = frozenset({"chat", "responses"})

# Values that nobody can change.
_UNCHANGING = frozenset({type(None), bool, int, float, str})
_TEXTS = frozenset({str})


def name(kind: CallKind, instance: Any, inputs: Mapping[str, Any], parent: CallStart | None) -> str:
    """Return the model as DSPy names it."""
    return _model(instance)


def start(call: CallStart) -> Opening:
    """Describe the start of an LM's call: its messages and tools as inputs, its parameters as attributes."""
    lm = call.instance
    cls: Any = type(lm)
    model_type = getattr(lm, "model_type", None)
    content, parameters = _parted(_arguments(lm, call.inputs))
    facts = functools.partial(_attributes, _identity(cls, _model(lm), model_type), parameters)
    can_wait = _UNCHANGING.issuperset(map(type, parameters.values()))
    attributes = {} if can_wait else facts()
    functions = _functions(content.get("tools"))
    if functions:
        attributes["mlflow.chat.tools"] = to_json(functions)
    is_chat = model_type in _CHAT_TYPES
    if is_chat and isinstance(content.get("prompt"), str):
        content = {"messages": [{"role": "user", "content": content.pop("prompt")}], **content}
    return Opening(
        span_type="CHAT_MODEL" if is_chat else "LLM",
        inputs=content,
        attributes=attributes,
        later=facts if can_wait else None,
    )


def _attributes(identity: Mapping[str, str], parameters: Mapping[str, Any]) -> dict[str, str]:
    return {**identity, "dspy.lm.request": parameters_to_json(parameters)} if parameters else dict(identity)


def _model(lm: Any) -> str:
    return str(getattr(lm, "model", type(lm).__name__))


@functools.lru_cache(maxsize=512)
def _identity(cls: type, model: str, model_type: Any) -> dict[str, str]:
    """Return what an LM's spans say of the LM, whatever it is asked."""
    provider, separator, _ = model.partition("/")
    known = {
        "dspy.class": cls,
        "dspy.lm.model_type": model_type,
        "mlflow.llm.model": model,
        "mlflow.llm.provider": provider if separator else None,
        "mlflow.message.format": "openai",
    }
    return {key: to_json(value) for key, value in known.items() if value is not None}


def _parted(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is asked of an LM, and the parameters that it is asked with."""
    content, parameters = {}, {}
    for name, value in arguments.items():
        if name in _CONTENT:
            content[name] = value
        else:
            parameters[name] = value
    return content, parameters


def end(call: CallStart, end: CallEnd) -> Closing:
    """Describe the completions as chat choices, and what the call cost."""
    outputs = end.outputs
    is_said = "/" in str(getattr(call.instance, "model", "/"))  # who provides the model, by the start
    if end.exception is None and type(outputs) is list and _TEXTS.issuperset(map(type, outputs)):
        # The texts stay what they are, and the answers are DSPy's own.
        return Closing(later=functools.partial(_closing, call.watch, outputs.copy(), is_said=is_said))
    closing = _closing(call.watch, outputs, is_said=is_said)
    return closing if end.exception is None else Closing(attributes=closing.attributes)


def _closing(watch: Any, outputs: Any, *, is_said: bool) -> Closing:
    known = usage.report(watch, outputs)
    facts = _facts(known)
    if known.provider is not None and not is_said:
        facts["mlflow.llm.provider"] = word_to_json(known.provider)
    return Closing(outputs=_completion(outputs, known), attributes=facts)


def _arguments(lm: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked of *lm*, its own defaults included, by one set of names in whatever way it was called."""
    given = dict(inputs)
    given.update(given.pop("kwargs", None) or {})
    items = given.pop("items", ())  # before DSPy 3.4: the positional arguments
    given["prompt"] = given.get("prompt") or (items[0] if len(items) == 1 else items or None)
    defaults = getattr(lm, "kwargs", None) or {}
    request = given.pop("request", None) or given.get("prompt")
    if chat.is_request(request):  # it says all that is asked; defaults do not count
        defaults = {
            **chat.parameters(request),
            "messages": chat.messages(request),
            "tools": chat.tools(request) or None,
        }
        given.pop("prompt", None)
        given.pop("messages", None)
    merged = {"cache": getattr(lm, "cache", None), **defaults, **given}
    return {name: value for name, value in merged.items() if value is not None}


def _functions(tools: Any) -> list[Any]:
    """Return those of *tools* that are functions: MLflow's chat view shows none at all beside any other kind."""
    listed = tools if isinstance(tools, (list, tuple)) else ()
    return [tool for tool in listed if isinstance(tool, Mapping) and tool.get("type") == "function"]


def _completion(outputs: Any, known: usage.LMReport) -> Any:
    """Return *outputs* as OpenAI's chat completion; what is no list of completions stays as it is."""
    messages = _messages(outputs)
    if messages is None:
        return outputs
    reasons = dict(enumerate(known.finish_reasons))
    choices = [
        {"index": index, "message": message, "finish_reason": reasons.get(index)}
        for index, message in enumerate(messages)
    ]
    return {"choices": choices}


def _messages(outputs: Any) -> list[dict[str, Any]] | None:
    if isinstance(outputs, list):
        return [_message(output) for output in outputs]
    answers = getattr(outputs, "outputs", None)  # of an LMResponse, before DSPy 3.4
    if hasattr(outputs, "message"):  # of an lm15.Response
        answers = [outputs.message]
    return None if answers is None else [chat.assistant(answer.parts) for answer in answers]


def _message(output: Any) -> dict[str, Any]:
    if isinstance(output, str) or not isinstance(output, Mapping):
        return {"role": "assistant", "content": output}
    # `reasoning` is the word that MLflow's chat view reads.
    rest = {"reasoning" if key == "reasoning_content" else key: value for key, value in output.items() if value}
    rest.pop("text", None)
    return {"role": "assistant", "content": output.get("text"), **rest}


def _facts(known: usage.LMReport) -> dict[str, str]:
    facts = {"dspy.lm.cache_hit": "true" if known.cache_hit else "false"}
    if known.tokens:
        facts["mlflow.chat.tokenUsage"] = to_json(known.tokens)
    if known.cost is not None:
        facts["mlflow.llm.cost"] = to_json(known.cost)
    reasons = [reason for reason in known.finish_reasons if reason is not None]
    if reasons:
        facts["dspy.lm.finish_reason"] = word_to_json(reasons[0]) if len(reasons) == 1 else to_json(reasons)
    if known.response_model is not None:
        facts["dspy.lm.response_model"] = word_to_json(known.response_model)
    if known.retries is not None:
        facts["dspy.lm.retries"] = str(len(known.retries))
    if known.retries:
        facts[RETRY_ERRORS] = to_json([describe_value(error) for error in known.retries])
    return facts
