"""Texts with a secret in them, and texts that only look as if they had one.

Each secret is made here, of pieces: no scanner of this repository's history shall find one.
"""

from __future__ import annotations

import base64
import json
import string

LETTERS = string.ascii_letters + string.digits


def random(length: int, seed: int, alphabet: str = LETTERS) -> str:
    """Return a text that looks random, the same each time."""
    text, state = "", seed + 7
    while len(text) < length:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        text += alphabet[(state >> 33) % len(alphabet)]
    return text


HEX, UPPER = "0123456789abcdef", string.ascii_uppercase + "234567"
JWT = ".".join(
    base64.urlsafe_b64encode(part).decode().rstrip("=")
    for part in (b'{"alg":"HS256","typ":"JWT"}', b'{"sub":"1234567890","name":"nobody"}', b"signed-by-nobody-at-all-1")
)
PEM_BODY = "\n".join(random(64, seed) for seed in range(3))

# What is known by its own look: the name of the kind, and the credential.
SHAPED = {
    "OpenAI": "sk-" + random(48, 1),
    "OpenAI project": "sk-" + "proj-" + random(80, 2, LETTERS + "-_"),
    "OpenAI service account": "sk-" + "svcacct-" + random(60, 3),
    "Anthropic": "sk-" + "ant-api03-" + random(90, 4, LETTERS + "-_"),
    "OpenRouter": "sk-" + "or-v1-" + random(64, 5, HEX),
    "DeepSeek": "sk-" + random(32, 6, HEX),
    "AWS access key": "AKIA" + random(16, 7, UPPER),
    "AWS temporary key": "ASIA" + random(16, 8, UPPER),
    "Google API": "AIza" + random(35, 9),
    "Google OAuth token": "ya29." + random(60, 10),
    "Google OAuth secret": "GOCSPX-" + random(28, 11),
    "Google refresh token": "1//0" + random(60, 12),
    "GitHub": "ghp_" + random(36, 13),
    "GitHub OAuth": "gho_" + random(36, 14),
    "GitHub server": "ghs_" + random(36, 15),
    "GitHub fine-grained": "github_pat_" + random(22, 16) + "_" + random(59, 17),
    "GitLab": "glpat-" + random(20, 18),
    "Slack bot": "xoxb-" + "123456789012-1234567890123-" + random(24, 19),
    "Slack user": "xoxp-" + "123456789012-1234567890123-" + random(32, 20, HEX),
    "Slack app": "xapp-" + "1-A0123456789-1234567890123-" + random(64, 21, HEX),
    "Slack hook": "services/T01234567/B01234567/" + random(24, 22),
    "Stripe": "sk_" + "live_" + random(24, 23),
    "Stripe webhook": "whsec_" + random(32, 24),
    "Hugging Face": "hf_" + random(34, 25, string.ascii_letters),
    "Databricks": "dapi" + random(32, 26, HEX),
    "Groq": "gsk_" + random(52, 27),
    "xAI": "xai-" + random(80, 28),
    "Perplexity": "pplx-" + random(48, 29),
    "NVIDIA": "nvapi-" + random(64, 30),
    "LangSmith": "lsv2_" + "pt_" + random(32, 31, HEX) + "_" + random(10, 32, HEX),
    "npm": "npm_" + random(36, 33),
    "PyPI": "pypi-" + "AgEIcHlwaS5vcmc" + random(60, 34),
    "SendGrid": "SG." + random(22, 35) + "." + random(43, 36),
    "Tavily": "tvly-" + "dev-" + random(32, 37),
    "Pinecone": "pcsk_" + random(60, 38),
    "JWT": JWT,
    "Bearer": random(40, 39),
    "Basic": base64.b64encode(b"user:tell-nobody-77").decode(),
    "password in a URL": "tell-nobody-in-a-url-1",
    "user in a URL": random(40, 40),
    "signature in a URL": random(40, 41, HEX),
    "private key": PEM_BODY,
}
_AROUND = {
    "Slack hook": "https://hooks.slack.com/{}",
    "Bearer": "Bearer {}",
    "Basic": "Basic {}",
    "password in a URL": "postgresql://app:{}@db.example.com:5432/app",
    "user in a URL": "https://{}@github.com/acme/app.git",
    "signature in a URL": "https://bucket.s3.amazonaws.com/o?X-Amz-Date=1&X-Amz-Signature={}",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
}
SHAPED_TEXTS = {kind: _AROUND.get(kind, "{}").format(secret) for kind, secret in SHAPED.items()}

PASSWORD = "tell-nobody-0123456789"
"""A secret that has no look of its own: it is known by the name beside it."""

# In texts: each has `PASSWORD`, under a name.
NAMED_TEXTS = [
    f'{{"api_key": "{PASSWORD}", "model": "m"}}',
    f'see {{"api_key": "{PASSWORD}"}} there',
    json.dumps({"arguments": json.dumps({"client_secret": PASSWORD})}),
    "see " + json.dumps({"arguments": json.dumps({"client_secret": PASSWORD + '"x'})}),
    f"{{'api_key': '{PASSWORD}', 'n': 1}}",
    f"LM(model='m', api_key='{PASSWORD}')",
    f'    lm = dspy.LM("m", api_key="{PASSWORD}")',
    f"HF_TOKEN={PASSWORD}",
    f"export AWS_SECRET_ACCESS_KEY={PASSWORD}\n",
    f"password: {PASSWORD}",
    f"DB_PASSWORD: '{PASSWORD}'",
    f"Authorization: Bearer {PASSWORD}",
    f"authorization: {PASSWORD}",
    f"Cookie: theme=dark; session={PASSWORD}",
    f"{{'Authorization': 'Bearer {PASSWORD}'}}",
    f"{{'headers': {{'authorization': b'{PASSWORD}'}}}}",
    f"{{'credentials': {{'user': 'u', 'word': '{PASSWORD}'}}}}",
    f'"credentials": ["{PASSWORD}", 2], "other": 1',
    f"auth=('user', '{PASSWORD}')",
    f"https://example.com/v1?model=m&api_key={PASSWORD}&x=1",
    f"Endpoint=sb://x/;SharedAccessKey={PASSWORD};EntityPath=p",
    f"AccountName=a;AccountKey={PASSWORD};EndpointSuffix=core",
    f"tool --api-key {PASSWORD} --verbose",
    f"tool --password={PASSWORD}",
    f"<api_key>{PASSWORD}</api_key>",
    f"[[ ## api_key ## ]]\n{PASSWORD}\n\n[[ ## question ## ]]\nq",
    f'os.environ["OPENAI_API_KEY"] = "{PASSWORD}"',
    f'{{"private_key": "{PASSWORD}',  # cut off
    f"secret := `{PASSWORD}`",
    f"password\t=\n{PASSWORD}",
    f"password\t:\t{PASSWORD}",
    f"Bearer\t{PASSWORD}",
    f'"https:\\/\\/user:{PASSWORD}@example.com\\/v1"',
]

# Each stays as it is, whatever it stands in.
HARMLESS = [
    "sk-learn",
    "task-sk-container-id-1 sk-toggleable__content fitted",
    "the risk-adjusted return of a desk-bound task-force-2020-2021",
    "550e8400-e29b-41d4-a716-446655440000",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "commit 38253e3a9c2f1b7d6e5f4a3b2c1d0e9f8a7b6c5d",
    base64.b64encode(bytes(range(256)) * 4).decode(),
    "The password is required.",
    "Password: required",
    "Enter your password, then the token: both are needed.",
    "The author of the keyword is a monkey.",
    "author: Jane Doe",
    "monkey=banana",
    "keyword=search keys=3",
    "token = next(it)",
    "token = tokens[0]",
    "api_key = os.environ['OPENAI_API_KEY']",
    "def login(password: str, token: Optional[str] = None) -> None:",
    "lm = dspy.LM(model, api_key=self.api_key)",
    "secret = secrets.token_hex(16)",
    "max_tokens=512, n_tokens: 17, token_count=3",
    "Bearer of bad news",
    "Basic research is fun",
    "basic understanding of the bearer bonds market",
    "jane.doe@example.com",
    "https://medium.com/@jane/about-tokens-1a2b3c",
    "https://example.com:8443/a@b?mail=jane@example.com#x",
    "ssh://git@github.com/acme/app.git",
    "git@github.com:acme/app.git",
    "https://example.com/search?q=key&page=2",
    "mlflow-attachment://4b1f6a0e?content_type=image%2Fpng&trace_id=tr-1f2e3d",
    "[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]",
    "Respond with `[[ ## token ## ]]`, and then ending with the marker for `[[ ## completed ## ]]`.",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "eyJ is how JSON in base64 begins",
    "AKIA is a prefix, ASIA another; ASIAN food",
    "hf_hub_download and npm_config_cache and gsk_test",
    "ghp_ is GitHub's prefix, xoxb- is Slack's",
    "Secretary: Jane. Passage: 3. Cookiecutter: yes",
    "vector<token> and Map<key, value>",
    "the API key was rotated; the secret of success is patience",
    "dapi is not an api; AIza neither",
    "auth: failed after 3 tries",
    "[redacted]",
    "",
]

# Names and values that stay.
HARMLESS_ITEMS = {
    "input_tokens": 7,
    "max_tokens": 512,
    "token_count": 3,
    "totalTokenCount": 10,
    "key": "k",
    "keys": ["a"],
    "author": "Jane",
    "keyword": "search",
    "primary_key": "id",
    "tokenizer": "bpe",
    "eos_token": "</s>",
    "passage": "text",
    "secretary": "Jane",
    "api_key": None,
}
