"""The synchronous driver: schedule, commit, perform, step, and again.

A lone effect that keeps its time is performed right here, on the thread of the run;
all others run side by side on the pool and answer through the mailbox. A delay
before an effect is spent waiting on the mailbox, so that a cancel ends it at once.
What is committed before an effect begins is the intent; what is committed next
holds its result.
"""

from concurrent.futures import Executor
from contextvars import copy_context

from agentloop.ports import RunRow
from agentloop.runtime.desk import Desk
from agentloop.runtime.mailbox import Mailbox
from agentloop.runtime.narrate import Effect
from agentloop.runtime.perform import perform


def drive(desk: Desk, mailbox: Mailbox, pool: Executor) -> RunRow | None:
    """Drive a run to its end.

    Returns:
        The terminal row, or None when the mailbox was stopped: then the run was
        given back between two effects, for another worker to go on.

    Raises:
        LeaseLostError: another worker has the run; nothing more was written.
        StoreUnavailableError: the store stayed away; the run is picked up later.
    """
    while not desk.finished:
        if mailbox.stopped and desk.idle:
            desk.suspend()
            return None
        _go_on(desk, mailbox, pool)
    return desk.finish()


def drive_round(desk: Desk, mailbox: Mailbox, pool: Executor) -> None:
    """Perform the command that is due, at once, and whatever it leads to meanwhile.

    Returns when the run has ended, or nothing is under way or waited for.

    Raises:
        LeaseLostError, StoreUnavailableError: as for `drive`.
    """
    desk.plan()
    desk.hurry()
    while True:
        _go_on(desk, mailbox, pool)
        if desk.finished or desk.quiet or (mailbox.stopped and desk.idle):
            return


def _go_on(desk: Desk, mailbox: Mailbox, pool: Executor) -> None:
    """Begin what is due, and take in what happened; begin nothing when stopped."""
    if mailbox.stopped:
        desk.hold()
    else:
        desk.plan()
    desk.commit()
    ready = desk.ready()
    if ready and desk.alone() and desk.performer.keeps_time(ready[0]):
        # In a context of its own: what a tool sets there is not for the next run.
        done = copy_context().run(perform, desk.performer, ready[0])
        desk.take([done, *mailbox.take(0.0)])
    else:
        for effect in ready:
            _submit(desk, effect, mailbox, pool)
        desk.take(mailbox.take(desk.patience()))
    mailbox.check(desk.journal.run_id)


def _submit(desk: Desk, effect: Effect, mailbox: Mailbox, pool: Executor) -> None:
    try:
        pool.submit(_perform_elsewhere, desk, effect, mailbox)
    except RuntimeError:
        if not mailbox.stopped:
            raise
        desk.put_back(effect)  # closed by a signal's handler, on this very thread


def _perform_elsewhere(desk: Desk, effect: Effect, mailbox: Mailbox) -> None:
    """On a thread of the pool; the answer arrives whenever it does.

    An effect that was still queued when the run ended is not begun any more.
    """
    if desk.finished or mailbox.lost:
        return
    try:
        mailbox.post(perform(desk.performer, effect))
    except BaseException as error:
        mailbox.break_off(error)
