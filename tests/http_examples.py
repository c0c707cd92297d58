"""The examples of the documented page of `GET /agents/runs/{id}`, as data.

Values are kept to the letter, ids and instants too; a test that replays an example
gives them to its clock and its ids. Where the page writes an ellipsis, a member is
`ELIDED` or the example is one of `PARTIAL`.
"""

from typing import Any, Final

from attrs import frozen

DOCS: Final = (
    "https://docs.narrative.io/reference/architecture/agent-conversations/errors/"
)
ELIDED: Final = object()
"""A value that the page does not spell out."""

COMPLETED: Final[dict[str, Any]] = {
    "id": "82eb9cb7-619e-46bb-ac1c-8a32b0112c1c",
    "conversation_id": "bc2505b7-068d-44ed-8055-a6f6ffe54ab1",
    "company_id": 1,
    "user_id": 407,
    "client_op_id": "696b022c-e86d-4b3e-b6d7-ceb7eb1a495e",
    "status": "completed",
    "tool_choice": None,
    "effective_config": ELIDED,
    "iterations_used": 1,
    "usage": {"prompt_tokens": 169, "completion_tokens": 8, "total_tokens": 177},
    # Ours are made from the run and the iteration, so this one cannot be given.
    "submitted_inference_job_ids": ["e94c6eab-019f-4e96-bb47-049fa60e7988"],
    "pending_tool_calls": [],
    "final_text": "4",
    "error": None,
    "started_at": "2026-05-18T13:21:30.355180Z",
    "completed_at": "2026-05-18T13:21:51.983952Z",
}
REQUIRES_ACTION: Final[dict[str, Any]] = {
    "id": "19082f49-0280-4e32-a8b4-7df8dea9dbed",
    "status": "requires_action",
    "iterations_used": 1,
    "pending_tool_calls": [
        {
            "tool_use_id": "tooluse_DWXPKZ50JDGib5GmShyUgJ",
            "name": "user-confirm_booking",
            "arguments": {"proposed_slot": "tomorrow afternoon"},
        }
    ],
    "final_text": None,
}
FAILED: Final[dict[str, Any]] = {
    "id": ELIDED,
    "status": "failed",
    "iterations_used": None,
    "usage": None,
    "final_text": None,
    "error": {
        "type": "AgentLoopMaxIterationsExceeded",
        "message": "max iterations exceeded after 5 iterations",
        "title": "Max Iterations Exceeded",
        "docs_url": f"{DOCS}max-iterations-exceeded",
    },
}
STATUSES: Final = ("pending", "running", "completed", "requires_action", "failed")
POPULATED: Final[dict[str, frozenset[str]]] = {
    "pending": frozenset(
        {"id", "conversation_id", "client_op_id", "effective_config", "started_at"}
    ),
    "running": frozenset({"submitted_inference_job_ids"}),
    "completed": frozenset({"iterations_used", "usage", "final_text", "completed_at"}),
    "requires_action": frozenset(
        {"iterations_used", "usage", "pending_tool_calls", "completed_at"}
    ),
    "failed": frozenset({"error", "completed_at"}),
}
"""What each status fills in; every one but the first adds to what `running` has."""

ADDED: Final = frozenset({"final_structured_output"})
"""Members of a run that the page does not have (contract section 11)."""
ADDED_USAGE: Final = frozenset(
    {"cache_read_tokens", "cache_write_tokens", "attempts_without_usage"}
)
FILLED: Final = frozenset({"iterations_used", "usage"})
"""Null in the example of a failed run, and always filled by us."""


@frozen
class Difference:
    """One member that is not as the example has it."""

    member: str
    found: Any
    documented: Any


def differences(found: dict[str, Any], example: dict[str, Any]) -> list[Difference]:
    """Where a run departs from an example, member by member, in the page's order.

    Left aside are only elided values, the ids of jobs (their number counts), and
    what a failed run fills in. Additions of ours that are not announced, and
    members in another order, are differences as well.
    """
    whole = example.keys() == COMPLETED.keys()
    known = COMPLETED.keys() | ADDED
    wrong = [
        Difference(name, _shown(name, found), example[name])
        for name in example
        if example[name] is not ELIDED and not _agrees(name, found, example)
    ]
    wrong += [Difference(name, found[name], ELIDED) for name in found.keys() - known]
    wrong += [Difference(name, None, ELIDED) for name in known - found.keys()]
    order = [name for name in found if name not in ADDED]
    if whole and order != list(example):
        wrong.append(Difference("the order of members", order, list(example)))
    return wrong


def _shown(name: str, found: dict[str, Any]) -> Any:
    value = found.get(name)
    if name == "usage" and isinstance(value, dict):
        return {key: count for key, count in value.items() if key not in ADDED_USAGE}
    return value


def _agrees(name: str, found: dict[str, Any], example: dict[str, Any]) -> bool:
    shown, documented = _shown(name, found), example[name]
    if name not in found:
        return False
    if name == "submitted_inference_job_ids":
        return len(shown) == len(documented)
    if name in FILLED and documented is None:
        return shown is not None
    return bool(shown == documented)
