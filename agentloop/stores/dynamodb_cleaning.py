"""Removing from DynamoDB: prunes and deletes of any size.

What is removed vanishes with one small transaction that takes the rows away by which
it is found, and leaves a row in `trash` that names the partitions to be emptied.
Then these are emptied, and the row goes last. Whoever dies before that leaves it to
the next prune or delete; doing it twice does no harm.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

from agentloop.ports.store import Reader
from agentloop.stores import dynamodb_keys as keys
from agentloop.stores import dynamodb_rows as rows
from agentloop.stores.dynamodb_table import (
    ConditionError,
    Span,
    Table,
    Write,
    delete,
    put,
    under,
)
from agentloop.stores.dynamodb_values import Row

T = TypeVar("T")

_UNBORN: Final = 3_600_000_000
"""Microseconds after which nobody is still writing the first texts of something."""
_RUNS_AT_ONCE: Final = 18
_JOBS_AT_ONCE: Final = 90
_OURS: Final = "attribute_not_exists(@pk) OR @uid = :uid"


# ---------------------------------------------------------------- prune


def prune(table: Table, limit: str, now: int) -> int:
    """Remove runs that ended before an instant; returns how many."""
    empty_trash(table, now)
    removed = 0
    for shard in keys.SHARDS:
        old = Span(keys.ended_in(shard), " ", limit)
        removed += sum(_pruned(table, row) for row in table.query(old))
    return removed


def _pruned(table: Table, ended: Row) -> bool:
    """Remove a run, unless somebody else was faster."""
    uid, run_id = ended["uid"], ended["run_id"]
    doomed = {"joined": ended["joined"]}
    of_conversation = keys.of_conversation(ended["conversation_uid"])
    writes = [
        delete((ended["pk"], ended["sk"]), "attribute_exists(@pk)"),
        *_run_rows(run_id, uid),
        delete((of_conversation, f"run#{ended['made']}")),
        delete(keys.client_key(ended["conversation_uid"], ended["client_op_id"])),
        put((keys.TRASH, uid), doomed),
    ]
    try:
        table.transact(writes)
    except ConditionError:
        return False
    _empty(table, {**doomed, "sk": uid})
    return True


def _run_rows(run_id: str, uid: str) -> Iterator[Write]:
    place = keys.run(run_id)
    yield delete((place, "head"), _OURS, uid=uid)
    yield delete((place, "texts"))
    yield delete((place, "result"))


# ---------------------------------------------------------------- delete


def delete_conversation(
    table: Table, reader: Reader, conversation_id: str, now: int
) -> bool:
    """Remove a conversation with all of its runs; whether there was one."""
    head = rows.conversation_head(table, conversation_id)
    if head is None or not reader.sees(head["company_id"], head["user_id"]):
        empty_trash(table, now)
        return False
    uid, made = head["uid"], head["made"]
    company, user = head["company_id"], head["user_id"]
    writes = [
        delete(keys.conversation_head(conversation_id), "@uid = :uid", uid=uid),
        delete(keys.conversation_body(conversation_id)),
        delete((keys.listed(company), made)),
        delete((keys.listed(company, user), made)),
        put((keys.TRASH, uid), {"conversation": True}),
    ]
    try:
        table.transact(writes)
    except ConditionError:
        return False  # somebody else was faster
    _empty(table, {"conversation": True, "sk": uid})
    return True


# ---------------------------------------------------------------- trash


def empty_trash(table: Table, now: int) -> None:
    """Finish what others began, but for what may be just coming to life."""
    for doomed in table.query(under(keys.TRASH, "")):
        if doomed.get("since", 0) + _UNBORN <= now:
            _empty(table, doomed)


def _empty(table: Table, doomed: Row) -> None:
    """Empty the partitions that a row of the trash names, and remove the row."""
    uid = doomed["sk"]
    if doomed.get("conversation"):
        _empty_conversation(table, uid)
    else:
        _empty_run(table, uid)
        if doomed.get("joined"):
            _drop_unnamed(table, keys.messages(uid))
        else:
            _empty_partition(table, keys.messages(uid))
    if "since" in doomed:  # it may have been a conversation's first body
        _empty_partition(table, keys.of_conversation(uid))
    table.delete_all([(keys.TRASH, uid)])


def _empty_conversation(table: Table, uid: str) -> None:
    """Take every run's lease away first; then nobody adds to them any more."""
    place = keys.of_conversation(uid)
    runs = list(table.query(under(place, "run#")))
    for group in _groups(runs, _RUNS_AT_ONCE):
        _remove_runs(table, group)
    uids = {row["uid"] for row in runs}
    for each in sorted(uids):
        _empty_run(table, each)
    uids |= {row["uid"] for row in table.query(under(place, "segment#", "uid"))}
    for each in sorted(uids):
        _empty_partition(table, keys.messages(each))
    _empty_partition(table, place)


def _remove_runs(table: Table, runs: Sequence[Row]) -> None:
    """Take away what runs are found and driven by."""
    heads = table.get_all(keys.run_head(row["run_id"]) for row in runs)
    known = {row["uid"]: row for row in heads.values()}
    _surely(table, [_removal(row, known.get(row["uid"])) for row in runs])


def _removal(run: Row, head: Row | None) -> list[Write]:
    writes = [
        *_run_rows(run["run_id"], run["uid"]),
        delete((keys.opened_by(run["driver"]), run["sk"].removeprefix("run#"))),
    ]
    if head and "completed_at" in head:  # it ends no more without its conversation
        writes.append(delete(keys.ended(head["completed_at"], run["uid"])))
    return writes


def _empty_run(table: Table, uid: str) -> None:
    place = keys.of_run(uid)
    jobs = table.query(under(place, "job#", "id"))
    named = dict.fromkeys(keys.job(row["id"]) for row in jobs)
    for group in _groups(named, _JOBS_AT_ONCE):
        _surely(table, [[delete(key, _OURS, uid=uid)] for key in group])
    _empty_partition(table, place)


def _surely(table: Table, parts: Sequence[Sequence[Write]]) -> None:
    """Do parts together; if one does not hold, each by itself, without that one."""
    try:
        table.transact([write for part in parts for write in part])
    except ConditionError:
        if len(parts) > 1:
            for part in parts:
                _surely(table, [part])


def _empty_partition(table: Table, place: str) -> None:
    table.delete_all(
        (row["pk"], row["sk"]) for row in table.query(under(place, "", "pk", "sk"))
    )


def _drop_unnamed(table: Table, place: str) -> None:
    """Remove the pieces of texts that no row of a partition names."""
    named = {
        row["bodies_at"]
        for row in table.query(under(place, "message#", "bodies_at"))
        if row
    }
    pieces = table.query(under(place, "text#", "pk", "sk"))
    table.delete_all(
        (row["pk"], row["sk"])
        for row in pieces
        if row["sk"].rpartition("#")[0] + "#" not in named
    )


def _groups(found: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    rest = iter(found)
    while group := list(islice(rest, size)):
        yield group
