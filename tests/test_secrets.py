"""Credentials do not reach the store: its bytes are searched for them."""

from __future__ import annotations

import dspy
import pytest
from programs import Program, answering
from stored import stored_bytes

from dspy_mlflow_callbacks.describe.payloads import plain_without_secrets as without_secrets
from dspy_mlflow_callbacks.secrets import REDACTED, is_secret_name

SECRET = "tell-nobody-0123456789"


class Asks(dspy.Module):
    """Calls the LM that it is given, as a parameter."""

    def forward(self, question, model):
        with dspy.context(lm=model):
            return predict()(question=question)


KINDS = {
    "api_key": SECRET,
    "headers": {"Authorization": f"Bearer {SECRET}"},
    "extra_headers": {"authorization": SECRET, "X-Innocent": f"Bearer {SECRET}"},
    "aws_secret_access_key": SECRET,
    "aws_session_token": SECRET,
    "vertex_credentials": f'{{"private_key": "{SECRET}"}}',
    "azure_ad_token": SECRET,
    "extra_body": {"deployments": [{"clientSecret": SECRET}]},
}


@pytest.fixture
def lm(httpserver):
    """An LM behind HTTP, made with *secrets* of its own; an offline one takes no credentials."""
    message = {"role": "assistant", "content": "[[ ## reasoning ## ]]\nr\n\n[[ ## answer ## ]]\n42"}
    httpserver.expect_request("/v1/chat/completions").respond_with_json(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-4o-mini",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }
    )
    # RFC 3986: credentials may stand in the address.
    api_base = httpserver.url_for("/v1").replace("://", f"://user:{SECRET}@")

    def lm(**secrets):
        return dspy.LM("openai/gpt-4o-mini", **{"api_key": "none", "api_base": api_base, "cache": False, **secrets})

    return lm


def predict(**config):
    return dspy.Predict("question -> answer", **config)


def call_lm(lm, secrets):
    lm()("hello", **secrets)


def predict_with_config(lm, secrets):
    with dspy.context(lm=lm()):
        predict()(question="q", config=secrets)


def predict_made_with_config(lm, secrets):
    with dspy.context(lm=lm()):
        predict(**secrets)(question="q")


def program_of_an_lm(lm, secrets):
    program = Program()
    program.set_lm(lm(**secrets))
    program(question="q")


def lm_as_argument(lm, secrets):
    Asks()(question="q", model=lm(**secrets))


def lm_of_a_predict(lm, secrets):
    with dspy.context(lm=lm()):
        predict()(question="q", lm=lm(**secrets))


WAYS = [call_lm, predict_with_config, predict_made_with_config, program_of_an_lm, lm_as_argument, lm_of_a_predict]


@pytest.mark.parametrize("way", WAYS)
def test_secrets_do_not_reach_the_store(dspy_traces, lm, way):
    """No kind of credential is stored, in whatever way it comes to the LM; what is no secret is."""
    way(lm, KINDS)
    assert dspy_traces.one().info.state == "OK"
    stored = stored_bytes(dspy_traces)
    assert SECRET.encode() not in stored
    assert dspy_traces.one().info.trace_id.encode() in stored


def test_store_is_searched(dspy_traces):
    """The search finds what is stored: a question that was asked."""
    question = "found-everywhere-0123456789"
    with dspy.context(lm=answering()):
        Program()(question=question)
    dspy_traces.one()
    assert question.encode() in stored_bytes(dspy_traces)


def test_hidden_parameters_are_named(dspy_traces, lm):
    """A hidden parameter is shown by its name, beside the others with their values."""
    headers = {"Authorization": SECRET, "X-Team": "search"}
    call_lm(lm, {"api_key": SECRET, "temperature": 0.5, "max_tokens": 77, "headers": headers})
    (span,) = dspy_traces.spans(kind="lm")
    request = span.get_attribute("dspy.lm.request")
    shown = {name: request[name] for name in ("api_key", "temperature", "max_tokens", "headers")}
    assert shown == {
        "api_key": REDACTED,
        "temperature": 0.5,
        "max_tokens": 77,
        "headers": {"Authorization": REDACTED, "X-Team": "search"},
    }


@pytest.mark.parametrize(
    "name",
    [
        "api_key", "apikey", "apiKey", "api-key", "x-api-key", "OPENAI_API_KEY", "X-Goog-Api-Key", "azure_api_key",
        "Ocp-Apim-Subscription-Key", "Authorization", "Proxy-Authorization", "auth", "token", "hf_token",
        "accessToken", "azure_ad_token", "azure_ad_token_provider", "aws_access_key_id", "aws_secret_access_key",
        "aws_session_token", "X-Amz-Security-Token", "client_secret", "clientSecret", "vertex_credentials",
        "vertex_ai_credentials", "password", "azure_password", "Cookie", "Set-Cookie", "private_key", "passphrase",
        "connection_string", "jwt", "openai_key", "SharedAccessSignature", "AccountKey", "dbPassword", "PGPASSWORD",
        "api_keys", "refresh_tokens", "token2", "smtp_pass", "Authorization ", "my api key",
    ],
)  # fmt: skip
def test_names_of_secrets(name):
    """A name in any provider's spelling is known for a credential's."""
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "max_tokens", "max_token", "input_tokens", "token_count", "prompt_token_count", "totalTokenCount",
        "token_limit", "tokenizer", "max_completion_tokens", "author", "authors", "keyword", "keywords", "monkey",
        "key", "secretary", "model", "temperature", "cookiecutter", "passage",
        "eos_token", "pad_token_id", "time_to_first_token", "token_type", "next_page_token", "auth_type", "primary_key",
        "public_key", "signature", "passed", "the name of the password", "tokens", "key" * 40 + "_token",
    ],
)  # fmt: skip
def test_names_of_other_things(name):
    """What only sounds like a credential stays."""
    assert not is_secret_name(name)


class Options:
    def __repr__(self):
        return "options"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [{"token": "t"}, ("x", None)]}, {"a": [{"token": REDACTED}, ["x", None]]}),
        ({"token": None, "api_key": {"any": "thing"}}, {"token": None, "api_key": REDACTED}),
        ("https://user:pass@host/v1", f"https://{REDACTED}@host/v1"),
        ("https://host/v1?api_key=abc&model=m", f"https://host/v1?api_key={REDACTED}&model=m"),
        ("Bearer abcd", f"Bearer {REDACTED}"),
        ("Basic research is fun", "Basic research is fun"),
        ("mail me@host", "mail me@host"),
        (3, 3),
        (Options(), "options"),
    ],
)
def test_without_secrets(value, expected):
    """Secrets are hidden at any depth, by their name or, in a URL or an HTTP header's value, by their look."""
    assert without_secrets(value) == expected


def test_parameters_that_hold_themselves():
    """A cycle among the parameters ends."""
    parameters = {"token": "t"}
    parameters["self"] = parameters
    assert without_secrets(parameters) == {"token": REDACTED, "self": "<cycle: dict>"}


def test_a_token_with_its_probability_is_no_secret():
    """What a model wrote, token by token with log probabilities, stays; a token without is a credential."""
    scored = {"token": "42", "logprob": -0.5, "top_logprobs": [{"token": "43", "logprob": -2.5}]}
    assert without_secrets(scored) == scored
    assert without_secrets({"token": "42"}) == {"token": REDACTED}
