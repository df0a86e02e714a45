"""MLflow's tracking stores, written to in batches, and without waiting for minutes where one is away.

`tests/test_export_sql.py` and `tests/test_export_http.py` name what is relied on here when an MLflow release changes
it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from mlflow.entities import Trace, TraceData, TraceInfo
from mlflow.entities.span import Span
from mlflow.exceptions import MlflowException
from mlflow.protos.service_pb2 import StartTraceV3
from mlflow.tracing.client import TracingClient
from mlflow.tracing.export.utils import try_link_prompts_to_trace
from mlflow.tracing.utils import dump_span_attribute_value
from mlflow.tracing.utils.otlp import MLFLOW_EXPERIMENT_ID_HEADER, OTLP_TRACES_PATH
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.proto_json_utils import message_to_json, parse_dict
from mlflow.utils.rest_utils import _V3_TRACE_REST_API_PATH_PREFIX, http_request
from mlflow.utils.workspace_context import set_server_request_workspace
from packaging.version import Version

from dspy_mlflow_callbacks.mlflow_internals.remote import merge

_RUN_ID_HEADER = "x-mlflow-run-id"
_LINKS_RUNS = Version("3.14")
_VERSIONS: dict[str, Version] = {}
_IN_MEMORY = (None, "", ":memory:")


def in_workspace(workspace: str | None, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that speaks to that workspace of a store, and let nobody else notice."""
    context = copy_context()
    if workspace is not None:
        context.run(set_server_request_workspace, workspace)
    return context.run(function, *args)


class _Stores:
    """Opens stores, and lets a fork of this process have connections of its own.

    SQLAlchemy's would go on with those of its parent (https://docs.sqlalchemy.org/en/20/core/pooling.html#using-connection-pools-with-multiprocessing-or-os-fork).
    """

    def __init__(self) -> None:
        self._is_fork = False
        self._renewed: set[str] = set()
        self._of_parent: list[Any] = []
        if hasattr(os, "register_at_fork"):  # pragma: no branch  (Windows has no fork)
            os.register_at_fork(after_in_child=self._begin_in_child)

    def __call__(self, uri: str) -> Any:
        """Return MLflow's client for a store."""
        client = TracingClient(uri)
        if self._is_fork and uri not in self._renewed:
            self.renew_connections(client)
        return client

    def renew_connections(self, client: Any) -> None:
        """Let a client have connections of its own in this fork."""
        uri = client.tracking_uri
        engine = getattr(client.store, "engine", None)
        if uri not in self._renewed and engine is not None and engine.url.database not in _IN_MEMORY:
            self._of_parent.append(engine.pool)  # to let go of SQLite's connections would close them
            engine.dispose(close=False)
        self._renewed.add(uri)

    def _begin_in_child(self) -> None:
        self._is_fork = True
        self._renewed.clear()


client_of = _Stores()
renew_connections = client_of.renew_connections


def write_spans(uri: str, experiment_id: str, spans: Sequence[Any]) -> None:
    """Write OpenTelemetry spans, of any number of traces, to an SQL store in one transaction."""
    client_of(uri).log_spans(experiment_id, [Span(span) for span in spans])


def write_info(uri: str, info: Any) -> Any:
    """Write a trace's `TraceInfo` to an SQL store, and return it as the store has it."""
    return client_of(uri).start_trace(info)


def merge_info(uri: str, info: Any) -> None:
    """Add what is known of a stored trace as a whole, and leave its totals to the store."""
    merge(client_of(uri).store, info)


def link_run(uri: str, trace_ids: Sequence[str], run_id: str) -> None:
    """Link at most 100 stored traces to a run."""
    client_of(uri).store.link_traces_to_run(list(trace_ids), run_id)


def open_store(uri: str) -> None:
    """Open a store, so that the first write need not."""
    client_of(uri)


def uri_elsewhere(uri: str) -> str | None:
    """Return the URI under which another process finds an SQL store; None if no other can.

    SQLAlchemy makes the path of an SQLite file absolute when it is opened, and the program may have moved since.
    """
    engine = getattr(client_of(uri).store, "engine", None)
    if engine is None or engine.dialect.name != "sqlite":
        return uri if engine is not None else None
    with engine.connect() as connection:
        path = connection.exec_driver_sql("SELECT file FROM pragma_database_list WHERE name = 'main'").scalar()
    return engine.url.set(database=path).render_as_string(hide_password=False) if path else None


def post_spans(uri: str, experiment_id: str, run_id: str | None, request: bytes) -> None:
    """Send an OTLP request to a tracking server once.

    `RestStore.log_spans` would do it, but asks for the server's version first: if it is away then, it never sends
    spans again.
    """
    headers = {"Content-Type": "application/x-protobuf", MLFLOW_EXPERIMENT_ID_HEADER: experiment_id}
    if run_id is not None:
        headers[_RUN_ID_HEADER] = run_id
    ask(uri, OTLP_TRACES_PATH, "POST", extra_headers=headers, data=request)


def reach(uri: str) -> None:
    """Ask a tracking server once whether it is there; an SQL store is.

    Raises:
        ServerError: if it is not.
    """
    if uri.startswith(("http://", "https://")):
        ask(uri, "/version", "GET")


def links_runs(uri: str) -> bool:
    """Return whether a tracking server links the traces of an OTLP request to a run: since MLflow 3.14."""
    if uri not in _VERSIONS:
        _VERSIONS[uri] = Version(ask(uri, "/version", "GET").text)
    return _VERSIONS[uri] >= _LINKS_RUNS


def ask_server(uri: str, endpoint: str, timeout_s: float) -> str:
    """Return what a tracking server answers, asked once.

    Raises:
        ServerError: if it does not answer in time, or refuses.
    """
    return str(ask(uri, endpoint, "GET", timeout=timeout_s).text)


def post_info(uri: str, info: Any) -> Any:
    """Send a trace's `TraceInfo` to a tracking server once, and return it as the server has it."""
    trace = Trace(info=info, data=TraceData(spans=[]))
    body = json.loads(message_to_json(StartTraceV3(trace=trace.to_proto())))
    answer = StartTraceV3.Response()
    parse_dict(js_dict=ask(uri, _V3_TRACE_REST_API_PATH_PREFIX, "POST", json=body).json(), message=answer)
    return TraceInfo.from_proto(answer.trace.trace_info)


class ServerError(Exception):
    """A tracking server does not answer, or refuses.

    MLflow's own errors do not keep the HTTP status: of a 422 they make an internal error.
    """

    def __init__(self, status: int, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after_s = retry_after_s


def ask(uri: str, endpoint: str, method: str, **request: Any) -> Any:
    """Ask a tracking server once, and return its answer.

    Raises:
        ServerError: if it does not answer, or refuses.
    """
    # Once, whatever comes: MLflow would hold the thread for minutes. Its session is kept by these very arguments.
    creds = get_default_host_creds(uri)
    try:
        response = http_request(creds, endpoint, method, max_retries=0, retry_codes=frozenset(), **request)
    except MlflowException as error:
        raise ServerError(HTTPStatus.SERVICE_UNAVAILABLE, error.message) from None
    if not response.ok:
        reason = f"{endpoint} answered {response.status_code}: {response.text}".rstrip(": ")  # where it says nothing
        raise ServerError(response.status_code, reason, _retry_after(response.headers.get("Retry-After")))
    return response


def _retry_after(text: str | None) -> float:
    """Return the seconds that a `Retry-After` says, as a number or as a date (RFC 9110, 10.2.3); 0 if it says none."""
    if text is None:
        return 0.0
    try:
        if text.strip().isdecimal():
            return float(text)
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def attribute_text(value: Any) -> str:
    """Return the JSON text as which MLflow keeps the value of a span's attribute."""
    return str(dump_span_attribute_value(value))


def upload_attachments(uri: str, info: Any, attachments: Mapping[str, Any]) -> None:
    """Store binary content beside a trace; MLflow logs what it could not."""
    client_of(uri)._upload_attachments(info, dict(attachments))


def stored_info(uri: str, trace_id: str) -> Any:
    """Return the `TraceInfo` of a stored trace."""
    return client_of(uri).get_trace_info(trace_id)


def stored_spans(uri: str, trace_ids: Sequence[str]) -> dict[str, int]:
    """Return how many spans each of these traces has in a store, by id, where it is there and whole."""
    return {each.info.trace_id: len(each.data.spans) for each in client_of(uri).store.batch_get_traces(list(trace_ids))}


def span_texts(uri: str, trace_ids: Sequence[str]) -> dict[str, list[str]] | None:
    """Return the JSON texts of the spans of these traces as an SQL store keeps them, by trace.

    MLflow makes objects of them for ten times what it takes to read them. A trace of which the store has none, such as
    one in an archive, is left out; None if it is no SQL store.
    """
    session_maker = getattr(client_of(uri).store, "ManagedSessionMaker", None)
    if session_maker is None:
        return None
    from dspy_mlflow_callbacks.mlflow_internals import sql_rows  # noqa: PLC0415  (the store has imported what it takes a second to)

    texts: dict[str, list[str]] = {}
    with session_maker() as session:
        for trace_id, text in sql_rows.contents_of_spans(session, trace_ids):
            if text:
                texts.setdefault(trace_id, []).append(text)
    return texts


def link_prompts(uri: str, trace_id: str, prompts: Sequence[Any]) -> None:
    """Link prompt versions to a stored trace; MLflow logs what it could not."""
    try_link_prompts_to_trace(client_of(uri), trace_id, prompts)
