"""Which traces a version is: by what they are selected in the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from mlflow import MlflowClient
from mlflow.entities import Experiment, Trace
from mlflow.exceptions import MlflowException
from mlflow.models import get_model_info

from dspy_mlflow_callbacks.compare.tree import root_span

WAYS = ("fingerprint", "tag:KEY", "experiment", "run", "model", "evaluation")
"""What `by` may be."""

EVALUATION_TAG = "dspy.evaluation.id"
_FINGERPRINT = "dspy.program.fingerprint"
_EXAMPLES = "dspy.evaluation.traces"


@attrs.frozen
class Query:
    """What the store is asked for.

    Attributes:
        locations: Ids of experiments.
        filter_string: MLflow's search language; None for all traces.
        run_id: Traces of that run only.
        side: Which of the two versions a trace is of, 0 or 1; None where it is of neither.
    """

    locations: tuple[str, ...]
    filter_string: str | None
    run_id: str | None
    side: Callable[[Trace], int | None]


def queries(baseline: str, candidate: str, by: str, experiments: Sequence[str] | None) -> list[Query]:
    """Return what to ask the store for two versions.

    Raises:
        TypeError: if a version is no text.
        ValueError: if *by* is none of `WAYS`, a version is unknown, or both are the same.
    """
    for name, value in (("baseline", baseline), ("candidate", candidate)):
        if not isinstance(value, str) or not value:
            message = f"{name} must be a text that says which traces by {by!r}, got {value!r}"
            raise TypeError(message)
    if baseline == candidate:
        message = f"baseline and candidate are both {baseline!r}: give two versions"
        raise ValueError(message)
    client = MlflowClient()
    if by == "fingerprint":
        return [Query(locations_of(client, experiments), None, None, _by_fingerprint(baseline, candidate))]
    make = _maker(by)
    return [make(client, version, experiments, side) for side, version in enumerate((baseline, candidate))]


_Maker = Callable[[MlflowClient, str, Sequence[str] | None, int], Query]


def _maker(by: str) -> _Maker:
    makers: dict[str, _Maker] = {
        "experiment": _of_experiment,
        "run": _of_run,
        "model": _of_model,
        "evaluation": _tagged(EVALUATION_TAG),
    }
    if isinstance(by, str) and by.startswith("tag:") and len(by) > len("tag:"):
        return _tagged(by.removeprefix("tag:"))
    if by not in makers:
        message = f"by must be one of {', '.join(WAYS)}, got {by!r}"
        raise ValueError(message)
    return makers[by]


def _by_fingerprint(baseline: str, candidate: str) -> Callable[[Trace], int | None]:
    # The store takes seconds a page to look into spans' attributes; to read them all takes milliseconds.
    sides = {baseline: 0, candidate: 1}

    def side(trace: Trace) -> int | None:
        root = root_span(trace)
        # An evaluation is no call of the program; those of its examples are traces of their own.
        return None if root.get_attribute(_EXAMPLES) is not None else sides.get(root.get_attribute(_FINGERPRINT))

    return side


def _of_experiment(client: MlflowClient, name: str, _: Sequence[str] | None, side: int) -> Query:
    return Query((_experiment(client, name).experiment_id,), None, None, lambda _: side)


def _of_run(client: MlflowClient, run_id: str, _: Sequence[str] | None, side: int) -> Query:
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        message = (
            f"there is no run {run_id!r} in this store ({error.message}). Look for its id with mlflow.search_runs()"
        )
        raise ValueError(message) from None
    return Query((run.info.experiment_id,), None, run_id, lambda _: side)


def _of_model(client: MlflowClient, model: str, experiments: Sequence[str] | None, side: int) -> Query:
    model_id = _model_id(client, model)
    return Query(
        locations_of(client, experiments), f"metadata.`mlflow.modelId` = {quoted(model_id)}", None, lambda _: side
    )


def _model_id(client: MlflowClient, model: str) -> str:
    """Return the id of a logged model; a registered one is `name/version`, or `models:/name/version`."""
    name, _, version = model.removeprefix("models:/").rpartition("/")
    if not name:
        return version
    try:
        # MLflow's own registry does not keep the id beside the version, but the model's files say it.
        found = client.get_model_version(name, version).model_id or get_model_info(f"models:/{name}/{version}").model_id
    except (MlflowException, OSError) as error:
        message = f"version {version!r} of a registered model {name!r} cannot be found in this store: {error}"
        raise ValueError(message) from None
    return str(found)


def _tagged(key: str) -> _Maker:
    def make(client: MlflowClient, value: str, experiments: Sequence[str] | None, side: int) -> Query:
        return Query(
            locations_of(client, experiments), f"tag.`{tag_name(key)}` = {quoted(value)}", None, lambda _: side
        )

    return make


def tag_name(key: str) -> str:
    """Return a tag's key as it stands between backticks in MLflow's search language.

    Raises:
        ValueError: if it cannot.
    """
    if "`" in key:
        message = f"a tag's key must not have a backtick in it, got {key!r}"
        raise ValueError(message)
    return key


def quoted(value: str) -> str:
    """Return a text as it stands in MLflow's search language.

    Raises:
        ValueError: if it cannot.
    """
    quote = next((quote for quote in ("'", '"') if quote not in value), None)
    if quote is None:
        message = f"MLflow's search cannot look for a value with both kinds of quotes, got {value!r}"
        raise ValueError(message)
    return f"{quote}{value}{quote}"


def locations_of(client: MlflowClient, experiments: Sequence[str] | None) -> tuple[str, ...]:
    """Return the ids of experiments given by name or id; of all where None are given."""
    if experiments is not None:
        return tuple(_experiment(client, name).experiment_id for name in experiments)
    found, token = [], None
    while True:
        page = client.search_experiments(page_token=token)
        found += [experiment.experiment_id for experiment in page]
        token = page.token
        if not token:
            return tuple(found)


def _experiment(client: MlflowClient, name: str) -> Experiment:
    found = client.get_experiment_by_name(name)
    if found is None and name.isdecimal():
        try:
            found = client.get_experiment(name)
        except MlflowException:
            found = None
    if found is None:
        message = f"there is no experiment {name!r} in this store. Look with mlflow.search_experiments()"
        raise ValueError(message)
    return found
