"""The OpenAPI document: true to what parses, and to what is answered.

schemathesis makes requests from the document and holds the answers against it, in
process and with authentication on. Its pytest plugin is not needed for that.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from attrs import frozen
from hypothesis import HealthCheck, example, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from agentloop.core.catalog import DOCS_BASE
from agentloop.core.config import Config, Override
from agentloop.core.request import Payload
from agentloop.core.run import Usage
from agentloop.http.openapi import document
from agentloop.http.operations import OPERATIONS, Operation
from agentloop.testing.scripted import calls, says
from agentloop.wire import WireError, load, to_json
from tests import strategies
from tests.http_world import UNKNOWN, USER_TOOLS, World, world

DOCUMENT = document(DOCS_BASE)
SCHEMAS = DOCUMENT["components"]["schemas"]


def validator(name: str) -> Any:
    """What checks a value against one component."""
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": {"schemas": SCHEMAS}}
    )


# ------------------------------------------------ the document itself


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_component_is_a_json_schema(name: str) -> None:
    """Valid 2020-12, every reference resolved, with a description or a union."""
    assert jsonschema_rs.meta.is_valid(SCHEMAS[name])
    validator(name)
    assert {"description", "oneOf"} & SCHEMAS[name].keys()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda op: op.id)
def test_each_operation_is_described(operation: Operation) -> None:
    """Its id, its statuses, its parameters, and whether it needs a token."""
    told = DOCUMENT["paths"][operation.path][operation.method.lower()]
    assert told["operationId"] == operation.id
    assert told["security"] == ([{"bearer": []}] if operation.verb else [])
    assert {s.status for s in operation.successes} <= set(map(int, told["responses"]))
    required = {p["name"] for p in told["parameters"] if p.get("required")}
    assert all(f"{{{name}}}" in operation.path for name in required)
    assert ("requestBody" in told) == (operation.body is not None)
    if operation.verb:
        assert {"401", "403", "429", "500", "503"} <= told["responses"].keys()
        assert "Retry-After" in told["responses"]["503"]["headers"]


@given(strategies.configs())
def test_a_config_that_is_shown_fits_its_schema(config: Config) -> None:
    """What the converter writes is what the document says."""
    validator("ConversationDefaults").validate(to_json(config))


@given(strategies.payloads())
def test_a_payload_fits_its_schema(payload: Any) -> None:
    """What the converter writes, and therefore reads, is a documented payload."""
    validator("Payload").validate(to_json(payload))


@given(strategies.messages())
def test_every_block_fits_its_schema(message: Any) -> None:
    """All kinds of content blocks are told apart by their type."""
    for block in message.content:
        validator("Block").validate(to_json(block))


@given(strategies.usages())
@example(Usage())
def test_usage_fits_its_schema(usage: Usage) -> None:
    """With the total that the class only computes."""
    validator("Usage").validate(to_json(usage))


ODD: list[tuple[str, Any, Any]] = [
    ("ConversationDefaults", Config, {}),
    ("ConversationDefaults", Config, {"model": 1}),
    ("ConversationDefaults", Config, {"model": "m", "x": 1}),
    ("ConversationDefaults", Config, {"model": "m", "max_tokens": None}),
    ("ConversationDefaults", Config, {"model": "m", "max_tokens": 1.5}),
    ("ConversationDefaults", Config, {"model": "m", "execution_cluster": "x"}),
    ("ConversationDefaults", Config, {"model": "m", "tools": [{"name": "a"}]}),
    ("ConfigOverride", Override, {"x": 1}),
    ("ConfigOverride", Override, {"model": 1}),
    ("ConfigOverride", Override, []),
    ("Payload", Payload, {"kind": "user_message"}),
    ("Payload", Payload, {"kind": "shout", "text": "x"}),
    ("Payload", Payload, {"kind": "user_message", "text": "x", "content_blocks": []}),
    ("Payload", Payload, {"kind": "tool_outputs", "outputs": [{"tool_use_id": "a"}]}),
    (
        "Payload",
        Payload,
        {"kind": "user_message", "content_blocks": [{"type": "json", "json": 1}]},
    ),
    (
        "Payload",
        Payload,
        {
            "kind": "user_message",
            "content_blocks": [{"type": "image", "format": "bmp", "data": "aGk="}],
        },
    ),
    (
        "Payload",
        Payload,
        {
            "kind": "user_message",
            "content_blocks": [{"type": "image", "format": "png", "data": "aGk"}],
        },
    ),
]


@pytest.mark.parametrize(("name", "type_", "value"), ODD)
def test_what_does_not_parse_does_not_fit(name: str, type_: Any, value: Any) -> None:
    """The document refuses what the converter refuses."""
    with pytest.raises(WireError):
        load(value, type_)
    assert not validator(name).is_valid(value)


# ------------------------------------------------ requests made from the document

load_all_checks()
CHECKED = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
        "allow_header_conformance",
    ]
)
CONFIG = schemathesis.Config.from_dict(
    # What a query holds beside its documented names is passed over, as everywhere.
    {"generation": {"allow-extra-parameters": False}}
)
POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@frozen(kw_only=True)
class Campaign:
    """So many requests to one operation, on known ids or on made-up ones."""

    operation: str
    examples: int
    mode: GenerationMode = POSITIVE
    known: bool = False

    def __str__(self) -> str:
        """The name of the test."""
        ids = "known" if self.known else "any"
        return f"{self.operation}-{self.mode.value}-{ids}"


BY_ID = [op.id for op in OPERATIONS if "{" in op.path and op.body is None]
CAMPAIGNS = [
    Campaign(operation="create_conversation", examples=300),
    Campaign(operation="create_conversation", examples=100, mode=NEGATIVE),
    Campaign(operation="list_conversations", examples=300),
    Campaign(operation="list_conversations", examples=300, mode=NEGATIVE),
    Campaign(operation="start_run", examples=300, known=True),
    Campaign(operation="start_run", examples=100, known=True, mode=NEGATIVE),
    Campaign(operation="start_run", examples=100),
    Campaign(operation="list_messages", examples=200, known=True),
    Campaign(operation="run_events", examples=200, known=True),
    *(Campaign(operation=id_, examples=180) for id_ in BY_ID),
    *(Campaign(operation=id_, examples=180, mode=NEGATIVE) for id_ in BY_ID),
]
SINGLE = [
    Campaign(operation=op.id, examples=1, known=True)
    for op in OPERATIONS
    if op.body is None and not op.numbers
]
"""Operations that take nothing but ids: on known ones there is one request."""


@frozen
class Surface:
    """A served loop, its document as schemathesis reads it, and ids it knows."""

    world: World
    schema: Any
    ids: dict[str, str]


@pytest.fixture(scope="module")
def surface() -> Iterator[Surface]:
    """A conversation with an ended run, over a loop in which nobody drives."""
    with world(calls(("user-approve", {})), forever=says("x"), workers=0) as served:
        conversation = served.conversation(client_tools=USER_TOOLS)
        with served.loop.worker(1):
            run = served.run(conversation)
        schema = schemathesis.openapi.from_asgi(
            "/openapi.json", served.client.app, config=CONFIG
        )
        ids = {
            "conversation_id": conversation,
            "run_id": run["id"],
            "job_id": run["submitted_inference_job_ids"][0],
        }
        yield Surface(served, schema, ids)


def known_ids(surface: Surface, operation: Operation) -> dict[str, str] | None:
    """The ids of a path that are known; a new conversation where it is changed."""
    ids = surface.ids
    if operation.id in {"start_run", "delete_conversation"}:
        ids = {**ids, "conversation_id": surface.world.conversation(tools=[])}
    return {name: id_ for name, id_ in ids.items() if f"{{{name}}}" in operation.path}


def fitted(case: Any) -> None:
    """Half of the runs are started at the version that the conversation has."""
    body = case.body
    version = body.get("expected_version") if isinstance(body, dict) else None
    if isinstance(version, int) and version % 2:
        body["expected_version"] = 0


def ask(surface: Surface, campaign: Campaign) -> Counter[int]:
    """Make the requests of a campaign; returns how often each status came."""
    operation = next(op for op in OPERATIONS if op.id == campaign.operation)
    found = surface.schema[operation.path][operation.method]
    known = known_ids(surface, operation) if campaign.known else None
    seen: Counter[int] = Counter()

    @settings(max_examples=campaign.examples, suppress_health_check=list(HealthCheck))
    @given(found.as_strategy(campaign.mode, path_parameters=known))
    def request(case: Any) -> None:
        if campaign.mode is POSITIVE:
            fitted(case)
        headers = {"Authorization": "Bearer alice"}
        answer = case.call_and_validate(headers=headers, checks=CHECKED)
        seen[answer.status_code] += 1

    request()
    return seen


@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=str)
def test_generated_requests_are_answered_as_documented(
    surface: Surface, campaign: Campaign
) -> None:
    """No server error, and no status, type or body beyond the document."""
    seen = ask(surface, campaign)
    assert seen.total() >= campaign.examples
    if campaign.known and campaign.mode is POSITIVE:
        successes = sum(count for status, count in seen.items() if status < 300)
        assert successes >= campaign.examples / 10, seen


@pytest.mark.parametrize("campaign", SINGLE, ids=str)
def test_plain_requests_are_answered_as_documented(
    surface: Surface, campaign: Campaign
) -> None:
    """A success, whose body fits its schema."""
    assert min(ask(surface, campaign)) < 300


def test_there_are_enough_generated_requests() -> None:
    """At least five thousand in every run of the suite."""
    assert sum(campaign.examples for campaign in CAMPAIGNS) >= 5000


def test_a_token_is_needed_by_generated_requests_too(surface: Surface) -> None:
    """Without one, every guarded operation answers 401."""
    for operation in OPERATIONS:
        path = operation.path
        for name in ("conversation_id", "run_id", "job_id"):
            path = path.replace(f"{{{name}}}", UNKNOWN)
        answer = surface.world.call(operation.method, path, "")
        assert (answer.status_code == 401) == (operation.verb is not None)
