"""A long load with a faulty server between: `python benchmarks/soak.py`, 15 minutes, by hand.

Threads call a program whose traces go to a real `mlflow server` through a proxy that answers 503 or 429, resets
connections, dawdles, and hides the server for seconds at a time, all by a seeded draw. In the end the proxy hands all
on, and what waits in the spool is delivered; then every executed call must be a stored trace or one that was counted as
lost, and memory must be flat. The exit status says whether it is so, and a Markdown table what was measured.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import aiohttp
from aiohttp import web
from measured import resident_bytes
from server import free_port, server
from stores import SERVER_DATABASE
from tables import table

FAULTS = {"503": 0.05, "429": 0.02, "reset": 0.02, "slow": 0.02}
"""The share of requests that each fault is for."""

AWAY_EVERY, AWAY_S = 60, 5
"""The server is hidden once in as many seconds, for so many."""

SLOW_S = 2.0
FLAT_MB = 10.0
WARM_UP = 0.1  # the share of calls after which memory is first looked at


class FaultyProxy:
    """Stands before a server, and hands some requests on."""

    def __init__(self, target, seed):
        self.target = target
        self.draw = random.Random(seed)  # noqa: S311  (faults are no secret)
        self.first = list(FAULTS)  # each once at first, so that a short run has them too
        self.began = time.monotonic()
        self.counts = dict.fromkeys([*FAULTS, "away", "handed on"], 0)

    async def handle(self, request):
        fault = self.fault()
        self.counts[fault] += 1
        if fault in ("reset", "away"):
            request.transport.abort()
            return web.Response()
        if fault == "503":
            return web.Response(status=503, text="later")
        if fault == "429":
            return web.Response(status=429, headers={"Retry-After": "1"})
        if fault == "slow":
            await asyncio.sleep(SLOW_S)
        return await self.hand_on(request)

    def fault(self):
        if self.draw is None:
            return "handed on"
        if (time.monotonic() - self.began) % AWAY_EVERY > AWAY_EVERY - AWAY_S:
            return "away"
        if self.first:
            return self.first.pop()
        drawn, below = self.draw.random(), 0.0
        for fault, share in FAULTS.items():
            below += share
            if drawn < below:
                return fault
        return "handed on"

    def mend(self):
        """Hand everything on from now on."""
        self.draw = None

    async def hand_on(self, request):
        headers = {name: text for name, text in request.headers.items() if name.lower() != "host"}
        url, body = f"{self.target}{request.path_qs}", await request.read()
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, url, data=body, headers=headers) as answer,
        ):
            content = await answer.read()
            return web.Response(status=answer.status, body=content, content_type=answer.content_type)


@contextmanager
def proxied(target, seed):
    """Run the proxy in a thread of its own; yields it and its address."""
    proxy, port, loop = FaultyProxy(target, seed), free_port(), asyncio.new_event_loop()

    async def start():
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield proxy, f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def soak(options, uri):
    """Make the calls; returns what was executed, the callback and memory in bytes after each tenth."""
    import dspy
    import mlflow
    from program import offline_lm

    from dspy_mlflow_callbacks import MlflowCallback

    mlflow.set_tracking_uri(uri)
    callback = MlflowCallback()
    program = dspy.ChainOfThought("question -> answer")
    dspy.configure(lm=offline_lm(), callbacks=[callback])
    end, first = time.monotonic() + options.seconds, max(1, int(options.calls * WARM_UP))

    def call(number):
        if time.monotonic() > end:
            return 0
        with dspy.context(lm=dspy.settings.lm, callbacks=[callback]):
            program(question=f"why {number}?")
        pause = options.seconds * 0.9 * options.threads / options.calls
        time.sleep(pause if options.spread else 0)
        return 1

    executed, memory = 0, []
    with ThreadPoolExecutor(options.threads) as pool:
        for begun in range(0, options.calls, first):
            executed += sum(pool.map(call, range(begun, min(begun + first, options.calls))))
            memory.append(resident_bytes())
    return executed, callback, memory


def deliver_spool(folder):
    from dspy_mlflow_callbacks.export.spool.settings import SpoolSettings
    from dspy_mlflow_callbacks.export.spool_flush import flush

    flush(SpoolSettings(folder=folder))


def stored_traces(folder):
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(folder / SERVER_DATABASE)) as database:
        return database.execute("SELECT count(*) FROM trace_info").fetchone()[0]


def main():
    """Run the soak and print its table."""
    options = parse()
    logging.getLogger("aiohttp").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as target:
        os.environ["DSPY_CACHEDIR"] = folder
        os.environ["DSPY_MLFLOW_SPOOL_DIR"] = f"{folder}/spool"
        with proxied(target, options.seed) as (proxy, uri):
            executed, callback, memory = soak(options, uri)
            proxy.mend()
            flushed = callback.flush(options.flush)
            after, stats = resident_bytes(), callback.stats()
            deliver_spool(f"{folder}/spool")
        stored = stored_traces(Path(folder))
    grown = (after - memory[0]) / 1e6
    faults = ", ".join(f"{count:,} {name}" for name, count in proxy.counts.items())
    rows = [
        ("calls executed", f"{executed:,}"),
        ("traces stored", f"{stored:,}"),
        ("of them by way of the spool", f"{stats.spooled:,}"),
        ("counted as lost", f"{stats.lost:,}"),
        ("failed, open, queued at last", f"{stats.failed}, {stats.open}, {stats.queued}"),
        ("memory after each tenth, and at last, MB", ", ".join(f"{each / 1e6:.0f}" for each in (*memory, after))),
        ("memory grown after the first tenth, MB", f"{grown:.1f}"),
        ("requests", faults),
    ]
    print(*table(("", ""), rows), sep="\n")
    is_accounted = flushed and executed == stored + stats.lost and (stats.failed, stats.open, stats.queued) == (0, 0, 0)
    sys.exit(0 if is_accounted and (options.short or grown < FLAT_MB) else 1)


def parse():
    parser = argparse.ArgumentParser(description="A long load with a faulty server.")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=900, help="begin no call later than this")
    parser.add_argument("--spread", action="store_true", help="spread the calls over the time, with pauses")
    parser.add_argument("--flush", type=float, default=120, help="how long to wait for what is queued at the end")
    parser.add_argument("--seed", type=int, default=7, help="of the faults")
    parser.add_argument("--short", action="store_true", help="do not judge memory: too few calls for it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
