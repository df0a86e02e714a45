"""The command `dspy-mlflow run`: a program runs as with plain Python, and is traced."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import dspy_mlflow_callbacks
from dspy_mlflow_callbacks.cli import main
from dspy_mlflow_callbacks.config import OPTIONS

COMMAND = [sys.executable, "-m", "dspy_mlflow_callbacks"]

SAYS_ALL = """
import sys
main = sys.modules["__main__"]
print(sys.argv, sys.path[0], __name__, __file__, __spec__ and __spec__.name, main.__dict__ is globals())
print(sys.flags, sys.orig_argv[1:], sys.warnoptions)
"""
SPAWNS = """
import multiprocessing, sys

def child(queue):
    queue.put((__name__, sys.argv, sys.path[0]))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    print(queue.get(), process.join(), process.exitcode)
"""
KILLED = """
import os, signal
os.kill(os.getpid(), signal.SIGTERM)
"""
HANDLES = """
import os, signal, sys
signal.signal(signal.SIGINT, lambda number, frame: sys.exit(f"handled {number}"))
os.kill(os.getpid(), signal.SIGINT)
"""
RAISES = """
def inner():
    raise ZeroDivisionError("why")

inner()
"""

PROGRAMS = {
    "what it sees": (SAYS_ALL, ["one", "--two", "-m", "three", "--", "--level", "info"], ""),
    "a child process": (SPAWNS, ["one"], ""),
    "an exit status": ("raise SystemExit(3)", [], ""),
    "an exit message": ("import sys; sys.exit('no way')", [], ""),
    "an exit without a status": ("raise SystemExit", [], ""),
    "an exception": (RAISES, [], ""),
    "a syntax error": ("if", [], ""),
    "standard input": ("print(input()[::-1], open(0).read())", [], "first\nsecond\n"),
    "a signal": (KILLED, [], ""),
    "a handled signal": (HANDLES, [], ""),
    "an interrupt": ("raise KeyboardInterrupt", [], ""),
    "at exit": ("import atexit; atexit.register(print, 'bye'); print('hello')", [], ""),
}


def run(command, folder, text="", **environment):
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("way", ["script", "module"])
@pytest.mark.parametrize(("program", "arguments", "text"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_runs_as_with_python(tmp_path, program, arguments, text, way):
    """Output, tracebacks, exit status, arguments, path, input, signals and children are as with plain Python."""
    (tmp_path / "app.py").write_text(program)
    target = ["app.py", *arguments] if way == "script" else ["-m", "app", *arguments]
    assert run([*COMMAND, "run", *target], tmp_path, text) == run([sys.executable, *target], tmp_path, text)


PYTHONS = {
    "a script that is not there": ["nowhere.py"],
    "a module that is not there": ["-m", "nowhere"],
    "no module": ["-m"],
    "code": ["-c", "import sys; print(sys.argv)", "one"],
    "standard input": ["-", "one"],
    "an option of Python's": ["-W", "error", "-c", "import sys; print(sys.warnoptions)"],
}


@pytest.mark.parametrize("target", PYTHONS.values(), ids=PYTHONS)
def test_what_python_takes_is_taken(tmp_path, target):
    """What stands behind our options is Python's, and Python says what is wrong with it."""
    text = "import sys; print(sys.argv)"
    assert run([*COMMAND, "run", *target], tmp_path, text) == run([sys.executable, *target], tmp_path, text)


def test_options_of_the_interpreter_are_passed_on(tmp_path):
    """The program's Python has the flags that the command's Python was started with."""
    flags = ["-X", "dev", "-W", "error::UserWarning", "-O"]
    code = "import sys; print(sys.flags.dev_mode, sys.flags.optimize, 'error::UserWarning' in sys.warnoptions)"
    done = run([sys.executable, *flags, *COMMAND[1:], "run", "-c", code], tmp_path)
    assert (done[0], done[1]) == (0, "True 1 True\n")


@pytest.mark.engine("auto")  # no other variable is set
def test_an_option_is_a_variable_of_the_program(tmp_path):
    """Options are variables of the program and of its children; other variables stay as they are."""
    code = "import os; print(sorted(f'{k}={v}' for k, v in os.environ.items() if k.startswith('DSPY_MLFLOW')))"
    options = ["--sampling-ratio", "0.5", "--level=info", "--capture-inputs", "false"]
    before = {"DSPY_MLFLOW_LEVEL": "debug", "DSPY_MLFLOW_USER": "me", "DSPY_MLFLOW_AUTOLOG": "0"}
    status, output, errors = run([*COMMAND, "run", *options, "-c", code], tmp_path, **before)
    assert (status, errors) == (0, "")
    assert output == (
        "['DSPY_MLFLOW_AUTOLOG=1', 'DSPY_MLFLOW_CAPTURE_INPUTS=false', 'DSPY_MLFLOW_LEVEL=info', "
        "'DSPY_MLFLOW_SAMPLING_RATIO=0.5', 'DSPY_MLFLOW_USER=me']\n"
    )


def test_pythonpath_stays_on_the_path(tmp_path):
    """Folders of the user's `PYTHONPATH` are where they were."""
    mine = tmp_path / "mine"
    mine.mkdir()
    code = "import sys; print(sys.path)"
    plain = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(mine))
    assert run([*COMMAND, "run", "-c", code], tmp_path, PYTHONPATH=str(mine)) == plain
    assert str(mine) in plain[1]


WRONG = {
    "no command": ([], "Missing command."),
    "an unknown command": (["ran", "app.py"], "No such command 'ran'."),
    "no program": (["run"], "say which script to run, or which module with -m"),
    "options and no program": (["run", "--level", "info"], "say which script to run, or which module with -m"),
    "an option without its value": (["run", "--level"], "Option '--level' requires an argument."),
    "a wrong value": (["run", "--sampling-ratio", "2", "app.py"], "must be a number from 0 to 1"),
    "a wrong word": (["run", "--redact", "maybe", "app.py"], "Allowed: true or false."),
    "an unknown option": (["run", "--sampling-rate", "0.1", "app.py"], "No such option"),
    "a shortened option": (["run", "--sampling-rat=0.1", "app.py"], "No such option"),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG)
def test_wrong_usage_exits_with_2(tmp_path, arguments, said):
    """Wrong usage exits with status 2, a line that says what is wrong, and runs nothing."""
    (tmp_path / "app.py").write_text("print('ran')")
    status, output, errors = run([*COMMAND, *arguments], tmp_path)
    assert (status, output) == (2, "")
    assert said in errors.splitlines()[-1]


def test_help_names_every_option(tmp_path):
    """`--help` says what each option is for, and its default."""
    for flag in ("--help", "-h"):
        status, output, errors = run([*COMMAND, "run", flag], tmp_path, COLUMNS="100")
        assert (status, errors) == (0, "")
        assert [name for name in OPTIONS if f"--{name.replace('_', '-')} VALUE" not in output] == []
        assert "Default: debug." in output
    assert "run a Python program with its DSPy calls traced" in run([*COMMAND, "--help"], tmp_path)[1]


def test_the_console_script_is_the_module(tmp_path):
    """`dspy-mlflow` is the same as `python -m dspy_mlflow_callbacks`, and says its version."""
    version = f"dspy-mlflow {dspy_mlflow_callbacks.__version__}\n"
    script = Path(sys.executable).with_name("dspy-mlflow")
    assert run([script, "--version"], tmp_path) == (0, version, "")
    assert run([*COMMAND, "--version"], tmp_path) == (0, version, "")
    assert run([script, "run", "--help"], tmp_path) == run([*COMMAND, "run", "--help"], tmp_path)


def test_output_that_is_no_stream_of_bytes():
    """Called where standard output has no encoding, such as a text in memory, it prints there."""
    with redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as exited:
        main(["--version"])
    assert (exited.value.code, printed.getvalue()) == (0, f"dspy-mlflow {dspy_mlflow_callbacks.__version__}\n")


def test_nothing_heavy_is_imported_before_the_program(tmp_path):
    """Until the program imports DSPy neither DSPy nor MLflow is there, and what this package needs is not either."""
    code = "import sys; print({'dspy', 'mlflow', 'attrs', 'orjson', 'argparse', 'logging'} & set(sys.modules))"
    assert run([*COMMAND, "run", "-c", code], tmp_path) == (0, "set()\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_the_command(tmp_path, shell):
    """`completion` prints a script that asks the command, which knows its commands, their options and choices."""
    status, script, errors = run([*COMMAND, "completion", shell], tmp_path)
    assert (status, errors) == (0, "")
    assert f"_DSPY_MLFLOW_COMPLETE={shell}_complete" in script


def test_completions_are_those_of_the_words(tmp_path):
    """The command completes its own names, and what an option may be."""

    def completed(words):
        asked = {"_DSPY_MLFLOW_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return run([Path(sys.executable).with_name("dspy-mlflow")], tmp_path, **asked)[1].split()

    assert completed("dspy-mlflow comp") == ["plain,compare", "plain,completion"]
    assert completed("dspy-mlflow replay --mode l") == ["plain,lenient", "plain,live"]
    assert completed("dspy-mlflow run --sampling-ra") == ["plain,--sampling-ratio"]
