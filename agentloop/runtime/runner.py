"""Claiming a run and driving it on this thread, with its lease kept alive."""

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeAlias

from attrs import frozen

from agentloop.core.catalog import describe
from agentloop.core.machine import give_up
from agentloop.core.phases import CancelRequested
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
from agentloop.runtime.prepare import DRIVER, Drive, Resources, prepare
from agentloop.runtime.pulse import Pulse

log = logging.getLogger("agentloop")
Way: TypeAlias = Callable[[Desk, Mailbox, Executor], RunRow | None]
"""How a desk is driven: returns the row of a run that ended."""


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

    def run(self, claim: Claim, way: Way = drive) -> RunRow | None:
        """Drive a claimed run to its end, or until it is asked to stop.

        An engine drives it one round at a time, which is a `way` of its own.

        Raises:
            LeaseLostError: another worker has the run.
            StoreUnavailableError: the store stayed away; the run is due again
                when its lease has run out.
        """
        ready = prepare(claim, self.resources)
        mailbox = Mailbox()
        try:
            with self.pulse.beating(claim.lease, mailbox):
                desk = desk_for(claim, ready, self.resources, self.hub, self.clock)
                desk.performer.abandoned = mailbox.is_urgent
                return self._drive(desk, mailbox, way)
        finally:
            for server in ready.opened:
                server.close()

    def _drive(self, desk: Desk, mailbox: Mailbox, way: Way) -> RunRow | None:
        try:
            return way(desk, mailbox, self.pool)
        except (LeaseLostError, StoreUnavailableError):
            raise
        except Exception as error:
            log.exception("driving run %s failed", desk.journal.run_id)
            return finish_broken(desk, error)
        except BaseException:  # Ctrl-C, or whatever else ends the host's work
            with suppress(StoreUnavailableError):
                desk.journal.release()
            raise

    def cancel(self, run_id: str) -> None:
        """End a run that was flagged: by its driver here, or by taking it over."""
        mailbox = self.pulse.mailboxes().get(run_id)
        if mailbox is not None:
            mailbox.post(CancelRequested())
        elif (claim := self.claim(run_id)) is not None:
            self.run(claim)


def desk_for(
    claim: Claim, ready: Drive, resources: Resources, hub: Hub, clock: Clock
) -> Desk:
    """The desk of a prepared drive."""
    options = resources.options
    left = claim.seconds_left
    deadline = None if left is None else clock.monotonic() + left

    def time_left() -> float | None:
        return None if deadline is None else deadline - clock.monotonic()

    journal = Journal(resources.store, claim, options.lease, hub)
    if ready.backend is not None:
        journal.describe_jobs(ready.backend.name, ready.config.model)
    performer = Performer(ready, options, clock, time_left, hub)
    performer.remember = journal.remember
    return Desk(performer, journal, clock)


def finish_broken(desk: Desk, error: Exception) -> RunRow:
    """End a run whose driver raised, so that it does not fail for ever."""
    type_ = "AgentLoopWorkerLost"
    message = describe(type_, problem=f"its driver raised {type(error).__name__}")
    desk.state = give_up(desk.state, type_, message)
    return desk.finish()
