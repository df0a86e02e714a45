"""LMs that answer without a network: one any signature from its prompt alone, one with texts that it was given."""

from __future__ import annotations

import json
import re
from typing import Any

from dspy.utils.dummies import DummyLM

_CHAT_FIELD = re.compile(r"`\[\[ ## (\w+) ## \]\]`")
_JSON_FIELD = re.compile(r"`(\w+)`")


class OfflineLM(DummyLM):
    """Answers what the prompt asks for; the same prompt gets the same answer in any thread and order.

    Args:
        fields: What an output field is answered with: a value, or a function of the last message's text. A field
            that is not named here is answered with `"some <name>"`.
    """

    def __init__(self, **fields: Any) -> None:
        # `follow_examples` is DummyLM's way to answer from the messages, on every version of DSPy.
        super().__init__([], follow_examples=True)
        self.fields = fields

    def launch(self) -> None:
        """Do nothing: it runs already (`dspy.BetterTogether` asks)."""

    kill = launch

    def _use_example(self, messages: list[dict[str, Any]]) -> str:
        prompt = _text(messages[-1])
        request = prompt.rpartition("Respond with")[2]
        names = _CHAT_FIELD.findall(request)
        if names:
            texts = [f"[[ ## {name} ## ]]\n{_as_text(self._answer(name, prompt))}" for name in dict.fromkeys(names)]
            return "\n\n".join(texts)
        names = _JSON_FIELD.findall(request)
        if names:
            return json.dumps({name: self._answer(name, prompt) for name in names})
        return "plain text"

    def _answer(self, name: str, prompt: str) -> Any:
        if name == "completed":
            return ""
        answer = self.fields.get(name, f"some {name}")
        return answer(prompt) if callable(answer) else answer


class Raw(DummyLM):
    """An LM that answers with *texts* as they are, one after the other."""

    def __init__(self, *texts: str) -> None:
        super().__init__([], follow_examples=True)
        self.texts = list(texts)

    def _use_example(self, messages: list[dict[str, Any]]) -> str:
        return self.texts.pop(0)


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
