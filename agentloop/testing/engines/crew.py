"""The workers of a place, as the process that kills them sees them."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentloop.testing.engines.waiting import until


class Crew:
    """Starts worker processes, kills them, and knows who is alive.

    Args:
        place: `module:name` of the factory.
        address: what the factory is called with.
        folder: where ledger and fuses are; the log of the workers goes there too.
    """

    def __init__(self, place: str, address: str, folder: Path) -> None:
        self._log = folder / "log"
        self._choices: dict[int, dict[str, Any]] = {}
        self._lock = threading.Lock()
        command = [sys.executable, "-m", "agentloop.testing.engines.worker"]
        with self._log.open("a") as log:
            self._nursery = subprocess.Popen(  # noqa: S603 - this interpreter, on the host's own factory
                [*command, place, address, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def hire(self, n: int = 1, **choices: Any) -> list[int]:
        """Start workers with these options; returns their pids when they take runs.

        Raises:
            AssertionError: one of them could not be started; says why.
        """
        with self._lock:
            for _ in range(n):
                self._tell(json.dumps(choices))
            pids = [self._heard() for _ in range(n)]
            self._choices.update(dict.fromkeys(pids, choices))
        return pids

    def _tell(self, line: str) -> None:
        if self._nursery.stdin is None:
            raise AssertionError("the nursery is started with a pipe")
        self._nursery.stdin.write(f"{line}\n")
        self._nursery.stdin.flush()

    def _heard(self) -> int:
        if self._nursery.stdout is None:
            raise AssertionError("the nursery is started with a pipe")
        word, _, pid = self._nursery.stdout.readline().partition(" ")
        if word != "ready":
            raise AssertionError(f"a worker could not be started\n{self.log()}")
        return int(pid)

    @property
    def alive(self) -> list[int]:
        """The workers that are there."""
        self._choices = {p: c for p, c in self._choices.items() if _lives(p)}
        return list(self._choices)

    def staff(self, n: int, **choices: Any) -> list[int]:
        """See to it that exactly `n` workers are there, all with these options."""
        for pid in self.alive:
            if self._choices[pid] != choices:
                self.dismiss(pid)
        for pid in self.alive[n:]:
            self.dismiss(pid)
        lacking = n - len(self.alive)
        if lacking:
            self.hire(lacking, **choices)
        return self.alive

    def kill(self, pid: int) -> None:
        """End a worker with SIGKILL; returns when it is gone."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not _lives(pid), f"worker {pid} is dead")

    def dismiss(self, pid: int) -> None:
        """Have a worker stop; returns when it has."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        until(lambda: not _lives(pid), f"worker {pid} has stopped")

    def log(self) -> str:
        """The end of what the workers had to say."""
        return self._log.read_text()[-4000:]

    def close(self) -> None:
        """End all of them, and the nursery."""
        with self._nursery:
            for pid in self.alive:
                self.kill(pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
