"""Leases in DynamoDB: claim, heartbeat and release, and what `open#` rows are for.

A lease is lost when its run stood still for as long as the lease lasts, by the clock
of whoever looks; `dynamodb_watch` knows how that is seen. What decides is the token,
which every write is bound to: who lost a lease commits nothing any more.

Every run that has not ended has a row in its driver's `open#` partition that says
whether it is held. A held one is looked at when it is new to this process, and again
when its lease may be over.
"""

from collections.abc import Sequence

from attrs import evolve, frozen

from agentloop.ports.store import (
    Claim,
    ClaimRequest,
    Lease,
    LeaseLostError,
    RunRow,
    StoreUnavailableError,
)
from agentloop.stores import dynamodb_details as details
from agentloop.stores import dynamodb_keys as keys
from agentloop.stores import dynamodb_rows as rows
from agentloop.stores.dynamodb_rows import Head
from agentloop.stores.dynamodb_table import (
    TRIES,
    ConditionError,
    Span,
    Table,
    Write,
    update,
)
from agentloop.stores.dynamodb_watch import Watch, micros
from agentloop.stores.rules import claims_in_a_row, fence, next_token, void_token

HELD = "@uid = :uid AND @token = :token AND attribute_not_exists(@completed_at)"


@frozen
class Beat:
    """A sign of life: how long the lease lasts from then on, and when it came."""

    lasts: int
    at: int

    def given(self, head: Head) -> Head:
        """A head as it is with this beat."""
        return evolve(head, beats=head.beats + 1, lasts=self.lasts, beat_at=self.at)


def _said(head: Head) -> Write:
    """Say in a run's `open#` row whether the run is held."""
    there = keys.opened(head.driver, head.made)
    return update(there, "SET @held = :held", "attribute_exists(@pk)", held=head.held)


def held(table: Table, lease: Lease) -> Head:
    """The head of a run whose newest lease the caller holds.

    Raises:
        LeaseLostError: it does not, or the run is gone or has ended.
    """
    return still_held(lease, rows.head(table, lease.run_id))


def still_held(lease: Lease, head: Head | None) -> Head:
    """A head that was read, if the caller holds the run's newest lease.

    Raises:
        LeaseLostError: it does not, or the run is gone or has ended.
    """
    fence(lease, head.standing() if head else None)
    if head is None:
        raise AssertionError("unreachable: the fence refuses a run that is gone")
    return head


# ---------------------------------------------------------------- claiming


def claim(table: Table, request: ClaimRequest, watch: Watch) -> Claim | None:
    """Take the lease of a due run."""
    for run_id in _candidates(table, request, watch):
        taken = _taken(table, run_id, request, watch)
        if taken is not None:
            return _claim(table, *taken)
    return None


def _candidates(table: Table, request: ClaimRequest, watch: Watch) -> Sequence[str]:
    """The runs that may be due, the oldest first."""
    if request.run_id is not None:
        return [request.run_id]
    place = keys.opened_by(request.driver)
    opened = list(table.query(Span(place, " ", "\x7f", ("run_id", "held"))))
    held = [row["run_id"] for row in opened if row.get("held")]
    left = _left_alone(table, held, watch)
    return [
        row["run_id"] for row in opened if not row.get("held") or row["run_id"] in left
    ]


def _left_alone(table: Table, run_ids: Sequence[str], watch: Watch) -> set[str]:
    """Those of the held runs that were seen to stand still, or are held no more."""
    worth = [run_id for run_id in run_ids if watch.is_worth_a_look(run_id)]
    at = watch.now()
    found = table.get_all(map(keys.run_head, worth))
    heads = map(rows.head_of, found.values())
    return {head.id for head in heads if _is_due(head, watch, at)}


def _is_due(head: Head, watch: Watch, at: int) -> bool:
    """Whether nobody drives a run, as far as was known when its head was read."""
    if not head.held or head.lasts <= 0:
        return True
    return watch.stood(head, at) >= head.lasts


def _taken(
    table: Table, run_id: str, request: ClaimRequest, watch: Watch
) -> tuple[Head, RunRow, float | None] | None:
    """The run under a new lease, None when it is not due.

    Neither is it when it changed since it was read: whoever did that holds it, or
    held it until a moment ago.
    """
    at = watch.now()
    found = rows.whole_run(table, run_id)
    if found is None or found[0].ended or found[0].driver != request.driver:
        watch.forget(run_id)
        return None
    head, row = found
    if not _is_due(head, watch, at):
        return None
    left = _left(head, request, watch.stood(head, at) if head.held else 0)
    after = _claimed(head, request, left, at)
    try:
        table.transact(_claiming(head, after))
    except ConditionError:
        return None
    watch.saw(after)
    return after, evolve(row, status="running"), None if left is None else left / 1e6


def _left(head: Head, request: ClaimRequest, stood: int) -> int | None:
    """Microseconds that a run has left, None when there is no end to its time.

    Time in which nobody looked at a dead worker's run does not count: how long that
    was, no clock here knows.
    """
    if head.over_at is not None:
        return head.over_at - head.beat_at - stood
    return None if request.run_timeout is None else micros(request.run_timeout)


def _claimed(head: Head, request: ClaimRequest, left: int | None, at: int) -> Head:
    beat = Beat(micros(request.lease_seconds), at)
    return evolve(
        beat.given(head),
        status="running",
        token=next_token(head.token, committed=head.claimed_revision < head.revision),
        held=True,
        over_at=None if left is None else at + left,
        claimed_revision=head.revision,
    )


def _claiming(head: Head, after: Head) -> list[Write]:
    change = (
        "SET @status = :running, @token = :next, @held = :yes, @lasts = :lasts,"
        " @beats = :beats, @beat_at = :at, @claimed_revision = :revision"
    )
    values: dict[str, object] = {
        "running": "running",
        "next": after.token,
        "yes": True,
        "lasts": after.lasts,
        "beats": after.beats,
        "at": after.beat_at,
        "revision": head.revision,
        "uid": head.uid,
        "token": head.token,
        "seen": head.beats,
    }
    if after.over_at is not None:
        change += ", @over_at = :over"
        values["over"] = after.over_at
    unchanged = HELD + " AND @revision = :revision AND @beats = :seen"
    return [update(keys.run_head(head.id), change, unchanged, **values), _said(after)]


def _claim(table: Table, head: Head, row: RunRow, left: float | None) -> Claim:
    """What was claimed; nobody else changes it any more."""
    setup, header = details.checkpointed(table, head)
    return Claim(
        lease=Lease(head.id, head.token),
        run=row,
        revision=head.revision,
        setup=setup,
        header=header,
        messages=rows.bodies(table, head),
        results=details.results(table, head),
        last_event=head.last_event,
        seconds_left=left,
        in_a_row=claims_in_a_row(head.token),
    )


# ---------------------------------------------------------------- keeping


def heartbeat(table: Table, lease: Lease, beat: Beat, watch: Watch) -> bool:
    """Make a lease last from a beat on; returns whether cancel was requested."""
    head = held(table, lease)
    change = update(
        keys.run_head(lease.run_id),
        "SET @lasts = :lasts, @beat_at = :at ADD @beats :one",
        HELD,
        uid=head.uid,
        token=lease.token,
        lasts=beat.lasts,
        at=beat.at,
        one=1,
    )
    try:
        after = rows.head_of(table.change(change))
    except ConditionError:
        held(table, lease)
        raise StoreUnavailableError(f"run {lease.run_id} changed meanwhile") from None
    watch.saw(after)
    return after.cancel_requested


def release(table: Table, lease: Lease, at: int) -> None:
    """Give a lease back; its token is void from now on."""
    for _ in range(TRIES):
        try:
            head = held(table, lease)
        except LeaseLostError:
            return
        after = evolve(head, token=void_token(head.token), held=False)
        change = update(
            keys.run_head(lease.run_id),
            "SET @token = :next, @held = :no, @beat_at = :at",
            HELD,
            uid=head.uid,
            token=head.token,
            next=after.token,
            no=False,
            at=at,
        )
        try:
            table.transact([change, _said(after)])
        except ConditionError:
            continue
        return
    raise StoreUnavailableError(f"run {lease.run_id} changes all the time")
