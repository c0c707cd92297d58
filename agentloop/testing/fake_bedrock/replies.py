"""What a scripted model answers: values to build, compose and reuse.

    says("hello")                                   a final answer
    calls(("rooms-free_slots", {"day": "Mon"}))     one tool call; several are parallel
    thinks("let me see") + calls(...)               blocks of both, in order
    throttles(), fails("ModelErrorException")       errors, each with its own status
    cuts(says("hello"), after=2)                    the connection dies on the way
    answers(lambda request: says(request.last_user_text))

A reply says nothing about the API it is asked through: the same value is served by
`converse` and, as a sequence of events, by `converse_stream`. Nothing here does I/O.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias, cast, get_args

from attrs import evolve, field, frozen

from agentloop.testing.fake_bedrock.records import Received
from agentloop.testing.fake_bedrock.rules.reasoning import sign
from agentloop.testing.fake_bedrock.values import Json
from agentloop.testing.scripted import check_call

Call: TypeAlias = tuple[str, object]
Usage: TypeAlias = Mapping[str, object] | tuple[int, int]

STATUS: Final[Mapping[str, int]] = {
    "ThrottlingException": 429,
    "ModelNotReadyException": 429,
    "ServiceUnavailableException": 503,
    "InternalServerException": 500,
    "overloaded_error": 529,
    "ModelTimeoutException": 408,
    "ModelErrorException": 424,
    "ModelStreamErrorException": 424,
    "ValidationException": 400,
    "ServiceQuotaExceededException": 400,
    "ConflictException": 400,
    "AccessDeniedException": 403,
    "ExpiredTokenException": 403,
    "UnrecognizedClientException": 403,
    "ResourceNotFoundException": 404,
}


@frozen
class Partial:
    """Tool input whose JSON text was cut off by the token limit.

    A stream delivers the text as far as it goes; a plain reply holds an empty object.
    """

    text: str


@frozen
class Message:
    """An assistant message; `+` joins the blocks of two.

    Attributes:
        blocks: Raw Converse content blocks; a tool use may leave its id to the fake.
        stop: The stop reason; left out, `tool_use` when there are tool uses and
            `end_turn` otherwise.
        usage: Token counts that replace the counted ones.
        piece: Characters per streamed delta; left out, a few deltas per block.
        extras: Further top-level fields of the reply, like `trace`.
    """

    blocks: tuple[Json, ...] = ()
    stop: str | None = None
    usage: Usage | None = None
    piece: int | None = None
    extras: Json = field(factory=dict)

    def __add__(self, other: "Message") -> "Message":
        """The blocks of both; what the right one leaves open, the left one decides."""
        return Message(
            blocks=self.blocks + other.blocks,
            stop=other.stop or self.stop,
            usage=other.usage or self.usage,
            piece=other.piece or self.piece,
            extras={**self.extras, **other.extras},
        )


@frozen
class Failure:
    """An error answered before any output."""

    code: str
    status: int
    message: str
    headers: Mapping[str, str] = field(factory=dict)
    details: Json = field(factory=dict)


@frozen
class Page:
    """A body that is no Bedrock reply: a proxy's HTML, half a JSON text, raw frames."""

    status: int
    body: bytes
    content_type: str


@frozen
class Closed:
    """The connection is closed without an end of body."""


@frozen
class Reset:
    """The connection is reset."""


@frozen
class Finished:
    """The body ends in good order, only too early."""


@frozen
class Raised:
    """An exception frame is the last one."""

    code: str
    message: str


@frozen
class Corrupted:
    """The next frame arrives with a wrong checksum."""


Ending: TypeAlias = Closed | Reset | Finished | Raised | Corrupted


@frozen
class Broken:
    """A message that does not arrive whole.

    Attributes:
        message: What would have been said.
        after: How many stream events still arrive.
        ending: How it stops.
        chunked: Whether the stream has chunked encoding; without it, botocore cannot
            tell a lost connection from a finished stream.
    """

    message: Message
    after: int
    ending: Ending
    chunked: bool = True


@frozen
class Stalled:
    """Silence, then an answer.

    Attributes:
        seconds: How long nothing is sent; closing the fake ends it at once.
        reply: What follows.
        after: How many stream events come before the silence.
    """

    seconds: float
    reply: "Reply"
    after: int = 0


@frozen
class Computed:
    """A reply made from the request at hand."""

    answer: Callable[[Received], "Reply"]


Reply: TypeAlias = Message | Failure | Page | Broken | Stalled | Computed


def checked(reply: Any) -> Reply:
    """A reply as it is; what is none would fail the request that reaches it.

    Raises:
        TypeError: it is no reply.
    """
    if not isinstance(reply, get_args(Reply)):
        raise TypeError(f"a script is of replies such as says('…'), not {reply!r:.60}")
    return cast("Reply", reply)


def says(text: str, *, usage: Usage | None = None, stop: str | None = None) -> Message:
    """A text answer.

    Args:
        text: What the model says.
        usage: Token counts, as `(input, output)` or from `tokens(...)`.
        stop: Another stop reason, also one nobody knows yet.

    Raises:
        TypeError: What is said is no text.
    """
    if not isinstance(text, str):
        raise TypeError(f"says takes a text, not {text!r:.60}")
    return Message(({"text": text},), stop, usage)


def calls(
    *wanted: Call,
    text: str | None = None,
    ids: Iterable[str] = (),
    usage: Usage | None = None,
    stop: str | None = None,
) -> Message:
    """Tool calls, several of them in parallel.

    Args:
        *wanted: Pairs of tool name and input; an input that is no object is sent as it
            is, to try what a model should never do.
        text: What the model says before calling.
        ids: Tool use ids, in call order; the fake makes up those left out.
        usage: Token counts.
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
    uses = tuple(
        {
            "toolUse": {
                **({"toolUseId": given[place]} if given else {}),
                "name": name,
                "input": arguments,
            }
        }
        for place, (name, arguments) in enumerate(wanted)
    )
    spoken: tuple[Json, ...] = () if text is None else ({"text": text},)
    return Message(spoken + uses, stop, usage)


def content(
    blocks: Iterable[Json], *, usage: Usage | None = None, stop: str | None = None
) -> Message:
    """Raw Converse content blocks, known or not; no block at all is allowed."""
    return Message(tuple(blocks), stop, usage)


def thinks(text: str, *, signature: str | None = None) -> Message:
    """Reasoning, to be joined to what follows it: `thinks("hm") + says("four")`.

    Args:
        text: The reasoning; may be empty.
        signature: Left out, the fake signs the text and recognises every alteration.
    """
    signed = sign(text) if signature is None else signature
    block = {"reasoningText": {"text": text, "signature": signed}}
    return Message(({"reasoningContent": block},))


def thinks_secretly(redacted: str) -> Message:
    """Reasoning that was redacted by the provider, given as base64."""
    return Message(({"reasoningContent": {"redactedContent": redacted}},))


def truncates(call: Call, *, at: int, text: str | None = None) -> Message:
    """A tool call cut off by the token limit after `at` characters of its input."""
    name, arguments = call
    whole = json.dumps(arguments)
    return evolve(
        calls((name, Partial(whole[:at])), text=text),
        stop="max_tokens",
    )


def intervenes(text: str) -> Message:
    """The guardrail's text instead of the model's."""
    return says(text, stop="guardrail_intervened")


def split(message: Message, piece: int) -> Message:
    """The same message streamed in deltas of `piece` characters.

    One character cuts through every escape sequence of a tool input.
    """
    return evolve(message, piece=piece)


def tokens(sent: int, output: int, *, read: int = 0, written: int = 0) -> Json:
    """Token counts with cache reads and writes, which `inputTokens` leaves out."""
    return {
        "inputTokens": sent,
        "outputTokens": output,
        "totalTokens": sent + output + read + written,
        "cacheReadInputTokens": read,
        "cacheWriteInputTokens": written,
    }


def throttles(message: str = "Too many requests, please wait.") -> Failure:
    """A throttled request."""
    return fails("ThrottlingException", message=message)


def fails(
    code: str,
    status: int | None = None,
    message: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    details: Json | None = None,
) -> Failure:
    """An error reply.

    Args:
        code: The error code, modelled or not.
        status: The HTTP status; left out, the one Bedrock uses for this code.
        message: The error text.
        headers: Further headers, like `x-amz-retry-after`.
        details: Further members of the error body, like `originalStatusCode`.
    """
    return Failure(
        code=code,
        status=STATUS.get(code, 400) if status is None else status,
        message=f"scripted {code}" if message is None else message,
        headers=headers or {},
        details=details or {},
    )


def html(status: int = 502) -> Page:
    """The error page of a proxy on the way."""
    return raw_body(
        b"<html><body><h1>Bad Gateway</h1></body></html>",
        status=status,
        content_type="text/html",
    )


def raw_body(
    body: bytes, *, status: int = 200, content_type: str = "application/json"
) -> Page:
    """Any bytes as a reply, also an empty body or hand-made stream frames."""
    return Page(status, body, content_type)


def stalls(seconds: float, then: "Reply | None" = None, *, after: int = 0) -> Stalled:
    """Silence for some seconds, then `then`; a stream may send `after` events first."""
    return Stalled(seconds, says("late") if then is None else then, after)


def cuts(
    message: Message | None = None, *, after: int = 1, chunked: bool = True
) -> Broken:
    """The connection is closed in the middle of the reply."""
    return Broken(_something(message), after, Closed(), chunked)


def resets(message: Message | None = None, *, after: int = 1) -> Broken:
    """The connection is reset in the middle of the reply."""
    return Broken(_something(message), after, Reset())


def ends_early(
    message: Message | None = None, *, after: int = 1, chunked: bool = True
) -> Broken:
    """The stream ends in good order after some events; a plain body is cut short."""
    return Broken(_something(message), after, Finished(), chunked)


def breaks(
    code: str = "throttlingException",
    said: str = "scripted failure in the stream",
    *,
    message: Message | None = None,
    after: int = 1,
) -> Broken:
    """An exception frame after some events; a plain reply fails with the same code."""
    return Broken(_something(message), after, Raised(code, said))


def corrupts(message: Message | None = None, *, after: int = 1) -> Broken:
    """A frame with a wrong checksum after some events; a plain body is cut short."""
    return Broken(_something(message), after, Corrupted())


def answers(answer: Callable[[Received], Reply]) -> Computed:
    """A reply computed from the request: a programmable model."""
    return Computed(answer)


def _something(message: Message | None) -> Message:
    return says("one two three four") if message is None else message
