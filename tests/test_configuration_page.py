"""docs/configuration.md: written from the options, and its blocks run as they stand."""

from __future__ import annotations

import re
import runpy
import shlex

import dspy
import pytest
from docs_blocks import ROOT, Page
from programs import answering

from dspy_mlflow_callbacks import LevelFilter, MlflowCallback, SamplingRule, TracingConfig
from dspy_mlflow_callbacks.config import OPTIONS, default_text, variable_of

pytestmark = pytest.mark.engine("auto")  # no variable is set

PAGE = Page("docs/configuration.md")
SCRIPT = ROOT / "docs" / "generate_configuration.py"


def test_the_page_is_what_the_options_say():
    """The page in the repository is the one that `make docs` writes."""
    assert runpy.run_path(str(SCRIPT))["page"]() == PAGE.text


def test_make_docs_writes_the_page(tmp_path):
    """The script writes the page beside itself."""
    script = tmp_path / SCRIPT.name
    script.write_text(SCRIPT.read_text())
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / "configuration.md").read_text() == PAGE.text


@pytest.mark.parametrize("name", OPTIONS)
def test_the_page_has_every_option(name):
    """An option's row has its variable, default, what it takes, unit and meaning."""
    option = OPTIONS[name]
    (row,) = [line for line in PAGE.text.splitlines() if line.startswith(f"| `{name}` |")]
    parts = (variable_of(name), default_text(option), *(option.metadata[key] for key in ("allowed", "unit", "doc")))
    assert [part for part in parts if part not in row] == []


def test_options_for_the_process_and_for_a_program(dspy_traces):
    """The block on code gives the process its options, and one program others."""
    names = PAGE.run("TracingConfig.from_env(")
    (callback,), (own,) = dspy.settings.callbacks, names["program"].callbacks
    assert (repr(callback), repr(own)) == (
        "MlflowCallback(sampling_ratio=0.5, tags={'team': 'search'}, level='info')",
        "MlflowCallback(tags={'team': 'search'}, level='info', capture_inputs=False)",
    )
    with dspy.context(lm=answering()):
        names["program"](question="why?")
    assert {span.inputs for span in dspy_traces.one().data.spans} == {None}


def test_options_from_a_shell():
    """The block on variables says what a program then has."""
    exports = [shlex.split(line)[1] for line in PAGE.script("export").splitlines() if line.startswith("export ")]
    assert TracingConfig.from_env(dict(export.split("=", 1) for export in exports)) == TracingConfig(
        experiment="questions",
        tags={"team": "search", "stage": "production"},
        sampling_rules=[SamplingRule(name="Search*", ratio=0.1, max_per_second=5)],
        redact_patterns=["[0-9]{3}-[0-9]{4,5}"],
    )


def test_a_configuration_as_data():
    """The block on JSON holds what it asserts."""
    assert PAGE.run("from_dict(")["config"].max_payload_chars == 10_000


def test_the_order_of_steps(dspy_traces):
    """The block on the order runs: options first, then its own middleware; its payload steps in written order."""
    callback = PAGE.run("payload_steps=[")["callback"]
    assert [type(step) for step in callback._tracing.chain.steps[:1]] == [LevelFilter]
    with dspy.context(lm=answering(), callbacks=[callback]):
        dspy.Predict("question, ssn -> answer")(question="hello?", ssn="078-05-1120")
    assert dspy_traces.one().data.spans[0].inputs == {"question": "...?", "ssn": "[redacted]"}


def test_switching_a_program_off(dspy_traces):
    """The block on `enabled` leaves out the program that it names."""
    private = PAGE.run("enabled=False")["private"]
    assert [type(each) for each in dspy.settings.callbacks] == [MlflowCallback]
    with dspy.context(lm=answering()):
        private(question="unseen")
        dspy.Predict("question -> answer")(question="seen")
    assert dspy_traces.one().data.spans[0].inputs["question"] == "seen"


def test_the_short_ways_of_the_first_table():
    """What the table at the top says in code and in a shell is one and the same."""
    codes = re.findall(r"\| `(MlflowCallback\(.*\))` \|", PAGE.text)
    by_argument, by_config = [eval(code) for code in codes]  # noqa: S307  (code of this project: its own page)
    (export,) = re.findall(r"\| `(DSPY_MLFLOW_\S+) python", PAGE.text)
    assert by_argument.config == by_config.config == TracingConfig.from_env(dict([export.split("=")]))
