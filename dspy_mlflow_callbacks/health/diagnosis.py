"""What a diagnosis says, as values, as JSON and for people."""

from __future__ import annotations

import json
from typing import Any

import attrs
from rich.console import Console

from dspy_mlflow_callbacks.compare.document import Document, Heading, Line, Part, Table
from dspy_mlflow_callbacks.compare.forms import show, to_markdown
from dspy_mlflow_callbacks.health.destination import Destination
from dspy_mlflow_callbacks.health.findings import Finding
from dspy_mlflow_callbacks.health.in_force import CallbackInForce
from dspy_mlflow_callbacks.health.spools import SpoolInForce
from dspy_mlflow_callbacks.health.versions import PackageVersion


@attrs.frozen(kw_only=True)
class Diagnosis:
    """What is in force in this process, and what is wrong with it; `str` and `show` say it to people.

    Attributes:
        versions: Python, what tracing stands on, and this package.
        callbacks: The callbacks of this package that hear DSPy's calls, with engine, options and counts.
        destination: Where traces go, and whether it would take them.
        spools: Where traces wait that their store does not take.
        findings: What a user should know, problems first; each says what mends it.
    """

    versions: tuple[PackageVersion, ...]
    callbacks: tuple[CallbackInForce, ...]
    destination: Destination
    spools: tuple[SpoolInForce, ...]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings for which traces are lost, doubled or not recorded."""
        return tuple(each for each in self.findings if each.is_problem)

    @property
    def is_healthy(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values, by the names of the attributes, and `is_healthy`."""
        said = attrs.asdict(self)
        for each, version in zip(said["versions"], self.versions, strict=True):
            each["is_supported"] = version.is_supported
        values: dict[str, Any] = json.loads(json.dumps({"is_healthy": self.is_healthy, **said}, default=repr))
        return values

    def to_markdown(self) -> str:
        """Return a report in Markdown (GitHub's flavour), such as for an issue."""
        return to_markdown(self._document())

    def show(self, console: Console | None = None) -> None:
        """Print the report.

        Args:
            console: Where to; None is standard output.
        """
        show(self._document(), console)

    def __str__(self) -> str:
        console = Console(width=120, color_system=None)
        with console.capture() as captured:
            show(self._document(), console)
        return captured.get().strip("\n")

    def _document(self) -> Document:
        return [
            *self._of_findings(),
            Heading("Versions"),
            Table(("package", "version", "supported"), tuple(map(_version_row, self.versions))),
            Heading("Destination"),
            Table(("", ""), tuple(self._of_destination())),
            *(part for each in self.callbacks for part in _of_callback(each)),
        ]

    def _of_findings(self) -> list[Part]:
        if not self.findings:
            return [Line("No problem was found.")]
        rows = tuple(("problem" if each.is_problem else "note", each.what, each.remedy) for each in self.findings)
        return [Heading("Findings"), Table(("", "what", "remedy"), rows)]

    def _of_destination(self) -> list[tuple[str, str]]:
        found = self.destination
        answers = {True: "yes", False: "no", None: "not asked"}[found.answers]
        experiments = ", ".join(f"{each.said} ({each.id or 'not there yet'})" for each in found.experiments)
        rows = [
            (found.kind, found.address),
            ("takes traces", f"{answers}: {found.details}" if found.details else answers),
            ("experiments", experiments),
            *((f"spool {each.folder}", each.to_text()) for each in self.spools),
        ]
        return [(name, text) for name, text in rows if text]


def _version_row(each: PackageVersion) -> tuple[str, str, str]:
    supported = "yes" if each.is_supported else "no"
    return each.name, each.version, f"{supported} ({each.needed})" if each.needed else supported


def _of_callback(found: CallbackInForce) -> list[Part]:
    said = [each for each in found.options if each.source != "default"]
    rows = [
        ("stands in", found.place, ""),
        ("engine", found.engine, found.why),
        *((each.name, json.dumps(each.value, ensure_ascii=False, default=repr), each.source) for each in said),
        ("other options", f"{len(found.options) - len(said)} at their defaults", "default"),
        *((name, f"{count:,}", "counted") for name, count in attrs.asdict(found.stats).items()),
    ]
    return [Heading(found.text), Table(("", "", "why"), tuple(rows))]
