"""The store contract, second half: claims, leases, checkpoints and finalize."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import evolve

from agentloop.ports import (
    AttemptRow,
    Checkpoint,
    EventRow,
    Lease,
    LeaseLostError,
    VersionMovedError,
)
from agentloop.stores.clock import instant
from tests.store_bench import (
    KINDS,
    LEASE,
    MINE,
    OURS,
    START,
    STATUSES,
    Bench,
    Driven,
    at_once,
    change,
    final,
    job,
    open_bench,
)


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A bench for each shipped store."""
    yield from open_bench(request.param, tmp_path)


def attempt(run_id: str, iteration: int, number: int) -> AttemptRow:
    """An attempt whose body says which."""
    return AttemptRow(
        run_id=run_id,
        iteration=iteration,
        number=number,
        body=f'"{iteration}.{number}"',
        response=None if number == 1 else f'"answer {number}"',
    )


def events(*ids: int) -> tuple[EventRow, ...]:
    """Events with these ids."""
    return tuple(EventRow(number, f'"event {number}"') for number in ids)


class Late:
    """A row whose text is made when it is read, and who counts that."""

    def __init__(self, body: str, **fields: object) -> None:
        self.reads = 0
        self._body = body
        vars(self).update(fields)

    @property
    def body(self) -> str:
        self.reads += 1
        return self._body


def everything(bench: Bench, run_id: str) -> dict[str, object]:
    """All that can be read of a run, for telling that nothing changed."""
    run = bench.store.get_run(OURS, run_id)
    jobs = bench.store.list_jobs(OURS, run_id)
    return {
        "run": run,
        "conversation": bench.store.get_conversation(OURS, run.conversation_id),
        "visible": bench.store.messages(OURS, run.conversation_id),
        "staged": bench.store.run_messages(run_id),
        "setup": bench.store.run_setup(run_id),
        "jobs": [bench.store.get_job(OURS, each.id) for each in jobs],
        "events": bench.store.events(OURS, run_id),
    }


# ---------------------------------------------------------------- claiming


def test_claim_makes_a_run_running(bench: Bench) -> None:
    """A first claim finds a run with nothing committed and makes it running."""
    run = bench.run()
    claim = bench.claim()
    assert claim.run == evolve(run, status="running")
    assert claim.lease.run_id == run.id
    assert (claim.revision, claim.setup, claim.header) == (0, None, None)
    assert (claim.messages, claim.results, claim.last_event) == ((), (), 0)
    assert bench.store.get_run(OURS, run.id) == claim.run


def test_nothing_is_due(bench: Bench) -> None:
    """A claim on a store without due runs, or of an unknown one, answers None."""
    assert bench.claim() is None
    assert bench.claim("nowhere") is None


def test_oldest_due_run_first(bench: Bench) -> None:
    """Claims take runs by their start, and those of one instant as inserted."""
    late = [bench.run(), bench.run()]
    bench.clock.move(-5)
    early = bench.run()
    bench.clock.move(5)
    order = [bench.claim().run.id for _ in range(3)]
    assert order == [early.id, late[0].id, late[1].id]
    assert bench.claim() is None


def test_an_orphan_is_older_than_a_new_run(bench: Bench) -> None:
    """A run whose lease ran out is taken before one that was inserted later."""
    orphan = bench.drive()
    bench.clock.move(LEASE + 1)
    bench.run()
    assert bench.claim().run.id == orphan.run_id


def test_drivers_take_their_own_runs(bench: Bench) -> None:
    """A run is claimed by the driver it names and by no other, also by id."""
    run = bench.run(driver="temporal")
    assert bench.claim() is None
    assert bench.claim(run.id) is None
    assert bench.claim(run.id, driver="temporal").run.id == run.id


def test_a_live_lease_cannot_be_taken(bench: Bench) -> None:
    """While a lease is alive, nobody claims its run, by id or otherwise."""
    driven = bench.drive()
    bench.clock.move(LEASE - 0.001)
    assert bench.claim() is None
    assert bench.claim(driven.run_id) is None


@pytest.mark.parametrize("by_id", [True, False])
def test_a_lease_runs_out(bench: Bench, by_id: bool) -> None:
    """When the store's clock reaches the lease's end, the run is due."""
    driven = bench.drive()
    bench.outlive(driven.run_id)
    claim = bench.claim(driven.run_id if by_id else None)
    assert claim.lease.token > driven.lease.token
    assert claim.run.status == "running"


@pytest.mark.parametrize("status", STATUSES)
def test_ended_runs_are_not_due(bench: Bench, status: str) -> None:
    """A run that has ended is never claimed again."""
    ended = bench.end(bench.drive(), status=status)
    bench.clock.move(1e6)
    assert bench.claim() is None
    assert bench.claim(ended.id) is None


def test_tokens_rise(bench: Bench) -> None:
    """Every claim of a run has a higher token than any before."""
    run, tokens = bench.run(), []
    for round_ in range(6):
        claim = bench.claim(run.id)
        tokens.append(claim.lease.token)
        if round_ % 2:
            bench.store.release(claim.lease)
            bench.reopen()
        else:
            bench.outlive(run.id)
    assert tokens == sorted(set(tokens))


def test_claims_in_vain_are_counted(bench: Bench) -> None:
    """A claim tells how many in a row came to nothing; work and a release reset it."""
    run = bench.run()

    def claimed_again() -> Driven:
        bench.outlive(run.id)
        return bench.drive(run)

    driven = bench.drive(run)
    assert driven.claim.in_a_row == 1
    assert [claimed_again().claim.in_a_row for _ in range(3)] == [2, 3, 4]
    working = claimed_again()
    bench.commit(working, change())
    assert [claimed_again().claim.in_a_row for _ in range(2)] == [1, 2]
    given_back = claimed_again()
    bench.store.release(given_back.lease)
    assert bench.drive(run).claim.in_a_row == 1
    assert claimed_again().claim.in_a_row == 2


def test_sixteen_threads_claim_one_run(bench: Bench) -> None:
    """Of sixteen claims of one run at once, one succeeds."""
    run = bench.run()
    for _ in range(5):
        claims = at_once([lambda: bench.claim(run.id)] * 8 + [bench.claim] * 8)
        assert sum(claim is not None for claim in claims) == 1
        bench.clock.move(LEASE)


def test_sixteen_threads_share_the_work(bench: Bench) -> None:
    """Threads that claim whatever is due take every run exactly once."""
    runs = [bench.run().id for _ in range(40)]

    def work() -> list[str]:
        return [claim.run.id for claim in iter(bench.claim, None)]

    taken = [run for mine in at_once([work] * 16) for run in mine]
    assert sorted(taken) == sorted(runs)


def test_claim_brings_all_that_was_committed(bench: Bench) -> None:
    """A later claim finds setup, last header, messages, results and event id."""
    driven = bench.drive()
    driven = bench.commit(
        driven, change(setup='"setup"', messages=('"a"',), events=events(1, 4))
    )
    driven = bench.commit(
        driven,
        change(
            header='"last"',
            iterations=7,
            first_message=1,
            messages=('"b"', '"c"'),
            results=(("k2", '"two"'), ("k1", '"one"')),
        ),
    )
    bench.outlive(driven.run_id)
    claim = bench.claim()
    assert (claim.revision, claim.setup, claim.header) == (2, '"setup"', '"last"')
    assert claim.messages == ('"a"', '"b"', '"c"')
    assert dict(claim.results) == {"k1": '"one"', "k2": '"two"'}
    assert (claim.last_event, claim.run.iterations) == (4, 7)


# ---------------------------------------------------------------- set clocks

UNSET = pytest.mark.parametrize("kind", ["memory", "sqlite", "dynamodb"])
"""Stores that go by clocks of ours; Postgres' are its server's."""


@pytest.fixture
def near(kind: str, tmp_path: Path) -> Iterator[Bench]:
    """A bench for a store of the kind, which has been in use for a while."""
    for bench in open_bench(kind, tmp_path):
        assert bench.claim() is None
        yield bench


@UNSET
@pytest.mark.parametrize("by", [-3600.0, 3600.0])
def test_a_set_clock_takes_no_lease(near: Bench, by: float) -> None:
    """Nor does it lengthen the lease of the dead, nor the time a run has left."""
    alive, dead = (
        Driven(near.claim(near.run().id, run_timeout=300.0), 0) for _ in range(2)
    )
    near.clock.set(by)
    assert near.claim() is None
    near.clock.move(LEASE / 3)
    near.store.heartbeat(alive.lease, LEASE)
    assert near.claim() is None
    near.clock.move(LEASE / 2)
    near.store.heartbeat(alive.lease, LEASE)
    assert near.claim() is None
    for _ in range(4):  # two leases more at the very most
        near.clock.move(LEASE / 2)
        near.store.heartbeat(alive.lease, LEASE)
        if (taken := near.claim(run_timeout=300.0)) is not None:
            break
    assert taken.run.id == dead.run_id
    assert taken.seconds_left > 100
    assert near.claim(alive.run_id) is None


# ---------------------------------------------------------------- deadline


@pytest.mark.parametrize(
    ("timeouts", "waits", "left"),
    [
        ([None], [], [None]),
        ([60.0], [], [60.0]),
        ([60.0, 600.0], [40.0], [60.0, 20.0]),
        ([60.0, None], [40.0], [60.0, 20.0]),
        ([None, 60.0], [40.0], [None, 60.0]),
        ([60.0, 60.0], [100.0], [60.0, -40.0]),
    ],
)
def test_the_first_timeout_sets_the_deadline(
    bench: Bench,
    timeouts: list[float | None],
    waits: list[float],
    left: list[float | None],
) -> None:
    """A deadline is set by the first claim that brings one, and never moves."""
    run, seen = bench.run(), []
    for index, timeout in enumerate(timeouts):
        seen.append(bench.claim(run.id, run_timeout=timeout).seconds_left)
        bench.outlive(run.id, waits[index] if index < len(waits) else 0)
    assert seen == [each if each is None else pytest.approx(each) for each in left]


# ---------------------------------------------------------------- fencing


def _write(bench: Bench, driven: Driven) -> dict[str, Callable[[], object]]:
    """Every call that carries a lease and may fail for it."""
    lease, revision = driven.lease, driven.revision
    return {
        "checkpoint": lambda: bench.store.checkpoint(lease, revision, change(), LEASE),
        "finalize": lambda: bench.store.finalize(lease, revision, final()),
        "heartbeat": lambda: bench.store.heartbeat(lease, LEASE),
    }


def _overtaken(bench: Bench, driven: Driven) -> None:
    bench.clock.move(LEASE)
    assert bench.claim(driven.run_id)


def _released(bench: Bench, driven: Driven) -> None:
    bench.store.release(driven.lease)


def _ended_by_another(bench: Bench, driven: Driven) -> None:
    bench.clock.move(LEASE)
    bench.end(bench.drive(driven.claim.run))


def _deleted(bench: Bench, driven: Driven) -> None:
    bench.store.delete_conversation(OURS, driven.claim.run.conversation_id)


def _pruned(bench: Bench, driven: Driven) -> None:
    bench.end(driven)
    bench.clock.move(1e6)
    assert bench.store.prune(instant(bench.clock.now())) == 1


LOSSES = (_overtaken, _released, _ended_by_another, _deleted, _pruned)


@pytest.mark.parametrize("call", ["checkpoint", "finalize", "heartbeat"])
@pytest.mark.parametrize("lose", LOSSES)
def test_a_lost_lease_writes_nothing(
    bench: Bench, lose: Callable[[Bench, Driven], None], call: str
) -> None:
    """Whatever took the lease away, its token commits nothing any more."""
    driven = bench.drive()
    lose(bench, driven)
    gone = bench.store.get_run(OURS, driven.run_id) is None
    before = None if gone else everything(bench, driven.run_id)
    with pytest.raises(LeaseLostError, match=driven.run_id):
        _write(bench, driven)[call]()
    assert gone or everything(bench, driven.run_id) == before


@pytest.mark.parametrize("token", [0, -1, 99, 10**30])
def test_tokens_that_were_never_given(bench: Bench, token: int) -> None:
    """A token the store did not hand out is a lost lease, also a higher one."""
    driven = bench.drive()
    lease = Lease(driven.run_id, token)
    for call in _write(bench, evolve(driven, claim=evolve(driven.claim, lease=lease))):
        forged = evolve(driven, claim=evolve(driven.claim, lease=lease))
        with pytest.raises(LeaseLostError):
            _write(bench, forged)[call]()
    assert bench.say(driven, '"a"')


def test_an_expired_lease_lasts_until_somebody_claims(bench: Bench) -> None:
    """A late checkpoint under the newest token succeeds and takes a new lease."""
    driven = bench.drive()
    bench.clock.move(10 * LEASE)
    bench.say(driven, '"a"')
    assert bench.claim(driven.run_id) is None


def test_a_cancel_needs_no_lease(bench: Bench) -> None:
    """Whoever drives learns of a cancel by its next checkpoint or heartbeat."""
    driven = bench.drive()
    assert bench.store.heartbeat(driven.lease, LEASE) is False
    assert bench.store.checkpoint(driven.lease, 0, change(), LEASE) is False
    bench.store.request_cancel(MINE, driven.run_id)
    assert bench.store.heartbeat(driven.lease, LEASE) is True
    assert bench.store.checkpoint(driven.lease, 1, change(), LEASE) is True
    assert bench.store.checkpoint(driven.lease, 1, change(), LEASE) is True


def test_cancel_is_seen_by_the_next_claim(bench: Bench) -> None:
    """A cancel of an orphan waits in the row for whoever claims it."""
    driven = bench.drive()
    bench.store.request_cancel(OURS, driven.run_id)
    bench.clock.move(LEASE)
    assert bench.claim().run.cancel_requested


# ---------------------------------------------------------------- lease times


@pytest.mark.parametrize("prolong", ["heartbeat", "checkpoint"])
def test_leases_are_prolonged_from_now(bench: Bench, prolong: str) -> None:
    """A heartbeat or checkpoint makes the lease last from now on."""
    driven = bench.drive()
    bench.clock.move(20)
    _write(bench, driven)[prolong]()
    bench.clock.move(LEASE - 1)
    assert bench.claim() is None
    bench.clock.move(1)
    assert bench.claim().run.id == driven.run_id


def test_release_makes_a_run_due_at_once(bench: Bench) -> None:
    """A released run is claimed without waiting, with all that was committed."""
    driven = bench.say(bench.drive(), '"a"')
    bench.store.release(driven.lease)
    assert bench.store.get_run(OURS, driven.run_id).status == "running"
    claim = bench.claim()
    assert (claim.revision, claim.messages) == (1, ('"a"',))
    assert claim.lease.token > driven.lease.token


def test_releasing_a_lost_lease_does_nothing(bench: Bench) -> None:
    """A late release disturbs neither a newer lease nor an ended run."""
    driven = bench.drive()
    bench.clock.move(LEASE)
    newer = bench.drive(driven.claim.run)
    bench.store.release(driven.lease)
    bench.store.release(Lease("nowhere", 1))
    assert bench.claim() is None
    ended = bench.end(newer)
    bench.store.release(newer.lease)
    assert bench.store.get_run(OURS, ended.id) == ended
    assert bench.store.finalize(newer.lease, newer.revision, final()) == ended


# ---------------------------------------------------------------- checkpoints


def test_texts_that_are_made_late_are_stored_as_any_other(bench: Bench) -> None:
    """A store that writes reads each once, one in memory only when it is asked."""
    driven = bench.drive()
    run_id, told = driven.run_id, Late('"told"', id=1)
    where = {"run_id": run_id, "iteration": 1, "number": 1}
    tried = Late('"tried"', **where, response='"said"')
    jobs = (job(run_id, 1),)
    bench.commit(driven, change(jobs=jobs, attempts=(tried,), events=(told,)))
    lazy = bench.store.blocking is False
    assert tried.reads == told.reads == (0 if lazy else 1)
    bench.reopen()
    assert bench.store.events(OURS, run_id) == (EventRow(1, '"told"'),)
    row = AttemptRow(**where, body='"tried"', response='"said"')
    assert bench.store.get_job(OURS, jobs[0].id)[1] == (row,)
    assert tried.reads == told.reads == 1


def test_a_checkpoint_is_durable(bench: Bench) -> None:
    """What a checkpoint brought is read after a restart, in its order."""
    driven = bench.drive()
    run_id = driven.run_id
    brought = change(
        iterations=2,
        setup='"setup"',
        messages=('"a"', '"b"'),
        jobs=(job(run_id, 2, '"two"'), job(run_id, 1, '"one"')),
        attempts=(attempt(run_id, 1, 2), attempt(run_id, 1, 1), attempt(run_id, 2, 1)),
        events=events(1, 2, 5),
    )
    bench.commit(driven, brought)
    bench.reopen()
    store = bench.store
    assert store.run_messages(run_id) == ('"a"', '"b"')
    assert store.run_setup(run_id) == '"setup"'
    assert store.list_jobs(OURS, run_id) == (brought.jobs[1], brought.jobs[0])
    first = (attempt(run_id, 1, 1), attempt(run_id, 1, 2))
    run = store.get_run(OURS, run_id)
    assert store.get_job(MINE, brought.jobs[1].id) == (brought.jobs[1], first, run)
    assert store.events(OURS, run_id) == brought.events
    assert run.iterations == 2


@pytest.mark.parametrize(
    ("after", "seen"), [(0, [2, 3, 9]), (2, [3, 9]), (5, [9]), (9, []), (10**30, [])]
)
def test_events_after(bench: Bench, after: int, seen: list[int]) -> None:
    """Events are read from after an id, also one that was never used."""
    driven = bench.commit(bench.drive(), change(events=events(2, 3)))
    bench.commit(driven, change(events=events(9)))
    read = bench.store.events(MINE, driven.run_id, after)
    assert read == events(*seen)


def test_what_a_run_does_not_have(bench: Bench) -> None:
    """A run without commits has no messages, setup, jobs or events."""
    run = bench.run()
    assert bench.store.run_messages(run.id) == ()
    assert bench.store.run_setup(run.id) is None
    assert bench.store.list_jobs(OURS, run.id) == ()
    assert bench.store.events(OURS, run.id) == ()
    assert bench.store.events(OURS, run.id, -1) == ()
    assert bench.store.run_messages("nowhere") == ()
    assert bench.store.run_setup("nowhere") is None


def test_messages_end_the_turn_of_the_results(bench: Bench) -> None:
    """Results pile up until messages come, and those of that commit stay."""
    driven = bench.drive()
    seen = []
    for fields in (
        {"results": (("a", "1"),)},
        {"results": (("b", "2"), ("c", "3"))},
        {"messages": ('"m"',), "results": (("a", "4"),)},
        {},
        {"messages": ('"n"',), "first_message": 1},
    ):
        driven = bench.commit(driven, change(**fields))
        bench.store.release(driven.lease)
        driven = bench.drive(driven.claim.run)
        seen.append(dict(driven.claim.results))
    assert seen == [
        {"a": "1"},
        {"a": "1", "b": "2", "c": "3"},
        {"a": "4"},
        {"a": "4"},
        {},
    ]


def test_a_repeated_checkpoint_changes_nothing(bench: Bench) -> None:
    """The very last commit may be sent again, when its answer was lost."""
    driven = bench.drive()
    sent = change(messages=('"a"',), events=events(1), results=(("k", "1"),))
    bench.commit(driven, sent)
    before = everything(bench, driven.run_id)
    bench.reopen()
    assert bench.store.checkpoint(driven.lease, 0, sent, LEASE) is False
    assert everything(bench, driven.run_id) == before
    bench.store.release(driven.lease)
    assert bench.claim().revision == 1


@pytest.mark.parametrize("revision", [-1, 0, 1, 4, 10**30])
@pytest.mark.parametrize("call", ["checkpoint", "finalize"])
def test_stale_revisions_are_lost_leases(
    bench: Bench, revision: int, call: str
) -> None:
    """A commit that follows neither the last revision nor repeats it is refused."""
    driven = bench.drive()
    for body in ('"a"', '"b"', '"c"'):
        driven = bench.say(driven, body)
    before = everything(bench, driven.run_id)
    with pytest.raises(LeaseLostError, match="revision"):
        _write(bench, evolve(driven, revision=revision))[call]()
    assert everything(bench, driven.run_id) == before


def test_finalize_does_not_repeat_a_checkpoint(bench: Bench) -> None:
    """An end at the revision of the last checkpoint comes too late."""
    driven = bench.drive()
    bench.say(driven, '"a"')
    with pytest.raises(LeaseLostError, match="revision"):
        bench.end(driven)
    assert bench.store.get_run(OURS, driven.run_id).status == "running"


def test_nobody_repeats_another_claims_checkpoint(bench: Bench) -> None:
    """A commit of an earlier claim is not taken for a repeat of one's own."""
    bench.say(bench.drive(), '"a"')
    bench.clock.move(LEASE)
    newer = bench.claim()
    with pytest.raises(LeaseLostError, match="revision"):
        bench.store.checkpoint(newer.lease, newer.revision - 1, change(), LEASE)


def _misfits(run_id: str) -> dict[str, Checkpoint]:
    return {
        "gap": change(messages=('"x"',), first_message=3),
        "overlap": change(messages=('"x"', '"y"'), first_message=1),
        "event again": change(events=events(2)),
        "event before": change(events=events(1)),
        "event twice": change(events=events(3, 3)),
        "events fall": change(events=events(4, 3)),
        "setup again": change(setup='"other"'),
        "result again": change(results=(("k", "2"),)),
        "result twice": change(results=(("l", "1"), ("l", "2"))),
        "job again": change(jobs=(job(run_id, 1),)),
        "iteration again": change(jobs=(evolve(job(run_id, 1), id="other"),)),
        "job id again": change(jobs=(evolve(job(run_id, 1), iteration=2),)),
        "attempt again": change(attempts=(attempt(run_id, 1, 1),)),
        "foreign job": change(jobs=(job("elsewhere", 2),)),
        "foreign attempt": change(attempts=(attempt("elsewhere", 1, 2),)),
    }


@pytest.mark.parametrize("name", _misfits(""))
@pytest.mark.parametrize("call", ["checkpoint", "finalize"])
def test_misfits_are_refused_whole(bench: Bench, name: str, call: str) -> None:
    """A change that does not fit is refused, and none of its rows is kept."""
    driven = bench.drive()
    run_id = driven.run_id
    driven = bench.commit(
        driven,
        change(
            setup='"setup"',
            messages=('"a"', '"b"'),
            results=(("k", "1"),),
            jobs=(job(run_id, 1),),
            attempts=(attempt(run_id, 1, 1),),
            events=events(1, 2),
        ),
    )
    before = everything(bench, run_id)
    misfit = evolve(_misfits(run_id)[name], header='"misfit"')
    fitting = {"iterations": 9}
    if not misfit.jobs:
        fitting["jobs"] = (job(run_id, 8),)
    sent = evolve(misfit, **fitting)
    calls = {
        "checkpoint": lambda: bench.commit(driven, sent),
        "finalize": lambda: bench.end(driven, last=sent, **ENDS),
    }
    with pytest.raises(ValueError, match=r"stored|staged|rise|rows of|setup"):
        calls[call]()
    assert everything(bench, run_id) == before
    bench.store.release(driven.lease)
    assert bench.claim().header == "{}"


def test_job_ids_are_unique_across_runs(bench: Bench) -> None:
    """A job id that another run uses is refused, so that drill-down is safe."""
    first, second = bench.drive(), bench.drive()
    mine = job(first.run_id, 1)
    bench.commit(first, change(jobs=(mine,)))
    with pytest.raises(ValueError, match="stored"):
        bench.commit(second, change(jobs=(evolve(mine, run_id=second.run_id),)))
    assert bench.store.list_jobs(OURS, second.run_id) == ()


# ---------------------------------------------------------------- finalize


@pytest.mark.parametrize("status", STATUSES)
def test_finalize_ends_a_run(bench: Bench, status: str) -> None:
    """Version, messages, terminal fields and event appear together."""
    driven = bench.say(bench.drive(), '"a"')
    bench.clock.move(3)
    run_id, now = driven.run_id, instant(bench.clock.now())
    last = change(
        iterations=4,
        first_message=1,
        messages=('"b"', '"c"'),
        jobs=(job(run_id, 4),),
        attempts=(attempt(run_id, 4, 1),),
        events=events(1, 2),
    )
    sent = final(3, status=status, result='"result"', last=last)
    row = bench.store.finalize(driven.lease, driven.revision, sent)
    bench.reopen()
    assert row == evolve(
        driven.claim.run,
        status=status,
        result='"result"',
        iterations=4,
        completed_at=now,
    )
    seen = everything(bench, run_id)
    assert seen["run"] == row
    assert seen["conversation"].version == 3
    assert seen["conversation"].updated_at == now
    assert [m.body for m in seen["visible"].rows] == ['"a"', '"b"', '"c"']
    assert seen["jobs"] == [(job(run_id, 4), (attempt(run_id, 4, 1),), row)]
    assert seen["events"] == (*events(1, 2), sent.terminal_event)


def test_finalize_may_be_repeated(bench: Bench) -> None:
    """A run that ended under this token is returned as it is, with any revision."""
    driven = bench.say(bench.drive(), '"a"')
    ended = bench.end(driven)
    before = everything(bench, driven.run_id)
    bench.clock.move(LEASE * 9)
    bench.reopen()
    for revision in (driven.revision, driven.revision + 1, 0):
        again = final(7, status="failed", result='"other"')
        assert bench.store.finalize(driven.lease, revision, again) == ended
    assert everything(bench, driven.run_id) == before


def test_unkept_messages_join_nothing(bench: Bench) -> None:
    """Without `keep` the conversation stays as it was, whatever its version."""
    where = bench.conversation()
    driven = bench.say(bench.drive(bench.run(where.id)), '"a"')
    later = bench.say(bench.drive(bench.run(where.id)), '"b"')
    row = bench.end(driven, status="failed", keep=False)
    assert (row.status, row.result) == ("failed", '"done"')
    assert bench.store.get_conversation(OURS, where.id) == where
    assert bench.store.run_messages(driven.run_id) == ('"a"',)
    assert bench.end(later).status == "completed"
    late = bench.drive(bench.run(where.id, expected_version=1))
    assert bench.end(late, status="failed", keep=False).result == '"done"'


def test_a_lost_race_ends_failed(bench: Bench) -> None:
    """Of two runs on one version the second joins nothing and tells why."""
    where = bench.conversation().id
    winner = bench.say(bench.drive(bench.run(where)), '"w"')
    loser = bench.say(bench.drive(bench.run(where)), '"l"')
    bench.end(winner)
    last = change(
        first_message=1,
        messages=('"m"',),
        jobs=(job(loser.run_id, 1),),
        events=events(1),
    )
    row = bench.end(loser, last=last, terminal_event=EventRow(2, '"yes"'), **NO)
    assert (row.status, row.result) == ("failed", '"conflict"')
    assert row.completed_at is not None
    page = bench.store.messages(OURS, where)
    assert (page.version, [m.body for m in page.rows]) == (1, ['"w"'])
    assert bench.store.run_messages(loser.run_id) == ('"l"', '"m"')
    assert bench.store.list_jobs(OURS, loser.run_id) == (job(loser.run_id, 1),)
    assert bench.store.events(OURS, loser.run_id) == (*events(1), NO["conflict_event"])
    assert bench.store.finalize(loser.lease, loser.revision, final()) == row


ENDS = {"terminal_event": EventRow(9, '"end"')}
NO = {"conflict_event": EventRow(2, '"no"')}


def test_a_conflict_needs_a_moved_version(bench: Bench) -> None:
    """A run that ended without messages moves no version and costs no race."""
    where = bench.conversation().id
    first, second = (bench.drive(bench.run(where)) for _ in range(2))
    assert bench.end(first).status == "completed"
    assert bench.end(bench.say(second, '"a"')).status == "completed"
    assert bench.store.messages(OURS, where).version == 1


def test_sixteen_runs_race_for_one_version(bench: Bench) -> None:
    """However many runs end at once on one version, one wins whole."""
    where = bench.conversation().id
    runs = [bench.drive(bench.run(where)) for _ in range(16)]
    runs = [bench.say(each, f'"{each.run_id}"', '"end"') for each in runs]
    rows = at_once([lambda each=each: bench.end(each) for each in runs])
    (winner,) = (row for row in rows if row.status == "completed")
    page = bench.store.messages(OURS, where)
    assert [m.body for m in page.rows] == [f'"{winner.id}"', '"end"']
    assert [row.result for row in rows].count('"conflict"') == 15


def test_finalize_races_with_inserting(bench: Bench) -> None:
    """Who did not get a row before the version moved gets the news of it."""
    for _ in range(5):
        where = bench.conversation().id
        driven = bench.say(bench.drive(bench.run(where)), '"a"')
        rows = [bench.new_run(where) for _ in range(6)]
        inserts = [lambda row=row: bench.store.insert_run(row) for row in rows]

        def end(driven: Driven = driven, where: str = where) -> set[str]:
            bench.end(driven)
            return {row.id for row in bench.store.list_runs(OURS, where)}

        there, *answers = at_once([end, *inserts])
        for answer in answers:
            assert isinstance(answer, VersionMovedError) or answer[0].id in there


@pytest.mark.parametrize("status", ["pending", "running"])
def test_only_terminal_statuses_end_a_run(bench: Bench, status: str) -> None:
    """A status that ends nothing is refused and the run goes on."""
    driven = bench.drive()
    with pytest.raises(ValueError, match=status):
        bench.end(driven, status=status)
    assert bench.say(driven, '"a"').revision == 1


def test_terminal_rows_never_change(bench: Bench) -> None:
    """No call changes a run that has ended, under its own token or another."""
    driven = bench.say(bench.drive(), '"a"')
    bench.end(driven)
    before = everything(bench, driven.run_id)
    for call in ("checkpoint", "heartbeat"):
        with pytest.raises(LeaseLostError):
            _write(bench, driven)[call]()
    bench.end(driven, status="failed", keep=False)
    bench.store.release(driven.lease)
    bench.store.request_cancel(OURS, driven.run_id)
    bench.clock.move(LEASE)
    bench.claim()
    assert everything(bench, driven.run_id) == before


def test_a_deleted_conversation_ends_its_drivers(bench: Bench) -> None:
    """A worker whose run was deleted loses its lease and revives nothing."""
    driven = bench.say(bench.drive(), '"a"')
    where = driven.claim.run.conversation_id
    bench.store.delete_conversation(OURS, where)
    for call in _write(bench, driven).values():
        with pytest.raises(LeaseLostError):
            call()
    assert bench.store.get_conversation(OURS, where) is None
    assert bench.store.run_messages(driven.run_id) == ()


def test_time_is_the_stores(bench: Bench) -> None:
    """Every stamp is the store's clock's, at the time of the call."""
    run = bench.run()
    bench.clock.move(1.5)
    row = bench.end(bench.drive(run))
    assert run.started_at == instant(START)
    assert row.completed_at == instant(bench.clock.now())
    assert row.started_at == run.started_at
