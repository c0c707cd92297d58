"""What a checkpoint brings, as rows of the DynamoDB table, and what it must not bring.

Messages, events and results of one commit are packed into one row of each kind, so
that their number does not count against the hundred writes of a transaction. Jobs
and attempts are looked up one by one and are rows of their own. Where a commit has
very many of these, they are written ahead of its transaction under the commit's
name, and are nobody's until the transaction says that this commit happened.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final

from attrs import define, evolve, field

from agentloop.ports.store import Checkpoint
from agentloop.stores import dynamodb_details as details
from agentloop.stores import dynamodb_keys as keys
from agentloop.stores import dynamodb_rows as rows
from agentloop.stores.dynamodb_rows import Head
from agentloop.stores.dynamodb_table import Table, Write, put
from agentloop.stores.dynamodb_texts import Texts, pack
from agentloop.stores.dynamodb_values import Key, Row
from agentloop.stores.rules import refuse_known

_WIDE: Final = 60
_AT_ONCE: Final = 90


@define
class Commit:
    """A change on its way: where it goes, and the writes that make it.

    `seen` are the rows that lie where its jobs and attempts go, left by commits that
    never happened.
    """

    head: Head
    change: Checkpoint
    at: str
    texts: Texts
    seen: Mapping[Key, Row] = field(factory=dict)

    @property
    def revision(self) -> int:
        """The revision that the change makes."""
        return self.head.revision + 1

    def after(self) -> Head:
        """The head as it is with the change."""
        head, change = self.head, self.change
        kept = 0 if change.messages else head.open_results
        return evolve(
            head,
            revision=self.revision,
            iterations=change.iterations,
            staged=head.staged + len(change.messages),
            last_event=change.events[-1].id if change.events else head.last_event,
            turn=head.turn + bool(change.messages),
            open_results=kept + len(change.results),
            has_setup=head.has_setup or change.setup is not None,
        )

    def carry_out(self, writes: Sequence[Write]) -> None:
        """Do the writes of a transaction, and all that must be there before it.

        Raises:
            ConditionError: nothing was changed that can be seen.
        """
        alone = self._rows_alone()
        whole = [*writes, *self._rows_together()]
        self.texts.write()
        if len(alone) <= _WIDE:
            whole += alone
        else:
            self._write_ahead(alone)
            said = {"name": self.texts.name}
            whole.append(put(keys.commit(self.head.uid, self.revision), said))
        self.texts.table.transact(whole)

    def _write_ahead(self, writes: Sequence[Write]) -> None:
        ahead = {"ahead": self.texts.name}
        rest = (evolve(each, row=each.row | ahead) for each in writes)
        while group := list(islice(rest, _AT_ONCE)):
            self.texts.table.transact(group)

    # ------------------------------------------------------------ packed

    def _rows_together(self) -> list[Write]:
        """The rows that a commit has one of, however much it brings."""
        change, place = self.change, keys.of_run(self.head.uid)
        writes = []
        if change.setup is not None:
            writes.append(put((place, "setup"), self._kept(setup=change.setup)))
        if change.messages:
            writes.append(self._messages())
        if change.results:
            writes += self._results()
        if change.events:
            packed = pack([t for e in change.events for t in (str(e.id), e.body)])
            key = keys.event(self.head.uid, change.events[-1].id)
            writes.append(put(key, self._kept(events=packed)))
        return writes

    def header(self) -> Write:
        """The change's header, in place of the last one."""
        place = keys.of_run(self.head.uid)
        return put((place, "header"), self._kept(header=self.change.header))

    def _messages(self) -> Write:
        first = self.head.staged
        last = first + len(self.change.messages) - 1
        place = keys.messages(self.head.uid)
        row = {"first": first, "at": self.at}
        row |= self.texts.keep(place, bodies=pack(self.change.messages))
        return put(keys.message(self.head.uid, last), row)

    def _results(self) -> list[Write]:
        uid, turn = self.head.uid, self.after().turn
        given = self.change.results
        packed = pack([text for result in given for text in result])
        return [
            put(keys.result(uid, turn, self.revision), self._kept(results=packed)),
            put(
                keys.result_keys(uid, turn, self.revision),
                self._kept(keys=pack([key for key, _ in given])),
            ),
        ]

    def _kept(self, **texts: str | None) -> Row:
        place = keys.of_run(self.head.uid)
        return {"revision": self.revision, **self.texts.keep(place, **texts)}

    # ------------------------------------------------------------ alone

    def _rows_alone(self) -> list[Write]:
        """The rows of jobs and attempts, each where nothing living lies."""
        uid = self.head.uid
        writes = []
        for job in self.change.jobs:
            row = {"id": job.id, "iteration": job.iteration}
            owner = {"run_id": job.run_id, "uid": uid, "iteration": job.iteration}
            kept = row | self._kept(body=job.body)
            writes.append(self._placed(keys.run_job(uid, job.iteration), kept))
            writes.append(self._placed(keys.job(job.id), owner))
        for attempt in self.change.attempts:
            key = keys.attempt(uid, attempt.iteration, attempt.number)
            kept = self._kept(body=attempt.body, response=attempt.response)
            writes.append(self._placed(key, {"number": attempt.number, **kept}))
        return writes

    def _placed(self, key: Key, row: Row) -> Write:
        """A row where there is none, or where still lies what was looked at."""
        dead = self.seen.get(key)
        if dead is None:
            return put(key, row, "attribute_not_exists(@pk)")
        if "run_id" in dead:
            return put(key, row, "@uid = :dead", dead=dead["uid"])
        return put(key, row, "@ahead = :dead", dead=dead["ahead"])


# ---------------------------------------------------------------- what is there


def looked_at(table: Table, head: Head, change: Checkpoint) -> Mapping[Key, Row]:
    """What dead rows lie in a change's way, after making sure that no living do.

    Raises:
        ValueError: a setup, result, job or attempt is there already.
    """
    if change.setup is not None and head.has_setup:
        raise ValueError(f"run {head.id} has a setup already")
    if change.results:
        known = set() if change.messages else details.open_keys(table, head)
        refuse_known("result", known, [key for key, _ in change.results])
    if not (change.jobs or change.attempts):
        return {}
    refuse_known("job", (), [job.id for job in change.jobs])
    refuse_known("iteration", (), [job.iteration for job in change.jobs])
    tries = [(each.iteration, each.number) for each in change.attempts]
    refuse_known("attempt", (), tries)
    return _found(table, head, change)


def _found(table: Table, head: Head, change: Checkpoint) -> Mapping[Key, Row]:
    uid = head.uid
    wanted = [keys.run_job(uid, job.iteration) for job in change.jobs]
    wanted += [keys.attempt(uid, a.iteration, a.number) for a in change.attempts]
    owners = [keys.job(job.id) for job in change.jobs]
    found = table.get_all([*wanted, *owners])
    mine = [found[key] for key in wanted if key in found]
    for row in details.committed(table, head, mine):
        kind, number = row["sk"].split("#")[:2]
        raise ValueError(f"the {kind} {int(number) - 10**18} is stored already")
    for key in owners:
        if key in found and _is_taken(table, head, found[key]):
            raise ValueError(f"the {key[0]} is stored already")
    return found


def _is_taken(table: Table, head: Head, owner: Row) -> bool:
    """Whether a job's id is used; by another run also if it is about to."""
    if owner["uid"] != head.uid:
        other = rows.head(table, owner["run_id"])
        return other is not None and other.uid == owner["uid"]
    row = table.get(keys.run_job(head.uid, owner["iteration"]))
    same = [row] if row and keys.job(row["id"])[0] == owner["pk"] else []
    return bool(details.committed(table, head, same))
