"""The baselines: what a programmer would write by hand, without any library."""

import asyncio
import json
import sqlite3
from typing import Any

from benchmarks.workload import ANSWER, QUESTION, free_slots

TOOL_CONFIG = {
    "tools": [
        {
            "toolSpec": {
                "name": "rooms-free_slots",
                "description": "Free slots of a room on a day.",
                "inputSchema": {
                    "json": {
                        "type": "object",
                        "properties": {
                            "day": {"type": "string"},
                            "room": {"type": "integer"},
                            "limit": {"type": "integer", "default": 5},
                        },
                        "required": ["day", "room"],
                        "additionalProperties": False,
                    }
                },
            }
        }
    ]
}


def model(number: int, turns: int) -> dict[str, Any]:
    """What the model says the n-th time it is asked."""
    if number >= turns:
        return {"role": "assistant", "content": [{"text": ANSWER}]}
    use = {
        "toolUseId": f"t{number}",
        "name": "rooms-free_slots",
        "input": {"day": "Friday", "room": number},
    }
    said = [{"text": "Let me look."}, {"toolUse": use}]
    return {"role": "assistant", "content": said}


def opening() -> list[dict[str, Any]]:
    """The messages before the model is asked."""
    return [{"role": "user", "content": [{"text": QUESTION}]}]


def answered(said: dict[str, Any]) -> dict[str, Any] | None:
    """The message with the results of what the model called, if it called."""
    uses = [block["toolUse"] for block in said["content"] if "toolUse" in block]
    results = [
        {
            "toolResult": {
                "toolUseId": use["toolUseId"],
                "content": [{"text": free_slots(**use["input"])}],
            }
        }
        for use in uses
    ]
    return {"role": "user", "content": results} if results else None


def loop(turns: int) -> list[dict[str, Any]]:
    """The whole loop in process."""
    messages = opening()
    for number in range(1, turns + 1):
        messages.append(model(number, turns))
        if (results := answered(messages[-1])) is not None:
            messages.append(results)
    return messages


async def async_loop(turns: int, latency: float) -> None:
    """The same against a model that takes its time."""
    messages = opening()
    for number in range(1, turns + 1):
        await asyncio.sleep(latency)
        messages.append(model(number, turns))
        if (results := answered(messages[-1])) is not None:
            messages.append(results)


def boto3_loop(client: Any, model_id: str, turns: int) -> None:
    """The loop over boto3's `converse`, as its documentation shows it."""
    messages = opening()
    for _ in range(turns):
        reply = client.converse(
            modelId=model_id,
            messages=messages,
            toolConfig=TOOL_CONFIG,
            inferenceConfig={"maxTokens": 4096},
        )
        messages.append(reply["output"]["message"])
        if (results := answered(messages[-1])) is None:
            break
        messages.append(results)
    if len(messages) != 2 * turns:
        raise AssertionError(f"{turns} model calls leave {2 * turns} messages")


def sqlite_loop(db: sqlite3.Connection, turns: int) -> None:
    """The loop that commits each message before it goes on, and nothing else."""
    for number in range(1, turns + 1):
        said = model(number, turns)
        for message in filter(None, (said, answered(said))):
            with db:
                db.execute("INSERT INTO said (body) VALUES (?)", (json.dumps(message),))
