"""The workflow of a run: what Temporal replays.

It holds the order of things and nothing else: the machine's own `next_command` tells
which activity is due, Temporal keeps the pauses, and a signal ends one early. Each
activity answers with a standing that has no content, so a history is small and says
nothing of what was said. This room runs in the workflow's sandbox: it must stay pure
and deterministic, and what it does for a given standing must not change, because
histories of every release are replayed by later ones.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Final, assert_never

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

# Passed through, because they are pure and the sandbox would load them anew for each
# run: measured, a quarter of a second of CPU each time instead of some milliseconds.
with workflow.unsafe.imports_passed_through():
    from attrs import evolve

    from agentloop.core.machine import next_command
    from agentloop.core.phases import (
        CallingTools,
        CallTools,
        Command,
        Discover,
        Finish,
        Infer,
    )
    from agentloop.engines.temporal_texts import (
        Order,
        Pace,
        Place,
        end_text,
        order_from,
        order_text,
        place_from,
        place_text,
    )
    from agentloop.wire.standing import Standing, standing_from, standing_text

WORKFLOW: Final = "agentloop_run"
GONE: Final = "RunIsGone"
"""The type of the failure that says: there is no such run any more."""
GRACE: Final = 30.0
"""Seconds beyond what a command may take, for the store and for giving up."""
_AGAIN: Final = RetryPolicy(
    initial_interval=timedelta(milliseconds=100),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=1),
    non_retryable_error_types=[GONE],
)
"""Without an end: what is not possible now is possible later."""


def activity_for(command: Command) -> str | None:
    """The name of the activity that performs a command; None at the end."""
    match command:
        case Infer():
            return "infer"
        case Discover():
            return "discover"
        case CallTools():
            return "call_tools"
        case Finish():
            return None
        case _:
            assert_never(command)


def time_for(standing: Standing, pace: Pace) -> timedelta:
    """How long the command of a standing may take, at the very most.

    That a worker is gone is told by its silence, long before.
    """
    match next_command(standing.state):
        case CallTools():
            phase = standing.state.phase
            calls = len(phase.calls) if isinstance(phase, CallingTools) else 1
            seconds = calls * pace.call
        case Discover():
            seconds = pace.discover
        case _:
            seconds = pace.infer
    return timedelta(seconds=seconds + GRACE)


@workflow.defn(name=WORKFLOW)
class RunWorkflow:
    """Takes one run from command to command until its end is stored."""

    def __init__(self) -> None:
        self._place: Place | None = None
        self._woken = False
        self._done = 0

    @workflow.run
    async def run(self, order: str) -> str:
        """Drive a run; returns the status it ended with."""
        try:
            return end_text(await self._drive(order_from(order)))
        except ActivityError as error:
            cause = error.cause
            if isinstance(cause, ApplicationError) and cause.type == GONE:
                return end_text("removed")
            raise

    @workflow.signal
    def cancel(self) -> None:
        """Look at the store now: somebody asked there for the run's end."""
        self._woken = True

    @workflow.query
    def standing(self) -> str:
        """Where the run stands, without content."""
        if self._place is None:
            return end_text("pending")
        return place_text(self._place)

    async def _drive(self, order: Order) -> str:
        place = self._place = order.place or await self._begin(order)
        while (name := activity_for(next_command(place.standing.state))) is not None:
            if self._too_long(order):
                workflow.continue_as_new(order_text(evolve(order, place=place)))
            await self._pause(place.standing.wait)
            answer = await self._perform(name, order, place)
            place = self._place = evolve(place, standing=standing_from(answer))
        if place.standing.status is None:
            raise AssertionError("a run is over when its end is stored, not before")
        return place.standing.status

    async def _begin(self, order: Order) -> Place:
        answer: str = await workflow.execute_activity(
            "begin",
            order_text(order),
            result_type=str,
            start_to_close_timeout=timedelta(seconds=GRACE),
            heartbeat_timeout=timedelta(seconds=order.silence),
            retry_policy=_AGAIN,
        )
        return place_from(answer)

    async def _perform(self, name: str, order: Order, place: Place) -> str:
        self._done += 1
        answer: str = await workflow.execute_activity(
            name,
            args=[order_text(evolve(order, place=None)), standing_text(place.standing)],
            result_type=str,
            start_to_close_timeout=time_for(place.standing, place.pace),
            heartbeat_timeout=timedelta(seconds=order.silence),
            retry_policy=_AGAIN,
        )
        return answer

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with suppress(asyncio.TimeoutError):
                await workflow.wait_condition(lambda: self._woken, timeout=seconds)

    def _too_long(self, order: Order) -> bool:
        """Whether a fresh history is due; a run that was woken ends in this one."""
        if self._woken or not self._done:
            return False
        suggested = workflow.info().is_continue_as_new_suggested()
        return suggested or self._done >= order.commands
