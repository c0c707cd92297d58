"""The DynamoDB store when requests fail: nothing half-done, nothing left behind."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from attrs import define, field

from agentloop.ports import (
    AttemptRow,
    ClaimRequest,
    EventRow,
    LeaseLostError,
    StoreUnavailableError,
)
from agentloop.stores.clock import instant
from agentloop.stores.dynamodb import DynamoDBStore
from tests import dynamodb_server as server
from tests.dynamodb_faults import READS, Faulty, Meddled, Side
from tests.dynamodb_scale import TABLE
from tests.store_bench import LEASE, OURS, Bench, Driven, change, final, job

LONG = '"' + "x" * 100_000 + '"'
"""A text that does not stay in its row."""
VERSION_ONLY = {("schema", "schema")}


@define
class Play:
    """A run from its making to its removal, with one request that fails.

    Whoever hears of the failure repeats the call, as the port allows. `seen` is what
    others see after each call of a play in which nothing fails, and `torn` what they
    see between a failed call and its repeat.
    """

    bench: Bench
    faulty: Faulty
    run_id: str = "run"
    calls: int = 0
    seen: list[Any] = field(factory=list)
    torn: tuple[int, Any] | None = None

    def call(self, work: Callable[[], Any]) -> Any:
        """Make a call, and again if it failed."""
        if not self.faulty.number:
            self.seen.append(self.picture())
        try:
            return work()
        except StoreUnavailableError:
            self.torn = self.calls, self.picture()
            return work()
        finally:
            self.calls += 1

    def picture(self) -> Any:
        """All that others can see of the run and its conversation."""
        sound = server.store(self.bench.clock)
        run = sound.get_run(OURS, self.run_id)
        page = sound.messages(OURS, "conversation-1")
        return (
            run and (run.status, run.result, run.iterations, run.payload),
            page and (page.version, [row.body for row in page.rows]),
            sound.run_messages(self.run_id),
            sound.run_setup(self.run_id),
            [sound.get_job(OURS, each.id)[:2] for each in sound.list_jobs(OURS, "run")],
            sound.events(OURS, self.run_id),
        )

    def play(self) -> Any:
        """All calls; returns what is seen in the end."""
        store = self.bench.store
        where = "conversation-1"
        new = self.bench.new_run(where, id=self.run_id, payload=LONG)
        self.call(lambda: store.insert_run(new))
        driven = Driven(self.call(self.claimed), 0)
        for revision, sent in enumerate(self.changes()):
            commit = revision, sent, LEASE
            self.call(lambda c=commit: store.checkpoint(driven.lease, *c))
        ended = final(9, last=change(messages=('"end"',), first_message=2))
        self.call(lambda: store.finalize(driven.lease, 2, ended))
        return self.picture()

    def claimed(self) -> Any:
        """A claim; one whose answer was lost is waited for."""
        found = self.bench.claim(self.run_id)
        if found is None:
            self.bench.clock.move(LEASE)
            found = self.bench.claim(self.run_id)
        return found

    def changes(self) -> Any:
        """What two checkpoints bring."""
        tried = AttemptRow(
            run_id=self.run_id, iteration=1, number=1, body="{}", response=LONG
        )
        yield change(
            setup=LONG,
            header=LONG,
            messages=(LONG,),
            results=(("a", LONG), ("b", "1")),
            jobs=(job(self.run_id, 1),),
            attempts=(tried,),
            events=(EventRow(1, "{}"),),
        )
        yield change(messages=('"b"',), first_message=1, events=(EventRow(2, LONG),))


def played(number: int, side: Side) -> tuple[Play, Any]:
    """A play in which a request fails, counted from the run's insert."""
    server.emptied()
    faulty = Faulty(server.shared_client())
    bench = Bench(lambda clock: DynamoDBStore(faulty, TABLE, clock=clock))
    bench.conversation()
    faulty.sent.clear()
    faulty.number, faulty.side = number, side
    play = Play(bench, faulty)
    return play, play.play()


def left_behind(bench: Bench) -> set[tuple[str, str]]:
    """The rows that are left when all is deleted, pruned and some time has passed."""
    bench.clock.move(4 * 86_400)
    sound = server.store(bench.clock)
    sound.prune(instant(bench.clock.now()))
    listed, _ = sound.list_conversations(OURS, 0, 99)
    for row in listed:
        sound.delete_conversation(OURS, row.id)
    return set(server.rows())


@pytest.mark.parametrize("side", ["before", "after"])
def test_any_lost_write_tears_nothing(side: Side) -> None:
    """Whichever write fails, others see all of its call or nothing, and it heals."""
    calm, wanted = played(0, side)
    calm.seen.append(wanted)
    writes = [n for n, sent in enumerate(calm.faulty.sent, 1) if sent not in READS]
    assert len(writes) > 8
    for number in writes:
        play, seen = played(number, side)
        if play.torn is None:  # what a call cleans up behind itself may fail
            assert calm.faulty.sent[number - 1] == "batch_write_item"
        else:
            call, between = play.torn
            assert between in calm.seen[call : call + 2], number
        assert seen == wanted, number
        assert left_behind(play.bench) == VERSION_ONLY, number


REMOVALS = {
    "delete": lambda b: b.store.delete_conversation(OURS, "conversation-1"),
    "prune": lambda b: b.store.prune(instant(b.clock.now())),
}


def removed(removal: str, number: int) -> tuple[Play, list[str]]:
    """A run that is removed, of whose removal one request fails; and the requests."""
    play, _ = played(0, "before")
    play.bench.clock.move(2 * 86_400)
    play.faulty.sent.clear()
    play.faulty.number = number
    with suppress(StoreUnavailableError):
        REMOVALS[removal](play.bench)
    return play, list(play.faulty.sent)


@pytest.mark.parametrize("removal", REMOVALS)
def test_removals_that_die_are_finished(removal: str) -> None:
    """A removal that dies at any write is seen whole or not, and others finish it."""
    _, sent = removed(removal, 0)
    writes = [n for n, operation in enumerate(sent, 1) if operation not in READS]
    assert len(writes) > 3
    for number in writes:
        play, _ = removed(removal, number)
        run, page = play.picture()[:2]
        kept = page == (3, [LONG, '"b"', '"end"'])
        assert kept if run or removal == "prune" else page is None, number
        assert left_behind(play.bench) == VERSION_ONLY, number


# ---------------------------------------------------------------- meddling


def meddled(bench: Bench, deed: Callable[[], object]) -> DynamoDBStore:
    """A further store, before whose first transaction a deed is done."""
    client = Meddled(server.shared_client(), deed)
    return DynamoDBStore(client, TABLE, clock=bench.clock)


def pieces() -> list[tuple[str, str]]:
    """The rows that hold pieces of texts."""
    return [key for key in server.rows() if key[1].startswith("text#")]


@pytest.fixture
def bench() -> Bench:
    """A bench for a store that is empty."""
    server.emptied()
    return Bench(server.store)


def test_a_lease_lost_amid_a_commit_leaves_nothing(bench: Bench) -> None:
    """A commit that is overtaken after it was judged is refused, pieces and all."""
    driven = bench.drive()

    def overtake() -> None:
        bench.clock.move(LEASE)
        assert bench.claim(driven.run_id)

    store = meddled(bench, overtake)
    with pytest.raises(LeaseLostError):
        store.checkpoint(driven.lease, 0, change(messages=(LONG,)), LEASE)
    assert bench.store.run_messages(driven.run_id) == ()
    assert pieces() == []


def test_a_claim_that_is_overtaken_takes_nothing(bench: Bench) -> None:
    """Of two claims that both found a run due, the later one goes away empty."""
    orphan = bench.drive()
    won: list[Any] = []
    store = meddled(bench, lambda: won.append(bench.drive(orphan.claim.run)))
    request = ClaimRequest(driver="embedded", lease_seconds=LEASE)
    assert store.claim(request) is None
    assert won == []
    bench.clock.move(LEASE)
    assert store.claim(request) is None
    assert bench.say(won[0], '"mine"').revision == 1


def test_one_of_two_commits_under_one_lease_counts(bench: Bench) -> None:
    """A commit that finds its own revision made meanwhile is taken for its repeat."""
    driven = bench.drive()
    first, late = change(messages=('"a"',)), change(messages=('"b"', '"c"'))
    store = meddled(bench, lambda: bench.commit(driven, first))
    assert store.checkpoint(driven.lease, 0, late, LEASE) is False
    assert bench.store.run_messages(driven.run_id) == ('"a"',)
    with pytest.raises(LeaseLostError):
        store.finalize(driven.lease, 0, final())


def test_an_end_that_is_overtaken_tells_the_conflict(bench: Bench) -> None:
    """A version that moves after it was looked at turns the end into a failure."""
    where = bench.conversation().id
    winner, loser = (
        bench.say(bench.drive(bench.run(where)), f'"{number}"') for number in (1, 2)
    )
    store = meddled(bench, lambda: bench.end(winner))
    row = store.finalize(loser.lease, 1, final())
    assert (row.status, row.result) == ("failed", '"conflict"')
    page = bench.store.messages(OURS, where)
    assert (page.version, [each.body for each in page.rows]) == (1, ['"1"'])


def test_a_deleted_conversation_gets_no_run(bench: Bench) -> None:
    """An insert or an end whose conversation goes away meanwhile stores nothing."""
    where = bench.conversation().id
    driven = bench.drive(bench.run(where))
    store = meddled(bench, lambda: bench.store.delete_conversation(OURS, where))
    with pytest.raises(LeaseLostError):
        store.finalize(driven.lease, 0, final())
    other = bench.conversation().id
    new = bench.new_run(other, payload=LONG)
    store = meddled(bench, lambda: bench.store.delete_conversation(OURS, other))
    with pytest.raises(LookupError):
        store.insert_run(new)
    assert left_behind(bench) == VERSION_ONLY


def test_a_prune_spares_what_is_being_born(bench: Bench) -> None:
    """A prune amid an insert leaves the texts alone that are there already."""
    new = bench.new_run(bench.conversation().id, payload=LONG)
    store = meddled(bench, lambda: bench.store.prune(instant(bench.clock.now())))
    assert store.insert_run(new)[1]
    assert bench.store.get_run(OURS, new.id).payload == LONG
    assert not [key for key in server.rows() if key[0] == "trash"]


def test_a_prune_takes_what_a_dead_commit_left(bench: Bench) -> None:
    """Pieces that no message names go with a prune; those of messages stay."""
    driven = bench.drive()
    faulty = Faulty(server.shared_client(), number=4)  # schema, head, pieces, commit
    store = DynamoDBStore(faulty, TABLE, clock=bench.clock)
    sent = change(messages=(LONG,))
    with pytest.raises(StoreUnavailableError):
        store.checkpoint(driven.lease, 0, sent, LEASE)
    store.checkpoint(driven.lease, 0, sent, LEASE)
    ended = store.finalize(driven.lease, 1, final())
    assert len(pieces()) == 2
    bench.clock.move(2 * 86_400)
    assert bench.store.prune(instant(bench.clock.now())) == 1
    assert len(pieces()) == 1
    page = bench.store.messages(OURS, ended.conversation_id)
    assert [row.body for row in page.rows] == [LONG]
