"""Saved programs take their tracing along, and no credentials."""

from __future__ import annotations

import copy
import inspect
import json
import multiprocessing
import pickle
from pathlib import Path

import cloudpickle
import dspy
import mlflow
import pytest
from docs_blocks import Page
from offline_lm import OfflineLM
from programs import Program, program_tree
from secret_corpus import SHAPED, SHAPED_TEXTS

import dspy_mlflow_callbacks as package
from dspy_mlflow_callbacks import MlflowCallback, TracingConfig, attach, load_program, save_program
from dspy_mlflow_callbacks.config import read_saved

KEY = "tell-nobody-0123456789"
OTHER = "sk-" + "a1B2c3D4e5F6g7H8" * 3
READS_SETTINGS = "load_settings).parameters" in inspect.getsource(mlflow.dspy.load)  # MLflow passes `allow_pickle` on
QUICK = {"pip_requirements": ["dspy"]}


def with_secrets():
    """Return a program whose LM has credentials of many kinds."""
    program = Program()
    program.generate.predict.lm = dspy.LM(
        "openai/gpt-4o-mini",
        api_key=KEY,
        headers={"Authorization": f"Bearer {KEY}", "X-Team": "search"},
        aws_secret_access_key=KEY,
        extra_body={"vertex_credentials": KEY},
    )
    program.client = {"password": KEY, "note": OTHER, "url": "http://example.com"}
    return program


def traced():
    return attach(Program(), MlflowCallback(tags={"team": "search"}, capture_outputs=False))


def run(program):
    with dspy.context(lm=OfflineLM()):
        return program(question="why?")


def content(folder):
    return b"".join(path.read_bytes() for path in Path(folder).rglob("*") if path.is_file())


WAYS = {"program": {}, "state.json": {"program": Program}, "state.pkl": {"program": Program}}


@pytest.mark.parametrize("name", WAYS)
def test_a_saved_program_takes_its_tracing_along(dspy_traces, tmp_path, name):
    """However a program is saved, the loaded one is traced with the options that governed it."""
    save_program(traced(), tmp_path / name)
    given = {key: make() for key, make in WAYS[name].items()}
    run(load_program(tmp_path / name, **given, allow_pickle=True))
    (trace,) = dspy_traces.all()
    assert dspy_traces.tree() == [program_tree()]
    assert trace.info.tags["team"] == "search"
    assert len(trace.info.trace_metadata["dspy.model.fingerprint"]) == 16


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.warns
def test_no_credential_reaches_a_saved_program(warned, tmp_path, monkeypatch, name):
    """The bytes of all files have no credential in them, the live program keeps its own, and loading says which."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    program = attach(with_secrets(), MlflowCallback())
    save_program(program, tmp_path / name)
    assert KEY.encode() not in content(tmp_path)
    assert OTHER.encode() not in content(tmp_path)
    assert program.generate.predict.lm.kwargs["api_key"] == KEY
    assert program.client["password"] == KEY
    given = {key: make() for key, make in WAYS[name].items()}
    loaded = load_program(tmp_path / name, **given, allow_pickle=True)
    assert loaded.generate.predict.lm.kwargs["headers"] == {"X-Team": "search"}
    assert "OPENAI_API_KEY (generate.predict.lm.api_key)" in warned.messages[-1]


def test_a_credential_of_the_environment_comes_from_there_again(tmp_path, monkeypatch):
    """A credential that an environment variable holds is taken from it when the program is loaded."""
    monkeypatch.setenv("WEATHER_TOKEN", KEY)
    program = traced()
    program.headers = {"Authorization": f"Bearer {KEY}"}
    save_program(program, tmp_path / "program")
    assert KEY.encode() not in content(tmp_path)
    monkeypatch.setenv("WEATHER_TOKEN", "another-one")
    loaded = load_program(tmp_path / "program", allow_pickle=True)
    assert loaded.headers == {"Authorization": "Bearer another-one"}


def test_the_environment_wins_over_what_was_saved(tmp_path, monkeypatch):
    """A variable of an option holds in place of the saved option; the others stay."""
    save_program(traced(), tmp_path / "program")
    monkeypatch.setenv("DSPY_MLFLOW_TAGS", "team=ads")
    config = load_program(tmp_path / "program", allow_pickle=True).callbacks[0].config
    assert (dict(config.tags), config.capture_outputs) == ({"team": "ads"}, False)


def test_an_argument_and_a_global_callback_say_what_is_saved(tmp_path):
    """`config=` goes before the callback on the program, which goes before one in DSPy's settings."""
    save_program(traced(), tmp_path / "a.json", config=TracingConfig(level="info"))
    with dspy.context(callbacks=[MlflowCallback(level="info")]):
        save_program(Program(), tmp_path / "b.json")
    for name in ("a.json", "b.json"):
        said = json.loads((tmp_path / name).read_text())["dspy_mlflow_callbacks"]
        assert (said["callback"], said["config"]["level"], said["config"]["tags"]) == ("MlflowCallback", "info", {})


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"middleware": [lambda call: call]}, "middleware"),
        ({"payload_steps": []}, "payload_steps"),
        ({"tags": {"who": lambda call: "me"}}, "tags"),
    ],
)
def test_what_json_cannot_say_is_refused_by_name(tmp_path, options, name):
    """A function of the user's on the way of a call is not dropped without a word: the error names it."""
    with pytest.raises(TypeError, match=f"JSON cannot say {name}: config="):
        save_program(attach(Program(), MlflowCallback(**options)), tmp_path / "program")


def test_bad_input_is_refused_by_name(tmp_path):
    """What is no program or configuration, a missing path, or a state without its program, gets a clear error."""
    with pytest.raises(TypeError, match=r"program must be a dspy\.Module, got 3"):
        save_program(3, tmp_path / "program")
    with pytest.raises(TypeError, match="config must be a TracingConfig, got 3"):
        save_program(Program(), tmp_path / "program", config=3)
    with pytest.raises(FileNotFoundError, match="there is nothing at"):
        load_program(tmp_path / "program")
    save_program(traced(), tmp_path / "state.json")
    with pytest.raises(ValueError, match="give the program too"):
        load_program(tmp_path / "state.json")


@pytest.mark.warns
def test_programs_that_dspy_saved_load_with_one_warning(warned, tmp_path):
    """A program saved without tracing loads, and one warning says how to trace it."""
    Program().save(tmp_path / "program", save_program=True)
    Program().save(tmp_path / "state.json")
    load_program(tmp_path / "program", allow_pickle=True)
    load_program(tmp_path / "state.json", Program())
    assert [text.partition(" was ")[2] for text in warned.messages] == [
        "saved without tracing: attach(program, MlflowCallback()) traces it."
    ] * 2
    save_program(Program(), tmp_path / "untraced.json")
    assert "nothing traces the program" in warned.messages[-1]


@pytest.mark.warns
def test_what_another_version_saved_loads_with_one_warning(warned, tmp_path):
    """Unknown, missing and wrong options are named in one warning; the rest holds."""
    save_program(traced(), tmp_path / "state.json")
    state = json.loads((tmp_path / "state.json").read_text())
    state["dspy_mlflow_callbacks"]["config"] |= {"colour": "red", "level": "loud"}
    del state["dspy_mlflow_callbacks"]["config"]["redact"]
    state["dspy_mlflow_callbacks"]["package_version"] = "0.0.1"
    (tmp_path / "state.json").write_text(json.dumps(state))
    config = load_program(tmp_path / "state.json", Program()).callbacks[0].config
    assert (config.level, config.redact, dict(config.tags)) == ("debug", True, {"team": "search"})
    (message,) = warned.messages
    assert "by version 0.0.1" in message
    assert "unknown options are left out: colour" in message
    assert "options that were not saved have their defaults: redact" in message
    assert "level has its default" in message


@pytest.mark.parametrize(
    ("environ", "engine", "problem"),
    [
        ({"DSPY_MLFLOW_ENGINE": "native"}, "native", "tail_sampler has its default"),
        (
            {"DSPY_MLFLOW_TAIL_SAMPLER": '{"keep_errors": true}', "DSPY_MLFLOW_ENGINE": "native"},
            "auto",
            "engine has its",
        ),
        ({"DSPY_MLFLOW_ENGINE": "quick"}, "auto", "DSPY_MLFLOW_ENGINE is wrong, so what was saved stands"),
    ],
)
def test_a_saved_configuration_never_stops_a_program(environ, engine, problem):
    """What clashes between environment and saved options, or is wrong, is said, and something sensible holds."""
    saved = read_saved(TracingConfig(tail_sampler={"background_ratio": 0.5}).to_dict(), environ)
    assert (saved.config.engine, len(saved.problems)) == (engine, 1)
    assert problem in saved.problems[0]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_callback_pickles_to_its_configuration(copied):
    """A copy of a callback has its options, and its own counts."""
    callback = MlflowCallback(tags={"team": "search"}, sampling_ratio=0.5, events=["lm"])
    callback.comes_from({"dspy.model.name": "answers"})
    again = copied(callback)
    assert (again.config, again.origin) == (callback.config, callback.origin)


@pytest.mark.warns
def test_a_callback_of_another_version_loads_with_one_warning(warned):
    """A callback that was pickled with an option which is unknown here has the others; one warning names it."""
    again, (kind, options, *rest) = MlflowCallback(level="info").__reduce__()
    callbacks = [again(kind, {**options, "colour": "red"}, *rest) for _ in range(2)]
    assert [each.config.level for each in callbacks] == ["info", "info"]
    assert warned.messages == ["A callback was pickled with options that are unknown here: colour."]


def team_of(pickle_):
    return cloudpickle.loads(pickle_).callbacks[0].config.tags["team"]


def test_attached_programs_go_to_forked_processes():
    """A program's callback goes along into processes; `tests/processes` has those that start afresh."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(team_of, [cloudpickle.dumps(traced())]) == ["search"]


class Saves(dspy.Module):
    def __init__(self, path):
        super().__init__()
        self.path = path
        self.inner = Program()

    def forward(self, question):
        save_program(self, self.path)
        return self.inner(question=question)


def test_a_program_saves_itself_inside_a_traced_call(dspy_traces, tmp_path):
    """Saving inside a call that is traced works and leaves the trace whole."""
    run(attach(Saves(tmp_path / "program"), MlflowCallback()))
    assert len(dspy_traces.tree()) == 1
    assert load_program(tmp_path / "program", allow_pickle=True).callbacks[0].config == MlflowCallback().config


@pytest.mark.parametrize("use_dspy_model_save", [False, True])
@pytest.mark.warns
def test_a_logged_model_is_traced_where_it_is_loaded(warned, dspy_traces, own_folder, monkeypatch, use_dspy_model_save):
    """pyfunc's `predict` traces with the saved options and the model's id; no credential is in the model."""
    if use_dspy_model_save and not READS_SETTINGS:
        pytest.skip("this version of MLflow cannot load what it saves with use_dspy_model_save=True")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    program = with_secrets()
    program.generate.predict.lm = None
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback(tags={"team": "search"})]):
        dspy.settings.lm.kwargs["api_key"] = KEY
        info = package.log_model(
            program, name="answers", registered_model_name="answers", use_dspy_model_save=use_dspy_model_save, **QUICK
        )
        assert dspy.settings.lm.kwargs["api_key"] == KEY
    folder = mlflow.artifacts.download_artifacts(info.model_uri)
    assert KEY.encode() not in content(folder)
    said = mlflow.models.get_model_info(info.model_uri).metadata["dspy_mlflow_callbacks"]
    assert said["config"]["tags"] == {"team": "search"}
    assert any(each["place"] == "lm.api_key" for each in said["withheld"])
    loaded = mlflow.pyfunc.load_model(f"models:/answers/{info.registered_model_version}")
    assert loaded.predict({"question": "why?"})["answer"] == "some answer"
    (trace,) = dspy_traces.all()
    metadata = trace.info.trace_metadata
    assert metadata["mlflow.modelId"] == info.model_id
    assert (metadata["dspy.model.name"], metadata["dspy.model.version"]) == (
        "answers",
        str(info.registered_model_version),
    )
    assert trace.info.tags["team"] == "search"
    assert "Set these environment variables" in " ".join(warned.messages)


def test_load_model_keeps_callbacks_and_what_the_model_leaves_open(dspy_traces, tmp_path):
    """Callbacks and an LM that are configured stay; the loaded program is traced by its own."""
    package.save_model(traced(), tmp_path / "model", **QUICK)
    before = dspy.settings.callbacks
    lm = OfflineLM()
    dspy.configure(lm=lm)
    program = package.load_model(str(tmp_path / "model"))
    assert (dspy.settings.callbacks, dspy.settings.lm) == (before, lm)
    run(program)
    assert [trace.info.tags["team"] for trace in dspy_traces.all()] == ["search"]


@pytest.mark.warns
def test_a_plain_model_loads_with_one_warning(warned, tmp_path):
    """A model of `mlflow.dspy.save_model` loads; where nothing traces it, one warning says so."""
    mlflow.dspy.save_model(Program(), str(tmp_path / "model"), **QUICK)
    package.load_model(str(tmp_path / "model"))
    (message,) = warned.messages
    assert "was saved without tracing" in message


def test_saving_calls_the_program_for_its_example_and_records_nothing(dspy_traces, tmp_path):
    """With an input example MLflow calls the live program, with its own LM; that is no execution to trace."""
    with dspy.context(lm=OfflineLM(), callbacks=[MlflowCallback()]):
        package.save_model(
            Program(), tmp_path / "model", input_example={"question": "why?"}, metadata={"own": 1}, **QUICK
        )
    saved = mlflow.models.Model.load(str(tmp_path / "model"))
    assert saved.signature.outputs.input_names() == ["reasoning", "answer"]
    assert saved.metadata["own"] == 1
    assert len(dspy_traces.all()) == 0


def test_the_page_on_saving_works_when_followed(dspy_traces, own_folder):
    """The example of docs/programs.md saves and loads a program in two ways, and both are traced."""
    Page("docs/programs.md").run("load_program(")
    assert [trace.info.tags["team"] for trace in dspy_traces.all()] == ["search", "search"]


class Odd(dict):
    """A dict that pickles its items one by one."""


def test_credentials_of_any_form_are_withheld(tmp_path, monkeypatch):
    """Bytes, lists under a secret's name, dicts of other classes and keys of the environment are left out too."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    program = traced()
    program.generate.predict.lm = dspy.LM("openai/gpt-4o-mini")
    program.more = {"secret": KEY.encode(), "credentials": ["user", KEY[:20]], "odd": Odd(password=KEY, name="Ada")}
    program.text = f"see {KEY}"
    save_program(program, tmp_path / "program")
    save_program(program, tmp_path / "state.json")
    assert KEY[:20].encode() not in content(tmp_path)
    said = json.loads((tmp_path / "state.json").read_text())["dspy_mlflow_callbacks"]["withheld"]
    assert said == [{"place": "generate.predict.lm.api_key", "variable": "OPENAI_API_KEY"}]


@pytest.mark.parametrize("form", ["program", "state.json"])
def test_credentials_of_every_shape_are_withheld(tmp_path, form):
    """What looks like a credential of some provider is left out, wherever in the program it stands."""
    program = traced()
    program.notes = dict(SHAPED_TEXTS)
    program.generate.predict.demos = [dspy.Example(question=text, answer="Ada") for text in SHAPED_TEXTS.values()]
    save_program(program, tmp_path / form)
    stored = content(tmp_path)
    assert [kind for kind, secret in SHAPED.items() if secret.encode() in stored] == []
    assert program.notes == SHAPED_TEXTS


def test_a_demo_keeps_its_shape_in_a_saved_state(tmp_path, monkeypatch):
    """A credential in a demo becomes a mark: what is around it, and the field, stay."""
    monkeypatch.setenv("SERVICE_TOKEN", KEY)
    program = traced()
    program.generate.predict.demos = [dspy.Example(question=KEY, answer="Ada")]
    save_program(program, tmp_path / "state.json")
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["generate.predict"]["demos"] == [{"question": "[redacted]", "answer": "Ada"}]


def test_load_model_leaves_a_plain_model_to_the_callback_that_is_configured(dspy_traces, tmp_path):
    """A plain model that a configured callback traces is loaded without a word."""
    mlflow.dspy.save_model(Program(), str(tmp_path / "model"), **QUICK)
    run(package.load_model(str(tmp_path / "model")))
    assert len(dspy_traces.all()) == 1


def test_requirements_of_the_user_are_completed(tmp_path):
    """A model needs this package where it is loaded; requirements in a file are left to whoever wrote it."""
    (tmp_path / "requirements.txt").write_text("dspy\n")
    package.save_model(traced(), tmp_path / "model", **QUICK)
    package.save_model(traced(), tmp_path / "other", pip_requirements=str(tmp_path / "requirements.txt"))
    assert "dspy-mlflow-callbacks==" in (tmp_path / "model" / "requirements.txt").read_text()
    assert "dspy-mlflow-callbacks" not in (tmp_path / "other" / "requirements.txt").read_text()


def with_literal():
    """Return a program of a class that is pickled by value, with a key in the text of its code."""

    class Literal(Program):
        def forward(self, question):
            return super().forward(question=question + "sk-proj-a1B2c3D4e5F6g7H8a1B2"[:0])

    return attach(Literal(), MlflowCallback())


def test_a_key_in_code_that_is_pickled_is_withheld(dspy_traces, tmp_path):
    """A literal in a function of the program becomes a mark in its copy; the place is named by file and line."""
    program = with_literal()
    save_program(program, tmp_path / "program")
    assert b"sk-proj-a1B2" not in content(tmp_path)
    line = type(program).forward.__code__.co_firstlineno
    said = json.loads((tmp_path / "program" / "metadata.json").read_text())["dspy_mlflow_callbacks"]["withheld"]
    assert said == [{"place": f"forward (test_saving.py, line {line})", "variable": None}]
    assert run(program).answer == "some answer"


@pytest.mark.warns
def test_a_key_in_files_that_are_saved_as_they_are_is_said(tmp_path, warned):
    """Files of `code_paths` are not changed: one warning names the lines in which something looks like a credential."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "keys.py").write_text(f"import os\nKEY = {OTHER!r}\nOTHER = os.environ['API_KEY']\n")
    (code / "many.py").write_text(f"KEY = {OTHER!r}\n" * 12)
    (code / "image.png").write_bytes(b"\xff\xd8")
    (code / "large.txt").write_text(f"{OTHER}\n" * 40_000)
    (tmp_path / "clean.py").write_text("import os\n")
    package.save_model(traced(), tmp_path / "model", code_paths=[str(code), str(tmp_path / "clean.py")], **QUICK)
    (message,) = warned.messages
    assert "as they are: keys.py, line 2, many.py, line 1, " in message
    assert "many.py, line 9 and 3 more. Whoever" in message
    assert (tmp_path / "model" / "code" / "code" / "keys.py").read_text() == (code / "keys.py").read_text()
