"""A zoo of stores that break one promise each, to show that the kit notices.

Each is the memory store with one fault; `ZOO` names the check that must catch it.
"""

import json
import threading
from contextlib import suppress

from attrs import evolve

from agentloop.core.run import TERMINAL
from agentloop.ports import EventRow, Reader
from agentloop.stores.clock import instant
from agentloop.stores.memory import MemoryStore
from agentloop.stores.rules import KEY_RETENTION


class NoCas(MemoryStore):
    """Finalize does not look at the conversation's version."""

    def finalize(self, lease, revision, final):
        run = self._runs.get(lease.run_id)
        if run and run.status not in TERMINAL:
            where = self._conversations[run.inserted.conversation_id]
            run.inserted = evolve(run.inserted, base_version=where.row.version)
        return super().finalize(lease, revision, final)


class KeysNotUnique(MemoryStore):
    """A key that is known makes a second run."""

    def insert_run(self, new):
        where = self._conversations.get(new.conversation_id)
        if where:
            where.runs.pop(new.client_op_id, None)
        return super().insert_run(new)


class KeysOverwrite(MemoryStore):
    """A known key returns its run, with the payload of the repeat."""

    def insert_run(self, new):
        row, created = super().insert_run(new)
        return evolve(row, payload=new.payload), created


class VersionUnchecked(MemoryStore):
    """A run may be inserted at any version."""

    def insert_run(self, new):
        where = self._conversations.get(new.conversation_id)
        if where:
            new = evolve(new, expected_version=where.row.version)
        return super().insert_run(new)


class TokenStands(MemoryStore):
    """Every claim of a run hands out the same token."""

    def claim(self, request):
        claim = super().claim(request)
        if claim is None:
            return None
        self._runs[claim.run.id].token = 1
        return evolve(claim, lease=evolve(claim.lease, token=1))


class VainClaimsUncounted(MemoryStore):
    """A run that kills whoever takes it looks new to everybody."""

    def claim(self, request):
        claim = super().claim(request)
        return claim and evolve(claim, in_a_row=1)


class StaleLeaseWrites(MemoryStore):
    """A checkpoint does not look at its token."""

    def checkpoint(self, lease, revision, change, lease_seconds):
        run = self._runs.get(lease.run_id)
        if run:
            lease = evolve(lease, token=run.token)
        return super().checkpoint(lease, revision, change, lease_seconds)


class StaleHeartbeat(MemoryStore):
    """A heartbeat does not look at its token."""

    def heartbeat(self, lease, lease_seconds):
        run = self._runs.get(lease.run_id)
        if run:
            lease = evolve(lease, token=run.token)
        return super().heartbeat(lease, lease_seconds)


class LeaseNotExclusive(MemoryStore):
    """A claim by id takes a run from whoever drives it."""

    def claim(self, request):
        run = self._runs.get(request.run_id)
        if run:
            run.lease_until = 0.0
        return super().claim(request)


class LooksByClaiming(MemoryStore):
    """To look for runs that nobody claimed is to claim them for a moment."""

    def unclaimed(self, driver, limit):
        found = super().unclaimed(driver, limit)
        for run in found:
            self._runs[run.run_id].status = "running"
        return found


class LooksThenTakes(MemoryStore):
    """A claim looks, waits, and takes what may be taken meanwhile."""

    def claim(self, request):
        with self._lock:
            run = self._due(request, self._seconds())
        if run is None:
            return None
        threading.Event().wait(0.002)
        run.lease_until = 0.0
        return super().claim(evolve(request, run_id=run.inserted.id))


class StagedVisible(MemoryStore):
    """Messages are seen before their run ends."""

    def messages(self, reader, conversation_id, since=0, until=None):
        page = super().messages(reader, conversation_id, since, until)
        if page is None or page.rows or since or until is not None:
            return page
        where = self._conversations[conversation_id]
        for run in list(where.runs.values()):
            if run.messages and run.status not in TERMINAL:
                joined = evolve(where, segments=[], runs={})
                joined.join(run, instant(self._clock.now()))
                return evolve(page, rows=tuple(joined.visible(0, None)))
        return page


class GapInNumbers(MemoryStore):
    """The messages of a later run leave a number out."""

    def messages(self, reader, conversation_id, since=0, until=None):
        page = super().messages(reader, conversation_id, since, until)
        if page is None:
            return None
        rows = tuple(
            evolve(row, sequence_no=row.sequence_no + (row.sequence_no > 2))
            for row in page.rows
        )
        return evolve(page, rows=rows)


class SinceIsIncluded(MemoryStore):
    """A delta repeats the last message that was seen."""

    def messages(self, reader, conversation_id, since=0, until=None):
        return super().messages(reader, conversation_id, since - 1, until)


class ForeignVisible(MemoryStore):
    """A run is shown to other companies."""

    def get_run(self, reader, run_id):
        run = self._runs.get(run_id)
        return run.row() if run else None


class OtherUsersVisible(MemoryStore):
    """A user's reader sees the whole company."""

    def list_runs(self, reader, conversation_id):
        return super().list_runs(Reader(reader.company_id), conversation_id)


class TerminalChanges(MemoryStore):
    """A cancel flags a run that has ended."""

    def request_cancel(self, reader, run_id):
        row = super().request_cancel(reader, run_id)
        if row is not None:
            self._runs[run_id].cancel_requested = True
        return row


class RepeatDoubles(MemoryStore):
    """A repeated checkpoint is committed once more."""

    def checkpoint(self, lease, revision, change, lease_seconds):
        run = self._runs.get(lease.run_id)
        if run and run.token == lease.token and run.revision == revision + 1:
            staged = len(run.messages)
            events = [EventRow(run.last_event + 1, "{}")] if change.events else []
            change = evolve(
                change, first_message=staged, events=tuple(events), results=(), jobs=()
            )
            change = evolve(change, setup=None, attempts=())
            revision += 1
        return super().checkpoint(lease, revision, change, lease_seconds)


class RepeatRefused(MemoryStore):
    """A finalize whose answer was lost cannot be repeated."""

    def finalize(self, lease, revision, final):
        run = self._runs.get(lease.run_id)
        if run and run.status in TERMINAL:
            self._held(lease)
        return super().finalize(lease, revision, final)


class ResultsLost(MemoryStore):
    """A claim does not bring the results of the open turn."""

    def claim(self, request):
        claim = super().claim(request)
        return claim and evolve(claim, results=())


class PruneForgetsKeys(MemoryStore):
    """A prune takes runs that ended a moment ago."""

    def prune(self, before):
        for run in self._runs.values():
            if run.completed_at:
                run.completed_at = instant(self._clock.now() - 2 * KEY_RETENTION)
        return super().prune(before)


class PruneTakesMessages(MemoryStore):
    """A prune removes messages that joined a conversation."""

    def prune(self, before):
        count = super().prune(before)
        if count:
            for where in self._conversations.values():
                where.segments.clear()
        return count


class CancelLost(MemoryStore):
    """Whoever drives never hears of a cancel."""

    def heartbeat(self, lease, lease_seconds):
        return super().heartbeat(lease, lease_seconds) and False

    def checkpoint(self, lease, revision, change, lease_seconds):
        return super().checkpoint(lease, revision, change, lease_seconds) and False


class BodiesParsed(MemoryStore):
    """Bodies are parsed and written anew."""

    def create_conversation(self, new):
        with suppress(RecursionError):
            new = evolve(new, body=json.dumps(json.loads(new.body)))
        return super().create_conversation(new)


class BodiesCut(MemoryStore):
    """Bodies longer than a megabyte are cut."""

    def checkpoint(self, lease, revision, change, lease_seconds):
        cut = tuple(body[:1_000_000] for body in change.messages)
        change = evolve(change, messages=cut)
        return super().checkpoint(lease, revision, change, lease_seconds)


class RowsOnly(MemoryStore):
    """Events that are no rows of the port's own are left out."""

    def checkpoint(self, lease, revision, change, lease_seconds):
        rows = tuple(e for e in change.events if isinstance(e, EventRow))
        change = evolve(change, events=rows)
        return super().checkpoint(lease, revision, change, lease_seconds)


class HalfCommits(MemoryStore):
    """A change that is refused leaves its jobs behind."""

    def checkpoint(self, lease, revision, change, lease_seconds):
        try:
            return super().checkpoint(lease, revision, change, lease_seconds)
        except ValueError:
            run = self._runs[lease.run_id]
            for job in change.jobs[:1]:
                run.jobs[job.iteration] = job
                self._jobs[job.id] = job, run
            raise


class DeleteLeavesRuns(MemoryStore):
    """Deleting a conversation leaves its runs."""

    def delete_conversation(self, reader, conversation_id):
        if self._seen(reader, conversation_id) is None:
            return False
        self._conversations[conversation_id].runs.clear()
        return super().delete_conversation(reader, conversation_id)


class OldestFirst(MemoryStore):
    """Conversations are listed oldest first."""

    def list_conversations(self, reader, offset, limit):
        rows, total = super().list_conversations(reader, 0, 10**9)
        return tuple(reversed(rows))[offset : offset + limit], total


class TornReads(MemoryStore):
    """A page's version is read after its rows."""

    def messages(self, reader, conversation_id, since=0, until=None):
        page = super().messages(reader, conversation_id, since, until)
        threading.Event().wait(0.001)
        where = self.get_conversation(reader, conversation_id)
        return page and where and evolve(page, version=where.version)


class ConflictKeepsMessages(MemoryStore):
    """The loser of a race for a version keeps its word and its messages."""

    def finalize(self, lease, revision, final):
        row = super().finalize(lease, revision, final)
        if row.result == final.conflict_result:
            self._runs[lease.run_id].status = "completed"
        return self._runs[lease.run_id].row()


class DeadlineAnew(MemoryStore):
    """Every claim with a timeout sets a new deadline."""

    def claim(self, request):
        run = self._runs.get(request.run_id)
        if run and request.run_timeout is not None:
            run.deadline = None
        return super().claim(request)


class NoDeadline(MemoryStore):
    """A timeout is taken and forgotten."""

    def claim(self, request):
        return super().claim(evolve(request, run_timeout=None))


class HeartbeatShortens(MemoryStore):
    """A heartbeat prolongs the lease by half of what it asks for."""

    def heartbeat(self, lease, lease_seconds):
        return super().heartbeat(lease, lease_seconds / 2)


class CancelTakesTheLease(MemoryStore):
    """A cancel makes a run due that somebody drives."""

    def request_cancel(self, reader, run_id):
        row = super().request_cancel(reader, run_id)
        if row and row.status not in TERMINAL:
            self._runs[run_id].lease_until = 0.0
        return row


class ClaimForgetsCancel(MemoryStore):
    """Whoever takes a cancelled run is told once, and never again."""

    def claim(self, request):
        claim = super().claim(request)
        if claim:
            self._runs[claim.run.id].cancel_requested = False
        return claim


class EndedIsDue(MemoryStore):
    """A run that has ended is due once more when its lease is over."""

    def finalize(self, lease, revision, final):
        row = super().finalize(lease, revision, final)
        self._open[row.driver][row.id] = self._runs[row.id]
        return row


class TwoCommitsOfOneRevision(MemoryStore):
    """A checkpoint looks at the revision, and writes without looking again."""

    def checkpoint(self, lease, revision, change, lease_seconds):
        with self._lock:
            run = self._held(lease)
            fits = run.revision == revision
        if not fits:
            return super().checkpoint(lease, revision, change, lease_seconds)
        threading.Event().wait(0.002)
        if run.revision != revision:
            events = [
                EventRow(run.last_event + n, event.body)
                for n, event in enumerate(change.events, 1)
            ]
            first = len(run.messages)
            change = evolve(change, first_message=first, events=tuple(events))
        return super().checkpoint(lease, run.revision, change, lease_seconds)


class InsertLooksThenWrites(MemoryStore):
    """An insert compares the version, waits, and inserts at whatever it is."""

    def insert_run(self, new):
        with self._lock:
            where = self._conversations.get(new.conversation_id)
            current = where and where.row.version == new.expected_version
        if not current:
            return super().insert_run(new)
        threading.Event().wait(0.003)
        with self._lock:
            wanted = evolve(new, expected_version=where.row.version)
        row, created = super().insert_run(wanted)
        with self._lock:
            run = self._runs[row.id]
            base = new.expected_version if created else row.base_version
            run.inserted = evolve(run.inserted, base_version=base)
            return run.row(), created


class EventsCapped(MemoryStore):
    """Only the first hundred events are read."""

    def events(self, reader, run_id, after=0):
        return super().events(reader, run_id, after)[:100]


class PruneKeepsKeys(MemoryStore):
    """The keys of pruned runs stay taken for ever."""

    def prune(self, before):
        known = list(self._runs.values())
        removed = super().prune(before)
        for run in known:
            row = run.inserted
            if row.id not in self._runs and row.conversation_id in self._conversations:
                self._conversations[row.conversation_id].runs[row.client_op_id] = run
        return removed


class PruneMiscounts(MemoryStore):
    """A prune tells whether it removed anything, and not how much."""

    def prune(self, before):
        return int(super().prune(before) > 0)


class StampedAtTheEnd(MemoryStore):
    """Messages bear the time of their conversation's last change."""

    def messages(self, reader, conversation_id, since=0, until=None):
        page = super().messages(reader, conversation_id, since, until)
        where = self.get_conversation(reader, conversation_id)
        return page and evolve(
            page,
            rows=tuple(evolve(row, created_at=where.updated_at) for row in page.rows),
        )


class NeverUpdated(MemoryStore):
    """A conversation's `updated_at` stays as it was when it was made."""

    def finalize(self, lease, revision, final):
        row = super().finalize(lease, revision, final)
        where = self._conversations[row.conversation_id]
        where.row = evolve(where.row, updated_at=where.row.created_at)
        return row


class OtherOffset(MemoryStore):
    """Instants have an offset of zero instead of a Z."""

    def _now(self):
        return super()._now().replace("Z", "+00:00")


ZOO = {
    NoCas: "lost races end failed",
    KeysNotUnique: "keys are unique",
    KeysOverwrite: "keys are unique",
    VersionUnchecked: "versions are checked",
    TokenStands: "tokens rise",
    VainClaimsUncounted: "claims in vain are counted",
    StaleLeaseWrites: "stale tokens write nothing",
    StaleHeartbeat: "stale tokens write nothing",
    LeaseNotExclusive: "a live lease is exclusive",
    LooksByClaiming: "unclaimed runs are found",
    LooksThenTakes: "threads claim one run",
    StagedVisible: "staged messages are invisible",
    GapInNumbers: "deltas",
    SinceIsIncluded: "deltas",
    ForeignVisible: "tenants are apart",
    OtherUsersVisible: "users see their own runs",
    TerminalChanges: "ended runs are fenced",
    RepeatDoubles: "a repeated checkpoint changes nothing",
    RepeatRefused: "lost answers cost nothing",
    ResultsLost: "claims bring everything",
    PruneForgetsKeys: "keys outlive a prune",
    PruneTakesMessages: "prune removes old runs",
    CancelLost: "cancels are heard",
    BodiesParsed: "hostile values",
    BodiesCut: "large payloads",
    RowsOnly: "texts are made late",
    HalfCommits: "misfits are refused whole",
    DeleteLeavesRuns: "delete takes everything",
    OldestFirst: "list conversations",
    TornReads: "readers see whole runs",
    ConflictKeepsMessages: "runs race for one version",
    DeadlineAnew: "deadlines stand",
    NoDeadline: "deadlines stand",
    HeartbeatShortens: "leases run out",
    CancelTakesTheLease: "cancels leave the lease",
    ClaimForgetsCancel: "cancels are heard",
    EndedIsDue: "ended runs are fenced",
    TwoCommitsOfOneRevision: "threads commit one revision",
    InsertLooksThenWrites: "ends race with inserts",
    EventsCapped: "many events",
    PruneKeepsKeys: "prune removes old runs",
    PruneMiscounts: "prune removes old runs",
    StampedAtTheEnd: "instants are the clocks",
    NeverUpdated: "instants are the clocks",
    OtherOffset: "instants are in order",
}
"""Each broken store with a check that must find it."""
