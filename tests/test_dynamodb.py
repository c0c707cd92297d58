"""What only the DynamoDB store has: a table, limits, throttling, and processes.

DynamoDB itself is not reached; `dynamodb_server` tells what answers in its place,
and weighs every request. What all stores promise is tested in `test_stores` and
`test_stores_driving`, and by the conformance kit and twins here.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from attrs import define, evolve
from hypothesis import settings

from agentloop.ports import (
    AttemptRow,
    EventRow,
    LeaseLostError,
    NewConversationRow,
    Reader,
    StoreUnavailableError,
)
from agentloop.stores import dynamodb_watch
from agentloop.stores.clock import instant
from agentloop.stores.dynamodb import DynamoDBStore
from agentloop.stores.dynamodb_address import Address, parsed
from agentloop.stores.dynamodb_rows import head
from agentloop.stores.dynamodb_schema import STEPS, migrate
from agentloop.stores.dynamodb_table import Span, Table, put
from agentloop.stores.versions import SchemaVersionError
from agentloop.testing.conformance import StoreConformance
from agentloop.testing.conformance.judging import ALL
from tests import dynamodb_server as server
from tests import dynamodb_workers as workers
from tests.dynamodb_faults import Faulty, answered
from tests.dynamodb_scale import REGION, TABLE, TooHeavyError, weighed_client
from tests.mortal import HandClock, World, check_same, check_sound
from tests.postgres_workers import MESSAGES, drive
from tests.store_bench import (
    LEASE,
    OURS,
    Bench,
    Driven,
    MovableClock,
    at_once,
    change,
    job,
)
from tests.test_crashes import ONE_TOOL
from tests.test_stores_model import Twins

KILLS = int(os.environ.get("AGENTLOOP_TEST_DYNAMODB_KILLS", "8"))
"""How many workers are killed."""
MEGABYTES = int(os.environ.get("AGENTLOOP_TEST_DYNAMODB_MEGABYTES", "12"))
"""How large the largest message is; a release asks for fifty."""
PLACE = "tests.dynamodb_workers:make"


@pytest.fixture
def bench() -> Bench:
    """A bench for a store that is empty."""
    server.emptied()
    return Bench(server.store)


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have other processes find the server."""
    monkeypatch.setenv(workers.ENDPOINT, server.endpoint())


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a table that is not there."""
    yield "agentloop-own"
    server.dropped("agentloop-own")


def table(name: str = TABLE) -> Table:
    """A table as the store speaks with it."""
    return Table(server.shared_client(), name)


# ---------------------------------------------------------------- the contract


@pytest.mark.timeout(300)
def test_the_store_conforms(reachable: None) -> None:
    """Every check of the kit passes, those with processes too."""
    server.emptied()
    report = StoreConformance(workers.make, place=PLACE).check()
    assert report.summary() == f"{len(ALL)} kept, 0 broken, 0 not run"


class DynamoDBTwins(Twins):
    """The DynamoDB store against the memory store, over random calls."""

    def __init__(self) -> None:
        server.emptied()
        super().__init__()

    def open(self) -> DynamoDBStore:
        store = server.store(self.clock)
        store.close = lambda: None  # the client is the host's
        return store


TestDynamoDBTwins = DynamoDBTwins.TestCase
TestDynamoDBTwins.settings = settings(max_examples=6, stateful_step_count=20)


def test_every_death_of_a_worker_is_survived() -> None:
    """A loop over this store dies anywhere once, and its run ends as without it."""
    server.emptied()
    clock = HandClock()
    world = World("sync", server.store(clock), clock)
    calm, passed = world.play(ONE_TOOL)
    for death in range(1, len(passed) + 1):
        report, _ = world.play(ONE_TOOL, death)
        check_sound(report)
        check_same(report, calm, deaths=1)


# ---------------------------------------------------------------- the table


def test_a_missing_table_is_told(name: str) -> None:
    """Without a table every call names the command that makes it, and makes none."""
    store = DynamoDBStore(server.shared_client(), name)
    for call in (store.ping, lambda: store.get_run(OURS, "run")):
        with pytest.raises(
            SchemaVersionError, match=rf"migrate --store dynamodb://{name}"
        ):
            call()
    assert [store.migrate(), store.migrate()] == [0, len(STEPS)]
    assert store.ping() is None


def test_a_table_that_was_not_migrated_is_refused(name: str) -> None:
    """A table the host made itself is used after a migration only."""
    store = DynamoDBStore(server.shared_client(), name)
    store.migrate()
    server.forgotten(name)
    with pytest.raises(SchemaVersionError, match="not migrated"):
        DynamoDBStore(server.shared_client(), name).ping()
    assert store.migrate() == 0


def test_a_newer_table_is_refused(name: str) -> None:
    """A table of a newer release is left alone by calls and by migrate."""
    DynamoDBStore(server.shared_client(), name).migrate()
    table(name).transact([put(("schema", "schema"), {"version": 99})])
    store = DynamoDBStore(server.shared_client(), name)
    for call in (store.migrate, store.ping, lambda: store.get_run(OURS, "run")):
        with pytest.raises(SchemaVersionError, match=rf"99.*knows {len(STEPS)}"):
            call()
    assert table(name).get(("schema", "schema"))["version"] == 99


def test_an_older_table_is_brought_forward(name: str) -> None:
    """Every missing step is done once, in order, and rows stay."""
    done: list[str] = []
    steps = (
        *STEPS,
        lambda _: done.append("one"),
        lambda _: done.append("two"),
    )
    assert migrate(table(name)) == 0
    table(name).transact([put(("kept", "row"), {"number": 7})])
    before = [migrate(table(name), steps[:2]), migrate(table(name), steps)]
    assert [*before, migrate(table(name), steps)] == [1, 2, 3]
    assert (done, table(name).get(("kept", "row"))["number"]) == (["one", "two"], 7)


def test_many_migrate_at_once(name: str) -> None:
    """Stores that migrate one table at once all succeed, and all can work."""
    stores = [DynamoDBStore(server.shared_client(), name) for _ in range(6)]
    found = at_once([store.migrate for store in stores])
    assert set(found) <= {0, len(STEPS)}
    assert [store.ping() for store in stores] == [None] * 6


# ---------------------------------------------------------------- sizes


def test_a_huge_message_comes_back(bench: Bench) -> None:
    """A message of many megabytes is staged, shown and claimed whole."""
    body = json.dumps("x" * (MEGABYTES * 2**20))
    where = bench.conversation().id
    driven = bench.say(bench.drive(bench.run(where)), body)
    bench.store.release(driven.lease)
    driven = bench.drive(driven.claim.run)
    assert driven.claim.messages == (body,)
    bench.end(driven)
    assert [row.body for row in bench.store.messages(OURS, where).rows] == [body]
    assert bench.store.delete_conversation(OURS, where)
    assert set(server.rows()) == {("schema", "schema")}


def test_a_commit_of_thousands_of_rows(bench: Bench) -> None:
    """Thousands of messages, events and results are one commit, and one end."""
    numbers = range(1, 3_001)
    brought = change(
        messages=tuple(f'"{number}"' for number in numbers),
        events=tuple(EventRow(number, f'"{number}"') for number in numbers),
        results=tuple((f"key-{number}", str(number)) for number in numbers),
    )
    driven = bench.commit(bench.drive(), brought)
    with pytest.raises(ValueError, match="key-77"):
        bench.commit(driven, change(results=(("key-77", "again"),)))
    bench.store.release(driven.lease)
    driven = bench.drive(driven.claim.run)
    assert driven.claim.results == brought.results
    bench.end(evolve(driven, revision=1))
    page = bench.store.messages(OURS, driven.claim.run.conversation_id, 1_499)
    assert (page.version, page.rows[0].sequence_no) == (3_000, 1_500)
    assert [row.body for row in page.rows] == list(brought.messages[1_499:])
    events = bench.store.events(OURS, driven.run_id, 2_998)
    assert [event.id for event in events] == [2_999, 3_000, 3_001]


def _wide(run_id: str, count: int, text: str = "{}") -> Any:
    tries = [
        AttemptRow(run_id=run_id, iteration=n, number=1, body=text, response=text)
        for n in range(count)
    ]
    jobs = [job(run_id, n, text) for n in range(count)]
    return change(jobs=tuple(jobs), attempts=tuple(tries))


@pytest.mark.parametrize("text", ["{}", '"' + "w" * 79_000 + '"'], ids=len)
def test_a_commit_of_hundreds_of_jobs(bench: Bench, text: str) -> None:
    """More jobs and attempts than a transaction takes come all at once."""
    driven = bench.drive()
    sent = _wide(driven.run_id, 150 if len(text) < 9 else 60, text)
    driven = bench.commit(driven, sent)
    assert bench.store.list_jobs(OURS, driven.run_id) == sent.jobs
    found, tries, _ = bench.store.get_job(OURS, sent.jobs[7].id)
    assert (found, tries) == (sent.jobs[7], (sent.attempts[7],))
    for again in (change(jobs=sent.jobs[9:10]), change(attempts=sent.attempts[-1:])):
        with pytest.raises(ValueError, match="stored already"):
            bench.commit(driven, again)
    other = bench.drive()
    stolen = evolve(sent.jobs[3], run_id=other.run_id)
    with pytest.raises(ValueError, match="stored already"):
        bench.commit(other, change(jobs=(stolen,)))
    bench.store.delete_conversation(OURS, driven.claim.run.conversation_id)
    bench.store.delete_conversation(OURS, other.claim.run.conversation_id)
    assert set(server.rows()) == {("schema", "schema")}


@pytest.mark.parametrize("died", [7, 9], ids=["half-way", "before the end"])
def test_a_wide_commit_that_died_is_nobodys(bench: Bench, died: int) -> None:
    """Rows that a dead worker wrote ahead are not seen, nor in the next one's way."""
    driven = bench.drive()
    faulty = Faulty(server.shared_client())
    far = DynamoDBStore(faulty, TABLE, clock=bench.clock)
    far.ping()
    faulty.sent.clear()
    faulty.number = died  # the head, what is there (3), groups ahead (4), the end
    sent = _wide(driven.run_id, 100)
    with pytest.raises(StoreUnavailableError):
        far.checkpoint(driven.lease, 0, sent, LEASE)
    assert ("job#" + sent.jobs[0].id, "job") in server.rows()
    assert bench.store.list_jobs(OURS, driven.run_id) == ()
    assert bench.store.get_job(OURS, sent.jobs[0].id) is None
    narrow = change(jobs=(evolve(sent.jobs[1], body='"new"'),))
    driven = bench.commit(driven, narrow)
    assert bench.store.list_jobs(OURS, driven.run_id) == narrow.jobs
    rest = evolve(sent, jobs=(sent.jobs[0], *sent.jobs[2:]))
    bench.commit(driven, rest)
    assert len(bench.store.list_jobs(OURS, driven.run_id)) == 100
    bench.store.delete_conversation(OURS, driven.claim.run.conversation_id)
    assert set(server.rows()) == {("schema", "schema")}


def test_text_beyond_ascii_is_cut_where_it_may_be(bench: Bench) -> None:
    """A long text of wide characters comes back, though its bytes are counted."""
    body = "☃é\x00𝄞" * 90_000
    row = bench.conversation(body=body)
    assert bench.store.get_conversation(OURS, row.id).body == body


@pytest.mark.parametrize("count", [1, 40])
def test_an_end_costs_the_same_for_any_length(bench: Bench, count: int) -> None:
    """However many commits and messages a run has, its end is the same requests."""
    faulty = Faulty(server.shared_client())
    far = Bench(lambda clock: DynamoDBStore(faulty, TABLE, clock=clock))
    driven = far.drive()
    for first in range(count):
        driven = far.commit(driven, change(messages=('"m"',), first_message=first))
    faulty.sent.clear()
    far.end(driven)
    reads = ["get_item", "get_item"]  # of the events, by the bench
    end = ["get_item", "get_item", "transact_write_items", "query"]
    assert faulty.sent == [*reads, *end]


def test_a_heartbeat_is_one_small_write(bench: Bench) -> None:
    """Whether the lease becomes longer or shorter."""
    faulty = Faulty(server.shared_client())
    store = DynamoDBStore(faulty, TABLE, clock=bench.clock)
    driven = bench.drive()
    store.ping()
    faulty.sent.clear()
    for seconds in (LEASE, LEASE / 2):
        store.heartbeat(driven.lease, seconds)
    assert faulty.sent == ["get_item", "update_item"] * 2


def test_held_runs_are_looked_at_once_a_lease(bench: Bench) -> None:
    """All that are new in one read; none again before its lease may be over."""
    faulty = Faulty(server.shared_client())
    looker = Bench(lambda _: DynamoDBStore(faulty, TABLE, clock=bench.clock))
    driven = [bench.drive() for _ in range(3)]
    looker.store.ping()
    sent = []
    for _ in range(2):
        faulty.sent.clear()
        assert looker.claim() is None
        sent.append(tuple(faulty.sent))
    assert sent == [("query", "batch_get_item"), ("query",)]
    bench.clock.move(LEASE - 1)
    bench.store.heartbeat(driven[0].lease, LEASE)
    bench.clock.move(1)
    taken = [looker.claim().run.id for _ in range(2)]
    assert taken == [each.run_id for each in driven[1:]]
    assert looker.claim() is None


@define
class Apart:
    """A clock of another machine, which tells another time and day."""

    clock: MovableClock
    by: float

    def now(self) -> datetime:
        return self.clock.now() + timedelta(seconds=self.by)

    def monotonic(self) -> float:
        return self.clock.monotonic() + self.by


@pytest.mark.parametrize("by", [-86_400.0, -60.0, 60.0, 86_400.0])
def test_clocks_that_differ_break_nothing(bench: Bench, by: float) -> None:
    """A live run is left alone, a dead one taken after a lease, each in its time."""
    far = Bench(lambda _: server.store(Apart(bench.clock, by)))
    alive = Driven(bench.claim(bench.run().id, run_timeout=120.0), 0)
    assert far.claim() is None
    bench.clock.move(LEASE - 1)
    bench.store.heartbeat(alive.lease, LEASE)
    bench.clock.move(1)
    assert far.claim() is None
    bench.clock.move(LEASE - 1)
    assert far.claim() is None
    bench.clock.move(1)
    taken = far.claim(run_timeout=120.0)
    assert taken.run.id == alive.run_id
    # Its holder gave the last sign of life after 29 s, and it was watched for 30.
    assert taken.seconds_left == pytest.approx(120 - (LEASE - 1) - LEASE)
    with pytest.raises(LeaseLostError):
        bench.say(alive, '"slow"')
    newer = far.say(Driven(taken, 0), '"fast"')
    assert far.end(newer).status == "completed"


def test_few_runs_are_remembered(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number the first ones are forgotten, and looked at once more."""
    monkeypatch.setattr(dynamodb_watch, "_MOST", 2)
    watch = dynamodb_watch.Watch(bench.clock)
    table = Table(server.shared_client(), TABLE)
    ids = [bench.drive().run_id for _ in range(3)]
    for run_id in ids:
        watch.saw(head(table, run_id))
    assert [watch.is_worth_a_look(run_id) for run_id in ids] == [True, True, False]


@pytest.mark.parametrize("number", [10**38, -(10**40)])
def test_numbers_beyond_dynamodb(bench: Bench, number: int) -> None:
    """A number DynamoDB has no room for is the caller's mistake, and kept nowhere."""
    driven = bench.drive()
    with pytest.raises(ValueError, match="stored"):
        bench.commit(driven, change(iterations=number, messages=('"a"',)))
    assert bench.store.run_messages(driven.run_id) == ()
    assert bench.store.get_run(Reader(number), driven.run_id) is None


@pytest.mark.parametrize("name", ["", "a\x00b", "é☃", "=", "#", "x" * 10_000])
def test_odd_ids_are_plain_ids(bench: Bench, name: str) -> None:
    """Ids of any length and alphabet name one row, though keys have room for few."""
    run = bench.run(id=name, client_op_id=name, driver=name)
    assert bench.store.get_run(OURS, name) == run
    assert bench.store.find_run(run.conversation_id, name) == run
    assert bench.store.get_run(OURS, name + "x") is None
    assert bench.claim(driver=name).run.id == name


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
def test_lone_surrogates_are_refused(bench: Bench, text: str) -> None:
    """What has no UTF-8 is refused in ids and bodies, and nothing of it is kept."""
    new = NewConversationRow(id="x", company_id=1, user_id=1, body=text)
    for wrong in (new, evolve(new, id=text, body="{}")):
        with pytest.raises(ValueError, match="stored"):
            bench.store.create_conversation(wrong)
    assert set(server.rows()) == {("schema", "schema")}


def test_a_conversation_of_many_runs(bench: Bench) -> None:
    """More runs than a batch or a transaction takes are listed, and go at once."""
    where = bench.conversation().id
    runs = [bench.run(where) for _ in range(40)]
    for run in runs[::8]:
        bench.end(bench.drive(run), keep=False)
    listed = bench.store.list_runs(OURS, where)
    assert [row.id for row in listed] == [run.id for run in runs]
    assert [row.status for row in listed[::8]] == ["completed"] * 5
    assert bench.store.delete_conversation(OURS, where)
    assert [bench.store.get_run(OURS, run.id) for run in runs] == [None] * 40
    assert bench.claim() is None
    assert set(server.rows()) == {("schema", "schema")}


# ---------------------------------------------------------------- errors

ERRORS = {
    "ProvisionedThroughputExceededException": (400, StoreUnavailableError),
    "ThrottlingException": (400, StoreUnavailableError),
    "RequestLimitExceeded": (400, StoreUnavailableError),
    "InternalServerError": (500, StoreUnavailableError),
    "ServiceUnavailable": (503, StoreUnavailableError),
    "AccessDeniedException": (400, StoreUnavailableError),
    "ExpiredTokenException": (400, StoreUnavailableError),
    "ValidationException": (400, ValueError),
    "ResourceNotFoundException": (400, SchemaVersionError),
}
SECRET = "hunter2"


def _answering(*bodies: tuple[int, dict[str, Any]]) -> DynamoDBStore:
    """A store whose first requests after the ping get these answers."""
    client = weighed_client(server.endpoint())
    store = DynamoDBStore(client, TABLE)
    store.list_conversations(OURS, 0, 1)
    left = list(bodies)

    def answer(**_: Any) -> Any:
        if not left:
            return None
        status, body = left.pop(0)
        return answered(status, json.dumps(body))

    client.meta.events.register("before-send.dynamodb", answer)
    return store


def _error(code: str, **more: Any) -> dict[str, Any]:
    return {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", **more}


@pytest.mark.parametrize("code", ERRORS)
def test_errors_of_dynamodb(bench: Bench, code: str) -> None:
    """Each error is told as what it means for the caller."""
    status, kind = ERRORS[code]
    store = _answering((status, _error(code, message="no")))
    with pytest.raises(kind, match=r"cannot be stored|DynamoDB"):
        store.get_run(OURS, "run")


def _cancelled(*codes: str) -> tuple[int, dict[str, Any]]:
    reasons = [
        {"Code": code, "Item": {"body": {"S": SECRET}}, "Message": SECRET}
        for code in codes
    ]
    told = _error("TransactionCanceledException", CancellationReasons=reasons)
    return 400, told | {"message": "Transaction cancelled"}


REASONS = {
    ("None", "ThrottlingError"): StoreUnavailableError,
    ("ProvisionedThroughputExceeded", "TransactionConflict"): StoreUnavailableError,
    ("ValidationError", "None"): ValueError,
    ("ConditionalCheckFailed", "TransactionConflict"): ValueError,
    ("ItemCollectionSizeLimitExceeded",): ValueError,
}


@pytest.mark.parametrize("codes", REASONS, ids="+".join)
def test_reasons_of_a_cancelled_transaction(
    bench: Bench, codes: tuple[str, ...]
) -> None:
    """Each reason is told as what it means, and no value is repeated."""
    store = _answering(_cancelled(*codes))
    new = NewConversationRow(id="c", company_id=12, user_id=1, body=SECRET)
    with pytest.raises(REASONS[codes]) as caught:
        store.create_conversation(new)
    assert SECRET not in str(caught.value)


def test_conflicts_are_tried_again(bench: Bench) -> None:
    """A transaction that met another one is sent again, and then it is done."""
    store = _answering(*[_cancelled("None", "TransactionConflict")] * 3)
    new = NewConversationRow(id="c", company_id=12, user_id=1, body="{}")
    assert store.create_conversation(new).version == 0
    assert store.get_conversation(OURS, "c") is not None


def test_a_renewal_that_meets_a_transaction_is_sent_again(bench: Bench) -> None:
    """A single write that met a transaction is sent again, and then it is done."""
    driven = bench.drive()
    head = table().client.get_item(
        TableName=TABLE,
        Key={"pk": {"S": f"run#{driven.run_id}"}, "sk": {"S": "head"}},
        ConsistentRead=True,
    )
    busy = 400, _error("TransactionConflictException", message="busy")
    store = _answering((200, {"Item": head["Item"]}), busy, busy)
    assert store.heartbeat(driven.lease, LEASE) is False


def test_conflicts_that_never_end_are_told(bench: Bench) -> None:
    """A transaction that meets others for ever ends as an unavailable store."""
    store = _answering(*[_cancelled("TransactionConflict")] * 99)
    new = NewConversationRow(id="c", company_id=12, user_id=1, body="{}")
    with pytest.raises(StoreUnavailableError, match="all the time"):
        store.create_conversation(new)


def test_what_a_batch_left_is_sent_again(bench: Bench) -> None:
    """Rows that DynamoDB left out of a batch follow in the next one."""
    rows = [(("p", str(number)), {"number": number}) for number in range(3)]
    client = weighed_client(server.endpoint())
    left = {
        "PutRequest": {
            "Item": {"pk": {"S": "p"}, "sk": {"S": "0"}, "number": {"N": "0"}}
        }
    }
    answers = [{"UnprocessedItems": {TABLE: [left]}}, None]
    keys = {"Keys": [{"pk": {"S": "p"}, "sk": {"S": "0"}}], "ConsistentRead": True}
    reads = [{"Responses": {}, "UnprocessedKeys": {TABLE: keys}}, None]
    far = Table(client, TABLE)

    def answer(request: Any, **_: Any) -> Any:
        batch = b"BatchWrite" in request.headers["X-Amz-Target"]
        body = (answers if batch else reads).pop(0)
        return None if body is None else answered(200, json.dumps(body))

    client.meta.events.register("before-send.dynamodb", answer)
    far.put_all(rows)
    assert set(far.get_all([("p", "0"), ("p", "1")])) == {("p", "0")}
    assert answers == reads == []


@pytest.mark.parametrize("times", [1, 99])
def test_what_is_seen_in_part_is_read_again(bench: Bench, times: int) -> None:
    """A transaction of which one row is seen and not another is waited for."""
    where = bench.conversation().id
    bench.finished(where, '"a"')
    client = weighed_client(server.endpoint())
    store = DynamoDBStore(client, TABLE)
    left = [json.dumps({"Items": [], "Count": 0})] * times

    def answer(request: Any, **_: Any) -> Any:
        segments = b"Query" in request.headers["X-Amz-Target"]
        return answered(200, left.pop()) if segments and left else None

    client.meta.events.register("before-send.dynamodb", answer)
    if times == 1:
        assert len(store.messages(OURS, where).rows) == 1
        return
    with pytest.raises(StoreUnavailableError, match="all the time"):
        store.messages(OURS, where)


def test_nobody_listens() -> None:
    """A server that cannot be reached is an unavailable store."""
    store = DynamoDBStore(weighed_client("http://127.0.0.1:9"), TABLE)
    with pytest.raises(StoreUnavailableError, match="DynamoDB"):
        store.ping()


# ---------------------------------------------------------------- what weighs

HEAVY = {
    "101 writes": lambda t: t.transact([put(("p", str(n)), {}) for n in range(101)]),
    "five megabytes": lambda t: t.transact(
        [put(("p", str(n)), {"text": "x" * 380_000}) for n in range(14)]
    ),
    "a large item": lambda t: t.put_all([(("p", "s"), {"text": "x" * 410_000})]),
    "a key twice": lambda t: t.transact([put(("p", "s"), {})] * 2),
    "an unused value": lambda t: t.transact([put(("p", "s"), {}, None, never=1)]),
    "bounds in disorder": lambda t: list(t.query(Span("p", "z", "a"))),
    "a long key": lambda t: t.put_all([(("p", "s" * 1_025), {})]),
    "an old row": lambda t: t.client.get_item(
        TableName=t.name, Key={"pk": {"S": "p"}, "sk": {"S": "s"}}
    ),
}


@pytest.mark.parametrize("call", HEAVY.values(), ids=HEAVY.keys())
def test_requests_are_weighed(bench: Bench, call: Any) -> None:
    """What DynamoDB would refuse fails a test, though moto may take it."""
    with pytest.raises(TooHeavyError):
        call(table())


# ---------------------------------------------------------------- processes


def test_killed_workers_lose_nothing(bench: Bench, reachable: None) -> None:
    """Workers die by SIGKILL amid their work, and every run ends whole."""
    bench.store = server.store()
    run_ids = [bench.run().id for _ in range(2 * KILLS)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.dynamodb_workers", str(KILLS), "7"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=100)
    finally:
        process.kill()
    assert (output.split(), errors) == (["killed"] * KILLS, "")
    pause = threading.Event()
    for run_id in run_ids:
        while bench.store.get_run(OURS, run_id).status != "completed":
            claim = bench.claim(run_id)
            if claim is None:
                pause.wait(0.02)  # until the lease of the dead one runs out
                continue
            drive(bench.store, claim, 30.0, lambda: None)
    _whole(bench, run_ids)


def _whole(bench: Bench, run_ids: list[str]) -> None:
    """Every run ended once, with each of its messages in its place."""
    for run_id in run_ids:
        run = bench.store.get_run(OURS, run_id)
        page = bench.store.messages(OURS, run.conversation_id)
        bodies = [f'"{number}"' for number in range(MESSAGES)]
        assert [row.body for row in page.rows] == bodies
        assert page.version == MESSAGES
        ids = [event.id for event in bench.store.events(OURS, run_id)]
        assert ids == list(range(1, MESSAGES + 2))


def test_deleting_races_with_driving(bench: Bench) -> None:
    """Deletes, prunes, commits and ends at once leave no row behind."""
    for _ in range(3):
        where = bench.conversation().id
        runs = [bench.drive(bench.run(where)) for _ in range(4)]
        works = [lambda each=each: bench.say(each, '"a"') for each in runs[:2]]
        works += [lambda each=each: bench.end(each) for each in runs[2:]]
        works.append(lambda where=where: bench.store.delete_conversation(OURS, where))
        works.append(lambda: bench.store.prune(instant(bench.clock.now())))
        for answer in at_once(works):
            assert not isinstance(answer, StoreUnavailableError)
    assert set(server.rows()) == {("schema", "schema")}


# ---------------------------------------------------------------- addresses


def test_addresses_are_read() -> None:
    """An address names a table, and perhaps a region and an endpoint."""
    assert parsed("dynamodb://agents") == Address("agents")
    full = "dynamodb://My.Table?region=eu-west-1&endpoint=http://127.0.0.1:8000"
    assert parsed(full) == Address("My.Table", "eu-west-1", "http://127.0.0.1:8000")


@pytest.mark.parametrize(
    "url",
    [
        "dynamodb://",
        "dynamodb://ab",
        "dynamodb://a b c",
        "dynamodb://table/more",
        "dynamodb://table?regoin=eu-west-1",
        "dynamodb://table?region=",
        "postgresql://table",
    ],
)
def test_odd_addresses_are_refused(url: str) -> None:
    """What names no table is refused with an example."""
    with pytest.raises(ValueError, match=r"dynamodb://TABLE"):
        parsed(url)


def _agentloop(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", **env}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, "-m", "agentloop", *arguments],
        env={**kept, **keys, "AWS_CONFIG_FILE": "/dev/null"},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_command_line_reaches_a_table(name: str) -> None:
    """A table is missed, made, made again and read by commands."""
    url = f"dynamodb://{name}?region={REGION}&endpoint={server.endpoint()}"
    early = _agentloop("show", str(uuid4()), "--store", url)
    assert (early.returncode, early.stdout) == (2, "")
    assert f"migrate --store dynamodb://{name}" in early.stderr
    for before in (0, len(STEPS)):
        done = _agentloop("migrate", "--store", url)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"table {name}: was at version {before}" in done.stdout
    late = _agentloop("show", str(uuid4()), "--store", url)
    assert "migrate" not in late.stderr


def test_the_command_line_needs_a_region() -> None:
    """Without a region anywhere the command says where to name one."""
    done = _agentloop("migrate", "--store", "dynamodb://agents")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "?region=REGION" in done.stderr
