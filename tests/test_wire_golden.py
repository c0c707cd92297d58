"""Stored forms of every release, loaded for ever after and written byte for byte.

One file for each value, under the schema version that wrote it. A file is never
edited: a form that changes gets a new version, a new folder and a way forward. To
add a value, add its row and run `python -m tests.test_wire_golden`, which writes
the files that are missing and leaves all others alone.
"""

from pathlib import Path
from typing import Any

import pytest

from agentloop.core.catalog import Failure
from agentloop.core.config import (
    AnyTool,
    Auto,
    ClientTools,
    Config,
    McpServer,
    Override,
    SpecificTool,
    ToolChoice,
    ToolSpec,
)
from agentloop.core.content import (
    Block,
    Document,
    Image,
    Json,
    Message,
    Opaque,
    Reasoning,
    Text,
    ToolResult,
    ToolUse,
)
from agentloop.core.request import Payload, ToolOutputs, UserMessage
from agentloop.core.run import (
    Conversation,
    PendingToolCall,
    Run,
    RunError,
    RunEvent,
    StoredMessage,
    Usage,
)
from agentloop.wire import BLOCK_TAGS, SCHEMA_VERSION, dump, load, to_json, undump

GOLDEN = Path(__file__).parent / "golden"

SCHEMA = {
    "type": "object",
    "required": ["day"],
    "properties": {"day": {"type": "string", "default": None}},
}
TOOL = ToolSpec(
    name="free_slots", description="List slots.", input_schema=SCHEMA, strict=True
)
BARE = ToolSpec(name="approve", input_schema={"type": "object"})
URL = "https://rooms.example.com/mcp"
CONFIG_A = Config(
    model="anthropic.claude-opus-4.6",
    data_plane_id="0b8a3c5e-5a39-4d0a-9a60-2f8c0d0f3a11",
    execution_cluster="shared",
    compute_pool_id="1b8a3c5e-5a39-4d0a-9a60-2f8c0d0f3a12",
    max_iterations=6,
    max_tokens=1500,
    temperature=0.0,
    output_format_schema=SCHEMA,
    mcp_servers=(
        McpServer(alias="rooms", url=URL, tools=(TOOL,), description="Calendar"),
    ),
    client_tools=(ClientTools(alias="user", tools=(BARE,), description="A person"),),
)
CONFIG_B = Config(
    model="m", mcp_servers=(McpServer(alias="rooms", url=URL),), tools=(BARE,)
)
USAGE = Usage(
    prompt_tokens=950,
    completion_tokens=61,
    cache_read_tokens=800,
    cache_write_tokens=100,
    attempts_without_usage=1,
)
USE = ToolUse("tooluse_x1", "rooms-free_slots", {"day": "Fri", "n": [1, 2.5, None]})
RESULT = ToolResult("tooluse_x1", (Text("10:00"), Json({"free": [10, 14]})))
IDS = {
    "id": "a2b4c6d8-0000-4000-8000-000000000001",
    "conversation_id": "a2b4c6d8-0000-4000-8000-000000000002",
    "company_id": 12,
    "user_id": 90,
    "client_op_id": "a2b4c6d8-0000-4000-8000-000000000003",
    "started_at": "2026-06-01T08:00:05.000000Z",
}
ENDED = {
    **IDS,
    "effective_config": CONFIG_B,
    "iterations_used": 2,
    "usage": USAGE,
    "submitted_inference_job_ids": ("j1", "j2"),
    "completed_at": "2026-06-01T08:00:21.000000Z",
}

ROWS: dict[str, tuple[Any, Any]] = {
    "block-text": (Block, Text('Zwölf "Uhr" \u2028 😀\n')),
    "block-tool_use": (Block, USE),
    "block-tool_result": (Block, RESULT),
    "block-tool_result-error": (Block, ToolResult("t", (Text("no"),), True)),
    "block-tool_result-empty": (Block, ToolResult("t", ())),
    "block-json": (Block, Json([None, True, 0, -1.5e300, "x", {}])),
    "block-json-null": (Block, Json(None)),
    "block-image": (Block, Image("png", "iVBORw0=")),
    "block-document": (Block, Document("pdf", "house rules", "JVBERi0=")),
    "block-reasoning": (Block, Reasoning(" hm\n", "c2lnbmF0dXJl")),
    "block-reasoning-signature": (Block, Reasoning("", "c2lnbmF0dXJl")),
    "block-reasoning-redacted": (Block, Reasoning(redacted="AAECAw==")),
    "block-opaque": (Block, Opaque("bedrock", {"video": {"format": "mp4"}})),
    "message-user": (Message, Message("user", (Text("Is room 3 free?"),))),
    "message-assistant": (
        Message,
        Message("assistant", (Reasoning("hm", "cw=="), Text("Let me see."), USE)),
    ),
    "message-tool": (Message, Message("tool", (RESULT,))),
    "config-declared": (Config, CONFIG_A),
    "config-discovered": (Config, CONFIG_B),
    "config-minimal": (Config, Config(model="m")),
    "config-empty-lists": (
        Config,
        Config(model="m", mcp_servers=(), client_tools=(), tools=()),
    ),
    "override": (Override, Override({"temperature": None, "tools": (BARE,)})),
    "choice-auto": (ToolChoice, Auto()),
    "choice-any": (ToolChoice, AnyTool()),
    "choice-wire-name": (ToolChoice, SpecificTool("rooms-free_slots")),
    "choice-alias": (ToolChoice, SpecificTool("free_slots", "rooms")),
    "payload-user_message": (
        Payload,
        UserMessage((Text("See."), Image("png", "iVBORw0="))),
    ),
    "payload-tool_outputs": (Payload, ToolOutputs((RESULT,))),
    "usage": (Usage, USAGE),
    "failure": (
        Failure,
        Failure(kind="throttled", message="slow", code="ThrottlingException"),
    ),
    "run-pending": (
        Run,
        Run(**IDS, status="pending", effective_config=CONFIG_A, tool_choice=AnyTool()),
    ),
    "run-completed": (
        Run,
        Run(
            **ENDED,
            status="completed",
            final_text="4",
            final_structured_output={"text": "4"},
        ),
    ),
    "run-requires_action": (
        Run,
        Run(
            **ENDED,
            status="requires_action",
            pending_tool_calls=(PendingToolCall("t1", "approve", {"slot": "Fri"}),),
        ),
    ),
    "run-failed": (
        Run,
        Run(
            **ENDED,
            status="failed",
            error=RunError("JobFailed", "broken", "Inference Job Failed", "https://x"),
        ),
    ),
    "run-failed-unknown": (
        Run,
        Run(**ENDED, status="failed", error=RunError("FromTheFuture", "broken")),
    ),
    "conversation": (
        Conversation,
        Conversation(
            id="c1",
            company_id=12,
            user_id=90,
            defaults=CONFIG_A,
            version=4,
            created_at="2026-06-01T08:00:00.000000Z",
            updated_at="2026-06-01T08:00:21.000000Z",
            name="room booking",
            system_prompt="Help people book rooms.",
        ),
    ),
    "stored-message": (
        StoredMessage,
        StoredMessage(
            id="m1",
            sequence_no=3,
            role="tool",
            content_blocks=(RESULT,),
            run_id="a2b4",
            created_at="2026-06-01T08:00:21.000000Z",
        ),
    ),
    "event": (RunEvent, RunEvent("tool_started", {"key": "1.0"}, 7)),
}


def path_of(name: str, version: int = SCHEMA_VERSION) -> Path:
    """Where a value of a schema version is kept."""
    return GOLDEN / f"v{version}" / f"{name}.json"


@pytest.mark.parametrize("name", ROWS)
def test_a_stored_value_is_read_and_written_as_it_was(name):
    """The file means the value of the row, and comes out byte for byte."""
    type_, value = ROWS[name]
    stored = path_of(name).read_bytes()
    loaded = load(undump(stored.decode("ascii")), type_)
    assert loaded == value
    assert (dump(to_json(loaded)) + "\n").encode("ascii") == stored


def test_every_file_has_its_row_and_every_block_its_file():
    """Nothing that was ever stored goes untested."""
    assert {path.stem for path in path_of("x").parent.glob("*.json")} == set(ROWS)
    blocks = {type(value) for type_, value in ROWS.values() if type_ is Block}
    assert blocks == set(BLOCK_TAGS)


def test_every_version_that_was_ever_written_is_still_here():
    """Folders are counted from one, without gaps."""
    folders = {path.name for path in GOLDEN.iterdir() if path.name.startswith("v")}
    assert folders == {f"v{n}" for n in range(1, SCHEMA_VERSION + 1)}


def write_missing() -> list[str]:
    """Write the files of new rows; return their names."""
    missing = [name for name in ROWS if not path_of(name).exists()]
    for name in missing:
        path_of(name).parent.mkdir(parents=True, exist_ok=True)
        path_of(name).write_text(dump(to_json(ROWS[name][1])) + "\n", "ascii")
    return missing


if __name__ == "__main__":
    print("\n".join(write_missing()))
