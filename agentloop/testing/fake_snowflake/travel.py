"""How an answer travels: late, in pieces, cut, lost, or not at all.

    split(says("hello"), 1)                 one character per stream delta
    waits(gate, says("hello"))              silence until the test opens the gate
    cuts(says("hello"), at=40)              forty bytes, then the connection closes
    loses(says("hello"))                    billed, but never arrived

The room holds verbs over answers; they nest in any order. It must not know wires.
"""

from __future__ import annotations

import math

from attrs import evolve

from agentloop.testing.fake_snowflake.clock import Gate
from agentloop.testing.fake_snowflake.replies import (
    Answer,
    Break,
    Delivery,
    Ending,
    says,
)


def split(message: Answer, piece: int) -> Answer:
    """The same message streamed in deltas of `piece` characters."""
    return _sent(message, evolve(message.delivery, piece=piece))


def spreads(message: Answer) -> Answer:
    """The same message, every stream event's JSON over several `data:` lines."""
    return _sent(message, evolve(message.delivery, spread=True))


def unchunked(message: Answer) -> Answer:
    """The same message, its stream ended by the end of the connection."""
    return _sent(message, evolve(message.delivery, chunked=False))


def unterminated(message: Answer) -> Answer:
    """The same message, its stream ended in good order but without a closing event."""
    return _sent(message, evolve(message.delivery, terminated=False))


def stalls(seconds: float, then: Answer | None = None, *, after: int = 0) -> Answer:
    """Silence for some seconds, then `then`; a stream may send `after` events first."""
    message = _something(then)
    return _sent(message, evolve(message.delivery, seconds=seconds, stall=after))


def hangs(then: Answer | None = None, *, after: int = 0) -> Answer:
    """Silence until the server is closed."""
    return stalls(math.inf, then, after=after)


def waits(gate: Gate, then: Answer | None = None, *, after: int = 0) -> Answer:
    """Silence until the gate is open, then `then`."""
    message = _something(then)
    return _sent(message, evolve(message.delivery, gate=gate, stall=after))


def polled(times: int, then: Answer | None = None) -> Answer:
    """A query said to be running so many times before it is done (SQL)."""
    message = _something(then)
    return _sent(message, evolve(message.delivery, polls=times))


def cuts(
    message: Answer | None = None,
    *,
    after: int = 1,
    at: int | None = None,
    chunked: bool = True,
) -> Answer:
    """The connection is closed in the middle of the reply.

    Args:
        message: What would have been said.
        after: How many stream events still arrive; of a document, nothing.
        at: How many bytes of the body still arrive instead.
        chunked: Without it, a client cannot tell a lost connection from the end.
    """
    ending = Ending(how="close", events=after, at=at)
    said = _something(message)
    return _sent(said, evolve(said.delivery, ending=ending, chunked=chunked))


def ends_early(
    message: Answer | None = None, *, after: int = 1, at: int | None = None
) -> Answer:
    """The body ends in good order, only too early."""
    said = _something(message)
    ending = Ending(how="finish", events=after, at=at)
    return _sent(said, evolve(said.delivery, ending=ending))


def loses(message: Answer | None = None, *, after: int = 0) -> Answer:
    """The model ran and is billed, but the connection is reset before its answer."""
    said = _something(message)
    ending = Ending(how="reset", events=after)
    return _sent(said, evolve(said.delivery, ending=ending))


def breaks(
    said: str = "scripted failure in the stream",
    *,
    message: Answer | None = None,
    after: int = 1,
    code: str | None = None,
) -> Answer:
    """An `error` event after some events; a document or a row fails with 500.

    Args:
        said: Its message.
        message: What it breaks into.
        after: How many events come before it.
        code: Snowflake's own code: then the event has no type but this.
    """
    whole = _something(message)
    broken = Break(events=after, message=said, code=code)
    return _sent(whole, evolve(whole.delivery, broken=broken))


def _something(message: Answer | None) -> Answer:
    return says("one two three four") if message is None else message


def _sent(message: Answer, delivery: Delivery) -> Answer:
    return evolve(message, delivery=delivery)
