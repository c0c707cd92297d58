"""A worker process over the real boto3, to be killed: `python -m tests.bedrock_mortal`.

Its arguments are the address of the fake and a folder with the store. A tool writes
down that it ran, and then takes longer than the process has to live.
"""

import os
import signal
import sys
import time
from pathlib import Path

from agentloop import AgentLoop, tool
from agentloop.backends.bedrock import BedrockBackend
from agentloop.stores.sqlite import SQLiteStore
from agentloop.testing.fake_bedrock.client import bedrock_client

LEASE = 1.0


def make_loop(url: str, folder: Path) -> AgentLoop:
    """The loop of the test and of its workers, over one store and one fake."""

    @tool
    def pay(amount: int) -> str:
        """Pay, once."""
        handle = os.open(folder / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{amount}\n".encode())
        os.fsync(handle)
        os.close(handle)
        time.sleep(60)
        return "paid"

    return AgentLoop(
        BedrockBackend(bedrock_client(url)),
        SQLiteStore(folder / "runs.db"),
        {"bank": [pay]},
        lease=LEASE,
        pause=lambda delay, at_least: 0.0,
    )


if __name__ == "__main__":
    with make_loop(sys.argv[1], Path(sys.argv[2])).worker(1, poll=0.05):
        signal.pause()
