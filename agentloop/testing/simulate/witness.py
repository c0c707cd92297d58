"""The witness: sees every answer of the real store, and judges it.

It compares with ledgers after each call, and looks at the whole picture when all
is over. The numbers in its verdicts are those of the invariants in the table of
`agentloop.testing.simulate.judge`.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

from agentloop.core.content import Message
from agentloop.core.history import problems
from agentloop.ports import (
    Checkpoint,
    Claim,
    ClaimRequest,
    Final,
    Lease,
    LeaseLostError,
    NewRunRow,
    Reader,
    RunRow,
)
from agentloop.runtime.desk import Desk
from agentloop.stores.memory import MemoryStore
from agentloop.testing.simulate.chance import Violation, WorldClock
from agentloop.testing.simulate.ledger import (
    Ledger,
    Shelf,
    parsed,
    require,
    same_insert,
)
from agentloop.testing.simulate.reads import Reads
from agentloop.wire import message_from
from agentloop.wire.checkpoint import header_text, state_from

_FENCED = frozenset({"heartbeat", "checkpoint", "finalize"})
_TELLING = frozenset({"heartbeat", "checkpoint"})
_OF_A_CONVERSATION = frozenset({"conversation", "messages", "runs"})
"""What is looked at by itself, and may well be there when a run is gone."""


@lru_cache(maxsize=4096)  # simulations say the same few things again and again
def as_message(text: str) -> Message:
    """The message of a stored text."""
    return message_from(text)


@lru_cache(maxsize=1024)  # the last look sees what the last end has shown
def _problems(texts: tuple[str, ...]) -> list[str]:
    return problems([as_message(text) for text in texts])


class Witness:
    """Ledgers of all runs and shelves of all conversations of one simulation."""

    def __init__(self, store: MemoryStore, clock: WorldClock, attempts: int) -> None:
        self.runs: dict[str, Ledger] = {}
        self.open: dict[str, Ledger] = {}
        """The runs that have not ended."""
        self.shelves: dict[str, Shelf] = {}
        self.moment = 0
        self._store = store
        self._clock = clock
        self._attempts = attempts
        self._judges: dict[str, Callable[..., None]] = {
            "insert_run": self._inserted,
            "find_run": self._found,
            "get_run": self.check_row,
            "request_cancel": self._flagged,
            "claim": self._claimed,
            "heartbeat": self._prolonged,
            "release": self._released,
            "checkpoint": self._checkpointed,
            "finalize": self._finalized,
            **Reads(self, clock).judges,
        }

    @property
    def _now(self) -> float:
        return self._clock.passed

    def saw(
        self, name: str, args: tuple[Any, ...], answer: Any, named: dict[str, Any]
    ) -> None:
        """Judge what the real store answered to a call."""
        self.moment += 1
        judge = self._judges.get(name)
        if judge is not None:
            judge(*args, answer, **named)

    def told(self, name: str, args: tuple[Any, ...], answer: Any) -> None:
        """Note which driver was really told of a cancel."""
        if name in _TELLING and answer is True:
            lease: Lease = args[0]
            self.runs[lease.run_id].heard = lease.token
        elif isinstance(answer, Claim) and answer.run.cancel_requested:
            self.runs[answer.lease.run_id].heard = answer.lease.token

    def refused(self, name: str, args: tuple[Any, ...], error: Exception) -> None:
        """Judge what the real store refused."""
        self.moment += 1
        if isinstance(error, LookupError):
            new: NewRunRow = args[0]
            gone = name == "insert_run" and self.shelves[new.conversation_id].gone
            require(gone, 5, f"{name} found nothing to work on")
        if name not in _FENCED:
            return
        lease: Lease = args[0]
        ledger = self.runs[lease.run_id]
        revision = ledger.revision if name == "heartbeat" else args[1]
        lost = isinstance(error, LeaseLostError)
        if lost and ledger.is_right(name, lease, revision):
            raise Violation(f"invariant 11: {name} by the rightful {lease} was refused")
        if lost:
            ledger.lost.add(lease.token)

    def forget(self, ledger: Ledger) -> None:
        """A run is gone: nobody may see it again, or write to it."""
        ledger.gone = True
        self.open.pop(ledger.inserted.id, None)

    # ------------------------------------------------------------ callers

    def _inserted(self, new: NewRunRow, answer: tuple[RunRow, bool]) -> None:
        row, created = answer
        shelf = self.shelves[new.conversation_id]
        known = shelf.keys.get(new.client_op_id)
        if known is not None:
            kept = not created and row.id == known
            require(kept, 5, f"{new.client_op_id} made {row.id} beside {known}")
            self.check_row(None, row.id, row)
            return
        require(not shelf.gone, 5, f"{row.id} began in a conversation that is gone")
        require(created and same_insert(row, new), 5, f"{row.id} came for {new.id}")
        current = shelf.version == row.base_version == new.expected_version
        require(current, 3, f"{row.id} began at {row.base_version}, not the newest")
        shelf.keys[new.client_op_id] = row.id
        self.runs[row.id] = self.open[row.id] = Ledger(row, self._attempts)

    def _found(self, conversation_id: str, key: str, answer: RunRow | None) -> None:
        known = self.shelves[conversation_id].keys.get(key)
        found = None if answer is None else answer.id
        require(found == known, 5, f"{key} found {found}, not {known}")

    def check_row(self, reader: Reader | None, run_id: str, row: RunRow | None) -> None:
        """Compare what a reader was told of a run; None: whoever has its key."""
        ledger = self.runs.get(run_id)
        if ledger is not None and ledger.gone:
            ledger = None
        if reader and ledger and not reader.sees(ledger.inserted.company_id, 0):
            require(row is None, 15, f"{reader} sees {run_id}")
            return
        if row is None or ledger is None:
            require(row is None and ledger is None, 5, f"{run_id} is {row is None}")
            return
        if not same_insert(ledger.inserted, row):
            raise Violation(f"invariant 5: {run_id} changed")
        if ledger.ended is not None and row != ledger.ended:
            raise Violation(f"invariant 7: {run_id} ended otherwise before")
        seen, known = (row.status, row.iterations), (ledger.status, ledger.iterations)
        if seen != known:
            raise Violation(f"invariant 7: {run_id} is {seen}, not {known}")

    def _flagged(self, reader: Reader, run_id: str, row: RunRow | None) -> None:
        self.check_row(reader, run_id, row)
        ledger = self.runs[run_id]
        if row is None or ledger.ended is not None:
            return
        require(row.cancel_requested, 20, f"the cancel of {run_id} was not kept")
        if ledger.cancelled_at is None:
            ledger.cancelled_at = self.moment

    # ------------------------------------------------------------ drivers

    def _claimed(self, request: ClaimRequest, claim: Claim | None) -> None:
        if claim is None:
            wanted = {request.run_id} if request.run_id else self.open.keys()
            now = self._now
            due = [
                id_ for id_ in self.open if id_ in wanted and self.open[id_].is_due(now)
            ]
            require(not due, 19, f"{due} are due, and none was handed out")
            return
        ledger = self.runs[claim.lease.run_id]
        ledger.claimed(claim, self._now, request.lease_seconds)

    def has_ended(self, run_id: str) -> bool:
        """Whether a run is known to have ended, or to be gone."""
        return run_id in self.runs and run_id not in self.open

    def anything_due(self) -> bool:
        """Whether a claim must succeed now."""
        now = self._now
        return any(ledger.lease_until <= now for ledger in self.open.values())

    def _prolonged(self, lease: Lease, seconds: float, flagged: bool) -> None:
        self.runs[lease.run_id].prolonged(lease, flagged, self._now, seconds)

    def _released(self, lease: Lease, _: None) -> None:
        self.runs[lease.run_id].released(lease)
        with suppress(LeaseLostError):
            self._store.heartbeat(lease, 0.0)
            raise Violation(f"invariant 11: {lease} was given back, and still writes")

    def _checkpointed(
        self,
        lease: Lease,
        revision: int,
        change: Checkpoint,
        *rest: Any,
    ) -> None:
        seconds, flagged = rest
        ledger = self.runs[lease.run_id]
        if ledger.checkpointed(lease, revision, change, flagged):
            ledger.intend(self.moment)
            ledger.lease_until = self._now + seconds
        self.look(ledger)

    def _finalized(
        self, lease: Lease, revision: int, final: Final, row: RunRow
    ) -> None:
        ledger = self.runs[lease.run_id]
        if ledger.finalized(lease, revision, final, row):
            shelf = self.shelves[row.conversation_id]
            shelf.joined(ledger, row, final)
            ledger.ended_at = self.moment
            del self.open[row.id]
            self.check_history(shelf)
            self._check_stranger(ledger)
        self.look(ledger)

    # ------------------------------------------------------------ the whole picture

    def look(self, ledger: Ledger) -> None:
        """Compare a run and its conversation with what every reader sees."""
        row = ledger.inserted
        if ledger.gone:
            self._check_gone(ledger)
            return
        staged = list(self._store.run_messages(row.id))
        if staged != ledger.messages:
            raise Violation(f"invariant 1: {row.id} staged {len(staged)}")
        reader = Reader(row.company_id)
        self.check_row(None, row.id, self._store.get_run(reader, row.id))
        self.look_at(row.conversation_id)

    def look_at(self, conversation_id: str) -> None:
        """Compare a conversation with what its readers see."""
        reader = Reader(self.shelves[conversation_id].company_id)
        page = self._store.messages(reader, conversation_id)
        self._judges["messages"](reader, conversation_id, page)

    def _check_gone(self, ledger: Ledger) -> None:
        """Its own readers are told no more than strangers."""
        row = ledger.inserted
        told = self._seen_by(Reader(row.company_id), ledger) - _OF_A_CONVERSATION
        staged = self._store.run_messages(row.id)
        left = self._store.run_setup(row.id)
        require(not (told or staged or left), 7, f"{row.id} is gone, but for {told}")

    def _seen_by(self, reader: Reader, ledger: Ledger) -> set[str]:
        row, where, store = (
            ledger.inserted,
            ledger.inserted.conversation_id,
            self._store,
        )
        seen = {
            "run": store.get_run(reader, row.id),
            "conversation": store.get_conversation(reader, where),
            "messages": store.messages(reader, where),
            "runs": store.list_runs(reader, where),
            "jobs": store.list_jobs(reader, row.id),
            "events": store.events(reader, row.id),
            "job": ledger.jobs and store.get_job(reader, ledger.jobs[0].id),
        }
        return {name for name, found in seen.items() if found}

    def _check_stranger(self, ledger: Ledger) -> None:
        """Another company's reader is shown nothing, whatever it asks for."""
        row, where = ledger.inserted, ledger.inserted.conversation_id
        stranger = Reader(row.company_id + 1)
        told = self._seen_by(stranger, ledger)
        require(not told, 15, f"a stranger sees of {row.id}: {told}")
        listed, number = self._store.list_conversations(stranger, 0, 100)
        known = where in {each.id for each in listed} or len(listed) != number
        require(not known, 15, f"a stranger is told of {where}")

    def check_desk(self, desk: Desk) -> None:
        """What was just committed must give back the very state it came from."""
        ledger, state = self.runs[desk.journal.run_id], desk.state
        if ledger.checked == ledger.revision or desk.finished or ledger.header is None:
            return
        told = parsed(ledger.header)
        if told.get("idle") or ledger.token != desk.journal.lease.token:
            return
        ledger.checked = ledger.revision
        log = list(map(as_message, ledger.messages))
        known = state_from(
            ledger.header, state.plan, state.routing, log, ledger.results
        )
        require(known == state, 13, f"{desk.journal.run_id}: another state was stored")
        same = header_text(known, remembered=told.get("remembered")) == ledger.header
        require(same, 13, f"{desk.journal.run_id}: another header was stored")

    def check_history(self, shelf: Shelf) -> None:
        """A conversation's messages make a legal history."""
        found = _problems(tuple([text for _, _, text in shelf.rows]))
        require(not found, 6, found)
