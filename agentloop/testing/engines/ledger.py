"""What happened outside of the library, and where a worker is to die.

A ledger is a file in a folder that all processes share: a tool writes a line the
moment it does its work, which no later death takes back. A fuse is a file too: the
first worker that comes to the place it names removes it and is gone, with SIGKILL, or
stands still, with SIGSTOP.
"""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

from attrs import field, frozen

_MOST = 30


@frozen
class Entry:
    """One execution of a tool: of which call, with what number, by which process."""

    run_id: str
    effect_key: str
    tool: str
    n: int
    pid: int


@frozen
class Ledger:
    """The executions of all processes, in the order in which they happened."""

    folder: Path = field(converter=Path)

    def write(self, run_id: str, effect_key: str, tool: str, n: int) -> None:
        """Note an execution by this process."""
        line = json.dumps([run_id, effect_key, tool, n, os.getpid()]) + "\n"
        handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(handle, line.encode())  # one write: lines of others stay whole
        finally:
            os.close(handle)

    def entries(self, run_id: str | None = None) -> tuple[Entry, ...]:
        """What was noted, of one run or of all."""
        if not self._file.exists():
            return ()
        lines = self._file.read_text().splitlines()
        found = (Entry(*json.loads(line)) for line in lines)
        return tuple(e for e in found if run_id is None or e.run_id == run_id)

    @property
    def _file(self) -> Path:
        return self.folder / "ledger"


@frozen
class Fuse:
    """Places where the next worker that comes by dies, or stands still."""

    folder: Path = field(converter=Path)

    def arm(
        self, place: str, nth: int = 1, how: signal.Signals = signal.SIGKILL
    ) -> None:
        """Have the `nth` pass of a place be some worker's last, or last for now.

        Raises:
            ValueError: nobody counts that far.
        """
        if not 1 <= nth <= _MOST:
            raise ValueError(f"a fuse counts from 1 to {_MOST}, not to {nth}")
        for count in range(1, nth + 1):
            made = self.folder / "a fuse to be"
            made.write_text(str(int(how)))
            made.rename(self._file(place, count))  # nobody finds one half written

    @property
    def armed(self) -> bool:
        """Whether a fuse is left that nobody came by."""
        return any(self.folder.glob("fuse *"))

    def disarm(self) -> None:
        """Take every fuse away."""
        for file in self.folder.glob("fuse *"):
            file.unlink(missing_ok=True)

    @property
    def dying(self) -> tuple[int, ...]:
        """The processes that came by a fuse: dead, or about to be."""
        return tuple(int(f.name.split()[1]) for f in self.folder.glob("dying *"))

    def pass_by(self, place: str) -> None:
        """Pass a place, or die there."""
        for count in range(_MOST, 0, -1):
            how = self._burnt(self._file(place, count))
            if how is not None:
                if count == 1:  # this thread goes no further, whoever else may
                    signal.pthread_kill(threading.get_ident(), how)
                return

    def _burnt(self, file: Path) -> int | None:
        """The signal of a file that this process, and no other, removed.

        Who is to die leaves a note, before anybody can see that the fuse is gone.
        """
        if not file.exists():
            return None
        try:
            how = int(file.read_text())
            if how == signal.SIGKILL and file.name.endswith(" 1"):
                file.rename(self.folder / f"dying {os.getpid()}")
            else:
                file.unlink()
        except FileNotFoundError:
            return None
        return how

    def _file(self, place: str, count: int) -> Path:
        return self.folder / f"fuse {place} {count}"


class FusedStore:
    """A store whose commits are places to die at, before and after each of them."""

    COMMITS = ("claim", "checkpoint", "finalize", "release")

    def __init__(self, store: Any, fuse: Fuse) -> None:
        self._store = store
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in self.COMMITS:
            return found

        def call(*given: Any) -> Any:
            self._fuse.pass_by(f"before {name}")
            answer = found(*given)
            self._fuse.pass_by(f"after {name}")
            return answer

        return call
