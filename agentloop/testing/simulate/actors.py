"""Who acts: workers that drive runs, and clients that start, await and cancel them.

Each is a generator that stops wherever a process could be interrupted; the
scheduler decides who goes on. A worker is the synchronous driver taken apart: the
same calls to the same desk, in the same order, with a pause at every boundary.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias

from attrs import define, field, frozen

from agentloop.core.catalog import RequestError
from agentloop.core.machine import step
from agentloop.core.phases import CancelRequested, Discover, Finished
from agentloop.core.run import Run, Scope
from agentloop.ports import (
    Claim,
    ClaimRequest,
    LeaseLostError,
    Reader,
    Store,
    StoreUnavailableError,
)
from agentloop.runtime.desk import Desk, Happened, effect_id
from agentloop.runtime.hub import Hub
from agentloop.runtime.narrate import Effect
from agentloop.runtime.perform import Performed, perform
from agentloop.runtime.prepare import DRIVER, Resources, prepare
from agentloop.runtime.runner import desk_for
from agentloop.runtime.service import Service
from agentloop.testing.simulate.bounds import Bounds
from agentloop.testing.simulate.chance import Chance, SkewedClock, Violation, WorldClock
from agentloop.testing.simulate.ledger import require
from agentloop.testing.simulate.whole import Around, Whole, watch
from agentloop.testing.simulate.witness import Witness
from agentloop.wire.checkpoint import remembered_in

Steps: TypeAlias = Iterator[str]


class Acts(Protocol):
    """Somebody with a mind of its own, who can die and begin again."""

    def steps(self) -> Steps:
        """Live; each item is a point where somebody else may go on."""
        ...

    def wakes(self, at: str) -> bool:
        """Whether there is anything to do for somebody who idles at a point."""
        ...


@frozen
class Stage:
    """What all actors of a simulation share."""

    chance: Chance
    clock: WorldClock
    witness: Witness
    others: Callable[[], None]
    """Lets others go on while somebody waits."""


@define
class Worker:
    """One process that drives whatever run is due."""

    stage: Stage
    resources: Resources
    clock: SkewedClock
    run_timeout: float | None
    hub: Hub = field(factory=lambda: Hub(None))

    def steps(self) -> Steps:
        """Claim and drive, for ever."""
        while True:
            yield "look"
            yield from self.once(self._wanted())

    def wakes(self, at: str) -> bool:
        """A run is due, or its own has to be waited for."""
        return at == "waiting" or self.stage.witness.anything_due()

    def _wanted(self) -> str | None:
        """Any run, or this very one: a resumer."""
        runs = list(self.stage.witness.runs)
        return self.stage.chance.pick(runs) if self._resumes(runs) else None

    def _resumes(self, runs: list[str]) -> bool:
        often = self.stage.chance.often(0.2)
        return bool(runs) and often and self.stage.chance.allows("crowd")

    def once(self, run_id: str | None) -> Steps:
        """Claim a run and drive it as far as it goes."""
        try:
            claim = self._claim(run_id)
            if claim is None:
                return
            yield from self._drive(claim)
        except LeaseLostError:
            self.stage.chance.note("lease lost")
        except StoreUnavailableError:
            self.stage.chance.note("store away")
        except Exception as error:
            raise Violation(f"invariant 18: a driver raised {error!r}") from error

    def _drive(self, claim: Claim) -> Steps:
        """Drive; sometimes give back a lease that is no longer held."""
        try:
            yield from Drive(self, claim).steps()
        except LeaseLostError:
            if self.stage.chance.hit("answer", "released late"):
                self.resources.store.release(claim.lease)
            raise

    def _claim(self, run_id: str | None) -> Claim | None:
        return self.resources.store.claim(
            ClaimRequest(
                driver=DRIVER,
                lease_seconds=self.resources.options.lease,
                run_id=run_id,
                run_timeout=self.run_timeout,
            )
        )


class Drive:
    """One run in the hands of one worker."""

    def __init__(self, worker: Worker, claim: Claim) -> None:
        self._worker = worker
        self._claim = claim
        self._stage = worker.stage
        self._chance = worker.stage.chance
        self._waiting: list[Effect] = []
        self._answers: list[Performed] = []
        self._old: list[Performed] = []
        self._bounds = Bounds(worker.clock, None)

    def steps(self) -> Steps:
        """The driver's loop: plan, commit, begin, take, and again."""
        worker = self._worker
        ready = prepare(self._claim, worker.resources)
        if ready.backend is not None:  # else it ends, and nobody is told anything
            self._check_remembered(ready.remembered)
        yield "prepared"
        desk = desk_for(self._claim, ready, worker.resources, worker.hub, worker.clock)
        desk.journal.rest = self._pass_time
        if self._claim.seconds_left is not None:
            self._bounds.deadline = worker.clock.monotonic() + self._claim.seconds_left
        if self._chance.often(0.25):
            self._drive_whole(desk)
            return
        watch(desk, self._bounds, self._note_begin)
        while not desk.finished:
            if desk.idle and self._chance.drains():
                desk.suspend()
                return
            desk.plan()
            yield "planned"
            desk.commit()
            self._stage.witness.check_desk(desk)
            yield "committed"
            self._waiting.extend(desk.ready())
            yield from self._move(desk)
        self._hear_too_late(desk)
        yield "finishing"
        row = desk.finish()
        require(row.result is not None, 4, f"{row.id} has not ended")

    def _drive_whole(self, desk: Desk) -> None:
        """Leave it to the real driver, which stops for nobody."""
        stage = self._stage
        around = Around(
            chance=self._chance,
            others=stage.others,
            rest=self._pass_time,
            look=stage.witness.check_desk,
            begin=self._note_begin,
            bounds=self._bounds,
        )
        self._chance.note("whole")
        store, seconds = self._worker.resources.store, self._claim_seconds
        row = Whole(around).drive(desk, store, seconds)
        require(row is None or row.result is not None, 4, f"{row} has not ended")

    def _note_begin(self, desk: Desk, key: str, attempt: int) -> None:
        witness, lease = self._stage.witness, desk.journal.lease
        self._chance.note(f"{key} {attempt}")
        self._bounds.begin(key, attempt)
        witness.runs[lease.run_id].begin(lease, key, attempt, witness.moment)

    def _check_remembered(self, told: str | None) -> None:
        """What a backend left with the stored command is handed on."""
        header = self._claim.header
        left = None if header is None else remembered_in(header)
        require(told == left, 13, f"{left} was left, and {told} handed on")

    def _pass_time(self, seconds: float) -> None:
        self._stage.clock.passed += seconds

    def _move(self, desk: Desk) -> Steps:
        """Begin an effect, hear of one, or wait; with a heartbeat now and then."""
        if self._chance.often(0.15):
            self._beat(desk)
            yield "beat"
        if self._waiting and (not self._answers or self._chance.often(0.6)):
            self._begin(desk, self._waiting.pop(0))
            yield "performed"
        elif self._answers:
            yield from self._hear(desk)
        else:
            yield "waiting"
            self._take(desk, [])

    def _take(self, desk: Desk, happened: list[Happened]) -> None:
        self._bounds.look()
        desk.take(happened)

    def _answered(self, done: Performed) -> None:
        self._bounds.note(done)
        self._answers.append(done)

    def _beat(self, desk: Desk) -> None:
        lease = desk.journal.lease
        store, seconds = self._worker.resources.store, self._claim_seconds
        try:
            if store.heartbeat(lease, seconds):
                self._take(desk, [CancelRequested()])
        except StoreUnavailableError:
            return

    @property
    def _claim_seconds(self) -> float:
        return self._worker.resources.options.lease

    def _begin(self, desk: Desk, effect: Effect) -> None:
        if desk.finished:
            return
        if isinstance(effect, Discover):
            self._note_begin(desk, *effect_id(effect))
            # The real way takes threads, whose order no seed decides.
            servers = desk.performer.drive.servers
            found = {alias: servers[alias].discover(1.0) for alias in effect.servers}
            self._answered(desk.performer.discovered(effect, found))
            return
        self._answered(perform(desk.performer, effect))

    def _hear(self, desk: Desk) -> Steps:
        """Take an answer: late, out of order, once more, or just so."""
        chance, at = self._chance, 0
        if chance.allows("answer") and len(self._answers) > 1:
            at = chance.number(0, len(self._answers) - 1)
            if at > 0:
                chance.count("answer", "reordered")
        done = self._answers.pop(at)
        if chance.hit("answer", "late"):
            self._pass_time(chance.below(3 * self._claim_seconds))
            yield "late"
        chance.note(f"take {effect_id(done.effect)}")
        self._take(desk, [done])
        self._old.append(done)
        self._again(desk, done)
        if chance.hit("answer", "twice"):
            yield "twice"
            self._again(desk, chance.pick(self._old))

    def _hear_too_late(self, desk: Desk) -> None:
        """Answers that come after the end, such as a cancel's, are nobody's."""
        before = desk.state
        late = self._answers if self._chance.allows("answer") else []
        for done in late:
            self._chance.count("answer", "after the end")
            desk.take([done])
            told = f"{effect_id(done.effect)} was taken after the end"
            require(desk.state is before, 12, told)

    def _again(self, desk: Desk, done: Performed) -> None:
        """An answer that was taken changes nothing any more."""
        same = step(desk.state, done.event) is desk.state
        require(same, 12, f"{effect_id(done.effect)} was accepted again")
        before = desk.state
        self._take(desk, [done])
        stays = desk.state is before or isinstance(desk.state.phase, Finished)
        require(stays, 12, f"{effect_id(done.effect)} was taken again")


@define
class Client:
    """Starts runs under keys that others may use as well, and awaits them."""

    stage: Stage
    service: Service
    scope: Scope
    conversation: str
    keys: list[str]
    done: int = 0
    pending: tuple[str, ...] = ()
    asker: str | None = None
    run_id: str | None = None

    def steps(self) -> Steps:
        """One run after the other; a client that died goes on where it was."""
        while self.done < len(self.keys):
            yield "asking"
            try:
                run = self._ask()
                self._note(run)
            except StoreUnavailableError:
                continue
            except RequestError as refusal:
                self.stage.chance.note(refusal.slug)
                slug = refusal.slug
                known = slug in _REFUSALS or self._misses(slug) or self._lags(slug)
                require(known, 18, f"refused with {refusal!r}")
                if refusal.slug != "version-conflict":
                    self._next()

    def _misses(self, slug: str) -> bool:
        """Whether what it looks for was really removed."""
        witness = self.stage.witness
        if slug == "conversation-not-found":
            return witness.shelves[self.conversation].gone
        run = witness.runs.get(self.run_id or "")
        return slug == "agent-run-not-found" and run is not None and run.gone

    def _lags(self, slug: str) -> bool:
        """Whether it answers calls that another client answered long before.

        Under a key that was pruned meanwhile; the turn that is the last one now may
        use the same ids for calls of the server's.
        """
        rows = self.stage.witness.shelves[self.conversation].rows
        return slug == "not-a-client-tool-call" and rows[-1][0] != self.asker

    def wakes(self, at: str) -> bool:  # noqa: ARG002 # it idles at one point only
        """There is a run to start, or the one it awaits has ended."""
        return self.run_id is None or self.stage.witness.has_ended(self.run_id)

    def _ask(self) -> Run:
        if self.run_id is not None:
            return self.service.get_run(self.run_id, self.scope)
        found = self.service.get_conversation(self.conversation, self.scope)
        request = {
            "client_op_id": self.keys[self.done],
            "expected_version": found.version,
            "payload": self._payload(),
        }
        run, created = self.service.start_run(self.conversation, request, self.scope)
        if not created:
            self.stage.chance.count("crowd", "same key again")
        return run

    def _payload(self) -> dict[str, Any]:
        if not self.pending:
            return {"kind": "user_message", "text": "go"}
        outputs = [{"tool_use_id": id_, "content": "yes"} for id_ in self.pending]
        return {"kind": "tool_outputs", "outputs": outputs}

    def _note(self, run: Run) -> None:
        self.run_id = run.id
        if run.terminal:
            pending = tuple(call.tool_use_id for call in run.pending_tool_calls)
            self._next(pending, run.id)

    def _next(self, pending: tuple[str, ...] = (), asker: str | None = None) -> None:
        self.done, self.run_id = self.done + 1, None
        self.pending, self.asker = pending, asker


_REFUSALS = {
    "version-conflict",
    "pending-tool-calls",
    "no-assistant-turn",
    "unknown-tool-use-id",
    "incomplete-tool-outputs",
}
"""What a client may meet that shares its conversation with others."""


@define
class Canceller:
    """Cancels runs, and drives them to their end if nobody else does."""

    stage: Stage
    store: Store
    worker: Worker

    def steps(self) -> Steps:
        """Flag a run now and then, as long as faults are about."""
        chance = self.stage.chance
        while not chance.calm:
            yield "watching"
            runs = list(self.stage.witness.runs.values())
            if not runs:
                continue
            row = chance.pick(runs).inserted
            chance.count("crowd", "cancel")
            try:
                self._flag(row.id, row.company_id)
            except StoreUnavailableError:
                continue
            yield "flagged"
            yield from self.worker.once(row.id)

    def wakes(self, at: str) -> bool:
        """The mood for it, or a run of its own to be waited for."""
        return at == "waiting" or self.stage.chance.often(0.02)

    def _flag(self, run_id: str, company_id: int) -> None:
        stranger = self.store.request_cancel(Reader(company_id + 1), run_id)
        require(stranger is None, 15, f"a stranger cancelled {run_id}")
        self.store.request_cancel(Reader(company_id), run_id)
