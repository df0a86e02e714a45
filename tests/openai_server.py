"""An OpenAI-compatible server on 127.0.0.1 that answers what a test scripts, and the backends that call it."""

from __future__ import annotations

import importlib.util
import inspect
import json
import time
from typing import Any

import dspy
import pytest
from werkzeug import Request, Response

MODEL = "gpt-4o-mini-2024-07-18"
"""The model that answers; `dspy.LM("openai/gpt-4o-mini")` asks for another name."""

HAS_ENGINES = "engine" in inspect.signature(dspy.LM.__init__).parameters
BACKENDS = ["lm15", "litellm"] if HAS_ENGINES else ["litellm"]
"""The backends of the installed DSPy: before 3.4 there is only LiteLLM, and no `engine=`."""

TOOL_BACKENDS = [each for each in BACKENDS if each == "lm15" or importlib.util.find_spec("mcp")]
"""The backends with tools and the Responses API: for these LiteLLM imports `mcp`, which it does not bring."""

DROP = object()
"""An answer that closes the connection in the middle of a response."""


class OpenAIServer:
    """Answers the requests of a test in the order in which they were scripted; the last answer is repeated."""

    def __init__(self, httpserver) -> None:
        self.url = httpserver.url_for("/v1")
        self.requests: list[dict[str, Any]] = []
        self._answers: list[Any] = [chat()]
        httpserver.expect_request("/v1/chat/completions").respond_with_handler(self._answer)
        httpserver.expect_request("/v1/completions").respond_with_handler(self._answer)
        httpserver.expect_request("/v1/responses").respond_with_handler(self._answer)

    def script(self, *answers: Any) -> None:
        """Set what the next requests are answered with: bodies, HTTP responses, or functions of a request's body."""
        self._answers = list(answers)

    def lm(self, backend: str, **kwargs: Any) -> dspy.LM:
        """Return an LM that calls this server through *backend*."""
        settings = {"api_base": self.url, "api_key": "sk-secret", "cache": False, "model": "openai/gpt-4o-mini"}
        engine = {"engine": backend} if HAS_ENGINES else {}
        return dspy.LM(**{**settings, **engine, **kwargs})

    def _answer(self, request: Request) -> Response:
        body = request.get_json()
        self.requests.append(body)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if callable(answer) and not isinstance(answer, Response):  # a response is a WSGI application
            answer = answer(body)
        if isinstance(answer, Response):
            return answer
        if answer is DROP:
            return Response(b"{", headers={"Content-Length": "1000"}, content_type="application/json")
        return Response(json.dumps(answer), content_type="application/json")


def backends(test):
    """Run *test* on each of DSPy's backends."""
    return pytest.mark.parametrize("backend", BACKENDS)(test)


def usage(prompt: int = 100, completion: int = 20, *, cached: int | None = None, reasoning: int | None = None):
    """Return the usage of a chat completion, in tokens."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    if cached is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": cached}
    if reasoning is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return counts


def choice(text: str | None = "42", *, index: int = 0, finish_reason: str = "stop", **message: Any):
    """Return one completion; *message* is what else it says: `tool_calls`, `reasoning_content`."""
    said = {"role": "assistant", "content": text, **message}
    return {"index": index, "message": said, "finish_reason": finish_reason}


def tool_call(name: str, arguments: dict[str, Any], call_id: str = "call_1"):
    """Return a call of a tool as it stands in a message."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def chat(*choices: dict[str, Any], model: str = MODEL, counts: dict[str, Any] | None = None):
    """Return a chat completion with *choices*, by default the text `42` for 100 + 20 tokens."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": list(choices or [choice()]),
        "usage": usage() if counts is None else counts,
    }


def text_completion(text: str = "42"):
    """Return an answer of OpenAI's older text completions."""
    completion = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
    return {**chat(), "object": "text_completion", "choices": [completion]}


def responses(*output: dict[str, Any], status: str = "completed", **fields: Any):
    """Return an answer of OpenAI's Responses API with 100 input tokens, 30 of them cached, and 20 output tokens."""
    text = {"type": "output_text", "text": "42", "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": int(time.time()),
        "model": MODEL,
        "status": status,
        "output": list(output or [message]),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "usage": {
            "input_tokens": 100,
            "output_tokens": 20,
            "total_tokens": 120,
            "input_tokens_details": {"cached_tokens": 30},
            "output_tokens_details": {"reasoning_tokens": 5},
        },
        **fields,
    }


def stream(*texts: str):
    """Return a chat completion in server-sent events, one chunk a text, and the usage in the last one."""
    deltas = [{"role": "assistant", "content": ""}, *({"content": text} for text in texts)]
    choices = [[{"index": 0, "delta": delta, "finish_reason": None}] for delta in deltas]
    choices.append([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    chunks = [_chunk(each) for each in choices]
    chunks.append({**_chunk([]), "usage": usage(cached=30, reasoning=5)})
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return Response([*lines, "data: [DONE]\n\n"], content_type="text/event-stream")


def error(status: int, message: str):
    """Return an HTTP error in OpenAI's form, which asks the client to try again at once."""
    body = json.dumps({"error": {"message": message, "type": "error", "param": None, "code": None}})
    return Response(body, status=status, headers={"Retry-After": "0"}, content_type="application/json")


def broken_json():
    """Return a response that says that it is JSON, and is not."""
    return Response('{"choices": [', content_type="application/json")


def _chunk(choices: list[dict[str, Any]]):
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": MODEL,
        "choices": choices,
    }
