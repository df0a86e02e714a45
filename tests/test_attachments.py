"""Images and other binary data become MLflow attachments: the payload refers to them, the artifact store has them."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import dspy
import mlflow
import pytest
from programs import answering, tool_call

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
PNG_URI = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
WAV = b"RIFF" + bytes(range(200))
PDF = b"%PDF-1.7 " + bytes(range(100))


class Look(dspy.Signature):
    """Describe what there is."""

    picture: dspy.Image = dspy.InputField()
    pictures: list[dspy.Image] = dspy.InputField()
    sound: dspy.Audio = dspy.InputField()
    file: dspy.File = dspy.InputField()
    answer: str = dspy.OutputField()


class Hand(dspy.Module):
    """Hands on what it is given."""

    def forward(self, given):
        return given


def stored(traces, reference):
    """Return the type and the bytes of the attachment that *reference* names, from the artifact store."""
    parts = urlsplit(reference)
    assert parts.scheme == "mlflow-attachment"
    root = Path(unquote(urlsplit(mlflow.get_experiment(traces.experiment_id).artifact_location).path))
    (file,) = root.rglob(parts.netloc)
    (content_type,) = parse_qs(parts.query)["content_type"]
    return content_type, file.read_bytes()


def references(value):
    """Return all references in a payload, in the order in which they stand."""
    if isinstance(value, dict):
        return [found for item in value.values() for found in references(item)]
    if isinstance(value, list):
        return [found for item in value for found in references(item)]
    return [value] if str(value).startswith("mlflow-attachment://") else []


def look():
    sound = dspy.Audio(data=base64.b64encode(WAV).decode(), audio_format="wav")
    picture = dspy.Image(PNG_URI)
    with dspy.context(lm=answering({"answer": "42"})):
        dspy.Predict(Look)(
            picture=picture,
            pictures=[picture, picture],
            sound=sound,
            file=dspy.File.from_bytes(PDF, filename="a.pdf", mime_type="application/pdf"),
        )


EVERYTHING = [("image/png", PNG)] * 3 + [("audio/wav", WAV), ("application/pdf", PDF)]


@pytest.mark.parametrize(
    ("kind", "payload"),
    [("module", "inputs"), ("adapter_format", "inputs"), ("adapter_format", "outputs"), ("lm", "inputs")],
)
def test_media_of_a_signature(dspy_traces, kind, payload):
    """Images, audio and files are attachments in a module's inputs, an adapter's messages and an LM's."""
    look()
    (span,) = dspy_traces.spans(kind=kind)
    found = [stored(dspy_traces, reference) for reference in references(getattr(span, payload))]
    assert found == EVERYTHING
    assert ";base64," not in str(getattr(span, payload))


def test_images_from_bytes_and_by_address(dspy_traces):
    """An image made from bytes is an attachment; one at an address stays an address."""
    Hand()(given=[dspy.Image(PNG_URI), dspy.Image("https://example.com/cat.png")])
    (span,) = dspy_traces.spans()
    first, second = span.inputs["given"]
    assert stored(dspy_traces, first["url"]) == ("image/png", PNG)
    assert second == {"url": "https://example.com/cat.png"}


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("payload", ["inputs", "outputs"])
def test_bytes(dspy_traces, kind, payload):
    """Bytes of 1 KiB and more are an attachment, fewer are told by their number."""
    data = bytes(range(256)) * 4
    Hand()(given={"large": kind(data), "small": kind(b"abc")})
    (span,) = dspy_traces.spans()
    shown = span.inputs["given"] if payload == "inputs" else span.outputs
    assert stored(dspy_traces, shown["large"]) == ("application/octet-stream", data)
    assert shown["small"] == "<3 bytes>"


def test_image_from_a_tool_in_a_trajectory(dspy_traces):
    """An image that a tool returned is an attachment also in the agent's trajectory, where DSPy marks it in a text."""

    def photograph(subject: str) -> dspy.Image:
        return dspy.Image(PNG_URI)

    lm = answering(
        tool_call("photograph", subject="cat"),
        tool_call("finish"),
        {"reasoning": "r", "answer": "a"},
    )
    with dspy.context(lm=lm):
        dspy.ReAct("question -> answer", tools=[photograph])(question="q")
    (extract,) = dspy_traces.spans(name="ReAct.extract.predict")
    parts = extract.inputs["trajectory"]
    assert [part["type"] for part in parts] == ["text", "image_url", "text"]
    assert "observation_0" in parts[0]["text"]
    assert stored(dspy_traces, parts[1]["image_url"]["url"]) == ("image/png", PNG)
    payloads = [payload for span in dspy_traces.spans() for payload in (span.inputs, span.outputs)]
    assert not any(";base64," in str(payload) or "CUSTOM-TYPE" in str(payload) for payload in payloads)


def test_text_that_only_looks_like_data(dspy_traces):
    """A text with the words of a data URI is kept as it is."""
    text = "write data:image/png;base64,… into the page"
    Hand()(given=text)
    (span,) = dspy_traces.spans()
    assert (span.inputs, span.outputs) == ({"given": text}, text)


def test_attachments_are_mlflows_choice(dspy_traces, monkeypatch):
    """With MLflow's extraction switched off the data stays in the payload."""
    monkeypatch.setenv("MLFLOW_TRACE_EXTRACT_ATTACHMENTS", "false")
    Hand()(given=dspy.Image(PNG_URI))
    (span,) = dspy_traces.spans()
    assert span.outputs == {"url": PNG_URI}
