"""FakeSnowflake's REST doors seen through plain HTTP: dialects, streams, faults."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.client import IncompleteRead, NotConnected
from typing import Any

import pytest
from attrs import field, frozen

from agentloop.testing.fake_snowflake import (
    MISSING,
    Account,
    Answer,
    FakeSnowflake,
    Reply,
    Request,
    ScriptError,
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
    nulls,
    over_budget,
    overloads,
    raw_body,
    refuses,
    resets,
    says,
    split,
    spreads,
    sql_fails,
    stalls,
    thinks,
    thinks_secretly,
    throttles,
    throttles_as_400,
    times_out,
    tokens,
    truncates,
    unchunked,
    unterminated,
    waits,
)

CLAUDE = "claude-sonnet-4-5"
GPT = "openai-gpt-5"
PATHS = {
    "messages": "/api/v2/cortex/v1/messages",
    "chat": "/api/v2/cortex/v1/chat/completions",
}
DOORS = list(PATHS)


# -- a small client --------------------------------------------------------------------
@frozen
class Got:
    """What one request brought."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def document(self) -> Any:
        """The body as JSON."""
        return json.loads(self.raw)

    @property
    def events(self) -> list[Any]:
        """The body as stream events; `[DONE]` stays text."""
        return [
            json.loads(data) if data != "[DONE]" else data for data in events(self.raw)
        ]


def events(raw: bytes) -> Iterator[str]:
    """The data of each server-sent event, its lines joined."""
    for block in raw.decode().split("\n\n"):
        lines = [line[6:] for line in block.split("\n") if line.startswith("data: ")]
        if lines:
            yield "\n".join(lines)


@frozen
class Client:
    """Posts to one fake with a session token of its own."""

    fake: FakeSnowflake
    headers: dict[str, str] = field(factory=dict)

    def post(self, door: str, body: Any = None, **change: Any) -> Got:
        """Post a document, a legal one unless given; raw bytes are sent as they are."""
        document = legal(door, **change) if body is None else body
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        connection = self.open(door, raw)
        try:
            response = connection.getresponse()
            head = {k.lower(): v for k, v in response.getheaders()}
            return Got(response.status, head, response.read())
        finally:
            connection.close()

    def open(self, door: str, raw: bytes) -> http.client.HTTPConnection:
        """Send a request; the caller reads."""
        connection = http.client.HTTPConnection("127.0.0.1", self.fake.port, timeout=30)
        connection.request("POST", PATHS[door], raw, self.headers)
        return connection


def client(fake: FakeSnowflake, **headers: str) -> Client:
    """A client with a fresh session; headers replace or add."""
    given = {
        "Content-Type": "application/json",
        "anthropic-version": "2023-06-01",
        "Authorization": f'Snowflake Token="{fake.open_session()}"',
    }
    return Client(fake, given | {k.replace("_", "-"): v for k, v in headers.items()})


def legal(door: str, **change: Any) -> dict[str, Any]:
    """A request that breaks no rule."""
    model, most = (
        (CLAUDE, "max_tokens") if door == "messages" else (GPT, "max_completion_tokens")
    )
    body = {"model": model, most: 99, "messages": [{"role": "user", "content": "hi"}]}
    return body | change


@pytest.fixture
def sf() -> Iterator[FakeSnowflake]:
    """A fake whose script must be used up."""
    with FakeSnowflake() as fake:
        yield fake


def until(happened: Callable[[], object]) -> None:
    """Wait for something another thread brings about."""
    while not happened():
        time.sleep(0.001)


# -- the same reply through every door -------------------------------------------------
def from_message(document: Any) -> Any:
    """What a message says: blocks, stop, usage."""
    usage = document["usage"]
    return document["content"], document["stop_reason"], usage


def from_message_events(events: list[Any]) -> Any:
    """The same, put together from stream events."""
    blocks: list[Any] = []
    written: dict[int, str] = {}
    stop, usage = None, {}
    for event in events:
        match event["type"]:
            case "message_start":
                usage = event["message"]["usage"]
            case "content_block_start":
                blocks.append(dict(event["content_block"]))
            case "content_block_delta":
                grow(blocks[event["index"]], event, written)
            case "message_delta":
                stop = event["delta"]["stop_reason"]
                usage |= event["usage"]
    for index, text in written.items():
        blocks[index]["input"] = parsed(text)
    assert events[-1] == {"type": "message_stop"}
    return blocks, stop, usage


def grow(block: Any, event: Any, written: dict[int, str]) -> None:
    """Apply one delta to a block."""
    delta = event["delta"]
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "input_json_delta":
            index = event["index"]
            written[index] = written.get(index, "") + delta["partial_json"]


def parsed(text: str) -> Any:
    """Tool input; what does not parse counts as empty, as in a document."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


def from_completion(document: Any) -> Any:
    """What a completion says: message, finish reason, usage."""
    (choice,) = document["choices"]
    return choice["message"], choice.get("finish_reason"), document["usage"]


def from_chunks(events: list[Any]) -> Any:
    """The same, put together from stream chunks."""
    assert events.pop() == "[DONE]"
    message: dict[str, Any] = {"role": "assistant", "content": None}
    finish, usage = None, events.pop()["usage"]
    for event in events:
        (choice,) = event["choices"]
        finish = choice.get("finish_reason")
        for key, value in choice["delta"].items():
            join(message, key, value)
    return message, finish, usage


def join(message: dict[str, Any], key: str, value: Any) -> None:
    """Apply one delta to a message."""
    match key:
        case "content" | "reasoning":
            message[key] = (message.get(key) or "") + value or None
        case "tool_calls":
            for part in value:
                join_call(message.setdefault(key, []), dict(part))
        case "reasoning_details":
            for part in value:
                join_detail(message.setdefault(key, []), dict(part))


def join_call(known: list[Any], part: Any) -> None:
    """Apply one tool call delta."""
    if part.pop("index") == len(known):
        known.append(part)
    else:
        known[-1]["function"]["arguments"] += part["function"]["arguments"]


def join_detail(known: list[Any], part: Any) -> None:
    """Apply one reasoning delta; a signature closes its text."""
    last = known[-1] if known else {}
    if last.get("type") == "reasoning.text" and "signature" not in last:
        part["text"] = last["text"] + part.get("text", "")
        known[-1] = last | part
    else:
        known.append(part)


def asked(door: str, model: str, stream: bool) -> dict[str, Any]:
    """A request for a document or a stream."""
    body = legal(door, model=model)
    if stream:
        body["stream"] = True
        if door == "chat":
            body["stream_options"] = {"include_usage": True}
    return body


REPLIES = {
    "text": says('hello \u2028 "world" \U0001f600'),
    "empty text": says(""),
    "nothing": content(()),
    "call": calls(("add", {"x": 1, "s": 'q"\\\n\u00e9'}), ids=["c1"]),
    "parallel": calls(("add", {}), ("sub", {"y": [1]}), text="wait", ids=["c1", "c2"]),
    "twins": calls(("add", {"x": 1}), ("add", {"x": 2}), ids=["c1", "c1"]),
    "thought": thinks("hm, hm") + calls(("add", {"x": 1}), ids=["c1"]),
    "sealed": thinks("") + thinks_secretly("c2VjcmV0") + says("so"),
    "truncated": truncates(("add", {"x": [1, 2, 3]}), at=7, text="wait"),
    "despite": calls(("add", {}), ids=["c1"], stop="end_turn"),
    "novel stop": says("x", stop="model_context_window_exceeded"),
    "refused": refuses(),
    "cached": says("x", usage=tokens(100, 7, read=20, written=3)),
    "letters": split(calls(("add", {"s": 'q"\\\u00e9'}), ids=["c1"]), 1),
    "spread": spreads(thinks("a\nb") + says("c\n\nd")),
    "unchunked": unchunked(says("x")),
}


LINES = [("messages", CLAUDE), ("chat", CLAUDE), ("chat", GPT)]


@pytest.mark.parametrize(("door", "model"), LINES)
@pytest.mark.parametrize("name", REPLIES)
def test_a_stream_says_what_a_document_says(
    sf: FakeSnowflake, name: str, door: str, model: str
) -> None:
    """Every reply is the same whole and in pieces, in both dialects."""
    sf.script(REPLIES[name], REPLIES[name])
    http_ = client(sf)
    document = http_.post(door, asked(door, model, stream=False))
    stream = http_.post(door, asked(door, model, stream=True))
    assert document.headers["content-type"] == "application/json"
    assert stream.headers["content-type"] == "text/event-stream"
    whole = (from_message if door == "messages" else from_completion)(document.document)
    pieces = (from_message_events if door == "messages" else from_chunks)(stream.events)
    assert comparable(pieces) == comparable(whole)


def comparable(said: Any) -> Any:
    """Without what differs by nature: the server's numbers, and no text or none."""
    body, stop, usage = said
    if isinstance(body, dict):
        body = body | {"content": body["content"] or None}
    written = json.dumps(body).replace("call_000002", "call_000001")
    return json.loads(written), stop, usage


def test_messages_look_like_claude(sf: FakeSnowflake) -> None:
    """The whole document of the messages dialect."""
    said = thinks("hm", signature="s") + calls(("add", {"x": 1}), text="wait")
    sf.script(said + Answer(usage=tokens(100, 7, read=20, written=3)))
    assert client(sf).post("messages").document == {
        "id": "msg_000001",
        "type": "message",
        "role": "assistant",
        "model": CLAUDE,
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "wait"},
            {"type": "tool_use", "id": "call_000001", "name": "add", "input": {"x": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 100,
            "output_tokens": 7,
            "cache_creation_input_tokens": 3,
            "cache_read_input_tokens": 20,
        },
    }


def test_completions_look_like_openai(sf: FakeSnowflake) -> None:
    """The whole document of the chat dialect."""
    said = calls(("add", {"x": 1}), text="wait", usage=tokens(100, 7, read=20))
    sf.script(said)
    assert client(sf).post("chat").document == {
        "id": "chatcmpl-000001",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": GPT,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "wait",
                    "tool_calls": [
                        {
                            "id": "call_000001",
                            "type": "function",
                            "function": {"name": "add", "arguments": '{"x":1}'},
                        }
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 120,
            "completion_tokens": 7,
            "total_tokens": 127,
            "prompt_tokens_details": {"cached_tokens": 20},
        },
    }


@pytest.mark.parametrize(
    ("finish", "choice"), [("", {"finish_reason": ""}), (None, {})]
)
def test_claude_behind_the_chat_wire_is_not_openai(
    finish: str | None, choice: dict[str, str]
) -> None:
    """No finish reason, and cached tokens lie outside the prompt's."""
    reply = says("x", usage=tokens(100, 7, read=20, written=3))
    with FakeSnowflake(reply, account=Account(finish=finish)) as sf:
        document = client(sf).post("chat", model=CLAUDE).document
    (given,) = document["choices"]
    assert {k: v for k, v in given.items() if k == "finish_reason"} == choice
    assert document["usage"]["prompt_tokens"] == 100
    assert document["usage"]["prompt_tokens_details"] == {"cached_tokens": 23}


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("refusal", "content_filter"),
        ("never_heard", "never_heard"),
    ],
)
def test_stop_reasons_are_translated(sf: FakeSnowflake, stop: str, finish: str) -> None:
    """A script names stops once, in the words of the messages dialect."""
    sf.script(says("x", stop=stop), says("x", stop=stop))
    http_ = client(sf)
    assert http_.post("messages").document["stop_reason"] == stop
    assert http_.post("chat").document["choices"][0]["finish_reason"] == finish


def test_a_stop_reason_can_be_missing(sf: FakeSnowflake) -> None:
    """Then a message says null and a completion says nothing, whole or in pieces."""
    sf.script(*[says("x", stop=MISSING)] * 4)
    http_ = client(sf)
    assert http_.post("messages").document["stop_reason"] is None
    assert "finish_reason" not in http_.post("chat").document["choices"][0]
    *_, delta, _ = http_.post("messages", stream=True).events
    assert delta["delta"]["stop_reason"] is None
    *_, last, _ = http_.post("chat", stream=True).events
    assert "finish_reason" not in last["choices"][0]


def test_unknown_blocks_pass_through(sf: FakeSnowflake) -> None:
    """A block nobody knows arrives as scripted, in every place it can stand."""
    block = {"type": "hologram", "depth": 3}
    sf.script(*[says("x") + content([block])] * 4)
    http_ = client(sf)
    assert http_.post("messages").document["content"][1] == block
    parts = http_.post("chat").document["choices"][0]["message"]["content"]
    assert parts == [{"type": "text", "text": "x"}, block]
    starts = [
        event["content_block"]
        for event in http_.post("messages", stream=True).events
        if event["type"] == "content_block_start"
    ]
    assert starts[1] == block
    deltas = [
        event["choices"][0]["delta"].get("content")
        for event in http_.post("chat", stream=True).events[:-1]
    ]
    assert [block] in deltas


def test_usage_ends_a_chat_stream_only_when_asked(sf: FakeSnowflake) -> None:
    """Without include_usage the chunks hold no usage."""
    sf.script(says("x"))
    *chunks, done = client(sf).post("chat", stream=True).events
    assert done == "[DONE]"
    assert not any("usage" in chunk for chunk in chunks)


# -- ids, records, credentials ---------------------------------------------------------
def test_requests_are_numbered_and_recorded(sf: FakeSnowflake) -> None:
    """Every physical request has its own id, which the record knows."""
    sf.script(says("a"), fails(503, "busy"), says("b"))
    http_ = client(sf)
    ids = [http_.post("chat").headers["x-snowflake-request-id"] for _ in range(3)]
    assert ids == [f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3)]
    assert [request.request_id for request in sf.requests] == ids
    assert [r.outcome for r in sf.requests] == ["answered", "failed", "answered"]
    assert (sf.inferences, sf.attempts) == (2, 3)
    assert sf.hits == {"POST /api/v2/cortex/v1/chat/completions": 3}


def test_the_record_keeps_no_credentials(sf: FakeSnowflake) -> None:
    """Neither the record nor its repr holds a token."""
    sf.script(says("a"), says("b"))
    token = sf.open_session()
    client(sf, Authorization=f'Snowflake Token="{token}"').post("chat")
    client(sf, Authorization="Bearer pat-secret").post("chat")
    assert [request.auth for request in sf.requests] == ["session", "bearer"]
    for request in sf.requests:
        assert "authorization" not in request.headers
        assert "secret" not in repr(request)
        assert token not in repr(request)


HISTORY = [
    {"role": "user", "content": "add"},
    {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "a", "name": "add", "input": {}}],
    },
    {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "a", "content": "3"}],
    },
]


def test_the_record_can_be_asked(sf: FakeSnowflake) -> None:
    """What a request offers, says and answers reads the same in both dialects."""
    sf.script(says("x"), says("x"))
    schema = {"type": "object"}
    http_ = client(sf)
    http_.post(
        "messages", messages=HISTORY, tools=[{"name": "add", "input_schema": schema}]
    )
    call = {"id": "a", "type": "function", "function": {"name": "add", "arguments": ""}}
    chat = [
        {"role": "user", "content": [{"type": "text", "text": "add"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "3"},
    ]
    tool = {"type": "function", "function": {"name": "add", "parameters": schema}}
    http_.post("chat", messages=chat, tools=[tool])
    for request in sf.requests:
        assert request.tool_names == ("add",)
        assert request.last_user_text == "add"
        assert [result["content"] for result in request.tool_results] == ["3"]


def test_bearer_tokens_are_checked() -> None:
    """A token the account does not know is a 401 and no inference."""
    account = Account(bearers=frozenset({"pat-1"}))
    with FakeSnowflake(says("in"), account=account) as sf:
        assert client(sf, Authorization="Bearer pat-2").post("chat").status == 401
        assert client(sf, Authorization="Basic x").post("chat").status == 401
        assert client(sf, Authorization="Bearer pat-1").post("chat").status == 200
        assert (sf.inferences, sf.attempts) == (1, 1)


@pytest.mark.parametrize("number", [False, True])
@pytest.mark.parametrize("key", ["code", "error_code"])
def test_expiry_is_told_with_status_200(
    sf: FakeSnowflake, key: Any, number: bool
) -> None:
    """By script or by state, the code stands under either key as text or number."""
    wanted = 390112 if number else "390112"
    sf.script(expires(key, number=number))
    http_ = client(sf)
    by_script = http_.post("messages")
    sf.expire(expires(key, number=number))
    by_state = http_.post("messages")
    assert (by_script.status, by_state.status) == (200, 200)
    assert by_script.document[key] == by_state.document[key] == wanted
    assert by_script.document["success"] is False
    assert (sf.inferences, sf.attempts) == (0, 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_connector_renews_what_expired(sf: FakeSnowflake) -> None:
    """After 390112 a statement renews, and the connection's new token works."""
    connection = sf.connect()
    sf.script(expires(), says("renewed"))

    def post() -> Got:
        token = f'Snowflake Token="{connection.rest.token}"'
        return client(sf, Authorization=token).post("chat")

    assert post().document["code"] == "390112"
    connection.cursor().execute("select 1")
    assert post().document["choices"][0]["message"]["content"] == "renewed"
    assert (sf.renewals, sf.inferences) == (1, 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_expiry_can_last_for_ever(sf: FakeSnowflake) -> None:
    """The inference doors then refuse renewed tokens too, while SQL goes on."""
    connection = sf.connect()
    sf.expire_for_ever()
    for renewals in (0, 0, 1, 1):
        token = f'Snowflake Token="{connection.rest.token}"'
        got = client(sf, Authorization=token).post("messages")
        assert (got.status, got.document["code"]) == (200, "390112")
        assert sf.renewals >= renewals
        connection.cursor().execute("select 1")
    assert sf.attempts == 0


# -- faults ----------------------------------------------------------------------------
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("reply", "status", "phrase"),
    [
        (fails(400, 'unknown model "x"'), 400, "unknown model"),
        (throttles_as_400(), 400, "all requests were throttled by remote service"),
        (over_budget(), 402, "budget exceeded"),
        (forbids(), 403, "003001"),
        (misfits(), 422, "json mode output validation error"),
        (throttles(), 429, "too many requests"),
        (times_out(), 503, "inference timed out"),
        (overloads(), 529, "overloaded"),
        (html(), 502, "<html>"),
        (raw_body(b""), 200, ""),
    ],
)
def test_failures_have_their_status(
    sf: FakeSnowflake, door: str, reply: Reply, status: int, phrase: str
) -> None:
    """Each failure arrives with status, text and request id, and is no inference."""
    sf.script(reply)
    got = client(sf).post(door)
    assert got.status == status
    assert phrase in got.raw.decode()
    assert got.headers["x-snowflake-request-id"] == sf.requests[0].request_id
    assert (sf.inferences, sf.attempts) == (0, 1)


def test_failures_may_carry_headers(sf: FakeSnowflake) -> None:
    """A retry-after is possible though nobody promises it."""
    sf.script(fails(429, "slow down", headers={"retry-after": "7"}))
    assert client(sf).post("chat").headers["retry-after"] == "7"


def test_a_body_can_be_no_json(sf: FakeSnowflake) -> None:
    """A success whose body does not parse."""
    sf.script(garbles())
    got = client(sf).post("messages")
    assert got.status == 200
    with pytest.raises(ValueError, match="Expecting"):
        got.document  # noqa: B018 - reading is what fails


@pytest.mark.parametrize("stream", [False, True])
def test_connections_can_be_reset(sf: FakeSnowflake, stream: bool) -> None:
    """Before anything was done, or after the model ran; only the latter counts."""
    sf.script(resets(), loses())
    for inferences in (0, 1):
        with pytest.raises(ConnectionResetError):
            client(sf).post("chat", stream=stream)
        assert sf.inferences == inferences


def test_a_stream_can_be_reset_in_the_middle(sf: FakeSnowflake) -> None:
    """Some events arrive, then the connection is gone."""
    sf.script(loses(after=2))
    with pytest.raises((ConnectionResetError, IncompleteRead)):
        client(sf).post("messages", stream=True)
    assert sf.inferences == 1


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("chunked", [True, False])
def test_a_stream_can_be_cut_at_every_byte(door: str, chunked: bool) -> None:
    """Exactly so many bytes arrive; only chunked framing shows that more should."""
    with FakeSnowflake(default=says("hé")) as sf:
        http_ = client(sf)
        whole = http_.post(door, stream=True).raw
        for at in range(len(whole)):
            sf.script(cuts(says("hé"), at=at, chunked=chunked))
            got = received(http_, door)
            assert got == renumbered(whole, sf.requests[-1].number)[:at]


def again(connection: http.client.HTTPConnection, http_: Client) -> None:
    """A second request over the same connection."""
    connection.request("POST", PATHS["chat"], b"{}", http_.headers)
    connection.getresponse().read()


def renumbered(whole: bytes, number: int) -> bytes:
    """The first stream as a later request would get it."""
    return whole.replace(b"000001", b"%06d" % number)


def received(http_: Client, door: str) -> bytes:
    """The bytes of a stream that is cut, however the framing tells it."""
    raw = json.dumps(legal(door, stream=True)).encode()
    connection = http_.open(door, raw)
    response = connection.getresponse()
    try:
        if response.chunked:
            with pytest.raises(IncompleteRead) as cut:
                response.read()
            return cut.value.partial
        return response.read()
    finally:
        connection.close()


def test_a_document_can_be_cut(sf: FakeSnowflake) -> None:
    """The announced length never arrives, or the body ends in good order too early."""
    sf.script(cuts(says("x"), at=20), ends_early(says("x"), at=20))
    http_ = client(sf)
    with pytest.raises(IncompleteRead) as cut:
        http_.post("messages")
    assert len(cut.value.partial) == 20
    assert len(http_.post("messages").raw) == 20
    assert sf.inferences == 2


def test_a_connection_can_end_after_a_whole_reply(sf: FakeSnowflake) -> None:
    """A pooled connection is closed behind the client's back."""
    sf.script(cuts(says("x"), at=10**6), says("y"))
    http_ = client(sf)
    connection = http_.open("chat", json.dumps(legal("chat")).encode())
    try:
        assert connection.getresponse().read()
        connection.auto_open = 0  # http.client would connect again by itself
        with pytest.raises((ConnectionError, NotConnected)):
            again(connection, http_)
    finally:
        connection.close()
    assert http_.post("chat").status == 200


def test_streams_can_end_without_an_end(sf: FakeSnowflake) -> None:
    """Too early in good order, or with everything but the closing event."""
    sf.script(ends_early(after=2), unterminated(says("x")), unterminated(says("x")))
    http_ = client(sf)
    assert len(http_.post("messages", stream=True).events) == 2
    last = http_.post("messages", stream=True).events[-1]
    assert last["type"] == "message_delta"
    assert "[DONE]" not in http_.post("chat", stream=True).events


@pytest.mark.parametrize("door", DOORS)
def test_streams_can_break_with_an_error_event(sf: FakeSnowflake, door: str) -> None:
    """After the scripted events comes one with an error key, and nothing else."""
    sf.script(breaks("model overloaded", after=3))
    *before, last = client(sf).post(door, stream=True).events
    assert len(before) == 3
    assert last["error"]["message"] == "model overloaded"
    assert sf.inferences == 1


@pytest.mark.parametrize("door", DOORS)
def test_a_broken_document_is_a_server_error(sf: FakeSnowflake, door: str) -> None:
    """Without a stream the same reply fails as a whole, billed all the same."""
    sf.script(breaks("model overloaded"))
    got = client(sf).post(door)
    assert (got.status, got.document["message"]) == (500, "model overloaded")
    assert sf.inferences == 1


@pytest.mark.parametrize("door", DOORS)
def test_events_can_spread_over_lines(sf: FakeSnowflake, door: str) -> None:
    """One event takes several data lines; joined they are one document."""
    sf.script(spreads(says("x")), says("x"))
    http_ = client(sf)
    wide, plain = (http_.post(door, stream=True) for _ in range(2))
    assert wide.raw.count(b"data: ") > 3 * len(wide.events)
    renumber = json.loads(json.dumps(wide.events).replace("000001", "000002"))
    assert renumber == plain.events


# -- time ------------------------------------------------------------------------------
def test_a_slow_reply_takes_the_servers_time(sf: FakeSnowflake) -> None:
    """Silence lasts until the server's clock has moved on; a test moves it at once."""
    sf.script(stalls(3600, says("late")))
    got: list[Got] = []
    thread = threading.Thread(target=lambda: got.append(client(sf).post("chat")))
    thread.start()
    until(lambda: sf.inferences)
    assert got == []
    sf.advance(3600)
    thread.join()
    assert got[0].document["choices"][0]["message"]["content"] == "late"


def test_a_stream_can_stall_in_the_middle() -> None:
    """Two events arrive, then nothing until the fake closes and resets."""
    sf = FakeSnowflake(hangs(says("x"), after=2))
    raw = json.dumps(legal("chat", stream=True)).encode()
    connection = client(sf).open("chat", raw)
    response = connection.getresponse()
    arrived = [response.readline() for _ in range(4)]
    assert b'"content":"x"' in arrived[2]
    sf.close()
    with pytest.raises((ConnectionResetError, IncompleteRead)):
        response.read()
    connection.close()


def test_a_stalled_stream_goes_on_when_the_gate_opens(sf: FakeSnowflake) -> None:
    """Nothing is lost by waiting in the middle."""
    gate = sf.gate()
    sf.script(waits(gate, says("x"), after=2))
    raw = json.dumps(legal("chat", stream=True)).encode()
    connection = client(sf).open("chat", raw)
    response = connection.getresponse()
    arrived = b"".join(response.readline() for _ in range(4))
    gate.open()
    data = list(events(arrived + response.read()))
    connection.close()
    assert (len(data), data[-1]) == (4, "[DONE]")


@pytest.mark.parametrize("stream", [False, True])
def test_closing_wakes_what_hangs(stream: bool) -> None:
    """A client that waits for ever is reset when the fake closes."""
    sf = FakeSnowflake(hangs())
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            client(sf).post("chat", stream=stream)
        except OSError as error:
            ended.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: sf.inferences)
    sf.close()
    thread.join()
    assert [isinstance(error, ConnectionResetError) for error in ended] == [True]


def test_many_clients_at_once(sf: FakeSnowflake) -> None:
    """Each of eight clients gets its own answer and its own id."""
    sf.always(answers(lambda request: says(request.last_user_text)))
    seen: dict[str, str] = {}

    def ask(name: str) -> None:
        http_ = client(sf)
        for turn in range(10):
            said = f"{name}-{turn}"
            got = http_.post("chat", messages=[{"role": "user", "content": said}])
            assert got.document["choices"][0]["message"]["content"] == said
            seen[said] = got.headers["x-snowflake-request-id"]

    threads = [threading.Thread(target=ask, args=(str(i),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen.values())) == sf.inferences == 80


# -- rules at the door -----------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "status", "phrase"),
    [
        (b"{", 400, "390142"),
        (b"[]", 400, "390142"),
        (b'{"max_tokens": NaN}', 400, "390142"),
        (b"{}", 400, "model: Field required"),
        (b" " * (20 * 1024 * 1024 + 1), 413, "20971521 bytes"),
    ],
)
def test_unreadable_requests_are_refused(
    sf: FakeSnowflake, body: bytes, status: int, phrase: str
) -> None:
    """Bodies that are no JSON object, or too large, are refused before the script."""
    got = client(sf).post("messages", body)
    assert (got.status, sf.attempts, len(sf.refused)) == (status, 0, 1)
    assert phrase in got.raw.decode()


@pytest.mark.parametrize(
    "headers", [{"anthropic_version": "2024-01-01"}, {"Content_Type": "text/plain"}]
)
def test_wrong_headers_are_refused(sf: FakeSnowflake, headers: dict[str, str]) -> None:
    """The messages door wants JSON and its version."""
    assert client(sf, **headers).post("messages").status == 400


def test_a_refused_request_uses_nothing(sf: FakeSnowflake) -> None:
    """The reply is kept for the legal request that follows."""
    sf.script(says("kept"))
    http_ = client(sf)
    refused = http_.post("messages", messages=HISTORY)
    assert refused.status == 400
    assert refused.document["message"].startswith("tools: must be defined")
    assert refused.document["request_id"] == sf.refused[0].request_id
    assert http_.post("messages").document["content"][0]["text"] == "kept"


def test_issued_thoughts_must_come_back_as_they_were(sf: FakeSnowflake) -> None:
    """The server remembers its seals across requests; other seals can be trusted."""
    sf.script(thinks("hm") + thinks_secretly("eA==") + calls(("add", {})))
    schema = {"type": "object"}
    http_ = client(sf)
    tools = [{"name": "add", "input_schema": schema}]
    turn = http_.post("messages", tools=tools).document["content"]
    result = {"type": "tool_result", "tool_use_id": turn[-1]["id"], "content": "3"}

    def after(*blocks: Any) -> Got:
        history = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [*blocks, turn[-1]]},
            {"role": "user", "content": [result]},
        ]
        thinking = {"type": "enabled", "budget_tokens": 1024}
        return http_.post(
            "messages",
            messages=history,
            tools=tools,
            thinking=thinking,
            max_tokens=2048,
        )

    sf.script(says("ok"), says("ok"))
    assert after(turn[0], turn[1]).status == 200
    assert after(turn[0] | {"thinking": "ha"}, turn[1]).status == 400
    assert after(turn[0], turn[1] | {"data": "eQ=="}).status == 400
    assert after().status == 400
    foreign = {"type": "thinking", "thinking": "elsewhere", "signature": "foreign"}
    assert after(foreign).status == 400
    sf.trust("foreign", "elsewhere")
    assert after(foreign).status == 200
    assert "Invalid `signature`" in str(sf.refused[0].complaint)


def test_turns_without_thoughts_need_none(sf: FakeSnowflake) -> None:
    """A calling turn the server issued without reasoning comes back without it."""
    sf.script(calls(("add", {}), ids=["a"]), says("ok"))
    tools = [{"name": "add", "input_schema": {"type": "object"}}]
    http_ = client(sf)
    thinking = {"type": "enabled", "budget_tokens": 1024}
    more = {"tools": tools, "thinking": thinking, "max_tokens": 2048}
    assert http_.post("messages", **more).status == 200
    assert http_.post("messages", messages=HISTORY, **more).status == 200


def test_rules_can_be_switched_off() -> None:
    """Load tests need no judge."""
    with FakeSnowflake(says("x"), judge=accept_anything, keep=1) as sf:
        assert client(sf).post("messages", messages=HISTORY).status == 200


def test_the_record_can_be_short() -> None:
    """Counts stay exact when old requests are forgotten."""
    with FakeSnowflake(default=says("x"), keep=2) as sf:
        http_ = client(sf)
        for _ in range(5):
            http_.post("chat")
        assert [request.number for request in sf.requests] == [4, 5]
        assert sf.inferences == 5


# -- the script ------------------------------------------------------------------------
@pytest.mark.parametrize("reply", [nulls(), sql_fails(606)])
def test_what_rest_cannot_say_fails(reply: Reply) -> None:
    """A row or a statement error has no REST form, so the script is at fault."""
    sf = FakeSnowflake(reply)
    assert client(sf).post("chat").status == 500
    sf.close()
    with pytest.raises(ScriptError, match="only the SQL door"):
        sf.assert_done()


def test_a_failing_function_fails_the_test() -> None:
    """An assertion inside a computed reply is not lost in the server's thread."""

    def check(request: Request) -> Reply:
        assert request.last_user_text == "something else"
        return says("never")

    sf = FakeSnowflake(answers(check))
    assert client(sf).post("chat").status == 400
    sf.close()
    with pytest.raises(ScriptError, match="AssertionError"):
        sf.assert_done()


def test_missing_replies_are_loud() -> None:
    """A legal request without a reply is a 400, and named at the end."""
    sf = FakeSnowflake()
    assert client(sf).post("chat").status == 400
    sf.close()
    with pytest.raises(ScriptError, match="no reply was left for request #1 chat"):
        sf.assert_done()


def test_other_paths_do_not_exist(sf: FakeSnowflake) -> None:
    """The undocumented native door is not there, and GET is not POST."""
    for method, path in (
        ("POST", "/api/v2/cortex/inference:complete"),
        ("GET", PATHS["chat"]),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", sf.port, timeout=30)
        connection.request(method, path)
        assert connection.getresponse().status == 404
        connection.close()


def test_gone_sessions_are_refused(sf: FakeSnowflake) -> None:
    """A token nobody issued is a 401, not an expiry."""
    got = client(sf, Authorization='Snowflake Token="session-9-0"').post("chat")
    assert (got.status, got.document["code"]) == (401, "390111")


@pytest.mark.parametrize("ids", [["a"], ["a", "b", "c"]])
def test_ids_must_match_calls(ids: list[str]) -> None:
    """A script with too few or too many ids is refused when it is written."""
    with pytest.raises(ValueError, match="give one per call or none"):
        calls(("x", {}), ("y", {}), ids=ids)


def test_joined_answers_keep_what_is_said_last() -> None:
    """Blocks add up; stop, usage and delivery come from the right when it has them."""
    left = split(says("a", stop="refusal", usage=(1, 2)), 1)
    assert (left + says("b")).text == "ab"
    assert (left + says("b")).stop == "refusal"
    assert (left + says("b")).usage == tokens(1, 2)
    assert (left + says("b")).delivery.piece == 1
    right = spreads(says("b", stop="x", usage=(3, 4)))
    assert (left + right).stop == "x"
    assert (left + right).usage == tokens(3, 4)
    assert (left + right).delivery == right.delivery
