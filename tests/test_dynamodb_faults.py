"""The DynamoDB store when requests fail: nothing half-done, nothing left behind."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from attrs import define, field

from agentloop.ports import AttemptRow, EventRow, StoreUnavailableError
from agentloop.stores.clock import instant
from agentloop.stores.dynamodb import DynamoDBStore
from tests import dynamodb_server as server
from tests.dynamodb_faults import READS, Faulty, Side
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
