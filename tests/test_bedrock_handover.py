"""Bodies are what botocore would write, and handing them over changes nothing else."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.serialize import RestJSONSerializer
from botocore.stub import Stubber
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agentloop.backends.bedrock import BedrockBackend, handover
from agentloop.backends.bedrock.codec import Conversation
from agentloop.backends.bedrock.handover import (
    Door,
    Errand,
    parameters,
    serialised,
)
from agentloop.backends.bedrock.sample import sample_body
from agentloop.core.config import ToolChoice
from agentloop.core.content import Message
from agentloop.core.phases import Infer, Log, ModelFailed, ModelReplied
from agentloop.ports import AttemptReport, JobContext, SessionSetup
from agentloop.testing.fake_bedrock import (
    FakeBedrock,
    accept_anything,
    first_violation,
    says,
)
from agentloop.testing.fake_bedrock.client import bedrock_client
from tests import bedrock_cases as cases

EXAMPLES = int(os.environ.get("AGENTLOOP_EQUALITY_EXAMPLES", "300"))


@pytest.fixture(scope="module", name="client")
def _client() -> Iterator[Any]:
    """A client that never calls anybody."""
    client = bedrock_client("http://127.0.0.1:9")
    yield client
    client.close()


@settings(max_examples=EXAMPLES)
@given(
    setup=cases.setups(),
    log=cases.messages(),
    model_id=st.sampled_from(cases.FAMILIES),
    options=cases.options(),
    choice=cases.tool_choices(),
)
def test_equality(
    client: Any,
    setup: SessionSetup,
    log: list[Message],
    model_id: str,
    options: Any,
    choice: ToolChoice,
) -> None:
    """Any conversation is legal by every rule we know, and botocore writes it so."""
    assume(cases.within_limits([*setup.history, *log]))
    conversation = Conversation(setup, cases.model(model_id, options))
    body = conversation.body(Infer(1, 1, 0.0, 0.0, choice, Log(*log)), "job-1")
    errand = Errand(operation="ConverseStream", model_id=model_id, body=body)
    assert serialised(client, errand) == body
    assert first_violation(model_id, json.loads(body)) is None


# ---------------------------------------------------------------- on a live client

JOB = JobContext(job_id="job-1", timeout=20.0)
ASKED = cases.infer(cases.user("hi"))
OWN = {
    "modelId": cases.CLAUDE,
    "messages": [{"role": "user", "content": [{"text": "x"}]}],
}
EVENT = "bedrock-runtime.Converse"


def asked(backend: BedrockBackend, streams: bool = False) -> AttemptReport:
    """The report of one inference that went well."""
    session = backend.session(cases.setup())
    found = session.infer(ASKED, JOB, (lambda _: None) if streams else None)
    assert isinstance(found.event, ModelReplied)
    return found.report


@pytest.fixture(name="bedrock")
def _bedrock() -> Iterator[FakeBedrock]:
    """A Bedrock that always has an answer."""
    with FakeBedrock(default=says("hello")) as bedrock:
        yield bedrock


def ours() -> bytes:
    """The body of the inference as we encode it."""
    return BedrockBackend().session(cases.setup()).request(ASKED, JOB)


def handlers(client: Any) -> int:
    """How often our handler is registered for Converse."""
    found = client.meta.events._emitter._handlers.prefix_search(f"before-call.{EVENT}")
    return list(found).count(handover._before_call)


@pytest.mark.parametrize("streams", [False, True], ids=["converse", "stream"])
def test_handed_over(bedrock: FakeBedrock, streams: bool) -> None:
    """Our bytes arrive, signed, as one request, without a warning."""
    backend = BedrockBackend(bedrock.client())
    report = asked(backend, streams)
    [request] = bedrock.requests
    assert request.raw == ours()
    assert request.headers["content-type"] == "application/json"
    assert "AWS4-HMAC-SHA256" in request.headers["authorization"]
    assert (report.notes, backend.open().reason) == ((), None)


def test_same_bytes_either_way(bedrock: FakeBedrock) -> None:
    """The same bytes arrive either way; switched off, nothing is registered."""
    client = bedrock.client()
    report = asked(BedrockBackend(client, hand_over=False))
    assert handlers(client) == 0
    asked(BedrockBackend(client))
    assert handlers(client) == 1
    asked(BedrockBackend(client))
    assert handlers(client) == 1
    assert [request.raw for request in bedrock.requests] == [ours()] * 3
    assert report.notes == ()


def test_own_calls_are_untouched(bedrock: FakeBedrock) -> None:
    """The host's own calls on a shared client are what they were."""
    client = bedrock.client()
    client.converse(**OWN)
    asked(BedrockBackend(client))
    client.converse(**OWN)
    asked(BedrockBackend(client), streams=True)
    list(client.converse_stream(**OWN)["stream"])
    raw = [request.raw for request in bedrock.requests]
    assert raw[0] == raw[2] == raw[4] != raw[1]
    assert raw[1] == raw[3] == ours()


def test_call_within_a_handler(bedrock: FakeBedrock) -> None:
    """A call that a host's handler makes in the midst of ours is the host's own."""
    client = bedrock.client()

    def handler(params: dict[str, Any], **_: Any) -> None:
        if b"job-1" in params["body"]:
            client.converse(**OWN)

    client.meta.events.register(f"before-call.{EVENT}", handler)
    report = asked(BedrockBackend(client))
    inner, outer = [request.raw for request in bedrock.requests]
    assert (b"job-1" in inner, outer) == (False, ours())
    assert report.notes == ()


def test_threads_keep_their_bodies(bedrock: FakeBedrock) -> None:
    """Sixteen threads mix own calls and inferences on one client; none is confused."""
    client = bedrock.client()
    backend = BedrockBackend(client)

    def call(number: int) -> None:
        if number % 2:
            client.converse(**OWN)
        else:
            asked(backend, streams=number % 4 == 0)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(96)))
    raw = [request.raw for request in bedrock.requests]
    assert raw.count(ours()) == 48
    assert len(set(raw)) == 2
    assert backend.open().reason is None


def test_later_handlers_see_the_body(bedrock: FakeBedrock) -> None:
    """Who reads the request after it was serialised reads what is sent."""
    client = bedrock.client()
    seen: list[bytes] = []
    events = client.meta.events
    events.register(
        f"before-call.{EVENT}", lambda params, **_: seen.append(params["body"])
    )
    events.register(
        f"before-send.{EVENT}", lambda request, **_: seen.append(request.body)
    )
    asked(BedrockBackend(client))
    assert seen == [ours(), ours()]


# ---------------------------------------------------------------- doubts


def wrap_method(client: Any, seen: list[Any]) -> None:
    """As instrumentations do that wrap a method of one client."""
    inner = client.converse
    client.converse = lambda **params: (seen.append(params), inner(**params))[1]


def read_parameters(event: str) -> Callable[[Any, list[Any]], None]:
    """As a handler of an event before serialisation does."""

    def apply(client: Any, seen: list[Any]) -> None:
        client.meta.events.register(
            f"{event}.{EVENT}", lambda params, **_: seen.append(dict(params))
        )

    return apply


READERS = {
    "converse": wrap_method,
    "provide-client-params": read_parameters("provide-client-params"),
    "before-parameter-build": read_parameters("before-parameter-build"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
def test_readers_see_everything(bedrock: FakeBedrock, name: str, late: bool) -> None:
    """Whoever wants to read the parameters, from when on ever, reads all of them."""
    client, seen = bedrock.client(), []
    backend = BedrockBackend(client)
    if late:
        assert asked(backend).notes == ()
    READERS[name](client, seen)
    first, second = asked(backend), asked(backend)
    assert seen[0]["messages"] == [{"role": "user", "content": [{"text": "hi"}]}]
    assert any(name in note for note in first.notes)
    assert second.notes == ()
    assert {request.raw for request in bedrock.requests} == {ours()}


def test_tracer_of_botocore(
    bedrock: FakeBedrock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracer around botocore's one door for calls sees whole requests."""
    seen: list[Any] = []
    inner = BaseClient._make_api_call

    def traced(self: Any, operation: str, params: Any) -> Any:
        seen.append(params)
        return inner(self, operation, params)

    monkeypatch.setattr(BaseClient, "_make_api_call", traced)
    report = asked(BedrockBackend(bedrock.client()))
    assert seen[0]["inferenceConfig"] == {"maxTokens": 4096}
    assert any("_make_api_call" in note for note in report.notes)


def test_token_does_not_outlive_its_call(bedrock: FakeBedrock) -> None:
    """A call of ours that botocore refuses leaves nothing to the host's next call."""
    client = bedrock.client()
    backend = BedrockBackend(client, model_ids={"none": ""})
    asked(backend)
    refused = backend.session(cases.setup(model="none")).infer(ASKED, JOB, None)
    assert isinstance(refused.event, ModelFailed)
    client.converse(**OWN)
    assert json.loads(bedrock.requests[-1].raw) == {"messages": OWN["messages"]}
    assert backend.open().reason is None


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
def test_stubber(late: bool) -> None:
    """Botocore's Stubber sees the parameters it expects and answers."""
    script = [says("hello")] if late else []
    with FakeBedrock(*script) as bedrock:
        client = bedrock.client()
        backend = BedrockBackend(client)
        if late:
            asked(backend)
        stub(client, backend)


def stub(client: Any, backend: BedrockBackend) -> None:
    """One inference that the Stubber answers."""
    body = parameters(ours())
    reply = {
        "output": {"message": {"role": "assistant", "content": [{"text": "stub"}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
        "metrics": {"latencyMs": 1},
    }
    with Stubber(client) as stubber:
        stubber.add_response("converse", reply, {"modelId": cases.CLAUDE, **body})
        report = asked(backend)
    assert '"stub"' in str(report.response)


def test_changed_parameters_arrive(bedrock: FakeBedrock) -> None:
    """A handler that adds to every request adds to ours, and the checksum tells."""
    client = bedrock.client()

    def add(params: dict[str, Any], **_: Any) -> None:
        params["serviceTier"] = {"type": "flex"}

    client.meta.events.register(f"provide-client-params.{EVENT}", add)
    report = asked(BedrockBackend(client))
    [request] = bedrock.requests
    assert request.body["serviceTier"] == {"type": "flex"}
    assert report.request_sha256 == sha256(request.raw).hexdigest()


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("what", ["body", "signature"])
def test_disturbed(bedrock: FakeBedrock, late: bool, what: str) -> None:
    """A request that was changed or signed before our turn is made the plain way."""
    client = bedrock.client()
    backend = BedrockBackend(client)

    def disturb(params: dict[str, Any], **_: Any) -> None:
        if what == "body" and params["body"] == b"{}":
            params["body"] = b'{"system": []}'
        if what == "signature":
            params["headers"]["Authorization"] = "early"

    if late:
        asked(backend)
    client.meta.events.unregister(
        f"before-call.{EVENT}", unique_id="agentloop-hand-over-Converse"
    )
    client.meta.events.register_first(f"before-call.{EVENT}", disturb)
    handover._listen(client)
    before = len(bedrock.requests)
    report = asked(backend)
    assert [request.raw for request in bedrock.requests[before:]] == [ours()]
    assert len(report.notes) == 1
    assert backend.open().reason is not None


def test_other_serialisation(
    bedrock: FakeBedrock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A botocore that writes other bytes is left to write them, and the job tells."""

    def compact(self: Any, params: Any, shape: Any) -> bytes:
        body: dict[str, Any] = {}
        self._serialize(body, params, shape)
        return json.dumps(body, separators=(",", ":")).encode()

    monkeypatch.setattr(RestJSONSerializer, "_serialize_body_params", compact)
    backend = BedrockBackend(bedrock.client())
    report = asked(backend)
    [request] = bedrock.requests
    assert request.raw != ours()
    assert json.loads(request.raw) == json.loads(ours())
    assert report.request_sha256 == sha256(request.raw).hexdigest()
    assert backend.session(cases.setup()).request(ASKED, JOB) == request.raw
    assert any("serialises a request differently" in note for note in report.notes)


def test_missing_event(bedrock: FakeBedrock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the event never emitted, an empty request is refused and billed nothing."""
    monkeypatch.setattr(handover, "_listen", lambda client: None)
    backend = BedrockBackend(bedrock.client())
    report = asked(backend)
    assert [request.raw for request in bedrock.requests] == [b"{}", ours()]
    assert bedrock.inferences == 1
    assert len(report.notes) == 1


def test_missing_event_and_a_lenient_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rehearsal that is answered is a botocore with another order of events."""
    monkeypatch.setattr(handover, "_listen", lambda client: None)
    with FakeBedrock(default=says("hello"), judge=accept_anything) as bedrock:
        report = asked(BedrockBackend(bedrock.client()))
        assert bedrock.requests[-1].raw == ours()
    assert any("emits its events differently" in note for note in report.notes)


def test_first_use_by_many(bedrock: FakeBedrock) -> None:
    """Sixteen threads that come first check the client once and are all served."""
    checks: list[int] = []

    def sample() -> bytes:
        checks.append(1)
        return sample_body()

    door = Door(bedrock.client(), sample, hand_over=True)
    errand = Errand(operation="Converse", model_id=cases.CLAUDE, body=ours())
    with ThreadPoolExecutor(16) as pool:
        sent = {found[1] for found in pool.map(door.call, [errand] * 32)}
    assert (len(checks), sent, door.reason) == (1, {ours()}, None)


def test_any_other_client() -> None:
    """A client that is none of botocore's is called like any function."""

    class Client:
        def converse(self, **params: Any) -> dict[str, Any]:
            assert parameters(ours()) == {
                k: v for k, v in params.items() if k != "modelId"
            }
            return {
                "output": {"message": {"content": [{"text": "hello"}]}},
                "stopReason": "end_turn",
            }

        def converse_stream(self, **params: Any) -> dict[str, Any]:
            return {}

    backend = BedrockBackend(Client())
    report = asked(backend)
    assert report.provider_request_id is None
    assert len(report.notes) == 1
    silent = backend.session(cases.setup()).infer(ASKED, JOB, lambda _: None)
    assert isinstance(silent.event, ModelFailed)
    assert silent.event.failure.kind == "connection"


def test_warning_is_logged_once(
    bedrock: FakeBedrock, caplog: pytest.LogCaptureFixture
) -> None:
    """The log tells once why bodies are not handed over, and says nothing otherwise."""
    client = bedrock.client()
    backend = BedrockBackend(client)
    asked(backend)
    assert caplog.records == []
    wrap_method(client, [])
    asked(backend)
    asked(backend)
    [record] = [r for r in caplog.records if r.name.startswith("agentloop")]
    assert "client.converse is wrapped" in record.getMessage()
    assert any("client.converse is wrapped" in text for text in backend.warnings())
