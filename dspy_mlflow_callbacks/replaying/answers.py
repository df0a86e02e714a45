"""The answers of recorded LM and tool calls, as the program gets them again."""

from __future__ import annotations

import asyncio
import builtins
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import dspy
import pydantic

from dspy_mlflow_callbacks.describe.tools import RESULT_TYPE
from dspy_mlflow_callbacks.replaying.marks import CHANGES, mark_in
from dspy_mlflow_callbacks.replaying.recording import Recorded

# What lm15 calls otherwise than OpenAI's chat completions, which is what a span says.
_LM15_REASONS = {"tool_calls": "tool_call", "length": "length", "content_filter": "content_filter"}
_LM15_COUNTS = {
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
}
_MESSAGE_FIELDS = frozenset({"role", "content", "reasoning", "tool_calls", "citations", "logprobs"})


class RecordedError(Exception):
    """Stands for an exception of a class that is not known here; its name is that of the class."""


class LMAnswer:
    """What a recorded LM call answers to the program that makes it again.

    Args:
        call: The recorded call.
        bills: Whether it says that it used the tokens that the recorded call did; else that it used none.
    """

    def __init__(self, call: Recorded, *, bills: bool = False) -> None:
        self.model = str(call.attributes.get("dspy.lm.response_model") or call.attributes["mlflow.llm.model"])
        self.error = error_of(call)
        self._usage = call.attributes.get("mlflow.chat.tokenUsage") or {} if bills else {}
        self._is_dict = call.attributes.get("dspy.lm.model_type") == "responses"
        self._choices = [] if self.error is not None else call.outputs["choices"]

    def outputs(self) -> list[Any]:
        """Return the completions as DSPy hands them to adapters: texts, or dicts with `text` and more."""
        found = [_output(choice["message"]) for choice in self._choices]
        is_text = not self._is_dict and all(output.keys() == {"text"} for output in found)
        return [output["text"] for output in found] if is_text else found

    def finish_reasons(self) -> Sequence[str | None]:
        """Return why the model stopped, for each completion."""
        return [choice.get("finish_reason") for choice in self._choices]

    def response(self, index: int) -> Any:
        """Return a completion, or the last one, as a `dspy.lm15.Response`; the first one has the usage of all."""
        lm15 = dspy.lm15
        choice = self._choices[min(index, len(self._choices) - 1)]
        return lm15.Response(
            id=None,
            model=self.model,
            message=lm15.Message.assistant(_parts(choice["message"])),
            finish_reason=_LM15_REASONS.get(choice.get("finish_reason"), "stop"),
            usage=lm15.Usage(**_lm15_usage({} if index else self._usage)),
            logprobs=_logprobs(choice["message"]),
        )


def _lm15_usage(usage: Mapping[str, int]) -> dict[str, int]:
    return {_LM15_COUNTS.get(name, name): count for name, count in usage.items()}


def _output(message: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in message.items() if name not in ("role", "content", "reasoning")}
    reasoning = {"reasoning_content": message["reasoning"]} if "reasoning" in message else {}
    return {"text": message["content"], **reasoning, **rest}


def _parts(message: Mapping[str, Any]) -> list[Any]:
    lm15 = dspy.lm15
    parts: list[Any] = [lm15.ThinkingPart(message["reasoning"])] if message.get("reasoning") else []
    if message["content"] is not None:
        parts.append(lm15.TextPart(message["content"]))
    for call in message.get("tool_calls") or ():
        function = call["function"]
        parts.append(lm15.ToolCallPart(call["id"], function["name"], json.loads(function["arguments"] or "{}")))
    parts += [lm15.CitationPart(**_citation(each)) for each in message.get("citations") or ()]
    return parts or [lm15.TextPart("")]


def _citation(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: said[name] for name in ("url", "title", "text") if said.get(name) is not None}


def _logprobs(message: Mapping[str, Any]) -> Any:
    said = message.get("logprobs")
    return None if said is None else tuple(_logprob(token) for token in said["content"])


def _logprob(token: Mapping[str, Any]) -> Any:
    top = tuple(dspy.lm15.TopLogprob(each["token"], each["logprob"], _bytes(each)) for each in token["top_logprobs"])
    return dspy.lm15.TokenLogprob(token["token"], token["logprob"], _bytes(token), top=top)


def _bytes(token: Mapping[str, Any]) -> tuple[int, ...] | None:
    return None if token.get("bytes") is None else tuple(token["bytes"])


def problem_of_lm(call: Recorded) -> str | None:
    """Return why a recorded LM call cannot answer again, and what to change; None if it can."""
    if call.error is not None:
        return None
    missing = _missing("answer", call.outputs, "capture_outputs` and `capture_messages")
    if missing is not None:
        return missing
    choices = call.outputs.get("choices") if isinstance(call.outputs, dict) else None
    if not choices or not all(map(_can_be_rebuilt, choices)):
        return "its answer is of a kind that cannot be rebuilt from a span; use mode='live' and from_span= before it"
    return None


def _can_be_rebuilt(choice: Mapping[str, Any]) -> bool:
    message = choice.get("message", {})
    is_text = isinstance(message.get("content", 0), (str, type(None)))
    return is_text and message.keys() <= _MESSAGE_FIELDS and all(map(_is_tool_call, message.get("tool_calls") or ()))


def _is_tool_call(call: Mapping[str, Any]) -> bool:
    try:
        return bool(call["id"]) and isinstance(json.loads(call["function"]["arguments"] or "{}"), dict)
    except (KeyError, TypeError, ValueError):
        return False


def _missing(what: str, outputs: Any, options: str) -> str | None:
    if outputs is None:
        return f"its {what} was not recorded; record it with `{options}` on"
    mark = mark_in(outputs)
    return None if mark is None else f"its {what} {CHANGES[mark]}"


def problem_of_tool(call: Recorded, returns: Any) -> str | None:
    """Return why a recorded tool call cannot be answered again, and what to do; None if it can.

    Args:
        call: The recorded call.
        returns: What the tool is annotated to return; None where that is not known.
    """
    if call.error is not None:
        return None
    if call.attributes.get("dspy_mlflow_callbacks.incomplete"):
        return "its result was withheld, because a middleware failed; repair that middleware, or use tools='live'"
    other = call.attributes.get(RESULT_TYPE)
    mark = mark_in(call.outputs)
    if mark is not None:
        return f"its result {CHANGES[mark]}, or use tools='live'"
    if other is not None and returns is None:
        return (
            f"it returned a {other}, which cannot be rebuilt from a span; annotate what the tool returns, "
            "or use tools='live'"
        )
    return None


def tool_result(call: Recorded, returns: Any) -> Any:
    """Return what a recorded tool call returned, or raise what it raised; see `problem_of_tool`."""
    error = error_of(call)
    if error is not None:
        raise error
    if RESULT_TYPE not in call.attributes:
        return call.outputs
    return pydantic.TypeAdapter(returns).validate_python(call.outputs)


def error_of(call: Recorded) -> BaseException | None:
    """Return the exception that a recorded call raised; None if it returned."""
    if call.error is None:
        return None
    name, message = call.error
    cls = _error_class(name)
    error = cls.__new__(cls)  # its constructor may ask for what a span does not have
    error.args = (message,) if message else ()
    for field in ("message", "code", "model", "provider", "provider_code", "status", "request_id", "retry_after"):
        if isinstance(error, dspy.DSPyError):
            setattr(error, field, message if field == "message" else None)
    return error


def _error_class(name: str) -> type[BaseException]:
    for place in (dspy, builtins, asyncio):
        found = getattr(place, name, None)
        if isinstance(found, type) and issubclass(found, BaseException):
            return found
    return cast("type[BaseException]", type(name or "RecordedError", (RecordedError,), {}))
