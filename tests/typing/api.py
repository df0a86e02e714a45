"""The public API as a user writes it. Never run, only type-checked."""

from __future__ import annotations

import attrs

from dspy_mlflow_callbacks import (
    CallEnd,
    CallKind,
    CallStart,
    LMCallback,
    Middleware,
    MlflowCallback,
    ModuleCallback,
    RatioSampler,
    Stats,
    TagInjector,
)


def only_modules(call: CallStart) -> CallStart | None:
    """Keep modules."""
    return call if call.kind is CallKind.MODULE else None


@attrs.frozen
class Renamer:
    """Give spans a prefix."""

    prefix: str

    def __call__(self, call: CallStart) -> CallStart:
        """Name the span after the class."""
        return attrs.evolve(call, name=f"{self.prefix}{type(call.instance).__name__}")

    def on_end(self, end: CallEnd) -> CallEnd:
        """Say whether the call went well."""
        return attrs.evolve(end, attributes={"well": end.exception is None})


steps: list[Middleware] = [RatioSampler(0.1), TagInjector({"team": "search"}), only_modules, Renamer("my ")]
callback = MlflowCallback(middleware=steps)
some = [ModuleCallback(), LMCallback(middleware=(lambda call: call,))]
stats: Stats = callback.stats()
started: int = stats.started
