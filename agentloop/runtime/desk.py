"""What both drivers know of a run: its state, and which effects are under way.

The desk decides, the driver does. It schedules the effects of the next command,
commits the state before they begin, takes in what happened, and says how long
there is to wait. It performs nothing and knows neither threads nor tasks.
"""

from collections.abc import Iterable
from typing import TypeAlias

from attrs import evolve

from agentloop.core.machine import next_command, step
from agentloop.core.phases import (
    Call,
    CallTools,
    CancelRequested,
    Command,
    DeadlinePassed,
    Discover,
    DiscoveryFailed,
    Event,
    Failed,
    Finish,
    Finished,
    Infer,
    LoopState,
    ModelReplied,
    ToolFailed,
)
from agentloop.ports import Clock, RunRow
from agentloop.runtime.journal import Journal
from agentloop.runtime.narrate import Effect, Told, of_effect, of_event
from agentloop.runtime.perform import Performed, Performer

EffectId: TypeAlias = tuple[str, int]
Happened: TypeAlias = Performed | CancelRequested | DeadlinePassed
_CUT_SHORT = (ToolFailed, DiscoveryFailed)
"""What an effect may come to because nobody waits for it any more."""


def effects_of(command: Command) -> tuple[Effect, ...]:
    """The single effects of a command."""
    if isinstance(command, CallTools):
        return command.window
    return () if isinstance(command, Finish) else (command,)


def effect_id(effect: Effect) -> EffectId:
    """What tells one attempt of one effect from every other in a run."""
    if isinstance(effect, Call):
        return effect.key, effect.attempt
    if isinstance(effect, Infer):
        return f"infer {effect.iteration}", effect.attempt
    return "discover", effect.attempt


class Desk:
    """The book-keeping of one drive."""

    def __init__(self, performer: Performer, journal: Journal, clock: Clock) -> None:
        drive = performer.drive
        self.performer = performer
        self.journal = journal
        self.become(drive.state)
        self.flying: dict[EffectId, Effect] = {}
        self._due: dict[EffectId, Effect] = {}
        self._waiting: dict[EffectId, tuple[float, Effect]] = {}
        self._told: list[Told] = [*drive.told]
        self._clock = clock
        self._dirty = True
        if drive.lost is not None:
            journal.keep(drive.lost)
            place = {"iteration": drive.lost.iteration, "attempt": drive.lost.number}
            self._told.append(("attempt_discarded", {**place, "reason": "worker_lost"}))
        if drive.toolbox is not None:
            journal.keep_setup_once(drive)

    def become(self, state: LoopState) -> None:
        """Stand at a state; `finished` says whether only the end is left to store.

        It is noted here, where alone the state changes, as it is asked on every step.
        """
        self.state = state
        self.finished = isinstance(state.phase, Finished)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, so that the drive may be given up."""
        return not self.flying

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way, due, or waiting for its time."""
        return not (self.flying or self._due or self._waiting)

    def plan(self) -> None:
        """Schedule whatever the state asks for and is not under way yet."""
        nothing_known = self.quiet
        for effect in effects_of(next_command(self.state)):
            id_ = effect_id(effect)
            if not nothing_known and self._knows(id_):
                continue
            self._schedule(id_, effect)
            if (told := of_effect(self.journal.run_id, effect)) is not None:
                self._told.append(told)

    def _knows(self, id_: EffectId) -> bool:
        return id_ in self.flying or id_ in self._due or id_ in self._waiting

    def _schedule(self, id_: EffectId, effect: Effect) -> None:
        """Have an effect begin at once, or when its time has come."""
        wait = 0.0
        if effect.delay or effect.at_least:
            wait = self.performer.options.pause(effect.delay, effect.at_least)
        if wait > 0:
            self._waiting[id_] = self._clock.monotonic() + wait, effect
        else:
            self._due[id_] = effect

    def hold(self) -> None:
        """Begin nothing more; what is under way is still waited for."""
        self._due.clear()
        self._waiting.clear()

    def put_back(self, effect: Effect) -> None:
        """Take an effect as not begun."""
        self.flying.pop(effect_id(effect), None)

    def hurry(self) -> None:
        """Let what is scheduled be due now; its time was waited for elsewhere."""
        self._due.update((id_, each) for id_, (_, each) in self._waiting.items())
        self._waiting.clear()

    def pause(self) -> float:
        """Seconds to pass before the command that is due, within the run's time."""
        due = effects_of(next_command(self.state))
        waits = [
            self.performer.options.pause(effect.delay, effect.at_least)
            for effect in due
            if effect.delay or effect.at_least
        ]
        wait = max(waits, default=0.0)
        left = self.performer.time_left()
        return wait if left is None else max(min(wait, left), 0.0)

    def commit(self) -> None:
        """Make the state durable, if anything is new; learn of a cancel."""
        if not self._dirty:
            return
        told, self._told = self._told, []
        self._dirty = False
        if self.journal.commit(self.state, told):
            self.take([CancelRequested()])

    def ready(self) -> list[Effect]:
        """The effects whose time has come; from now on they are under way."""
        if self.finished:
            return []
        if self._waiting:
            now = self._clock.monotonic()
            for id_, (due, effect) in tuple(self._waiting.items()):
                if due <= now:
                    self._due[id_] = effect
                    del self._waiting[id_]
        begun, self._due = self._due, {}
        self.flying.update(begun)
        return list(begun.values())

    def alone(self) -> bool:
        """Whether one effect is under way and none is waiting for its time."""
        return len(self.flying) == 1 and not self._waiting

    def patience(self) -> float | None:
        """Seconds until an effect is due or the run's time is up; None: for ever."""
        if self.finished:
            return 0.0
        now = self._clock.monotonic()
        spans = [due - now for due, _ in self._waiting.values()]
        if (left := self.performer.time_left()) is not None:
            spans.append(left)
        return max(min(spans), 0.0) if spans else None

    def take(self, happened: Iterable[Happened]) -> None:
        """Step through what happened, in the order it happened."""
        items = tuple(happened)
        stopping = CancelRequested in map(type, items)
        if self.journal.cancelled and not stopping:
            # A commit that a backend asked for in order to remember was told so.
            items, stopping = (*items, CancelRequested()), True
        for item in items:
            if isinstance(item, Performed):
                self._take_performed(item, stopping=stopping)
            else:
                self._give_up(item)
        if not self.finished and self.performer.over_time():
            self._give_up(DeadlinePassed())

    def _take_performed(self, done: Performed, *, stopping: bool = False) -> None:
        if self.flying.pop(effect_id(done.effect), None) is None or self.finished:
            return
        if isinstance(done.effect, Discover) and self.performer.drive.toolbox:
            self.journal.keep_setup_once(self.performer.drive)
        if done.told:
            self._told += done.told
        event: Event = done.event
        if type(event) in _CUT_SHORT and self.performer.over_time():
            event = DeadlinePassed()  # cut short by that, so not at fault
        if not (stopping and self._is_overruled(event)):
            self._step(event)
        if done.attempt is not None:  # not before its usage was counted
            self.journal.keep(done.attempt)

    def _is_overruled(self, event: Event) -> bool:
        """Whether a cancel that was accepted tells the end in an event's place."""
        if type(event) in _CUT_SHORT:
            return True  # by the cancel
        if not self._would_succeed(event):
            return False
        self._count(event)
        return True

    def _would_succeed(self, event: Event) -> bool:
        phase = step(self.state, event).phase
        return isinstance(phase, Finished) and not isinstance(phase.outcome, Failed)

    def _count(self, event: Event) -> None:
        """Keep what an absorbed reply cost."""
        if isinstance(event, ModelReplied):
            usage = self.state.usage.plus(event.usage)
            self.become(evolve(self.state, usage=usage))

    def _give_up(self, why: CancelRequested | DeadlinePassed) -> None:
        """End the run; an inference under way is recorded as given up."""
        reason = "cancelled" if isinstance(why, CancelRequested) else "out of time"
        for effect in list(self.flying.values()):
            if isinstance(effect, Infer):
                done = self.performer.given_up(effect, reason)
                self._take_performed(done)
        self._step(why)

    def _step(self, event: Event) -> None:
        after = step(self.state, event)
        if after is self.state:
            return
        self._told += of_event(self.state, event, after)
        self.become(after)
        self._dirty = True

    def suspend(self) -> None:
        """Store the state as not begun and give the run back."""
        self.journal.commit(self.state, self._told, idle=True)
        self.journal.release()

    def finish(self) -> RunRow:
        """Store the end."""
        return self.journal.finish(self.state, self._told)
