"""The work in another process: what goes there and comes back can be pickled, and says what happened."""

from __future__ import annotations

import pickle
import threading
import traceback

import attrs
import cloudpickle

from dspy_mlflow_callbacks.distributed.threads import Carried
from dspy_mlflow_callbacks.executor.errors import RemoteError, RemoteTraceback
from dspy_mlflow_callbacks.executor.outcome import Call, Outcome, late
from dspy_mlflow_callbacks.executor.work import Work


@attrs.frozen
class RemoteWork:
    """The work in another process: what came of it travels as bytes that this process can read for sure."""

    work: Work

    def __call__(self, call: Call) -> bytes:
        """Do the work."""
        outcome = self.work(call) if self.work.timeout is None else self._within(call, self.work.timeout)
        if outcome.error is not None:
            outcome.error = _portable(outcome.error)
        try:
            sent: bytes = cloudpickle.dumps(outcome)
        except Exception as error:  # noqa: BLE001  (whatever the prediction's own class raises)
            outcome.prediction = None
            outcome.error = RemoteError(f"what the program returned cannot be sent to another process: {error!r}")
            sent = cloudpickle.dumps(outcome)
        return sent

    def _within(self, call: Call, timeout: float) -> Outcome:
        """Do the work in a thread, and give it up when its time is up: the thread goes on, the worker is free."""
        outcomes: list[Outcome] = []
        context = Carried("run")
        thread = threading.Thread(target=lambda: outcomes.append(context.run(self.work, call)), daemon=True)
        thread.start()
        thread.join(timeout)
        return outcomes[0] if outcomes else late(call, timeout, timeout)


def _portable(error: BaseException) -> BaseException:
    """Return an exception that can be pickled and unpickled, with the traceback as its cause: it does not travel."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        pickle.loads(cloudpickle.dumps(error))  # noqa: S301  (made in this line)
    except Exception:  # noqa: BLE001  (whatever its own class raises)
        error = RemoteError(f"{type(error).__name__}: {error}")
    return _Sent(error, text)


class _Sent(Exception):  # noqa: N818  (it is never raised: `received` takes the error out of it)
    """An error on its way, with the text of its traceback."""

    def __init__(self, error: BaseException, text: str) -> None:
        super().__init__(error, text)


def received(pickled: bytes) -> Outcome:
    """Return what came of work in another process."""
    outcome: Outcome = pickle.loads(pickled)  # noqa: S301  (from a worker that this process started)
    if isinstance(outcome.error, _Sent):
        error, text = outcome.error.args
        error.__cause__ = RemoteTraceback(text)
        outcome.error = error
    return outcome
