"""A real PostgreSQL server: a cluster in a folder of its own, on a free port of the loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # where Debian has them, off the path
_UNPRIVILEGED = ["runuser", "-u", "postgres", "--"]  # the server refuses to run as root
_TEMPLATE = "template_mlflow"
_MAKE_TABLES = "import mlflow, sys; mlflow.MlflowClient(sys.argv[1])"


class PostgresServer:
    """Runs PostgreSQL from `start` to `stop`; it may be started again, and has then what it had, until `remove`.

    Its folder is none of pytest's, which keeps other users out of them.
    """

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="postgres_"))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._has_template = False
        self.data.mkdir()
        if os.geteuid() == 0:
            shutil.chown(self.data, "postgres")
        self._run("initdb", "--username", "postgres", "--auth", "trust", "--no-sync", "--encoding", "UTF8")

    def start(self):
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "--wait", "--options", options, "--log", str(self.data / "log"), "start")
        return self

    def stop(self):
        """Stop it as a crash does: at once, with its connections cut."""
        self._run("pg_ctl", "--wait", "--mode", "immediate", "stop")

    def remove(self):
        shutil.rmtree(self.folder)

    def freeze(self):
        """Let it answer no more, with its connections open."""
        self._signal(signal.SIGSTOP)

    def thaw(self):
        self._signal(signal.SIGCONT)

    def create_store(self, name):
        """Create a database that has MLflow's tables, and return its URI.

        The tables take MLflow 10 s to make, so they are made once and copied.
        """
        if not self._has_template:
            # In a process of its own: a database that is connected to cannot be copied.
            subprocess.run([sys.executable, "-c", _MAKE_TABLES, self._created(_TEMPLATE)], check=True)
            self._has_template = True
        return self._created(name, "--template", _TEMPLATE)

    def _created(self, name, *options):
        where = ("--host", "127.0.0.1", "--port", str(self.port), "--username", "postgres")
        self._program("createdb", *where, *options, name)
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/{name}"

    def _signal(self, number):
        parent = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for process in (parent, *map(int, children)):
            os.kill(process, number)

    def _run(self, program, *arguments):
        self._program(program, "--pgdata", str(self.data), *arguments)

    def _program(self, program, *arguments):
        path = shutil.which(program) or str(_PROGRAMS[-1] / program)
        command = [*(_UNPRIVILEGED if os.geteuid() == 0 else ()), path, *arguments]
        # Not captured: the server would keep the pipe open.
        with (self.folder / "programs.log").open("ab") as log:
            done = subprocess.run(command, cwd="/", stdout=log, stderr=log, check=False)
        assert done.returncode == 0, (self.folder / "programs.log").read_text()[-2000:]
