"""A served loop for tests: either face behind an in-process client with tokens."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from json import dumps
from typing import Any
from uuid import uuid4

import httpx
from attrs import frozen
from starlette.testclient import TestClient

from agentloop import AgentLoop, AsyncAgentLoop, Scope
from agentloop.http import Principal, create_app, fixed_tokens
from agentloop.stores.memory import MemoryStore
from agentloop.testing.scripted import Scripted, ScriptedBackend

ALICE, BOB, EVE = Scope(1, 407), Scope(1, 408), Scope(2, 9)
TOKENS: dict[str, Principal | Scope] = {
    "alice": ALICE,
    "bob": BOB,  # a colleague of Alice's
    "eve": EVE,  # of another company
    "reader": Principal(ALICE, frozenset({"read"})),
    "writer": Principal(ALICE, frozenset({"write"})),
}
UNKNOWN = "00000000-0000-4000-8000-000000000000"
TEXT_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["text"],
    "properties": {"text": {"type": "string"}},
}


def spec(name: str) -> dict[str, Any]:
    """A tool without arguments, as JSON."""
    return {"name": name, "input_schema": {"type": "object"}}


USER_TOOLS = [{"alias": "user", "tools": [spec("approve"), spec("ask")]}]
SERVER = {
    "alias": "rooms",
    "url": "https://rooms.example.com/mcp",
    "tools": [spec("free")],
}


class FaultyStore:
    """A store in memory, some of whose calls a test replaces.

    A replacement is called with the real call and its arguments.
    """

    def __init__(self, **faults: Callable[..., Any]) -> None:
        self.faults = faults
        self.inner = MemoryStore()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.inner, name)
        fault = self.faults.get(name)
        if fault is None:
            return call
        return lambda *args, **named: fault(call, *args, **named)


@frozen
class World:
    """A loop, the model it asks, and a client of its app."""

    loop: Any
    backend: Any
    client: httpx.Client

    def call(self, method: str, path: str, token: str = "alice", **rest: Any) -> Any:
        """One request; no token at all when it is empty."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        headers |= rest.pop("headers", {})
        return self.client.request(method, path, headers=headers, **rest)

    def get(self, path: str, token: str = "alice", **rest: Any) -> Any:
        """A GET request."""
        return self.call("GET", path, token, **rest)

    def post(self, path: str, json: Any = None, token: str = "alice") -> Any:
        """A POST request with a JSON body."""
        # ASCII, so that a lone surrogate can be sent as well.
        return self.call("POST", path, token, content=dumps(json))

    def conversation(self, token: str = "alice", **defaults: Any) -> str:
        """The id of a new conversation."""
        body = {"defaults": {"model": "m", **defaults}}
        made = self.post("/agents/conversations", body, token)
        assert made.status_code == 201, made.text
        return str(made.json()["id"])

    def start(self, conversation: str, payload: Any = "hi", **rest: Any) -> Any:
        """The response to starting a run; a text is a user message."""
        token = rest.pop("token", "alice")
        body = run_body(payload, **rest)
        return self.post(f"/agents/conversations/{conversation}/runs", body, token)

    def ended(self, run_id: str) -> dict[str, Any]:
        """A run when it has ended; following its events waits for that."""
        assert self.get(f"/agents/runs/{run_id}/events").status_code in {200, 204}
        found: dict[str, Any] = self.get(f"/agents/runs/{run_id}").json()
        return found

    def run(self, conversation: str, payload: Any = "hi", **rest: Any) -> Any:
        """Start a run and wait for its end."""
        started = self.start(conversation, payload, **rest)
        assert started.status_code == 202, started.text
        return self.ended(started.json()["id"])

    def version(self, conversation: str) -> int:
        """The version of a conversation."""
        found = self.get(f"/agents/conversations/{conversation}").json()
        return int(found["version"])

    def messages(self, conversation: str) -> list[dict[str, Any]]:
        """All messages of a conversation."""
        path = f"/agents/conversations/{conversation}/messages"
        found: list[dict[str, Any]] = self.get(path).json()["messages"]
        return found


def run_body(payload: Any = "hi", **rest: Any) -> dict[str, Any]:
    """The body that starts a run, under a fresh key at version 0."""
    if isinstance(payload, str):
        payload = {"kind": "user_message", "text": payload}
    fields = {"client_op_id": str(uuid4()), "expected_version": 0, "payload": payload}
    return {**fields, **rest}


def outputs(**by_id: Any) -> dict[str, Any]:
    """The payload that answers pending calls."""
    answers = [{"tool_use_id": id_, "content": said} for id_, said in by_id.items()]
    return {"kind": "tool_outputs", "outputs": answers}


def problem(response: Any) -> dict[str, Any]:
    """The body of a problem, checked for the form of all of them."""
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    fields = {"type", "title", "status", "detail", "instance", "log_id"}
    assert body.keys() == fields
    assert body["status"] == response.status_code
    return body


def slug(response: Any) -> str:
    """The last part of a problem's type."""
    return str(problem(response)["type"]).rpartition("/")[2]


@contextmanager
def world(
    *script: Scripted,
    face: str = "sync",
    workers: int = 2,
    forever: Scripted | None = None,
    http: Mapping[str, Any] | None = None,
    **choices: Any,
) -> Iterator[World]:
    """A world whose model follows a script; without workers nobody drives."""
    backend = ScriptedBackend(*script, forever=forever)
    choices.setdefault("pause", lambda delay, hint: 0.0)
    if face == "sync":
        loop: Any = AgentLoop(backend, **choices)
    else:
        loop = AsyncAgentLoop(backend, **choices)
    app = create_app(loop, fixed_tokens(TOKENS), **(http or {}))
    with TestClient(app) as client, working(loop, client, workers):
        yield World(loop, backend, client)
        if face == "sync":
            loop.close()
        else:
            client.portal.call(loop.close)


@contextmanager
def working(loop: Any, client: TestClient, workers: int) -> Iterator[None]:
    """Have a loop drive runs while the block goes on; not at all without workers."""
    if not workers:
        yield
        return
    worker = loop.worker(workers, poll=0.05)
    if isinstance(loop, AsyncAgentLoop):
        worker = client.portal.wrap_async_context_manager(worker)
    with worker:
        yield
