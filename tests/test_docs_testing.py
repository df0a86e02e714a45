"""docs/testing.md: what it says is so, and its blocks run as they stand."""

from __future__ import annotations

import subprocess
import sys

import dspy
import pytest
from docs_blocks import Page, blocks_that_run
from offline_lm import OfflineLM
from openai_server import chat, choice
from programs import Program

from dspy_mlflow_callbacks.testing import RECORD_MODES, CapturedTraces

pytestmark = [pytest.mark.usefixtures("own_folder"), pytest.mark.timeout(300)]  # fresh interpreters

PAGE = Page("docs/testing.md")
TESTS = (
    "def test_the_program_reasons_first(dspy_traces)",
    "def test_one_call_is_enough()",
    "def test_the_answer_is_short(dspy_replay)",
)


def test_each_block_is_run():
    """No code block of the page is left out of these tests."""
    blocks = [*PAGE.blocks(), *PAGE.blocks("console")]
    texts = [*blocks_that_run(__file__), *TESTS]
    assert [block for block in blocks if not any(text in block for text in texts)] == []


def test_the_tests_pass(own_folder, tmp_path, openai_server):
    """The page's tests pass in a project of their own, the recorded one first online, then offline."""
    openai_server.script(chat(choice("[[ ## answer ## ]]\nRayleigh\n\n[[ ## completed ## ]]")))
    here = f'dspy.LM("openai/gpt-4o-mini", api_base="{openai_server.url}", api_key="none")'
    for number, holds in enumerate(TESTS):
        block = PAGE.block(holds).replace('dspy.LM("openai/gpt-4o-mini")', here)
        (tmp_path / f"test_{number}.py").write_text(block)
    command = f"{sys.executable} -m {PAGE.script('pytest --dspy-record-mode=once')} -p no:cacheprovider -p no:randomly"
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert [path.name for path in tmp_path.rglob("*.yaml")] == ["test_the_answer_is_short.yaml"]
    asked = len(openai_server.requests)
    done = subprocess.run(command.replace("once", "none").split(), capture_output=True, text=True, check=False)
    assert (done.returncode, len(openai_server.requests)) == (0, asked), done.stdout


def test_the_same_works_without_pytest(capsys):
    """The last block captures, records, prints and checks."""
    with dspy.context(lm=OfflineLM()):
        PAGE.run("SpendingLimits(max_lm_calls=2)", program=Program())
    assert "Program.generate.predict  CHAIN" in capsys.readouterr().out


def test_the_tables_are_complete():
    """The page names each method of the captured traces, and each record mode."""
    methods = {name for name in vars(CapturedTraces) if not name.startswith("_")}
    first = " ".join(row[0] for row in PAGE.rows("| | returns"))
    assert {name for name in methods if f"`{name}(" not in first} == set()
    modes = [row[0].split("`")[1] for row in PAGE.rows("| `--dspy-record-mode`")]
    assert tuple(modes) == RECORD_MODES
