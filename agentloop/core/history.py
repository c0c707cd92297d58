"""Rules on histories: what is legal, how open calls are closed, how turns join.

A stored history is never edited. What a run leaves is made whole before it is
stored (`close`), what a provider sees is derived from it (`turns`), and what a
caller may answer is read from its last assistant turn (`check_outputs`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from attrs import frozen

from agentloop.core.catalog import RequestError
from agentloop.core.content import (
    Block,
    Message,
    Text,
    ToolResult,
    ToolUse,
    is_blank,
    tool_results,
    tool_uses,
)

NOT_EXECUTED = "This call was not executed: {why}."
OUTCOME_UNKNOWN = "This call was started and its outcome is unknown: {why}."


@frozen
class Turn:
    """One turn as a provider counts them: user and assistant alternate."""

    role: Literal["user", "assistant"]
    content: tuple[Block, ...]


def problems(messages: Sequence[Message]) -> list[str]:
    """What is wrong with a history, by position; empty when it is legal.

    Legal means: it begins with a user message; no message is empty or holds a
    blank text; a tool message holds results alone; ids are unique within an
    assistant message; each of its calls is answered exactly once before anything
    else is said, and nothing else is answered. The calls of the last assistant
    message may still be open.
    """
    found: list[str] = []
    if messages and messages[0].role != "user":
        found.append("message 1: a conversation begins with a user message")
    open_ids: dict[str, None] = {}  # a set in call order
    for number, message in enumerate(messages, start=1):
        found.extend(f"message {number}: {text}" for text in _own_problems(message))
        if message.role == "assistant":
            found.extend(f"message {number}: {id_} unanswered" for id_ in open_ids)
            open_ids = dict.fromkeys(use.tool_use_id for use in tool_uses(message))
            continue
        for result in tool_results(message):
            if result.tool_use_id not in open_ids:
                found.append(f"message {number}: {result.tool_use_id} is not open")
            open_ids.pop(result.tool_use_id, None)
        if open_ids and not _only_results(message):
            found.append(f"message {number}: more than results while calls are open")
    return found


def _own_problems(message: Message) -> Iterator[str]:
    if not message.content:
        yield "has no content"
    if any(is_blank(block) for block in message.content):
        yield "has a blank text"
    ids = [use.tool_use_id for use in tool_uses(message)]
    if len(ids) != len(set(ids)):
        yield "uses one id for two calls"
    if ids and message.role != "assistant":
        yield "has calls although it is no assistant message"
    if message.role == "assistant" and tool_results(message):
        yield "has results although it is an assistant message"
    if message.role == "tool" and not _only_results(message):
        yield "has more than results although it is a tool message"


def _only_results(message: Message) -> bool:
    return all(isinstance(block, ToolResult) for block in message.content)


def close(
    uses: Iterable[ToolUse],
    results: Mapping[str, ToolResult],
    started: frozenset[str],
    why: str,
) -> Message:
    """The `tool` message that answers every call of a turn that ends early.

    Known results are kept; a call in `started` is told apart from one that never
    ran, because its effects may have happened.
    """
    return Message(
        "tool",
        tuple(
            results.get(use.tool_use_id)
            or error_result(
                use.tool_use_id,
                OUTCOME_UNKNOWN if use.tool_use_id in started else NOT_EXECUTED,
                why,
            )
            for use in uses
        ),
    )


def error_result(tool_use_id: str, template: str, why: str) -> ToolResult:
    """An `is_error` result with one sentence for the model to read."""
    return ToolResult(tool_use_id, (Text(template.format(why=why)),), is_error=True)


def turns(messages: Iterable[Message]) -> Iterator[Turn]:
    """The history as alternating turns, with results in call order.

    Server results, client results and a following user text land in the one user
    turn after their calls, results first (contract section 11, "Mixed turns").
    """
    calls: tuple[str, ...] = ()
    said: list[Block] = []
    heard: list[Block] = []
    for message in messages:
        if message.role == "assistant":
            if heard:
                yield user_turn(heard, calls)
                heard, said = [], []
            said.extend(message.content)
            calls = tuple(b.tool_use_id for b in said if isinstance(b, ToolUse))
        else:
            if said:
                yield Turn("assistant", tuple(said))
                said = []
            heard.extend(message.content)
    if said:
        yield Turn("assistant", tuple(said))
    if heard:
        yield user_turn(heard, calls)


def user_turn(blocks: Iterable[Block], calls: Sequence[str]) -> Turn:
    """One user turn: the results of `calls` in call order, then all the rest."""
    results: dict[str, ToolResult] = {}
    rest: list[Block] = []
    for block in blocks:
        if isinstance(block, ToolResult):
            results[block.tool_use_id] = block
        else:
            rest.append(block)
    ordered = [results.pop(id_) for id_ in calls if id_ in results]
    return Turn("user", (*ordered, *results.values(), *rest))


def last_turn(messages: Sequence[Message]) -> tuple[Message, tuple[Message, ...]]:
    """The last assistant message and everything after it.

    Raises:
        LookupError: the model never spoke.
    """
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "assistant":
            return messages[index], tuple(messages[index + 1 :])
    raise LookupError("no assistant message")


def unanswered(messages: Sequence[Message]) -> tuple[ToolUse, ...]:
    """The calls of the last assistant message that nobody has answered."""
    try:
        said, after = last_turn(messages)
    except LookupError:
        return ()
    done = {r.tool_use_id for message in after for r in tool_results(message)}
    return tuple(use for use in tool_uses(said) if use.tool_use_id not in done)


def check_outputs(
    conversation_id: str,
    messages: Sequence[Message],
    ids: Sequence[str],
    is_server_call: Callable[[str], bool],
) -> None:
    """Check the ids of a `tool_outputs` payload (contract section 5, in order).

    Args:
        conversation_id: named in the refusal.
        messages: at least everything from the last assistant message on.
        ids: the answered ids as the caller sent them.
        is_server_call: tells from a wire name whether we answer the call.

    Raises:
        RequestError: the first of the four documented refusals that applies.
    """
    try:
        said, _ = last_turn(messages)
    except LookupError:
        raise RequestError("no-assistant-turn", id=conversation_id) from None
    names = {use.tool_use_id: use.name for use in tool_uses(said)}
    given = Counter(ids)
    if strange := [id_ for id_ in given if id_ not in names]:
        raise RequestError("unknown-tool-use-id", ids=_listed(strange))
    order = [id_ for id_ in names if id_ in given]
    if ours := [id_ for id_ in order if is_server_call(names[id_])]:
        raise RequestError("not-a-client-tool-call", ids=_listed(ours))
    pending = [use.tool_use_id for use in unanswered(messages)]
    missing = [id_ for id_ in pending if id_ not in given]
    unexpected = [id_ for id_ in order if given[id_] > 1 or id_ not in pending]
    clauses = [
        f"{title}: {_listed(some)}"
        for title, some in (("missing", missing), ("unexpected", unexpected))
        if some
    ]
    if clauses:
        raise RequestError("incomplete-tool-outputs", clauses="; ".join(clauses))


def check_nothing_pending(messages: Sequence[Message]) -> None:
    """Refuse a user message while the conversation waits for client results.

    Raises:
        RequestError: `pending-tool-calls`, listing the open ids.
    """
    if pending := unanswered(messages):
        ids = _listed([use.tool_use_id for use in pending])
        raise RequestError("pending-tool-calls", ids=ids)


def _listed(ids: Iterable[str]) -> str:
    return ", ".join(ids)
