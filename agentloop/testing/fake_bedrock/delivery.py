"""From a reply to the bytes on the wire, through one channel.

Whether a reply is sent as one document or as a stream is decided here, by the operation
of the request. Scripts and rules stand elsewhere.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final, assert_never

from attrs import frozen

from agentloop.testing.fake_bedrock import frames
from agentloop.testing.fake_bedrock.events import document, render, stream
from agentloop.testing.fake_bedrock.loopback import Channel
from agentloop.testing.fake_bedrock.records import Received
from agentloop.testing.fake_bedrock.replies import (
    STATUS,
    Broken,
    Closed,
    Computed,
    Corrupted,
    Failure,
    Finished,
    Message,
    Page,
    Raised,
    Reply,
    Reset,
    Stalled,
)

_JSON: Final = "application/json"
_EVENT_STREAM: Final = "application/vnd.amazon.eventstream"


@frozen
class Delivery:
    """One request to be answered.

    Attributes:
        request: What was asked.
        channel: The way back.
        wait: Waits some seconds; false when the fake closed meanwhile.
        inferred: Called once when a model would have run.
    """

    request: Received
    channel: Channel
    wait: Callable[[float], bool]
    inferred: Callable[[], None]

    @property
    def streams(self) -> bool:
        """Whether a stream of events was asked for."""
        return self.request.operation == "converse_stream"

    def headers(self, content_type: str = _JSON) -> dict[str, str]:
        """The headers every reply carries."""
        return {
            "Content-Type": content_type,
            "x-amzn-RequestId": self.request.request_id,
        }


def deliver(delivery: Delivery, reply: Reply) -> None:
    """Answer a request."""
    match reply:
        case Message():
            delivery.inferred()
            _whole(delivery, reply)
        case Failure():
            fail(delivery, reply)
        case Page(status=status, body=body, content_type=kind):
            delivery.channel.reply(status, delivery.headers(kind), body)
        case Computed(answer=answer):
            deliver(delivery, answer(delivery.request))
        case Stalled():
            _stalled(delivery, reply)
        case Broken():
            _broken(delivery, reply)
        case _:
            assert_never(reply)


def fail(delivery: Delivery, failure: Failure) -> None:
    """Answer with an error, the way the AWS front end does."""
    body = json.dumps({"message": failure.message, **failure.details}).encode()
    headers = {
        **delivery.headers(),
        "x-amzn-ErrorType": failure.code,
        **failure.headers,
    }
    delivery.channel.reply(failure.status, headers, body)


def _whole(delivery: Delivery, message: Message) -> None:
    if not delivery.streams:
        body = _body(delivery, message)
        delivery.channel.reply(200, delivery.headers(), body)
        return
    delivery.channel.begin(delivery.headers(_EVENT_STREAM), chunked=True)
    for frame in _frames(delivery, message):
        delivery.channel.send(frame)
    delivery.channel.end()


def _stalled(delivery: Delivery, reply: Stalled) -> None:
    if reply.after and delivery.streams and isinstance(reply.reply, Message):
        _stalled_stream(delivery, reply.reply, reply)
    elif delivery.wait(reply.seconds):
        deliver(delivery, reply.reply)
    else:
        delivery.channel.drop()


def _stalled_stream(delivery: Delivery, message: Message, stall: Stalled) -> None:
    delivery.inferred()
    delivery.channel.begin(delivery.headers(_EVENT_STREAM), chunked=True)
    for place, frame in enumerate(_frames(delivery, message)):
        if place == stall.after and not delivery.wait(stall.seconds):
            delivery.channel.drop()
            return
        delivery.channel.send(frame)
    delivery.channel.end()


def _broken(delivery: Delivery, reply: Broken) -> None:
    ending = reply.ending
    if isinstance(ending, Raised) and not delivery.streams:
        fail(delivery, _as_failure(ending))
        return
    delivery.inferred()
    if delivery.streams:
        _broken_stream(delivery, reply)
    else:
        _broken_document(delivery, reply)


def _broken_document(delivery: Delivery, reply: Broken) -> None:
    body = _body(delivery, reply.message)
    headers = delivery.headers()
    if isinstance(reply.ending, (Finished, Corrupted)):
        delivery.channel.reply(200, headers, body[: len(body) // 2])
        return
    delivery.channel.half_reply(200, headers, body)
    if isinstance(reply.ending, Reset):
        delivery.channel.reset()
    else:
        delivery.channel.drop()


def _broken_stream(delivery: Delivery, reply: Broken) -> None:
    channel = delivery.channel
    channel.begin(delivery.headers(_EVENT_STREAM), chunked=reply.chunked)
    rest = _frames(delivery, reply.message)
    for frame in islice(rest, reply.after):
        channel.send(frame)
    match reply.ending:
        case Closed():
            channel.drop()
        case Reset():
            channel.reset()
        case Finished():
            channel.end()
        case Raised(code=code, message=message):
            channel.send(frames.exception(code, message))
            channel.end()
        case Corrupted():
            channel.send(frames.corrupted(next(rest)))
            channel.end()
        case _:
            assert_never(reply.ending)


def _frames(delivery: Delivery, message: Message) -> Iterator[bytes]:
    for kind, data in stream(render(message, delivery.request)):
        yield frames.event(kind, data)


def _body(delivery: Delivery, message: Message) -> bytes:
    return json.dumps(document(render(message, delivery.request))).encode()


def _as_failure(raised: Raised) -> Failure:
    """The same failure when nothing was streamed: its code in upper camel case."""
    code = raised.code[:1].upper() + raised.code[1:]
    no_headers: Mapping[str, str] = {}
    return Failure(code, STATUS.get(code, 400), raised.message, no_headers)
