"""Reading from the DynamoDB table: rows of the port out of rows of the table.

Every function may find that what it reads is being deleted, or that a transaction is
not yet to be seen in all of its rows; it says so with `GoneError`, and its caller
begins anew. A run is there as long as its
conversation is, and a conversation as long as its head. Nothing in here writes.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from attrs import fields, frozen

from agentloop.core.run import TERMINAL, Status
from agentloop.ports.engine import RunRef
from agentloop.ports.store import (
    ConversationRow,
    MessagePage,
    MessageRow,
    Reader,
    RunRow,
)
from agentloop.stores import dynamodb_keys as keys
from agentloop.stores.dynamodb_table import GoneError, Span, Table, under
from agentloop.stores.dynamodb_texts import sure, text_of, unpack
from agentloop.stores.dynamodb_values import Row
from agentloop.stores.rules import StoredStanding

_RUN_PARTS = ("head", "texts", "result")


@frozen(kw_only=True)
class Head:
    """The slim row of a run, with all that decides about it.

    `made` is its key in `open#`, where a row says whether the run is `held`.
    `beats` rises whenever the holder of a lease, which `lasts` so many microseconds,
    gives a sign of life. `beat_at` and `over_at` say when that was, and when the
    run's time is up; both by the holder's own clock, see `dynamodb_watch`.
    """

    id: str
    uid: str
    conversation_id: str
    conversation_uid: str
    company_id: int
    user_id: int
    client_op_id: str
    driver: str
    base_version: int
    started_at: str
    made: str
    status: Status = "pending"
    token: int = 0
    held: bool = False
    lasts: int = 0
    beats: int = 0
    beat_at: int = 0
    over_at: int | None = None
    revision: int = 0
    claimed_revision: int = 0
    iterations: int = 0
    staged: int = 0
    last_event: int = 0
    turn: int = 0
    open_results: int = 0
    has_setup: bool = False
    cancel_requested: bool = False
    joined: bool = False
    completed_at: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the run has ended."""
        return self.status in TERMINAL

    def standing(self) -> StoredStanding:
        """What decides who may write."""
        return StoredStanding(
            self.status,
            self.token,
            self.revision,
            self.claimed_revision,
            self.staged,
            self.last_event,
        )


_HEAD_FIELDS = tuple(each.name for each in fields(Head))


def head_of(row: Row) -> Head:
    """The head that a row of the table holds."""
    return Head(**{name: row[name] for name in _HEAD_FIELDS if name in row})


def row_of(head: Head) -> Row:
    """The row of the table that holds a head."""
    return {name: getattr(head, name) for name in _HEAD_FIELDS}


# ---------------------------------------------------------------- conversations


def conversation(
    table: Table, reader: Reader, conversation_id: str
) -> ConversationRow | None:
    """The conversation the reader sees under this id."""
    found = table.query(under(keys.conversation(conversation_id), ""))
    parts = {row["sk"]: row for row in found}
    if "head" not in parts or not _may(reader, parts["head"]):
        return None
    return _conversation(table, parts["head"], parts.get("body"))


def conversation_head(table: Table, conversation_id: str) -> Row | None:
    """Owner, version, uid and stamps of a conversation."""
    return table.get(keys.conversation_head(conversation_id))


def conversations(
    table: Table, reader: Reader, offset: int, limit: int
) -> tuple[tuple[ConversationRow, ...], int]:
    """A slice of what the reader sees, newest first, and the whole number."""
    place = keys.listed(reader.company_id, reader.user_id)
    everything = under(place, "", "sk", "id")
    newest = list(table.query(_backwards(everything)))
    first = max(offset, 0)
    ids = [row["id"] for row in newest[first : first + max(limit, 0)]]
    wanted = [key for each in ids for key in _conversation_keys(each)]
    found = table.get_all(wanted)
    rows = []
    for each in ids:
        head, body = (found.get(key) for key in _conversation_keys(each))
        if head is None:
            raise GoneError(f"the conversation {each} is gone")
        rows.append(_conversation(table, head, body))
    return tuple(rows), len(newest)


def _conversation_keys(conversation_id: str) -> tuple[tuple[str, str], ...]:
    return (
        keys.conversation_head(conversation_id),
        keys.conversation_body(conversation_id),
    )


def _backwards(span: Span) -> Span:
    return Span(span.partition, span.low, span.high, span.only, newest_first=True)


def _conversation(table: Table, head: Row, body: Row | None) -> ConversationRow:
    if body is None or body["uid"] != head["uid"]:
        raise GoneError("a conversation has lost its body")
    place = keys.of_conversation(head["uid"])
    return ConversationRow(
        id=head["id"],
        company_id=head["company_id"],
        user_id=head["user_id"],
        body=sure(text_of(table, place, body, "body")),
        version=head["version"],
        created_at=head["created_at"],
        updated_at=head["updated_at"],
    )


def _may(reader: Reader, row: Row) -> bool:
    return reader.sees(row["company_id"], row["user_id"])


# ---------------------------------------------------------------- messages


def page(
    table: Table, reader: Reader, conversation_id: str, bounds: tuple[int, int | None]
) -> MessagePage | None:
    """A conversation's messages after the first bound and up to the second.

    The version is read first, and only what it counts is shown: segments are never
    changed, so both are of one moment.
    """
    head = conversation_head(table, conversation_id)
    if head is None or not _may(reader, head):
        return None
    version = head["version"]
    since, until = max(bounds[0], 0), version if bounds[1] is None else bounds[1]
    rows = tuple(_between(table, head["uid"], since, min(until, version)))
    if len(rows) != max(min(until, version) - since, 0):
        raise GoneError(f"messages of {conversation_id} are gone")
    return MessagePage(version=version, rows=rows)


def _between(table: Table, uid: str, since: int, until: int) -> Iterator[MessageRow]:
    if since >= until:
        return
    place, low = keys.segment(uid, since + 1)
    for segment in table.query(Span(place, low, "segment#\x7f")):
        if segment["first"] > until:
            return
        yield from _of_segment(table, segment, since, until)


def _of_segment(
    table: Table, segment: Row, since: int, until: int
) -> Iterator[MessageRow]:
    first = segment["first"]
    low = max(since - first + 1, 0)
    high = min(until, segment["last"]) - first
    for position, at, body in staged(table, segment["uid"], low, high):
        yield MessageRow(
            run_id=segment["run_id"],
            position=position,
            sequence_no=first + position,
            body=body,
            created_at=at,
        )


def staged(
    table: Table, uid: str, low: int, high: int
) -> Iterator[tuple[int, str, str]]:
    """A run's messages from one position to another: position, stamp, body."""
    place, begin = keys.message(uid, low)
    for row in table.query(Span(place, begin, "message#\x7f")):
        if row["first"] > high:
            return
        bodies = unpack(sure(text_of(table, place, row, "bodies")))
        for position, body in enumerate(bodies, row["first"]):
            if low <= position <= high:
                yield position, row["at"], body


def bodies(table: Table, head: Head) -> tuple[str, ...]:
    """The messages a run has staged."""
    if not head.staged:
        return ()
    found = staged(table, head.uid, 0, head.staged - 1)
    texts = tuple(body for _, _, body in found)
    if len(texts) != head.staged:
        raise GoneError(f"messages of {head.id} are gone")
    return texts


# ---------------------------------------------------------------- runs


def head(table: Table, run_id: str) -> Head | None:
    """A run's head, whether its conversation is there or not."""
    row = table.get(keys.run_head(run_id))
    return None if row is None else head_of(row)


def lives(table: Table, head: Head) -> bool:
    """Whether a run's conversation is there."""
    row = conversation_head(table, head.conversation_id)
    return row is not None and row["uid"] == head.conversation_uid


def living(table: Table, run_id: str, reader: Reader | None = None) -> Head | None:
    """The head of a run whose conversation is there, if the reader sees the run."""
    found = head(table, run_id)
    if found is None or (reader and not reader.sees(found.company_id, found.user_id)):
        return None
    return found if lives(table, found) else None


def parts(table: Table, run_id: str) -> dict[str, Row]:
    """The rows of a run's partition: `head`, `texts` and `result`."""
    return {row["sk"]: row for row in table.query(under(keys.run(run_id), ""))}


def whole_run(table: Table, run_id: str) -> tuple[Head, RunRow] | None:
    """A run's head and row, if its conversation is there."""
    found = parts(table, run_id)
    if "head" not in found:
        return None
    head = head_of(found["head"])
    return (head, run_row(table, head, found)) if lives(table, head) else None


def seen_run(table: Table, reader: Reader, run_id: str) -> RunRow | None:
    """The run the reader sees under this id."""
    found = whole_run(table, run_id)
    if found is None or not reader.sees(found[1].company_id, found[1].user_id):
        return None
    return found[1]


def run_row(table: Table, head: Head, parts: dict[str, Row]) -> RunRow:
    """The port's row of a run, out of the rows of its partition."""
    place = keys.of_run(head.uid)
    texts, result = parts.get("texts"), parts.get("result")
    if texts is None or (head.ended and result is None):
        raise GoneError(f"rows of {head.id} are gone")
    ended = result if head.ended else None
    return RunRow(
        id=head.id,
        conversation_id=head.conversation_id,
        company_id=head.company_id,
        user_id=head.user_id,
        client_op_id=head.client_op_id,
        driver=head.driver,
        status=head.status,
        base_version=head.base_version,
        config=sure(text_of(table, place, texts, "config")),
        payload=sure(text_of(table, place, texts, "payload")),
        tool_choice=text_of(table, place, texts, "tool_choice"),
        iterations=head.iterations,
        result=text_of(table, place, ended, "result") if ended else None,
        cancel_requested=head.cancel_requested,
        started_at=head.started_at,
        completed_at=head.completed_at,
    )


def keyed_run(table: Table, conversation: Row, client_op_id: str) -> RunRow | None:
    """The run with this key in a conversation."""
    row = table.get(keys.client_key(conversation["uid"], client_op_id))
    if row is None:
        return None
    found = whole_run(table, row["run_id"])
    if found is None:
        raise GoneError(f"the run {row['run_id']} is gone")
    return found[1]


def found_run(table: Table, conversation_id: str, client_op_id: str) -> RunRow | None:
    """The run with this key, if its conversation is there."""
    where = conversation_head(table, conversation_id)
    return keyed_run(table, where, client_op_id) if where else None


def runs(table: Table, reader: Reader, conversation_id: str) -> tuple[RunRow, ...]:
    """The conversation's runs that the reader sees, oldest first."""
    where = conversation_head(table, conversation_id)
    if where is None:
        return ()
    place = keys.of_conversation(where["uid"])
    mine = [row for row in table.query(under(place, "run#")) if _may(reader, row)]
    found = []
    for group in _groups(mine):
        wanted = [(keys.run(row["run_id"]), sk) for row in group for sk in _RUN_PARTS]
        parts = table.get_all(wanted)
        found += [_listed(table, row["run_id"], parts) for row in group]
    return tuple(found)


def unclaimed(table: Table, driver: str, limit: int) -> tuple[RunRef, ...]:
    """A driver's runs that nobody has claimed yet, the oldest first.

    Those that were given back are held by nobody as well, so each head is asked.
    """
    place = keys.opened_by(driver)
    free = Span(place, " ", "\x7f", ("run_id",), "@held = :no", {"no": False})
    found: list[RunRef] = []
    for group in _groups(table.query(free)):
        wanted = [keys.run_head(row["run_id"]) for row in group]
        there = table.get_all(wanted)
        heads = [head_of(there[key]) for key in wanted if key in there]
        new = [each for each in heads if each.status == "pending"]
        found += [RunRef(e.id, e.company_id) for e in new if lives(table, e)]
        if len(found) >= limit:
            break
    return tuple(found[: max(limit, 0)])


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rest = iter(rows)
    while group := list(islice(rest, 30)):
        yield group


def _listed(table: Table, run_id: str, parts: dict[tuple[str, str], Row]) -> RunRow:
    place = keys.run(run_id)
    mine = {sk: parts[place, sk] for sk in _RUN_PARTS if (place, sk) in parts}
    if "head" not in mine:
        raise GoneError(f"the run {run_id} is gone")
    return run_row(table, head_of(mine["head"]), mine)
