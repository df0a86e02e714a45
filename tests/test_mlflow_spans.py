"""A user's own MLflow spans above, between and below DSPy calls, and what MLflow says of the current trace."""

from __future__ import annotations

import threading

import attrs
import dspy
import mlflow
import pytest
from mlflow import environment_variables
from mlflow.entities.trace_location import MlflowExperimentLocation
from opentelemetry import trace as otel
from programs import Program, answering, predict_tree, program_tree
from stored import run_of

from dspy_mlflow_callbacks import CallKind, MlflowCallback
from dspy_mlflow_callbacks.mlflow_internals import live_spans

# What `session_id=` and `user=` set, which MLflow's functions take since 3.14.
SESSION = {"mlflow.trace.session": "session", "mlflow.trace.user": "user"}


class Calling(dspy.Module):
    """A module that runs a function of the test in its `forward`."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.predict = dspy.Predict("question -> answer")

    def forward(self, **inputs):
        return self.function(self, **inputs)


@pytest.fixture(autouse=True)
def _lm():
    with dspy.context(lm=answering()):
        yield


def span(name, *children):
    return (name, "UNKNOWN", "OK", list(children))


def test_spans_above_between_and_below_nest_where_they_stand(dspy_traces):
    """A span of the user's is the parent of what runs inside it, and the child of what it runs inside."""

    @mlflow.trace(name="below")
    def below():
        return 1

    def forward(module):
        with mlflow.start_span("between"):
            below()
            return module.predict(question="why?")

    with mlflow.start_span("above"):
        Calling(forward)()
    assert dspy_traces.tree() == [
        span("above", ("Calling", "CHAIN", "OK", [span("between", span("below"), predict_tree("Calling.predict"))]))
    ]


def test_spans_nest_in_dspy_worker_threads(dspy_traces):
    """A span around `dspy.Parallel` is the parent of what its threads run, and spans in the threads nest there."""

    def in_thread(module):
        def run(question):
            with mlflow.start_span("in thread"):
                return module.predict(question=question)

        return run

    def forward(module):
        with mlflow.start_span("around"):
            pairs = [(in_thread(module), {"question": "why?"})] * 3
            return dspy.Parallel(num_threads=3, disable_progress_bar=True)(pairs)

    Calling(forward)()
    inside = span("in thread", predict_tree("Calling.predict"))
    assert dspy_traces.tree() == [("Calling", "CHAIN", "OK", [span("around", inside, inside, inside)])]


def test_a_second_program_in_the_same_user_span_nests_beside_the_first(dspy_traces):
    """Two calls inside one span of the user's are two children of it."""
    with mlflow.start_span("above"):
        Program()(question="one?")
        Program()(question="two?")
    assert dspy_traces.tree() == [span("above", program_tree(), program_tree())]


def test_an_ended_user_span_is_no_parent(dspy_traces):
    """A call after a user's trace has ended is a trace of its own."""
    with mlflow.start_span("before"):
        pass
    Program()(question="why?")
    assert [trace.info.tags["mlflow.traceName"] for trace in dspy_traces.all()] == ["before", "Program"]


def test_the_current_span_is_the_module_that_runs(dspy_traces):
    """`get_current_active_span` inside `forward` is the module's span, and what is set on it is stored."""

    def forward(module):
        current = mlflow.get_current_active_span()
        current.set_attribute("mine", current.name)
        return module.predict(question="why?")

    Calling(forward)()
    (root,) = dspy_traces.spans(name="Calling")
    assert root.get_attribute("mine") == "Calling"


def test_there_is_no_current_span_after_a_call(dspy_traces):
    """A call leaves MLflow's context as it was."""
    Program()(question="why?")
    assert mlflow.get_current_active_span() is None


def test_the_current_trace_can_be_updated_in_worker_threads(dspy_traces):
    """`update_current_trace` reaches the trace from the module's own thread and from DSPy's worker threads."""

    def note(number):
        mlflow.update_current_trace(tags={f"tag {number}": "thread"})
        return number

    def forward(module):
        mlflow.update_current_trace(tags={"tag": "main"}, metadata={"meta": "data", **SESSION}, client_request_id="id")
        return dspy.Parallel(num_threads=2, disable_progress_bar=True)([(note, {"number": n}) for n in range(2)])

    Calling(forward)()
    info = dspy_traces.one().info
    expected = {"tag": "main", "tag 0": "thread", "tag 1": "thread"}
    assert {key: info.tags.get(key) for key in expected} == expected
    metadata = {"meta": "data", **SESSION}
    assert {key: info.trace_metadata.get(key) for key in metadata} == metadata
    assert info.client_request_id == "id"


def test_the_last_active_trace_is_the_calls(dspy_traces):
    """`get_last_active_trace_id` after a call is the id of its trace, for the thread too."""
    Program()(question="why?")
    trace_id = dspy_traces.one().info.trace_id
    assert (mlflow.get_last_active_trace_id(), mlflow.get_last_active_trace_id(thread_local=True)) == (trace_id,) * 2


def test_the_trace_has_the_programs_inputs_and_outputs(dspy_traces):
    """Request and response of the trace are the program's inputs and outputs."""
    Program()(question="why?")
    trace = dspy_traces.one()
    assert trace.data.request == '{"question":"why?"}'
    assert trace.data.response == '{"reasoning":"because","answer":"42"}'


def test_the_scope_of_mlflow_tags_the_trace(dspy_traces):
    """`mlflow.tracing.context` gives tags, metadata, session and user to the traces inside it."""
    with mlflow.tracing.context(tags={"tag": "1"}, metadata={"meta": "2", **SESSION}):
        Program()(question="why?")
    info = dspy_traces.one().info
    assert info.tags["tag"] == "1"
    metadata = {"meta": "2", **SESSION}
    assert {key: info.trace_metadata[key] for key in metadata} == metadata


def test_the_scope_of_mlflow_switches_tracing_off(dspy_traces):
    """Nothing is recorded inside `mlflow.tracing.context(enabled=False)`, in worker threads neither."""
    with mlflow.tracing.context(enabled=False):
        Program()(question="why?")
        Program().batch([dspy.Example(question="why?").with_inputs("question")] * 2, disable_progress_bar=True)
    assert dspy_traces.all() == []


def test_what_runs_in_a_switched_off_part_is_dropped(dspy_traces):
    """A part of a program in `context(enabled=False)` is left out, and the trace goes on after it."""

    def forward(module):
        with mlflow.tracing.context(enabled=False):
            module.predict(question="unseen")
        return module.predict(question="seen")

    Calling(forward)()
    assert dspy_traces.tree() == [("Calling", "CHAIN", "OK", [predict_tree("Calling.predict")])]


def test_disabled_tracing_records_nothing_and_enabled_all_again(dspy_traces):
    """`mlflow.tracing.disable` and `enable` hold for DSPy calls."""
    mlflow.tracing.disable()
    Program()(question="unseen")
    mlflow.tracing.enable()
    Program()(question="seen")
    assert dspy_traces.tree() == [program_tree()]


def test_a_program_that_disables_tracing_in_mid_call_goes_on(dspy_traces):
    """Disabling tracing inside a call neither fails nor leaves anything open."""
    callback = MlflowCallback()

    def forward(module):
        mlflow.tracing.disable()
        return module.predict(question="why?")

    with dspy.context(callbacks=[callback]):
        assert Calling(forward)().answer == "42"
    mlflow.tracing.enable()
    assert callback.stats().open == 0
    assert mlflow.get_current_active_span() is None


def test_mlflow_samples_whole_traces(dspy_traces, monkeypatch):
    """`MLFLOW_TRACE_SAMPLING_RATIO` keeps or drops a trace whole, with the user's spans inside it."""
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0.5")
    mlflow.tracing.reset()

    def forward(module):
        with mlflow.start_span("between"):
            return module.predict(question="why?")

    for _ in range(20):
        Calling(forward)()
    between = span("between", predict_tree("Calling.predict"))
    traces = dspy_traces.all()
    assert 0 < len(traces) < 20
    assert [len(trace.data.spans) for trace in traces] == [6] * len(traces)
    assert between[0] == "between"


def test_a_chosen_destination_is_where_traces_go(dspy_traces):
    """`mlflow.tracing.set_destination` decides, also inside an active run of another experiment."""
    other = mlflow.create_experiment("destination")
    mlflow.tracing.set_destination(MlflowExperimentLocation(experiment_id=other))
    with mlflow.start_run():
        Program()(question="why?")
    assert dspy_traces.all() == []
    assert len(mlflow.search_traces(locations=[other], return_type="list")) == 1


def test_a_trace_belongs_to_the_active_run(dspy_traces):
    """A trace made inside a run is linked to it."""
    with mlflow.start_run() as run:
        Program()(question="why?")
    assert run_of(dspy_traces.one()) == run.info.run_id


def test_runs_side_by_side_get_their_own_traces(dspy_traces):
    """Three threads with a run each: every trace is linked to its own thread's run, from DSPy's workers too."""
    barrier, linked, settings = threading.Barrier(3), {}, dict(lm=answering(), callbacks=dspy.settings.callbacks)

    def work(name):
        with mlflow.start_run(run_name=name) as run, dspy.context(**settings):
            barrier.wait()
            example = dspy.Example(question=name).with_inputs("question")
            Program().batch([example] * 2, num_threads=2, disable_progress_bar=True)
            barrier.wait()
            linked[name] = run.info.run_id

    threads = [threading.Thread(target=work, args=(f"run {number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runs = {trace.info.request_preview: run_of(trace) for trace in dspy_traces.all()}
    assert runs == {f'{{"question":"{name}"}}': run_id for name, run_id in linked.items()}
    assert len(dspy_traces.all()) == 6


@pytest.mark.skipif(
    not hasattr(environment_variables, "MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT"), reason="it came with MLflow 3.15"
)
def test_spans_are_shared_with_opentelemetry_where_mlflow_shares_them(dspy_traces, monkeypatch):
    """With `MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT` the module's span is OpenTelemetry's current one while it runs."""
    monkeypatch.setenv("MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT", "true")
    mlflow.tracing.reset()
    current = []

    def forward(module):
        current.append(otel.get_current_span().get_span_context().span_id)

    Calling(forward)()
    assert [f"{span_id:016x}" for span_id in current] == [dspy_traces.one().data.spans[0].span_id]
    assert otel.get_current_span() is otel.INVALID_SPAN


def test_the_level_that_a_middleware_chooses_is_the_spans(dspy_traces):
    """A call's `level` becomes MLflow's log level."""

    def quiet(call):
        return attrs.evolve(call, level="WARNING")

    with dspy.context(callbacks=[MlflowCallback(middleware=[quiet])]):
        dspy.Predict("question -> answer")(question="why?")
    assert {span.get_attribute("mlflow.spanLogLevel") for span in dspy_traces.spans()} == {30}


def test_the_levels_are_mlflows(dspy_traces):
    """Spans have MLflow's default level of their type, and those that failed have the level ERROR."""

    def forward(module):
        module.predict(question="why?")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Calling(forward)()
    with mlflow.start_span("a CHAIN of the user's", span_type="CHAIN"):
        pass
    levels = {span.name: span.get_attribute("mlflow.spanLogLevel") for span in dspy_traces.spans()}
    default = levels.pop("a CHAIN of the user's")
    assert levels.pop("Calling") == (default and 40)
    assert levels.pop("dummy") == (default and 20)
    assert set(levels.values()) == {default}


def test_a_status_that_the_user_sets_stays(dspy_traces):
    """A module that says that it failed and returns all the same has the status ERROR."""

    def forward(module):
        mlflow.get_current_active_span().set_status("ERROR")

    Calling(forward)()
    assert dspy_traces.tree() == [("Calling", "CHAIN", "ERROR", [])]


def test_the_users_span_processors_see_each_span(dspy_traces):
    """What is configured with `mlflow.tracing.configure(span_processors=...)` runs on every span as it ends."""

    def mark(span):
        span.set_attribute("seen", span.name)

    mlflow.tracing.configure(span_processors=[mark])
    Program()(question="why?")
    assert [span.get_attribute("seen") for span in dspy_traces.spans()] == [span.name for span in dspy_traces.spans()]


@pytest.mark.parametrize(("in_the_client", "cost"), [(True, pytest.approx(50 * 0.15e-6 + 50 * 0.6e-6)), (False, None)])
def test_lm_spans_are_priced_where_the_store_does_not(dspy_traces, monkeypatch, in_the_client, cost):
    """Where MLflow wants cost from the client (Databricks, SageMaker), an LM span has MLflow's price as it ends."""
    monkeypatch.setattr(live_spans, "should_compute_cost_client_side", lambda: in_the_client)
    costs = []

    def note(span):
        if span.span_type == "CHAT_MODEL":
            costs.append(span.get_attribute("mlflow.llm.cost"))

    mlflow.tracing.configure(span_processors=[note])
    with dspy.context(callbacks=[MlflowCallback(middleware=[Billing()])]):
        dspy.Predict("question -> answer")(question="why?")
    assert [each and each["total_cost"] for each in costs] == [cost]


class Billing:
    """Says of each LM call that it was answered by a model that has a price, for a hundred tokens."""

    def __call__(self, call):
        model = {"mlflow.llm.model": "openai/gpt-4o-mini", "mlflow.llm.provider": "openai"}
        return attrs.evolve(call, attributes=model) if call.kind is CallKind.LM else call

    def on_end(self, end):
        tokens = {"input_tokens": 50, "output_tokens": 50, "total_tokens": 100}
        is_lm = isinstance(end.outputs, list)
        return attrs.evolve(end, attributes={"mlflow.chat.tokenUsage": tokens}) if is_lm else end
