"""Driving a run for an engine: one command at a time, each of them repeatable.

An engine (Temporal, DBOS, a queue of your own) keeps the order of things and brings
workers back; what a run holds stays in the store. Whoever starts runs gives
`AgentLoop(engine=...)` an `agentloop.ports.Engine`, whose `name` stands in each run's
row; its workers have a loop without one, over the same store, and
`rounds = loop.rounds(name)`. The recipe for one run, an `agentloop.ports.RunRef`:

    standing = rounds.begin(run)
    while not isinstance(next_command(standing.state), Finish):
        sleep durably for standing.wait seconds; a cancel may end the sleep
        standing = rounds.go_on(run, standing)

`begin` and `go_on` are the engine's steps: whatever may be lost, killed or done
twice. What it keeps of each is `standing_text(standing)` of `agentloop.wire.standing`,
small and without content, and `standing_from(text)` brings that back. A round claims
the run, commits its command as the intent, performs it, commits what came of it and
gives the run back. When it is repeated after its answer was lost, the store is ahead
of what the engine has seen, and the round answers with that, performing nothing. When
it died within an effect, the next round finds the intent and treats it as any driver
does: inference and repeatable tools are made again, of all others the model is told
that the outcome is unknown. The end is stored with the command that led to it, in one
commit, so no run can be over and not stored.

What a round raises, and what the engine does then:

* `RunBusyError`, `LeaseLostError`, `StoreUnavailableError`: not now. Repeat the step,
  a moment later and without an end; none of them says anything of the run.
* `RunNotFoundError`: there is no such run any more, or it is another driver's. Say so
  and end the workflow in peace; a repeat would fail for ever.
* Anything else is a mistake of somebody's. Log it, and repeat the step after a while.

A start may be lost between the row and the engine. The caller is told, and a repeat of
its request heals that; for those that nobody repeats, workers look now and then for
`store.unclaimed(name, limit)` and start what the engine does not know. So `start` must
be idempotent. And let the name say which queue or namespace a run was meant for, when
one store may have workers of several: what a name fits is driven.

`agentloop.testing.engines` is the kit that a new engine has to pass. This module must
not know any engine.
"""

from concurrent.futures import Executor
from typing import Final

from attrs import frozen

from agentloop.core.phases import CallingTools
from agentloop.ports import Claim, Clock, Reader, RunRef, RunRow
from agentloop.runtime.desk import Desk
from agentloop.runtime.drive import drive_round
from agentloop.runtime.mailbox import Mailbox
from agentloop.runtime.runner import Runner
from agentloop.wire.standing import Standing, ended

BRIEF: Final = 1.0
"""Seconds after which a round begins no more calls of a turn."""


class RunBusyError(Exception):
    """Somebody else holds the run just now; try again a moment later."""


class RunNotFoundError(LookupError):
    """There is no such run (any more), or it is another driver's.

    The first is the catalog's `AgentLoopAgentRunNotFound` (contract section 8), and
    the message says so. No caller sees it: to them the run was removed.
    """


class _Round:
    """One round at a desk: leaves the standing behind when the run goes on."""

    def __init__(self, seen: Standing | None, clock: Clock) -> None:
        self._seen = seen
        self._clock = clock
        self.standing: Standing | None = None

    def __call__(self, desk: Desk, mailbox: Mailbox, pool: Executor) -> RunRow | None:
        here = Standing(state=desk.state)
        if self._seen is not None and self._seen.same_place(here):
            self._perform(desk, mailbox, pool)
        if desk.finished:
            return desk.finish()
        desk.suspend()
        self.standing = Standing(state=desk.state, wait=desk.pause())
        return None

    def _perform(self, desk: Desk, mailbox: Mailbox, pool: Executor) -> None:
        """Perform what is due; of a long turn as many calls as a moment takes.

        Each round begins with reading the turn anew, so that one round for every
        window would cost the square of the number of calls.
        """
        began, turn = self._clock.monotonic(), _calls(desk)
        drive_round(desk, mailbox, pool)
        while turn and _calls(desk) and not mailbox.stopped:
            if desk.pause() > 0 or self._clock.monotonic() - began > BRIEF:
                return
            drive_round(desk, mailbox, pool)


def _calls(desk: Desk) -> bool:
    """Whether calls of a turn are due."""
    return isinstance(desk.state.phase, CallingTools)


@frozen
class Rounds:
    """Takes runs forward by one command; made by `AgentLoop.rounds`."""

    runner: Runner

    def begin(self, run: RunRef) -> Standing:
        """Where the run stands, with its first state stored; performs nothing.

        Raises:
            RunBusyError: another worker holds the run.
            LeaseLostError: the lease ran out on the way; repeat the round.
            StoreUnavailableError: the store stayed away.
            RunNotFoundError: there is no such run, or another driver has it.
        """
        return self._round(run, None)

    def go_on(self, run: RunRef, seen: Standing) -> Standing:
        """Perform the command of a standing; returns where the run stands then.

        A run that stands elsewhere already is not touched.

        Raises:
            RunBusyError, LeaseLostError, StoreUnavailableError, RunNotFoundError: as
                for `begin`.
        """
        return self._round(run, seen)

    def _round(self, run: RunRef, seen: Standing | None) -> Standing:
        claim = self.runner.claim(run.run_id)
        if claim is None:
            return self._unclaimed(run)
        return self._drive(claim, _Round(seen, self.runner.clock))

    def _drive(self, claim: Claim, way: _Round) -> Standing:
        row = self.runner.run(claim, way)
        if row is not None:
            return ended(row.status)
        if way.standing is None:
            raise AssertionError("a round ends its run or leaves a standing")
        return way.standing

    def _unclaimed(self, run: RunRef) -> Standing:
        """A run that cannot be claimed has ended, is held, or was removed."""
        reader = Reader(run.company_id)
        row = self.runner.resources.store.get_run(reader, run.run_id)
        if row is None:
            raise RunNotFoundError(
                f"AgentLoopAgentRunNotFound: run {run.run_id} does not exist (any more)"
            )
        if row.driver != self.runner.driver:
            raise RunNotFoundError(f"run {run.run_id} is driven by {row.driver!r}")
        if row.result is None:
            raise RunBusyError(f"run {run.run_id} is held by another worker")
        return ended(row.status)
