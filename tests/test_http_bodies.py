"""Hostile bodies: whatever is sent, the answer is a 400 or a 413 problem."""

import asyncio
import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from agentloop.http import HttpOptions
from agentloop.testing.scripted import ScriptedBackend, says
from agentloop.wire import Limits
from tests.http_sockets import world_on_a_socket
from tests.http_world import ALICE, World, problem, run_body, slug, world
from tests.mcp_calls import until

CAPS = Limits(max_bytes=20_000, max_depth=20, max_values=2000)
TOO_LARGE = "payload-too-large"
INVALID = "invalid-request"


@pytest.fixture(scope="module")
def idle() -> Iterator[World]:
    """A world with small caps, in which nobody drives."""
    with world(workers=0, limits=CAPS) as opened:
        yield opened


def nested(depth: int, opener: str = "[", closer: str = "]") -> bytes:
    """Brackets within brackets."""
    return (opener * depth + closer * depth).encode()


def padded(size: int) -> bytes:
    """A well-formed conversation of an exact size."""
    body = json.dumps({"defaults": {"model": "m"}, "name": ""})
    return body.replace('""', f'"{"x" * (size - len(body))}"').encode()


HOSTILE = {
    "empty": (b"", INVALID),
    "blank": (b" \n", INVALID),
    "cut": (b'{"defaults": {"model": "m"', INVALID),
    "two values": (b"{}{}", INVALID),
    "trailing comma": (b'{"defaults": {"model": "m",}}', INVALID),
    "single quotes": (b"{'defaults': {}}", INVALID),
    "comment": (b'{/**/"defaults": {"model": "m"}}', INVALID),
    "not UTF-8": (b'{"name": "\xff"}', INVALID),
    "overlong UTF-8": (b'{"name": "\xc0\xaf"}', INVALID),
    "UTF-16": ('{"defaults": {"model": "m"}}'.encode("utf-16"), INVALID),
    "byte order mark": (b'\xef\xbb\xbf{"defaults": {"model": "m"}}', INVALID),
    "NaN": (b'{"defaults": {"model": "m", "temperature": NaN}}', INVALID),
    "infinite": (b'{"defaults": {"model": "m", "temperature": Infinity}}', INVALID),
    "overflow": (b'{"defaults": {"model": "m", "temperature": 1e999}}', INVALID),
    "huge integer": (
        b'{"defaults": {"model": "m", "max_tokens": ' + b"9" * 5000 + b"}}",
        INVALID,
    ),
    "repeated key": (b'{"name": "a", "name": "b"}', INVALID),
    "raw control character": (b'{"name": "\x00"}', INVALID),
    "form": (b"defaults=1&model=m", INVALID),
    "gzip": (gzip.compress(padded(200)), INVALID),
    "prototype": (b'{"__proto__": {}, "defaults": {"model": "m"}}', INVALID),
    "class": (b'{"defaults": {"model": "m", "__class__": "x"}}', INVALID),
    "depth of lists": (nested(21), TOO_LARGE),
    "depth of objects": (nested(21, '{"a":', "}"), TOO_LARGE),
    "unclosed depth": (b"[" * 10_000, TOO_LARGE),
    "too many values": (b"[" + b"[]," * 3000 + b"[]]", TOO_LARGE),
    "too many values in a schema": (
        b'{"defaults": {"model": "m", "output_format_schema": {"x": ['
        + b"0," * 2001
        + b"0]}}}",
        TOO_LARGE,
    ),
    "one byte too many": (padded(20_001), TOO_LARGE),
    "many bytes too many": (padded(79_000), TOO_LARGE),
    "far too many": (b"x" * 1_000_000, TOO_LARGE),
    "deep schema": (
        b'{"defaults": {"model": "m", "output_format_schema": '
        + nested(30, '{"not":', "}").replace(b":}", b":1}")
        + b"}}",
        TOO_LARGE,
    ),
}


@pytest.mark.parametrize(("raw", "expected"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_body_is_refused_where_a_conversation_is_made(
    idle: World, raw: bytes, expected: str
) -> None:
    """A problem with a documented slug, never a 500."""
    before = idle.get("/agents/conversations").json()["total_records"]
    answer = idle.call("POST", "/agents/conversations", content=raw)
    assert slug(answer) == expected
    assert answer.status_code == (413 if expected == TOO_LARGE else 400)
    assert idle.get("/agents/conversations").json()["total_records"] == before


JSON_AFTER_ALL = {"prototype", "class"}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_where_a_run_is_started(
    idle: World, name: str
) -> None:
    """What is no JSON is refused before the scope, the rest after it."""
    raw, expected = HOSTILE[name]
    path = f"/agents/conversations/{idle.conversation()}/runs"
    assert slug(idle.call("POST", path, content=raw)) == expected
    unknown = "/agents/conversations/unknown/runs"
    found = slug(idle.call("POST", unknown, content=raw))
    later = name in JSON_AFTER_ALL
    assert found == ("conversation-not-found" if later else expected)


def test_a_body_of_exactly_the_cap_is_read(idle: World) -> None:
    """Size and depth are inclusive."""
    made = idle.call("POST", "/agents/conversations", content=padded(20_000))
    assert made.status_code == 201
    schema = nested(18, '{"not":', "}").replace(b":}", b":true}")
    body = b'{"defaults": {"model": "m", "output_format_schema": ' + schema + b"}}"
    assert idle.call("POST", "/agents/conversations", content=body).status_code == 201


def test_the_caps_hold_without_a_content_length(idle: World) -> None:
    """A chunked body is counted while it comes in."""

    def chunks(count: int) -> Iterator[bytes]:
        yield b'{"name": "'
        for _ in range(count):
            yield b"x" * 1000
        yield b'", "defaults": {"model": "m"}}'

    short = idle.call("POST", "/agents/conversations", content=chunks(3))
    assert short.status_code == 201
    long = idle.call("POST", "/agents/conversations", content=chunks(30))
    assert slug(long) == TOO_LARGE


def test_what_was_replaced_in_a_body_is_told_by_the_run() -> None:
    """The count outlives the parsing of the body: the run's first event has it."""
    with world(says("ok")) as opened:
        run = opened.run(opened.conversation(), "a\x00b\ud800")
        text = opened.get(f"/agents/runs/{run['id']}/events").text
    first = json.loads(text.partition("data: ")[2].partition("\n")[0])
    assert (first["id"], first["kind"]) == (1, "text_normalised")
    assert first["data"] == {"place": "request", "replaced": 2}


def posting() -> dict[str, Any]:
    """A request that creates a conversation, as a server hands it over."""
    return {
        "type": "http",
        "method": "POST",
        "path": "/agents/conversations",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer alice")],
    }


def test_an_endless_body_is_not_read_to_its_end(idle: World) -> None:
    """A body a little too large is read and dropped, an endless one is cut off."""
    asked, sent = 0, []

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b"x" * 10_000, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(idle.client.app(posting(), receive, send))
    assert sent[0]["status"] == 413
    assert asked == 9  # four times the cap, and one more to notice


def test_a_caller_that_goes_away_in_the_middle_gets_no_answer(idle: World) -> None:
    """Nothing is written and nothing is sent."""
    before = idle.get("/agents/conversations").json()["total_records"]
    parts = [{"type": "http.request", "body": padded(100), "more_body": True}]
    sent: list[Any] = []

    async def receive() -> Any:
        return parts.pop() if parts else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(idle.client.app(posting(), receive, send))
    assert sent == []
    assert idle.get("/agents/conversations").json()["total_records"] == before


def test_a_body_that_stalls_is_refused_and_holds_no_request_up() -> None:
    """408 after a stated time; meanwhile other requests have their places."""
    http = HttpOptions(body_timeout=0.5, max_requests=1)
    with world_on_a_socket("sync", ScriptedBackend(), 0, http=http) as served:
        path = "/agents/conversations"
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n"
        with socket.create_connection(address_of(served)) as stalled:
            stalled.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            until(lambda: served.post(path, {}).status_code == 429)
            assert served.get(path).status_code == 200
            answer = b"".join(iter(lambda: stalled.recv(4096), b"")).decode()
        assert answer.startswith("HTTP/1.1 408 ")
        assert "connection: close" in answer
        told = json.loads(answer.partition("\r\n\r\n")[2])
        assert told["type"].rpartition("/")[2] == "request-timeout"
        assert told["detail"] == "the body of the request did not arrive within 0.5 s"
        made = served.post(path, {"defaults": {"model": "m"}})
        assert made.status_code == 201


MALFORMED = {
    "garbage": "GARBAGE\r\n\r\n",
    "no host": "GET /healthz HTTP/1.1\r\n\r\n",
    "two lengths": "{head}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}",
    "a negative length": "{head}Content-Length: -1\r\n\r\n{{}}",
    "a broken chunk": "{head}Transfer-Encoding: chunked\r\n\r\nZZ\r\n{{}}\r\n0\r\n\r\n",
    "a broken chunk later": (
        "{head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n-1\r\n{{}}\r\n"
    ),
    "a header without end": "GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + "a" * 100_000,
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_http_is_refused_as_a_problem(case: str) -> None:
    """What the server itself refuses has the form of every other refusal."""
    head = (
        "POST /agents/conversations HTTP/1.1\r\nHost: x\r\n"
        "Authorization: Bearer alice\r\n"
    )
    with (
        world_on_a_socket("sync", ScriptedBackend(), 0) as served,
        socket.create_connection(address_of(served)) as caller,
    ):
        caller.sendall(MALFORMED[case].format(head=head).encode())
        answer = b"".join(iter(lambda: caller.recv(4096), b"")).decode()
    start, _, body = answer.partition("\r\n\r\n")
    assert start.startswith("HTTP/1.1 400 Bad Request\r\n")
    assert "content-type: application/problem+json" in start
    told = json.loads(body)
    assert told["type"].endswith("/invalid-request")
    assert told["detail"] == "the request is not well-formed HTTP/1.1"
    assert told["log_id"]


def address_of(served: World) -> tuple[str, int]:
    """Where a world on a socket listens."""
    url = served.client.base_url
    return url.host, url.port or 0


@pytest.mark.parametrize("length", ["-1", "x", "9" * 40, "1e9"])
def test_a_content_length_is_not_believed(idle: World, length: str) -> None:
    """A lie about the length is no way around the cap, and no error of ours."""
    answer = idle.call(
        "POST",
        "/agents/conversations",
        content=padded(100),
        headers={"content-length": length},
    )
    assert answer.status_code == 201


TEXTS = {
    "NUL": ("\x00", "\ufffd"),
    "lone surrogate": ("\ud800", "\ufffd"),
    "right to left": ("\u202e", "\u202e"),
    "astral": ("\U0001f9ea", "\U0001f9ea"),
    "markup": ("<script>alert(1)</script>", "<script>alert(1)</script>"),
    "format": ("{0.__class__} %s %(x)s ${x}", "{0.__class__} %s %(x)s ${x}"),
    "SQL": ("'; DROP TABLE runs; --", "'; DROP TABLE runs; --"),
    "log": ("a\r\nINFO forged", "a\r\nINFO forged"),
}


@pytest.mark.parametrize(("sent", "kept"), TEXTS.values(), ids=TEXTS)
def test_odd_text_is_kept_as_stores_take_it(idle: World, sent: str, kept: str) -> None:
    """Only what no store takes is replaced; nothing is interpreted."""
    raw = json.dumps({"defaults": {"model": "m"}, "name": f"a{sent}b"})
    made = idle.call("POST", "/agents/conversations", content=raw)
    assert (made.status_code, made.json()["name"]) == (201, f"a{kept}b")
    conversation = made.json()["id"]
    assert idle.start(conversation, f"say {sent}").status_code == 202


NAMES: list[Any] = ["\x00", "\ud800", "{x}", "%s", "__class__", "../..", "x" * 9000]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_come_back_in_refusals_unharmed(idle: World, name: str) -> None:
    """A refusal that quotes a caller is still a well-formed, short problem."""
    tools = {"tools": [{"name": f"{name}-", "input_schema": {}}]}
    raw = json.dumps({"defaults": {"model": "m", **tools}})
    refused = idle.call("POST", "/agents/conversations", content=raw)
    assert slug(refused) == "invalid-caller-tool-name"
    assert len(problem(refused)["detail"]) <= 4096
    key = idle.start(idle.conversation(), client_op_id=name)
    assert slug(key) == INVALID


@pytest.mark.parametrize(
    "id_",
    [
        "x" * 2000,
        "%00",
        "%FF%FE",
        "..%2f..",
        "{conversation_id}",
        "00000000-0000-4000-8000-00000000000%30%0A",
        "00000000-0000-4000-8000-00000000000٠",
        "'%20OR%201=1",
    ],
)
def test_an_odd_id_is_an_unknown_one(idle: World, id_: str) -> None:
    """404, whatever stands where a uuid should."""
    for path in (f"/agents/conversations/{id_}", f"/agents/runs/{id_}/events"):
        assert idle.get(path).status_code == 404
    body = run_body()
    started = idle.post(f"/agents/conversations/{id_}/runs", body)
    assert started.status_code == 404


@pytest.mark.parametrize("id_", ["-1", "x", "1.0", "9" * 30, "", "1, 2", "\xb2"])
def test_an_odd_last_event_id_is_refused(idle: World, id_: str) -> None:
    """It is a whole number of at least 0; of an unknown run it is never read."""
    run = idle.start(idle.conversation()).json()["id"]
    headers = {"last-event-id": id_.encode("latin-1")}
    answer = idle.get(f"/agents/runs/{run}/events", headers=headers)
    assert slug(answer) == INVALID
    unknown = idle.get("/agents/runs/x/events", headers=headers)
    assert slug(unknown) == "agent-run-not-found"


@pytest.mark.parametrize("first", ["upper", "lower"])
def test_a_key_is_the_same_one_in_either_case(first: str) -> None:
    """A uuid has no case: a re-send finds its run, before and after the run ends."""
    key = "C0FFEE00-1111-4222-8333-44445555666A"
    keys = [key, key.lower()] if first == "upper" else [key.lower(), key]
    with world(says("once"), workers=0) as served:
        conversation = served.conversation()
        made = served.start(conversation, client_op_id=keys[0])
        assert (made.status_code, made.json()["client_op_id"]) == (202, key.lower())
        for _ in range(2):
            for again in keys:
                found = served.start(conversation, client_op_id=again)
                assert (found.status_code, found.json()["id"]) == (
                    200,
                    made.json()["id"],
                )
            served.loop.wait(made.json()["id"], scope=ALICE)
        runs = served.get(f"/agents/conversations/{conversation}/runs").json()["runs"]
        assert [run["status"] for run in runs] == ["completed"]


def test_an_id_of_the_path_is_found_in_upper_case() -> None:
    """One's own conversation, run and job, wherever the path names them."""
    with world(says("hello")) as served:
        conversation = served.conversation()
        run = served.run(conversation)
        (job,) = run["submitted_inference_job_ids"]
        for path, id_ in (
            ("/agents/conversations/{}", conversation),
            ("/agents/conversations/{}/messages", conversation),
            ("/agents/conversations/{}/runs", conversation),
            ("/agents/runs/{}", run["id"]),
            ("/agents/runs/{}/events", run["id"]),
            ("/agents/runs/{}/inference-jobs", run["id"]),
            ("/agents/inference-jobs/{}", job),
        ):
            found = served.get(path.format(id_.upper()))
            assert found.status_code == 200, path
            assert found.text == served.get(path.format(id_)).text
        assert served.post(f"/agents/runs/{run['id'].upper()}/cancel").json() == run
