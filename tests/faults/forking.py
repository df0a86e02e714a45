"""A program of many lives: it imports once, and each life is a fork that is killed, or ends, on its own.

It is told what to do as JSON on the command line, and prints what its forks said, as JSON.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import dspy
import mlflow
from mlflow.tracking import fluent
from offline_lm import OfflineLM
from programs import Program

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.export.exporter import EXPORTER


def life(said, told):
    """Call the program in some threads, and tell of each call that has ended: its trace's id, and what it answered."""
    if said.get("most_file_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (said["most_file_bytes"],) * 2)
    callback = MlflowCallback(engine="recorded", **said["options"])

    def calls(name):
        with dspy.context(lm=OfflineLM(), callbacks=[callback]):
            for number in range(said["calls"]):
                answer = Program()(question=f"{name} {number}").answer
                line = {"id": mlflow.get_last_active_trace_id(thread_local=True), "answer": answer}
                os.write(told, f"{json.dumps(line)}\n".encode())

    threads = [threading.Thread(target=calls, args=(name,)) for name in range(said["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    EXPORTER.close(said["exit_s"])
    stats = callback.stats()
    counts = {name: getattr(stats, name) for name in ("stored", "spooled", "lost", "dead_lettered")}
    os.write(told, f"{json.dumps(counts)}\n".encode())


def begin(said):
    reading, told = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            life(said, told)
        finally:
            os._exit(0)
    os.close(told)
    return child, reading


def lines_of(reading, beginning=b""):
    with os.fdopen(reading, "rb") as pipe:
        data = beginning + pipe.read()
    return [json.loads(line) for line in data.split(b"\n")[:-1]]  # the last one was cut off by the kill, or is empty


def know_the_experiment(said):
    """Let lives not ask for it, each at its first call; a server may be away."""
    fluent._active_experiment_id = os.environ["MLFLOW_EXPERIMENT_ID"]
    if said["opens_store"]:
        mlflow.MlflowClient().get_experiment(fluent._active_experiment_id)


def main():
    said = json.loads(sys.argv[1])
    know_the_experiment(said)
    chance, heard = random.Random(said["seed"]), []
    for _ in range(said["rounds"]):
        lives = [begin(said) for _ in range(said["at_once"])]
        beginnings = [b""] * len(lives)
        if said["kill_within_s"]:
            beginnings = [os.read(reading, 1 << 16) for _, reading in lives]  # until a first call has ended
            time.sleep(chance.uniform(0.0, said["kill_within_s"]))
            for child, _ in lives:
                os.kill(child, signal.SIGKILL)
        heard += [lines_of(reading, beginning) for (_, reading), beginning in zip(lives, beginnings, strict=True)]
        for child, _ in lives:
            os.waitpid(child, 0)
    sys.stdout.write(json.dumps(heard))


if __name__ == "__main__":
    main()
