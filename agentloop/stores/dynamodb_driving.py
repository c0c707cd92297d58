"""Commits in DynamoDB: checkpoint and finalize.

A commit reads the run's head, decides by it, and writes under the condition that
the head is still at this revision under this token. If it is not, the decision is
made anew. Long texts were written before; nobody finds them until the transaction
names them. What is decided by the conversation's version is written under the
condition that it still has it.
"""

from attrs import define, evolve, frozen

from agentloop.ports.store import (
    Checkpoint,
    Final,
    Lease,
    RunRow,
    StoreUnavailableError,
)
from agentloop.stores import dynamodb_keys as keys
from agentloop.stores import dynamodb_rows as rows
from agentloop.stores.dynamodb_changes import Commit, looked_at
from agentloop.stores.dynamodb_claims import HELD, Beat, held, still_held
from agentloop.stores.dynamodb_rows import Head
from agentloop.stores.dynamodb_table import (
    TRIES,
    ConditionError,
    Table,
    Write,
    check,
    delete,
    put,
    under,
    update,
)
from agentloop.stores.dynamodb_texts import Texts
from agentloop.stores.dynamodb_watch import Watch
from agentloop.stores.rules import (
    Ending,
    check_change,
    check_revision,
    ending,
    fence,
    repeated,
)

_ADVANCED = (
    "revision",
    "iterations",
    "staged",
    "last_event",
    "turn",
    "open_results",
    "has_setup",
    "lasts",
    "beat_at",
    "status",
    "joined",
    "completed_at",
)


@frozen
class Asked:
    """A change that follows a revision, and when it came."""

    revision: int
    change: Checkpoint
    at: str


def checkpoint(
    table: Table, lease: Lease, asked: Asked, beat: Beat, watch: Watch
) -> bool:
    """Add a change to a run; returns whether cancel was requested."""
    for _ in range(TRIES):
        head = held(table, lease)
        if repeated(lease, asked.revision, head.standing()):
            return head.cancel_requested
        commit = _prepared(table, lease, head, asked)
        after = beat.given(commit.after())
        writes = [_advance(head, after), commit.header()]
        if _carried_out(commit, writes, ends=False):
            watch.saw(after)
            return head.cancel_requested
    raise StoreUnavailableError(f"run {lease.run_id} changes all the time")


def _prepared(table: Table, lease: Lease, head: Head, asked: Asked) -> Commit:
    check_change(lease, asked.change, head.standing())
    seen = looked_at(table, head, asked.change)
    return Commit(head, asked.change, asked.at, Texts(table), seen)


def _advance(head: Head, after: Head) -> Write:
    """Rewrite what a commit changes of a head that is as it was read."""
    new = {name: getattr(after, name) for name in _ADVANCED}
    given = {name: new[name] for name in new if new[name] != getattr(head, name)}
    return update(
        keys.run_head(head.id),
        "SET " + ", ".join(f"@{name} = :{name}" for name in given) + " ADD @beats :one",
        HELD + " AND @revision = :seen",
        **given,
        uid=head.uid,
        token=head.token,
        seen=head.revision,
        one=1,
    )


def _carried_out(commit: Commit, writes: list[Write], *, ends: bool) -> bool:
    """Whether a commit happened; if it did not, the head is no longer as it was."""
    try:
        commit.carry_out(writes)
    except ConditionError:
        commit.texts.discard()
        return False
    except ValueError:
        commit.texts.discard()
        raise
    if commit.head.open_results and (commit.change.messages or ends):
        drop_results(commit.texts.table, commit.head)
    return True


def drop_results(table: Table, head: Head) -> None:
    """Remove the results of a turn that is over, if that can be done."""
    place = keys.of_run(head.uid)
    turn = f"#{keys.ordered(head.turn)}#"
    try:
        old = list(table.query(under(place, "keys" + turn, "pk", "sk", "keys_at")))
        found = under(place, "result" + turn, "pk", "sk", "results_at")
        old += table.query(found)
        pieces = [row.get("keys_at") or row.get("results_at") for row in old]
        for prefix in filter(None, pieces):
            old += table.query(under(place, prefix, "pk", "sk"))
        table.delete_all((row["pk"], row["sk"]) for row in old)
    except StoreUnavailableError:
        return  # nobody reads them; they go with the run


# ---------------------------------------------------------------- the end


@define
class _End:
    """A run's end on its way."""

    head: Head
    ending: Ending
    commit: Commit

    def after(self) -> Head:
        """The head as it will stay."""
        return evolve(
            self.commit.after(),
            status=self.ending.status,
            joined=self.ending.joins,
            completed_at=self.commit.at,
            open_results=0,
        )

    def writes(self) -> list[Write]:
        """All that a transaction must do, but for the rows of its last change."""
        head, place = self.head, keys.of_run(self.head.uid)
        result = self.commit.texts.keep(place, result=self.ending.result)
        waiting = {
            "run_id": head.id,
            "uid": head.uid,
            "conversation_uid": head.conversation_uid,
            "client_op_id": head.client_op_id,
            "made": head.made,
            "joined": self.ending.joins,
        }
        return [
            _advance(head, self.after()),
            put((keys.run(head.id), "result"), result),
            delete((place, "header")),
            delete(keys.opened(head.driver, head.made)),
            put(keys.ended(self.commit.at, head.uid), waiting),
            *self._joining(),
        ]

    def _joining(self) -> list[Write]:
        """One row says which messages are the run's, however many they are."""
        head, uid = self.head, self.head.conversation_uid
        place = keys.conversation_head(head.conversation_id)
        if not self.ending.joins:
            return [check(place, "@uid = :uid", uid=uid)]
        last = head.base_version + self.after().staged
        raised = update(
            place,
            "SET @version = :last, @updated_at = :at",
            "@uid = :uid AND @version = :base",
            uid=uid,
            base=head.base_version,
            last=last,
            at=self.commit.at,
        )
        if last == head.base_version:
            return [raised]
        row = {
            "first": head.base_version + 1,
            "last": last,
            "uid": head.uid,
            "run_id": head.id,
        }
        return [raised, put(keys.segment(uid, last), row)]


def finalize(
    table: Table, lease: Lease, revision: int, final: Final, at: str
) -> RunRow:
    """End a run; its messages join the conversation if they may."""
    for _ in range(TRIES):
        head = rows.head(table, lease.run_id)
        if head is None or not (head.token == lease.token and head.ended):
            asked = Asked(revision, final.last, at)
            head = _ended(table, still_held(lease, head), asked, final)
        if head is not None:
            return rows.run_row(table, head, rows.parts(table, lease.run_id))
    raise StoreUnavailableError(f"run {lease.run_id} changes all the time")


def _ended(table: Table, head: Head, asked: Asked, final: Final) -> Head | None:
    """The head as it stays; None when somebody else was writing to it."""
    end = _ending(table, head, asked, final)
    return end.after() if _carried_out(end.commit, end.writes(), ends=True) else None


def _ending(table: Table, head: Head, asked: Asked, final: Final) -> _End:
    lease = Lease(head.id, head.token)
    check_revision(lease, asked.revision, head.standing())
    conversation = rows.conversation_head(table, head.conversation_id)
    if conversation is None or conversation["uid"] != head.conversation_uid:
        fence(lease, None)
        raise AssertionError("unreachable: the fence refuses a run that is gone")
    in_time = conversation["version"] == head.base_version
    end = ending(final, in_time=in_time)
    commit = _prepared(table, lease, head, evolve(asked, change=end.change))
    return _End(head, end, commit)
