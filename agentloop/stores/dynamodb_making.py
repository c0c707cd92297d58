"""Making conversations and runs in DynamoDB, and flagging a run for cancel.

What is made appears with one transaction. Where texts are too long for it, their
pieces lie in a partition that nobody knows of yet; a row in `trash` names it until
the transaction takes that row away, so that a prune finds what a crash left.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from attrs import frozen

from agentloop.ports.store import (
    ConversationRow,
    NewConversationRow,
    NewRunRow,
    Reader,
    RunRow,
    StoreUnavailableError,
    VersionMovedError,
)
from agentloop.stores import dynamodb_keys as keys
from agentloop.stores import dynamodb_rows as rows
from agentloop.stores.clock import instant
from agentloop.stores.dynamodb_table import (
    TRIES,
    ConditionError,
    Table,
    Write,
    check,
    delete,
    put,
    update,
)
from agentloop.stores.dynamodb_texts import Texts, fresh
from agentloop.stores.dynamodb_values import Row

_NEW = "attribute_not_exists(@pk)"


@frozen
class _Birth:
    """Something new, with the name its partitions bear."""

    table: Table
    now: datetime
    uid: str
    texts: Texts

    def carry_out(self, writes: Sequence[Write]) -> None:
        """Do a transaction, with the pieces of texts written before it.

        Raises:
            ConditionError: nothing was made.
        """
        whole = list(writes)
        if self.texts.cut:
            doomed = keys.TRASH, self.uid
            self.table.put_all([(doomed, {"since": keys.micros(self.now)})])
            self.texts.write()
            whole.append(delete(doomed, "attribute_exists(@pk)"))
        try:
            self.table.transact(whole)
        except ConditionError:
            self.texts.discard()
            raise


def _birth(table: Table, now: datetime) -> _Birth:
    return _Birth(table, now, fresh(), Texts(table))


# ---------------------------------------------------------------- conversations


def create(table: Table, new: NewConversationRow, now: datetime) -> ConversationRow:
    """Insert a conversation at version 0."""
    birth = _birth(table, now)
    row = ConversationRow(
        id=new.id,
        company_id=new.company_id,
        user_id=new.user_id,
        body=new.body,
        version=0,
        created_at=instant(now),
        updated_at=instant(now),
    )
    try:
        birth.carry_out(_conversation(birth, row))
    except ConditionError:
        raise ValueError(f"the conversation {new.id!r} is stored already") from None
    return row


def _conversation(birth: _Birth, row: ConversationRow) -> list[Write]:
    uid, made = birth.uid, keys.made(birth.now, birth.uid)
    head = {
        "id": row.id,
        "uid": uid,
        "company_id": row.company_id,
        "user_id": row.user_id,
        "version": row.version,
        "made": made,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }
    body = birth.texts.keep(keys.of_conversation(uid), body=row.body)
    return [
        put(keys.conversation_head(row.id), head, _NEW),
        put(keys.conversation_body(row.id), {"uid": uid, **body}),
        put((keys.listed(row.company_id), made), {"id": row.id}),
        put((keys.listed(row.company_id, row.user_id), made), {"id": row.id}),
    ]


# ---------------------------------------------------------------- runs


def insert_run(table: Table, new: NewRunRow, now: datetime) -> tuple[RunRow, bool]:
    """Insert a run, or return the one that has its key.

    Raises:
        VersionMovedError: the conversation is not at the expected version.
        LookupError: the conversation does not exist.
        ValueError: another run has this id.
    """
    for _ in range(TRIES):
        where = rows.conversation_head(table, new.conversation_id)
        if where is None:
            raise LookupError(f"no conversation {new.conversation_id}")
        existing = rows.keyed_run(table, where, new.client_op_id)
        if existing is not None:
            return existing, False
        if where["version"] != new.expected_version:
            raise VersionMovedError(new.expected_version, where["version"])
        try:
            return _inserted(table, new, where["uid"], now), True
        except ConditionError:
            _refuse_known(table, new)
    raise StoreUnavailableError(f"{new.conversation_id} changes all the time")


def _refuse_known(table: Table, new: NewRunRow) -> None:
    """Refuse an id that another run has, unless that run is this one."""
    there = rows.head(table, new.id)
    mine = new.conversation_id, new.client_op_id
    if there and (there.conversation_id, there.client_op_id) != mine:
        raise ValueError(f"the run {new.id!r} is stored already")


def _inserted(
    table: Table, new: NewRunRow, conversation_uid: str, now: datetime
) -> RunRow:
    birth = _birth(table, now)
    head = rows.Head(
        id=new.id,
        uid=birth.uid,
        conversation_id=new.conversation_id,
        conversation_uid=conversation_uid,
        company_id=new.company_id,
        user_id=new.user_id,
        client_op_id=new.client_op_id,
        driver=new.driver,
        base_version=new.expected_version,
        started_at=instant(now),
        made=keys.made(now, birth.uid),
    )
    place = keys.of_run(birth.uid)
    texts = birth.texts.keep(
        place, config=new.config, payload=new.payload, tool_choice=new.tool_choice
    )
    birth.carry_out(_run(head, texts))
    return rows.run_row(table, head, {"texts": texts})


def _run(head: rows.Head, texts: Row) -> list[Write]:
    uid = head.conversation_uid
    listed = {
        "run_id": head.id,
        "uid": head.uid,
        "driver": head.driver,
        "company_id": head.company_id,
        "user_id": head.user_id,
    }
    return [
        check(
            keys.conversation_head(head.conversation_id),
            "@uid = :uid AND @version = :version",
            uid=uid,
            version=head.base_version,
        ),
        put(keys.client_key(uid, head.client_op_id), {"run_id": head.id}, _NEW),
        put(keys.run_head(head.id), rows.row_of(head), _NEW),
        put((keys.run(head.id), "texts"), texts),
        put((keys.of_conversation(uid), f"run#{head.made}"), listed),
        put(keys.opened(head.driver, head.made), {"run_id": head.id, "held": False}),
    ]


def request_cancel(table: Table, reader: Reader, run_id: str) -> RunRow | None:
    """Flag a run that has not ended; return the row, None when unseen."""
    head = rows.living(table, run_id, reader)
    if head is not None and not head.ended and not head.cancel_requested:
        flag = update(
            keys.run_head(run_id),
            "SET @cancel_requested = :yes",
            "@uid = :uid AND attribute_not_exists(@completed_at)",
            yes=True,
            uid=head.uid,
        )
        with suppress(ConditionError):  # the row that is returned tells
            table.change(flag)
    return rows.seen_run(table, reader, run_id)
