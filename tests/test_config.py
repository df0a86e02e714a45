"""Options: which source holds, what is said of wrong ones, and what becomes of a configuration that travels."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import subprocess
import sys

import attrs
import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from options import ROWS, WRONG_ARGUMENTS, WRONG_TEXTS
from programs import Program, answering, program_tree

import dspy_mlflow_callbacks
from dspy_mlflow_callbacks import (
    CallKind,
    KindFilter,
    LevelFilter,
    MlflowCallback,
    NameFilter,
    PayloadLimit,
    RatioSampler,
    Redactor,
    RuleSampler,
    SamplingRule,
    TagInjector,
    TailSampler,
    TracingConfig,
)
from dspy_mlflow_callbacks.config import OPTIONS, TracingOptions, default_text, environment, variable_of
from dspy_mlflow_callbacks.stats import WarnOnce

CALLBACKS = [
    getattr(dspy_mlflow_callbacks, name) for name in dspy_mlflow_callbacks.__all__ if name.endswith("Callback")
]

pytestmark = pytest.mark.engine("auto")  # no variable is set

every_option = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


@pytest.fixture(autouse=True)
def _logger():
    """Put the level of this package's logger back."""
    logger = logging.getLogger("dspy_mlflow_callbacks")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    """Let each test hear the warnings that a process hears once."""
    monkeypatch.setattr(environment, "_WARN", WarnOnce())


def test_the_table_has_every_option():
    """No option is left out of the tables that the tests here read."""
    assert [row.name for row in ROWS] == list(OPTIONS)
    assert list(dict.fromkeys(name for name, *_ in WRONG_ARGUMENTS)) == list(OPTIONS)
    assert list(dict.fromkeys(name for name, *_ in WRONG_TEXTS)) == list(OPTIONS)


@pytest.mark.parametrize("source", ["default", "variable", "config", "argument"])
@every_option
def test_an_argument_beats_the_config_beats_the_variable_beats_the_default(monkeypatch, row, source):
    """Of the sources that say something for an option, the nearest one holds."""
    expected = {"default": OPTIONS[row.name].default, "variable": row.read, "config": row.other, "argument": row.kept}
    said = {}
    if source != "default":
        monkeypatch.setenv(variable_of(row.name), row.text)
    if source in ("config", "argument"):
        said["config"] = TracingConfig(**{row.name: row.other})
    if source == "argument":
        said[row.name] = row.given
    assert getattr(MlflowCallback(**said).config, row.name) == expected[source]


@every_option
def test_an_argument_beats_the_variable(monkeypatch, row):
    """Without a configuration, an argument stands in place of the variable."""
    monkeypatch.setenv(variable_of(row.name), row.text)
    assert getattr(MlflowCallback(**{row.name: row.given}).config, row.name) == row.kept


@every_option
def test_a_default_as_argument_beats_the_variable(monkeypatch, row):
    """An argument that says what the default is is said all the same."""
    monkeypatch.setenv(variable_of(row.name), row.text)
    default = OPTIONS[row.name].default
    assert getattr(MlflowCallback(**{row.name: default}).config, row.name) == default


@pytest.mark.parametrize("text", ["", "  "])
@pytest.mark.parametrize("row", [row for row in ROWS if row.name != "spool_dir"], ids=lambda row: row.name)
def test_an_empty_variable_is_unset(row, text):
    """A variable without a text leaves the default, and nothing is said of it."""
    assert TracingConfig.from_env({variable_of(row.name): text}) == TracingConfig()


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_spool_folder_is_no_spool(text):
    """The variable of the spool's folder is the one to which empty says something."""
    config = TracingConfig.from_env({"DSPY_MLFLOW_SPOOL_DIR": text})
    assert (config.spool_dir, config.limits().spool) == ("", None)
    assert TracingConfig.from_env({}).limits().spool is not None


def test_all_variables_together():
    """Each option has its own variable."""
    config = TracingConfig.from_env({variable_of(row.name): row.text for row in ROWS})
    assert {name: getattr(config, name) for name in OPTIONS} == {row.name: row.read for row in ROWS}


@pytest.mark.parametrize("cls", CALLBACKS, ids=lambda cls: cls.__name__)
def test_every_callback_takes_every_option(cls):
    """The callbacks of one kind take what `MlflowCallback` takes."""
    callback = cls(**{row.name: row.given for row in ROWS})
    assert {name: getattr(callback.config, name) for name in OPTIONS} == {row.name: row.kept for row in ROWS}


def test_a_config_that_is_given_is_whole(monkeypatch):
    """With `config=`, no variable is looked at."""
    monkeypatch.setenv("DSPY_MLFLOW_LEVEL", "info")
    monkeypatch.setenv("DSPY_MLFLOW_USER", "ada")
    assert MlflowCallback(config=TracingConfig(), session_id="s").config == TracingConfig(session_id="s")


# --- what is wrong ---


@pytest.mark.parametrize(("name", "value", "error", "message"), WRONG_ARGUMENTS)
@pytest.mark.parametrize("make", [TracingConfig, MlflowCallback, TracingConfig.from_env, TracingConfig().with_options])
def test_a_wrong_argument_raises_by_name(make, name, value, error, message):
    """The error begins with the option, and says what was given and what is allowed."""
    with pytest.raises(error, match=f"^{name}: .*{message}"):
        make(**{name: value})


@pytest.mark.parametrize("make", [TracingConfig, MlflowCallback, TracingConfig.from_env, TracingConfig().with_options])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sampling_rate", "'sampling_rate' is no option; did you mean 'sampling_ratio'?"),
        ("tag", "'tag' is no option; did you mean 'tags'?"),
        ("zzz", "'zzz' is no option; allowed are enabled, experiment, "),
    ],
)
def test_an_unknown_option_raises_with_a_suggestion(make, name, message):
    """A name that is no option is refused, and the nearest one is named."""
    with pytest.raises(TypeError) as raised:
        make(**{name: 1})
    assert str(raised.value).startswith(message)


def test_a_config_of_another_type_is_refused():
    """`config=` takes a `TracingConfig`."""
    with pytest.raises(TypeError, match=r"config must be a TracingConfig, got \{'level': 'info'\}"):
        MlflowCallback(config={"level": "info"})


@pytest.mark.warns
@pytest.mark.parametrize(("name", "text", "reason"), WRONG_TEXTS)
def test_a_wrong_variable_warns_once_and_the_default_stands(warned, name, text, reason):
    """The warning names the variable, its value, what is allowed and what stands instead; the rest is read."""
    other = "user" if name != "user" else "level"
    environ = {variable_of(name): text, variable_of(other): "debug"}
    for _ in range(2):
        assert TracingConfig.from_env(environ) == TracingConfig(**{other: "debug"})
    (message,) = warned.messages
    allowed, default = OPTIONS[name].metadata["allowed"], default_text(OPTIONS[name])
    assert message.startswith(f"{variable_of(name)}={text!r} is ignored: ")
    assert reason in message
    assert message.endswith(f". Allowed: {allowed}. The default stands: {default}.")


@pytest.mark.warns
def test_an_argument_makes_a_wrong_variable_irrelevant(warned):
    """Nothing is said of a variable that an argument stands in place of."""
    config = TracingConfig.from_env({"DSPY_MLFLOW_LEVEL": "loud"}, level="info")
    assert (config.level, warned.messages) == ("info", [])


@pytest.mark.warns
@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("DSPY_MLFLOW_SAMPLING_RATE", "did you mean DSPY_MLFLOW_SAMPLING_RATIO?"),
        ("DSPY_MLFLOW_zzz", "there are DSPY_MLFLOW_ENABLED, DSPY_MLFLOW_EXPERIMENT, "),
    ],
)
def test_an_unknown_variable_is_warned_of_once(warned, variable, hint):
    """A variable of this package that is no option is named, with the one that may have been meant."""
    for _ in range(2):
        assert TracingConfig.from_env({variable: "1", "DSPY_MLFLOW_AUTOLOG": "1", "DSPY": "1"}) == TracingConfig()
    (message,) = warned.messages
    assert message.startswith(f"The environment variable {variable} is unknown and ignored; {hint}")


def test_an_unknown_variable_that_is_empty_is_unset():
    """Nothing is said of a variable without a text."""
    assert TracingConfig.from_env({"DSPY_MLFLOW_TAG": " "}) == TracingConfig()


@pytest.mark.warns
@pytest.mark.parametrize("source", ["argument", "variable"])
@pytest.mark.parametrize(("verbosity", "count"), [("silent", 0), ("error", 0), ("warning", 2), ("debug", 2)])
def test_verbosity_holds_for_wrong_variables_too(warned, verbosity, count, source):
    """What is wrong in the environment is said only where warnings are wanted."""
    environ = {"DSPY_MLFLOW_LEVEL": "loud", "DSPY_MLFLOW_TAG": "a=b"}
    arguments = {"verbosity": verbosity} if source == "argument" else {}
    if source == "variable":
        environ["DSPY_MLFLOW_VERBOSITY"] = verbosity
    TracingConfig.from_env(environ, **arguments)
    assert len(warned.messages) == count


# --- what becomes of a configuration ---

_text = st.text(min_size=1, max_size=20)
_texts = st.dictionaries(_text, _text, max_size=3)
_share = st.floats(0, 1)
_rules = st.builds(
    SamplingRule,
    name=st.none() | _text,
    tags=_texts,
    experiment=st.none() | _text,
    ratio=_share,
    max_per_second=st.none() | st.floats(0.1, 1000),
)
VALUES = {
    **{name: st.booleans() for name, option in OPTIONS.items() if isinstance(option.default, bool)},
    "experiment": st.none() | _text,
    "sampling_ratio": _share,
    "sampling_rules": st.lists(_rules, max_size=3),
    "tags": _texts,
    "metadata": _texts,
    "session_id": st.none() | _text,
    "user": st.none() | _text,
    "level": st.sampled_from(["debug", "info", "warning", "error", "critical"]),
    "events": st.none() | st.sets(st.sampled_from(CallKind)),
    "max_payload_chars": st.none() | st.integers(1),
    "engine": st.sampled_from(["auto", "recorded"]),
    "tail_sampler": st.none()
    | st.builds(
        TailSampler,
        keep_errors=st.booleans(),
        min_duration_s=st.none() | st.floats(0, 1e6),
        min_cost_usd=st.none() | st.floats(0, 1e6),
        min_tokens=st.none() | st.integers(0, 10**9),
        background_ratio=_share,
    ),
    "max_queue_traces": st.integers(1),
    "max_queue_bytes": st.integers(1),
    "on_full": st.sampled_from(["block", "drop"]),
    "max_block_s": st.floats(0.001, 1e6),
    "exit_timeout_s": st.floats(0, 1e6),
    "max_open_s": st.floats(0.001, 1e6),
    "max_silent_s": st.floats(0.001, 1e6),
    "verbosity": st.none() | st.sampled_from(["silent", "error", "warning", "info", "debug"]),
    **{name: st.lists(_text.filter(str.isalnum), max_size=3) for name in OPTIONS if name.startswith("redact_")},
    "include": st.lists(_text, max_size=3),
    "exclude": st.lists(_text, max_size=3),
}


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional=VALUES))
def test_a_config_goes_through_json_and_back(options):
    """`from_dict` of what `to_dict` gave, through JSON, is the same configuration."""
    config = TracingConfig(**options)
    stored = config.to_dict()
    assert list(stored) == list(OPTIONS)
    assert TracingConfig.from_dict(json.loads(json.dumps(stored))) == config


def test_what_a_dict_leaves_out_has_its_default():
    """`from_dict` takes any options."""
    assert TracingConfig.from_dict({"events": ["tool"]}) == TracingConfig(events=[CallKind.TOOL])


def test_from_dict_does_not_look_at_the_environment(monkeypatch):
    """What was stored holds as it is."""
    monkeypatch.setenv("DSPY_MLFLOW_LEVEL", "info")
    assert TracingConfig.from_dict({}).level == "debug"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user", len),
        ("session_id", len),
        ("tags", {"team": "a", "tenant": len}),
        ("metadata", {"tenant": len}),
        ("tail_sampler", TailSampler(keep=len)),
    ],
)
def test_a_callable_cannot_be_stored(name, value):
    """`to_dict` raises by name where an option is or holds a callable."""
    with pytest.raises(
        TypeError, match=f"^{name} is or holds a callable, which JSON cannot say: <built-in function len>"
    ):
        TracingConfig(**{name: value}).to_dict()


def all_changed() -> TracingConfig:
    return TracingConfig(**{row.name: row.given for row in ROWS})


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))])
def test_a_copy_of_a_config_is_equal(duplicate):
    """A configuration can be copied and pickled, and copies have one hash."""
    config = all_changed()
    assert duplicate(config) == config
    assert hash(duplicate(config)) == hash(config) != hash(TracingConfig())


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))])
def test_a_copy_of_a_callback_has_its_options(monkeypatch, duplicate):
    """What a callback was made with holds in its copies, whatever the environment says there."""
    callback = MlflowCallback(
        config=all_changed(), middleware=[RatioSampler(0.5)], payload_steps=[PayloadLimit(5)], level="error"
    )
    monkeypatch.setenv("DSPY_MLFLOW_LEVEL", "info")
    again = duplicate(callback)
    assert again is not callback
    assert (repr(again), again.config) == (repr(callback), callback.config)


def test_the_repr_of_a_set_is_in_order():
    """A callback and its options say the same of themselves in every process, whatever order a set has there."""
    assert "events=frozenset({<CallKind.LM: 'lm'>, <CallKind.TOOL: 'tool'>})" in repr(
        TracingConfig(events=["tool", "lm"])
    )
    assert "events=frozenset({<CallKind.LM: 'lm'>, <CallKind.TOOL: 'tool'>})" in repr(
        MlflowCallback(events=["tool", "lm"])
    )


def test_reprs_say_what_is_not_at_its_default():
    """A configuration and a callback print what they were told."""
    options = {"level": "info", "tags": {"team": "search"}}
    assert repr(TracingConfig(**options)) == "TracingConfig(tags={'team': 'search'}, level='info')"
    callback = MlflowCallback(**options, middleware=[RatioSampler(0.5)], payload_steps=[PayloadLimit(5)])
    assert repr(callback) == (
        "MlflowCallback(tags={'team': 'search'}, level='info', middleware=[RatioSampler(ratio=0.5)], "
        "payload_steps=[PayloadLimit(max_chars=5)])"
    )


def test_a_config_cannot_be_changed():
    """A configuration is a value: another one is made of it with `with_options`."""
    config = TracingConfig(level="info")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.level = "debug"
    assert config.with_options(user="ada") == TracingConfig(level="info", user="ada")


# --- what is said of the options ---


def test_type_checkers_know_the_options():
    """`TracingOptions` has the fields of `TracingConfig`, in their order."""
    assert list(TracingOptions.__annotations__) == list(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_documented(name):
    """An option says what it is for and what it takes, and a number what it is measured in."""
    option = OPTIONS[name]
    assert option.metadata["doc"].endswith(".")
    assert option.metadata["allowed"]
    assert bool(option.metadata["unit"]) == (type(option.default) in (int, float) or name == "max_payload_chars")


@pytest.mark.parametrize("name", OPTIONS)
def test_help_has_every_option(name):
    """`help(TracingConfig)` says an option's meaning, what it takes, its unit, default and variable."""
    text = " ".join(TracingConfig.__doc__.split())
    metadata = OPTIONS[name].metadata
    unit = f" Unit: {metadata['unit']}." if metadata["unit"] else ""
    assert (
        f" {name}: {metadata['doc']} Allowed: {metadata['allowed']}.{unit} "
        f"Default: {default_text(OPTIONS[name])}. Variable: DSPY_MLFLOW_{name.upper()}."
    ) in text


# --- what becomes of the options ---


def test_the_options_order_the_chain():
    """Tags come first, then sampling, kinds, names and levels, each only if asked for, then the callback's own."""
    assert TracingConfig().middleware() == ()
    rules = [{"ratio": 0.5}]
    own = RatioSampler(1)
    callback = MlflowCallback(
        level="info",
        exclude=["b"],
        include=["a"],
        compile=False,
        evaluate=False,
        events=["lm"],
        sampling_ratio=0.25,
        sampling_rules=rules,
        user="ada",
        session_id="s",
        metadata={"m": "1"},
        tags={"t": "1"},
        middleware=[own],
    )
    assert callback._tracing.chain.steps == (
        TagInjector({"t": "1"}, metadata={"m": "1"}, session_id="s", user="ada"),
        RuleSampler(rules, 0.25),
        KindFilter(["lm"], ["evaluate", "compile"]),
        NameFilter(["a"], ["b"]),
        LevelFilter("info"),
        own,
    )


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, (Redactor(),)),
        ({"redact": False}, ()),
        ({"redact": False, "max_payload_chars": 5}, (PayloadLimit(5),)),
        (
            {"max_payload_chars": 5, "redact_keys": ["k"], "redact_patterns": ["p"], "redact_fields": ["f"]},
            (Redactor(keys=["k"], patterns=["p"], fields=["f"]), PayloadLimit(5)),
        ),
    ],
)
def test_the_options_order_the_payload_steps(options, steps):
    """Secrets are taken out first, then what is left is cut."""
    assert TracingConfig(**options).payload_steps() == steps


@pytest.mark.parametrize("name", ["redact", "redact_keys", "redact_patterns", "redact_fields", "max_payload_chars"])
def test_payload_steps_and_the_options_for_them_cannot_both_be_said(name):
    """`payload_steps=` says all of it, so an argument beside it is refused."""
    (row,) = [row for row in ROWS if row.name == name]
    with pytest.raises(ValueError, match=f"payload_steps says what runs on payloads; beside it there can be no {name}"):
        MlflowCallback(payload_steps=[Redactor()], **{name: row.given})


def test_payload_steps_in_code_beat_the_variables(monkeypatch, dspy_traces):
    """Where code says what runs on payloads, variables for it have no say."""
    monkeypatch.setenv("DSPY_MLFLOW_MAX_PAYLOAD_CHARS", "1")
    with dspy.context(lm=answering(), callbacks=[MlflowCallback(payload_steps=[])]):
        dspy.Predict("question -> answer")(question="why?")
    assert dspy_traces.one().data.spans[0].inputs["question"] == "why?"


# --- enabled, verbosity ---


def test_a_disabled_callback_records_nothing(dspy_traces):
    """`enabled=False` leaves no trace and counts nothing."""
    callback = MlflowCallback(enabled=False)
    with dspy.context(lm=answering(), callbacks=[callback]):
        Program()(question="why?")
    assert dspy_traces.all() == []
    assert set(attrs.asdict(callback.stats()).values()) == {0}


UNTOUCHED = """
import dspy
from dspy.utils.parallelizer import ParallelExecutor
from dspy_mlflow_callbacks import MlflowCallback

def places():
    classes = (ParallelExecutor, dspy.Embedder, dspy.KNN, dspy.LM, dspy.BaseLM, dspy.Module, dspy.retrievers.Embeddings)
    return [dict(vars(cls)) for cls in classes]

before = places()
MlflowCallback(enabled=False)
assert places() == before
MlflowCallback()
assert places() != before
"""


def test_a_disabled_callback_puts_nothing_in_the_way_of_calls():
    """DSPy's classes are as they were after a callback with `enabled=False` is made, and not after another one."""
    done = subprocess.run([sys.executable, "-c", UNTOUCHED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_disabled_callback_switches_its_program_off(dspy_traces):
    """On a program it leaves out that program, with all below it, beneath a callback that is set globally."""
    private = Program()
    private.callbacks = [MlflowCallback(enabled=False)]
    with dspy.context(lm=answering(), callbacks=[MlflowCallback()]):
        private(question="unseen")
        Program()(question="seen")
    assert dspy_traces.tree() == [program_tree()]


def test_a_disabled_part_is_left_out_of_a_trace(dspy_traces):
    """On a part of a program it leaves out that part, and the trace goes on around it."""
    program = Program()
    program.generate.callbacks = [MlflowCallback(enabled=False)]
    with dspy.context(lm=answering(), callbacks=[MlflowCallback()]):
        program(question="why?")
    assert dspy_traces.tree() == [("Program", "CHAIN", "OK", [])]


@pytest.mark.parametrize(
    ("verbosity", "level"),
    [
        ("silent", logging.CRITICAL + 1),
        ("error", logging.ERROR),
        ("warning", logging.WARNING),
        ("info", logging.INFO),
        ("debug", logging.DEBUG),
    ],
)
def test_verbosity_is_the_level_of_the_logger(verbosity, level):
    """The option sets the level of the logger `dspy_mlflow_callbacks`."""
    MlflowCallback(verbosity=verbosity)
    assert logging.getLogger("dspy_mlflow_callbacks").level == level


def test_without_verbosity_the_logger_is_left_alone():
    """A level that the program set stays."""
    logging.getLogger("dspy_mlflow_callbacks").setLevel(logging.ERROR)
    MlflowCallback()
    assert logging.getLogger("dspy_mlflow_callbacks").level == logging.ERROR


def test_the_last_verbosity_wins():
    """The process has one logger: of two callbacks the later one says, and one that says nothing changes nothing."""
    for options in ({"verbosity": "debug"}, {"verbosity": "error"}, {}):
        MlflowCallback(**options)
    assert logging.getLogger("dspy_mlflow_callbacks").level == logging.ERROR


@pytest.mark.parametrize(("verbosity", "count"), [("silent", 0), ("error", 0), ("warning", 1)])
@pytest.mark.warns
def test_verbosity_holds_for_what_goes_wrong(warned, dspy_traces, verbosity, count):
    """`silent` says nothing of a middleware that fails either."""

    def failing(call):
        raise KeyError("x")

    callback = MlflowCallback(verbosity=verbosity, middleware=[failing])
    with dspy.context(lm=answering(), callbacks=[callback]):
        Program()(question="why?")
    assert len(warned.messages) == count
    assert callback.stats().failed > 0


@pytest.fixture
def _disabled_by_variable(monkeypatch):
    monkeypatch.setenv("DSPY_MLFLOW_ENABLED", "false")


@pytest.mark.usefixtures("_disabled_by_variable")
def test_the_fixture_is_isolated_from_the_environment(dspy_traces):
    """Whatever `DSPY_MLFLOW_*` say, `dspy_traces` captures a test's traces whole."""
    dspy.configure(lm=answering())
    Program()(question="why?")
    assert dspy_traces.tree() == [program_tree()]
