"""The spools that are in force: what waits in them, and what was refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from dspy_mlflow_callbacks.config import TracingConfig
from dspy_mlflow_callbacks.export.spool.errors import SpoolError
from dspy_mlflow_callbacks.export.spool.reading import status
from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings
from dspy_mlflow_callbacks.health.findings import Finding, note, told


@attrs.frozen(kw_only=True)
class SpoolInForce:
    """A spool to which traces go that their store does not take.

    Attributes:
        folder: Where it is.
        traces: How many traces wait.
        dead_traces: How many were refused.
        dropped: How many have left unstored, for want of room or since they had waited for too long.
        error: Why it cannot be read; empty where it can.
    """

    folder: str
    traces: int = 0
    dead_traces: int = 0
    dropped: int = 0
    error: str = ""

    def to_text(self) -> str:
        """Return what is in it for people."""
        return self.error or f"{self.traces:,} traces wait, {self.dead_traces:,} were refused"


def look_at_spools(configs: Iterable[TracingConfig]) -> Iterator[SpoolInForce]:
    """Return the spools that *configs* name, each once; those that name none have none."""
    settings = {spool.folder: spool for config in configs if (spool := config.spool()) is not None}
    return map(_seen, settings.values())


def _seen(settings: SpoolSettings) -> SpoolInForce:
    try:
        found = status(settings)
    except (SpoolError, OSError) as error:
        return SpoolInForce(folder=settings.folder, error=str(error))
    return SpoolInForce(
        folder=found.folder,
        traces=found.traces,
        dead_traces=found.dead_traces,
        dropped=found.dropped + found.expired,
    )


def of_spools(spools: Iterable[SpoolInForce]) -> Iterator[Finding]:
    """Return what a user should know of them."""
    for spool in spools:
        at = f"--spool-dir {spool.folder}"
        yield from told(
            (
                (
                    spool.error,
                    Finding(
                        f"The spool in {spool.folder} cannot be used: {spool.error}",
                        "spool_dir (DSPY_MLFLOW_SPOOL_DIR) names another folder",
                    ),
                ),
                (
                    spool.dead_traces,
                    Finding(
                        f"{spool.dead_traces:,} traces in the spool were refused by their store",
                        f"`dspy-mlflow spool status {at}` says why; `spool flush --dead-letters` tries them again",
                    ),
                ),
                (
                    spool.dropped,
                    Finding(
                        f"{spool.dropped:,} traces have left the spool unstored",
                        "larger max_spool_bytes and max_spool_age_s",
                    ),
                ),
                (
                    spool.traces,
                    note(
                        f"{spool.traces:,} traces wait in the spool",
                        f"`dspy-mlflow spool flush {at}` delivers them, and any process that traces does",
                    ),
                ),
            )
        )
