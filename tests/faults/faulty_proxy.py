"""A proxy before a real tracking server, which fails as it is told to: with asyncio's streams, in a thread."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading

_CHUNK = 65_536
_SLOW_BYTES_A_SECOND = 10_000

ANSWERS = {
    "500": b"HTTP/1.1 500 Internal Server Error\r\n",
    "503": b"HTTP/1.1 503 Service Unavailable\r\n",
    "429": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\n",
    "401": b"HTTP/1.1 401 Unauthorized\r\n",
}


class FaultyProxy:
    """Listens on a free port of the loopback.

    Attributes:
        mode: What happens to each connection that comes: `pass`, a status of `ANSWERS`, `hang` (accept, and never
            answer), `reset`, `reset after` (the server has got the request, and the answer is lost), `slow`.
        asked: How many connections have come.
    """

    def __init__(self, port):
        self.mode, self.asked, self._upstream = "pass", 0, port
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(60)
        self.uri = f"http://127.0.0.1:{self.port}"

    def close(self):
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    async def _end(self):
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _run(self):
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()

    async def _serve(self, reader, writer):
        self.asked += 1
        mode = self.mode
        try:
            if mode == "hang":
                await asyncio.sleep(3600)
            elif mode == "reset":
                self._reset(writer)
            elif mode in ANSWERS:
                await _read_request(reader)
                writer.write(ANSWERS[mode] + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
            else:
                await self._pass(reader, writer, mode)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _pass(self, reader, writer, mode):
        request = await _read_request(reader)
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
        request = request.replace(b"Connection: keep-alive", b"Connection: close", 1)
        await _send(upstream, request, slowly=mode == "slow")
        answer = await upstream_reader.read(-1)
        upstream.close()
        if mode == "reset after":
            self._reset(writer)
            return
        await _send(writer, answer, slowly=mode == "slow")

    @staticmethod
    def _reset(writer):
        # A socket that lingers for no time is reset when it is closed.
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


async def _read_request(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    size = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            size = int(value)
    return head + await reader.readexactly(size)


async def _send(writer, data, *, slowly):
    chunk = _SLOW_BYTES_A_SECOND // 10 if slowly else _CHUNK
    for start in range(0, len(data), chunk):
        writer.write(data[start : start + chunk])
        await writer.drain()
        if slowly:
            await asyncio.sleep(0.1)
