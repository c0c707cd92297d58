"""The installed botocore knows nothing of Converse that our tables lack."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from agentloop.backends.bedrock import stream
from agentloop.backends.bedrock.codec import STOPS, blobs_to_bytes, blocks, names
from agentloop.backends.bedrock.errors import CODES, STREAM_CODES
from agentloop.backends.bedrock.handover import Errand, parameters, serialised
from agentloop.backends.bedrock.options import JOB_KEY
from agentloop.backends.bedrock.sample import sample_body
from agentloop.testing.fake_bedrock.client import bedrock_client
from agentloop.wire import undump

NOT_SENT = {"modelId", "promptVariables", "projectIdentifier"}
"""Members of a request that are no part of our bodies: the id stands in the URL, a
prompt's variables need a prompt, and a project is the account's default one."""


@pytest.fixture(scope="module", name="client")
def _client() -> Iterator[Any]:
    """A client that never calls anybody."""
    client = bedrock_client("http://127.0.0.1:9")
    yield client
    client.close()


@pytest.fixture(name="api")
def _api(client: Any) -> Any:
    """The service model of the installed botocore."""
    return client.meta.service_model


def members(api: Any, shape: str) -> set[str]:
    """The members of a structure."""
    return set(api.shape_for(shape).members)


def values(api: Any, shape: str) -> set[str]:
    """The values of an enumeration."""
    return set(api.shape_for(shape).enum)


def test_content_blocks(api: Any) -> None:
    """Every kind of content block has a place: it goes back, or it is known not to."""
    ours = (
        blocks.USER_KINDS
        | blocks.ASSISTANT_KINDS
        | blocks.UNSENT_KINDS
        | {"toolUse", "toolResult"}
    )
    assert members(api, "ContentBlock") == ours
    assert members(api, "ToolResultContentBlock") == blocks.RESULT_KINDS


def test_media_formats(api: Any) -> None:
    """Every format of images and documents is known."""
    assert values(api, "ImageFormat") == blocks.IMAGE_FORMATS
    assert values(api, "DocumentFormat") == blocks.DOCUMENT_FORMATS


def test_stop_reasons(api: Any) -> None:
    """Every stop reason has its neutral word."""
    assert values(api, "StopReason") <= STOPS.keys()


def test_stream_events(api: Any) -> None:
    """Every event of a stream is read, every exception in it classified."""
    found = members(api, "ConverseStreamOutput")
    exceptions = {kind for kind in found if kind.endswith("Exception")}
    assert found - exceptions == stream.EVENTS
    assert {kind[:1].upper() + kind[1:] for kind in exceptions} == STREAM_CODES.keys()
    assert members(api, "ContentBlockDelta") == stream.DELTAS
    assert members(api, "ContentBlockStart") == stream.STARTS
    assert members(api, "ReasoningContentBlockDelta") == {
        "text",
        "signature",
        "redactedContent",
    }


def test_errors(api: Any) -> None:
    """Every error that the API documents is in the table."""
    for operation in ("Converse", "ConverseStream"):
        shapes = api.operation_model(operation).error_shapes
        assert {shape.name for shape in shapes} <= CODES.keys()


def test_limits(api: Any) -> None:
    """Patterns and bounds of names, ids and metadata are the ones we write for."""
    name = api.shape_for("ToolName").metadata
    id_ = api.shape_for("ToolUseId").metadata
    assert name == {"min": 1, "max": 64, "pattern": "[a-zA-Z0-9_-]+"}
    assert id_ == {"min": 1, "max": 64, "pattern": "[a-zA-Z0-9_.:-]+"}
    assert names.TOOL_NAME.pattern == "[a-zA-Z0-9_-]{1,64}"
    assert names.TOOL_USE_ID.pattern == "[a-zA-Z0-9_.:-]{1,64}"
    assert api.shape_for("RequestMetadata").metadata["max"] == 16
    assert len(JOB_KEY) <= 256


def test_usage(api: Any) -> None:
    """Nothing is counted that we do not read or know to be a part of what we read."""
    read = {
        "inputTokens",
        "outputTokens",
        "cacheReadInputTokens",
        "cacheWriteInputTokens",
    }
    parts = {"totalTokens", "cacheDetails"}
    assert members(api, "TokenUsage") == read | parts


def leaves(shape: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Every shape inside a shape with the names that lead to it."""
    yield path, shape
    assert len(path) < 20, "the request's shapes are not recursive"
    match shape.type_name:
        case "structure" if not shape.is_document_type:
            for name, inner in shape.members.items():
                yield from leaves(inner, (*path, name))
        case "list":
            yield from leaves(shape.member, path)
        case "map":
            yield from leaves(shape.value, path)


def test_blobs_and_documents(api: Any) -> None:
    """Blobs and documents stand where the plain way looks for them, only there."""
    found = list(leaves(api.operation_model("Converse").input_shape))
    blobs = {path[-2:] for path, shape in found if shape.type_name == "blob"}
    documents = {
        path[-1] for path, shape in found if getattr(shape, "is_document_type", False)
    }
    assert blobs == {("source", "bytes"), ("reasoningContent", "redactedContent")}
    assert documents == {"input", "json", "additionalModelRequestFields"}


def test_blobs_are_found() -> None:
    """Blobs become bytes; values of the caller's own stay as they are."""
    data = b64encode(b"x").decode()
    source = {"source": {"bytes": data}}
    given = {
        "image": source,
        "redactedContent": data,
        "input": source,
        "requestMetadata": {"redactedContent": data},
        "bytes": data,
    }
    assert blobs_to_bytes([given]) == [
        {**given, "image": {"source": {"bytes": b"x"}}, "redactedContent": b"x"}
    ]


def test_sample_holds_every_kind(client: Any) -> None:
    """The sample of the self-check holds every kind we send, and botocore agrees."""
    body = sample_body()
    parsed = undump(body.decode())
    parts = [part for turn in parsed["messages"] for part in turn["content"]]
    inner = [p for part in parts for p in part.get("toolResult", {}).get("content", [])]
    assert {next(iter(part)) for part in parts} == {
        "text",
        "image",
        "document",
        "toolUse",
        "toolResult",
        "reasoningContent",
        "cachePoint",
    }
    assert {next(iter(part)) for part in inner} == blocks.RESULT_KINDS - {"video"}
    members = client.meta.service_model.operation_model("Converse").input_shape.members
    assert parsed.keys() == members.keys() - NOT_SENT
    for operation in ("Converse", "ConverseStream"):
        errand = Errand(operation=operation, model_id="m", body=body)
        assert serialised(client, errand) == body
    assert parameters(body)["messages"][0]["content"][1]["image"]["source"]["bytes"]
