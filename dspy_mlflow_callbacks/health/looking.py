"""Looks at this process: what is in force, and what is wrong with it."""

from __future__ import annotations

from typing import Any

from dspy_mlflow_callbacks.health.conflicts import of_mlflow, of_tracers, of_variables
from dspy_mlflow_callbacks.health.destination import look_at_destination
from dspy_mlflow_callbacks.health.diagnosis import Diagnosis
from dspy_mlflow_callbacks.health.in_force import callbacks_in_force, look_at_callback, of_callbacks, other_callbacks
from dspy_mlflow_callbacks.health.spools import look_at_spools, of_spools
from dspy_mlflow_callbacks.health.versions import of_versions, versions


def diagnose(program: Any = None, *, timeout_s: float = 10.0) -> Diagnosis:
    """Return what is in force in this process, and what is wrong: each problem with what mends it.

    It looks at the versions, the callbacks that hear DSPy's calls where it is called, their engine, options and counts,
    at where traces go and whether they would be taken there, at what waits in the spool, and at what stands beside this
    package. Nothing is made, changed or stored; a tracking server is sent three small requests.

    Args:
        program: A program whose own callbacks are looked at too.
        timeout_s: How many seconds the store may take to answer.

    Example:
        ```python
        print(dspy_mlflow_callbacks.diagnose())
        ```
    """
    in_force = list(callbacks_in_force(program))
    found = [look_at_callback(callback, place) for callback, place in in_force]
    packages = versions()
    experiments = [callback.config.experiment for callback, _ in in_force]
    destination, of_destination = look_at_destination(experiments or [None], timeout_s)
    spools = tuple(look_at_spools([callback.config for callback, _ in in_force]))
    findings = [
        *of_versions(packages),
        *of_variables(),
        *of_callbacks(found),
        *of_destination,
        *of_spools(spools),
        *of_mlflow(),
        *of_tracers(other_callbacks()),
    ]
    return Diagnosis(
        versions=packages,
        callbacks=tuple(found),
        destination=destination,
        spools=spools,
        findings=tuple(sorted(findings, key=lambda each: not each.is_problem)),
    )
