"""The script and its record: what was asked, what was answered, what is left.

The room holds the queue of replies and every count. It must not know sockets or wires.
"""

from __future__ import annotations

import threading
from collections import Counter, deque

from attrs import define, evolve, field

from agentloop.testing.fake_snowflake.known import MODELS, Known
from agentloop.testing.fake_snowflake.records import Outcome, Request
from agentloop.testing.fake_snowflake.replies import (
    Answer,
    Block,
    Call,
    Computed,
    Failure,
    Redacted,
    Reply,
    Thought,
    checked,
)


@define(eq=False, kw_only=True)
class Script:
    """The queue of replies and the record of requests; every method is thread-safe.

    Attributes:
        default: The reply when the queue is empty, for as long as asked.
        keep: How many requests to remember; None for all.
        complaints: Faults of the script or the fake, for `assert_done` to report.
        hits: Physical HTTP requests by method and path.
        outcomes: How many requests ended how, forgotten ones included.
    """

    models: tuple[str, ...] = MODELS
    default: Reply | None = None
    keep: int | None = None
    complaints: list[str] = field(factory=list)
    hits: Counter[str] = field(factory=Counter)
    outcomes: Counter[Outcome] = field(factory=Counter)
    _replies: deque[Reply] = field(factory=deque)
    _requests: dict[int, Request] = field(factory=dict)
    _ids: Counter[str] = field(factory=Counter)
    _thoughts: dict[str, str] = field(factory=dict)
    _thoughtless: set[str] = field(factory=set)
    _lock: threading.RLock = field(factory=threading.RLock)

    # -- what tests do ----------------------------------------------------------------
    def add(self, *replies: Reply) -> None:
        """Put replies at the end of the queue."""
        more = [checked(reply) for reply in replies]
        with self._lock:
            self._replies.extend(more)

    def trust(self, signature: str, thought: str) -> None:
        """Accept a thought this server did not issue."""
        with self._lock:
            self._thoughts[signature] = thought

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests that are remembered, in order of arrival."""
        with self._lock:
            return tuple(self._requests.values())

    @property
    def left(self) -> tuple[Reply, ...]:
        """The replies nobody has asked for."""
        with self._lock:
            return tuple(self._replies)

    # -- what doors do ----------------------------------------------------------------
    def known(self) -> Known:
        """What the rules may know."""
        return Known(
            models=self.models, thoughts=self._thoughts, thoughtless=self._thoughtless
        )

    def next_id(self, kind: str) -> int:
        """The next number of this kind, from 1."""
        with self._lock:
            self._ids[kind] += 1
            return self._ids[kind]

    def hit(self, what: str) -> None:
        """Count one physical request of any kind."""
        with self._lock:
            self.hits[what] += 1

    def receive(self, request: Request) -> None:
        """Record a request as pending."""
        with self._lock:
            self._requests[request.number] = request
            if self.keep is not None and len(self._requests) > self.keep:
                del self._requests[next(iter(self._requests))]

    def settle(self, number: int, outcome: Outcome, why: str | None = None) -> None:
        """Record what became of a request."""
        with self._lock:
            self.outcomes[outcome] += 1
            if (known := self._requests.get(number)) is not None:
                settled = evolve(known, outcome=outcome, complaint=why)
                self._requests[number] = settled

    def complain(self, why: str) -> None:
        """Record a fault of the script or the fake."""
        with self._lock:
            self.complaints.append(why)

    def take(self, request: Request) -> Reply | None:
        """The next reply, decided and numbered; None when there is none."""
        with self._lock:
            reply = self._replies.popleft() if self._replies else self.default
        while isinstance(reply, Computed):
            reply = self._decided(reply, request)
        return self._issued(reply) if isinstance(reply, Answer) else reply

    def _decided(self, computed: Computed, request: Request) -> Reply:
        try:
            return computed.decide(request)
        except Exception as error:  # a test's own assertion must not vanish in a thread
            why = f"the script's function failed: {error!r}"
            self.complain(why)
            return Failure(status=400, message=why)

    def _issued(self, answer: Answer) -> Answer:
        """The answer with its calls named, remembered for the history rules."""
        with self._lock:
            blocks = tuple(self._named(block) for block in answer.blocks)
            thoughts = [b for b in blocks if isinstance(b, Thought | Redacted)]
            for block in thoughts:
                match block:
                    case Thought(said, signature):
                        self._thoughts[signature] = said
                    case Redacted(data):
                        self._thoughts[data] = ""
            if not thoughts:
                calls = [b for b in blocks if isinstance(b, Call)]
                self._thoughtless.update(str(call.id) for call in calls)
            return evolve(answer, blocks=blocks)

    def _named(self, block: Block) -> Block:
        if isinstance(block, Call) and block.id is None:
            return evolve(block, id=f"call_{self.next_id('call'):06d}")
        return block
