"""What a store must know by now: an independent model, fed by what was answered.

It follows the port's text, not a store's code. Every answer of the real store is
compared with it at once; the first difference is a violation.
"""

import json
from functools import lru_cache
from operator import attrgetter
from typing import Any

from attrs import define, field

from agentloop.core.run import Status
from agentloop.ports import (
    AttemptRow,
    Checkpoint,
    Claim,
    Final,
    JobRow,
    Lease,
    NewRunRow,
    RunRow,
)
from agentloop.runtime.present import job_id
from agentloop.stores.memory_rows import attempt_row
from agentloop.testing.simulate.chance import Violation

CANARY = "hunter2-canary"
"""What a tool knows, and raises with its errors; no row may hold it."""
_TOKENS = (
    "prompt_tokens",
    "completion_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
)
MAX_HEADER = 400
"""Characters of a header without open calls; each of those may add a few more."""


def require(holds: bool, invariant: int, told: object) -> None:
    """Stop the simulation unless an invariant holds."""
    if not holds:
        raise Violation(f"invariant {invariant}: {told}")


@define
class Ledger:
    """One run, as it must be stored."""

    inserted: RunRow
    max_attempts: int
    status: Status = "pending"
    token: int = 0
    given_back: bool = False
    in_vain: int = 0
    lease_until: float = 0.0
    revision: int = 0
    checked: int = 0
    claimed_revision: int = 0
    iterations: int = 0
    setup: str | None = None
    header: str | None = None
    messages: list[str] = field(factory=list)
    results: dict[str, str] = field(factory=dict)
    jobs: list[JobRow] = field(factory=list)
    attempts: list[AttemptRow] = field(factory=list)
    last_event: int = 0
    last_change: Checkpoint | None = None
    cancelled_at: int | None = None
    ended: RunRow | None = None
    ended_by: int = 0
    gone: bool = False
    lost: set[int] = field(factory=set)
    """The tokens whose holders were told that they have lost it."""
    ended_at: int = 0
    heard: int = 0
    """The token whose holder was told of the cancel."""
    intents: dict[tuple[str, int], int] = field(factory=dict)
    begun: dict[tuple[str, int], int] = field(factory=dict)
    spent: list[int] = field(factory=lambda: [0] * 5)

    # ------------------------------------------------------------ driving

    def claimed(self, claim: Claim, now: float, lease_seconds: float) -> None:
        """A claim was handed out: it must be due, and tell all that was stored."""
        told = f"claim {claim.lease.token} of {claim.lease.run_id}"
        over = self.ended is not None or self.gone
        require(not over, 7, f"{told}: it has ended, or is gone")
        require(self.lease_until <= now, 11, f"{told}: its lease still runs")
        require(claim.lease.token > self.token, 11, f"{told}: after {self.token}")
        require(self._is_told_by(claim), 13, f"{told}: it tells another story")
        self.in_vain += 1
        require(claim.in_a_row == self.in_vain, 19, f"{told}: {claim.in_a_row} in vain")
        self.status = "running"
        self.token, self.given_back = claim.lease.token, False
        self.claimed_revision = self.revision
        self.lease_until = now + lease_seconds

    def _is_told_by(self, claim: Claim) -> bool:
        return (
            claim.revision == self.revision
            and claim.setup == self.setup
            and claim.header == self.header
            and list(claim.messages) == self.messages
            and dict(claim.results) == self.results
            and claim.last_event == self.last_event
            and claim.run.iterations == self.iterations
            and claim.run.cancel_requested == (self.cancelled_at is not None)
        )

    def prolonged(
        self, lease: Lease, flagged: bool, now: float, lease_seconds: float
    ) -> None:
        """A heartbeat got through: only the newest holder's may."""
        self.holds(lease, "heartbeat")
        self._knows_cancel(flagged)
        self.lease_until = now + lease_seconds

    def released(self, lease: Lease) -> None:
        """A lease was given back; a lost one is nobody's business."""
        if self._is_held_by(lease):
            self.given_back = True
            self.in_vain = 0
            self.lease_until = 0.0

    def checkpointed(
        self, lease: Lease, revision: int, change: Checkpoint, flagged: bool
    ) -> bool:
        """A checkpoint was accepted; returns whether it was a new one."""
        self.holds(lease, "checkpoint")
        self._knows_cancel(flagged)
        if revision + 1 == self.revision and revision >= self.claimed_revision:
            same = change == self.last_change
            require(same, 12, f"revision {revision} was repeated with another change")
            return False
        require(revision == self.revision, 11, f"a commit after {revision} was taken")
        self._commit(change)
        return True

    def finalized(self, lease: Lease, revision: int, final: Final, row: RunRow) -> bool:
        """A finalize was answered; returns whether it was this one that ended."""
        if self.ended is not None and not self.gone:
            require(lease.token == self.ended_by, 4, f"{lease} ended it again")
            require(row == self.ended, 7, f"{row.id} ended otherwise before")
            return False
        self.holds(lease, "finalize")
        require(revision == self.revision, 11, f"an end after {revision} was taken")
        if self.heard == lease.token and row.status != "failed":
            told = f"{row.id} is {row.status}, and its driver heard of the cancel"
            raise Violation(f"invariant 20: {told}")
        self._commit(final.last)
        self.last_event += 1
        self.ended, self.ended_by, self.status = row, lease.token, row.status
        return True

    def holds(self, lease: Lease, what: str) -> None:
        """Whoever wrote must have been the newest holder of a run under way."""
        if self.gone:
            raise Violation(f"invariant 7: {what} by {lease} after the removal")
        if lease.token != self.token or self.given_back:
            raise Violation(f"invariant 11: {what} by {lease}, now {self.token}")
        if self.ended is not None:
            raise Violation(f"invariant 7: {what} by {lease} after the end")

    def is_due(self, now: float) -> bool:
        """Whether a claim must get this run now."""
        return self.ended is None and self.lease_until <= now

    def is_right(self, what: str, lease: Lease, revision: int) -> bool:
        """Whether a store has no reason to refuse this holder."""
        if self.gone:
            return False
        if self.ended is not None:
            return what == "finalize" and lease.token == self.ended_by
        fits = revision in {self.revision, self.revision - 1}
        return self._is_held_by(lease) and fits

    def _is_held_by(self, lease: Lease) -> bool:
        newest = lease.token == self.token and not (self.given_back or self.gone)
        return newest and self.ended is None

    def _knows_cancel(self, flagged: bool) -> None:
        known = self.cancelled_at is not None
        if flagged != known:
            raise Violation(
                f"invariant 20: cancel is {known}, a driver heard {flagged}"
            )

    def _commit(self, change: Checkpoint) -> None:
        run_id = self.inserted.id
        if change.messages:
            here, there = len(self.messages), change.first_message
            require(here == there, 1, f"{run_id}: message {there} came after {here}")
            self.messages.extend(change.messages)
            self.results.clear()
        if change.results:
            again = self.results.keys() & {key for key, _ in change.results}
            require(not again, 12, f"{run_id}: results {sorted(again)} came twice")
            self.results.update(change.results)
        require(self.setup is None or change.setup is None, 13, "a second setup")
        self.setup = change.setup or self.setup
        self.jobs.extend(change.jobs)
        self.attempts.extend(map(attempt_row, change.attempts))
        self._spend(change)
        for event in change.events:
            self.last_event += 1
            if event.id != self.last_event:
                last = f"event {event.id}, not {self.last_event}"
                raise Violation(f"invariant 2: {run_id}: {last}")
        self.header, self.iterations = change.header, change.iterations
        self.revision += 1
        self.in_vain = 0
        self.last_change = change
        self._check_rows(change)

    def _spend(self, change: Checkpoint) -> None:
        """Add up what the attempts cost, in numbers of our own."""
        for attempt in change.attempts:
            told = parsed(attempt.body).get("usage")
            if told is None:
                self.spent[4] += 1
                continue
            for at, name in enumerate(_TOKENS):
                self.spent[at] += told.get(name, 0)

    def _check_rows(self, change: Checkpoint) -> None:
        """What must hold of a run's rows after each commit."""
        run_id, number = self.inserted.id, len(self.jobs)
        first = number - len(change.jobs) + 1  # those before were checked before
        expected = [job_id(run_id, n) for n in range(first, change.iterations + 1)]
        if number != change.iterations or [job.id for job in change.jobs] != expected:
            raise Violation(f"invariant 8: {run_id} has {number} jobs")
        rows = 1 + number + len(self.attempts)
        if rows > 4 + 2 * (len(self.intents) + 1):
            told = f"{rows} rows for {len(self.intents)} effects"
            raise Violation(f"invariant 17: {told}")
        if any(CANARY in text for text in _texts(change)):
            raise Violation(f"invariant 16: {run_id} has stored a secret")

    # ------------------------------------------------------------ effects

    def intend(self, moment: int) -> None:
        """Note which effects the newest header allows to begin."""
        if self.header is None:
            return
        value = parsed(self.header)
        usage, told = value["usage"], self.inserted.id
        if usage != self.spent:
            raise Violation(f"invariant 14: {told}: {usage}, attempts {self.spent}")
        phase = value["phase"]
        match phase["kind"]:
            case "inferring":
                self._allow(f"infer {self.iterations}", phase["try"][0], moment)
            case "discovering":
                self._allow("discover", phase["try"][0], moment)
            case "calling":
                for key in _call_keys(self.messages[-1], self.iterations):
                    attempt = phase["tries"].get(key, [1])[0]
                    self._allow(key, attempt, moment)
            case _:
                return
        size = MAX_HEADER + 40 * len(phase.get("tries", ()))
        require(len(self.header) <= size, 17, f"a header of {len(self.header)}")

    def _allow(self, key: str, attempt: int, moment: int) -> None:
        self.intents.setdefault((key, attempt), moment)

    def begin(self, lease: Lease, key: str, attempt: int, moment: int) -> None:
        """An effect begins: intended, within its attempts, and never again."""
        place, told = (key, attempt), f"{key} attempt {attempt} of {lease.run_id}"
        if self.ended is not None and lease.token == self.ended_by:
            raise Violation(f"invariant 7: {told} begins after the end")
        require(lease.token not in self.lost, 11, f"{told} begins without its lease")
        require(place in self.intents, 10, f"{told} begins without an intent")
        require(place not in self.begun, 9, f"{told} begins a second time")
        require(attempt <= self.max_attempts, 21, f"{told} is one too many")
        flagged = self.cancelled_at
        in_time = flagged is None or self.intents[place] < flagged
        heard = self.heard == lease.token
        told = f"{told} begins after its driver heard of the cancel"
        require(in_time and not heard, 20, told)
        self.begun[place] = moment


@lru_cache(maxsize=4096)
def parsed(text: str) -> Any:
    """The JSON value of a stored text, which nobody may change.

    Many texts are read several times, and simulations say the same few things again
    and again.
    """
    return json.loads(text)


@lru_cache(maxsize=4096)
def _call_keys(message: str, iteration: int) -> list[str]:
    blocks = json.loads(message)["content_blocks"]
    uses = [block for block in blocks if block["type"] == "tool_use"]
    return [f"{iteration}.{i}" for i in range(len(uses))]


def _texts(change: Checkpoint) -> list[str]:
    """All that a change stores, but for the setup, which is the host's own."""
    return [
        change.header,
        *change.messages,
        *[text for _, text in change.results],
        *[job.body for job in change.jobs],
        *[attempt.body for attempt in change.attempts],
        *[event.body for event in change.events],
    ]


@define
class Shelf:
    """One conversation, as its readers must see it."""

    company_id: int
    gone: bool = False
    version: int = 0
    rows: list[tuple[str, int, str]] = field(factory=list)
    keys: dict[str, str] = field(factory=dict)

    def joined(self, ledger: Ledger, row: RunRow, final: Final) -> None:
        """A run ended: all of its messages are in, or none."""
        base = ledger.inserted.base_version
        in_time = self.version == base
        expected = final.status if in_time or not final.keep else "failed"
        require(row.status == expected, 3, f"{row.id}: {row.status}, not {expected}")
        result = final.result if in_time or not final.keep else final.conflict_result
        require(row.result == result, 3, f"{row.id} ended with another result")
        if final.keep and not in_time and final.status != "failed":
            type_ = "AgentLoopConcurrentConversationAppend"
            require(type_ in (row.result or ""), 3, f"{row.id} does not say {type_}")
        if final.keep and in_time:
            for text in ledger.messages:
                self.version += 1
                self.rows.append((row.id, self.version, text))


_fixed = attrgetter(
    "id", "conversation_id", "client_op_id", "config", "payload", "user_id"
)


def same_insert(one: RunRow, other: RunRow | NewRunRow) -> bool:
    """Whether what never changes of a run is the same."""
    return _fixed(one) == _fixed(other)
