"""The experiment that traces go to, by name or id: the store is asked once, and not waited for by each call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlflow

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.background import STORE_SECONDS, Search, StoreUnavailableError
from dspy_mlflow_callbacks.export.errors import StoreAwayError, failure
from dspy_mlflow_callbacks.export.experiments import DeletedExperimentError, find, is_to_be_found, to_be_found
from dspy_mlflow_callbacks.stats import without_credentials

_MAX_REASON_CHARACTERS = 300

# After how long a store that refused an experiment is asked again: it may be restored meanwhile, but not at every call.
_AGAIN_SECONDS = 1.0


class ExperimentError(Exception):
    """The experiment of a trace cannot be had, and where the trace should go is not known.

    The message says which experiment and why. It has no cause: MLflow's errors show credentials of the store's address.

    Attributes:
        later: What stands in place of its id until the store, which is away, can say; None where it has said no.
            Of an id MLflow says that it does not exist, whatever the server answered: there the trace's delivery tells.
    """

    def __init__(self, experiment: str, reason: Exception, later: str | None = None) -> None:
        self.later = later if later is not None and _may_come(reason, later) else None
        short = without_credentials(str(reason)).strip().partition("\n")[0][:_MAX_REASON_CHARACTERS]
        super().__init__(f"Traces for {experiment} are not stored: {short or type(reason).__name__}")


def _may_come(reason: Exception, later: str) -> bool:
    if not mlflow.get_tracking_uri().startswith(("http://", "https://")):
        return False  # a database that is not there when a program begins will hardly come
    if not is_to_be_found(later) or isinstance(reason, StoreUnavailableError):
        return True
    return not isinstance(reason, DeletedExperimentError) and isinstance(failure(reason), StoreAwayError)


class _Lookup:
    """Asks a store for things, once for each."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: dict[str, str] = {}
        self._searches: dict[str, Search[str]] = {}

    def __call__(self, thing: str, find: Callable[[], str]) -> str:
        """Return what *find* says of *thing* in the store of now.

        Raises:
            StoreUnavailableError: if the store does not say in time; another error if it failed.
        """
        key = f"{mlflow.get_tracking_uri()} {thing}"
        if key not in self._known:
            search = self._searches.setdefault(key, Search(self._seconds, again=_AGAIN_SECONDS))
            self._known[key] = search(key, find)
        return self._known[key]


class SoughtExperiment:
    """An experiment of the tracking store that is set when it is asked for.

    Args:
        said: How a message names it.
        find: Asks the store for its id.
        later: What stands in place of its id while the store is away.
        seconds: How long the store may hold up who asks.
    """

    def __init__(self, said: str, find: Callable[[], str], later: str, seconds: float = STORE_SECONDS) -> None:
        self._said = said
        self._find = find
        self._later = later
        self._ids = _Lookup(seconds)

    def id(self) -> str:
        """Return the experiment's id.

        Raises:
            ExperimentError: if the store does not say, or the experiment is deleted.
        """
        try:
            return self._ids("", self._find)
        except Exception as error:  # noqa: BLE001  (whatever a store raises)
            reason = error
        raise ExperimentError(self._said, reason, self._later)


class Experiment(SoughtExperiment):
    """An experiment by name, or by id where none has that name; one that is not there is made.

    A number is never made into a name: where an id was meant, traces would go astray.

    Args:
        name_or_id: Its name or id.
        seconds: How long the store may hold up who asks.
    """

    def __init__(self, name_or_id: str, *, seconds: float = STORE_SECONDS) -> None:
        super().__init__(
            f"the experiment {name_or_id!r}",
            lambda: find(mlflow.get_tracking_uri(), name_or_id),
            to_be_found(name_or_id),
            seconds,
        )


class ChosenExperiment:
    """The experiment of traces that begin here.

    Args:
        name_or_id: What the callback was told, if anything.
    """

    def __init__(self, name_or_id: str | None) -> None:
        self._experiment = None if name_or_id is None else Experiment(name_or_id)

    def id(self, run: Any) -> str | None:
        """Return its id; None leaves it to MLflow.

        Args:
            run: The MLflow run that is active in the calling thread, if any.

        Raises:
            ExperimentError: if the store does not say, or the experiment is deleted.
        """
        if self._experiment is not None:
            return self._experiment.id()
        if run is not None and not internals.has_destination():
            return str(run.info.experiment_id)
        carried = internals.carried_experiment()
        if carried is not None:
            return carried
        name, experiment_id = internals.experiment_variables()
        return experiment_of_variables(name, experiment_id).id() if name or experiment_id else None

    def names(self) -> tuple[str, ...]:
        """Return the id and the name of the experiment of now; empty if the store does not say."""
        try:
            chosen = self.id(internals.calling_run())
        except ExperimentError:
            return ()
        return NAMES(internals.active_experiment_id() if chosen is None else chosen)


@functools.lru_cache(maxsize=8)
def experiment_of_variables(name: str | None, experiment_id: str | None) -> SoughtExperiment:
    """Return the experiment that MLflow's variables say, and for which MLflow would ask its store at every trace."""
    said = {"MLFLOW_EXPERIMENT_NAME": name, "MLFLOW_EXPERIMENT_ID": experiment_id}
    variables = " and ".join(f"{variable}={value}" for variable, value in said.items() if value)
    later = experiment_id or to_be_found(str(name))
    return SoughtExperiment(f"the experiment of {variables}", lambda: str(internals.active_experiment_id()), later)


class ExperimentNames:
    """The names of experiments, asked for once each."""

    def __init__(self) -> None:
        self._names = _Lookup(STORE_SECONDS)

    def __call__(self, experiment_id: str | None) -> tuple[str, ...]:
        """Return the id and the name of an experiment; the id alone if the store does not say, nothing for None."""
        if experiment_id is None:
            return ()
        try:
            name = self._names(experiment_id, lambda: str(mlflow.MlflowClient().get_experiment(experiment_id).name))
        except Exception:  # noqa: BLE001  (whatever a store raises: what asks for a name can do without)
            return (experiment_id,)
        return experiment_id, name


NAMES = ExperimentNames()
