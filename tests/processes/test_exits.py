"""Ends of programs in the middle of their work: what had ended is stored where the program can, and nothing hangs."""

from __future__ import annotations

import signal

import pytest
from ended import wait_until

IN_MID_CALL = """
def work(_):
    calls(5)
    {until}
    print("at work", flush=True)
    for _ in range(6000):  # not at once: a signal just before it would be heard after it
        time.sleep(0.1)
    calls(1)

{before}
Runs(work)(given="never ends")
"""


def names(processes):
    return sorted(trace.data.spans[0].name for trace in processes.traces())


def test_ctrl_c_in_mid_run_drains(processes):
    """Ctrl-C ends a call as an error, and the trace is stored before the program is gone."""
    with processes.start(IN_MID_CALL.format(until="", before="")) as program:
        assert program.stdout.readline() == "at work\n"
        program.send_signal(signal.SIGINT)
        # Python forgets that it was Ctrl-C where something runs `exec` at its exit, as SQLAlchemy does.
        assert program.wait(100) in (-signal.SIGINT, 1)
        assert "KeyboardInterrupt\n" in program.stderr.read()
    (trace,) = processes.traces()
    assert [span.status.status_code for span in trace.data.spans] == ["ERROR"] + ["OK"] * 5
    assert trace.data.spans[0].status.description.startswith("KeyboardInterrupt")


def test_sigterm_with_a_handler_that_exits_drains(processes):
    """A program that turns SIGTERM into SystemExit, as servers do, stores its traces like at any other end."""
    before = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    with processes.start(IN_MID_CALL.format(until="", before=before)) as program:
        assert program.stdout.readline() == "at work\n"
        program.send_signal(signal.SIGTERM)
        assert program.wait(100) == 7
    (trace,) = processes.traces()
    assert [span.status.status_code for span in trace.data.spans] == ["ERROR"] + ["OK"] * 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_that_nobody_handles_kills_at_once(processes, number):
    """SIGTERM without a handler, and `kill -9`, leave no time: what was flushed before is stored, and nothing hangs."""
    rest = IN_MID_CALL.format(until="", before="calls(3)\nassert flush(60)")
    with processes.start(rest) as program:
        assert program.stdout.readline() == "at work\n"
        program.send_signal(number)
        assert program.wait(100) == -number
    stored = names(processes)
    assert stored.count("Echo") == 3
    # What hung below the open call was not to be stored before it had ended.
    assert len(stored) == len([name for name in stored if name in ("Echo", "Runs")])


def test_os_exit_keeps_what_was_flushed(processes):
    """`os._exit` leaves no time either."""
    processes.run("calls(3)\nassert flush(60)\nos._exit(0)")
    assert names(processes) == ["Echo"] * 3


ENDS = {
    "of the main thread, a daemon in mid-call": """
threading.Thread(target=Runs(hang), daemon=True).start()
calls(5)
assert hanging.wait(60)
""",
    "of a thread by sys.exit": """
thread = threading.Thread(target=Runs(lambda _: sys.exit(3)))
thread.start()
calls(4)
thread.join()
calls(1)
""",
    "of the main thread, others go on": """
def late(_):
    threading.main_thread().join()
    Echo()()

threading.Thread(target=Runs(late)).start()
calls(5)
""",
    "by sys.exit in mid-call, a daemon in mid-call": """
threading.Thread(target=Runs(hang), daemon=True).start()
calls(5)
assert hanging.wait(60)
try:
    Runs(lambda _: sys.exit())()
finally:
    pass
""",
    "of the main thread, a coroutine in mid-call": """
import asyncio

class Waits(dspy.Module):
    async def aforward(self):
        await asyncio.Event().wait()

async def main():
    task = asyncio.create_task(Waits().acall())
    await asyncio.sleep(0)
    calls(5)

asyncio.run(main())
""",
}
HANG = """
hanging = threading.Event()

def hang(_):
    hanging.set()
    time.sleep(600)

"""


@pytest.mark.parametrize("rest", ENDS.values(), ids=ENDS)
def test_nothing_hangs_at_the_end(processes, rest):
    """An end while calls run in other threads stores what has ended, and waits for nobody."""
    processes.run(HANG + rest)
    assert names(processes).count("Echo") == 5


def test_the_end_of_a_pool_of_forks_that_is_terminated(processes):
    """`Pool.__exit__` kills its workers: what a task flushed is stored; `close` and `join` store all."""
    processes.run("""
import multiprocessing

def flushed(count):
    calls(count)
    assert flush(60)

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        pool.map(flushed, [3, 3])
    pool = context.Pool(2)
    pool.map(calls, [3, 3])
    pool.close()
    pool.join()
""")
    wait_until(lambda: len(names(processes)) == 12)
