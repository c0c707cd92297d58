"""Promises about claims, leases, checkpoints and finalize, and about restarts."""

from functools import partial

from attrs import evolve, frozen

from agentloop.core.run import Status
from agentloop.ports import (
    AttemptRow,
    Checkpoint,
    EventRow,
    Lease,
    LeaseLostError,
    RunRef,
)
from agentloop.testing.conformance.judging import demand, promise, raises, same
from agentloop.testing.conformance.subject import (
    LONG,
    Driven,
    Subject,
    change,
    final,
    job,
)

STATUSES: tuple[Status, ...] = ("completed", "requires_action", "failed")


# ---------------------------------------------------------------- claims


@promise()
def claims_run_the_oldest(s: Subject) -> None:
    """Claims take whatever is due, the oldest first, and make it running."""
    runs = [s.run() for _ in range(3)]
    claims = [s.claim() for _ in range(3)]
    wanted = [evolve(run, status="running") for run in runs]
    same([claim and claim.run for claim in claims], wanted, "the claimed runs")
    same(s.claim(), None, "a claim when nothing is due")
    same(s.claim(s.fresh("no")), None, "a claim of an unknown run")


@promise()
def a_live_lease_is_exclusive(s: Subject) -> None:
    """While a lease is alive nobody claims its run, by id or otherwise."""
    driven = s.drive()
    same(s.claim(driven.run_id), None, "a claim by id")
    same(s.claim(), None, "a claim of whatever is due")


@promise()
def drivers_take_their_own(s: Subject) -> None:
    """A run is claimed by the driver it names and by no other."""
    run = s.run(driver=f"{s.driver}-engine")
    same(s.claim(), None, "another driver's run")
    same(s.claim(run.id), None, "another driver's run by id")


@promise()
def unclaimed_runs_are_found(s: Subject) -> None:
    """A driver's runs that nobody claimed are shown, the oldest first, and only so."""
    runs = [s.run() for _ in range(5)]
    s.run(driver=f"{s.driver}-engine")
    s.store.release(s.drive(runs[1]).lease)
    s.end(s.drive(runs[2]))
    s.store.request_cancel(s.ours, runs[3].id)
    s.store.delete_conversation(s.ours, runs[4].conversation_id)
    left = tuple(RunRef(runs[n].id, s.company) for n in (0, 3))
    same(s.store.unclaimed(s.driver, 10), left, "the runs that nobody claimed")
    same(s.store.unclaimed(s.driver, 1), left[:1], "the oldest of them")
    same(s.store.unclaimed(f"{s.driver}-none", 10), (), "those of another driver")
    seen = s.store.get_run(s.ours, runs[0].id)
    same(seen and seen.status, "pending", "the status of a run that was looked for")


@promise()
def tokens_rise(s: Subject) -> None:
    """Every claim of a run has a higher token than any before."""
    run, tokens = s.run(), []
    for turn in range(6):
        driven = s.drive(run, lease=0.0 if turn % 2 else LONG)
        tokens.append(driven.lease.token)
        if turn % 2 == 0:
            s.store.release(driven.lease)
    same(tokens, sorted(set(tokens)), "the tokens in order")


@promise()
def claims_in_vain_are_counted(s: Subject) -> None:
    """A claim tells how many in a row came before any commit or release."""
    run = s.run()
    told = [s.drive(run, lease=0.0).claim.in_a_row for _ in range(3)]
    same(told, [1, 2, 3], "three claims of a run that nobody commits to")
    s.commit(s.drive(run, lease=0.0), change(), lease=0.0)
    told = [s.drive(run, lease=0.0).claim.in_a_row for _ in range(2)]
    same(told, [1, 2], "two claims after a commit")
    s.store.release(s.drive(run, lease=0.0).lease)
    told = [s.drive(run, lease=0.0).claim.in_a_row for _ in range(2)]
    same(told, [1, 2], "two claims after a release")


@promise()
def leases_are_prolonged(s: Subject) -> None:
    """A heartbeat or checkpoint makes the lease last from now on."""
    first, second = s.drive(lease=0.0), s.drive(lease=0.0)
    s.store.heartbeat(first.lease, LONG)
    s.commit(second, change())
    same(s.claim(first.run_id), None, "a claim after a heartbeat")
    same(s.claim(second.run_id), None, "a claim after a checkpoint")


@promise(needs="clock")
def leases_run_out(s: Subject) -> None:
    """When its time is over, and not before, a run can be taken over."""
    first, second, third = (s.drive(lease=30.0) for _ in range(3))
    s.clock.move(10.0)
    s.store.heartbeat(second.lease, 30.0)
    s.commit(third, change(), lease=30.0)
    for wait, held, left in ((19.8, first, first), (9.6, second, third)):
        s.clock.move(wait)
        same(s.claim(held.run_id), None, "a claim before the lease's end")
        same(s.claim(left.run_id), None, "a claim before the lease's end")
        s.clock.move(0.4)
        for driven in {held.run_id: held, left.run_id: left}.values():
            demand(s.claim(driven.run_id), "a claim after the lease's end got None")


@promise()
def deadlines_stand(s: Subject) -> None:
    """The first claim with a timeout sets the deadline, and no later one moves it."""
    run = s.run()
    same(s.drive(run, lease=0.0).claim.seconds_left, None, "the time left without one")
    for timeout in (60.0, 600.0, None):
        left = s.drive(run, lease=0.0, timeout=timeout).claim.seconds_left
        demand(left is not None, "a claim after a deadline was set tells of none")
        demand(0 < (left or 0) <= 60, f"{left} s are left of 60")


@promise(needs="clock")
def deadlines_come_nearer(s: Subject) -> None:
    """What passed is taken off the time that a run has left, also beyond its end."""
    run = s.run()
    s.drive(run, lease=0.0, timeout=60.0)
    for wait, wanted in ((40.0, 20.0), (100.0, -80.0)):
        s.clock.move(wait)
        left = s.drive(run, lease=0.0, timeout=600.0).claim.seconds_left or 0.0
        demand(abs(left - wanted) < 1, f"{left} s are left, and not about {wanted}")


@promise()
def released_runs_are_due(s: Subject) -> None:
    """A released run is due at once, and its old token is void."""
    driven = s.say(s.drive(), '"a"')
    s.store.release(driven.lease)
    raises(lambda: s.store.heartbeat(driven.lease, LONG), LeaseLostError, "a heartbeat")
    newer = s.claim()
    same(newer and (newer.revision, newer.messages), (1, ('"a"',)), "the next claim")
    s.store.release(driven.lease)
    same(s.claim(), None, "a claim after a release of a lost lease")


# ---------------------------------------------------------------- fencing


def _refused(s: Subject, driven: Driven, why: str) -> None:
    lease, revision = driven.lease, driven.revision
    before = s.all_of(driven.run_id)
    calls = {
        "checkpoint": lambda: s.store.checkpoint(lease, revision, change(), LONG),
        "finalize": lambda: s.store.finalize(lease, revision, final(99)),
        "heartbeat": lambda: s.store.heartbeat(lease, LONG),
    }
    for name, call in calls.items():
        raises(call, LeaseLostError, f"{name} {why}")
    same(s.all_of(driven.run_id), before, f"the run after writes {why}")


@promise()
def stale_tokens_write_nothing(s: Subject) -> None:
    """Who lost its lease to another claim commits nothing any more."""
    stale = s.drive(lease=0.0)
    s.say(s.drive(stale.claim.run), '"newer"')
    _refused(s, evolve(stale, revision=1), "under a stale token")
    _refused(s, stale, "under a stale token and revision")


@promise()
def forged_tokens_write_nothing(s: Subject) -> None:
    """A token that was never handed out is a lost lease, also a higher one."""
    driven = s.drive()
    for token in (0, -1, driven.lease.token + 1, 10**30):
        lease = Lease(driven.run_id, token)
        forged = evolve(driven, claim=evolve(driven.claim, lease=lease))
        _refused(s, forged, f"under the token {token}")


@promise()
def ended_runs_are_fenced(s: Subject) -> None:
    """A run that ended is changed by no call, and never claimed again."""
    for status in STATUSES:
        driven = s.commit(s.drive(), change(messages=('"a"',)), lease=0.0)
        ended = s.end(driven, status=status)
        before = s.all_of(driven.run_id)
        lease, revision = driven.lease, driven.revision
        for call in (
            partial(s.store.checkpoint, lease, revision, change(), LONG),
            partial(s.store.heartbeat, lease, LONG),
        ):
            raises(call, LeaseLostError, f"a write to a run that ended {status}")
        s.store.release(lease)
        same(s.store.request_cancel(s.ours, ended.id), ended, "request_cancel")
        same(s.claim(ended.id), None, "a claim of an ended run")
        same(s.claim(), None, "a claim of whatever is due")
        same(s.all_of(ended.id), before, "the run after its end")


@promise()
def deleted_runs_are_fenced(s: Subject) -> None:
    """A worker whose conversation was deleted loses its lease."""
    driven = s.say(s.drive(), '"a"')
    s.store.delete_conversation(s.ours, driven.conversation_id)
    _refused(s, driven, "to a deleted run")


@promise()
def stale_revisions_are_refused(s: Subject) -> None:
    """A commit that neither follows the last revision nor repeats it is refused."""
    driven = s.drive()
    for body in ('"a"', '"b"', '"c"'):
        driven = s.say(driven, body)
    before = s.all_of(driven.run_id)
    for revision in (0, 1, 4, 10**30):
        raises(
            partial(s.store.checkpoint, driven.lease, revision, change(), LONG),
            LeaseLostError,
            f"revision {revision} of a run at 3",
        )
    raises(
        lambda: s.store.finalize(driven.lease, 2, final(9)),
        LeaseLostError,
        "an end at revision 2 of a run at 3",
    )
    same(s.all_of(driven.run_id), before, "the run")


@promise()
def cancels_are_heard(s: Subject) -> None:
    """Whoever drives learns of a cancel by its next heartbeat and checkpoint."""
    driven = s.drive(lease=0.0)
    same(s.store.heartbeat(driven.lease, 0.0), False, "a heartbeat before the cancel")
    s.store.request_cancel(s.mine, driven.run_id)
    same(s.store.heartbeat(driven.lease, 0.0), True, "a heartbeat after it")
    heard = s.store.checkpoint(driven.lease, 0, change(), 0.0)
    same(heard, True, "a checkpoint after it")
    newer = s.drive(driven.claim.run)
    demand(newer.claim.run.cancel_requested, "a claim did not tell of it")
    same(s.store.heartbeat(newer.lease, LONG), True, "a heartbeat after a claim")


@promise()
def cancels_leave_the_lease(s: Subject) -> None:
    """A cancelled run stays with whoever drives it."""
    driven = s.drive()
    s.store.request_cancel(s.mine, driven.run_id)
    same(s.claim(driven.run_id), None, "a claim of a cancelled run under lease")
    same(s.claim(), None, "a claim of whatever is due")
    same(s.say(driven, '"a"').revision, 1, "the revision its holder committed")


# ---------------------------------------------------------------- checkpoints


@promise()
def claims_bring_everything(s: Subject) -> None:
    """A later claim finds setup, last header, messages, results and event id."""
    driven = s.drive(lease=0.0)
    first = change(setup='"setup"', messages=('"a"',), events=(EventRow(4, "{}"),))
    second = change(
        header='"last"',
        iterations=7,
        first_message=1,
        messages=('"b"',),
        results=(("k2", "2"), ("k1", "1")),
    )
    s.commit(s.commit(driven, first, lease=0.0), second, lease=0.0)
    claim = s.drive(driven.claim.run).claim
    same((claim.revision, claim.setup, claim.header), (2, '"setup"', '"last"'), "head")
    same(claim.messages, ('"a"', '"b"'), "messages")
    same(dict(claim.results), {"k2": "2", "k1": "1"}, "results")
    same((claim.last_event, claim.run.iterations), (4, 7), "last event, iterations")


@promise()
def results_last_until_messages(s: Subject) -> None:
    """Results pile up over checkpoints until messages end the turn."""
    driven, seen = s.drive(), []
    for brought in (
        change(results=(("a", "1"),)),
        change(results=(("b", "2"),)),
        change(messages=('"m"',), results=(("c", "3"),)),
        change(messages=('"n"',), first_message=1),
    ):
        s.commit(driven, brought)
        s.store.release(driven.lease)
        driven = s.drive(driven.claim.run)
        seen.append(dict(driven.claim.results))
    wanted = [{"a": "1"}, {"a": "1", "b": "2"}, {"c": "3"}, {}]
    same(seen, wanted, "the results of four claims")


@promise()
def jobs_and_attempts(s: Subject) -> None:
    """Jobs are listed by iteration, each with its attempts in order."""
    driven = s.drive()
    run_id = driven.run_id
    tries = [
        AttemptRow(run_id=run_id, iteration=1, number=n, body=f'"{n}"', response=r)
        for n, r in ((2, '"answer"'), (1, None))
    ]
    jobs = (job(run_id, 2, "2"), job(run_id, 1, "1"))
    s.commit(driven, change(jobs=jobs, attempts=tuple(tries)))
    same(s.store.list_jobs(s.ours, run_id), (jobs[1], jobs[0]), "list_jobs")
    run = s.store.get_run(s.ours, run_id)
    found = s.store.get_job(s.mine, jobs[1].id)
    same(found, (jobs[1], (tries[1], tries[0]), run), "get_job")


@promise()
def events_after_an_id(s: Subject) -> None:
    """Events are read from after an id, ascending, also one never used."""
    driven = s.drive()
    kept = tuple(EventRow(number, "{}") for number in (2, 3, 9))
    s.commit(driven, change(events=kept))
    for after, wanted in ((0, kept), (2, kept[1:]), (5, kept[2:]), (10**30, ())):
        same(s.store.events(s.ours, driven.run_id, after), wanted, f"after {after}")


@frozen
class _Late:
    """An attempt and an event in one, whose text is made when it is read."""

    run_id: str
    id: int = 1
    iteration: int = 1
    number: int = 1
    response: str | None = None

    @property
    def body(self) -> str:
        return f'"{self.run_id}"'


@promise()
def texts_are_made_late(s: Subject) -> None:
    """Attempts and events need be no rows, but only have what rows have."""
    driven = s.drive()
    run_id, late = driven.run_id, _Late(driven.run_id)
    jobs = (job(run_id, 1),)
    s.commit(driven, change(jobs=jobs, attempts=(late,), events=(late,)))
    events = s.store.events(s.ours, run_id)
    same(events, (EventRow(late.id, late.body),), "the event")
    row = AttemptRow(run_id=run_id, iteration=1, number=1, body=late.body)
    run = s.store.get_run(s.ours, run_id)
    same(s.store.get_job(s.mine, jobs[0].id), (jobs[0], (row,), run), "get_job")


@promise()
def a_repeated_checkpoint_changes_nothing(s: Subject) -> None:
    """The very last commit may be sent again, when its answer was lost."""
    driven = s.drive()
    events = (EventRow(1, "{}"),)
    sent = change(messages=('"a"',), events=events, results=(("k", "1"),))
    s.commit(driven, sent)
    before = s.all_of(driven.run_id)
    s.store.checkpoint(driven.lease, 0, sent, LONG)
    same(s.all_of(driven.run_id), before, "the run after a repeat")
    s.store.release(driven.lease)
    same(s.drive(driven.claim.run).revision, 1, "the revision after a repeat")


@promise()
def nobody_repeats_another_claims_commit(s: Subject) -> None:
    """A commit of an earlier claim is not taken for a repeat of one's own."""
    driven = s.drive(lease=0.0)
    s.commit(driven, change(messages=('"a"',)), lease=0.0)
    newer = s.drive(driven.claim.run)
    raises(
        lambda: s.store.checkpoint(newer.lease, 0, change(), LONG),
        LeaseLostError,
        "a commit at the revision before the claim",
    )


@promise()
def many_events(s: Subject) -> None:
    """A run's events are read whole, however many there are."""
    driven = s.drive()
    kept = tuple(EventRow(number, "{}") for number in range(1, 1_201))
    for low in range(0, len(kept), 400):
        driven = s.commit(driven, change(events=kept[low : low + 400]))
    same(s.store.events(s.ours, driven.run_id), kept, "events")
    same(s.store.events(s.ours, driven.run_id, 1_100), kept[1_100:], "after 1100")


def _misfits(run_id: str) -> dict[str, Checkpoint]:
    again = AttemptRow(run_id=run_id, iteration=1, number=1, body="{}")
    return {
        "messages with a gap": change(messages=("1",), first_message=3),
        "messages that overlap": change(messages=("1", "2"), first_message=1),
        "an event again": change(events=(EventRow(2, "{}"),)),
        "an event twice": change(events=(EventRow(3, "{}"), EventRow(3, "{}"))),
        "a second setup": change(setup='"other"'),
        "a result again": change(results=(("k", "2"),)),
        "a job again": change(jobs=(job(run_id, 1),)),
        "an attempt again": change(attempts=(again,)),
        "another run's job": change(jobs=(job("elsewhere", 2),)),
        "another run's attempt": change(attempts=(evolve(again, run_id="elsewhere"),)),
    }


@promise()
def misfits_are_refused_whole(s: Subject) -> None:
    """A change that does not fit is refused, and none of its rows is kept."""
    driven = s.drive()
    run_id = driven.run_id
    fitting = change(
        setup='"setup"',
        messages=('"a"', '"b"'),
        results=(("k", "1"),),
        jobs=(job(run_id, 1),),
        attempts=(AttemptRow(run_id=run_id, iteration=1, number=1, body="{}"),),
        events=(EventRow(1, "{}"), EventRow(2, "{}")),
    )
    driven = s.commit(driven, fitting)
    before = s.all_of(run_id)
    for what, misfit in _misfits(run_id).items():
        sent = evolve(misfit, iterations=9, jobs=(job(run_id, 8), *misfit.jobs))
        raises(partial(s.commit, driven, sent), ValueError, what)
        raises(partial(s.end, driven, last=sent), ValueError, f"{what}, at end")
        same(s.all_of(run_id), before, f"the run after {what}")


# ---------------------------------------------------------------- finalize


@promise()
def finalize_ends_a_run(s: Subject) -> None:
    """Version, messages, terminal fields and event appear together."""
    for status in STATUSES:
        driven = s.say(s.drive(), '"a"')
        last = change(iterations=4, first_message=1, messages=('"b"',))
        row = s.end(driven, status=status, result='"r"', last=last)
        same((row.status, row.result, row.iterations), (status, '"r"', 4), "the row")
        demand(row.completed_at, "an ended run has no completed_at")
        same(s.store.get_run(s.ours, row.id), row, "get_run")
        page = s.store.messages(s.ours, row.conversation_id)
        found = page and (page.version, [each.body for each in page.rows])
        same(found, (2, ['"a"', '"b"']), "version and messages")
        same(s.store.events(s.ours, row.id), (EventRow(1, '"completed"'),), "events")


@promise()
def finalize_may_be_repeated(s: Subject) -> None:
    """A run that ended under this token is returned as it is."""
    driven = s.say(s.drive(), '"a"')
    ended = s.end(driven)
    before = s.all_of(driven.run_id)
    again = final(7, status="failed", result='"other"')
    for revision in (driven.revision, 0):
        found = s.store.finalize(driven.lease, revision, again)
        same(found, ended, "a repeated finalize")
    same(s.all_of(driven.run_id), before, "the run after a repeat")


@promise()
def lost_races_end_failed(s: Subject) -> None:
    """Of two runs on one version the second joins nothing and tells why."""
    where = s.conversation().id
    winner, loser = (s.say(s.drive(s.run(where)), f'"{n}"') for n in (1, 2))
    s.end(winner)
    row = s.end(loser)
    same((row.status, row.result), ("failed", '"conflict"'), "the loser")
    page = s.store.messages(s.ours, where)
    found = page and (page.version, [each.body for each in page.rows])
    same(found, (1, ['"1"']), "the conversation")
    same(s.store.events(s.ours, row.id), (EventRow(1, '"conflict"'),), "its event")
    same(s.store.run_messages(row.id), ('"2"',), "what it staged")


@promise()
def unkept_messages_join_nothing(s: Subject) -> None:
    """Without `keep` the conversation stays as it was."""
    driven = s.say(s.drive(), '"a"')
    before = s.store.get_conversation(s.ours, driven.conversation_id)
    row = s.end(driven, status="failed", keep=False)
    same((row.status, row.result), ("failed", '"done"'), "the run")
    after = s.store.get_conversation(s.ours, driven.conversation_id)
    same(after, before, "the conversation")


@promise()
def only_terminal_statuses_end_a_run(s: Subject) -> None:
    """A status that ends nothing is refused, and the run goes on."""
    driven = s.drive()
    raises(lambda: s.end(driven, status="running"), ValueError, "the status running")
    s.say(driven, '"a"')


# ---------------------------------------------------------------- restart


@promise("restart")
def everything_outlives_a_restart(s: Subject) -> None:
    """What a call returned is there after the store was opened again."""
    driven = s.say(s.drive(lease=0.0), '"a"')
    ended = s.finished(s.conversation().id, '"b"')
    before = [s.all_of(driven.run_id), s.all_of(ended.id)]
    s.reopen()
    after = [s.all_of(driven.run_id), s.all_of(ended.id)]
    same(after, before, "what a second store reads")


@promise("restart")
def leases_outlive_a_restart(s: Subject) -> None:
    """A lease and its token are as good after a restart as before."""
    driven, orphan = s.drive(), s.drive(lease=0.0)
    s.reopen()
    same(s.claim(driven.run_id), None, "a claim of a run under lease")
    newer = s.drive(orphan.claim.run)
    demand(newer.lease.token > orphan.lease.token, "a token did not rise")
    s.say(driven, '"a"')


@promise("restart")
def repeats_outlive_a_restart(s: Subject) -> None:
    """A commit or an end that is repeated after a restart changes nothing."""
    driven = s.drive()
    sent = change(messages=('"a"',))
    s.commit(driven, sent)
    s.reopen()
    s.store.checkpoint(driven.lease, 0, sent, LONG)
    same(s.store.run_messages(driven.run_id), ('"a"',), "the messages")
    driven = evolve(driven, revision=1)
    ended = s.end(driven)
    s.reopen()
    same(s.store.finalize(driven.lease, 1, final(9)), ended, "a repeated finalize")
