"""Inferences through the real boto3 client against a loopback Bedrock."""

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from typing import Any

import botocore.session
import pytest
from botocore.config import Config

from agentloop.backends.bedrock import BedrockBackend, ModelOptions, Thinking
from agentloop.core.catalog import FailureKind
from agentloop.core.config import AnyTool, Auto, SpecificTool
from agentloop.core.content import Message, Text, ToolResult, tool_uses
from agentloop.core.phases import Infer, Log, ModelFailed, ModelReplied
from agentloop.core.run import Usage
from agentloop.ports import Inference, JobContext
from agentloop.testing.fake_bedrock import (
    FakeBedrock,
    Received,
    Reply,
    answers,
    breaks,
    calls,
    content,
    corrupts,
    cuts,
    ends_early,
    fails,
    html,
    intervenes,
    raw_body,
    resets,
    says,
    split,
    stalls,
    thinks,
    thinks_secretly,
    throttles,
    tokens,
    truncates,
)
from agentloop.testing.fake_bedrock.client import bedrock_client
from tests.bedrock_cases import CLAUDE, NOVA, ROOMS, infer, results, setup, user

JOB = JobContext(job_id="00000000-0000-5000-8000-000000000001", timeout=20.0)
ASKED = infer(user("hi"))
BOTH = pytest.mark.parametrize("streams", [False, True], ids=["converse", "stream"])


def asked(
    bedrock: FakeBedrock,
    streams: bool = False,
    job: JobContext = JOB,
    **client: Any,
) -> Inference:
    """One inference over a client of its own."""
    session = BedrockBackend(bedrock.client(**client)).session(setup())
    return session.infer(ASKED, job, (lambda _: None) if streams else None)


def replied(inference: Inference) -> ModelReplied:
    """The event of an inference that went well."""
    assert isinstance(inference.event, ModelReplied)
    return inference.event


def failed(inference: Inference) -> ModelFailed:
    """The event of one that did not."""
    assert isinstance(inference.event, ModelFailed)
    return inference.event


# ---------------------------------------------------------------- replies

REPLIES: dict[str, Reply] = {
    "text": says("hello é"),
    "call": calls(("rooms-free_slots", {"day": "Mon", "n": [1, 2.5]}), ids=["t1"]),
    "parallel calls beside text": calls(
        ("rooms-free_slots", {}), ("ask", {"é": "\\"}), text="so", ids=["t1", "t2"]
    ),
    "reasoning": thinks("hm") + calls(("rooms-free_slots", {}), ids=["t1"]),
    "a signature alone": thinks("", signature="abc") + says("four"),
    "redacted reasoning": thinks_secretly("c2VjcmV0") + says("four"),
    "text in single characters": split(says("héllo\n"), 1),
    "arguments in single characters": split(
        calls(("rooms-free_slots", {"day": 'a"\\é😀', "l": [{}]}), ids=["t1"]), 1
    ),
    "an unknown stop reason": says("hello", stop="something_new"),
    "a stop reason that denies the call": calls(
        ("rooms-free_slots", {}), stop="end_turn", ids=["t1"]
    ),
    "arguments as text": calls(("rooms-free_slots", '{"day": "Mon"}'), ids=["t1"]),
    "the guardrail's text": intervenes("not today"),
    "nothing at all": content([]),
    "cached tokens": says("hello", usage=tokens(5, 2, read=100, written=30)),
    "cited text": content(
        [
            {
                "citationsContent": {
                    "content": [{"text": "it says"}],
                    "citations": [{"title": "t"}],
                }
            }
        ]
    ),
}


@pytest.mark.parametrize("name", REPLIES)
def test_stream_equals_converse(name: str) -> None:
    """A reply means the same whether somebody listens or not."""
    with FakeBedrock(REPLIES[name], REPLIES[name]) as bedrock:
        whole, pieces = asked(bedrock), asked(bedrock, streams=True)
        paths = [request.operation for request in bedrock.requests]
    assert paths == ["converse", "converse_stream"]
    assert replied(pieces) == replied(whole)
    assert pieces.report.request_sha256 == whole.report.request_sha256
    assert json.loads(str(pieces.report.response)) == json.loads(
        str(whole.report.response)
    )


@BOTH
@pytest.mark.parametrize("text", [None, "so"])
def test_call_cut_off(text: str | None, streams: bool) -> None:
    """A call that the token limit cut off is not in the turn, only in the response."""
    script = truncates(("rooms-free_slots", {"day": "Monday"}), at=8, text=text)
    with FakeBedrock(script) as bedrock:
        found = asked(bedrock, streams)
    said = () if text is None else (Text(text),)
    assert replied(found).message == Message("assistant", said)
    assert replied(found).stop == "max_tokens"
    assert any("cut off" in note for note in found.report.notes)
    assert "rooms-free_slots" in str(found.report.response)


@BOTH
def test_report(streams: bool) -> None:
    """The report holds the request's id and checksum and the reply verbatim."""
    with FakeBedrock(says("hello", usage=(7, 3))) as bedrock:
        found = asked(bedrock, streams)
        [request] = bedrock.requests
    assert found.report.provider_request_id == request.request_id
    assert found.report.request_sha256 == sha256(request.raw).hexdigest()
    assert found.report.notes == ()
    assert json.loads(str(found.report.response)) == {
        "output": {"message": {"role": "assistant", "content": [{"text": "hello"}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10},
        "metrics": {"latencyMs": 1},
    }
    assert replied(found).usage == Usage(prompt_tokens=7, completion_tokens=3)


@BOTH
def test_cache_usage(streams: bool) -> None:
    """Prompt tokens are those that were new, read from and written to the cache."""
    script = says("hello", usage=tokens(5, 2, read=100, written=30))
    with FakeBedrock(script) as bedrock:
        usage = replied(asked(bedrock, streams)).usage
    assert usage == Usage(
        prompt_tokens=135,
        completion_tokens=2,
        cache_read_tokens=100,
        cache_write_tokens=30,
    )


def test_request_is_what_was_sent() -> None:
    """The request of a job can be had again from a fresh session, byte for byte."""
    with FakeBedrock(says("a"), says("b")) as bedrock:
        asked(bedrock)
        asked(bedrock, streams=True)
        sent = [request.raw for request in bedrock.requests]
    again = BedrockBackend().session(setup()).request(ASKED, JOB)
    assert sent == [again, again]
    assert JOB.job_id.encode() in again


def test_listener_hears_the_text() -> None:
    """Pieces of text go out as they come in; together they are the text."""
    heard: list[str] = []
    with FakeBedrock(thinks("hm") + says("one two three")) as bedrock:
        session = BedrockBackend(bedrock.client()).session(setup())
        session.infer(ASKED, JOB, heard.append)
    assert len(heard) > 1
    assert "".join(heard) == "one two three"


def test_listener_that_fails() -> None:
    """An error of whoever listens is no failure of Bedrock's and goes through."""

    def listen(_: str) -> None:
        raise LookupError("mine")

    with FakeBedrock(says("one two")) as bedrock:
        session = BedrockBackend(bedrock.client()).session(setup())
        with pytest.raises(LookupError, match="mine"):
            session.infer(ASKED, JOB, listen)


# ---------------------------------------------------------------- whole loops


@pytest.mark.parametrize("model_id", [CLAUDE, NOVA])
def test_loop(model_id: str) -> None:
    """A log that grows is answered turn by turn over one connection."""
    script = [calls(("rooms-free_slots", {"day": str(n)}), text="so") for n in range(5)]
    with FakeBedrock(*script, says("done")) as bedrock:
        backend = BedrockBackend(bedrock.client(), model_ids={"mine": model_id})
        session = backend.session(setup(model="mine"))
        log = Log(user("hi"))
        for iteration in range(1, 7):
            choice = AnyTool() if iteration == 1 else Auto()
            command = Infer(iteration, 1, 0.0, 0.0, choice, log)
            message = replied(session.infer(command, JOB, None)).message
            answers_ = [
                ToolResult(use.tool_use_id, (Text("9:00"),))
                for use in tool_uses(message)
            ]
            log = log.append(message, *([results(*answers_)] if answers_ else []))
        choices = [r.body["toolConfig"] for r in bedrock.requests]
    assert log[-1].content == (Text("done"),)
    assert ["toolChoice" in choice for choice in choices] == [True] + [False] * 5


def test_thinking_loop() -> None:
    """Reasoning goes back as it was signed, and the fake knows every alteration."""
    thought = thinks("hm é\n") + calls(("rooms-free_slots", {}))
    options = {CLAUDE: ModelOptions(thinking=Thinking(1024))}
    with FakeBedrock(thought, says("done")) as bedrock:
        backend = BedrockBackend(bedrock.client(), options=options)
        session = backend.session(setup())
        first = replied(session.infer(ASKED, JOB, None)).message
        answer = results(ToolResult(tool_uses(first)[0].tool_use_id, (Text("9"),)))
        second = session.infer(infer(user("hi"), first, answer), JOB, None)
        assert replied(second).message.content == (Text("done"),)
        assert bedrock.refused == []


def test_shared_by_threads() -> None:
    """Sixteen threads share one backend; each run gets its own answers."""

    def run(number: int) -> list[tuple[str, str]]:
        session = backend.session(setup())
        found = []
        for turn in range(6):
            job = JobContext(job_id=f"{number}.{turn}", timeout=30.0)
            listener = (lambda _: None) if turn % 2 else None
            event = replied(session.infer(infer(user(f"{number}:")), job, listener))
            found.append((event.message.content[0].text, f"{number}:{number}.{turn}"))
        return found

    def metadata(request: Received) -> Reply:
        job = request.body["requestMetadata"]["agentloop_job"]
        return says(f"{request.last_user_text}{job}")

    with FakeBedrock(default=answers(metadata)) as bedrock:
        backend = BedrockBackend(bedrock.client(max_pool_connections=16))
        with ThreadPoolExecutor(16) as pool:
            pairs = [pair for found in pool.map(run, range(16)) for pair in found]
        count = len(bedrock.requests)
    assert count == len(pairs) == 96
    assert [said for said, _ in pairs] == [expected for _, expected in pairs]
    assert backend.open().reason is None


# ---------------------------------------------------------------- failures

REFUSALS: list[tuple[str, FailureKind]] = [
    ("ThrottlingException", "throttled"),
    ("ModelNotReadyException", "unavailable"),
    ("ServiceUnavailableException", "unavailable"),
    ("InternalServerException", "unavailable"),
    ("overloaded_error", "overloaded"),
    ("ModelTimeoutException", "timeout"),
    ("ModelErrorException", "provider"),
    ("ModelStreamErrorException", "provider"),
    ("ValidationException", "invalid_request"),
    ("AccessDeniedException", "denied"),
    ("ExpiredTokenException", "denied"),
    ("ResourceNotFoundException", "not_found"),
    ("ServiceQuotaExceededException", "quota"),
    ("ConflictException", "provider"),
]


@BOTH
@pytest.mark.parametrize(("code", "kind"), REFUSALS)
def test_refused(code: str, kind: FailureKind, streams: bool) -> None:
    """Each refusal is one request, one failure with its code and request id."""
    with FakeBedrock(fails(code)) as bedrock:
        found = asked(bedrock, streams)
        assert len(bedrock.requests) == 1
        assert found.report.provider_request_id == bedrock.requests[0].request_id
    failure = failed(found).failure
    assert (failure.kind, failure.code) == (kind, code)
    assert f"scripted {code}" in failure.message
    assert failed(found).usage is None


@BOTH
def test_unmodelled_429(streams: bool) -> None:
    """A 429 nobody modelled is a throttle with its hint."""
    script = fails("TooBusy", 429, headers={"x-amz-retry-after": "2500"})
    with FakeBedrock(script) as bedrock:
        failure = failed(asked(bedrock, streams)).failure
    assert (failure.kind, failure.retry_after) == ("throttled", 2.5)


@BOTH
def test_overflow(streams: bool) -> None:
    """Too long a prompt is told apart from other invalid requests."""
    script = fails("ValidationException", message="Input is too long for requested ..")
    with FakeBedrock(script) as bedrock:
        failure = failed(asked(bedrock, streams)).failure
    assert failure.kind == "context_window"


@BOTH
@pytest.mark.parametrize(
    ("status", "kind"), [(502, "unavailable"), (413, "invalid_request")]
)
def test_proxy_page(status: int, kind: FailureKind, streams: bool) -> None:
    """A page of a proxy on the way is judged by its status."""
    with FakeBedrock(html(status)) as bedrock:
        failure = failed(asked(bedrock, streams)).failure
    assert (failure.kind, failure.code) == (kind, str(status))


GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "half": b'{"output": {"mess',
    "a list": b"[]",
    "a text": b'"hello"',
    "no message": b'{"output": {}}',
    "no content": b'{"output": {"message": {"role": "assistant"}}}',
    "html": b"<html></html>",
    "a block of two kinds": b'{"output": {"message": {"role": "assistant", "content": '
    b'[{"text": "a", "reasoningContent": {"reasoningText": {"text": "b"}}}]}}, '
    b'"stopReason": "end_turn"}',
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage(name: str) -> None:
    """A 200 with anything but a reply is malformed output, not an exception."""
    with FakeBedrock(raw_body(GARBAGE[name])) as bedrock:
        failure = failed(asked(bedrock)).failure
    assert failure.kind == "malformed_output"


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_for_a_stream(name: str) -> None:
    """Bytes that are no stream are a failure of the connection, or an empty one."""
    with FakeBedrock(raw_body(GARBAGE[name])) as bedrock:
        failure = failed(asked(bedrock, streams=True)).failure
    assert failure.kind == "connection"


def test_usage_of_a_malformed_reply() -> None:
    """A reply that cannot be used has cost what it says."""
    script = calls(("rooms-free_slots", [1]), usage=(3, 1))
    with FakeBedrock(script) as bedrock:
        found = asked(bedrock)
    assert failed(found).failure.kind == "malformed_output"
    assert failed(found).usage == Usage(prompt_tokens=3, completion_tokens=1)
    assert "rooms-free_slots" in str(found.report.response)


BROKEN: dict[str, tuple[Callable[[int], Reply], FailureKind]] = {
    "cut": (lambda n: cuts(after=n), "connection"),
    "cut without chunks": (lambda n: cuts(after=n, chunked=False), "connection"),
    "reset": (lambda n: resets(after=n), "connection"),
    "ended early": (lambda n: ends_early(after=n), "connection"),
    "corrupted": (lambda n: corrupts(after=n), "connection"),
    "throttled": (lambda n: breaks("throttlingException", after=n), "throttled"),
    "internal": (lambda n: breaks("internalServerException", after=n), "unavailable"),
    "unavailable": (
        lambda n: breaks("serviceUnavailableException", after=n),
        "unavailable",
    ),
    "model error": (
        lambda n: breaks("modelStreamErrorException", after=n),
        "unavailable",
    ),
    "invalid": (lambda n: breaks("validationException", after=n), "invalid_request"),
}


@pytest.mark.parametrize("after", [0, 1, 3, 7])
@pytest.mark.parametrize("name", BROKEN)
def test_broken_stream(name: str, after: int) -> None:
    """A stream that breaks anywhere, loudly or silently, is one failed attempt."""
    script, kind = BROKEN[name]
    with FakeBedrock(script(after)) as bedrock:
        found = asked(bedrock, streams=True)
        assert len(bedrock.requests) == 1
    assert failed(found).failure.kind == kind
    assert failed(found).usage is None


@pytest.mark.parametrize("name", ["cut", "reset"])
def test_broken_reply(name: str) -> None:
    """A plain reply that breaks is a failure too."""
    with FakeBedrock(BROKEN[name][0](1)) as bedrock:
        failure = failed(asked(bedrock)).failure
    assert failure.kind in {"connection", "malformed_output"}


@BOTH
@pytest.mark.parametrize("after", [0, 3])
def test_silence(streams: bool, after: int) -> None:
    """An attempt ends at its own time-out, however patient the client is."""
    with FakeBedrock(stalls(60, after=after)) as bedrock:
        job = JobContext(job_id="j", timeout=0.3)
        found = asked(bedrock, streams, job, read_timeout=60)
        assert len(bedrock.requests) == 1
    assert failed(found).failure.kind == "timeout"


def test_silence_of_a_patient_job() -> None:
    """Without a time-out of its own an attempt has the client's."""
    with FakeBedrock(stalls(60)) as bedrock:
        job = JobContext(job_id="j")
        found = asked(bedrock, job=job, read_timeout=0.3)
    assert failed(found).failure.kind == "timeout"


def test_endless_stream() -> None:
    """A stream that keeps talking ends at the first event past the time."""
    heard = threading.Event()

    def slowly(_: str) -> None:
        heard.wait(0.05)

    with FakeBedrock(split(says("x" * 200), 1)) as bedrock:
        session = BedrockBackend(bedrock.client()).session(setup())
        found = session.infer(ASKED, JobContext(job_id="j", timeout=0.2), slowly)
    assert failed(found).failure.kind == "timeout"


@BOTH
def test_nobody_there(streams: bool) -> None:
    """A provider that cannot be reached is a failure of the connection."""
    with FakeBedrock() as bedrock:
        url = bedrock.url
    with closing(bedrock_client(url)) as client:
        session = BedrockBackend(client).session(setup())
        found = session.infer(ASKED, JOB, (lambda _: None) if streams else None)
    assert failed(found).failure.kind == "connection"


def test_no_credentials() -> None:
    """Missing credentials are denied and never leave the machine."""
    nowhere = (None, None, os.devnull, None)
    core = botocore.session.Session(session_vars={"config_file": nowhere})
    core.get_component("credential_provider").providers = []
    made = core.create_client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url="http://127.0.0.1:9",
        config=Config(signature_version="v4"),
    )
    with closing(made) as client:
        session = BedrockBackend(client).session(setup())
        failure = failed(session.infer(ASKED, JOB, None)).failure
    assert (failure.kind, failure.code) == ("denied", "NoCredentialsError")


def test_refused_by_botocore() -> None:
    """A request that botocore itself refuses is invalid and was never sent."""
    with FakeBedrock() as bedrock:
        backend = BedrockBackend(bedrock.client(), model_ids=lambda _: "")
        found = backend.session(setup()).infer(ASKED, JOB, None)
        assert bedrock.requests == []
    assert failed(found).failure.kind == "invalid_request"


def test_connections_come_back() -> None:
    """Attempts that end well leave their connection to the next one."""
    with FakeBedrock(default=says("hello")) as bedrock:
        client = bedrock.client(max_pool_connections=1)
        session = BedrockBackend(client).session(setup())
        for listener in (None, lambda _: None) * 4:
            replied(session.infer(ASKED, JOB, listener))
        pool = client._endpoint.http_session._manager.pools
        [key] = list(pool.keys())
        assert pool[key].num_connections == 1


@pytest.mark.parametrize("choice", [AnyTool(), SpecificTool(ROOMS.name)])
def test_forced_choice(choice: Any) -> None:
    """A forced choice goes out as it is asked for."""
    with FakeBedrock(calls((ROOMS.name, {}))) as bedrock:
        session = BedrockBackend(bedrock.client()).session(setup())
        replied(session.infer(infer(user("hi"), choice=choice), JOB, None))
        [request] = bedrock.requests
    kind = "any" if choice == AnyTool() else "tool"
    assert list(request.body["toolConfig"]["toolChoice"]) == [kind]


def test_throttled_twice() -> None:
    """Each try is one request; the log, and so the body, stay the same."""
    with FakeBedrock(throttles(), throttles(), says("hello")) as bedrock:
        session = BedrockBackend(bedrock.client()).session(setup())
        found = [session.infer(ASKED, JOB, None) for _ in range(3)]
        bodies = {request.raw for request in bedrock.requests}
    assert [type(one.event).__name__ for one in found] == [
        "ModelFailed",
        "ModelFailed",
        "ModelReplied",
    ]
    assert len(bodies) == 1
