"""Rules over more than one turn: calls and their results, thoughts and their seals.

The room holds what makes a Claude history coherent. It must not check single blocks.
"""

from __future__ import annotations

from collections import Counter

from agentloop.testing.fake_snowflake.known import Known
from agentloop.testing.fake_snowflake.shapes import Doc, doc, docs, text


def pairing_fault(messages: list[Doc]) -> str | None:
    """Every call answered in the next user turn, once, and nothing else answered."""
    asked: list[str] = []
    seen: set[str] = set()
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            asked = [str(b["id"]) for b in _of(message, "tool_use")]
            # Also across turns (anthropics/claude-code#28515, Switchyard#502).
            if len(seen.union(asked)) < len(seen) + len(asked):
                return f"messages.{i}: `tool_use` ids must be unique"
            seen.update(asked)
            if asked and i + 1 == len(messages):
                return _unanswered(i, asked)
        else:
            if fault := _results_fault(i, message, asked):
                return fault
            asked = []
    return None


def _results_fault(i: int, message: Doc, asked: list[str]) -> str | None:
    given = [str(b["tool_use_id"]) for b in _of(message, "tool_result")]
    for id_, times in Counter(given).items():
        if id_ not in asked:
            return (
                f"messages.{i}: unexpected `tool_use_id` {id_!r} in `tool_result` "
                "blocks: each must answer a `tool_use` block of the previous turn"
            )
        if times > 1:
            return f"messages.{i}: {times} `tool_result` blocks for one call {id_!r}"
    if missing := [id_ for id_ in asked if id_ not in given]:
        return _unanswered(i - 1, missing)
    kinds = [b.get("type") for b in docs(message.get("content"))]
    if given and any(k != "tool_result" for k in kinds[: len(given)]):
        return f"messages.{i}: `tool_result` blocks must come first in their turn"
    return None


def _unanswered(i: int, ids: list[str]) -> str:
    return (
        f"messages.{i}: `tool_use` ids were found without `tool_result` blocks "
        f"immediately after: {', '.join(ids)}"
    )


def thought_fault(body: Doc, known: Known) -> str | None:
    """Thoughts come back as they were issued, and none is left out while thinking."""
    messages = docs(body["messages"])
    for i, message in enumerate(messages):
        for block in docs(message.get("content")):
            if fault := _seal_fault(block, known):
                return f"messages.{i}: {fault}"
    if doc(body.get("thinking")).get("type") != "enabled":
        return None
    return _omission_fault(messages, known)


def _seal_fault(block: Doc, known: Known) -> str | None:
    if known.thoughts is None:
        return None
    match block.get("type"):
        case "thinking":
            issued = known.thoughts.get(text(block.get("signature")))
            intact = issued is not None and issued == block.get("thinking")
        case "redacted_thinking":
            intact = text(block.get("data")) in known.thoughts
        case _:
            return None
    return None if intact else f"Invalid `signature` in `{block['type']}` block"


def _omission_fault(messages: list[Doc], known: Known) -> str | None:
    turns = [(i, m) for i, m in enumerate(messages) if m["role"] == "assistant"]
    if not turns:
        return None
    i, last = turns[-1]
    calls = {str(b.get("id")) for b in _of(last, "tool_use")}
    if not calls or calls & known.thoughtless:
        return None
    first = docs(last["content"])[0].get("type")
    if first in {"thinking", "redacted_thinking"}:
        return None
    return (
        f"messages.{i}.content.0.type: Expected `thinking` or `redacted_thinking`, "
        f"but found `{first}`"
    )


def _of(message: Doc, type_: str) -> list[Doc]:
    return [b for b in docs(message.get("content")) if b.get("type") == type_]
