"""`DSPY_MLFLOW_AUTOLOG=1`: Python traces from its start on, in an installed wheel, an editable install, or neither."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import mlflow
import pytest
from expected import ok
from programs import predict_tree

import dspy_mlflow_callbacks
from dspy_mlflow_callbacks import autostart
from dspy_mlflow_callbacks.config import environment
from dspy_mlflow_callbacks.testing.captured import tree

ROOT = Path(__file__).parent.parent
PACKAGE = Path(dspy_mlflow_callbacks.__file__).parent

APP = """
import sys
early = {"dspy", "mlflow"} & set(sys.modules)
import dspy
from dspy.utils.dummies import DummyLM

def ask(question):
    with dspy.context(lm=DummyLM([{"answer": "42"}])):
        return dspy.Predict("question -> answer")(question=question).answer

if __name__ == "__main__":
    dspy.configure(callbacks=[])
    print(ask("why?"), early, dspy.settings.callbacks, dspy.settings.track_usage)
"""
PRINTED = "42 set() [] False\n"


def run(command, folder, **variables):
    kept = {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", autostart.VARIABLE)}
    return subprocess.run(
        [str(each) for each in command],
        cwd=folder,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def store(dspy_traces):
    """The variables of a program that traces into the test's store."""
    return {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(), "MLFLOW_EXPERIMENT_ID": dspy_traces.experiment_id}


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Return a function that makes a Python with everything but this package, which is installed as it says, once."""
    return functools.cache(lambda install: _python(tmp_path_factory.mktemp(install), install))


def _python(folder, install):
    venv.create(folder / "env", symlinks=os.name != "nt")
    (packages,) = (folder / "env").rglob("site-packages")
    dependencies = [each for each in sys.path if each.endswith("-packages")]
    (packages / "a0_dependencies.pth").write_text("\n".join(dependencies))
    if install != "wheel":  # of which the files are measured where they stand
        for coverage in [path for each in dependencies for path in Path(each).glob("*coverage.pth")]:
            shutil.copy(coverage, packages)
    if install != "nothing":
        backend = f"import hatchling.build as build; print(build.build_{install}({str(folder)!r}))"
        built = subprocess.run([sys.executable, "-c", backend], cwd=ROOT, capture_output=True, text=True, check=True)
        with zipfile.ZipFile(folder / built.stdout.split()[-1]) as wheel:
            wheel.extractall(packages)
    return folder / "env" / "bin" / "python"


WAYS = {
    "a wheel": ("wheel", [], {"DSPY_MLFLOW_AUTOLOG": "1"}),
    "an editable install": ("editable", [], {"DSPY_MLFLOW_AUTOLOG": "Yes"}),
    "the command in a wheel": ("wheel", ["-m", "dspy_mlflow_callbacks", "run"], {}),
    "the command on a path": ("nothing", ["-m", "dspy_mlflow_callbacks", "run"], {"PYTHONPATH": str(PACKAGE.parent)}),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_program_that_does_not_mention_this_package_is_traced(dspy_traces, store, tmp_path, python, way):
    """A program is traced as it is, also where it configures DSPy's callbacks itself; its output stays the same."""
    install, command, variables = way
    (tmp_path / "app.py").write_text(APP)
    done = run([python(install), *command, "app.py"], tmp_path, **store, **variables)
    assert (done.returncode, done.stdout) == (0, PRINTED), done.stderr
    assert dspy_traces.tree() == [predict_tree()]


def test_a_wheel_has_nothing_else_at_its_root(tmp_path, python):
    """Beside the package a wheel puts one file into the site folder, which does nothing without the variable."""
    executable = python("wheel")
    (packages,) = executable.parent.parent.rglob("site-packages")
    assert {path.name for path in packages.iterdir() if not path.name.endswith(".dist-info")} == {
        "a0_dependencies.pth",
        "dspy_mlflow_callbacks",
        "dspy_mlflow_callbacks.pth",
    }
    code = "import sys; print([name for name in sys.modules if 'dspy' in name])"
    assert run([executable, "-c", code], tmp_path).stdout == "[]\n"


# From here on this Python itself, which may or may not have the `.pth` file in its site folder.
STARTUP = {"PYTHONPATH": str(PACKAGE / "startup"), "DSPY_MLFLOW_AUTOLOG": "1"}


@pytest.mark.parametrize("text", ["", " ", "0", "false", "No", "OFF"])
def test_switched_off(tmp_path, text):
    """Without the variable, or with one that says no, nothing waits for DSPy."""
    code = "import sys; print([each for each in sys.meta_path if 'dspy' in type(each).__module__])"
    done = run([sys.executable, "-c", code], tmp_path, **STARTUP | {"DSPY_MLFLOW_AUTOLOG": text})
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_a_wrong_value_is_warned_of(tmp_path):
    """A value that means neither is named once with what is allowed, and the program runs untraced."""
    done = run([sys.executable, "-c", "print('ran')"], tmp_path, **STARTUP | {"DSPY_MLFLOW_AUTOLOG": "maybe"})
    assert (done.returncode, done.stdout) == (0, "ran\n")
    said = "DSPY_MLFLOW_AUTOLOG='maybe' is ignored: must be one of true, 1, yes, on, false, 0, no, off. "
    assert done.stderr == f"{said}Programs are not traced.\n"


def test_the_words_are_those_of_options():
    """The variable takes the words that switches among the options take."""
    assert (autostart.TRUE, autostart.FALSE) == (environment.TRUE, environment.FALSE)


@pytest.mark.parametrize("text", ["import sys; print('mine', sys.path)", "raise ZeroDivisionError", "import nowhere"])
def test_another_sitecustomize_runs_too(tmp_path, text):
    """A `sitecustomize` of the user's own runs as it would, fails as it would, and sees the path as it would."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "sitecustomize.py").write_text(text)
    code = "import sys; print(sys.path)"
    plain = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(mine))
    both = os.pathsep.join([STARTUP["PYTHONPATH"], str(mine)])
    ours = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=both, DSPY_MLFLOW_AUTOLOG="1")
    assert (ours.stdout, ours.stderr) == (plain.stdout, plain.stderr)


def test_it_waits_once(tmp_path):
    """However often Python comes by, one object waits for DSPy."""
    code = """
import sys
from dspy_mlflow_callbacks import autostart
autostart.begin()
print(len([each for each in sys.meta_path if "dspy" in type(each).__module__]))
"""
    assert run([sys.executable, "-c", code], tmp_path, **STARTUP).stdout == "1\n"


ASKED_FIRST = """
import importlib.util, sys
assert importlib.util.find_spec("dspy") and importlib.util.find_spec("dspy")
assert "dspy" not in sys.modules
from app import ask
assert not [each for each in sys.meta_path if "dspy" in type(each).__module__]
assert "exec_module" not in vars(sys.modules["dspy"].__loader__)
print(ask("why?"))
"""
OURS_FIRST = """
from dspy_mlflow_callbacks import ModuleCallback, autolog
from app import ask
print(ask("why?"))
"""
SPAWNED = """
import multiprocessing
from app import ask

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(ask, ["why?"]))
        pool.close()
        pool.join()
"""
BY_SUBPROCESS = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "from app import ask; print(ask('why?'))"], check=True)
"""
PROGRAMS = {
    "that looks for DSPy first": ASKED_FIRST,
    "that imports this package first": OURS_FIRST,
    "whose children are spawned": SPAWNED,
    "that starts another Python": BY_SUBPROCESS,
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_programs_of_all_kinds_are_traced(dspy_traces, store, tmp_path, program):
    """A program is traced that looks for DSPy before it imports it, has it from this package, or in its children."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "main.py").write_text(program)
    done = run([sys.executable, "main.py"], tmp_path, **store, **STARTUP)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    assert dspy_traces.tree() == [predict_tree()]


def test_optimizers_are_traced(dspy_traces, store, tmp_path):
    """What is recorded is what the variables say: optimizers too, unless `DSPY_MLFLOW_COMPILE=false`."""
    (tmp_path / "main.py").write_text(
        "import dspy\n"
        "example = dspy.Example(question='why?', answer='42').with_inputs('question')\n"
        "dspy.LabeledFewShot(k=1).compile(dspy.Predict('question -> answer'), trainset=[example])\n"
    )
    done = run([sys.executable, "main.py"], tmp_path, **store, **STARTUP)
    assert done.returncode == 0, done.stderr
    assert dspy_traces.tree() == [ok("LabeledFewShot", "WORKFLOW")]


def test_every_trace_is_stored_at_exit(dspy_traces, store, tmp_path):
    """A program that ends right after its last call, by `sys.exit` in the middle, leaves all of its traces."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "main.py").write_text("import sys, app\nfor n in range(100): app.ask(str(n))\nsys.exit(3)\n")
    done = run([sys.executable, "main.py"], tmp_path, **store, **STARTUP)
    assert done.returncode == 3
    assert [tree(trace) for trace in dspy_traces.all()] == [[predict_tree()]] * 100


NO_DSPY = """
import importlib.util, sys
sys.path[:] = [path for path in sys.path if "site-packages" not in path]
try:
    import dspy
except ImportError as error:
    print(repr(error))
print(importlib.util.find_spec("dspy"))
"""


def test_a_python_without_dspy_runs_as_ever(tmp_path):
    """Where DSPy is not on the path, its import fails as it always does."""
    done = run([sys.executable, "-c", NO_DSPY], tmp_path, **STARTUP)
    assert (done.stdout, done.stderr) == ("ModuleNotFoundError(\"No module named 'dspy'\")\nNone\n", "")


FROM_A_ZIP = """
import importlib.util, sys
sys.path.insert(0, "mine.zip")
assert importlib.util.find_spec("dspy") and importlib.util.find_spec("dspy")
import other
assert importlib.util.find_spec("dspy") and importlib.util.find_spec("dspy")
import dspy
import another
"""


def test_a_loader_that_serves_many_modules_stays_as_it_is(tmp_path):
    """Modules of one zip file, one of them called `dspy`, are imported as ever and in their order."""
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as file:
        for name in ("other", "dspy", "another"):
            file.writestr(f"{name}.py", "print(__name__)")
    (tmp_path / "main.py").write_text(FROM_A_ZIP)
    done = run([sys.executable, "main.py"], tmp_path, **STARTUP)
    assert (done.returncode, done.stdout) == (0, "other\ndspy\nanother\n"), done.stderr
    assert done.stderr.count("Programs are not traced: ") == 1


def test_what_goes_wrong_costs_the_traces_alone(tmp_path):
    """A module of the user's own that is called `dspy` is imported as ever, and a warning says what is not traced."""
    (tmp_path / "dspy.py").write_text("print('mine')")
    (tmp_path / "main.py").write_text("import dspy; print('ran')")
    done = run([sys.executable, "main.py"], tmp_path, **STARTUP)
    assert (done.returncode, done.stdout) == (0, "mine\nran\n")
    assert done.stderr.startswith("Programs are not traced: ")
