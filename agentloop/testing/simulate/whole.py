"""The real driver of a run, `drive` itself, with its mailbox, pool and pulse.

It blocks, so it goes from end to end within one step of its worker; others act
whenever it waits, calls the store, or performs. Simulated are the places where it
would block: a mailbox that is filled while it is looked into, and a pool whose
threads run when their turn is drawn.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, cast

from attrs import frozen

from agentloop.core.phases import Call, Infer
from agentloop.ports import (
    JobContext,
    Lease,
    LeaseLostError,
    RunRow,
    Store,
    StoreUnavailableError,
    ToolCall,
)
from agentloop.runtime.desk import Desk, Happened, effect_id
from agentloop.runtime.drive import drive
from agentloop.runtime.mailbox import Mailbox
from agentloop.runtime.perform import Performed, Performer
from agentloop.runtime.pulse import Pulse
from agentloop.testing.simulate.bounds import ATTEMPT_TIMEOUT, TOOL_TIMEOUT, Bounds
from agentloop.testing.simulate.chance import Chance, Died, Violation

Work = Callable[[], object]


@frozen
class Around:
    """The world around a driver: others who act, time that passes, who looks on."""

    chance: Chance
    others: Callable[[], None]
    rest: Callable[[float], None]
    look: Callable[[Desk], None]
    begin: Callable[[Desk, str, int], None]
    bounds: Bounds


class Whole:
    """One drive: the mailbox that its driver looks into, and all that fills it."""

    def __init__(self, around: Around) -> None:
        self.lost = False
        self.stopped = False
        self.broken: BaseException | None = None
        self._around = around
        self._chance = around.chance
        self._look: Work = lambda: None
        self._told = False  # of a stop that the driver has not heard of yet
        self._items: list[Happened] = []
        self._queue: list[Work] = []
        self._beat: Work = lambda: None

    def drive(self, desk: Desk, store: Store, lease_seconds: float) -> RunRow | None:
        """Drive a run to its end; None when it was given back before."""
        lease: Lease = desk.journal.lease
        mailbox = cast(Mailbox, self)  # it has all that a driver and a pulse ask for
        desk.performer.abandoned = self.is_urgent
        watch(desk, self._around.bounds, self._around.begin)
        self._beat = partial(Pulse(store, lease_seconds)._prolong, lease, mailbox)
        self._look = partial(self._around.look, desk)
        try:
            row = drive(desk, mailbox, cast(Executor, self))  # it needs `submit` only
        except (LeaseLostError, StoreUnavailableError):
            self._work_on()
            raise
        self._work_on()
        return row

    def _work_on(self) -> None:
        """Threads that come to it only now, when the driver has gone."""
        while self._queue:
            self._queue.pop()()

    # ------------------------------------------------------------ a mailbox

    def post(self, *items: Happened) -> None:
        """Add what happened; some answers arrive twice."""
        self._items.extend(items)
        for item in items:
            if not isinstance(item, Performed):
                continue
            self._around.bounds.note(item)
            if self._chance.hit("answer", "twice"):
                self._items.append(item)

    def lose(self) -> None:
        """The lease is gone."""
        self.lost = True

    def break_off(self, error: BaseException) -> None:
        """An effect raised elsewhere."""
        self.broken = error

    def is_urgent(self) -> bool:
        """Whether the driver should hear of something at once."""
        return self.lost or bool(self._items)

    def check(self, run_id: str) -> None:
        """Raise what ends the drive early."""
        if self.broken is not None:
            raise self.broken
        if self.lost:
            raise LeaseLostError(run_id)

    def take(self, timeout: float | None) -> list[Happened]:
        """What arrived; while nothing has, threads work, and time passes."""
        self._may_die()
        self._look()
        self._around.others()
        if self._chance.often(0.15):
            self._beat()
        self._may_stop()
        if timeout != 0.0:
            self._wait(timeout)
        self._told = False
        self._around.bounds.look()
        taken, self._items = self._items, []
        return taken

    def _wait(self, timeout: float | None) -> None:
        """Until something arrived, or the time is up."""
        while not (self._items or self.lost or self.broken or self._told):
            if self._queue:
                self._queue.pop(self._which())()
            elif timeout is None:
                raise Violation("invariant 19: a driver waits for nothing, for ever")
            else:
                self._around.rest(timeout)
                return
            self._around.others()

    def _which(self) -> int:
        at = self._chance.number(0, len(self._queue) - 1)
        if at == 0 or not self._chance.allows("answer"):
            return 0
        self._chance.count("answer", "reordered")
        return at

    def _may_stop(self) -> None:
        if not self.stopped and self._chance.drains():
            self.stopped = self._told = True

    def _may_die(self) -> None:
        if self._chance.hit("crash", "at a boundary"):
            raise Died

    # ------------------------------------------------------------ a pool

    def submit(self, work: Callable[..., object], *args: Any) -> None:
        """Have a thread do it, some time; a pool closed by a signal refuses."""
        self._may_stop()
        if self.stopped:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self._queue.append(partial(work, *args))


def watch(desk: Desk, bounds: Bounds, begin: Callable[[Desk, str, int], None]) -> None:
    """Hear of every inference and call that begins at a desk, and of its time."""
    watched = Watched(desk.performer, partial(begin, desk), bounds)
    desk.performer = cast(Performer, watched)


class Watched:
    """A performer that tells of every effect that begins."""

    def __init__(
        self, performer: Performer, begin: Callable[[str, int], None], bounds: Bounds
    ) -> None:
        self._performer = performer
        self._begin = begin
        self._bounds = bounds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._performer, name)

    def job(self, command: Infer, *, streamed: bool) -> JobContext:
        """An inference begins."""
        self._begin(*effect_id(command))
        job = self._performer.job(command, streamed=streamed)
        self._bounds.gives(job.timeout, ATTEMPT_TIMEOUT)
        return job

    def call_of(self, call: Call) -> ToolCall:
        """A call begins."""
        self._begin(*effect_id(call))
        asked = self._performer.call_of(call)
        self._bounds.gives(asked.timeout, TOOL_TIMEOUT)
        return asked
