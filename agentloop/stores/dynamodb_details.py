"""Reading from the DynamoDB table what a run's checkpoints brought, but its messages.

What was committed is told by the run's head, which is read first. As in
`dynamodb_rows`, `GoneError` says that the run was deleted meanwhile. Nothing in here
writes.
"""

from collections.abc import Iterable

from agentloop.ports.store import AttemptRow, EventRow, JobRow, Reader, RunRow
from agentloop.stores import dynamodb_keys as keys
from agentloop.stores import dynamodb_rows as rows
from agentloop.stores.dynamodb_rows import Head
from agentloop.stores.dynamodb_table import GoneError, Span, Table, under
from agentloop.stores.dynamodb_texts import sure, text_of, unpack
from agentloop.stores.dynamodb_values import Row


def checkpointed(table: Table, head: Head) -> tuple[str | None, str | None]:
    """The setup and the last header that checkpoints left."""
    if head.revision == 0:  # nothing can be there
        return None, None
    place = keys.of_run(head.uid)
    found = table.get_all([(place, "setup"), (place, "header")])
    setup, header = (found.get((place, name), {}) for name in ("setup", "header"))
    if head.has_setup and not setup:
        raise GoneError(f"the setup of {head.id} is gone")
    return (
        text_of(table, place, setup, "setup"),
        text_of(table, place, header, "header"),
    )


def results(table: Table, head: Head) -> tuple[tuple[str, str], ...]:
    """The results of a run's unfinished turn, in the order they came."""
    if not head.open_results:
        return ()
    place = keys.of_run(head.uid)
    prefix = keys.result(head.uid, head.turn, 0)[1].rpartition("#")[0] + "#"
    found: list[tuple[str, str]] = []
    for row in table.query(under(place, prefix)):
        packed = tuple(unpack(sure(text_of(table, place, row, "results"))))
        found += list(zip(packed[::2], packed[1::2], strict=True))
    if len(found) != head.open_results:
        raise GoneError(f"results of {head.id} are gone")
    return tuple(found)


def open_keys(table: Table, head: Head) -> set[str]:
    """The keys of the results of a run's unfinished turn."""
    if not head.open_results:
        return set()
    place = keys.of_run(head.uid)
    prefix = keys.result_keys(head.uid, head.turn, 0)[1].rpartition("#")[0] + "#"
    found: set[str] = set()
    for row in table.query(under(place, prefix)):
        found.update(unpack(sure(text_of(table, place, row, "keys"))))
    return found


def run_messages(table: Table, run_id: str) -> tuple[str, ...]:
    """The messages a run has staged, if its conversation is there."""
    found = rows.living(table, run_id)
    return rows.bodies(table, found) if found else ()


def run_setup(table: Table, run_id: str) -> str | None:
    """The setup a run stored, if its conversation is there."""
    found = rows.living(table, run_id)
    return checkpointed(table, found)[0] if found else None


def committed(table: Table, head: Head, found: Iterable[Row]) -> list[Row]:
    """The rows that belong to what was committed when a head was read.

    A row that was written ahead of a very wide commit names it; whether it was that
    commit which happened then says a row that came with it.
    """
    known = [row for row in found if row["revision"] <= head.revision]
    happened: dict[int, str] = {}
    for revision in {row["revision"] for row in known if "ahead" in row}:
        row = table.get(keys.commit(head.uid, revision))
        happened[revision] = row["name"] if row else ""
    return [
        row
        for row in known
        if "ahead" not in row or row["ahead"] == happened[row["revision"]]
    ]


def job(
    table: Table, reader: Reader, job_id: str
) -> tuple[JobRow, tuple[AttemptRow, ...], RunRow] | None:
    """A job with its attempts and its run, if the reader sees the run."""
    where = table.get(keys.job(job_id))
    if where is None:
        return None
    found = rows.whole_run(table, where["run_id"])
    if found is None or not reader.sees(found[0].company_id, found[0].user_id):
        return None
    head, run = found
    row = table.get(keys.run_job(where["uid"], where["iteration"]))
    mine = [row] if row and head.uid == where["uid"] and row["id"] == job_id else []
    for each in committed(table, head, mine):
        return _job(table, head, each), _attempts(table, head, each["iteration"]), run
    return None


def jobs(table: Table, reader: Reader, run_id: str) -> tuple[JobRow, ...]:
    """The run's jobs by iteration, if the reader sees the run."""
    head = rows.living(table, run_id, reader)
    if head is None:
        return ()
    found = table.query(under(keys.of_run(head.uid), "job#"))
    return tuple(_job(table, head, row) for row in committed(table, head, found))


def _job(table: Table, head: Head, row: Row) -> JobRow:
    body = text_of(table, keys.of_run(head.uid), row, "body")
    return JobRow(
        id=row["id"], run_id=head.id, iteration=row["iteration"], body=sure(body)
    )


def _attempts(table: Table, head: Head, iteration: int) -> tuple[AttemptRow, ...]:
    place, sk = keys.attempt(head.uid, iteration, 0)
    found = table.query(under(place, sk.rpartition("#")[0] + "#"))
    done = committed(table, head, found)
    return tuple(
        AttemptRow(
            run_id=head.id,
            iteration=iteration,
            number=row["number"],
            body=sure(text_of(table, place, row, "body")),
            response=text_of(table, place, row, "response"),
        )
        for row in done
    )


def events(
    table: Table, reader: Reader, run_id: str, after: int
) -> tuple[EventRow, ...]:
    """The run's events with a higher id, if the reader sees the run."""
    head = rows.living(table, run_id, reader)
    after = max(after, 0)
    if head is None or after >= head.last_event:
        return ()
    place, low = keys.event(head.uid, after + 1)
    kept: list[EventRow] = []
    read = table.query(Span(place, low, "event#\x7f"))
    for row in committed(table, head, read):
        packed = tuple(unpack(sure(text_of(table, place, row, "events"))))
        for number, body in zip(packed[::2], packed[1::2], strict=True):
            kept.append(EventRow(int(number), body))
    if not kept or kept[-1].id != head.last_event:
        raise GoneError(f"events of {head.id} are gone")
    return tuple(event for event in kept if event.id > after)
