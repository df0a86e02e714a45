"""Services under ASGI (https://asgi.readthedocs.io/): FastAPI, Starlette, Quart, Django and others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from dspy_mlflow_callbacks.distributed.baggage import PARTS
from dspy_mlflow_callbacks.distributed.receiving import checked_parts, continue_trace
from dspy_mlflow_callbacks.export.exporter import EXPORTER
from dspy_mlflow_callbacks.flushing import flush

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class TraceASGIMiddleware:
    """Continues the trace of whoever calls a service: what runs for a request is below the caller's span.

    It reads the headers of each request and WebSocket, and touches nothing else; responses stream as without it, and
    what runs for the request after its response, such as a background task of Starlette's, is part of the trace too. A
    request without headers is none of its business: what runs for it begins traces of its own. When the server shuts
    down it stores what has ended first, for at most `exit_timeout_s` seconds.

    Args:
        app: The application.
        allow: What the headers may say; see `continue_trace`. A service that strangers call leaves out what they should
            not.

    Raises:
        ValueError: if *allow* names something else.

    Example:
        ```python
        app = FastAPI()
        app.add_middleware(TraceASGIMiddleware)
        ```
    """

    def __init__(self, app: App, *, allow: Iterable[str] = PARTS) -> None:
        self._app = app
        self._allow = checked_parts(allow)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Run the application for a connection."""
        if scope["type"] in ("http", "websocket"):
            async with continue_trace(scope.get("headers", ()), allow=self._allow):
                await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, _storing(send))


def _storing(send: Send) -> Send:
    """Return *send*, which stores what has ended before it tells the server that the application has shut down.

    Servers end by the signal that they were sent (uvicorn does), and then Python's exit handlers do not run.
    """

    async def send_when_stored(message: Message) -> None:
        if message["type"] == "lifespan.shutdown.complete":
            await asyncio.to_thread(flush, EXPORTER.exit_timeout_s)
        await send(message)

    return send_when_stored
