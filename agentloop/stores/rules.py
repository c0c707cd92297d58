"""Rules of the port that do not depend on how a store keeps its rows.

Who may write to a run, whether a commit is new or a repeat, whether a change fits
what is stored, what may be pruned. Nothing in here reads or writes a row.
"""

from collections.abc import Container, Hashable, Sequence
from datetime import datetime, timedelta
from typing import Final as Constant
from typing import Protocol, TypeVar

from attrs import evolve, frozen

from agentloop.core.run import TERMINAL, Status
from agentloop.core.values import value
from agentloop.ports.store import (
    Checkpoint,
    Final,
    JobRow,
    Lease,
    LeaseLostError,
    NewAttempt,
)
from agentloop.stores.clock import instant, moment

KEY_RETENTION: Constant = timedelta(days=1)
"""How long a run's key stays taken after the run ended, whatever is pruned."""


class Standing(Protocol):
    """What a store knows of a run when somebody wants to write to it.

    A record of the store's own may be one: it is asked on every commit.
    """

    @property
    def status(self) -> str:
        """The stored status."""
        ...

    @property
    def token(self) -> int:
        """Of the newest claim."""
        ...

    @property
    def revision(self) -> int:
        """Of the last commit."""
        ...

    @property
    def claimed_revision(self) -> int:
        """The revision that the newest claim began with."""
        ...

    @property
    def staged(self) -> int:
        """How many messages are staged."""
        ...

    @property
    def last_event(self) -> int:
        """Id of the last event, 0 when there is none."""
        ...


S = TypeVar("S", bound=Standing)


# ---------------------------------------------------------------- tokens

TOKENS: Constant = 1_000
"""Tokens of a stretch. Each commit that a claim follows begins a new stretch, and so
does each release, so that a token also tells how often its run was claimed in vain:
3002 is the second claim in a row of a run that was committed to before."""


def next_token(token: int, *, committed: bool) -> int:
    """The token of a claim; `committed` says whether the last claim did anything."""
    return void_token(token) + 1 if committed and token % TOKENS else token + 1


def void_token(token: int) -> int:
    """What a release puts in the place of a token."""
    return (token // TOKENS + 1) * TOKENS


def claims_in_a_row(token: int) -> int:
    """How many claims, this one among them, nothing was committed between."""
    return token % TOKENS


VOID_TOKEN: Constant = f"(token / {TOKENS} + 1) * {TOKENS}"
"""`void_token` in SQL."""
NEXT_TOKEN: Constant = (
    f"CASE WHEN claimed_revision < revision AND token > token / {TOKENS} * {TOKENS}"
    f" THEN {VOID_TOKEN} + 1 ELSE token + 1 END"
)
"""`next_token` in SQL."""


# ---------------------------------------------------------------- writing


@value
class StoredStanding:
    """The standing of a run whose row was read."""

    status: str
    token: int
    revision: int
    claimed_revision: int
    staged: int
    last_event: int


def fence(lease: Lease, standing: S | None) -> S:
    """The standing, if the lease is the newest and the run has not ended.

    Raises:
        LeaseLostError: it is not, or the run is gone.
    """
    if standing is None:
        raise LeaseLostError(f"run {lease.run_id} does not exist any more")
    if standing.token != lease.token:
        raise LeaseLostError(
            f"run {lease.run_id} is held by a newer claim than {lease.token}"
        )
    if standing.status in TERMINAL:
        raise LeaseLostError(f"run {lease.run_id} has ended: {standing.status}")
    return standing


def repeated(lease: Lease, revision: int, standing: Standing) -> bool:
    """Whether a checkpoint after `revision` repeats the holder's last one.

    Only commits of the same claim count: a holder that never saw the revision it
    names must not be told that its change is stored.

    Raises:
        LeaseLostError: the change follows another revision than the stored one.
    """
    if standing.revision == revision:
        return False
    if standing.revision == revision + 1 and revision >= standing.claimed_revision:
        return True
    raise _elsewhere(lease, revision, standing)


def check_revision(lease: Lease, revision: int, standing: Standing) -> None:
    """Refuse a commit that does not follow the stored revision.

    Raises:
        LeaseLostError: it follows another one.
    """
    if standing.revision != revision:
        raise _elsewhere(lease, revision, standing)


def _elsewhere(lease: Lease, revision: int, standing: Standing) -> LeaseLostError:
    at = standing.revision
    return LeaseLostError(f"run {lease.run_id} is at revision {at}, not {revision}")


def check_change(lease: Lease, change: Checkpoint, standing: Standing) -> None:
    """Refuse a change that does not continue what is stored.

    Raises:
        ValueError: messages leave a gap or overlap, event ids do not rise, or a
            row belongs to another run.
    """
    if change.messages and change.first_message != standing.staged:
        raise ValueError(
            f"messages of run {lease.run_id} begin at position "
            f"{change.first_message}, but {standing.staged} are staged"
        )
    check_rows(lease, change, standing.last_event)


def check_rows(lease: Lease, change: Checkpoint, last_event: int) -> None:
    """Refuse events that do not rise from the last one, and rows of another run.

    Raises:
        ValueError: there is one.
    """
    last = last_event
    for event in change.events:
        if event.id <= last:
            problem = f"{event.id} follows {last}"
            raise ValueError(f"event ids of run {lease.run_id} do not rise: {problem}")
        last = event.id
    for job in change.jobs:
        if job.run_id != lease.run_id:
            raise _foreign(lease, job)
    for attempt in change.attempts:
        if attempt.run_id != lease.run_id:
            raise _foreign(lease, attempt)


def _foreign(lease: Lease, row: JobRow | NewAttempt) -> ValueError:
    return ValueError(f"rows of {row.run_id} came with the run {lease.run_id}")


@frozen
class Ending:
    """How a run really ends, once the conversation's version is known."""

    status: Status
    result: str
    joins: bool
    change: Checkpoint


def ending(final: Final, *, in_time: bool) -> Ending:
    """The end that was asked for, or the conflict when the version moved.

    Raises:
        ValueError: the status asked for is not one that ends a run.
    """
    if final.status not in TERMINAL:
        raise ValueError(f"a run cannot end with the status {final.status!r}")
    lost = final.keep and not in_time
    event = final.conflict_event if lost else final.terminal_event
    return Ending(
        "failed" if lost else final.status,
        final.conflict_result if lost else final.result,
        final.keep and in_time,
        evolve(final.last, events=(*final.last.events, event)),
    )


def prune_limit(now: datetime, before: str) -> str:
    """The instant before which a run must have ended to be pruned."""
    return instant(min(moment(before), now - KEY_RETENTION))


def refuse_known(
    kind: str, known: Container[Hashable], keys: Sequence[Hashable]
) -> None:
    """Refuse keys that are known, or that come twice.

    Raises:
        ValueError: there is one.
    """
    for key in keys:
        if key in known:
            raise ValueError(f"the {kind} {key!r} is stored already")
    if len(keys) > 1 and len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the {kind} {twice!r} is stored already")
