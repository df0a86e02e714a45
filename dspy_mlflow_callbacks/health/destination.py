"""Where traces go, and whether they would be taken there. Nothing is made or written."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs
import mlflow
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.background import Search
from dspy_mlflow_callbacks.health.findings import Finding, note
from dspy_mlflow_callbacks.stats import without_credentials

_OTLP = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_NAME, _ID = "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"
_MAX_REASON_CHARACTERS = 300


@attrs.frozen
class ExperimentFound:
    """An experiment that traces go to.

    Attributes:
        said: Its name or id, as the option, the program or a variable says.
        id: Its id; None where it is not there yet, and the first trace makes it.
    """

    said: str
    id: str | None


@attrs.frozen(kw_only=True)
class Destination:
    """Where traces go.

    Attributes:
        kind: `tracking store`, `OTLP`, or `mlflow.tracing.set_destination`.
        address: Its address, without credentials.
        answers: Whether it would take traces now; None where that cannot be told without sending some.
        details: What it said, or why it is not asked.
        experiments: Those that the callbacks in force send traces to, where the store could be asked.
    """

    kind: str
    address: str = attrs.field(converter=without_credentials)
    answers: bool | None = None
    details: str = attrs.field(default="", converter=without_credentials)
    experiments: tuple[ExperimentFound, ...] = ()


def look_at_destination(experiments: Iterable[str | None], timeout_s: float) -> tuple[Destination, list[Finding]]:
    """Return where traces go, and what is wrong with it.

    Args:
        experiments: What the callbacks say; None is MLflow's active experiment.
        timeout_s: How long the place may take to answer.
    """
    address = internals.address()
    if address.kind == "OTLP":
        said = next(os.environ[name] for name in _OTLP if os.environ.get(name))
        return Destination(kind=address.kind, address=said, details="an OTLP endpoint is not asked"), []
    if address.said:
        return Destination(kind=address.kind, address=address.said, details="it is not asked"), []
    return _Store(mlflow.get_tracking_uri(), timeout_s).look(experiments)


class _Store:
    def __init__(self, uri: str, timeout_s: float) -> None:
        self._uri = uri
        self._timeout_s = timeout_s
        self._scheme = internals.scheme_of(uri)
        self._details = ""

    def look(self, experiments: Iterable[str | None]) -> tuple[Destination, list[Finding]]:
        wanted = tuple(dict.fromkeys(experiments))
        try:
            found, findings = Search[tuple[list[ExperimentFound], list[Finding]]](self._timeout_s)(
                self._uri, lambda: self._ask(wanted)
            )
        except Exception as error:  # noqa: BLE001  (whatever a store raises is what is wrong with it)
            reason = _short(error)
            return self._destination(reason, answers=False), [self._away(reason)]
        return self._destination(self._details, answers=True, experiments=found), findings

    def _destination(self, details: str, *, answers: bool, experiments: Iterable[ExperimentFound] = ()) -> Destination:
        return Destination(
            kind="tracking store",
            address=self._uri,
            answers=answers,
            details=details,
            experiments=tuple(experiments),
        )

    def _ask(self, wanted: tuple[str | None, ...]) -> tuple[list[ExperimentFound], list[Finding]]:
        if not (self._is_sql_ready() if self._scheme in internals.SQL_SCHEMES else self._is_up()):
            return [], []
        found, findings = [], []
        for each in wanted:
            experiment, wrong = _experiment(each)
            found.append(experiment)
            findings += wrong
        ids = [each.id for each in found if each.id is not None]
        if self._scheme in internals.HTTP_SCHEMES and ids:
            refused = internals.why_server_refuses(self._uri, ids[0])
            if refused is not None:
                findings.append(_refused(refused))
        return found, findings

    def _is_sql_ready(self) -> bool:
        """Return whether the database has MLflow's tables; one that has not gets them by the first trace."""
        file = internals.missing_file(self._uri)
        if file is not None:
            _check_folder(file)
            self._details = "the file is not there yet: the first trace makes it"
            return False
        if not internals.has_tables(self._uri):
            self._details = "the database is empty: the first trace makes MLflow's tables"
            return False
        return True

    def _is_up(self) -> bool:
        if self._scheme in internals.HTTP_SCHEMES:
            self._details = f"MLflow {internals.ask_version(self._uri, self._timeout_s)}"
        return True

    def _away(self, reason: str) -> Finding:
        if self._scheme in internals.HTTP_SCHEMES:
            remedy = "start the server, or set MLFLOW_TRACKING_URI to one that answers (and MLFLOW_TRACKING_TOKEN)"
        elif "db upgrade" in reason:
            remedy = f"mlflow db upgrade {self._uri}"
        else:
            remedy = "start or mend the database, or set MLFLOW_TRACKING_URI to one that answers"
        return Finding(f"Traces cannot be stored in {self._uri}: {reason}.", remedy)


def _check_folder(file: Path) -> None:
    folder = file.parent
    if not os.access(folder, os.W_OK):
        message = f"{folder} is no folder in which {file.name} can be made"
        raise PermissionError(message)


def _refused(reason: str) -> Finding:
    remedy = "set MLFLOW_TRACKING_TOKEN (or USERNAME and PASSWORD) to those of a user who may write to the experiment"
    return Finding(f"The server answers, and would not take traces: {reason[:_MAX_REASON_CHARACTERS]}", remedy)


def _experiment(said: str | None) -> tuple[ExperimentFound, list[Finding]]:
    name, experiment_id, setting = _sought(said)
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(name) if name else None
    if found is None and experiment_id:
        try:
            found = client.get_experiment(experiment_id)
        except MlflowException as error:
            what = f"The experiment {experiment_id!r} of {setting} is not there: {_short(error)}."
            return ExperimentFound(experiment_id, None), [Finding(what, f"{setting} with an experiment that is there")]
    if found is None:
        what = f"The experiment {name!r} of {setting} is not there yet: the first trace makes it."
        return ExperimentFound(str(name), None), [note(what, f"mlflow experiments create -n {shlex.quote(str(name))}")]
    return ExperimentFound(found.name, found.experiment_id), list(_wrong_with(found, setting))


def _sought(said: str | None) -> tuple[str | None, str | None, str]:
    """Return the name and the id to look for, the name first, and which setting says so."""
    chosen = internals.set_experiment_id()
    name, experiment_id = os.environ.get(_NAME), os.environ.get(_ID)
    if said is not None:
        return said, said if said.isdecimal() else None, "experiment="
    if chosen:
        return None, chosen, "mlflow.set_experiment"
    if name:
        return name, None, _NAME
    return (None, experiment_id, _ID) if experiment_id else ("Default", "0", "MLflow's default")


def _wrong_with(found: mlflow.entities.Experiment, setting: str) -> Iterator[Finding]:
    if found.lifecycle_stage != LifecycleStage.ACTIVE:
        what = f"The experiment {found.name!r} is deleted: traces for it are lost."
        yield Finding(what, f"mlflow experiments restore -x {found.experiment_id}")
    other = os.environ.get(_ID)
    if setting == _NAME and other and other != found.experiment_id:
        what = f"{_NAME} and {_ID} name two experiments, {found.experiment_id} and {other}: MLflow refuses all traces."
        yield Finding(what, f"unset {_ID}")


def _short(error: Exception) -> str:
    said = without_credentials(str(error)).strip().partition("\n")[0] or type(error).__name__
    return said[:_MAX_REASON_CHARACTERS].rstrip(".")
