"""Promises about answers that get lost, before and after the store did its work.

One script of calls is played with one failure injected into it, for every call and
both sides of it. Who hears of a failure repeats the call, as the port allows; in the
end everything must look as if nothing had failed.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from attrs import define, evolve

from agentloop.ports import (
    AttemptRow,
    EventRow,
    NewConversationRow,
    StoreUnavailableError,
)
from agentloop.testing.conformance.judging import demand, promise, raises, same
from agentloop.testing.conformance.subject import LONG, Subject, change, final, job

T = TypeVar("T")
Side = Literal["before", "after"]


@define
class Failing:
    """Makes calls, of which one fails before or after it reached the store."""

    number: int
    side: Side
    made: int = 0

    def call(self, work: Callable[[], T]) -> T:
        """Make a call, and repeat it when its outcome is unknown."""
        try:
            return self._once(work)
        except StoreUnavailableError:
            return work()

    def _once(self, work: Callable[[], T]) -> T:
        self.made += 1
        hit = self.made == self.number
        if hit and self.side == "before":
            raise StoreUnavailableError("injected before the call")
        answer = work()
        if hit:
            raise StoreUnavailableError("injected after the call")
        return answer


def _played(s: Subject, failing: Failing) -> tuple[str, list[Any]]:
    """A run from its insert to its end; its id, and what the calls answered."""
    store, where = s.store, s.conversation().id
    new = s.new_run(where)
    row, _ = failing.call(lambda: store.insert_run(new))
    claim = s.drive(row).claim
    lease, run_id = claim.lease, row.id
    first = change(
        setup='"setup"',
        messages=('"a"',),
        results=(("k", "1"),),
        jobs=(job(run_id, 1),),
        attempts=(AttemptRow(run_id=run_id, iteration=1, number=1, body="{}"),),
        events=(EventRow(1, "{}"),),
    )
    second = change(
        header='"2"',
        first_message=1,
        messages=('"b"', '"c"'),
        events=(EventRow(2, ""),),
    )
    flagged = failing.call(lambda: store.request_cancel(s.ours, run_id))
    answers: list[Any] = [
        flagged and flagged.cancel_requested,
        failing.call(lambda: store.checkpoint(lease, 0, first, LONG)),
        failing.call(lambda: store.heartbeat(lease, LONG)),
        failing.call(lambda: store.checkpoint(lease, 1, second, LONG)),
    ]
    ended = failing.call(lambda: store.finalize(lease, 2, final(3)))
    answers.append((ended.status, ended.result))
    return run_id, answers


def _picture(s: Subject, run_id: str) -> dict[str, Any]:
    """Everything about a run that does not depend on when, and under which ids."""
    run = s.store.get_run(s.ours, run_id)
    page = s.store.messages(s.ours, run.conversation_id) if run else None
    return {
        "status": run and (run.status, run.result, run.iterations),
        "runs": run and len(s.store.list_runs(s.ours, run.conversation_id)),
        "messages": page and (page.version, [row.body for row in page.rows]),
        "staged": s.store.run_messages(run_id),
        "jobs": len(s.store.list_jobs(s.ours, run_id)),
        "events": [event.id for event in s.store.events(s.ours, run_id)],
    }


@promise("failures")
def lost_answers_cost_nothing(s: Subject) -> None:
    """After any one lost answer and a repeated call, all is as without it."""
    counted = Failing(0, "before")
    run_id, wanted = _played(s, counted)
    picture = _picture(s, run_id)
    for number in range(1, counted.made + 1):
        for side in ("before", "after"):
            found_id, answers = _played(s, Failing(number, side))
            where = f"with a failure {side} call {number}"
            same(answers, wanted, f"the answers {where}")
            same(_picture(s, found_id), picture, f"the run {where}")


@promise("failures")
def lost_claims_come_back(s: Subject) -> None:
    """A claim whose answer was lost is due again when its lease runs out."""
    run = s.run()
    lost = s.drive(run, lease=0.0)  # nobody hears of it
    again = s.drive(run)
    demand(again.lease.token > lost.lease.token, "the token did not rise")
    s.say(again, '"a"')


@promise("failures")
def creating_twice_is_noticed(s: Subject) -> None:
    """A conversation whose creation was not answered is there, and unique."""
    row = s.conversation()
    again = NewConversationRow(
        id=row.id, company_id=row.company_id, user_id=row.user_id, body=row.body
    )
    raises(lambda: s.store.create_conversation(again), ValueError, "a second creation")
    same(s.store.get_conversation(s.ours, row.id), row, "the conversation")


@promise("failures")
def releasing_twice_is_harmless(s: Subject) -> None:
    """A repeated release takes nothing from whoever claimed in between."""
    driven = s.drive()
    s.store.release(driven.lease)
    newer = s.drive(driven.claim.run)
    s.store.release(driven.lease)
    s.say(newer, '"a"')
    same(s.claim(driven.run_id), None, "a claim under a newer lease")


@promise("failures")
def a_late_repeat_is_fenced(s: Subject) -> None:
    """A repeat that arrives after a take-over changes nothing of the new driver's."""
    driven = s.drive(lease=0.0)
    s.commit(driven, change(messages=('"a"',)), lease=0.0)
    newer = s.say(s.drive(driven.claim.run), '"b"')
    before = s.all_of(driven.run_id)
    late = change(first_message=2, messages=('"late"',))
    for revision in (0, 1, 2):
        try:
            s.store.checkpoint(driven.lease, revision, late, LONG)
        except Exception as error:
            same(type(error).__name__, "LeaseLostError", "a late repeat")
        else:
            demand(False, f"a late repeat at revision {revision} was accepted")
    same(s.all_of(driven.run_id), before, "the run")
    s.end(evolve(newer), last=change())
