"""The store in DynamoDB: durable, shared by processes on any number of machines.

    store = DynamoDBStore(boto3.client("dynamodb"), "agentloop")
    store.migrate()                 # once per release, or: agentloop migrate

Needs the extra `dynamodb` (boto3). One table holds everything; `dynamodb_keys` says
under which keys. There is no index besides the table, so every read is strongly
consistent. DynamoDB's limits (items of 400 KB, transactions of a hundred writes and
four megabytes) bound no run: long texts are cut into pieces, and what a commit
consists of is reachable only through its one small transaction.

Instants are this machine's clock's, unless the store is given another. Leases and
deadlines compare no clock with another machine's, however wrong it is: a worker is
taken for dead when its run stood still for a lease by the monotonic clock of whoever
looks (see `dynamodb_watch`), and time in which nobody looked is not taken off what a
run may take. boto3 retries
what was throttled or not answered as the host's client is configured; for a service
that drives runs `Config(retries={"mode": "standard"}, connect_timeout=3,
read_timeout=10)` fails soon enough for leases of 30 s. The store itself retries what
met another write of the same rows, and nothing else.

The client's role needs `GetItem`, `BatchGetItem`, `Query`, `PutItem`, `UpdateItem`,
`DeleteItem`, `BatchWriteItem` and `ConditionCheckItem`, and for `migrate` also
`DescribeTable` and `CreateTable`. One partition per driver lists its open runs, one
per company its conversations; DynamoDB writes a partition about a thousand times a
second at most. A conversation is read with one query for each of its runs.

So far this was tested with boto3 against moto over a socket, with every request held
against DynamoDB's documented limits; DynamoDB itself was not reached.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final as Constant
from typing import TypeVar

from agentloop.ports.engine import RunRef
from agentloop.ports.store import (
    AttemptRow,
    Checkpoint,
    Claim,
    ClaimRequest,
    ConversationRow,
    EventRow,
    Final,
    JobRow,
    Lease,
    MessagePage,
    NewConversationRow,
    NewRunRow,
    Reader,
    RunRow,
    StoreUnavailableError,
)
from agentloop.ports.system import Clock, require
from agentloop.stores import dynamodb_claims as claims
from agentloop.stores import dynamodb_cleaning as cleaning
from agentloop.stores import dynamodb_details as details
from agentloop.stores import dynamodb_driving as driving
from agentloop.stores import dynamodb_keys as keys
from agentloop.stores import dynamodb_making as making
from agentloop.stores import dynamodb_rows as rows
from agentloop.stores import dynamodb_schema as schemas
from agentloop.stores.clock import MachineClock, instant
from agentloop.stores.dynamodb_table import GoneError, HostClient, Table, pause
from agentloop.stores.dynamodb_watch import Watch, micros
from agentloop.stores.rules import prune_limit

T = TypeVar("T")

_TRIES: Constant = 5


class DynamoDBStore:
    """A `Store` in a table of DynamoDB.

    Nothing is sent before the first call. That call checks the table's version, and
    fails with `SchemaVersionError` unless `migrate` brought it to this release's.

    Args:
        client: the host's `boto3.client("dynamodb")`, which stays the host's; threads
            may share it.
        table: the name of a table that holds nothing else.
        clock: what instants and spans are read from; the machine's when None.

    Raises:
        MissingExtraError: boto3 is not installed.
    """

    blocking = True
    """Calls wait for the network, so an async driver needs a thread for them."""

    def __init__(
        self, client: HostClient, table: str, *, clock: Clock | None = None
    ) -> None:
        require("botocore.exceptions", "dynamodb")
        self._table = Table(client, table)
        self._clock = clock or MachineClock()
        self._watch = Watch(self._clock)
        self._checked = False

    def migrate(self) -> int:
        """Make the table if need be, and bring it to this release's version.

        Returns the version it had, 0 for none. May be called by many processes at
        once, and again. A table that the host makes itself needs the string keys
        `pk` (hash) and `sk` (range), and nothing else.

        Raises:
            SchemaVersionError: the table is newer than this release.
            StoreUnavailableError: DynamoDB could not answer.
        """
        before = schemas.migrate(self._table)
        self._checked = True
        return before

    # ------------------------------------------------------------ conversations

    def create_conversation(self, new: NewConversationRow) -> ConversationRow:
        """See `Store.create_conversation`."""
        return self._do(lambda db: making.create(db, new, self._clock.now()))

    def get_conversation(
        self, reader: Reader, conversation_id: str
    ) -> ConversationRow | None:
        """See `Store.get_conversation`."""
        return self._do(lambda db: rows.conversation(db, reader, conversation_id))

    def list_conversations(
        self, reader: Reader, offset: int, limit: int
    ) -> tuple[tuple[ConversationRow, ...], int]:
        """See `Store.list_conversations`; reads a short row of each conversation."""
        return self._do(lambda db: rows.conversations(db, reader, offset, limit))

    def delete_conversation(self, reader: Reader, conversation_id: str) -> bool:
        """See `Store.delete_conversation`.

        It is gone with the first transaction; then its rows are removed. If that is
        cut short, the next delete or prune goes on with it. Until then a worker that
        drives one of its runs learns of it by the end of the run at the latest.
        """
        return self._do(
            lambda db: cleaning.delete_conversation(
                db, reader, conversation_id, self._now()
            )
        )

    def messages(
        self,
        reader: Reader,
        conversation_id: str,
        since: int = 0,
        until: int | None = None,
    ) -> MessagePage | None:
        """See `Store.messages`."""
        return self._do(
            lambda db: rows.page(db, reader, conversation_id, (since, until))
        )

    # ------------------------------------------------------------ runs

    def insert_run(self, new: NewRunRow) -> tuple[RunRow, bool]:
        """See `Store.insert_run`."""
        return self._do(lambda db: making.insert_run(db, new, self._clock.now()))

    def find_run(self, conversation_id: str, client_op_id: str) -> RunRow | None:
        """See `Store.find_run`."""
        return self._do(lambda db: rows.found_run(db, conversation_id, client_op_id))

    def get_run(self, reader: Reader, run_id: str) -> RunRow | None:
        """See `Store.get_run`."""
        return self._do(lambda db: rows.seen_run(db, reader, run_id))

    def list_runs(self, reader: Reader, conversation_id: str) -> tuple[RunRow, ...]:
        """See `Store.list_runs`."""
        return self._do(lambda db: rows.runs(db, reader, conversation_id))

    def request_cancel(self, reader: Reader, run_id: str) -> RunRow | None:
        """See `Store.request_cancel`."""
        return self._do(lambda db: making.request_cancel(db, reader, run_id))

    # ------------------------------------------------------------ driving

    def claim(self, request: ClaimRequest) -> Claim | None:
        """See `Store.claim`."""
        return self._do(lambda db: claims.claim(db, request, self._watch))

    def unclaimed(self, driver: str, limit: int) -> tuple[RunRef, ...]:
        """See `Store.unclaimed`."""
        return self._do(lambda db: rows.unclaimed(db, driver, limit))

    def heartbeat(self, lease: Lease, lease_seconds: float) -> bool:
        """See `Store.heartbeat`."""
        beat = self._beat(lease_seconds)
        return self._do(lambda db: claims.heartbeat(db, lease, beat, self._watch))

    def release(self, lease: Lease) -> None:
        """See `Store.release`."""
        self._do(lambda db: claims.release(db, lease, self._watch.now()))

    def checkpoint(
        self, lease: Lease, revision: int, change: Checkpoint, lease_seconds: float
    ) -> bool:
        """See `Store.checkpoint`."""
        asked = driving.Asked(revision, change, instant(self._clock.now()))
        beat = self._beat(lease_seconds)
        return self._do(
            lambda db: driving.checkpoint(db, lease, asked, beat, self._watch)
        )

    def finalize(self, lease: Lease, revision: int, final: Final) -> RunRow:
        """See `Store.finalize`."""
        at = instant(self._clock.now())
        return self._do(lambda db: driving.finalize(db, lease, revision, final, at))

    # ------------------------------------------------------------ looking closer

    def get_job(
        self, reader: Reader, job_id: str
    ) -> tuple[JobRow, tuple[AttemptRow, ...], RunRow] | None:
        """See `Store.get_job`."""
        return self._do(lambda db: details.job(db, reader, job_id))

    def run_messages(self, run_id: str) -> tuple[str, ...]:
        """See `Store.run_messages`."""
        return self._do(lambda db: details.run_messages(db, run_id))

    def run_setup(self, run_id: str) -> str | None:
        """See `Store.run_setup`."""
        return self._do(lambda db: details.run_setup(db, run_id))

    def list_jobs(self, reader: Reader, run_id: str) -> tuple[JobRow, ...]:
        """See `Store.list_jobs`."""
        return self._do(lambda db: details.jobs(db, reader, run_id))

    def events(
        self, reader: Reader, run_id: str, after: int = 0
    ) -> tuple[EventRow, ...]:
        """See `Store.events`."""
        return self._do(lambda db: details.events(db, reader, run_id, after))

    # ------------------------------------------------------------ house-keeping

    def prune(self, before: str) -> int:
        """See `Store.prune`; also finishes what other prunes and deletes left."""
        limit = prune_limit(self._clock.now(), before)
        return self._do(lambda db: cleaning.prune(db, limit, self._now()))

    def ping(self) -> None:
        """See `Store.ping`; reads the table's version."""
        schemas.check_version(self._table)
        self._checked = True

    # ------------------------------------------------------------ calls

    def _now(self) -> int:
        return keys.micros(self._clock.now())

    def _beat(self, lease_seconds: float) -> claims.Beat:
        return claims.Beat(micros(lease_seconds), self._watch.now())

    def _do(self, work: Callable[[Table], T]) -> T:
        """Do work, anew where it met rows that were being deleted or committed."""
        if not self._checked:
            self.ping()
        for attempt in range(_TRIES):
            with suppress(GoneError):
                return work(self._table)
            pause(attempt)
        raise StoreUnavailableError(
            f"DynamoDB table {self._table.name}: what is read changes all the time"
        )
