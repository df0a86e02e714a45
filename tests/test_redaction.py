"""Secrets are taken out of everything that is stored; what only looks like one stays."""

from __future__ import annotations

import json
import pickle
import time

import dspy
import mlflow
import pytest
from dspy.utils.dummies import DummyLM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from offline_lm import Raw
from programs import Program, Runs, answering
from secret_corpus import HARMLESS, HARMLESS_ITEMS, NAMED_TEXTS, PASSWORD, SHAPED, SHAPED_TEXTS
from stored import source_of, stored_bytes

from dspy_mlflow_callbacks import MlflowCallback, Payload, Redactor
from dspy_mlflow_callbacks.secrets import REDACTED, Secrets

SECRETS = [line for secret in (*SHAPED.values(), PASSWORD) for line in secret.split("\n")]
PASSWORD_TEXT = f"password={PASSWORD}"
TEXTS = [*SHAPED_TEXTS.values(), *NAMED_TEXTS]


def fail(texts):
    raise ValueError("\n".join(texts))


def fail_with_values(texts):
    raise KeyError({"api_key": PASSWORD, "texts": texts})


def fail_in_a_chain(texts):
    try:
        fail(texts)
    except ValueError as error:
        raise RuntimeError("could not") from error


def fail_in_code(texts):
    # The stack trace shows the line that raised.
    dspy.LM("m", retries=1 / 0, api_key="tell-nobody-0123456789")


def as_argument(texts):
    Runs(lambda given: None)(given=texts)


def as_answer(texts):
    Runs(lambda given: texts)()


def deep_in_an_argument(texts):
    Runs(lambda given: None)(given=[{"a": ({"b": text},), text: 1} for text in texts])


def as_json_in_json(texts):
    Runs(lambda given: None)(given=json.dumps([json.dumps({"text": text}) for text in texts]))


def as_prediction(texts):
    Runs(lambda given: dspy.Prediction(texts=texts, password=PASSWORD))()


def as_example(texts):
    predict = dspy.Predict("question -> answer")
    predict.demos = [dspy.Example(question=text, answer="a") for text in texts]
    with dspy.context(lm=answering()):
        predict(question="q")


def in_messages(texts):
    with dspy.context(lm=answering({"answer": "\n".join(texts)})):
        dspy.Predict("question -> answer")(question="\n".join(texts))


def in_a_failed_parse(texts):
    lm = answering({"nothing": "\n".join(texts)})
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()), pytest.raises(dspy.utils.exceptions.AdapterParseError):
        dspy.Predict("question -> answer")(question="q")


def in_instructions(texts):
    with dspy.context(lm=answering()):
        dspy.Predict(dspy.Signature("question -> answer", "\n".join(texts)))(question="q")


def as_arguments_of_a_tool(texts):
    def search(query: list, api_key: str) -> list:
        return query

    dspy.Tool(search)(query=texts, api_key=PASSWORD)


def as_attribute(texts):
    def note(given):
        span = mlflow.get_current_active_span()
        span.set_attribute("note", {"texts": texts})
        span.set_attribute("my_api_key", PASSWORD)

    Runs(note)()


def as_attribute_of_opentelemetry(texts):
    def note(given):
        span = mlflow.get_current_active_span()._span
        span.set_attribute("notes", texts)
        span.set_attribute("note", "\n".join(texts))

    Runs(note)()


def as_event(texts):
    def note(given):
        span = mlflow.get_current_active_span()
        span.add_event(
            mlflow.entities.SpanEvent("noted", attributes={"texts": texts, "text": texts[0], "token": "t" * 9})
        )
        span.add_event(mlflow.entities.SpanEvent("noted", attributes={"text": "\n".join(texts), "password": PASSWORD}))

    Runs(note)()


def as_status(texts):
    def note(given):
        status = mlflow.entities.SpanStatus(mlflow.entities.SpanStatusCode.ERROR, "\n".join(texts))
        mlflow.get_current_active_span().set_status(status)

    Runs(note)()


def as_tags(texts):
    tags = {f"tag {index}": text[:4000] for index, text in enumerate(texts)}
    Runs(lambda given: mlflow.update_current_trace(tags={**tags, "api_key": PASSWORD}))()


def as_metadata(texts):
    metadata = {f"datum {index}": text[:250] for index, text in enumerate(texts)}
    Runs(lambda given: mlflow.update_current_trace(metadata={**metadata, "api_key": PASSWORD}))()


def as_previews(texts):
    text = "\n".join(texts)
    Runs(lambda given: mlflow.update_current_trace(request_preview=text, response_preview=text))()


PLACES = [
    as_argument,
    as_answer,
    deep_in_an_argument,
    as_json_in_json,
    as_prediction,
    as_example,
    in_messages,
    in_a_failed_parse,
    in_instructions,
    as_arguments_of_a_tool,
    as_attribute,
    as_attribute_of_opentelemetry,
    as_event,
    as_status,
    as_tags,
    as_metadata,
    as_previews,
]


@pytest.mark.parametrize("place", PLACES)
def test_secrets_are_not_stored(dspy_traces, place):
    """No secret of the corpus is in the store's bytes, in whatever place of a payload it was."""
    place(TEXTS)
    stored = stored_bytes(dspy_traces)
    assert REDACTED.encode() in stored
    assert [secret for secret in SECRETS if secret.encode() in stored] == []


@pytest.mark.parametrize("function", [fail, fail_with_values, fail_in_a_chain, fail_in_code])
def test_secrets_of_exceptions_are_not_stored(dspy_traces, function):
    """An exception's message, its stack trace with lines of code, and the span's status have no secret."""
    with pytest.raises((ValueError, KeyError, RuntimeError, ZeroDivisionError)):
        Runs(function)(given=TEXTS)
    (span,) = dspy_traces.spans()
    assert "in forward" in span.events[0].attributes["exception.stacktrace"]
    stored = stored_bytes(dspy_traces)
    assert [secret for secret in SECRETS if secret.encode() in stored] == []


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_texts_stay(text):
    """What only looks like a secret stays, by itself, in JSON, in JSON in JSON, in a repr and in a longer text."""
    redactor = Redactor()
    for around in (text, json.dumps(text), json.dumps([json.dumps({"b": text})]), repr({"b": text}), f"so\n{text}\n"):
        payload = Payload(place="event", name="event", text=around, is_json=False)
        assert redactor(payload) is payload
        payload = Payload(place="inputs", name="inputs", text=json.dumps({"given": [around]}))
        assert redactor(payload) is payload


def test_harmless_texts_are_stored(dspy_traces):
    """What only looks like a secret is stored as it is: inputs, outputs, attributes, events, error, tags, metadata."""
    texts = dict(enumerate(HARMLESS))

    def note(given):
        span = mlflow.get_current_active_span()
        span.set_attribute("note", {**HARMLESS_ITEMS, "texts": HARMLESS})
        span.add_event(mlflow.entities.SpanEvent("noted", attributes={"text": "\n".join(HARMLESS)}))
        span.set_status(mlflow.entities.SpanStatus(mlflow.entities.SpanStatusCode.ERROR, "\n".join(HARMLESS)))
        tags = {f"tag {index}": text for index, text in texts.items() if text}
        metadata = {f"datum {index}": text for index, text in texts.items() if 0 < len(text) < 250}
        mlflow.update_current_trace(tags=tags, metadata=metadata)
        return {"texts": HARMLESS, **HARMLESS_ITEMS}

    Runs(note)(given=[HARMLESS, HARMLESS_ITEMS])
    (span,) = dspy_traces.spans()
    info = dspy_traces.one().info
    assert span.inputs == {"given": [HARMLESS, HARMLESS_ITEMS]}
    assert span.outputs == {"texts": HARMLESS, **HARMLESS_ITEMS}
    assert span.get_attribute("note") == {**HARMLESS_ITEMS, "texts": HARMLESS}
    assert (span.events[0].attributes["text"], span.status.description) == ("\n".join(HARMLESS), "\n".join(HARMLESS))
    assert {key: text for key, text in info.tags.items() if key.startswith("tag ")} == {
        f"tag {index}": text for index, text in texts.items() if text
    }
    assert {text for key, text in info.trace_metadata.items() if key.startswith("datum ")} == {
        text for text in HARMLESS if 0 < len(text) < 250
    }


def test_git_remote_with_a_token(dspy_traces):
    """A repository's address is stored with the trace without the token in it."""
    remote = SHAPED_TEXTS["user in a URL"]
    Runs(lambda given: mlflow.update_current_trace(metadata={"mlflow.source.git.repoURL": remote}))()
    assert source_of(dspy_traces.one())["mlflow.source.git.repoURL"] == f"https://{REDACTED}@github.com/acme/app.git"


def redacted(text, *, is_json=True, name="inputs", place="inputs", **options):
    payload = Payload(place=place, name=name, text=text, is_json=is_json)
    return Redactor(**options)(payload).text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{'api_key': 'abc', 'n': 1}", "{'api_key': '[redacted]', 'n': 1}"),
        ('{"api_key": 17, "n": 1} etc.', '{"api_key": "[redacted]", "n": 1} etc.'),
        ('{"api_key": null, "n": 1} etc.', '{"api_key": null, "n": 1} etc.'),
        ('"credentials": {"a": ["}", 1]}, "n": 1', '"credentials": "[redacted]", "n": 1'),
        ("credentials={'it': \"isn't\"}, n=1", "credentials=[redacted], n=1"),
        ("credentials={'cut': ['off", "credentials=[redacted]"),
        ("api_key='it\\'s', n=1", "api_key='[redacted]', n=1"),
        ('\\"api_key\\": \\"a\\\\\\"b\\", \\"n\\": 1', '\\"api_key\\": \\"[redacted]\\", \\"n\\": 1'),
        ('"text: api_key=\\"abc", "n": 1', '"text: api_key=\\"[redacted]", "n": 1'),
        ("api_key=''", "api_key=''"),
        ("api_key=", "api_key="),
        ('api_key = """a"b"""', 'api_key = """[redacted]"""'),
        ("password=None, token=None", "password=None, token=None"),
        ("password=hunter2. Next", "password=[redacted]. Next"),
        ("password=swordfish", "password=[redacted]"),
        ("PASSWORD: swordfish\nn: 1", "PASSWORD: [redacted]\nn: 1"),
        ("password: a thing to know", "password: a thing to know"),
        ("a\\npassword=hunter2\\nb", "a\\npassword=[redacted]\\nb"),
        ("api_key = key", "api_key = key"),
        ("api_key=settings.key", "api_key=settings.key"),
        ("Authorization: Token abcdef123456", "Authorization: [redacted]"),
        ("Authorization: Bearer please", "Authorization: Bearer please"),
        ("token=Bearer abcdef123456", "token=Bearer [redacted]"),
        ("token=digest abcdef123456", "token=[redacted]"),
        ('Authorization: Digest a="b, c", d="e"\nn', "Authorization: [redacted]\nn"),
        ("['Authorization: a1 b', 'n']", "['Authorization: [redacted]', 'n']"),
        ("auth: Basic knowledge", "auth: Basic knowledge"),
        ("İ password=hunter2", "İ password=[redacted]"),
        ("<token>abc</token><token>", "<token>[redacted]</token><token>"),
        ("[[ ## token ## ]]\n{token}\n", "[[ ## token ## ]]\n{token}\n"),
        (
            "[[ ## token ## ]]\nabc\n\nRespond with the field",
            "[[ ## token ## ]]\n[redacted]\n\nRespond with the field",
        ),
        ("-----BEGIN PRIVATE KEY-----\nMIIB", "[redacted]"),
        ("Bearer bonds and Bearer abcdefghijk1", "Bearer bonds and Bearer [redacted]"),
        ("Basic YTpi, Basic YWJj", "Basic [redacted], Basic YWJj"),
        ("x\\nsk-proj-abcdefgh", "x\\n[redacted]"),
        ("password=\ud800hunter2", "password=[redacted]"),
        ("--token abc", "--token abc"),
    ],
)
def test_values_in_texts(text, expected):
    """A value beside a secret's name goes from its beginning to its end; quotes, and what is around it, stay."""
    assert redacted(text, is_json=False) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"api_key": {"any": 1}, "token": None, "pwd": 5}, {"api_key": REDACTED, "token": None, "pwd": REDACTED}),
        ({SHAPED["GitHub"]: 1, "a": 2}, {REDACTED: 1, "a": 2}),
        (["a", {"b": SHAPED["GitHub"]}], ["a", {"b": REDACTED}]),
        ({"arguments": '{"token": "t", "n": [1]}'}, {"arguments": '{"token":"[redacted]","n":[1]}'}),
        ({"arguments": '{"token": "t", "n": [1'}, {"arguments": '{"token": "[redacted]", "n": [1'}),
        (
            {"password": {"type": "string", "description": "yours", "default": "abc", "enum": None}},
            {"password": {"type": "string", "description": "yours", "default": REDACTED, "enum": None}},
        ),
        ({"credentials": {"type": "service_account", "id": 1}}, {"credentials": REDACTED}),
        ({"password": {"anyOf": [{"type": "string"}], "title": "P"}}, None),
        ({"password": {"type": "string", "value": "abc"}}, {"password": REDACTED}),
    ],
)
def test_values_in_json(value, expected):
    """What stands under a secret's name is redacted but for None; a schema that describes it stays."""
    assert json.loads(redacted(json.dumps(value))) == (value if expected is None else expected)


def test_schemas_of_tools_stay(dspy_traces):
    """A tool with a parameter that is called `password` keeps its schema, where the chat view reads it."""

    def login(user: str, password: str) -> str:
        return "in"

    tool = dspy.Tool(login)
    with dspy.context(lm=answering({"next_thought": "t", "next_tool_name": "finish", "next_tool_args": "{}"})):
        tool(user="u", password=PASSWORD)
    (span,) = dspy_traces.spans(kind="tool")
    assert span.get_attribute("dspy.tool.args") == {"user": {"type": "string"}, "password": {"type": "string"}}
    assert span.inputs == {"user": "u", "password": REDACTED}


def test_attribute_that_is_no_json():
    """A text that should be JSON and is not is redacted as a text."""
    assert redacted("password=hunter2") == f"password={REDACTED}"
    assert redacted('{"password": "x", "n": NaN}') == f'{{"password": "{REDACTED}", "n": NaN}}'


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("api_key", '"abc"', f'"{REDACTED}"'),
        ("api_key", "null", "null"),
        ("mlflow.chat.tokenUsage", '{"input_tokens": 7}', '{"input_tokens": 7}'),
        ("mlflow.llm.cost", '{"total_cost": 0.1}', '{"total_cost": 0.1}'),
    ],
)
def test_names_of_attributes(name, text, expected):
    """An attribute with a secret's name is redacted as a whole; counts and prices stay, whatever globs there are."""
    assert redacted(text, name=name, place="attribute", keys=["*token*", "*cost*"]) == expected


def test_tokens_are_still_counted(dspy_traces):
    """With globs that match the names of counts, MLflow's sums of tokens are right."""
    with dspy.context(lm=answering(), callbacks=[MlflowCallback(redact_keys=["*token*"])]):
        Program()(question="q")
    (span,) = dspy_traces.spans(kind="lm")
    assert span.get_attribute("mlflow.chat.tokenUsage") == dspy_traces.one().info.token_usage


class Patient(dspy.Signature):
    """Tell what is wrong."""

    ssn: str = dspy.InputField()
    complaint: str = dspy.InputField()
    diagnosis: str = dspy.OutputField()
    code: str = dspy.OutputField()


SSN, CODE, DIAGNOSIS = "ssn-of-nobody-1234", "code-of-nobody-5678", "a cold that is told"


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter])
def test_fields(dspy_traces, adapter):
    """A field's values are nowhere in the store: arguments, answers, demos, messages of each adapter; others are."""
    predict = dspy.Predict(Patient)
    predict.demos = [dspy.Example(ssn=f"{SSN}-demo", complaint="cough", diagnosis="a cold", code=f"{CODE}-demo")]
    lm = DummyLM([{"diagnosis": DIAGNOSIS, "code": CODE}], adapter=adapter())
    with dspy.context(lm=lm, adapter=adapter(), callbacks=[MlflowCallback(redact_fields=["ssn", "code"])]):
        assert predict(ssn=SSN, complaint="sneezing").code == CODE
    (span,) = dspy_traces.spans(kind="module")
    assert span.inputs == {"ssn": REDACTED, "complaint": "sneezing"}
    assert span.outputs == {"diagnosis": DIAGNOSIS, "code": REDACTED}
    stored = stored_bytes(dspy_traces)
    assert (SSN.encode() in stored, CODE.encode() in stored, DIAGNOSIS.encode() in stored) == (False, False, True)


def test_fields_in_an_error(dspy_traces):
    """An answer that cannot be parsed is quoted by the exception without the field's value."""
    lm = Raw(*[f"[[ ## code ## ]]\n{CODE}\n"] * 9)
    with (
        dspy.context(lm=lm, callbacks=[MlflowCallback(redact_fields=["code"])]),
        pytest.raises(dspy.utils.exceptions.AdapterParseError),
    ):
        dspy.Predict(Patient)(ssn="s", complaint="c")
    stored = stored_bytes(dspy_traces)
    assert CODE.encode() not in stored
    assert b"Expected to find output fields" in stored


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<ssn>\n123", "<ssn>[redacted]"),
        ("ssn: one two three\nnext", "ssn: [redacted]\nnext"),
        ("Prediction(\n    ssn='1',\n    n=2\n)", "Prediction(\n    ssn='[redacted]',\n    n=2\n)"),
        ("the ssn is not told", "the ssn is not told"),
    ],
)
def test_fields_in_texts(text, expected):
    """A field's value in a text goes to its end, or, where none can be seen, to the line's or the text's."""
    assert redacted(text, is_json=False, fields=["ssn"]) == expected


def test_own_keys_patterns_and_function(dspy_traces):
    """What the user says is a secret is redacted too: by a key's glob, by a pattern, by a function."""
    redactor = Redactor(
        keys=["x-internal-*"],
        patterns=[r"\d{3}-\d{2}-\d{4}", r"\b4\d{15}\b"],
        function=lambda text: text.replace("Jane", "J."),
    )
    given = {
        "X-Internal-Id": {"a": 1},
        "text": "123-45-6789 is Jane's",
        "card": 4_111_111_111_111_111,
        "n": 1.5,
        "t": True,
    }
    with dspy.context(callbacks=[MlflowCallback(payload_steps=[redactor])]):
        Runs(lambda given: given)(given=given)
    (span,) = dspy_traces.spans()
    expected = {"X-Internal-Id": REDACTED, "text": f"{REDACTED} is J.'s", "card": REDACTED, "n": 1.5, "t": True}
    assert (span.inputs, span.outputs) == ({"given": expected}, expected)


@pytest.mark.parametrize("key", ["*", "??", "Größe"])
def test_globs_without_a_plain_letter(key):
    """A glob that has no letter of ASCII to look for is looked for all the same."""
    assert json.loads(redacted('{"Größe": 1}', keys=[key])) == {"Größe": REDACTED if key != "??" else 1}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"keys": "api_key"}, TypeError, "keys must be an iterable of texts, got 'api_key'"),
        ({"keys": 5}, TypeError, "keys must be an iterable of texts, got 5"),
        ({"fields": [5]}, TypeError, "fields must be texts, got 5"),
        ({"fields": [" "]}, ValueError, "fields must be texts that say something, got ' '"),
        ({"patterns": ["a", "("]}, ValueError, r"patterns must be regular expressions, got '\('"),
        ({"patterns": ["a*"]}, ValueError, r"patterns must not match the empty text, got 'a\*'"),
        ({"function": "f"}, TypeError, "function must be a callable text -> text, got 'f'"),
        ({"function": str}, TypeError, "function must be a callable text -> text, got <class 'str'>"),
    ],
)
def test_wrong_arguments_are_refused(options, error, message):
    """What cannot work is refused where the redactor is made, by name."""
    with pytest.raises(error, match=message):
        Redactor(**options)


def test_one_secret_among_many_texts():
    """One secret among hundreds of texts is found, and the others stay."""
    texts = [f"text {index}" for index in range(500)]
    payload = Payload(place="inputs", name="inputs", text=json.dumps([*texts, PASSWORD_TEXT]))
    assert json.loads(Redactor()(payload).text) == [*texts, f"password={REDACTED}"]


def test_many_names_are_not_remembered():
    """However many keys there are, no more than some thousands are remembered, and each is decided alike."""
    keys = {f"key {index}": index for index in range(5000)}
    value = {**keys, "api_key": "abc"}
    redactor = Redactor()
    for _ in range(2):
        assert json.loads(redactor(Payload(place="inputs", name="inputs", text=json.dumps(value))).text) == {
            **keys,
            "api_key": REDACTED,
        }


def test_redactor_is_a_value():
    """Redactors of the same settings are equal, print them, and survive pickling."""
    redactor = Redactor(keys=["x-*"], fields=["ssn"])
    assert pickle.loads(pickle.dumps(redactor)) == redactor == Redactor(keys=("x-*",), fields=("ssn",))
    assert repr(redactor) == "Redactor(keys=('x-*',), fields=('ssn',))"
    assert repr(Redactor()) == "Redactor()"


def wrong_type(text):
    return 5


def raises(text):
    raise RuntimeError("tell-nobody-what-it-was")


@pytest.mark.warns
@pytest.mark.parametrize(("function", "problem"), [(wrong_type, "raised TypeError"), (raises, "raised RuntimeError")])
def test_failing_function_withholds(dspy_traces, warned, function, problem):
    """What a function that fails should have seen is withheld, which is said in its place, counted and warned once."""
    callback = MlflowCallback(payload_steps=[Redactor(function=function)])
    with dspy.context(callbacks=[callback]):
        Runs(lambda given: "withheld-output")(given="withheld-input")
        Runs(lambda given: "withheld-output")(given="withheld-input")
    span, _ = dspy_traces.spans()
    note = f"[withheld: Redactor {problem}]"
    assert (span.inputs, span.outputs, span.status.status_code.value) == (note, note, "OK")
    assert b"withheld-input" not in stored_bytes(dspy_traces)
    assert callback.stats().failed > 0
    assert len(warned.messages) == 1
    assert "A payload step failed; its payloads are withheld" in warned.messages[0]


def test_switched_off(dspy_traces):
    """With `redact=False` content is stored as it is, and the parameters of requests still have no secret."""
    secret = "sk-" + "proj-stored-when-switched-off-1"
    lm = answering()
    lm.kwargs = {"api_key": "tell-nobody-who-switched-off-1", "extra_headers": {"x": f"Bearer {SHAPED['Bearer']}"}}
    with dspy.context(lm=lm, callbacks=[MlflowCallback(redact=False)]):
        Program()(question=secret)
    stored = stored_bytes(dspy_traces)
    assert secret.encode() in stored
    assert b"tell-nobody-who-switched-off-1" not in stored
    assert SHAPED["Bearer"].encode() not in stored


# The same values each time, and as slow as the machine is.
PROPERTY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
PIECES = st.sampled_from([*SHAPED_TEXTS.values(), *NAMED_TEXTS])
WORDS = st.text(st.characters(codec="utf-8"), max_size=30)
EMBEDDED = st.builds(lambda before, secret, after: f"{before}\n{secret}\n{after}", WORDS, PIECES, WORDS)
VALUES = st.recursive(
    st.one_of(st.none(), st.integers(-(2**53), 2**53), EMBEDDED, WORDS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3), inner.map(json.dumps), inner.map(repr)
    ),
    max_leaves=6,
)


@settings(PROPERTY, max_examples=300)
@given(VALUES)
def test_no_secret_survives_anywhere(value):
    """Wherever a secret is in nested JSON, texts of JSON in it and reprs, it is gone, and the JSON is valid."""
    text = redacted(json.dumps(value))
    json.loads(text)
    assert [secret for secret in SECRETS if secret in text] == []


# Longer than what is walked through at once, so that parts of it are searched first.
FILLING = [{"title": "A harmless row", "number": number, "text": "Nothing to see here. " * 4} for number in range(60)]


@settings(PROPERTY, max_examples=150)
@given(VALUES, st.integers(0, len(FILLING)), st.booleans())
def test_a_search_by_parts_finds_what_a_way_through_all_finds(value, at, in_a_dict):
    """A few secrets in a long payload: the parts that are cleared unread hide none, and nothing else changes."""
    rows = [*FILLING[:at], value, *FILLING[at:]]
    text = json.dumps({"rows": rows, "password": value} if in_a_dict else rows)
    found = Secrets().json_without_secrets(text)
    assert json.loads(found) == Secrets().without_secrets(json.loads(text))
    assert (found is text) == (json.loads(found) == json.loads(text))


@pytest.mark.parametrize("depth", [100, 300, 900])
def test_json_that_is_nested_too_deep_is_searched_as_a_text(depth):
    """However deep a secret stands in JSON, with a long text beside it, it is gone, and the rest stays."""
    text = '["' + "long " * 1000 + '", ' + "[" * depth + json.dumps(PASSWORD_TEXT) + "]" * depth + "]"
    assert redacted(text, is_json=False).replace(" ", "") == text.replace(PASSWORD, REDACTED).replace(" ", "")


CLEAN = st.recursive(
    st.one_of(st.none(), st.floats(allow_nan=False), st.sampled_from(HARMLESS)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(list(HARMLESS_ITEMS)[:-1]), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(PROPERTY, max_examples=200)
@given(CLEAN)
def test_clean_json_is_not_touched(value):
    """A payload without secrets comes back itself."""
    payload = Payload(place="outputs", name="outputs", text=json.dumps(value))
    assert Redactor()(payload) is payload


HOSTILE = [
    "\\",
    "<token>",
    "<a>",
    '"',
    "'",
    "api_key=",
    "api_key=[",
    "api_key='",
    'api_key="\\',
    "sk-",
    "eyJ.",
    "://",
    "@",
    "-----BEGIN PRIVATE KEY-----",
    "[[ ## token ## ]]",
    "token: ",
    "token.",
    "Bearer ",
    "--token ",
    "key",
    "a",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_work_grows_with_the_text_only(piece):
    """A text eight times as long takes far less than 64 times the processor's work, whatever it is made of."""
    redactor = Redactor(fields=["ssn"])

    def work(repetitions):
        text = "password=x " + piece * repetitions
        payload = Payload(place="event", name="event", text=text, is_json=False)
        return min(cpu_seconds(redactor, payload) for _ in range(3))

    assert work(16_000) < 40 * work(2_000) + 0.05


def cpu_seconds(redactor, payload):
    started = time.thread_time()  # what MLflow's exporter does meanwhile does not count
    redactor(payload)
    return time.thread_time() - started
