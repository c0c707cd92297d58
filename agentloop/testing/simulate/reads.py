"""What readers are told, and what is removed: judged with every answer of the store.

A reader sees all of what its own company has, at every moment, and nothing of what
was removed: that is told as if it had never been. What is removed here is forgotten
by the ledgers as well, and whoever still drives it can commit nothing.
"""

from collections.abc import Callable
from typing import Any, Protocol

from agentloop.ports import (
    AttemptRow,
    ConversationRow,
    EventRow,
    JobRow,
    MessagePage,
    Reader,
    RunRow,
)
from agentloop.stores.clock import moment
from agentloop.testing.simulate.chance import WorldClock
from agentloop.testing.simulate.ledger import Ledger, Shelf, require

KEPT = 86_400.0
"""Seconds for which an ended run is kept whatever is asked for."""


class Known(Protocol):
    """What a judge of reads has to know, and whom it tells of removals."""

    runs: dict[str, Ledger]
    shelves: dict[str, Shelf]

    def check_row(self, reader: Reader | None, run_id: str, row: RunRow | None) -> None:
        """Compare what a reader was told of a run."""
        ...

    def forget(self, ledger: Ledger) -> None:
        """A run is gone."""
        ...


class Reads:
    """The judge of reads and removals."""

    def __init__(self, known: Known, clock: WorldClock) -> None:
        self._known = known
        self._clock = clock
        self.judges: dict[str, Callable[..., None]] = {
            "get_conversation": self._conversation,
            "list_conversations": self._conversations,
            "messages": self._messages,
            "list_runs": self._runs,
            "list_jobs": self._jobs,
            "get_job": self._job,
            "events": self._events,
            "delete_conversation": self._deleted,
            "prune": self._pruned,
        }

    # ------------------------------------------------------------ reads

    def _conversation(
        self, reader: Reader, id_: str, row: ConversationRow | None
    ) -> None:
        shelf = self._seen(reader, id_)
        if shelf is None or row is None:
            same = shelf is None and row is None
            require(same, 15, f"{reader} sees of {id_}: {row}")
            return
        require(row.version == shelf.version, 2, f"{id_} is at {row.version}")

    def _conversations(
        self,
        reader: Reader,
        offset: int,
        limit: int,
        found: tuple[tuple[ConversationRow, ...], int],
    ) -> None:
        rows, number = found
        own = {id_ for id_ in self._known.shelves if self._seen(reader, id_)}
        told = f"{reader} is told of {number} conversations"
        require(number == len(own), 15, told)
        whole = offset == 0 and limit >= number
        listed = {row.id for row in rows}
        require(listed == own if whole else listed <= own, 15, told)

    def _messages(
        self, reader: Reader, id_: str, *rest: Any, until: int | None = None
    ) -> None:
        since, until, answer = _span(rest, until)
        page: MessagePage | None = answer
        shelf = self._seen(reader, id_)
        if shelf is None or page is None:
            same = shelf is None and page is None
            require(same, 15, f"{reader} reads of {id_}: {page}")
            return
        require(page.version == shelf.version, 2, f"{id_} is at {page.version}")
        last = shelf.version if until is None else until
        seen = [(row.run_id, row.sequence_no, row.body) for row in page.rows]
        known = shelf.rows[since:last]
        require(seen == known, 1, f"{id_} shows {len(seen)} rows after {since}")

    def _runs(self, reader: Reader, id_: str, rows: tuple[RunRow, ...]) -> None:
        shelf = self._seen(reader, id_)
        ledgers = self._known.runs.values() if shelf else ()
        known = {
            ledger.inserted.id
            for ledger in ledgers
            if ledger.inserted.conversation_id == id_ and not ledger.gone
        }
        ids = [row.id for row in rows]
        same = set(ids) == known and len(ids) == len(known)
        require(same, 5, f"{id_} has the runs {ids}, not {sorted(known)}")
        for row in rows:
            self._known.check_row(reader, row.id, row)

    def _jobs(self, reader: Reader, run_id: str, rows: tuple[JobRow, ...]) -> None:
        ledger = self._run(reader, run_id)
        known = ledger.jobs if ledger else []
        require(list(rows) == known, 8, f"{run_id} shows {len(rows)} jobs")

    def _job(
        self,
        reader: Reader,
        job_id: str,
        found: tuple[JobRow, tuple[AttemptRow, ...], RunRow] | None,
    ) -> None:
        seen = [id_ for id_ in self._known.runs if self._run(reader, id_)]
        ledgers = [self._known.runs[id_] for id_ in seen]
        jobs = {job.id: ledger for ledger in ledgers for job in ledger.jobs}
        ledger = jobs.get(job_id)
        if ledger is None or found is None:
            same = ledger is None and found is None
            require(same, 15, f"{reader} sees of job {job_id}: {found}")
            return
        job, attempts, row = found
        require(job in ledger.jobs, 8, f"{job_id} is another one")
        known = [each for each in ledger.attempts if each.iteration == job.iteration]
        require(list(attempts) == known, 14, f"{job_id} has other attempts")
        self._known.check_row(reader, row.id, row)

    def _events(self, reader: Reader, run_id: str, *rest: Any) -> None:
        *after, answer = rest
        rows: tuple[EventRow, ...] = answer
        ledger = self._run(reader, run_id)
        last = ledger.last_event if ledger else 0
        known = list(range((after or [0])[0] + 1, last + 1))
        ids = [row.id for row in rows]
        require(ids == known, 2, f"{run_id} shows the events {ids}, not {known}")

    # ------------------------------------------------------------ removals

    def _deleted(self, reader: Reader, id_: str, done: bool) -> None:
        shelf = self._seen(reader, id_)
        require(done == (shelf is not None), 15, f"{reader} deletes {id_}: {done}")
        if shelf is None:
            return
        shelf.gone = True
        shelf.keys.clear()
        for ledger in list(self._known.runs.values()):
            if ledger.inserted.conversation_id == id_:
                self._known.forget(ledger)

    def _pruned(self, before: str, number: int) -> None:
        """Which runs go is said by the store's own wall clock."""
        now = self._clock.now().timestamp()
        limit = min(moment(before).timestamp(), now - KEPT)
        old = [
            ledger
            for ledger in self._known.runs.values()
            if not ledger.gone and _ended_before(ledger, limit)
        ]
        require(number == len(old), 5, f"{number} runs were pruned, not {len(old)}")
        for ledger in old:
            row = ledger.inserted
            del self._known.shelves[row.conversation_id].keys[row.client_op_id]
            self._known.forget(ledger)

    # ------------------------------------------------------------ who sees what

    def _seen(self, reader: Reader, id_: str) -> Shelf | None:
        shelf = self._known.shelves.get(id_)
        if shelf is None or shelf.gone or not reader.sees(shelf.company_id, 1):
            return None
        return shelf

    def _run(self, reader: Reader, run_id: str) -> Ledger | None:
        ledger = self._known.runs.get(run_id)
        if ledger is None or ledger.gone:
            return None
        row = ledger.inserted
        return ledger if reader.sees(row.company_id, row.user_id) else None


def _span(
    rest: tuple[Any, ...], until: int | None
) -> tuple[int, int | None, MessagePage | None]:
    """From where, to where, and the answer, of a call with or without these two."""
    *span, answer = rest
    since = span[0] if span else 0
    return since, span[1] if len(span) > 1 else until, answer


def _ended_before(ledger: Ledger, limit: float) -> bool:
    ended = None if ledger.ended is None else ledger.ended.completed_at
    return ended is not None and moment(ended).timestamp() < limit
