"""Failures of FakeBedrock through the real boto3 client: errors, cuts, silence."""

import threading
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import pytest
from botocore.eventstream import ChecksumMismatch
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    EventStreamError,
    ReadTimeoutError,
)
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.exceptions import ReadTimeoutError as StreamTimeoutError

from agentloop.testing.fake_bedrock import (
    FakeBedrock,
    Reply,
    breaks,
    corrupts,
    cuts,
    ends_early,
    fails,
    html,
    raw_body,
    resets,
    says,
    stalls,
    throttles,
)
from agentloop.testing.fake_bedrock.frames import event

MODEL = "us.anthropic.claude-sonnet-4-6"
HI: Any = [{"role": "user", "content": [{"text": "hi"}]}]


def ask(client: Any, messages: Any = HI, **fields: Any) -> Any:
    """Call `converse`."""
    return client.converse(modelId=MODEL, messages=messages, **fields)


def listen(client: Any, messages: Any = HI, **fields: Any) -> list[Any]:
    """Call `converse_stream` and read all of it."""
    events: list[Any] = []
    overhear(client, events, messages, **fields)
    return events


def overhear(client: Any, events: list[Any], messages: Any = HI, **fields: Any) -> None:
    """Read a stream into a list that is there even when the stream breaks."""
    reply = client.converse_stream(modelId=MODEL, messages=messages, **fields)
    with closing(reply["stream"]) as stream:
        for one in stream:
            events.append(one)


def kinds_of(events: Iterable[Any]) -> list[str]:
    """The kinds of some events."""
    return [next(iter(one)) for one in events]


def blocks(reply: Any) -> Any:
    """The content blocks of a reply."""
    return reply["output"]["message"]["content"]


# -- errors -------------------------------------------------------------------------

ERRORS = [
    ("ThrottlingException", 429, True),
    ("ModelNotReadyException", 429, True),
    ("WeirdQuotaException", 429, False),
    ("ServiceUnavailableException", 503, True),
    ("InternalServerException", 500, True),
    ("overloaded_error", 529, False),
    ("ModelTimeoutException", 408, True),
    ("ModelErrorException", 424, True),
    ("ModelStreamErrorException", 424, True),
    ("ValidationException", 400, True),
    ("AccessDeniedException", 403, True),
    ("ResourceNotFoundException", 404, True),
    ("ServiceQuotaExceededException", 400, True),
    ("ConflictException", 400, True),
]


@pytest.mark.parametrize("streams", [False, True], ids=["converse", "stream"])
@pytest.mark.parametrize(("code", "status", "modelled"), ERRORS)
def test_an_error_has_its_code_status_and_class(
    code: str, status: int, modelled: bool, streams: bool
) -> None:
    """Each error is raised by boto3 as its own class, with code, status and text."""
    own = {"WeirdQuotaException": 429}.get(code)
    with FakeBedrock(fails(code, own, "so it goes")) as bedrock:
        client = bedrock.client()
        kind = getattr(client.exceptions, code) if modelled else ClientError
        with pytest.raises(kind) as caught:
            listen(client) if streams else ask(client)
        error = caught.value.response
        assert error["Error"] == {"Code": code, "Message": "so it goes"}
        assert error["ResponseMetadata"]["HTTPStatusCode"] == status
        assert len(bedrock.requests) == 1
        assert bedrock.inferences == 0


def test_an_error_carries_details_and_headers() -> None:
    """Further members and headers of an error reach the client."""
    reply = fails(
        "ModelErrorException",
        headers={"x-amz-retry-after": "1500"},
        details={"originalStatusCode": 500, "resourceName": "model"},
    )
    with FakeBedrock(reply) as bedrock:
        client = bedrock.client()
        with pytest.raises(client.exceptions.ModelErrorException) as caught:
            ask(client)
    error = caught.value.response
    assert (error["originalStatusCode"], error["resourceName"]) == (500, "model")
    headers = error["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-amz-retry-after"] == "1500"


def test_a_proxy_page_is_an_error_named_by_its_status() -> None:
    """HTML with status 502 is a `ClientError` of code 502."""
    with FakeBedrock(html(502)) as bedrock, pytest.raises(ClientError) as caught:
        ask(bedrock.client())
    assert caught.value.response["Error"]["Code"] == "502"


@pytest.mark.parametrize("body", [b"", b"not json", b'{"output": {"mess'])
def test_a_broken_body_with_status_200_is_no_error_for_boto3(body: bytes) -> None:
    """Botocore returns a reply without `output`: callers must look for it."""
    with FakeBedrock(raw_body(body)) as bedrock:
        assert set(ask(bedrock.client())) == {"ResponseMetadata"}


def test_retries_of_boto3_are_seen_when_asked_for() -> None:
    """By default a call is one request; a client with three attempts makes three."""
    with FakeBedrock(throttles(), throttles(), says("third time")) as bedrock:
        patient = bedrock.client(retries={"mode": "legacy", "total_max_attempts": 3})
        assert blocks(ask(patient)) == [{"text": "third time"}]
        assert len(bedrock.requests) == 3


# -- broken transport ---------------------------------------------------------------


def test_a_cut_chunked_stream_raises() -> None:
    """The events before the cut arrive, then urllib3 reports the lost connection."""
    got: list[Any] = []
    with FakeBedrock(cuts(says("one two"), after=3)) as bedrock:
        with pytest.raises(ProtocolError):
            overhear(bedrock.client(), got)
        assert bedrock.inferences == 1
    assert kinds_of(got) == ["messageStart", "contentBlockDelta", "contentBlockDelta"]


@pytest.mark.parametrize(
    "reply",
    [
        cuts(after=2, chunked=False),
        ends_early(after=2),
        ends_early(after=2, chunked=False),
    ],
    ids=["cut-unchunked", "early-chunked", "early-unchunked"],
)
def test_a_stream_may_end_silently(reply: Reply) -> None:
    """No error at all, and no `messageStop`: the caller must notice."""
    with FakeBedrock(reply) as bedrock:
        kinds = kinds_of(listen(bedrock.client()))
    assert kinds == ["messageStart", "contentBlockDelta"]


def test_a_reset_stream_raises() -> None:
    """A reset connection in the middle of a stream is a transport error."""
    with FakeBedrock(resets(after=1)) as bedrock, pytest.raises(HTTPError):
        listen(bedrock.client())


def test_a_reset_reply_raises() -> None:
    """A reset connection in the middle of a document is a transport error."""
    with FakeBedrock(resets()) as bedrock, pytest.raises(BotoCoreError):
        ask(bedrock.client())


@pytest.mark.parametrize("reply", [cuts(), ends_early(), corrupts()])
def test_half_a_document_is_no_error_for_boto3(reply: Reply) -> None:
    """Botocore takes half a body for a reply without `output`."""
    with FakeBedrock(reply) as bedrock:
        assert "output" not in ask(bedrock.client())


def test_a_corrupted_frame_raises() -> None:
    """A wrong checksum is an error of botocore's parser, no `ClientError`."""
    got: list[Any] = []
    with FakeBedrock(corrupts(after=1)) as bedrock, pytest.raises(ChecksumMismatch):
        overhear(bedrock.client(), got)
    assert kinds_of(got) == ["messageStart"]
    assert not issubclass(ChecksumMismatch, (ClientError, BotoCoreError))


@pytest.mark.parametrize(
    "code",
    [
        "throttlingException",
        "internalServerException",
        "modelStreamErrorException",
        "validationException",
        "serviceUnavailableException",
    ],
)
def test_an_exception_frame_raises_in_the_stream(code: str) -> None:
    """The events before it arrive, then botocore raises its lower camel code."""
    got: list[Any] = []
    with FakeBedrock(breaks(code, "so it goes", after=2)) as bedrock:
        with pytest.raises(EventStreamError) as caught:
            overhear(bedrock.client(), got)
        assert (len(bedrock.requests), bedrock.inferences) == (1, 1)
    assert kinds_of(got) == ["messageStart", "contentBlockDelta"]
    assert caught.value.response["Error"] == {"Code": code, "Message": "so it goes"}


def test_an_exception_frame_is_a_plain_error_without_a_stream() -> None:
    """The same script throttles `converse` with status 429."""
    with FakeBedrock(breaks("throttlingException")) as bedrock:
        client = bedrock.client()
        with pytest.raises(client.exceptions.ThrottlingException):
            ask(client)
        assert bedrock.inferences == 0


def test_hand_made_frames_can_be_served() -> None:
    """`raw_body` with frames is any stream; botocore drops event kinds it lacks."""
    frames = event("messageStart", {"role": "assistant"}) + event("novelty", {"x": 1})
    reply = raw_body(frames, content_type="application/vnd.amazon.eventstream")
    with FakeBedrock(reply) as bedrock:
        events = listen(bedrock.client())
    assert events == [{"messageStart": {"role": "assistant"}}]


# -- silence ------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [False, True], ids=["converse", "stream"])
def test_a_stall_meets_the_clients_read_timeout(streams: bool) -> None:
    """The client gives up, and closing the fake does not wait for the stall to end."""
    with FakeBedrock(stalls(3600)) as bedrock:
        client = bedrock.client(read_timeout=0.1)
        with pytest.raises(ReadTimeoutError):
            listen(client) if streams else ask(client)
        assert len(bedrock.requests) == 1


def test_a_stall_may_come_in_the_middle_of_a_stream() -> None:
    """Some events arrive before the silence."""
    got: list[Any] = []
    with FakeBedrock(stalls(3600, says("late"), after=2)) as bedrock:
        client = bedrock.client(read_timeout=0.1)
        # In the middle of a stream the error is urllib3's, not botocore's.
        with pytest.raises(StreamTimeoutError):
            overhear(client, got)
    assert kinds_of(got) == ["messageStart", "contentBlockDelta"]


@pytest.mark.parametrize("after", [0, 2])
def test_a_short_stall_ends_in_its_reply(after: int) -> None:
    """After the silence the scripted reply is served."""
    with FakeBedrock(stalls(0.01, says("late"), after=after)) as bedrock:
        events = listen(bedrock.client())
    deltas = [
        e["contentBlockDelta"]["delta"] for e in events if "contentBlockDelta" in e
    ]
    assert "".join(delta["text"] for delta in deltas) == "late"


def test_closing_wakes_a_stalled_call() -> None:
    """A thread that waits for a stalled reply is released by `close`."""
    bedrock = FakeBedrock(stalls(3600))
    client = bedrock.client()
    failures: list[Exception] = []

    def call() -> None:
        try:
            ask(client)
        except BotoCoreError as error:
            failures.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    while not bedrock.requests:
        threading.Event().wait(0.001)
    bedrock.close()
    caller.join()
    assert [type(error) for error in failures] == [ConnectionClosedError]
