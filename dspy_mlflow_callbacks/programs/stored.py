"""What is saved of a program's tracing, as JSON, and the callback that it becomes again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import attrs
import dspy

from dspy_mlflow_callbacks import callbacks as kinds
from dspy_mlflow_callbacks.callbacks import MlflowCallback, TracingCallback
from dspy_mlflow_callbacks.config import OPTIONS, TracingConfig, kept, lets_warn, read_saved
from dspy_mlflow_callbacks.describe.signatures import program_fingerprint
from dspy_mlflow_callbacks.programs.attaching import attach
from dspy_mlflow_callbacks.programs.withholding import Withheld, missing_text
from dspy_mlflow_callbacks.secrets import without_secrets
from dspy_mlflow_callbacks.stats import logger

KEY = "dspy_mlflow_callbacks"
"""The name under which it stands in the files of others: DSPy's `metadata.json`, MLflow's `MLmodel`."""

_TEXTS = ("tags", "metadata", "session_id", "user")


@attrs.frozen(kw_only=True)
class StoredTracing:
    """What goes along with a saved program.

    Attributes:
        callback: The name of the callback's class.
        config: All options by name; None where no tracing was in force.
        fingerprint: The program's.
        withheld: The credentials that were not saved.
        origin: What traces say of the model: metadata by name.
        package_version: Of this package.
    """

    callback: str = "MlflowCallback"
    config: Mapping[str, Any] | None = None
    fingerprint: str = ""
    withheld: tuple[Withheld, ...] = ()
    origin: Mapping[str, str] = attrs.field(factory=dict)
    package_version: str = attrs.field(factory=lambda: version("dspy-mlflow-callbacks"))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return attrs.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StoredTracing:
        """Return what `to_dict` gave; what this version does not know is left out."""
        known = {field.name: values[field.name] for field in attrs.fields(cls) if field.name in values}
        known["withheld"] = tuple(Withheld(**each) for each in known.get("withheld", ()))
        return cls(**known)


def tracing_in_force(function: str, program: Any, config: TracingConfig | None) -> StoredTracing:
    """Return what is to be saved: *config*, or that of the callback that governs *program* now.

    Raises:
        TypeError: if *program* is no program, or JSON cannot say how it is traced.
    """
    if not isinstance(program, dspy.Module):
        message = f"{function}: program must be a dspy.Module, got {program!r}"
        raise TypeError(message)
    if config is not None and not isinstance(config, TracingConfig):
        message = f"{function}: config must be a TracingConfig, got {config!r}"
        raise TypeError(message)
    callback = _callback_of(program)
    fingerprint = program_fingerprint(program)
    name = "MlflowCallback" if callback is None else _kind_of(callback)
    if config is not None:
        return StoredTracing(callback=name, config=_plain(function, config), fingerprint=fingerprint)
    if callback is not None:
        return StoredTracing(callback=name, config=_said_by(function, callback), fingerprint=fingerprint)
    logger.warning("%s: nothing traces the program, so it is saved without tracing; config= says how.", function)
    return StoredTracing(fingerprint=fingerprint)


def callback_of(stored: StoredTracing, where: str) -> TracingCallback | None:
    """Return the callback that *stored* describes; where nothing was in force, or something is missing, say so once.

    Args:
        stored: What was saved.
        where: What it was saved with, for the warning.
    """
    if stored.config is None:
        logger.warning("%s was saved without tracing: attach(program, MlflowCallback()) traces it.", where)
        return None
    saved = read_saved(stored.config)
    problems = "; ".join(saved.problems)
    if problems and lets_warn(saved.config.verbosity):
        logger.warning("%s was saved by version %s of this package: %s.", where, stored.package_version, problems)
    kind = getattr(kinds, stored.callback, MlflowCallback)
    callback: TracingCallback = kind(config=saved.config.with_options(engine=_engine(saved.config)))
    callback.comes_from({**stored.origin, "dspy.model.fingerprint": stored.fingerprint})
    return callback


def armed(program: Any, text: str) -> Any:
    """Return a program that was unpickled, traced as *text* says: JSON of `StoredTracing`."""
    arm(program, StoredTracing.from_dict(json.loads(text)), f"The program {type(program).__name__}")
    return program


def arm_again(program: Any, stored: StoredTracing) -> None:
    """Let the callback that came with the pickle of *program* say in its traces what the model's metadata knows."""
    for each in [each for each in program.callbacks if isinstance(each, TracingCallback)]:
        each.comes_from({**each.origin, **stored.origin})


def arm(program: Any, stored: StoredTracing, where: str) -> None:
    """Give *program* its callback, and say which credentials it lacks."""
    callback = callback_of(stored, where)
    if callback is not None:
        attach(program, callback)
    missing = missing_text(stored.withheld)
    if missing:
        logger.warning("%s was saved without credentials. %s", where, missing)


def _engine(config: TracingConfig) -> str:
    """Return `auto` for an engine that may not serve where the program is loaded: no program stops for it."""
    return "auto" if config.engine == "recorded" else config.engine


def _callback_of(program: Any) -> TracingCallback | None:
    for callbacks in (program.callbacks, dspy.settings.get("callbacks", [])):
        own = [each for each in callbacks or () if isinstance(each, TracingCallback)]
        if own:
            return own[0]
    return None


def _kind_of(callback: TracingCallback) -> str:
    return next(each.__name__ for each in type(callback).__mro__ if each.__name__ in kinds.__all__)


def _said_by(function: str, callback: TracingCallback) -> dict[str, Any]:
    steps = callback.unsayable()
    if steps:
        raise TypeError(_refusal(function, steps))
    return _plain(function, callback.config)


def _plain(function: str, config: TracingConfig) -> dict[str, Any]:
    unsayable = [name for name in OPTIONS if not _is_json(kept(name, getattr(config, name)))]
    if unsayable:
        raise TypeError(_refusal(function, unsayable))
    values = config.to_dict()
    return values | {name: without_secrets({name: values[name]})[name] for name in _TEXTS}


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def _refusal(function: str, names: Iterable[str]) -> str:
    return (
        f"{function}: JSON cannot say {', '.join(names)}: config=TracingConfig(...) says what is saved in their place"
    )
