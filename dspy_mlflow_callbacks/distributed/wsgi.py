"""Services under WSGI (https://peps.python.org/pep-3333/): Flask, Django, Bottle and others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dspy_mlflow_callbacks.distributed.baggage import PARTS
from dspy_mlflow_callbacks.distributed.receiving import ContinuedTrace, checked_parts, continue_trace

_HEADERS = {"HTTP_TRACEPARENT": "traceparent", "HTTP_TRACESTATE": "tracestate", "HTTP_BAGGAGE": "baggage"}

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class TraceWSGIMiddleware:
    """Continues the trace of whoever calls a service: what runs for a request is below the caller's span.

    It reads the headers of each request, and touches nothing else; a body that streams is made inside the trace, step
    by step. A request without headers is none of its business: what runs for it begins traces of its own.

    Args:
        app: The application.
        allow: What the headers may say; see `continue_trace`. A service that strangers call leaves out what they should
            not.

    Raises:
        ValueError: if *allow* names something else.

    Example:
        ```python
        app = Flask(__name__)
        app.wsgi_app = TraceWSGIMiddleware(app.wsgi_app)
        ```
    """

    def __init__(self, app: App, *, allow: Iterable[str] = PARTS) -> None:
        self._app = app
        self._allow = checked_parts(allow)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Run the application for a request."""
        headers = {name: environ[variable] for variable, name in _HEADERS.items() if variable in environ}
        scope = continue_trace(headers, allow=self._allow)
        with scope:
            body = self._app(environ, start_response)
        # What is there already, or is a file that the server sends by itself, stays as it is.
        wrapper = environ.get("wsgi.file_wrapper")
        is_file = isinstance(wrapper, type) and isinstance(body, wrapper)
        return body if hasattr(body, "__len__") or is_file else _Body(body, scope)


class _Body:
    """A body that is made while it is sent."""

    def __init__(self, body: Iterable[bytes], scope: ContinuedTrace) -> None:
        self._body = body
        self._scope = scope
        self._steps: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._scope:
            if self._steps is None:
                self._steps = iter(self._body)
            return next(self._steps)

    def close(self) -> None:
        """Close the application's body, as WSGI asks of servers."""
        close = getattr(self._body, "close", None)
        if close is not None:
            with self._scope:
                close()
