"""Worker processes for the tests of the Postgres store: started, and killed.

Run as a script: `claim ADDRESS SCHEMA` drives whatever is due until nothing is;
`nursery ADDRESS SCHEMA KILLS SEED` forks workers and kills each with SIGKILL at a
random moment, until so many are dead.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable

from agentloop.ports import (
    Checkpoint,
    Claim,
    ClaimRequest,
    EventRow,
    Final,
    LeaseLostError,
    Store,
)
from agentloop.stores.postgres import PostgresStore

MESSAGES = 4
"""How many messages each run has in the end, one per checkpoint."""


def step(store: Store, claim: Claim, revision: int, lease: float) -> None:
    """The checkpoint that follows a revision: one message, one event."""
    change = Checkpoint(
        header=str(revision + 1),
        iterations=revision + 1,
        first_message=revision,
        messages=(f'"{revision}"',),
        events=(EventRow(revision + 1, "{}"),),
    )
    store.checkpoint(claim.lease, revision, change, lease)


def end(store: Store, claim: Claim, revision: int) -> None:
    """Finish a run."""
    store.finalize(
        claim.lease,
        revision,
        Final(
            status="completed",
            result='"done"',
            conflict_result='"conflict"',
            keep=True,
            last=Checkpoint(header="{}", iterations=revision),
            terminal_event=EventRow(revision + 1, "{}"),
            conflict_event=EventRow(revision + 1, "{}"),
        ),
    )


def drive(
    store: Store, claim: Claim, lease: float, after: Callable[[], object]
) -> None:
    """Drive a claimed run from where it is to its end."""
    for revision in range(claim.revision, MESSAGES):
        step(store, claim, revision, lease)
        after()
    end(store, claim, MESSAGES)
    after()


def claim_all(address: str, schema: str) -> None:
    """Take part in driving all runs; each change of hands is noted in a table."""
    import psycopg

    store = PostgresStore(address, schema=schema, max_size=1)
    notes = psycopg.connect(address, autocommit=True)
    request = ClaimRequest(driver="embedded", lease_seconds=600.0)
    store.ping()
    print("ready", flush=True)
    sys.stdin.readline()
    for claim in iter(lambda: store.claim(request), None):
        # The primary key refuses a second driver of one run at a time.
        notes.execute(f"INSERT INTO {schema}.driving VALUES (%s)", [claim.run.id])
        if claim.revision < MESSAGES:
            step(store, claim, claim.revision, 600.0)
        notes.execute(f"DELETE FROM {schema}.driving WHERE id = %s", [claim.run.id])
        if claim.revision < MESSAGES:
            store.release(claim.lease)
        else:
            end(store, claim, MESSAGES)
        print(claim.run.id, claim.lease.token, flush=True)
    notes.close()
    store.close()


def nursery(address: str, schema: str, kills: int, seed: int) -> None:
    """Fork workers and kill them, each after a random number of commits."""
    import psycopg_pool  # once, before the forks

    assert psycopg_pool
    chance = random.Random(seed)
    for _ in range(kills):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            _worker(address, schema, write)
        os.close(write)
        heard = os.read(read, 1) and chance.randrange(8)
        while heard and os.read(read, 1):
            heard -= 1
        time.sleep(chance.random() * 0.01)  # anywhere within the next commit
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(read)
        print("killed" if os.WIFSIGNALED(status) else f"ended {status}", flush=True)


def _worker(address: str, schema: str, ear: int) -> None:
    store = PostgresStore(address, schema=schema, max_size=1)
    request = ClaimRequest(driver="embedded", lease_seconds=0.05)
    while True:
        claim = store.claim(request)
        if claim is None:
            time.sleep(0.01)
            continue
        try:
            drive(store, claim, 0.05, lambda: os.write(ear, b"."))
        except LeaseLostError:
            continue


if __name__ == "__main__":
    if sys.argv[1] == "claim":
        claim_all(sys.argv[2], sys.argv[3])
    else:
        nursery(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
