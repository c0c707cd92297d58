"""Worker processes for the tests of the DynamoDB store: started, and killed.

`make` is a factory for processes that find the server by the environment. Run as a
script, `nursery KILLS SEED` starts workers on what is due and kills each with SIGKILL
at a random moment, until so many are dead.
"""

import os
import random
import signal
import sys
import time
from functools import cache
from typing import Any

from agentloop.ports import ClaimRequest, Clock, LeaseLostError
from agentloop.stores.dynamodb import DynamoDBStore
from tests.dynamodb_scale import TABLE, weighed_client
from tests.postgres_workers import drive

ENDPOINT = "AGENTLOOP_TEST_DYNAMODB_ENDPOINT"


def make(clock: Clock | None = None) -> DynamoDBStore:
    """A store on the server that the environment names."""
    return DynamoDBStore(_client(os.environ[ENDPOINT]), TABLE, clock=clock)


@cache
def _client(address: str) -> Any:
    """One client per process, as a host would have it; a fork makes its own."""
    return weighed_client(address)


def nursery(kills: int, seed: int) -> None:
    """Fork workers and kill them, each after a random number of commits."""
    chance = random.Random(seed)
    for _ in range(kills):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            _worker(write)
        os.close(write)
        heard = os.read(read, 1) and chance.randrange(6)
        while heard and os.read(read, 1):
            heard -= 1
        time.sleep(chance.random() * 0.02)  # anywhere within the next commit
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(read)
        print("killed" if os.WIFSIGNALED(status) else f"ended {status}", flush=True)


def _worker(ear: int) -> None:
    store = make()
    request = ClaimRequest(driver="embedded", lease_seconds=1.0)
    while True:
        claim = store.claim(request)
        if claim is None:
            time.sleep(0.01)
            continue
        try:
            drive(store, claim, 1.0, lambda: os.write(ear, b"."))
        except LeaseLostError:
            continue


if __name__ == "__main__":
    nursery(int(sys.argv[1]), int(sys.argv[2]))
