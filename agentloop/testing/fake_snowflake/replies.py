"""What a script says: neutral replies and faults, the same for every door.

    says("hello")                                   a final answer
    calls(("rooms-free_slots", {"day": "Mon"}))     one tool call; several are parallel
    thinks("let me see") + calls(...)               blocks of both, in order
    throttles(), fails(503, "inference timed out")  errors
    cuts(says("hello"), at=40)                      the connection dies on the way
    answers(lambda request: says(request.last_user_text))

The room holds values and the verbs that build them. It must not know how a reply looks
on a wire: that is the business of the dialects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from attrs import field, frozen

from agentloop.testing.fake_snowflake.shapes import Doc, dumps
from agentloop.testing.scripted import check_call

if TYPE_CHECKING:
    from agentloop.testing.fake_snowflake.clock import Gate
    from agentloop.testing.fake_snowflake.records import Request


# -- blocks ---------------------------------------------------------------------------
@frozen
class Text:
    """Visible text."""

    text: str


@frozen(kw_only=True)
class Call:
    """A tool call.

    Attributes:
        id: The call's id; the server numbers those that have none.
        raw: The input as the model wrote it, when that is not the JSON of `input`: a
            call cut short by the token limit.
    """

    name: str
    input: Doc = field(factory=dict)
    id: str | None = None
    raw: str | None = None

    @property
    def written(self) -> str:
        """The input as text."""
        return dumps(self.input) if self.raw is None else self.raw


@frozen
class Thought:
    """Reasoning, signed so that it cannot be altered on its way back."""

    text: str
    signature: str


@frozen
class Redacted:
    """Reasoning nobody may read, to be sent back as it is."""

    data: str


@frozen
class Opaque:
    """A block of a kind no client knows."""

    doc: Doc


Block: TypeAlias = Text | Call | Thought | Redacted | Opaque


@frozen(kw_only=True)
class Usage:
    """Tokens billed; `input` is what was neither read from nor written to a cache."""

    input: int = 10
    output: int = 5
    cache_read: int = 0
    cache_write: int = 0


#: A stop reason that is not there at all.
MISSING: Final = "(missing)"


# -- delivery -------------------------------------------------------------------------
@frozen(kw_only=True)
class Ending:
    """How a reply ends before its end.

    Attributes:
        how: The connection is closed or reset, or the body ends in good order.
        events: How many stream events still arrive; 0 is nothing at all.
        at: How many bytes of the body still arrive; it overrides `events`.
    """

    how: Literal["close", "reset", "finish"]
    events: int = 0
    at: int | None = None


@frozen(kw_only=True)
class Break:
    """An `error` event instead of the rest of a stream.

    Attributes:
        events: How many events come before it.
        message: What it says.
        code: Snowflake's own code, in an event without a type.
    """

    events: int
    message: str
    code: str | None = None


@frozen(kw_only=True)
class Delivery:
    """How an answer travels; every field is one thing that can go wrong on the way.

    Attributes:
        seconds: How long the model takes, on the server's clock.
        gate: What the answer waits for, if anything.
        stall: Stream events that are sent before the wait for `seconds` and `gate`.
        polls: How many times a query is reported as running before it is done (SQL).
        piece: Characters per delta of a stream.
        spread: One event's JSON over several `data:` lines.
        chunked: Chunked framing; otherwise the end of the connection ends the body.
        terminated: Whether the stream's last event (`message_stop`, `[DONE]`) is sent.
        broken: An `error` event in the middle.
        ending: An end before the end.
    """

    seconds: float = 0.0
    gate: Gate | None = None
    stall: int = 0
    polls: int = 0
    piece: int = 16
    spread: bool = False
    chunked: bool = True
    terminated: bool = True
    broken: Break | None = None
    ending: Ending | None = None


PROMPT: Final = Delivery()


@frozen(kw_only=True)
class Answer:
    """One assistant turn; `+` joins the blocks of two.

    Attributes:
        stop: The stop reason in the words of the messages dialect; left out,
            `tool_use` when there are calls and `end_turn` otherwise.
        usage: Tokens billed; left out, ten in and five out.
    """

    blocks: tuple[Block, ...] = ()
    stop: str | None = None
    usage: Usage | None = None
    delivery: Delivery = PROMPT

    def __add__(self, other: Answer) -> Answer:
        """The blocks of both; what the right one leaves open, the left one decides."""
        return Answer(
            blocks=self.blocks + other.blocks,
            stop=other.stop or self.stop,
            usage=other.usage or self.usage,
            delivery=self.delivery if other.delivery == PROMPT else other.delivery,
        )

    @property
    def text(self) -> str:
        """All visible text."""
        return "".join(b.text for b in self.blocks if isinstance(b, Text))

    @property
    def tool_calls(self) -> tuple[Call, ...]:
        """All calls, in order."""
        return tuple(b for b in self.blocks if isinstance(b, Call))

    @property
    def stop_reason(self) -> str | None:
        """The stop reason as it is sent; None when it is missing."""
        if self.stop == MISSING:
            return None
        return self.stop or ("tool_use" if self.tool_calls else "end_turn")

    @property
    def billed(self) -> Usage:
        """The tokens as they are sent."""
        return self.usage or Usage()


# -- faults ---------------------------------------------------------------------------
@frozen(kw_only=True)
class Failure:
    """A failed inference: an HTTP status on REST, errno 100351 on SQL."""

    status: int
    message: str
    code: str | None = None
    headers: Mapping[str, str] = field(factory=dict)


@frozen(kw_only=True)
class Page:
    """These bytes at HTTP level, whatever the door."""

    status: int
    body: bytes
    content_type: str


@frozen
class Reset:
    """The connection is reset before anything was done."""


@frozen(kw_only=True)
class Expired:
    """The session token has expired: HTTP 200, nothing done.

    Attributes:
        key: Under which key the code travels: clients have met both.
        number: Whether the code is a number instead of a string.
    """

    key: Literal["code", "error_code"] = "code"
    number: bool = False


@frozen(kw_only=True)
class SqlFailure:
    """A failed statement; only the SQL door can serve it."""

    errno: int
    sqlstate: str
    message: str


@frozen
class Null:
    """A row that holds NULL instead of an answer; only the SQL door can serve it."""


@frozen
class Computed:
    """A reply decided by a function of the request."""

    decide: Callable[[Request], Reply]


Fault: TypeAlias = Failure | Page | Reset | Expired | SqlFailure | Null | Computed
Reply: TypeAlias = Answer | Fault


def checked(reply: Any) -> Reply:
    """A reply as it is; what is none would fail the request that reaches it.

    Raises:
        TypeError: it is no reply.
    """
    if not isinstance(reply, Answer | Fault):
        raise TypeError(f"a script is of replies such as says('…'), not {reply!r:.60}")
    return reply


# -- what is said ---------------------------------------------------------------------
def says(
    text: str, *, usage: Usage | tuple[int, int] | None = None, stop: str | None = None
) -> Answer:
    """A text answer.

    Args:
        text: What the model says.
        usage: Tokens billed, as `(input, output)` or from `tokens(...)`.
        stop: Another stop reason, also one nobody knows yet, or `MISSING`.

    Raises:
        TypeError: What is said is no text.
    """
    if not isinstance(text, str):
        raise TypeError(f"says takes a text, not {text!r:.60}")
    return Answer(blocks=(Text(text),), usage=_usage(usage), stop=stop)


def calls(
    *wanted: tuple[str, Doc],
    text: str | None = None,
    ids: Iterable[str] = (),
    usage: Usage | tuple[int, int] | None = None,
    stop: str | None = None,
) -> Answer:
    """Tool calls, several of them in parallel.

    Args:
        *wanted: Pairs of tool name and input.
        text: What the model says before calling.
        ids: Call ids, in order, equal ones allowed; left out, the server numbers.
        usage: Tokens billed.
        stop: Another stop reason, like `end_turn` despite the calls.

    Raises:
        TypeError: A call is no pair of a name and its input.
    """
    for call in wanted:
        check_call(call)
    given = tuple(ids)
    if given and len(given) != len(wanted):
        raise ValueError(
            f"{len(given)} ids for {len(wanted)} calls; give one per call or none"
        )
    named = given or (None,) * len(wanted)
    made = tuple(
        Call(name=name, input=arguments, id=id_)
        for (name, arguments), id_ in zip(wanted, named, strict=True)
    )
    spoken: tuple[Block, ...] = () if text is None else (Text(text),)
    return Answer(blocks=spoken + made, usage=_usage(usage), stop=stop)


def content(
    blocks: Iterable[Doc],
    *,
    usage: Usage | tuple[int, int] | None = None,
    stop: str | None = None,
) -> Answer:
    """Blocks in their wire form, known or not; no block at all is allowed."""
    opaque = tuple(Opaque(block) for block in blocks)
    return Answer(blocks=opaque, usage=_usage(usage), stop=stop)


def thinks(text: str, *, signature: str | None = None) -> Answer:
    """Reasoning, to be joined to what follows it: `thinks("hm") + says("four")`.

    Args:
        text: The reasoning; may be empty.
        signature: Left out, the fake signs the text and recognises every alteration.
    """
    return Answer(
        blocks=(Thought(text, sign(text) if signature is None else signature),)
    )


def thinks_secretly(redacted: str) -> Answer:
    """Reasoning that was redacted by the provider, given as base64."""
    return Answer(blocks=(Redacted(redacted),))


def truncates(call: tuple[str, Doc], *, at: int, text: str | None = None) -> Answer:
    """A tool call cut off by the token limit after `at` characters of its input."""
    name, arguments = call
    made = Call(name=name, input=arguments, raw=dumps(arguments)[:at])
    spoken: tuple[Block, ...] = () if text is None else (Text(text),)
    return Answer(blocks=(*spoken, made), stop="max_tokens")


def refuses(text: str = "I cannot help with that.") -> Answer:
    """An answer the provider stopped."""
    return says(text, stop="refusal")


def tokens(sent: int, output: int, *, read: int = 0, written: int = 0) -> Usage:
    """Token counts with cache reads and writes, which `sent` leaves out."""
    return Usage(input=sent, output=output, cache_read=read, cache_write=written)


def sign(text: str) -> str:
    """The signature a thought has when the script gives none."""
    total = sum((i + 1) * ord(c) for i, c in enumerate(text))
    return f"c2lnbmVk{len(text):x}.{total:x}"


def answers(decide: Callable[[Request], Reply]) -> Computed:
    """A reply computed from the request: a programmable model."""
    return Computed(decide)


def _usage(given: Usage | tuple[int, int] | None) -> Usage | None:
    if isinstance(given, tuple):
        return Usage(input=given[0], output=given[1])
    return given
