"""Which versions are installed, and whether this package supports them."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

import attrs
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dspy_mlflow_callbacks import mlflow_internals
from dspy_mlflow_callbacks.health.findings import Finding, note

_OURS = "dspy-mlflow-callbacks"
_TOLD = ("dspy", "mlflow", "opentelemetry-api", "opentelemetry-sdk")


@attrs.frozen
class PackageVersion:
    """One package.

    Attributes:
        name: Its name.
        version: What is installed; empty if nothing is.
        needed: Which versions this package supports, as its metadata says (PEP 440); empty for any.
    """

    name: str
    version: str
    needed: str

    @property
    def is_supported(self) -> bool:
        """Whether this version is one of those; one before a release counts as the release."""
        return bool(self.version) and SpecifierSet(self.needed).contains(self.version, prereleases=True)


def versions() -> tuple[PackageVersion, ...]:
    """Return Python, what tracing stands on, and this package."""
    needed = {each.name: str(each.specifier) for each in map(Requirement, requires(_OURS) or ())}
    return (
        PackageVersion("python", platform.python_version(), metadata(_OURS)["Requires-Python"] or ""),
        *(PackageVersion(name, installed(name), needed.get(name, "")) for name in _TOLD),
        PackageVersion(_OURS, version(_OURS), ""),
    )


def of_versions(found: tuple[PackageVersion, ...]) -> Iterator[Finding]:
    """Return what is wrong with them."""
    for each in found:
        if not each.is_supported:
            what = f"{each.name} must be {each.needed}, and is {each.version or 'not installed'}."
            mends = "another Python" if each.name == "python" else f'pip install --upgrade "{each.name}{each.needed}"'
            yield Finding(what, mends)
    missing = mlflow_internals.missing_in_mlflow()
    if missing is not None:
        yield note(f"The recorded engine cannot serve, the native one does: {missing}.", "pip install --upgrade mlflow")


def installed(name: str) -> str:
    """Return the version of a package; empty if it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
