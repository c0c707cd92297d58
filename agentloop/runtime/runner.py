"""Claiming a run and driving it on this thread, with its lease kept alive."""

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeAlias

from attrs import evolve, frozen

from agentloop.core.catalog import describe
from agentloop.core.machine import give_up
from agentloop.core.phases import CancelRequested, Failed, Finished
from agentloop.ports import (
    Claim,
    ClaimRequest,
    Clock,
    LeaseLostError,
    RunRow,
    StoreUnavailableError,
)
from agentloop.runtime.desk import Desk
from agentloop.runtime.drive import drive
from agentloop.runtime.hub import Hub
from agentloop.runtime.journal import Journal
from agentloop.runtime.mailbox import Mailbox
from agentloop.runtime.perform import Performer
from agentloop.runtime.prepare import (
    DRIVER,
    BrokenRunError,
    Drive,
    Resources,
    close_servers,
    prepare,
    worker_lost,
)
from agentloop.runtime.pulse import Pulse

log = logging.getLogger("agentloop")
Way: TypeAlias = Callable[[Desk, Mailbox, Executor], RunRow | None]
"""How a desk is driven: returns the row of a run that ended."""
_VIOLATED = "AgentLoopFinalizeInvariantViolated"


@frozen
class Runner:
    """Drives claimed runs; shared by the face, its workers and its streams.

    It claims runs of its own driver only, so that an engine's are left alone.
    """

    resources: Resources
    hub: Hub
    clock: Clock
    pulse: Pulse
    pool: Executor
    driver: str = DRIVER

    def claim(self, run_id: str | None = None) -> Claim | None:
        """The lease of a run that is due: this one, or any."""
        options = self.resources.options
        return self.resources.store.claim(
            ClaimRequest(
                driver=self.driver,
                lease_seconds=options.lease,
                run_id=run_id,
                run_timeout=options.run_timeout,
            )
        )

    def run(
        self, claim: Claim, way: Way = drive, mailbox: Mailbox | None = None
    ) -> RunRow | None:
        """Drive a claimed run to its end, or until it is asked to stop.

        An engine drives it one round at a time, which is a `way` of its own. Who
        gives a mailbox may stop the drive by it at any time.

        Raises:
            LeaseLostError: another worker has the run.
            StoreUnavailableError: the store stayed away; the run is due again
                when its lease has run out.
        """
        mailbox = mailbox or Mailbox()
        began = self.clock.monotonic()
        # From here on, because servers that are opened take their time.
        with self.pulse.beating(claim.lease, mailbox):
            ready = self._prepare(claim)
            claim = later(claim, self.clock.monotonic() - began)
            try:
                desk = desk_for(claim, ready, self.resources, self.hub, self.clock)
                desk.performer.abandoned = mailbox.is_urgent
                desk.journal.stopping = lambda: mailbox.stopped or mailbox.lost
                return self._drive(desk, mailbox, way)
            finally:
                close_servers(ready.opened)

    def _prepare(self, claim: Claim) -> Drive:
        try:
            return prepare(claim, self.resources)
        except Exception:
            raise
        except BaseException:  # as in `_drive`
            with suppress(StoreUnavailableError):
                self.resources.store.release(claim.lease)
            raise

    def _drive(self, desk: Desk, mailbox: Mailbox, way: Way) -> RunRow | None:
        try:
            return way(desk, mailbox, self.pool)
        except (LeaseLostError, StoreUnavailableError):
            mailbox.lose()  # calls that are queued still must not begin
            raise
        except Exception as error:
            run_id = desk.journal.run_id
            log.exception("driving run %s failed", run_id, extra={"run_id": run_id})
            return finish_broken(desk, error)
        except BaseException:  # Ctrl-C, or whatever else ends the host's work
            with suppress(StoreUnavailableError):
                desk.journal.release()
            raise

    def cancel(self, run_id: str) -> None:
        """End a run that was flagged: by its driver here, or by taking it over."""
        driven = self.pulse.of(run_id)
        for mailbox in driven:
            mailbox.post(CancelRequested())
        if not driven and (claim := self.claim(run_id)) is not None:
            self.run(claim)


def later(claim: Claim, seconds: float) -> Claim:
    """A claim after so many seconds: the run has less time left."""
    left = claim.seconds_left
    return claim if left is None else evolve(claim, seconds_left=left - seconds)


def desk_for(
    claim: Claim, ready: Drive, resources: Resources, hub: Hub, clock: Clock
) -> Desk:
    """The desk of a prepared drive."""
    options = resources.options
    left = claim.seconds_left
    deadline = None if left is None else clock.monotonic() + left

    journal = Journal(resources.store, claim, options.lease, hub)
    journal.passed = clock.monotonic
    journal.carry_on(ready.remembered)
    if ready.backend is not None:
        journal.describe_jobs(ready.backend.name, ready.config.model)
    performer = Performer(ready, options, clock, deadline, hub)
    performer.remember = journal.remember
    desk = Desk(performer, journal, clock)
    desk.take(())  # preparing may have taken all the time there was
    return desk


def finish_broken(desk: Desk, error: Exception) -> RunRow:
    """End a run whose driver raised, so that it does not fail for ever."""
    if desk.finished and isinstance(error, ValueError):
        # The store takes no such end, and would refuse it for ever.
        problem = str(error)[:300]
        failed = Failed(_VIOLATED, describe(_VIOLATED, problem=problem))
        desk.become(evolve(desk.state, phase=Finished(failed)))
        return desk.finish()
    broken = error if isinstance(error, BrokenRunError) else worker_lost(error)
    end = broken.outcome
    desk.become(give_up(desk.state, end.type, end.message))
    return desk.finish()
