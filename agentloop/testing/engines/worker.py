"""Worker processes of the kit: `python -m agentloop.testing.engines.worker`.

The first process, the nursery, imports the place's module once and forks a worker
for every line it is given, so that a worker lives within milliseconds of being asked
for. The worker says that it is ready when it takes runs. It goes on until it is
told to stop with SIGTERM, killed, or its nursery is gone.
"""

import json
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import frozen

from agentloop.testing.engines.flows import loop_over
from agentloop.testing.engines.ledger import Fuse, FusedStore
from agentloop.testing.engines.place import Factory, imported


@frozen
class Post:
    """What a worker needs to know to work."""

    factory: Factory
    address: str
    folder: Path

    def serve(self, choices: dict[str, Any], mother: int) -> None:
        """Drive runs until told to stop."""
        place = self.factory(self.address)
        store: Any = place.store()
        fused: Any = FusedStore(store, Fuse(self.folder))
        loop = loop_over(fused, self.folder, lease=place.lease, **choices)
        with loop, place.work(loop):
            say(f"ready {os.getpid()}")
            while os.getppid() == mother and not _told_to_stop():
                continue
        place.close()
        getattr(store, "close", lambda: None)()


def _told_to_stop() -> bool:
    """Whether SIGTERM, which is blocked, has come; a worker that hung is none."""
    threading.Event().wait(0.1)
    return signal.SIGTERM in signal.sigpending()


def say(line: str) -> None:
    """A line to whoever started the nursery, whole among those of other workers."""
    os.write(1, f"{line}\n".encode())


def nursery(post: Post) -> None:
    """Fork a worker for each line of standard input, which holds its options."""
    # The dead are gone at once, so that whoever killed one sees that.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    children: list[int] = []
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _work(post, json.loads(line))
        children.append(pid)
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _work(post: Post, choices: dict[str, Any]) -> None:
    """A forked worker's whole life; never returns."""
    mother = os.getppid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    status = 1
    try:
        post.serve(choices, mother)
        status = 0
    except BaseException:
        traceback.print_exc()
        say(f"broken {os.getpid()}")
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """The command: `module:factory ADDRESS FOLDER`."""
    name, address, folder = sys.argv[1:4]
    nursery(Post(imported(name), address, Path(folder)))


if __name__ == "__main__":
    main()
