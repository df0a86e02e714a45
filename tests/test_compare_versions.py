"""Two versions of a program side by side: sets of traces with known differences."""

from __future__ import annotations

import io
import statistics

import mlflow
import pytest
from compared import Answers, priced, score, traced, version
from offline_lm import OfflineLM
from rich.console import Console

from dspy_mlflow_callbacks import CheckFailedError, compare_versions
from dspy_mlflow_callbacks.compare import pages
from dspy_mlflow_callbacks.compare.progress import progress_bar
from dspy_mlflow_callbacks.compare.statistics import metric, require_scipy

HERE = {"by": "tag:version", "resamples": 200}


@pytest.fixture
def two(dspy_traces):
    """Run two versions: the second has another step, and answers one of the four questions otherwise."""
    questions = ["a", "b", "c", "c"]
    first = version(dspy_traces, "v1", Answers("one"), *questions, "only v1", lm=OfflineLM(answer="yes"))
    otherwise = OfflineLM(answer=lambda prompt: "no" if "\nb\n" in prompt else "yes")
    second = version(dspy_traces, "v2", Answers("one", "two"), *questions, "only v2", "and v2", lm=otherwise)
    return first, second


def here(traces, **options):
    return compare_versions("v1", "v2", **{**HERE, "experiments": [traces.experiment_id], **options})


def test_counts(dspy_traces, two):
    """Traces are matched by inputs; those without a partner, and inputs that came twice, are counted."""
    comparison = here(dspy_traces)
    counts = (comparison.matched, comparison.only_baseline, comparison.only_candidate, comparison.repeated)
    assert counts == (4, 1, 2, 1)
    assert (comparison.outputs_changed, comparison.structure_changed, comparison.errors) == (1, 4, (0, 0))


def test_the_examples_that_changed_most(dspy_traces, two):
    """The example with other outputs stands first; as many are listed as were asked for."""
    comparison = here(dspy_traces, changed=2)
    (first, second), *others = comparison.changed
    assert (first.inputs_text, first.outputs_text, second.outputs_text) == (
        '{"question": "b"}',
        '{"answer": "yes"}',
        '{"answer": "no"}',
    )
    assert len(others) == 1
    assert "structure, outputs" in comparison.to_markdown()


def test_symmetry(dspy_traces, two):
    """The other way round counts and statistics change sides, and differences their sign."""
    there = here(dspy_traces)
    back = compare_versions("v2", "v1", **HERE, experiments=[dspy_traces.experiment_id])
    assert (there.only_baseline, there.only_candidate) == (back.only_candidate, back.only_baseline)
    assert [pair[::-1] for pair in there.changed] == list(back.changed)
    for one, other in zip(there.metrics, back.metrics, strict=True):
        assert (one.baseline, one.candidate_sum) == (other.candidate, other.baseline_sum)
        assert one.difference == pytest.approx(-other.difference)


def test_the_same_seed_gives_the_same_intervals(dspy_traces, two):
    """Intervals are drawn by the seed alone, and hold the difference; without resamples there are none."""
    first, again = (here(dspy_traces, seed=3) for _ in range(2))
    assert first.to_dict() == again.to_dict()
    low, high = first.metrics[0].interval
    assert low <= first.metrics[0].difference <= high
    without = here(dspy_traces, resamples=0)
    assert {each.interval for each in without.metrics} == {None}
    assert "no intervals were asked for" in without.to_markdown()


def test_intervals():
    """An interval of a mean is as wide as normal theory says, and differs from seed to seed a little."""
    values = [(0.0, float(number)) for number in range(100)]
    first, second = (metric("x", values, "mean", resamples=4_000, seed=seed).interval for seed in (0, 1))
    half = 1.96 * statistics.pstdev(range(100)) / 100**0.5
    assert first == pytest.approx((49.5 - half, 49.5 + half), abs=0.5)
    assert first != second


def test_known_costs(openai_server, dspy_traces):
    """Costs and tokens are those of the answers; the sum of costs has a limit."""
    version(dspy_traces, "v1", Answers("one"), "a", "b", lm=priced(openai_server, 20))
    version(dspy_traces, "v2", Answers("one"), "a", "b", lm=priced(openai_server, 20, 40))
    comparison = here(dspy_traces)
    tokens = comparison.metrics[1]
    assert (tokens.baseline, tokens.candidate, tokens.difference) == (120, 130, 10)
    assert (tokens.baseline_sum, tokens.candidate_sum, tokens.pairs) == (240, 260, 2)
    with pytest.raises(CheckFailedError, match=r"the sum of costs rose by 22\.2%"):
        comparison.check(max_cost_increase=0.1)
    assert comparison.check(max_cost_increase=0.3, max_latency_increase=1e9).failed == ()


def test_scores(dspy_traces, two):
    """Scores are means of feedback over the pairs where both have it; the candidate's has a limit."""
    first, second = two
    for trace, value in [*zip(first[:3], (1, 0, 1), strict=True), *zip(second[:2], (True, True), strict=True)]:
        score(trace, value)
    comparison = here(dspy_traces)
    (quality,) = [each for each in comparison.metrics if each.name == "score quality"]
    assert (quality.statistic, quality.pairs, quality.baseline, quality.candidate) == ("mean", 2, 0.5, 1.0)
    assert comparison.changed[0][0].inputs_text == '{"question": "b"}'
    assert "quality 0 → 1" in comparison.to_markdown()
    assert comparison.check(min_score=0.9, allow_structure_change=True).made == ("min_score",)
    with pytest.raises(CheckFailedError, match=r"the structure changed \(4 times\)"):
        comparison.check()


def test_errors(dspy_traces):
    """A call that fails in one version only is the example that changed most."""

    class Fails(Answers):
        def forward(self, question):
            if question == "b":
                raise ZeroDivisionError
            return super().forward(question)

    version(dspy_traces, "v1", Answers("one"), "a", "b")
    with pytest.raises(ZeroDivisionError):
        version(dspy_traces, "v2", Fails("one"), "a", "b")
    comparison = here(dspy_traces)
    assert comparison.errors == (0, 1)
    assert "status OK → ERROR" in comparison.to_markdown()


def test_equal_versions(dspy_traces):
    """Nothing is listed where nothing changed, and one pair has no interval."""
    for name in ("v1", "v2"):
        version(dspy_traces, name, Answers("one"))
    comparison = here(dspy_traces)
    assert (comparison.changed, comparison.metrics[0].interval) == ((), None)
    assert "changed most" not in comparison.to_html()


def fingerprint(trace):
    return next(span for span in trace.data.spans if span.parent_id is None).get_attribute("dspy.program.fingerprint")


def test_by_fingerprint(dspy_traces):
    """Versions are found by the fingerprint of their roots, which is how programs differ by themselves."""
    (first,) = traced(dspy_traces, Answers("one"))
    (second,) = traced(dspy_traces, Answers("one", instructions="Be brief."))
    traced(dspy_traces, Answers("two"))
    comparison = compare_versions(fingerprint(first), fingerprint(second), experiments=[dspy_traces.experiment_id])
    assert (comparison.matched, comparison.only_baseline, comparison.only_candidate) == (1, 0, 0)


def test_by_experiment(dspy_traces):
    """An experiment is given by its name or its id."""
    traced(dspy_traces, Answers("one"))
    other = mlflow.set_experiment(f"other of {dspy_traces.experiment_id}")
    dspy_id, dspy_traces.experiment_id = dspy_traces.experiment_id, other.experiment_id
    traced(dspy_traces, Answers("one"))
    assert compare_versions(dspy_id, other.name, by="experiment").matched == 1


def test_by_run(dspy_traces):
    """Versions may be what ran in two runs."""
    runs = []
    for _ in range(2):
        with mlflow.start_run() as run:
            traced(dspy_traces, Answers("one"))
        runs.append(run.info.run_id)
    assert compare_versions(*runs, by="run").matched == 1


class Upper(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[str], params=None):
        return model_input


def test_by_model(dspy_traces, own_folder):
    """Versions may be logged models, given by id or by name and version of registered ones."""
    name, ids = f"answers-{dspy_traces.experiment_id}", []
    for _ in range(2):
        model = mlflow.pyfunc.log_model(
            name="answers", python_model=Upper(), pip_requirements=[], registered_model_name=name, input_example=None
        )
        mlflow.set_active_model(model_id=model.model_id)
        traced(dspy_traces, Answers("one"))
        ids.append(model.model_id)
    mlflow.clear_active_model()
    assert compare_versions(*ids, by="model").matched == 1
    assert compare_versions(f"{name}/1", f"models:/{name}/2", by="model").matched == 1


def test_by_evaluation(dspy_traces):
    """An evaluation is found by the tag that its traces have."""
    for name in ("e1", "e2"):
        traced(dspy_traces, Answers("one"), tags={"dspy.evaluation.id": name})
    assert compare_versions("e1", "e2", by="evaluation").matched == 1


def test_pages(dspy_traces, monkeypatch, two):
    """However many pages the store gives, each trace is counted once, also one that two pages have."""
    whole = here(dspy_traces)
    monkeypatch.setattr(pages, "PAGE", 2)
    assert here(dspy_traces) == whole
    search = pages.MlflowClient.search_traces

    def overlapping(self, **asked):
        page = search(self, **asked)
        return type(page)([*page, *page], page.token)

    monkeypatch.setattr(pages.MlflowClient, "search_traces", overlapping)
    assert here(dspy_traces) == whole


def test_experiments_come_in_pages_too(dspy_traces, monkeypatch, two):
    """Where no experiment is named all are looked into."""
    search = mlflow.MlflowClient.search_experiments
    monkeypatch.setattr(
        mlflow.MlflowClient, "search_experiments", lambda self, **asked: search(self, max_results=1, **asked)
    )
    mlflow.create_experiment(f"another of {dspy_traces.experiment_id}")
    assert compare_versions("v1", "v2", **HERE).matched >= 4


def test_traces_that_have_not_ended_are_passed_over(dspy_traces, two):
    """A trace in progress is counted and not compared."""
    (trace,) = traced(dspy_traces, Answers("one"), tags={"version": "v1"})
    info = trace.info
    info.state = type(info.state).IN_PROGRESS
    mlflow.MlflowClient()._tracing_client.store.start_trace(info)
    comparison = here(dspy_traces)
    assert (comparison.matched, comparison.incomplete) == (4, 1)


def test_the_progress_bar(dspy_traces, two, capsys):
    """The bar counts what was read, on standard error."""
    here(dspy_traces, progress=True)
    out = io.StringIO()
    with progress_bar(is_shown=True, console=Console(file=out, force_terminal=True, width=80)) as advance:
        advance()
    assert "reading traces" in out.getvalue()
    assert capsys.readouterr().out == ""


def test_without_scipy():
    """Where SciPy is missing the error names the extra, and the way without intervals."""

    def load(name):
        raise ImportError(name)

    with pytest.raises(ImportError, match=r"pip install 'dspy-mlflow-callbacks\[stats\]', or ask for none with"):
        require_scipy(load)


WRONG = [
    (("v1", "v1"), {}, ValueError, "are both 'v1': give two versions"),
    ((7, "v1"), {}, TypeError, "baseline must be a text .*, got 7"),
    (("v1", ""), {}, TypeError, "candidate must be a text"),
    (("a", "b"), {"by": "colour"}, ValueError, "by must be one of fingerprint, tag:KEY, .*, got 'colour'"),
    (("a", "b"), {"by": "tag:"}, ValueError, "by must be one of"),
    (("a", "b"), {"by": 7}, ValueError, "by must be one of"),
    (("a", "b"), {"by": "tag:a`b"}, ValueError, "must not have a backtick"),
    (("a'\"", "b"), {"by": "tag:version"}, ValueError, "both kinds of quotes"),
    (("a", "b"), {"by": "experiment"}, ValueError, "there is no experiment 'a' in this store. Look with"),
    (("999999", "b"), {"by": "experiment"}, ValueError, "there is no experiment '999999'"),
    (("a", "b"), {"by": "run"}, ValueError, "there is no run 'a' in this store"),
    (("a/1", "b/1"), {"by": "model"}, ValueError, "version '1' of a registered model 'a' cannot be found"),
    (("none", "no'ne"), {"by": "tag:version"}, ValueError, "no whole trace is of 'none' by 'tag:version'"),
    (("none", "one"), {"by": "fingerprint"}, ValueError, "no whole trace is of 'none'"),
    (("a", "b"), {"resamples": -1}, ValueError, "resamples must be an integer from 0 on, got -1"),
    (("a", "b"), {"seed": 1.5}, TypeError, "seed must be an integer from 0 on, got 1.5"),
    (("a", "b"), {"changed": True}, TypeError, "changed must be an integer"),
]


@pytest.mark.parametrize(("versions", "options", "error", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_arguments(dspy_traces, versions, options, error, message):
    """What cannot be compared is refused, with what was given and what is allowed or to do."""
    with pytest.raises(error, match=message):
        compare_versions(*versions, **options)


def test_nothing_but_unfinished_traces(dspy_traces):
    """Where a version's traces have all not ended, the error says so."""
    (trace,) = traced(dspy_traces, Answers("one"), tags={"version": "half"})
    trace.info.state = type(trace.info.state).IN_PROGRESS
    mlflow.MlflowClient()._tracing_client.store.start_trace(trace.info)
    with pytest.raises(ValueError, match="and 1 traces that have not ended were passed over"):
        compare_versions("half", "none", **HERE, experiments=[dspy_traces.experiment_id])


def test_no_inputs_in_common(dspy_traces):
    """Versions that never ran on equal inputs cannot be compared, and the error says what to do."""
    version(dspy_traces, "v1", Answers("one"), "a")
    version(dspy_traces, "v2", Answers("one"), "b")
    with pytest.raises(ValueError, match="no inputs in common: run both on the same examples"):
        here(dspy_traces)
