"""The monitoring dashboard: what it asks is answered, and MLflow's own overview is filled."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import mlflow
import pytest
from dashboard_files import CALLS, FILES

DASHBOARD = json.loads((FILES / "grafana.json").read_text())
QUERIES = {
    f"{panel['title']}, {target['legendFormat']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
PROMTOOL = shutil.which("promtool")
METRICS = r"dspy_mlflow_[a-z_]+"


def test_the_files_are_what_prometheus_takes():
    """Prometheus' own tool finds nothing wrong with the configuration, and the alerts fire when they should."""
    for command in (("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")):
        done = subprocess.run([PROMTOOL, *command], cwd=FILES, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("title", QUERIES)
def test_each_query_of_the_dashboard_is_answered(prometheus, title):
    """A Prometheus that has scraped a run answers each query of Grafana's dashboard with a number."""
    expression = QUERIES[title].replace("$__rate_interval", "5m").replace("$__range", "1h")
    assert all(value >= 0 for value in prometheus.values(expression))
    assert prometheus.values(expression), expression


def test_the_rules_are_in_force(prometheus):
    """Prometheus evaluates each alert without an error, and none fires in a healthy run."""
    (group,) = prometheus.asked("rules")["groups"]
    assert [rule["name"] for rule in group["rules"] if rule["health"] == "err"] == []
    assert [rule["name"] for rule in group["rules"] if rule["state"] == "firing"] == []


def test_every_counter_is_looked_at(prometheus):
    """Each metric of this package is in the dashboard, and none there or in the alerts is unknown."""
    scraped = {name for name in prometheus.asked("label/__name__/values") if re.fullmatch(METRICS, name)}
    shown = set(re.findall(METRICS, " ".join(QUERIES.values())))
    assert shown == scraped
    alerts = (FILES / "rules.yml").read_text().replace("dspy_mlflow_callbacks", "")
    assert set(re.findall(METRICS, alerts)) <= scraped


def test_the_dashboard_is_one_that_grafana_reads():
    """The dashboard has what Grafana's model asks for: unique panels on a grid of 24 columns that do not overlap."""
    assert {"title", "uid", "schemaVersion", "panels", "templating"} <= DASHBOARD.keys()
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    cells = [
        (panel["gridPos"]["x"] + column, panel["gridPos"]["y"] + row)
        for panel in DASHBOARD["panels"]
        for column in range(panel["gridPos"]["w"])
        for row in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert {column for column, _ in cells} == set(range(24))
    sources = {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel["targets"]}
    assert sources == {"${" + DASHBOARD["templating"]["list"][0]["name"] + "}"}


def test_mlflows_overview_is_filled(prometheus, store):
    """The traces have what MLflow's overview charts: tokens, cost, times, errors, tools, sessions, users, feedback."""
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    experiment = mlflow.get_experiment_by_name("examples").experiment_id
    traces = mlflow.search_traces(locations=[experiment], max_results=CALLS + 1, return_type="list")
    assert len(traces) == CALLS
    answered = [trace for trace in traces if trace.info.state.value == "OK"]
    assert {trace.info.state.value for trace in traces} == {"OK", "ERROR"}
    assert all(trace.info.token_usage["total_tokens"] > 0 for trace in answered)
    assert all(trace.info.execution_duration is not None for trace in traces)
    lm = answered[0].search_spans(span_type="CHAT_MODEL")[0]
    assert lm.get_attribute("mlflow.llm.cost")["total_cost"] > 0
    assert {span.name for trace in answered for span in trace.search_spans(span_type="TOOL")} == {"look_up"}
    for name, values in {"session": {"chat-of-ada", "chat-of-bob"}, "user": {"ada", "bob"}}.items():
        assert {trace.info.trace_metadata[f"mlflow.trace.{name}"] for trace in traces} == values
    assert {feedback.name for trace in traces for feedback in trace.info.assessments} == {"has_source"}
