"""The last look, and the invariants by number, as verdicts name them.

1 messages are seen all or none, 2 versions and ids without gaps, 3 one run per base
version, 4 one end per run, 5 one run per key, 6 legal histories, 7 an end is the end,
8 jobs are the iterations, 9 calls run once, or at least once where that is allowed,
10 intents before effects, 11 only the newest holder writes, 12 answers count once,
13 what is stored gives back the state, 14 usage is the sum of the attempts, 15 tenants
see their own, 16 no secret is stored, 17 few and small rows, 18 typed errors only,
19 everything ends, 20 cancels and deadlines are heard, and effects have ends, 21
attempts are capped, spaced, and made of what may pass only.

They are checked as it happens: with every answer of the store, reads and removals
among them (1 to 5, 7, 8, 11 to 17, 20), every effect that begins (7, 9 to 11, 20, 21)
or is executed (9), every end (6, 15, 20). What is removed counts as never having been:
no effect is intended and no message seen after that. What is here can be said of a run
only when all is over: that it ended (19), that each attempt which began left a record,
with what it really cost (14), that every result came from a call that ran (9), and that
what is read back is all that was stored.
"""

from collections.abc import Iterator
from functools import lru_cache

from agentloop.core.content import ToolResult, tool_uses
from agentloop.core.history import unanswered
from agentloop.core.run import Attempt, Usage
from agentloop.ports import AttemptRow, Reader, RunRow, effect_key
from agentloop.runtime.present import attempts_of, job_id
from agentloop.stores.memory import MemoryStore
from agentloop.testing.simulate.ledger import CANARY, Ledger, Shelf, require
from agentloop.testing.simulate.outside import Deeds
from agentloop.testing.simulate.witness import Witness, as_message
from agentloop.wire.checkpoint import result_fields


def judge(witness: Witness, store: MemoryStore, deeds: Deeds, most: int) -> None:
    """Check every run and conversation of a simulation that is over."""
    for id_, shelf in witness.shelves.items():
        witness.check_history(shelf)
        witness.look_at(id_)
    for run_id, ledger in witness.runs.items():
        if ledger.gone:
            witness.look(ledger)
            continue
        row = ledger.ended
        if row is None:
            require(False, 19, f"{run_id} never ended")
            continue
        witness.look(ledger)
        _check_jobs(ledger, row, store, most)
        _check_attempts(ledger, row, store, deeds)
        _check_calls(ledger, row, deeds)
        _check_ending(witness.shelves[row.conversation_id], ledger, row)
        require(CANARY not in (row.result or ""), 16, f"{run_id} tells a secret")


def _check_jobs(ledger: Ledger, row: RunRow, store: MemoryStore, most: int) -> None:
    jobs = store.list_jobs(Reader(row.company_id), row.id)
    expected = [job_id(row.id, i) for i in range(1, row.iterations + 1)]
    require([job.id for job in jobs] == expected, 8, f"{row.id} has {len(jobs)} jobs")
    require(row.iterations <= most, 8, f"{row.id} took {row.iterations} iterations")
    events = store.events(Reader(row.company_id), row.id)
    ids = [event.id for event in events]
    require(ids == list(range(1, len(ids) + 1)), 2, f"{row.id} has events {ids}")
    require(len(ids) == ledger.last_event, 2, f"{row.id} lost events: {ids}")


def _check_attempts(
    ledger: Ledger, row: RunRow, store: MemoryStore, deeds: Deeds
) -> None:
    total = Usage()
    stored: set[tuple[int, int]] = set()
    for iteration in range(1, row.iterations + 1):
        found = store.get_job(Reader(row.company_id), job_id(row.id, iteration))
        rows = found[1] if found else ()
        numbers = [each.number for each in rows]
        expected = list(range(1, len(rows) + 1))
        require(numbers == expected, 14, f"{row.id}: attempts {numbers}")
        for each in rows:
            told = _told_by(each)
            total = total.plus(told.usage)
            stored.add((iteration, each.number))
            if told.outcome != "lost" and "given up" not in (told.message or ""):
                real = deeds.spent.get((job_id(row.id, iteration), each.number))
                require(
                    told.usage == real, 14, f"{row.id}: {each.number} cost otherwise"
                )
    usage = result_fields(row.result or "").usage
    require(usage == total, 14, f"{row.id}: usage is not the sum")
    for key, number in ledger.begun:
        if key.startswith("infer ") and not _came_late(ledger, key, number):
            place = (int(key.removeprefix("infer ")), number)
            require(place in stored, 14, f"{row.id}: attempt {place} left no record")


@lru_cache(maxsize=4096)  # ids are counted, so simulations have many rows in common
def _told_by(row: AttemptRow) -> Attempt:
    (told,) = attempts_of(row)
    return told


def _came_late(ledger: Ledger, key: str, number: int) -> bool:
    return ledger.ended is not None and ledger.begun[key, number] > ledger.ended_at


def _check_calls(ledger: Ledger, row: RunRow, deeds: Deeds) -> None:
    """A result that is no error comes from a call that was executed."""
    for key in _answered(ledger):
        ran = deeds.executed[effect_key(row.id, key)] > 0
        require(ran, 9, f"{row.id}: a result of {key}, which never ran")


def _check_ending(shelf: Shelf, ledger: Ledger, row: RunRow) -> None:
    """Only a run that waits for its caller leaves calls open in a conversation."""
    joined = any(run_id == row.id for run_id, _, _ in shelf.rows)
    if joined and row.status != "requires_action":
        opened = unanswered(list(map(as_message, ledger.messages)))
        require(not opened, 6, f"{row.id} is {row.status} and leaves calls open")


def _answered(ledger: Ledger) -> Iterator[str]:
    """The keys of the calls that have results of their own."""
    iteration = 0
    keys: dict[str, str] = {}
    for message in map(as_message, ledger.messages):
        if message.role == "assistant":
            iteration += 1
            uses = tool_uses(message)
            keys = {use.tool_use_id: f"{iteration}.{i}" for i, use in enumerate(uses)}
        elif message.role == "tool":
            results = [b for b in message.content if isinstance(b, ToolResult)]
            yield from (keys[r.tool_use_id] for r in results if not r.is_error)
