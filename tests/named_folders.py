"""Folders of tests that run only where they are named: what they need is heavier than `make test` may be."""

from __future__ import annotations


def is_named(folder, config):
    """Return whether pytest was told to run *folder*, or something in it."""
    named = [(config.invocation_params.dir / argument.partition("::")[0]).resolve() for argument in config.args]
    return any(path.is_relative_to(folder) for path in named)
