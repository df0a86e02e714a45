"""A stored trace runs again: the program on recorded answers, offline."""

from dspy_mlflow_callbacks.replaying.divergences import Divergence
from dspy_mlflow_callbacks.replaying.errors import ReplayError
from dspy_mlflow_callbacks.replaying.report import Replay, Timing
from dspy_mlflow_callbacks.replaying.running import replay

__all__ = ["Divergence", "Replay", "ReplayError", "Timing", "replay"]
