"""Inferences over REST: the real connector's token, real sockets, every fault."""

import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from snowflake.connector import ProgrammingError

from agentloop.backends.cortex import CortexBackend, ModelOptions
from agentloop.backends.cortex.account import address_of, proxy_of
from agentloop.backends.cortex.http import Incoming
from agentloop.core.catalog import FailureKind
from agentloop.core.content import Message, Text
from agentloop.core.run import Usage
from agentloop.testing.fake_snowflake import (
    MISSING,
    Account,
    Answer,
    FakeSnowflake,
    Reply,
    Request,
    accept_anything,
    answers,
    breaks,
    calls,
    content,
    cuts,
    ends_early,
    expires,
    fails,
    forbids,
    garbles,
    hangs,
    html,
    loses,
    misfits,
    over_budget,
    overloads,
    raw_body,
    refuses,
    resets,
    says,
    split,
    spreads,
    stalls,
    thinks,
    throttles,
    throttles_as_400,
    times_out,
    unchunked,
    unterminated,
    waits,
)
from tests.bedrock_cases import infer, said, user
from tests.cortex_cases import (
    ASKED,
    CLAUDE,
    JOB,
    MODELS,
    REST,
    asked,
    failed,
    job,
    opened,
    replied,
    setup,
)

DIALECTS = pytest.mark.parametrize("dialect", REST)
BOTH = pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])


def until(found: Callable[[], Any]) -> Any:
    """The first thing that is true, within some seconds."""
    pause = threading.Event()
    for _ in range(1000):
        if value := found():
            return value
        pause.wait(0.01)
    raise AssertionError("it did not come to be in time")


SAID = says("hello é", usage=(7, 3))


# ---------------------------------------------------------------- replies


@DIALECTS
@BOTH
def test_an_answer(dialect: str, streams: bool) -> None:
    """An answer arrives with its usage, by exactly one request."""
    with FakeSnowflake(SAID) as sf:
        event = replied(asked(sf, dialect, streams=streams))
        assert (sf.inferences, sf.attempts) == (1, 1)
        assert sf.requests[0].door == dialect
        assert sf.requests[0].stream is streams
    assert event.message == Message("assistant", (Text("hello é"),))
    assert event.usage == Usage(prompt_tokens=7, completion_tokens=3)


ALIKE: dict[str, Answer] = {
    "calls beside text": calls(("rooms-free_slots", {"day": "é"}), text="so"),
    "reasoning": thinks("hm") + says("four"),
    "text in single characters": split(says("héllo\n"), 1),
    "an unknown stop reason": says("hello", stop="something_new"),
    "a missing stop reason": says("hello", stop=MISSING),
    "an end despite a call": calls(("rooms-free_slots", {}), stop="end_turn"),
    "a refusal": refuses(),
    "an unknown block": content([{"type": "hologram"}]),
    "nothing at all": content([]),
}


@DIALECTS
@pytest.mark.parametrize("case", ALIKE)
def test_streams_mean_the_same(case: str, dialect: str) -> None:
    """Whether somebody listens or not, an answer means the same."""
    found = []
    for streams in (False, True):
        with FakeSnowflake(ALIKE[case]) as sf:
            found.append(replied(asked(sf, dialect, streams=streams)))
    assert found[0] == found[1]


@DIALECTS
@pytest.mark.parametrize("travel", [spreads, unchunked], ids=["spread", "unchunked"])
def test_streams_by_other_ways(
    dialect: str, travel: Callable[[Answer], Answer]
) -> None:
    """How a stream is framed makes no difference."""
    with FakeSnowflake(travel(SAID)) as sf:
        event = replied(asked(sf, dialect, streams=True))
    assert event.message == Message("assistant", (Text("hello é"),))


@DIALECTS
def test_text_is_told_as_it_comes(dialect: str) -> None:
    """Whoever listens hears the first piece before the last was sent."""
    told: list[str] = []
    heard = threading.Event()

    def hear(piece: str) -> None:
        told.append(piece)
        heard.set()

    with FakeSnowflake() as sf, opened(sf, dialect) as backend:
        gate = sf.gate()
        slow = split(says("one two three four"), 4)
        sf.script(waits(gate, slow, after=4))
        session = backend.session(setup(dialect))
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(session.infer, ASKED, JOB, hear)
            assert heard.wait(10)
            assert not found.done()
            gate.open()
            replied(found.result(10))
    assert "".join(told) == "one two three four"
    assert len(told) > 2


def test_an_answer_that_was_to_stream_and_did_not() -> None:
    """A server that ignores the wish for a stream is understood, and heard."""
    whole = {"content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn"}
    told: list[str] = []
    reply = raw_body(json.dumps(whole).encode())
    with FakeSnowflake(reply) as sf, opened(sf) as backend:
        event = replied(backend.session(setup()).infer(ASKED, JOB, told.append))
    assert event.message.content == (Text("hello"),)
    assert told == ["hello"]


def test_a_listener_that_fails() -> None:
    """What a listener raises is no fault of the provider's and goes through."""

    def hear(_: str) -> None:
        raise LookupError("nobody is here")

    with FakeSnowflake(SAID) as sf, opened(sf) as backend:
        session = backend.session(setup())
        with pytest.raises(LookupError, match="nobody is here"):
            session.infer(ASKED, JOB, hear)


# ---------------------------------------------------------------- reports


@DIALECTS
@BOTH
def test_report(dialect: str, streams: bool) -> None:
    """The report holds the provider's id, the bytes' checksum and the answer."""
    sent: list[bytes] = []
    with FakeSnowflake(SAID) as sf, opened(sf, dialect) as backend:
        session = backend.session(setup(dialect))
        sent.append(session.request(ASKED, job(streamed=streams)))
        found = session.infer(ASKED, JOB, (lambda _: None) if streams else None)
        request = sf.requests[0]
    report = found.report
    assert report.provider_request_id == request.request_id
    assert report.request_sha256 == sha256(sent[0]).hexdigest()
    assert json.loads(sent[0]) == request.body
    assert json.loads(report.response or "")["usage"]
    assert (report.notes, report.preceding) == ((), ())


def test_the_response_is_kept_verbatim() -> None:
    """The answer's bytes are kept as they came, strange members and spaces too."""
    raw = b'{ "content" : [{"type":"text","text":"a"}],\n "x": 1e2 }'
    with FakeSnowflake(raw_body(raw)) as sf:
        found = asked(sf)
    assert found.report.response == raw.decode()


def test_a_malformed_response_is_kept() -> None:
    """An answer that cannot be used is there for whoever looks into the job."""
    with FakeSnowflake(garbles(), raw_body(b'{"content": 1}')) as sf:
        assert json.loads(asked(sf).report.response or "").startswith('{"id": "msg_1"')
        assert asked(sf).report.response == '{"content": 1}'


def test_headers() -> None:
    """Claude's wire carries its version and the betas a host asks for."""
    options = {CLAUDE: ModelOptions(betas=("context-1m-2025-08-07",))}
    with FakeSnowflake(SAID, SAID) as sf:
        asked(sf, options=options)
        asked(sf, "chat")
        claude, chat = (request.headers for request in sf.requests)
    assert claude["anthropic-version"] == "2023-06-01"
    assert claude["anthropic-beta"] == "context-1m-2025-08-07"
    assert "anthropic-version" not in chat
    assert claude["accept"] == "application/json, text/event-stream"


# ---------------------------------------------------------------- faults

# the reply, what it is, and whether the model ran although nothing came of it
FAULTS: dict[str, tuple[Reply, FailureKind, int]] = {
    "a bad request": (fails(400, "invalid options"), "invalid_request", 0),
    "an unknown model": (fails(400, 'unknown model "x"'), "not_found", 0),
    "too long": (fails(400, "max tokens of 10 exceeded"), "context_window", 0),
    "throttled as 400": (throttles_as_400(), "throttled", 0),
    "unauthorised": (fails(401, "no", code="390144"), "denied", 0),
    "over budget": (over_budget(), "quota", 0),
    "forbidden": (forbids(), "denied", 0),
    "no such path": (fails(404, "no"), "not_found", 0),
    "a misfit": (misfits(), "schema_decode", 0),
    "throttled": (throttles(), "throttled", 0),
    "an internal error": (fails(500, "no"), "unavailable", 0),
    "a proxy's page": (html(), "unavailable", 0),
    "timed out": (times_out(), "timeout", 0),
    "overloaded": (overloads(), "overloaded", 0),
    "a redirect": (
        fails(302, "there", headers={"location": "http://x"}),
        "provider",
        0,
    ),
    "a reset": (resets(), "connection", 0),
    "an answer that got lost": (loses(), "connection", 1),
    "no JSON": (garbles(), "malformed_output", 0),
    "an empty body": (raw_body(b""), "malformed_output", 0),
    "no object": (raw_body(b"[1]"), "malformed_output", 0),
    "another shape": (raw_body(b'{"a": 1}'), "malformed_output", 0),
    "a page as a success": (
        raw_body(b"<html>", content_type="text/html"),
        "malformed_output",
        0,
    ),
    "a master token that expired": (
        raw_body(b'{"code": "390114", "message": "gone"}'),
        "denied",
        0,
    ),
    "a body cut short": (cuts(at=20), "connection", 1),
}


@DIALECTS
@BOTH
@pytest.mark.parametrize("case", FAULTS)
def test_faults(case: str, dialect: str, streams: bool) -> None:
    """Each fault lands as the catalog says, by one request that is not repeated."""
    reply, kind, inferences = FAULTS[case]
    with FakeSnowflake(reply) as sf:
        found = asked(sf, dialect, streams=streams)
        assert sf.inferences == inferences
        posts = [n for what, n in sf.hits.items() if "/cortex/" in what]
        assert posts == [1]
    event = failed(found)
    assert event.failure.kind == kind
    assert event.usage is None
    assert found.report.request_sha256


BUSY = "all requests were throttled by remote service"
STREAM_FAULTS: dict[str, tuple[Answer, FailureKind]] = {
    "cut before anything": (cuts(after=0), "connection"),
    "cut in the middle": (cuts(after=4), "connection"),
    "cut within an event": (cuts(at=130), "connection"),
    "cut without chunks": (cuts(after=3, chunked=False), "connection"),
    "ended too early": (ends_early(after=3), "connection"),
    "reset": (loses(after=3), "connection"),
    "broken off": (breaks("try again", after=2), "unavailable"),
    "broken off at once": (breaks("try again", after=0), "unavailable"),
    "broken off as too long": (breaks("prompt is too long"), "context_window"),
    "throttled, without a type": (breaks(BUSY, after=2, code="429"), "throttled"),
    "too late, without a type": (breaks("inference timed out", code="503"), "timeout"),
}


@DIALECTS
@pytest.mark.parametrize("case", STREAM_FAULTS)
def test_broken_streams(case: str, dialect: str) -> None:
    """A stream that does not reach its end is a failure, never a shorter answer."""
    reply, kind = STREAM_FAULTS[case]
    with FakeSnowflake(reply) as sf:
        found = asked(sf, dialect, streams=True)
        assert (sf.inferences, sf.attempts) == (1, 1)
        request = sf.requests[0]
    assert failed(found).failure.kind == kind
    assert found.report.provider_request_id == request.request_id


SHAPES = {
    "messages": {"type": "content_block_delta", "index": 7, "delta": {}},
    "chat": {"choices": [{"delta": {"tool_calls": 5}}]},
}


@DIALECTS
def test_events_of_another_shape(dialect: str) -> None:
    """A stream that makes no sense is malformed output, not a fault of ours."""
    raw = f"data: {json.dumps(SHAPES[dialect])}\n\n".encode()
    with FakeSnowflake(raw_body(raw, content_type="text/event-stream")) as sf:
        failure = failed(asked(sf, dialect, streams=True)).failure
    assert failure.kind == "malformed_output"
    assert "another shape" in failure.message


@DIALECTS
def test_a_stream_that_forgets_its_end(dialect: str) -> None:
    """An answer that told why it stopped and what it cost is not asked for again.

    Anthropic's wire promises an end, and without it the answer is none.
    """
    with FakeSnowflake(unterminated(says("a", usage=(7, 3)))) as sf:
        found = asked(sf, dialect, streams=True)
    usage = Usage(prompt_tokens=7, completion_tokens=3)
    if dialect == "chat":
        assert replied(found).usage == usage
        assert "everything but [DONE]" in found.report.notes[-1]
    else:
        assert failed(found).failure.kind == "connection"
        assert failed(found).usage == usage


def test_what_a_broken_stream_told_of_its_cost() -> None:
    """Tokens that were told before a stream broke off are in the attempt's record."""
    said = says("one two three", usage=(7, 3))
    for reply in (cuts(said, after=4), breaks(message=said, after=4)):
        with FakeSnowflake(reply) as sf:
            usage = failed(asked(sf, streams=True)).usage
        assert usage is not None
        assert usage.prompt_tokens == 7
    with FakeSnowflake(breaks(message=said, after=0)) as sf:
        assert failed(asked(sf, streams=True)).usage is None


def test_what_a_reply_without_sense_cost() -> None:
    """A reply that cannot be used was paid for all the same."""
    whole = {"content": 5, "usage": {"input_tokens": 7, "output_tokens": 3}}
    with FakeSnowflake(raw_body(json.dumps(whole).encode())) as sf:
        event = failed(asked(sf))
    assert event.failure.kind == "malformed_output"
    assert event.usage == Usage(prompt_tokens=7, completion_tokens=3)


def test_a_refusal_tells_its_id_in_its_body() -> None:
    """Where no header names the request, the body of its refusal may."""
    nameless = {"X-Snowflake-Request-Id": ""}
    with FakeSnowflake(fails(403, "no", headers=nameless)) as sf:
        found = asked(sf)
        assert found.report.provider_request_id == sf.requests[0].request_id


@DIALECTS
def test_missing_finish_reason(dialect: str) -> None:
    """A reply without a reason to stop is read by its content."""
    with FakeSnowflake(says("done", stop=MISSING)) as sf:
        event = replied(asked(sf, dialect))
    assert (event.stop, event.message.content) == ("unknown", (Text("done"),))


def test_hint_to_wait() -> None:
    """A hint how long to wait is passed on."""
    with FakeSnowflake(fails(429, "slow", headers={"retry-after": "7"})) as sf:
        assert failed(asked(sf)).failure.retry_after == 7.0


def test_an_unreachable_host() -> None:
    """A host that does not answer is a fault of the connection."""
    with FakeSnowflake() as sf:
        url = sf.url
    backend = CortexBackend(auth=lambda: (url, {}))
    found = backend.session(setup()).infer(ASKED, JOB, None)
    assert failed(found).failure.kind == "connection"
    backend.close()


def test_a_reply_beyond_all_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply larger than any real one is given up."""
    monkeypatch.setattr("agentloop.backends.cortex.http.MOST_BYTES", 1000)
    with FakeSnowflake(raw_body(b" " * 2000)) as sf:
        failure = failed(asked(sf)).failure
    assert failure.kind == "provider"
    assert "more than 1000 bytes" in failure.message


@DIALECTS
def test_a_stream_that_goes_on_after_its_end(dialect: str) -> None:
    """What follows the last event is not waited for; the connection is not kept."""
    last = "data: [DONE]" if dialect == "chat" else 'data: {"type":"message_stop"}'
    long = raw_body(long_tail(dialect, last), content_type="text/event-stream")
    with FakeSnowflake(long, SAID) as sf, opened(sf, dialect) as backend:
        session = backend.session(setup(dialect))
        event = replied(session.infer(ASKED, JOB, lambda _: None))
        assert event.message.content == (Text("a"),)
        replied(session.infer(ASKED, JOB, lambda _: None))


def long_tail(dialect: str, last: str) -> bytes:
    """A whole stream, and much more after it."""
    if dialect == "chat":
        chunk = {"id": "c", "choices": [{"delta": {"content": "a"}}]}
        head = f"data: {json.dumps(chunk)}"
    else:
        block = {"type": "text", "text": "a"}
        started = {"type": "message_start", "message": {"role": "assistant"}}
        opened_ = {"type": "content_block_start", "index": 0, "content_block": block}
        head = f"data: {json.dumps(started)}\n\ndata: {json.dumps(opened_)}"
    return f"{head}\n\n{last}\n\n".encode() + b": more\n" * 50_000


# ---------------------------------------------------------------- time


@DIALECTS
@BOTH
def test_silence_ends_with_the_attempt(dialect: str, streams: bool) -> None:
    """A reply that does not come ends the attempt when its time is up."""
    with FakeSnowflake(hangs()) as sf:
        found = asked(sf, dialect, streams=streams, job=job(timeout=0.2))
        assert sf.inferences == 1
    assert failed(found).failure.kind == "timeout"


@DIALECTS
def test_silence_in_mid_stream_ends_with_the_attempt(dialect: str) -> None:
    """A stream that falls silent ends the attempt when its time is up."""
    with FakeSnowflake(hangs(says("one two three four"), after=3)) as sf:
        found = asked(sf, dialect, streams=True, job=job(timeout=0.2))
    assert failed(found).failure.kind == "timeout"


def test_a_stream_that_drips_ends_with_the_attempt() -> None:
    """A stream that always goes on is ended at the attempt's end all the same."""
    piece = split(says("x" * 2000), 1)

    def slow(_: str) -> None:
        threading.Event().wait(0.01)

    with FakeSnowflake(piece) as sf, opened(sf) as backend:
        found = backend.session(setup()).infer(ASKED, job(timeout=0.2), slow)
    assert failed(found).failure.kind == "timeout"


def test_a_late_answer_is_in_time() -> None:
    """An answer within the time is taken, however late."""
    with FakeSnowflake(stalls(0.1, SAID)) as sf:
        replied(asked(sf, job=job(timeout=20.0)))


def test_nobody_waits_any_more() -> None:
    """A stream is given up at its next event once nobody waits for it."""
    with FakeSnowflake(SAID) as sf:
        found = asked(sf, streams=True, job=job(abandoned=lambda: True))
    assert "nobody waits" in failed(found).failure.message


# ---------------------------------------------------------------- credentials

EXPIRIES = [
    expires(),
    expires(number=True),
    expires("error_code"),
    expires("error_code", number=True),
]


@DIALECTS
@BOTH
@pytest.mark.parametrize("expiry", EXPIRIES, ids=repr)
def test_an_expired_session_is_renewed_once(
    expiry: Reply, dialect: str, streams: bool
) -> None:
    """Expiry, however it is told, renews through the connector and repeats once."""
    with FakeSnowflake(expiry, SAID) as sf:
        found = asked(sf, dialect, streams=streams)
        assert (sf.renewals, sf.inferences, sf.attempts) == (1, 1, 2)
        first, second = sf.requests
        assert first.body == second.body
    replied(found)
    assert found.report.provider_request_id == second.request_id
    (preceding,) = found.report.preceding
    assert preceding.provider_request_id == first.request_id
    assert preceding.code == "390112"


def test_a_session_that_expired_long_ago() -> None:
    """A token that expired between two attempts costs one renewal, too."""
    with FakeSnowflake(SAID, SAID) as sf, opened(sf) as backend:
        session = backend.session(setup())
        replied(session.infer(ASKED, JOB, None))
        sf.expire()
        replied(session.infer(ASKED, JOB, None))
        assert (sf.renewals, sf.inferences) == (1, 2)


def test_expired_for_ever() -> None:
    """A session that stays expired is refused after one renewal, not retried."""
    with FakeSnowflake() as sf, opened(sf) as backend:
        sf.expire_for_ever()
        found = backend.session(setup()).infer(ASKED, JOB, None)
        assert len(sf.requests) == 2
    failure = failed(found).failure
    assert (failure.kind, failure.code, failure.retried) == ("denied", "390112", False)
    assert len(found.report.preceding) == 1


def test_a_renewal_that_fails() -> None:
    """When not even the master token helps, the attempt is denied at once."""
    with FakeSnowflake() as sf, opened(sf) as backend:
        sf.expire_masters()
        found = backend.session(setup()).infer(ASKED, JOB, None)
        assert len(sf.requests) == 1
    assert failed(found).failure.kind == "denied"
    assert failed(found).failure.code == "390114"


def test_threads_renew_once() -> None:
    """Many threads that meet one expiry renew it together, once."""
    with FakeSnowflake(default=SAID) as sf, opened(sf) as backend:
        sf.expire()
        with ThreadPoolExecutor(8) as pool:
            sessions = [backend.session(setup()) for _ in range(8)]
            found = list(pool.map(lambda s: s.infer(ASKED, JOB, None), sessions))
        assert all(replied(one) for one in found)
        assert (sf.renewals, sf.inferences) == (1, 8)
        assert sf.statements == ("select 1",)


def test_a_closed_connection() -> None:
    """A connection that the host closed is denied in one line, and stays closed."""
    with FakeSnowflake() as sf:
        connection = sf.connect()
        backend = CortexBackend(connection)
        connection.close()
        found = backend.session(setup()).infer(ASKED, JOB, None)
        assert sf.requests == ()
    assert failed(found).failure.kind == "denied"
    assert "the host's connection is closed" in failed(found).failure.message


def test_the_connection_stays_the_hosts() -> None:
    """Closing the backend leaves the connection, and the backend, usable."""
    with FakeSnowflake(SAID, SAID) as sf:
        connection = sf.connect()
        backend = CortexBackend(connection)
        for _ in range(2):
            replied(backend.session(setup()).infer(ASKED, JOB, None))
            backend.close()
        assert connection.cursor().execute("select 1").fetchone() == (1,)


def test_host_credentials() -> None:
    """A host's own function is asked for every request, without any connection."""
    tokens = iter(["one", "two", "three"])

    def auth() -> tuple[str, dict[str, str]]:
        return f"{sf.url}/", {"Authorization": f"Bearer {next(tokens)}"}

    account = Account(bearers=frozenset({"one", "three"}))
    with FakeSnowflake(SAID, account=account, default=SAID) as sf:
        backend = CortexBackend(auth=auth)
        session = backend.session(setup())
        replied(session.infer(ASKED, JOB, None))
        assert failed(session.infer(ASKED, JOB, None)).failure.kind == "denied"
        replied(session.infer(ASKED, JOB, None))
        assert [request.auth for request in sf.requests] == ["bearer"] * 3
        assert sf.logins == 0
        backend.close()


KINDS = {"pat-1": "PROGRAMMATIC_ACCESS_TOKEN", "jwt-1": "KEYPAIR_JWT", "oa-1": "OAUTH"}


@pytest.mark.parametrize("token", KINDS)
def test_host_credentials_of_every_kind(token: str) -> None:
    """A host says what its token is: an access token, a key pair's, or OAuth."""
    said = [KINDS[token], "OTHER"]

    def auth() -> tuple[str, dict[str, str]]:
        return sf.url, {
            "Authorization": f"Bearer {token}",
            "X-Snowflake-Authorization-Token-Type": said.pop(0),
        }

    with FakeSnowflake(SAID, account=Account(bearers=KINDS)) as sf:
        backend = CortexBackend(auth=auth)
        session = backend.session(setup())
        replied(session.infer(ASKED, JOB, None))
        failure = failed(session.infer(ASKED, JOB, None)).failure
        backend.close()
    assert failure.kind == "denied"
    assert "token is not valid" in failure.message


def test_the_token_file_of_a_container_service(tmp_path: Path) -> None:
    """A token that is renewed in a file is read anew for every request."""
    file = tmp_path / "token"

    def auth() -> tuple[str, dict[str, str]]:
        return sf.url, {
            "Authorization": f"Bearer {file.read_text()}",
            "X-Snowflake-Authorization-Token-Type": "OAUTH",
        }

    account = Account(bearers={"first": "OAUTH", "second": "OAUTH"})
    with FakeSnowflake(SAID, SAID, account=account) as sf:
        session = CortexBackend(auth=auth).session(setup())
        for token in ("first", "second"):
            file.write_text(token)
            replied(session.infer(ASKED, JOB, None))


def test_host_credentials_that_expire() -> None:
    """A host's function is asked once more when what it gave had expired."""
    with FakeSnowflake(expires(), SAID) as sf:
        given: list[str] = []

        def auth() -> tuple[str, dict[str, str]]:
            given.append(sf.open_session())
            return sf.url, {"Authorization": f'Snowflake Token="{given[-1]}"'}

        backend = CortexBackend(auth=auth)
        replied(backend.session(setup()).infer(ASKED, JOB, None))
        assert len(given) == 2
        backend.close()


def test_host_credentials_that_fail() -> None:
    """A host's function that raises fails the attempt, not the worker."""

    def auth() -> tuple[str, dict[str, str]]:
        raise RuntimeError("the token file is gone")

    found = CortexBackend(auth=auth).session(setup()).infer(ASKED, JOB, None)
    assert "the token file is gone" in failed(found).failure.message


def test_no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Neither logs nor reports nor representations hold the token."""
    caplog.set_level(logging.DEBUG, "urllib3")
    caplog.set_level(logging.DEBUG, "agentloop")
    with FakeSnowflake(SAID, fails(403, "no")) as sf, opened(sf) as backend:
        session = backend.session(setup())
        shown = [repr(session.infer(ASKED, JOB, None)) for _ in range(2)]
        ticket = backend._doors.account.ticket()
        shown += [repr(backend), repr(session), repr(ticket), caplog.text]
    assert "session-1-0" in ticket.headers["Authorization"]
    assert all("session-1-0" not in text for text in shown)


# ---------------------------------------------------------------- many


def hosted(sf: FakeSnowflake, **choices: Any) -> CortexBackend:
    """A backend that brings a session token, so that every socket is one of ours."""
    token = sf.open_session()
    headers = {"Authorization": f'Snowflake Token="{token}"'}
    return CortexBackend(auth=lambda: (sf.url, headers), **choices)


def test_as_many_sockets_are_kept_as_are_in_flight() -> None:
    """A second round of inferences side by side opens no socket more."""
    with FakeSnowflake() as sf:
        backend = hosted(sf, max_in_flight=4)
        for _ in range(2):
            gate = sf.gate()
            sf.script(*[waits(gate, SAID)] * 4)
            before = len(sf.requests)
            with ThreadPoolExecutor(4) as pool:
                found = [
                    pool.submit(backend.session(setup()).infer, ASKED, JOB, None)
                    for _ in range(4)
                ]
                until(lambda before=before: len(sf.requests) == before + 4)
                gate.open()
                assert all(replied(one.result()) for one in found)
        assert sf.sockets == 4
        backend.close()


def test_sockets_say_that_they_are_alive() -> None:
    """Gateways drop connections on which a model thinks in silence."""
    with FakeSnowflake(SAID) as sf:
        backend = hosted(sf)
        replied(backend.session(setup()).infer(ASKED, JOB, None))
        kept = backend._doors.http._pool.manager.connection_from_url(sf.url)
        sock = kept.pool.get().sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        sock.close()
        backend.close()


def test_an_attempt_without_a_time_out_is_patient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Models think for minutes; silence ends an attempt after a quarter of an hour."""
    limits: list[float] = []
    monkeypatch.setattr(Incoming, "_wait_at_most", lambda _, s: limits.append(s))
    with FakeSnowflake(SAID) as sf:
        backend = hosted(sf)
        replied(backend.session(setup()).infer(ASKED, job(timeout=None), None))
        backend.close()
    assert limits[0] == 900


@pytest.mark.parametrize(
    "reply", [resets(), fails(307, "over there", headers={"location": "/elsewhere"})]
)
def test_exactly_one_request_is_sent(reply: Reply) -> None:
    """Neither a lost connection nor a redirect makes our client send a second one."""
    with FakeSnowflake(reply) as sf:
        backend = hosted(sf)
        failed(backend.session(setup()).infer(ASKED, JOB, None))
        assert sum(sf.hits.values()) == 1
        backend.close()


@DIALECTS
def test_sockets_are_used_again(dialect: str) -> None:
    """Inferences in a row share one socket, streams among them."""
    seen: set[int] = set()

    class Counting(urllib3.PoolManager):
        def connection_from_host(self, *args: Any, **kwargs: Any) -> Any:
            pool = super().connection_from_host(*args, **kwargs)
            seen.add(pool.num_connections)
            return pool

    with FakeSnowflake(default=SAID) as sf:
        pool = Counting()
        with opened(sf, dialect, pool=pool) as backend:
            session = backend.session(setup(dialect))
            for number in range(6):
                listener = (lambda _: None) if number % 2 else None
                replied(session.infer(ASKED, JOB, listener))
        assert max(seen) == 1
        pool.clear()


def test_many_at_once() -> None:
    """Threads share one backend; each inference is made exactly once."""

    def echo(request: Request) -> Reply:
        return says(request.last_user_text)

    with FakeSnowflake(default=answers(echo)) as sf, opened(sf) as backend:

        def ask(number: int) -> str:
            session = backend.session(setup())
            event = replied(session.infer(infer(user(f"n{number}")), JOB, None))
            block = event.message.content[0]
            assert isinstance(block, Text)
            return block.text

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(ask, range(64)))
        assert found == [f"n{number}" for number in range(64)]
        assert sf.inferences == 64


def test_a_long_run_in_one_session() -> None:
    """A session encodes each turn once and sends the whole conversation each time."""
    with FakeSnowflake(default=says("go on")) as sf, opened(sf) as backend:
        session = backend.session(setup())
        log: list[Message] = [user("0")]
        for number in range(1, 6):
            replied(session.infer(infer(*log), JOB, None))
            log += [said("go on"), user(str(number))]
        lengths = [len(request.messages) for request in sf.requests]
    assert lengths == [1, 3, 5, 7, 9]


# ---------------------------------------------------------------- the way there


def test_the_environments_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests go through the proxy that the environment names, with its password."""
    seen: list[Any] = []

    def echo(request: Request) -> Reply:
        seen.append(request.headers)
        return SAID

    with FakeSnowflake(answers(echo)) as sf:
        proxy = f"http://me:s%40fe@127.0.0.1:{sf.port}"
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        backend = CortexBackend(
            auth=lambda: ("http://acme.example", {"Authorization": "Bearer x"})
        )
        replied(backend.session(setup()).infer(ASKED, JOB, None))
        backend.close()
    assert seen[0]["host"] == "acme.example"
    assert seen[0]["proxy-authorization"] == "Basic bWU6c0BmZQ=="


def test_a_proxy_without_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is named by host and port alone is one for HTTP."""
    with FakeSnowflake(SAID) as sf:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{sf.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        backend = CortexBackend(
            auth=lambda: ("http://acme.example", {"Authorization": "Bearer x"})
        )
        replied(backend.session(setup()).infer(ASKED, JOB, None))
        backend.close()


def test_hosts_that_need_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that the environment excepts is reached directly."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FakeSnowflake(SAID) as sf:
        replied(asked(sf))


@pytest.mark.parametrize("environment", ["", "http://127.0.0.1:1"])
def test_the_connections_proxy(
    environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that the connection was given is on the way of REST requests as well."""
    for name in ("http_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    seen: list[Any] = []

    def echo(request: Request) -> Reply:
        seen.append(request.headers)
        return SAID

    with FakeSnowflake(answers(echo)) as sf:
        proxy = {
            "proxy_host": "127.0.0.1",
            "proxy_port": str(sf.port),
            "proxy_user": "me",
            "proxy_password": "safe",
        }
        connection = sf.connect(host="acme.example", port=80, **proxy)
        monkeypatch.setenv("http_proxy", environment)
        backend = CortexBackend(connection)
        replied(backend.session(setup()).infer(ASKED, JOB, None))
        backend.close()
    assert seen[0]["host"].startswith("acme.example")
    assert seen[0]["proxy-authorization"] == "Basic bWU6c2FmZQ=="


@pytest.mark.parametrize(
    "no_proxy", ["127.0.0.1", "example.com, 127.0.0.1", "*", ["a.b", "127.0.0.1"]]
)
def test_what_the_connection_reaches_directly(no_proxy: Any) -> None:
    """Hosts that a connection excepts from its proxy are excepted for REST as well."""

    class Behind:
        proxy_host, proxy_port = "127.0.0.1", 1

        def __init__(self, connection: Any) -> None:
            self._real = connection
            self.no_proxy = no_proxy
            url, token = address_of(connection)
            self.rest = SimpleNamespace(server_url=url, token=token)

    with FakeSnowflake(SAID) as sf:
        backend = CortexBackend(Behind(sf.connect()))
        replied(backend.session(setup()).infer(ASKED, JOB, None))
        backend.close()


def test_a_proxy_is_not_told() -> None:
    """The password of a proxy is in no text of ours."""
    stood = SimpleNamespace(
        proxy_host="https://p", proxy_port=8, proxy_user="u", proxy_password="secret"
    )
    found = proxy_of(stood)
    assert found is not None
    assert found.url == "https://u:secret@p:8"
    assert "secret" not in repr(found)


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_every_read_is_bounded(framing: str) -> None:
    """However a body ends, each read of it ends with what is left of the time."""
    said = hangs(split(says("one two three four"), 4), after=4)
    with FakeSnowflake(said if framing == "chunked" else unchunked(said)) as sf:
        backend = CortexBackend(sf.connect())
        limits: list[float] = []
        held: list[float] = []
        real = Incoming._wait_at_most

        def seen(self: Incoming, seconds: float) -> None:
            real(self, seconds)
            limits.append(seconds)
            held.append(self._socket.gettimeout())

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Incoming, "_wait_at_most", seen)
            session = backend.session(setup())
            found = session.infer(ASKED, job(timeout=0.5), lambda _: None)
        backend.close()
    assert failed(found).failure.kind == "timeout"
    assert held == pytest.approx(limits, abs=0.001)
    assert len(held) > 1


class Tls(BaseHTTPRequestHandler):
    """Answers every POST with one message."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"content": [{"type": "text", "text": "safe"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL of a server with a certificate of its own, and that certificate."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(certificate())
    server = HTTPServer(("127.0.0.1", 0), Tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}", file
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def certificate() -> bytes:
    """A key and a certificate for 127.0.0.1 that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number()
        )
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + signed.public_bytes(pem)


def test_certificates_are_verified(tls: tuple[str, Path]) -> None:
    """A certificate that nobody vouches for is refused, and not tried again."""
    backend = CortexBackend(auth=lambda: (tls[0], {}))
    failure = failed(backend.session(setup()).infer(ASKED, JOB, None)).failure
    assert (failure.kind, failure.retried) == ("provider", False)
    assert "certificate" in failure.message.lower()
    backend.close()


def test_a_host_vouches_for_a_certificate(tls: tuple[str, Path]) -> None:
    """A host's own pool brings its own certificates, and is left open."""
    pool = urllib3.PoolManager(ca_certs=str(tls[1]))
    backend = CortexBackend(auth=lambda: (tls[0], {}), pool=pool)
    replied(backend.session(setup()).infer(ASKED, JOB, None))
    backend.close()
    assert len(pool.pools) == 1
    pool.clear()


def test_the_systems_certificates(
    tls: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the environment says of certificates is honoured."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tls[1]))
    backend = CortexBackend(auth=lambda: (tls[0], {}))
    replied(backend.session(setup()).infer(ASKED, JOB, None))
    backend.close()


def test_another_persons_sql_still_works() -> None:
    """Inferences over REST leave the host's cursors alone."""
    with FakeSnowflake(SAID) as sf:
        connection = sf.connect()
        cursor = connection.cursor()
        cursor.execute("select 7")
        backend = CortexBackend(connection)
        replied(backend.session(setup()).infer(ASKED, JOB, None))
        backend.close()
        assert cursor.fetchone() == (7,)
        with pytest.raises(ProgrammingError):
            cursor.execute("select nonsense(")


@DIALECTS
def test_requests_beyond_the_rules(dialect: str) -> None:
    """What the provider refuses by its rules is an invalid request, told in words."""
    with FakeSnowflake(account=Account(models=()), default=SAID) as sf:
        event = failed(asked(sf, dialect))
    assert event.failure.kind == "not_found"
    assert MODELS[dialect] in event.failure.message
    with FakeSnowflake(judge=accept_anything, default=SAID) as sf:
        replied(asked(sf, dialect))
