"""Whether the place that MLflow sends traces to would take them: asked once, in seconds, and nothing is written there.

`tests/test_diagnose.py` and `tests/processes/test_doctor_server.py` name what is relied on here when an MLflow release
changes it.
"""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

import attrs
from mlflow.tracing import provider
from mlflow.tracing.utils.otlp import OTLP_TRACES_PATH, should_use_otlp_exporter
from mlflow.tracking import fluent
from opentelemetry import trace as otel

from dspy_mlflow_callbacks.mlflow_internals.stores import ServerError, ask_server, post_spans

# Where traces stand in MLflow's databases.
_TRACES = "trace_info"


@attrs.frozen
class Address:
    """Where MLflow is set to send traces.

    Attributes:
        kind: `tracking store`, `OTLP`, or `mlflow.tracing.set_destination`.
        said: What was set, where that is not the tracking store.
    """

    kind: str
    said: str = ""


def address() -> Address:
    """Return where traces go as MLflow is set now."""
    chosen = provider._MLFLOW_TRACE_USER_DESTINATION.get()
    if chosen is not None:
        return Address("mlflow.tracing.set_destination", repr(chosen))
    return Address("OTLP") if should_use_otlp_exporter() else Address("tracking store")


def set_experiment_id() -> str | None:
    """Return the id that the program said with `mlflow.set_experiment`; None if it said nothing."""
    chosen: str | None = fluent._active_experiment_id
    return chosen


def is_tracing_off() -> bool:
    """Return whether MLflow's tracing is switched off: `mlflow.tracing.disable()`."""
    return isinstance(provider.provider.get(), otel.NoOpTracerProvider)


def ask_version(uri: str, timeout_s: float) -> str:
    """Return the version of a tracking server.

    Raises:
        ServerError: if it does not say.
    """
    return str(ask_server(uri, "/version", timeout_s))


def why_server_refuses(uri: str, experiment_id: str) -> str | None:
    """Return why a tracking server would not take traces; None if it would.

    It is sent a request without spans, which it answers with 400 where it would have taken spans.
    """
    try:
        post_spans(uri, experiment_id, None, b"")
    except ServerError as error:
        if error.status == HTTPStatus.BAD_REQUEST:
            return None
        if error.status == HTTPStatus.NOT_FOUND:
            return f"it has no {OTLP_TRACES_PATH}: {error}"
        return str(error)
    return None


def missing_file(uri: str) -> Path | None:
    """Return the SQLite file of a store if it is not there yet."""
    from sqlalchemy import make_url  # noqa: PLC0415  (only who asks a database needs it)

    url = make_url(uri)
    name = str(url.database or "")
    if url.get_backend_name() != "sqlite" or name in ("", ":memory:") or name.startswith("file:"):
        return None
    file = Path(name)
    return None if file.exists() else file


def has_tables(uri: str) -> bool:
    """Return whether a database has MLflow's tables, and raise if it would not let traces be written.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: if it does not answer, or does not allow it.
    """
    import sqlalchemy  # noqa: PLC0415  (only who asks a database needs it)

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        if not sqlalchemy.inspect(connection).has_table(_TRACES):
            return False
        table = sqlalchemy.table(_TRACES, sqlalchemy.column("status"))
        # It changes nothing, and needs the right to: the lock on an SQLite file, a grant elsewhere.
        connection.execute(table.update().where(sqlalchemy.false()).values(status=table.c.status))
        connection.rollback()
    return True
