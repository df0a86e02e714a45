"""Calls of other services: clients of httpx and requests that send the trace along, neither of which is imported."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from dspy_mlflow_callbacks.distributed.sending import inject_headers
from dspy_mlflow_callbacks.middleware.globs import matches

Client = TypeVar("Client", bound=Any)


def trace_client(client: Client, *, hosts: Iterable[str] | None = None) -> Client:
    """Let an HTTP client send the trace along with each request, as `inject_headers` does, and return the client.

    Args:
        client: An `httpx.Client`, an `httpx.AsyncClient` or a `requests.Session`; what it does otherwise stays.
        hosts: Globs of the hosts that are told, such as `["*.internal", "localhost"]`; None is all that the client
            calls. Session, user and tags travel too: name the hosts of a client that also calls strangers.

    Raises:
        TypeError: if *client* is none of these, or *hosts* no iterable of texts.

    Example:
        ```python
        client = trace_client(httpx.Client(base_url="http://answers.internal"))
        client.post("/answer", json={"question": question})
        ```
    """
    told = None if hosts is None else _checked(hosts)
    if hasattr(client, "event_hooks"):
        hooks = client.event_hooks
        hooks["request"] = [*hooks.get("request", ()), _RequestHook(told)]
        client.event_hooks = hooks
    elif hasattr(client, "send") and hasattr(client, "adapters"):
        client.send = _sending(client.send, told)
    else:
        message = f"client must be an httpx.Client, an httpx.AsyncClient or a requests.Session, got {client!r}"
        raise TypeError(message)
    return client


class _Done:
    """What a hook returns that may be awaited, and need not be."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield  # it is a generator, of nothing


class _RequestHook:
    """An event hook of httpx: of a client that calls it, and of one that awaits it."""

    def __init__(self, hosts: tuple[str, ...] | None) -> None:
        self._hosts = hosts

    def __call__(self, request: Any) -> _Done:
        if _is_told(str(request.url.host), self._hosts):
            inject_headers(request.headers)
        return _Done()


def _sending(send: Callable[..., Any], hosts: tuple[str, ...] | None) -> Callable[..., Any]:
    @functools.wraps(send)
    def send_with_trace(request: Any, **options: Any) -> Any:
        if _is_told(urlsplit(request.url).hostname or "", hosts):
            inject_headers(request.headers)
        return send(request, **options)

    return send_with_trace


def _is_told(host: str, hosts: tuple[str, ...] | None) -> bool:
    return hosts is None or (bool(hosts) and matches(host, hosts))


def _checked(hosts: Iterable[str]) -> tuple[str, ...]:
    globs = () if isinstance(hosts, str) else tuple(hosts)
    if isinstance(hosts, str) or not all(isinstance(glob, str) for glob in globs):
        message = f"hosts must be an iterable of globs such as '*.internal', got {hosts!r}"
        raise TypeError(message)
    return globs
