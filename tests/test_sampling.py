"""Samplers: a share of the traces is kept, each whole or not at all, and who shares a trace agrees on it."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys

import attrs
import cloudpickle
import dspy
import mlflow
import mlflow.tracing
import pytest
from expected import example, ok
from heard import Heard
from programs import Echo, Program, answering, program_tree
from test_middleware import child_of, made_call
from threads import at_once

from dspy_mlflow_callbacks import KindFilter, MlflowCallback, RatioSampler, RuleSampler, SamplingRule, TagInjector
from dspy_mlflow_callbacks.middleware.rules import TokenBucket
from dspy_mlflow_callbacks.spans.open_spans import OPEN_SPANS
from dspy_mlflow_callbacks.testing.captured import tree

pytestmark = pytest.mark.usefixtures("nothing_open")

REMOTE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLERS = {
    "a ratio": RatioSampler,
    "a rule": lambda ratio: RuleSampler([SamplingRule(ratio=ratio)]),
    "the ratio of no rule": lambda ratio: RuleSampler([{"name": "Another", "ratio": 1}], default_ratio=ratio),
}


class Other(Echo):
    """Another program."""


class Both(dspy.Module):
    """Runs a module twice, in DSPy's threads."""

    def __init__(self):
        super().__init__()
        self.one = Echo()

    def forward(self, question):
        run = dspy.Parallel(num_threads=2, disable_progress_bar=True)
        return run([(self.one, {"question": question})] * 2)


BOTH = [ok("Both", "CHAIN", *[ok("Both.one", "CHAIN")] * 2)]


def run(program, **options):
    """Run *program* with a callback of these options and return the callback."""
    callback = MlflowCallback(**options)
    with dspy.context(lm=answering(), callbacks=[callback]):
        program(question="why?")
    return callback


def names(traces):
    return [trace.data.spans[0].name for trace in traces.all()]


@pytest.mark.parametrize("sampler_of", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5])
def test_a_sampler_keeps_its_share(ratio, sampler_of):
    """Of 10,000 roots it keeps the ratio, within five standard deviations of the binomial distribution."""
    sampler, roots = sampler_of(ratio), 10_000
    kept = sum(sampler(made_call()) is not None for _ in range(roots))
    assert abs(kept - roots * ratio) <= 5 * math.sqrt(roots * ratio * (1 - ratio))


@pytest.mark.parametrize("sampler_of", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize(("ratio", "share"), [(0, 0), (1, 1)])
def test_none_and_all_are_exact(ratio, share, sampler_of):
    """A ratio of 0 keeps nothing, and one of 1 everything."""
    sampler = sampler_of(ratio)
    assert sum(sampler(made_call()) is not None for _ in range(1000)) == 1000 * share


def test_a_larger_ratio_keeps_what_a_smaller_one_keeps():
    """Who samples a trace at a larger ratio has it wherever one with a smaller ratio has it."""
    roots = [made_call() for _ in range(1000)]
    kept = [{root.call_id for root in roots if RatioSampler(ratio)(root)} for ratio in (0.1, 0.5, 0.9)]
    assert kept[0] < kept[1] < kept[2]


def test_samplers_agree_on_a_root():
    """A ratio, a rule of that ratio and a rule's default keep the same roots."""
    roots = [made_call() for _ in range(1000)]
    kept = [[sampler_of(0.5)(root) is not None for root in roots] for sampler_of in SAMPLERS.values()]
    assert kept[0] == kept[1] == kept[2]


@pytest.mark.parametrize("sampler_of", SAMPLERS.values(), ids=SAMPLERS)
def test_what_was_decided_before_stands(sampler_of):
    """A call of a trace that is kept already is kept, whatever the ratio."""
    call = made_call(is_sampled=True)
    assert sampler_of(0)(call) is call


def test_rules_decide_where_recording_begins():
    """A rule is asked for the outermost call only: what a made call runs inside has been decided."""
    child = child_of(made_call())
    assert RuleSampler([{"ratio": 0}])(child) is child


KEPT, DROPPED = True, False
RULES = {
    "no rules keep all": ([], {}, KEPT),
    "a name": ([{"name": "Search", "ratio": 0}], {"name": "Search"}, DROPPED),
    "another name": ([{"name": "Search", "ratio": 0}], {"name": "Searches"}, KEPT),
    "a glob": ([{"name": "Sea*", "ratio": 0}], {"name": "Search"}, DROPPED),
    "case counts": ([{"name": "sea*", "ratio": 0}], {"name": "Search"}, KEPT),
    "a call without a name": ([{"name": "?*", "ratio": 0}], {}, KEPT),
    "a tag": ([{"tags": {"env": "prod"}, "ratio": 0}], {"tags": {"env": "prod"}}, DROPPED),
    "a tag's glob": ([{"tags": {"env": "p*"}, "ratio": 0}], {"tags": {"env": "prod"}}, DROPPED),
    "another tag": ([{"tags": {"env": "prod"}, "ratio": 0}], {"tags": {"env": "test"}}, KEPT),
    "no such tag": ([{"tags": {"env": "*"}, "ratio": 0}], {"tags": {"team": "prod"}}, KEPT),
    "all of the tags": ([{"tags": {"a": "1", "b": "2"}, "ratio": 0}], {"tags": {"a": "1", "b": "2"}}, DROPPED),
    "not all of the tags": ([{"tags": {"a": "1", "b": "2"}, "ratio": 0}], {"tags": {"a": "1"}}, KEPT),
    "an experiment's name": ([{"experiment": "pay*", "ratio": 0}], {"locator": lambda: ("7", "payments")}, DROPPED),
    "an experiment's id": ([{"experiment": "7", "ratio": 0}], {"locator": lambda: ("7", "payments")}, DROPPED),
    "another experiment": ([{"experiment": "7", "ratio": 0}], {"locator": lambda: ("77", "payments")}, KEPT),
    "an unknown experiment": ([{"experiment": "*", "ratio": 0}], {}, KEPT),
    "every condition": ([{"name": "S*", "tags": {"a": "1"}, "ratio": 0}], {"name": "S", "tags": {"a": "1"}}, DROPPED),
    "one of two conditions": ([{"name": "S*", "tags": {"a": "1"}, "ratio": 0}], {"name": "S"}, KEPT),
    "the first of two": ([{"name": "S*"}, {"ratio": 0}], {"name": "S"}, KEPT),
    "the second of two": ([{"name": "S*"}, {"ratio": 0}], {"name": "T"}, DROPPED),
}


@pytest.mark.parametrize(("rules", "changes", "is_kept"), RULES.values(), ids=RULES)
def test_the_first_rule_for_a_trace_decides(rules, changes, is_kept):
    """A rule is for a trace whose root has its name, its tags and its experiment; the first such rule decides."""
    assert (RuleSampler(rules)(made_call(**changes)) is not None) is is_kept


def test_the_default_is_for_traces_without_a_rule():
    """`default_ratio` decides where no rule is for a trace, and only there."""
    sampler = RuleSampler([{"name": "Search"}], default_ratio=0)
    assert [sampler(made_call(name=name)) is not None for name in ("Search", "Other")] == [True, False]


def test_what_no_rule_would_keep_is_dropped_by_the_id_alone():
    """A root that neither a rule nor the default would keep, whatever it is, need not be made a call to be dropped."""
    rules, roots = (
        RuleSampler([{"name": "A", "ratio": 0.2}, {"name": "B", "ratio": 0.4}], 0.1),
        [made_call() for _ in range(1000)],
    )
    kept = {root.call_id for root in roots for name in "ABC" if rules(attrs.evolve(root, name=name))}
    assert {root.call_id for root in roots if rules.may_keep(root.call_id)} == kept


def test_an_experiment_is_not_asked_for_needlessly():
    """The store is asked for the experiment only by a rule whose name and tags are the trace's."""
    asked = []
    call = made_call(name="Other", locator=lambda: asked.append("asked") or ())
    RuleSampler([{"name": "Search", "experiment": "7"}, {"tags": {"a": "1"}, "experiment": "7"}])(call)
    assert asked == []


class Clock:
    """Tells the time that it is given."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("rate", "passed"),
    [
        # At once, after 0.4 s, 0.6 s and 10 s more.
        (2, [2, 0, 2, 2]),
        (1, [1, 0, 1, 1]),
        (0.5, [1, 0, 0, 1]),
        (10, [10, 4, 6, 10]),
    ],
)
def test_a_bucket_lets_its_rate_through(rate, passed):
    """A bucket lets as many through as its rate for a second, at once after some quiet, and never more."""
    clock = Clock()
    bucket, counts = TokenBucket(rate, clock), []
    for seconds in (0.0, 0.4, 0.6, 10.0):
        clock.now += seconds
        counts.append(sum(bucket.take() for _ in range(20)))
    assert counts == passed


def test_a_bucket_is_not_emptied_twice():
    """Threads that ask at once get no more together than one that asks as often."""
    bucket = TokenBucket(100, Clock())
    taken = at_once(*[lambda: sum(bucket.take() for _ in range(100))] * 8)
    assert sum(taken) == 100


# So slow that no second trace passes while a test runs.
SLOW = 1e-6


def test_a_limit_is_of_what_the_ratio_keeps():
    """A trace that the ratio drops does not count towards the limit."""
    roots = [made_call() for _ in range(100)]
    by_ratio = [root for root in roots if RatioSampler(0.5)(root)]
    sampler = RuleSampler([{"ratio": 0.5, "max_per_second": SLOW}])
    assert [root for root in roots if sampler(root)] == by_ratio[:1]


def test_each_rule_has_a_limit_of_its_own():
    """What one rule let through does not count towards another's limit, and without a limit there is none."""
    sampler = RuleSampler([{"name": "A", "max_per_second": SLOW}, {"name": "B", "max_per_second": SLOW}, {"name": "C"}])
    kept = [name for name in "ABCABC" if sampler(made_call(name=name))]
    assert kept == ["A", "B", "C", "C"]


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        lambda each: pickle.loads(pickle.dumps(each)),
        lambda each: cloudpickle.loads(cloudpickle.dumps(each)),
    ],
    ids=["copy", "deepcopy", "pickle", "cloudpickle"],
)
@pytest.mark.parametrize(
    "sampler",
    [
        RatioSampler(0.5),
        RuleSampler([{"name": "S*", "tags": {"a": "1"}, "experiment": "7", "ratio": 0.5, "max_per_second": 3}], 0.5),
    ],
    ids=["RatioSampler", "RuleSampler"],
)
def test_a_copy_decides_alike(sampler, duplicate):
    """A sampler can be copied and pickled; the copy is equal to it, prints alike and keeps the same roots."""
    double = duplicate(sampler)
    roots = [made_call() for _ in range(100)]
    assert (double, repr(double)) == (sampler, repr(sampler))
    assert [double(root) for root in roots] == [sampler(root) for root in roots]


def test_a_copy_has_a_limit_of_its_own():
    """A copied rule has not let anything through: each process counts for itself."""
    rule = SamplingRule(max_per_second=SLOW)
    assert [rule.keeps(made_call()), rule.keeps(made_call())] == [True, False]
    assert pickle.loads(pickle.dumps(rule)).keeps(made_call())


@pytest.mark.parametrize(
    "values",
    [
        {"ratio": 1.0},
        {"name": "Search*", "tags": {"env": "prod"}, "experiment": "7", "ratio": 0.25, "max_per_second": 5},
    ],
)
def test_a_rule_is_a_json_object(values):
    """A rule can be said as JSON, and says itself so again."""
    rule = SamplingRule.from_dict(json.loads(json.dumps(values)))
    assert rule == SamplingRule(**values)
    assert json.loads(json.dumps(rule.to_dict())) == values


def test_rules_print_what_they_say():
    """The repr of a sampler says its rules, without what is at its default."""
    sampler = RuleSampler([{"name": "S*", "max_per_second": 5}], default_ratio=0.5)
    assert repr(sampler) == "RuleSampler(rules=(SamplingRule(name='S*', max_per_second=5),), default_ratio=0.5)"


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        ("name", TypeError, "rules must be an iterable of SamplingRule, got 'name'"),
        ({"name": "S"}, TypeError, r"rules must be an iterable of SamplingRule, got \{'name': 'S'\}"),
        (7, TypeError, "rules must be an iterable of SamplingRule, got 7"),
        ([7], TypeError, "a sampling rule must be an object with any of name, tags, experiment, ratio, .*, got 7"),
        ([{"nam": "S"}], TypeError, r"any of name, tags, experiment, ratio, max_per_second, got \{'nam': 'S'\}"),
        ([{"name": 7}], TypeError, r"'name' must be .*str.*7"),
        ([{"experiment": 7}], TypeError, r"'experiment' must be .*str.*7"),
        ([{"tags": "a=1"}], TypeError, "tags must be a mapping of tag names to globs, got 'a=1'"),
        ([{"tags": {"a": 1}}], TypeError, r"tags must be a mapping of tag names to globs, got \{'a': 1\}"),
        ([{"ratio": "0.5"}], TypeError, "ratio must be a number from 0 to 1, got '0.5'"),
        ([{"ratio": True}], TypeError, "ratio must be a number from 0 to 1, got True"),
        ([{"ratio": 1.5}], ValueError, "ratio must be a number from 0 to 1, got 1.5"),
        ([{"ratio": float("nan")}], ValueError, "ratio must be a number from 0 to 1, got nan"),
        ([{"max_per_second": "5"}], TypeError, "max_per_second must be a number of traces per second, got '5'"),
        ([{"max_per_second": True}], TypeError, "max_per_second must be a number of traces per second, got True"),
        (
            [{"max_per_second": 0}],
            ValueError,
            "max_per_second must be greater than 0 traces per second and finite, got 0",
        ),
        (
            [{"max_per_second": -1}],
            ValueError,
            "max_per_second must be greater than 0 traces per second and finite, got -1",
        ),
        ([{"max_per_second": float("nan")}], ValueError, "max_per_second must be greater than 0 .*, got nan"),
        ([{"max_per_second": float("inf")}], ValueError, "max_per_second must be .* and finite, got inf"),
    ],
)
def test_a_wrong_rule_is_refused_by_name(rules, error, message):
    """A wrong rule raises at construction and says what was given and what is allowed."""
    with pytest.raises(error, match=message):
        RuleSampler(rules)


@pytest.mark.parametrize(
    ("ratio", "error"), [("0.5", TypeError), (None, TypeError), (-0.1, ValueError), (1.1, ValueError)]
)
def test_a_wrong_default_is_refused_by_name(ratio, error):
    """A default that is no share raises at construction and says what was given and what is allowed."""
    with pytest.raises(error, match=f"default_ratio must be a number from 0 to 1, got {ratio!r}"):
        RuleSampler([], default_ratio=ratio)


@pytest.mark.parametrize(
    "options",
    [
        {"sampling_ratio": 0.5},
        {"sampling_ratio": 0.5, "tags": {"team": "search"}},
        {"sampling_rules": [{"name": "Both", "ratio": 0.5}]},
        {"middleware": [TagInjector({"team": "search"}), RatioSampler(0.5)]},
    ],
    ids=["ratio", "ratio and tags", "rules", "middleware"],
)
def test_only_whole_traces_are_stored(dspy_traces, options):
    """Of 200 runs of a program that uses `dspy.Parallel` the sampler's are stored with all calls, others not at all."""
    heard, program = Heard(), Both()
    with dspy.context(callbacks=[heard, MlflowCallback(**options)]):
        for _ in range(200):
            program(question="why?")
    kept = [root for root in heard.roots if RatioSampler(0.5).may_keep(root)]
    assert len(heard.roots) == 200
    assert [trace.data.spans[0].get_attribute("dspy.call_id") for trace in dspy_traces.all()] == kept
    assert [tree(trace) for trace in dspy_traces.all()] == [BOTH] * len(kept)


def test_parallel_runs_are_sampled_one_by_one(dspy_traces):
    """Programs that `dspy.Parallel` runs outside of any module are sampled each for itself, and stored whole."""
    heard = Heard()
    run = dspy.Parallel(num_threads=4, disable_progress_bar=True)
    with dspy.context(lm=answering(times=400), callbacks=[heard, MlflowCallback(sampling_ratio=0.5)]):
        run([(Program(), {"question": "why?"})] * 40)
    assert len(heard.roots) == 40
    kept = sum(RatioSampler(0.5).may_keep(root) for root in heard.roots)
    assert [tree(trace) for trace in dspy_traces.all()] == [[program_tree()]] * kept


DECIDES = """
import json, sys
from dspy_mlflow_callbacks import CallKind, CallStart, RatioSampler, RuleSampler
ids = json.load(sys.stdin)
calls = [CallStart(kind=CallKind.MODULE, call_id=i, root_call_id=i, instance=None, inputs={}) for i in ids]
samplers = [RatioSampler(0.3), RuleSampler([{"ratio": 0.3}])]
print(json.dumps([[sampler(call) is not None for call in calls] for sampler in samplers]))
"""


def test_processes_agree():
    """Two other processes keep the same roots as this one."""
    roots = [made_call() for _ in range(500)]
    here = [RatioSampler(0.3)(root) is not None for root in roots]
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", DECIDES],
            input=json.dumps([root.call_id for root in roots]),
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout) == [here, here]


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize(("flags", "is_kept"), [("00", False), ("01", True), ("02", False), ("03", True)])
def test_the_flag_of_a_remote_parent_is_obeyed(dspy_traces, flags, is_kept, ratio):
    """Below an incoming `traceparent` a trace is kept if that is sampled, whatever the ratio here."""
    headers = {"traceparent": f"00-{REMOTE}-00f067aa0ba902b7-{flags}"}
    with mlflow.tracing.set_tracing_context_from_http_request_headers(headers):
        callback = run(Program(), sampling_ratio=ratio)
        mlflow.flush_trace_async_logging()
    counted = callback.stats()
    assert (counted.started, counted.dropped) == ((6, 0) if is_kept else (0, 1))


def sent_headers(**options):
    """Run a program that sends its tracing context, and return what it sent."""
    sent = []

    class Sends(dspy.Module):
        def forward(self, question):
            sent.append(mlflow.tracing.get_tracing_context_headers_for_http_request())

    run(Sends(), **options)
    return sent[0]


@pytest.mark.parametrize(("ratio", "is_kept"), [(0.0, False), (1.0, True)])
def test_a_worker_does_what_its_driver_decided(dspy_traces, ratio, is_kept):
    """What a program sends to a worker carries its decision, and the worker's own ratio does not matter."""
    headers = sent_headers(sampling_ratio=ratio)
    with mlflow.tracing.set_tracing_context_from_http_request_headers(headers):
        worker = run(Program(), sampling_ratio=1 - ratio)
        mlflow.flush_trace_async_logging()
    assert worker.stats().started == (6 if is_kept else 0)


def test_each_call_that_is_sampled_out_sends_ids_of_its_own(dspy_traces):
    """Two executions that are sampled out send different trace ids, and one sends the same each time it is asked."""
    sent = []

    class Sends(dspy.Module):
        def forward(self, question):
            sent.append([mlflow.tracing.get_tracing_context_headers_for_http_request() for _ in range(2)])

    program = Sends()
    run(program, sampling_ratio=0.0)
    run(program, sampling_ratio=0.0)
    (first, again), (other, _) = sent
    assert first == again
    assert first["traceparent"].split("-")[1] != other["traceparent"].split("-")[1]
    assert first["traceparent"].endswith("-00")


@pytest.mark.parametrize("options", [{"sampling_ratio": 0.0}, {"sampling_rules": [{"ratio": 0}]}], ids=str)
def test_calls_below_a_users_recording_span_are_kept(dspy_traces, options):
    """Whatever the ratio, a user's own trace has the calls that run inside it: it would not be whole without them."""
    with mlflow.start_span("mine"):
        run(Program(), **options)
    assert dspy_traces.tree() == [ok("mine", "UNKNOWN", program_tree())]


def test_calls_below_a_users_span_that_is_sampled_out_are_dropped(dspy_traces, monkeypatch):
    """Where MLflow samples the user's own span out, what runs inside it is no trace of its own."""
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0")
    mlflow.tracing.reset()
    with mlflow.start_span("mine"):
        callback = run(Program(), sampling_ratio=1.0)
    assert (dspy_traces.all(), callback.stats().dropped) == ([], 1)


def test_mlflows_own_ratio_comes_after_ours(dspy_traces, monkeypatch):
    """What MLflow samples out is not stored, whatever is kept here."""
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0")
    mlflow.tracing.reset()
    callback = run(Program(), sampling_ratio=1.0)
    assert (dspy_traces.all(), callback.stats().dropped) == ([], 1)


def test_a_users_span_in_a_call_that_is_sampled_out_is_dropped(dspy_traces):
    """A span that the user opens inside a call that is sampled out is no trace of its own."""

    class Opens(dspy.Module):
        def forward(self, question):
            with mlflow.start_span("mine"):
                return question

    run(Opens(), sampling_ratio=0.0)
    run(Echo())
    assert names(dspy_traces) == ["Echo"]


def test_rules_choose_by_the_program(dspy_traces):
    """Rules given as options keep traces by the name of their root, and the ratio decides of the others."""
    options = {"sampling_rules": [{"name": "Echo"}], "sampling_ratio": 0.0}
    run(Echo(), **options)
    run(Other(), **options)
    run(Both(), **options)
    assert dspy_traces.tree() == [ok("Echo", "CHAIN")]


def test_rules_see_the_tags_of_options(dspy_traces):
    """A rule by tag sees what the option `tags` puts on the trace."""
    rules = [{"tags": {"env": "test"}, "ratio": 0}]
    run(Echo(), tags={"env": "test"}, sampling_rules=rules)
    run(Other(), tags={"env": "prod"}, sampling_rules=rules)
    assert names(dspy_traces) == ["Other"]


def test_rules_see_the_experiment(dspy_traces):
    """A rule by experiment sees the id and the name of the experiment that the trace would go to."""
    name = mlflow.get_experiment(dspy_traces.experiment_id).name
    run(Echo(), sampling_rules=[{"experiment": name, "ratio": 0}])
    run(Echo(), sampling_rules=[{"experiment": dspy_traces.experiment_id, "ratio": 0}])
    run(Other(), sampling_rules=[{"experiment": "another", "ratio": 0}])
    assert names(dspy_traces) == ["Other"]


def test_rules_see_the_experiment_of_options(dspy_traces):
    """A rule by experiment sees the callback's own, not MLflow's active one."""
    options = {"experiment": f"{dspy_traces.experiment_id} chosen"}
    run(Echo(), sampling_rules=[{"experiment": "* chosen", "ratio": 0}], **options)
    run(Other(), sampling_rules=[{"experiment": dspy_traces.experiment_id, "ratio": 0}], **options)
    chosen = mlflow.get_experiment_by_name(options["experiment"]).experiment_id
    mlflow.flush_trace_async_logging()
    traces = mlflow.search_traces(locations=[chosen], return_type="list")
    assert [trace.data.spans[0].name for trace in traces] == ["Other"]


def test_rules_see_the_experiment_of_the_run(dspy_traces):
    """A rule by experiment sees that of the active run, where the trace would go to."""
    with mlflow.start_run():
        run(Echo(), sampling_rules=[{"experiment": dspy_traces.experiment_id, "ratio": 0}])
    assert dspy_traces.all() == []


def test_rules_do_without_a_store_that_does_not_answer(dspy_traces, monkeypatch):
    """Where the store does not say the experiment's name, a rule by its id decides all the same."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:1")  # nothing listens there
    rules = [{"experiment": dspy_traces.experiment_id, "ratio": 0}]
    counted = run(Echo(), sampling_rules=rules).stats()
    assert (counted.dropped, counted.failed) == (1, 0)


def test_a_limit_counts_executions(dspy_traces):
    """A limit is of executions: one with a hidden root, whose calls are traces of their own, takes one of it."""
    options = {"sampling_rules": [{"max_per_second": SLOW}], "middleware": [KindFilter(["lm", "adapter"])]}
    callback = MlflowCallback(**options)
    with dspy.context(lm=answering(), callbacks=[callback]):
        Program()(question="why?")
        Program()(question="again?")
    assert names(dspy_traces) == ["ChatAdapter.format", "dummy", "ChatAdapter.parse"]


def test_a_rule_by_name_is_asked_for_the_outermost_call_only(dspy_traces):
    """Below a hidden root no rule is asked again, though a trace begins there."""
    run(Program(), sampling_rules=[{"name": "Program"}], sampling_ratio=0.0, events=["lm"])
    assert names(dspy_traces) == ["dummy"]


def test_a_call_that_is_sampled_out_is_one_entry(dspy_traces):
    """A trace that is sampled out takes one dictionary entry while it runs, and none once it has ended."""
    depths = []

    class Nested(dspy.Module):
        def __init__(self, below):
            super().__init__()
            self.below = below

        def forward(self, question):
            depths.append(len(OPEN_SPANS))
            return self.below(question=question) if self.below else None

    run(Nested(Nested(Nested(None))), sampling_ratio=0.0)
    assert (depths, len(OPEN_SPANS)) == ([1, 1, 1], 0)


def test_dropped_calls_are_counted_in_any_thread(dspy_traces):
    """Each call that is sampled out is counted, in DSPy's threads too, and to read the counts does not change them."""
    callback = MlflowCallback(sampling_ratio=0.0)
    with dspy.context(callbacks=[callback]):
        dspy.Parallel(num_threads=8, disable_progress_bar=True)([(Echo(), {"question": "why?"})] * 200)
    assert [callback.stats().dropped for _ in range(3)] == [200] * 3


def test_a_call_that_is_sampled_out_is_not_described(dspy_traces):
    """What a call is given is not looked at, and the rest of the chain not asked, once its trace is sampled out."""

    class Unlookable:
        def __getattribute__(self, name):
            if name == "__class__":
                return object
            raise AssertionError(name)

    asked = []
    callback = run(Echo(), sampling_ratio=0.0, middleware=[asked.append])
    with dspy.context(callbacks=[callback]):
        Echo()(question=Unlookable())
    counted = callback.stats()
    assert (asked, counted.dropped, counted.failed) == ([], 2, 0)


def test_a_sampler_behind_a_middleware_is_asked_after_it(dspy_traces):
    """Middleware that stands before a sampler sees every root, and what it decides stands."""
    seen = []

    def keep_echoes(call):
        seen.append(call.name)
        return attrs.evolve(call, is_sampled=True) if call.name == "Echo" else call

    for program in (Echo(), Other()):
        run(program, middleware=[keep_echoes, RatioSampler(0.0)])
    assert (seen, names(dspy_traces)) == (["Echo", "Other"], ["Echo"])


def test_sampled_out_calls_that_fail_say_so_to_the_caller(dspy_traces):
    """An exception in a call that is sampled out reaches the caller, and the next call is a trace of its own."""

    class Fails(dspy.Module):
        def forward(self, question):
            raise ValueError(question)

    with pytest.raises(ValueError, match="why"):
        run(Fails(), sampling_ratio=0.0)
    run(Echo())
    assert names(dspy_traces) == ["Echo"]


@pytest.mark.parametrize("num_threads", [1, 4])
def test_an_evaluation_is_sampled_whole(dspy_traces, num_threads):
    """An evaluation is one thing to a sampler: kept or dropped with all its examples."""
    devset = [dspy.Example(question="why?").with_inputs("question")] * 4
    evaluation = dspy.Evaluate(
        devset=devset, metric=lambda *_: True, num_threads=num_threads, display_progress=False, provide_traceback=True
    )
    rules = [{"name": "Evaluate", "ratio": 0}]
    with dspy.context(callbacks=[MlflowCallback(sampling_rules=rules)]):
        evaluation(Echo())
    with dspy.context(callbacks=[MlflowCallback()]):
        evaluation(Echo())
    assert [tree(trace) for trace in dspy_traces.all()] == [
        [ok("Evaluate", "EVALUATOR")],
        *[[example(ok("Echo", "CHAIN"))]] * 4,
    ]
