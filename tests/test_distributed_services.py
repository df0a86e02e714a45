"""Services and their clients: a call that crosses two services is one trace."""

from __future__ import annotations

import asyncio
import io

import dspy
import flask
import httpx
import pytest
import requests
from expected import bare
from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from programs import Echo, Runs
from werkzeug.wrappers import Response
from werkzeug.wsgi import FileWrapper

from dspy_mlflow_callbacks import (
    TraceASGIMiddleware,
    TraceWSGIMiddleware,
    inject_headers,
    trace_client,
    trace_context,
)
from dspy_mlflow_callbacks.spans.remote_traces import REMOTE_TRACES
from dspy_mlflow_callbacks.testing.captured import tree


@pytest.fixture(autouse=True)
def nothing_joined(dspy_traces):
    """Fail a test that leaves a trace joined."""
    yield
    assert len(REMOTE_TRACES) == 0


def fast_app(**options):
    """Return a service of FastAPI's that runs programs in each way."""
    app = FastAPI()
    app.add_middleware(TraceASGIMiddleware, **options)
    callbacks = dspy.settings.callbacks

    def echo(question):
        with dspy.context(callbacks=callbacks):
            return Echo()(question=question)

    @app.get("/sync")
    def sync():
        return echo("sync")

    @app.get("/async")
    async def in_the_loop():
        return await asyncio.to_thread(echo, "async")

    @app.get("/stream")
    def stream():
        return StreamingResponse(echo(str(number)) for number in range(3))

    @app.get("/background")
    def background(tasks: BackgroundTasks):
        tasks.add_task(echo, "later")
        return "now"

    @app.websocket("/socket")
    async def socket(connection: WebSocket):
        await connection.accept()
        await connection.send_text(await asyncio.to_thread(echo, "socket"))
        await connection.close()

    return app


def flask_app(**options):
    """Return a service of Flask's that runs programs in each way."""
    app = flask.Flask(__name__)
    app.wsgi_app = TraceWSGIMiddleware(app.wsgi_app, **options)

    @app.get("/sync")
    def sync():
        return Echo()(question="sync")

    @app.get("/stream")
    def stream():
        return flask.Response(Echo()(question=str(number)) for number in range(3))

    return app


def over_httpx(path):
    """Call the FastAPI service as another program does."""

    async def main():
        client = trace_client(httpx.AsyncClient(transport=httpx.ASGITransport(fast_app()), base_url="http://service"))
        async with client:
            return (await client.get(path)).text

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "answer", "spans"),
    [("/sync", '"sync"', 1), ("/async", '"async"', 1), ("/stream", "012", 3), ("/background", '"now"', 1)],
)
def test_a_service_under_asgi(dspy_traces, path, answer, spans):
    """What a request runs, in threads, streams and background tasks too, is below the caller's span."""
    assert Runs(over_httpx)(path) == answer
    assert dspy_traces.tree() == [bare("Runs", *[bare("Echo")] * spans)]


def test_a_websocket(dspy_traces):
    """A WebSocket continues the trace that its request came with."""
    with TestClient(fast_app()) as client:  # with the application's lifespan, which is no connection

        def talk(_):
            with client.websocket_connect("/socket", headers=inject_headers()) as socket:
                return socket.receive_text()

        assert Runs(talk)() == "socket"
    assert dspy_traces.tree() == [bare("Runs", bare("Echo"))]


@pytest.mark.parametrize(("path", "answer", "spans"), [("/sync", "sync", 1), ("/stream", "012", 3)])
def test_a_service_under_wsgi(dspy_traces, path, answer, spans):
    """What a request runs, and what makes its body while it is sent, is below the caller's span."""
    client = flask_app().test_client()
    assert Runs(lambda _: client.get(path, headers=inject_headers()).text)() == answer
    assert dspy_traces.tree() == [bare("Runs", *[bare("Echo")] * spans)]


@pytest.mark.parametrize(
    "call", [lambda: TestClient(fast_app()).get("/sync"), lambda: flask_app().test_client().get("/sync")]
)
def test_a_request_without_headers(dspy_traces, call):
    """A request that comes without headers begins a trace."""
    assert call().text.strip('"') == "sync"
    assert dspy_traces.tree() == [bare("Echo")]


@pytest.mark.parametrize(
    "call",
    [
        lambda headers: TestClient(fast_app(allow=["session"])).get("/sync", headers=headers),
        lambda headers: flask_app(allow=["session"]).test_client().get("/sync", headers=headers),
    ],
)
def test_a_service_before_strangers(dspy_traces, call):
    """A service takes from headers what it allows."""

    def ask(_):
        with trace_context(session_id="seven", user="ann"):
            headers = inject_headers()
        call(headers)

    Runs(ask)()
    (echo,) = [trace for trace in dspy_traces.all() if tree(trace) == [bare("Echo")]]
    assert "mlflow.trace.user" not in echo.info.trace_metadata
    assert echo.info.trace_metadata["mlflow.trace.session"] == "seven"


@pytest.mark.parametrize("middleware", [TraceASGIMiddleware, TraceWSGIMiddleware])
def test_an_unknown_part_is_refused(middleware):
    """A middleware refuses an *allow* that names no part."""
    with pytest.raises(ValueError, match="allow must be of trace"):
        middleware(None, allow=["password"])


def test_a_body_is_closed_and_files_stay():
    """A body that streams is closed with the request; a list, and a file that the server sends, stay as they are."""
    closed = []

    class Body:
        def __iter__(self):
            return iter([b"a"])

        def close(self):
            closed.append(True)

    def answering(body):
        return TraceWSGIMiddleware(lambda environ, start: body)

    body = answering(Body())({}, None)
    assert list(body) == [b"a"]
    body.close()
    assert closed == [True]
    body = answering(iter([b"b"]))({}, None)
    assert list(body) == [b"b"]
    body.close()
    whole, file = [b"c"], FileWrapper(io.BytesIO(b"d"))
    assert answering(whole)({}, None) is whole
    assert answering(file)({"wsgi.file_wrapper": FileWrapper}, None) is file


# Clients


def async_get(url):
    async def main():
        async with trace_client(httpx.AsyncClient()) as client:
            return (await client.get(url)).text

    return asyncio.run(main())


def client_get(url):
    with trace_client(httpx.Client()) as client:
        return client.get(url).text


def session_get(url):
    with trace_client(requests.Session()) as session:
        return session.get(url).text


@pytest.mark.parametrize("get", [client_get, async_get, session_get])
def test_clients_send_the_trace(dspy_traces, httpserver, get):
    """Each request of a traced client carries the headers of the trace that it is made in."""
    httpserver.expect_request("/").respond_with_handler(lambda request: Response(request.headers["traceparent"]))
    sent = Runs(get)(httpserver.url_for("/"))
    (span,) = dspy_traces.spans(name="Runs")
    assert sent == f"00-{span.trace_id.removeprefix('tr-')}-{span.span_id}-01"


@pytest.mark.parametrize("make", [httpx.Client, requests.Session])
@pytest.mark.parametrize(("hosts", "is_told"), [(["*.internal"], False), (["local*", "127.*"], True), ([], False)])
def test_strangers_are_not_told(dspy_traces, httpserver, make, hosts, is_told):
    """A client that knows its hosts sends nothing to others."""
    told = []
    httpserver.expect_request("/").respond_with_handler(
        lambda request: told.append("baggage" in request.headers) or Response("")
    )
    with trace_client(make(), hosts=hosts) as client:
        client.get(httpserver.url_for("/"))
    assert told == [is_told]


def test_hooks_that_are_there_stay(httpserver):
    """A client's own hooks run as before."""
    heard = []
    httpserver.expect_request("/").respond_with_data("")
    with trace_client(httpx.Client(event_hooks={"request": [heard.append]})) as client:
        client.get(httpserver.url_for("/"))
    assert len(heard) == 1


def test_what_is_no_client_is_refused():
    """`trace_client` names what it was given, and so it does of hosts."""
    with pytest.raises(TypeError, match=r"client must be an httpx\.Client, .* got 5"):
        trace_client(5)
    for hosts in ("*.internal", [5]):
        with pytest.raises(TypeError, match="hosts must be an iterable of globs"):
            trace_client(requests.Session(), hosts=hosts)
