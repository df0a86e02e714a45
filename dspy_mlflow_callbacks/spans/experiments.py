"""The experiment that a callback records into, by name or id."""

from __future__ import annotations

import mlflow
from mlflow.exceptions import MlflowException

from dspy_mlflow_callbacks.background import STORE_SECONDS, Search


class Experiment:
    """An experiment of the tracking store that is set when it is asked for; one that is not there is made.

    Args:
        name_or_id: Its name, or its id where no experiment has that name.
    """

    def __init__(self, name_or_id: str) -> None:
        self._name_or_id = name_or_id
        self._known: tuple[str, str] | None = None  # tracking URI, id
        self._search: Search[str] = Search(STORE_SECONDS)

    def id(self) -> str:
        """Return the experiment's id.

        Raises:
            StoreUnavailableError: if the store does not say in time; another error if it failed.
        """
        uri = mlflow.get_tracking_uri()
        known = self._known
        if known is None or known[0] != uri:
            self._known = known = (uri, self._search(uri, lambda: _find(self._name_or_id)))
        return known[1]


def _find(name_or_id: str) -> str:
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(name_or_id)
    if found is None and name_or_id.isdecimal():
        found = client.get_experiment(name_or_id)
    return str(_create(client, name_or_id) if found is None else found.experiment_id)


def _create(client: mlflow.MlflowClient, name: str) -> str:
    try:
        return str(client.create_experiment(name))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another thread or process was faster
        if found is None:
            raise
        return str(found.experiment_id)


class ExperimentNames:
    """The names of experiments, asked for once each."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[str, ...]] = {}
        self._search: Search[str] = Search(STORE_SECONDS)

    def __call__(self, experiment_id: str | None) -> tuple[str, ...]:
        """Return the id and the name of an experiment; nothing for None."""
        if experiment_id is None:
            return ()
        key = (mlflow.get_tracking_uri(), experiment_id)
        if key not in self._known:
            name = self._search(":".join(key), lambda: str(mlflow.MlflowClient().get_experiment(experiment_id).name))
            self._known[key] = (experiment_id, name)
        return self._known[key]


NAMES = ExperimentNames()
