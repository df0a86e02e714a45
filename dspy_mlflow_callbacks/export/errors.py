"""How a delivery fails: the store is away, or it has refused what it was given."""

from __future__ import annotations

import re
import sys
from http import HTTPStatus

from mlflow.exceptions import MlflowException

from dspy_mlflow_callbacks import mlflow_internals as internals
from dspy_mlflow_callbacks.stats import without_credentials

# MLflow's status for an error of its own. One trace may be behind it, or the store's database may be gone.
_OWN_ERROR = HTTPStatus.INTERNAL_SERVER_ERROR

# What MLflow answers, as if it refused, where its database fails in a way that it does not expect: a connection that
# breaks in the midst of an answer is one. SQLAlchemy's errors name their page: those of its classes DatabaseError,
# InternalError and InterfaceError, and of a connection that is not there any more, are not about what was written.
_AS_IF_REFUSED = {
    HTTPStatus.BAD_REQUEST: re.compile(r"sqlalche\.me/e/\d+/(4xp6|2j85|rvf5|8s2b)\b"),
    HTTPStatus.UNPROCESSABLE_ENTITY: re.compile(r"Failed to log OpenTelemetry spans"),
}
_COME_AGAIN = frozenset((HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS))
_NEVER = frozenset((HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED))
_WHOEVER_IT_IS = _NEVER | {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}


class StoreAwayError(Exception):
    """The store cannot be reached, or not now: the same batch may be stored later.

    Args:
        reason: What the store said.
        may_be_the_batch: Whether the batch itself may be the reason.
        retry_after_s: For how many seconds it asks to be left alone.
    """

    def __init__(self, reason: object, *, may_be_the_batch: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(without_credentials(str(reason)))
        self.may_be_the_batch = may_be_the_batch
        self.retry_after_s = retry_after_s


class RefusedError(Exception):
    """The store has refused the batch, and will again.

    Args:
        reason: What the store said.
        is_for_all: Whether no part of the batch has a chance.
    """

    def __init__(self, reason: object, *, is_for_all: bool = False) -> None:
        super().__init__(without_credentials(str(reason)))
        self.is_for_all = is_for_all


def failure(error: Exception) -> StoreAwayError | RefusedError:
    """Return what an error of MLflow's client means for the batch."""
    if isinstance(error, internals.ServerError):
        return _failure(error.status, error, error.retry_after_s)
    if isinstance(error, MlflowException):
        return _failure(error.get_http_status_code(), error.message)
    if _is_of_a_database_that_is_away(error):
        return StoreAwayError(error)
    return RefusedError(repr(error))


def _is_of_a_database_that_is_away(error: Exception) -> bool:
    # One that is locked, or cannot be opened: MLflow wraps such errors only once it has opened its store.
    exc = sys.modules.get("sqlalchemy.exc")  # there, if one of its errors was raised
    return exc is not None and isinstance(error, exc.OperationalError)


def _failure(status: int, reason: object, retry_after_s: float = 0.0) -> StoreAwayError | RefusedError:
    if status in _AS_IF_REFUSED and _AS_IF_REFUSED[HTTPStatus(status)].search(str(reason)):
        status = _OWN_ERROR
    if status in _COME_AGAIN or (status >= _OWN_ERROR and status not in _NEVER):
        return StoreAwayError(reason, may_be_the_batch=status == _OWN_ERROR, retry_after_s=retry_after_s)
    return RefusedError(reason, is_for_all=status in _WHOEVER_IT_IS)
