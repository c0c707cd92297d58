"""Leases in DynamoDB: claim, heartbeat and release, and what `open#` rows are for.

Leases are judged by the caller's clock, since DynamoDB shows none. That is safe:
what decides is the token, which every write is bound to. A clock that is ahead takes
a lease too early, and whoever held it commits nothing any more; so clocks should
agree to well within a lease, as those of NTP do.

Every run that has not ended has a row in its driver's `open#` partition that says
since when it may be due. That is never later than its lease, so that whoever looks
there misses no run; it may be earlier, as renewals leave it alone. Who finds it so
brings it forward.
"""

from collections.abc import Iterator

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
from agentloop.stores.rules import claims_in_a_row, fence, next_token, void_token

HELD = "@uid = :uid AND @token = :token AND attribute_not_exists(@completed_at)"


@frozen
class Renewal:
    """Until when a lease lasts, and the writes that keep `open#` in step with it."""

    head: Head
    until: int

    @property
    def due(self) -> int:
        """What the run's `open#` row says then."""
        return min(self.head.due, self.until)

    def writes(self) -> tuple[Write, ...]:
        """What must be written along; nothing as long as the lease grows."""
        if self.due == self.head.due:
            return ()
        return (moved(self.head, self.due),)


def moved(head: Head, due: int) -> Write:
    """Say in a run's `open#` row since when it may be due."""
    there = keys.opened(head.driver, head.made)
    return update(there, "SET @due = :due", "attribute_exists(@pk)", due=due)


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


def claim(table: Table, request: ClaimRequest, now: int) -> Claim | None:
    """Take the lease of a due run."""
    for run_id in _candidates(table, request, now):
        taken = _taken(table, run_id, request, now)
        if taken is not None:
            return _claim(table, *taken, now)
    return None


def _candidates(table: Table, request: ClaimRequest, now: int) -> Iterator[str]:
    """The runs that may be due, the oldest first."""
    if request.run_id is not None:
        yield request.run_id
        return
    span = Span(
        keys.opened_by(request.driver),
        " ",
        "\x7f",
        ("run_id",),
        where="@due <= :now",
        values={"now": now},
    )
    for row in table.query(span):
        yield row["run_id"]


def _taken(
    table: Table, run_id: str, request: ClaimRequest, now: int
) -> tuple[Head, RunRow] | None:
    """The run under a new lease, None when it is not due.

    Neither is it when it changed since it was read: whoever did that holds it, or
    held it until a moment ago.
    """
    found = rows.whole_run(table, run_id)
    if found is None or found[0].ended or found[0].driver != request.driver:
        return None
    head, row = found
    if head.lease_until > now:
        _bring_forward(table, head)
        return None
    after = _claimed(head, request, now)
    try:
        table.transact(_claiming(head, after))
    except ConditionError:
        return None
    return after, evolve(row, status="running")


def _claimed(head: Head, request: ClaimRequest, now: int) -> Head:
    until = keys.after(now, request.lease_seconds)
    deadline = head.deadline
    if deadline is None and request.run_timeout is not None:
        deadline = keys.after(now, request.run_timeout)
    return evolve(
        head,
        status="running",
        token=next_token(head.token, committed=head.claimed_revision < head.revision),
        lease_until=until,
        due=until,
        deadline=deadline,
        claimed_revision=head.revision,
    )


def _claiming(head: Head, after: Head) -> list[Write]:
    change = (
        "SET @status = :running, @token = :next, @lease_until = :until, @due = :until,"
        " @claimed_revision = :revision"
    )
    values: dict[str, object] = {
        "running": "running",
        "next": after.token,
        "until": after.lease_until,
        "revision": head.revision,
        "uid": head.uid,
        "token": head.token,
        "seen": head.lease_until,
    }
    if after.deadline is not None:
        change += ", @deadline = :deadline"
        values["deadline"] = after.deadline
    unchanged = HELD + " AND @revision = :revision AND @lease_until = :seen"
    return [
        update(keys.run_head(head.id), change, unchanged, **values),
        moved(head, after.due),
    ]


def _bring_forward(table: Table, head: Head) -> None:
    """Spare others the look at a run under a live lease, if nobody is in the way."""
    if head.due == head.lease_until:
        return
    unchanged = HELD + " AND @lease_until = :until AND @due = :due"
    change = update(
        keys.run_head(head.id),
        "SET @due = :until",
        unchanged,
        uid=head.uid,
        token=head.token,
        until=head.lease_until,
        due=head.due,
    )
    try:
        table.transact([change, moved(head, head.lease_until)])
    except (ConditionError, StoreUnavailableError):
        return  # it was a courtesy


def _claim(table: Table, head: Head, row: RunRow, now: int) -> Claim:
    """What was claimed; nobody else changes it any more."""
    setup, header = details.checkpointed(table, head)
    left = None if head.deadline is None else (head.deadline - now) / 1e6
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


def heartbeat(table: Table, lease: Lease, until: int) -> bool:
    """Make a lease last until an instant; returns whether cancel was requested."""
    for _ in range(TRIES):
        head = held(table, lease)
        renewal = Renewal(head, until)
        change = update(
            keys.run_head(lease.run_id),
            "SET @lease_until = :until, @due = :due",
            HELD + " AND @due = :seen",
            uid=head.uid,
            token=lease.token,
            until=until,
            due=renewal.due,
            seen=head.due,
        )
        try:
            if renewal.writes():
                table.transact([change, *renewal.writes()])
                return head.cancel_requested
            return bool(table.change(change).get("cancel_requested", False))
        except ConditionError:
            continue
    raise StoreUnavailableError(f"run {lease.run_id} changes all the time")


def release(table: Table, lease: Lease) -> None:
    """Give a lease back; its token is void from now on."""
    for _ in range(TRIES):
        try:
            head = held(table, lease)
        except LeaseLostError:
            return
        change = update(
            keys.run_head(lease.run_id),
            "SET @token = :next, @lease_until = :zero, @due = :zero",
            HELD,
            uid=head.uid,
            token=head.token,
            next=void_token(head.token),
            zero=0,
        )
        try:
            table.transact([change, moved(head, 0)])
        except ConditionError:
            continue
        return
    raise StoreUnavailableError(f"run {lease.run_id} changes all the time")
