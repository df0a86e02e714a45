"""What DSPy's dispatch of callbacks and this package warn of."""

from __future__ import annotations

import logging

from dspy_mlflow_callbacks import mlflow_internals

LOGGERS = [logging.getLogger(name) for name in ("dspy.utils.callback", "dspy_mlflow_callbacks")]

# Said once in a process, by whichever test comes first, where MLflow is too old for the recorded engine.
_MISSING = mlflow_internals.missing_in_mlflow()


class Warnings(logging.Handler):
    """Keeps what both loggers warn of, from `listen` on."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if _MISSING is None or f"the native one does: {_MISSING}" not in record.getMessage():
            self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    def listen(self) -> Warnings:
        for logger in LOGGERS:
            logger.addHandler(self)
        return self

    def leave(self) -> None:
        for logger in LOGGERS:
            logger.removeHandler(self)
