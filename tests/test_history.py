"""Histories: what is legal, how calls are closed, how turns join, who may answer."""

from itertools import chain, combinations, permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentloop.core.catalog import RequestError
from agentloop.core.content import (
    Document,
    Message,
    Reasoning,
    Text,
    ToolResult,
    ToolUse,
    tool_results,
    tool_uses,
)
from agentloop.core.history import (
    Turn,
    check_nothing_pending,
    check_outputs,
    close,
    last_turn,
    problems,
    turns,
    unanswered,
    user_turn,
)
from tests import strategies as some

HI, OK = Text("hi"), Text("ok")


def user(*blocks: object) -> Message:
    """A message of the caller."""
    return Message("user", blocks)


def says(*blocks: object) -> Message:
    """A message of the model."""
    return Message("assistant", blocks)


def tool(*ids: str) -> Message:
    """Results of server calls."""
    return Message("tool", tuple(done(id_) for id_ in ids))


def call(id_: str, name: str = "ask") -> ToolUse:
    """A call with this id."""
    return ToolUse(id_, name, {})


def done(id_: str) -> ToolResult:
    """A result for this id."""
    return ToolResult(id_, (OK,))


# ---------------------------------------------------------------- legal or not

LEGAL = {
    "nothing": [],
    "a question": [user(HI)],
    "an answer": [user(HI), says(OK)],
    "open calls at the end": [user(HI), says(call("a"), call("b"))],
    "calls half answered at the end": [user(HI), says(call("a"), call("b")), tool("b")],
    "a server call": [user(HI), says(call("a")), tool("a"), says(OK)],
    "a client call": [user(HI), says(call("a")), user(done("a")), says(OK)],
    "a mixed turn": [
        user(HI),
        says(call("a"), call("b")),
        tool("a"),
        user(done("b"), HI),
        says(OK),
    ],
    "one id in two turns": [
        user(HI),
        says(call("a")),
        tool("a"),
        says(call("a")),
        tool("a"),
    ],
    "a cancelled turn and a new question": [
        user(HI),
        says(call("a")),
        tool("a"),
        user(HI),
    ],
    "thoughts before a call": [user(HI), says(Reasoning("hm", "sig"), call("a"))],
}
ILLEGAL = {
    "begins with the model": (
        [says(OK)],
        ["message 1: a conversation begins with a user message"],
    ),
    "begins with a result": (
        [tool("a")],
        [
            "message 1: a conversation begins with a user message",
            "message 1: a is not open",
        ],
    ),
    "empty": ([user()], ["message 1: has no content"]),
    "blank": ([user(HI), says(Text(" "))], ["message 2: has a blank text"]),
    "one id twice": (
        [user(HI), says(call("a"), call("a"))],
        ["message 2: uses one id for two calls"],
    ),
    "unanswered": (
        [user(HI), says(call("b"), call("a")), says(OK)],
        ["message 3: b unanswered", "message 3: a unanswered"],
    ),
    "answered twice": (
        [user(HI), says(call("a")), tool("a", "a")],
        ["message 3: a is not open"],
    ),
    "answered again later": (
        [user(HI), says(call("a")), tool("a"), user(done("a"))],
        ["message 4: a is not open"],
    ),
    "answered after the next turn": (
        [user(HI), says(call("a")), tool("a"), says(OK), tool("a")],
        ["message 5: a is not open"],
    ),
    "a stranger answered": (
        [user(HI), says(call("a")), tool("x", "a")],
        ["message 3: x is not open"],
    ),
    "text while calls are open": (
        [user(HI), says(call("a")), user(HI)],
        ["message 3: more than results while calls are open"],
    ),
    "a document while calls are open": (
        [
            user(HI),
            says(call("a"), call("b")),
            user(done("a"), Document("md", "n", "")),
        ],
        ["message 3: more than results while calls are open"],
    ),
    "calls of the caller": (
        [user(HI, call("a"))],
        ["message 1: has calls although it is no assistant message"],
    ),
    "results of the model": (
        [user(HI), says(done("a"))],
        ["message 2: has results although it is an assistant message"],
    ),
    "text of a tool": (
        [user(HI), says(call("a")), Message("tool", (done("a"), HI))],
        ["message 3: has more than results although it is a tool message"],
    ),
}


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_history_has_no_problems(name):
    """All that runs leave behind, open calls at the end included."""
    assert problems(LEGAL[name]) == []


@pytest.mark.parametrize("name", ILLEGAL)
def test_each_broken_rule_is_told_by_position(name):
    """The message number and what is wrong with it, in order."""
    history, found = ILLEGAL[name]
    assert problems(history) == found


@given(some.histories(), st.data())
def test_a_legal_history_without_one_result_is_not(history, data):
    """Whichever answer in the middle is lost, it is missed."""
    places = [
        (i, j)
        for i, message in enumerate(history[:-1])
        for j, _ in enumerate(message.content)
        if tool_results(message) and "assistant" in [m.role for m in history[i + 1 :]]
    ]
    if not places:
        return
    i, j = data.draw(st.sampled_from(places))
    content = history[i].content
    maimed = Message(history[i].role, (*content[:j], *content[j + 1 :]))
    assert problems([*history[:i], maimed, *history[i + 1 :]])


# ---------------------------------------------------------------- closing


@pytest.mark.parametrize("known", [(), ("a",), ("b",), ("a", "b", "c")])
@pytest.mark.parametrize("started", [(), ("a",), ("b", "c"), ("a", "b", "c")])
def test_a_closed_turn_is_answered_once_in_call_order(known, started):
    """Results are kept; what may have run is told from what did not."""
    uses = (call("a"), call("b"), call("c"))
    results = {id_: done(id_) for id_ in known}
    closed = close(uses, results, frozenset(started), "the run was cancelled")
    assert closed.role == "tool"
    assert problems([user(HI), says(*uses), closed, user(HI)]) == []
    for use, result in zip(uses, tool_results(closed), strict=True):
        id_ = use.tool_use_id
        assert result.tool_use_id == id_
        if id_ in known:
            assert result is results[id_]
            continue
        state = (
            "started and its outcome is unknown" if id_ in started else "not executed"
        )
        told = f"This call was {state}: the run was cancelled."
        assert (result.is_error, result.content) == (True, (Text(told),))


def test_a_reason_with_braces_is_told_as_it_is():
    """What a provider said is no template."""
    closed = close((call("a"),), {}, frozenset(), "{why} {0}")
    assert closed.content[0].content == (
        Text("This call was not executed: {why} {0}."),
    )


# ---------------------------------------------------------------- turns


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([], []),
        ([user(HI)], [("user", (HI,))]),
        ([user(HI), says(OK)], [("user", (HI,)), ("assistant", (OK,))]),
        ([user(HI), user(OK)], [("user", (HI, OK))]),
        ([says(HI), says(OK)], [("assistant", (HI, OK))]),
        (
            [user(HI), says(call("a")), tool("a"), user(HI)],
            [("user", (HI,)), ("assistant", (call("a"),)), ("user", (done("a"), HI))],
        ),
        (
            [
                user(HI),
                says(call("a"), call("b"), call("c")),
                tool("b"),
                user(done("c"), HI, done("a")),
                says(OK),
            ],
            [
                ("user", (HI,)),
                ("assistant", (call("a"), call("b"), call("c"))),
                ("user", (done("a"), done("b"), done("c"), HI)),
                ("assistant", (OK,)),
            ],
        ),
        (
            [user(HI), says(call("b")), says(call("a")), tool("a", "b")],
            [
                ("user", (HI,)),
                ("assistant", (call("b"), call("a"))),
                ("user", (done("b"), done("a"))),
            ],
        ),
    ],
)
def test_messages_join_to_alternating_turns(history, expected):
    """Results come first, in call order; all that follows is kept in its own."""
    assert list(turns(history)) == [Turn(role, content) for role, content in expected]


def test_a_result_without_a_call_is_not_lost():
    """The join hides nothing; whether it is legal is asked elsewhere."""
    assert user_turn([HI, done("x"), done("a")], ["a"]).content == (
        done("a"),
        done("x"),
        HI,
    )


@given(some.histories())
def test_turns_alternate_and_hold_everything(history):
    """No block is lost or doubled, and every turn answers the one before."""
    joined = list(turns(history))
    assert [turn.role for turn in joined] == [
        ("user", "assistant")[i % 2] for i in range(len(joined))
    ]
    blocks = [block for message in history for block in message.content]
    held = [block for turn in joined for block in turn.content]
    assert sorted(map(repr, held)) == sorted(map(repr, blocks))
    still_open = {use.tool_use_id for use in unanswered(history)}
    for said, heard in zip(joined[1::2], joined[2::2], strict=False):
        owed = still_open if heard is joined[-1] else set()
        asked = [use.tool_use_id for use in tool_uses(said)]
        told = [result.tool_use_id for result in tool_results(heard)]
        assert told == [id_ for id_ in asked if id_ not in owed]
        assert heard.content[: len(told)] == tool_results(heard)


# ---------------------------------------------------------------- what is open


def test_the_last_turn_is_the_last_thing_said_and_what_followed():
    """Everything after the model's last message belongs to it."""
    history = [user(HI), says(call("a")), tool("a"), says(OK), user(HI), user(OK)]
    assert last_turn(history) == (says(OK), (user(HI), user(OK)))
    with pytest.raises(LookupError, match="no assistant message"):
        last_turn([user(HI)])


@pytest.mark.parametrize(
    ("history", "open_ids"),
    [
        ([], []),
        ([user(HI)], []),
        ([user(HI), says(OK)], []),
        ([user(HI), says(call("a"), call("b"))], ["a", "b"]),
        ([user(HI), says(call("a"), call("b")), tool("a")], ["b"]),
        ([user(HI), says(call("a"), call("b")), tool("a"), user(done("b"))], []),
        ([user(HI), says(call("a")), tool("a"), says(call("a"))], ["a"]),
    ],
)
def test_open_calls_are_those_of_the_last_turn_without_a_result(history, open_ids):
    """In call order, and only of the model's last message."""
    assert [use.tool_use_id for use in unanswered(history)] == open_ids


@pytest.mark.parametrize("count", range(4))
def test_a_question_is_refused_while_the_caller_owes_answers(count):
    """The refusal lists the open ids; without any the question is taken."""
    ids = [f"t{i}" for i in range(count)]
    history = [user(HI), says(OK, *map(call, ids))]
    if not ids:
        check_nothing_pending(history)
        return
    with pytest.raises(RequestError) as caught:
        check_nothing_pending(history)
    assert caught.value.slug == "pending-tool-calls"
    assert caught.value.detail.endswith(f": {', '.join(ids)}")


# ---------------------------------------------------------------- answers


def is_server(name: str) -> bool:
    """Whether we answer calls of this name."""
    return name.startswith("docs-")


def refusal(history: list[Message], ids: list[str]) -> tuple[str, str] | None:
    """Slug and detail with which answers are refused, if they are."""
    try:
        check_outputs("c1", history, ids, is_server)
    except RequestError as error:
        return error.slug, error.detail
    return None


def pausing(count: int) -> list[Message]:
    """A conversation that waits for this many answers, between server calls."""
    calls = [call("s0", "docs-a"), *(call(f"t{i}") for i in range(count))]
    return [user(HI), says(OK, *calls, call("s1", "docs-b")), tool("s0", "s1")]


POOL = ("t0", "t1", "t2", "t3")


@pytest.mark.parametrize("count", range(1, 5))
def test_exactly_the_pending_calls_can_be_answered(count):
    """Of all lists of up to four ids, the permutations of the pending set."""
    history = pausing(count)
    pending = POOL[:count]
    for size in range(1, 5):
        for ids in product(pending, repeat=size):
            missing = [id_ for id_ in pending if id_ not in ids]
            twice = [id_ for id_ in pending if ids.count(id_) > 1]
            clauses = []
            if missing:
                clauses.append(f"missing: {', '.join(missing)}")
            if twice:
                clauses.append(f"unexpected: {', '.join(twice)}")
            told = (
                "tool_outputs do not match the pending client tool calls — "
                + "; ".join(clauses)
            )
            wanted = ("incomplete-tool-outputs", told) if clauses else None
            assert refusal(history, list(ids)) == wanted


SUBSETS = list(
    chain.from_iterable(combinations(["t0", "s0", "x", "y"], n) for n in range(1, 5))
)


@pytest.mark.parametrize("ids", SUBSETS)
@pytest.mark.parametrize("turned", [False, True])
def test_of_several_refusals_the_first_in_order_is_told(ids, turned):
    """Unknown ids come before server calls, and those before incomplete sets."""
    given_ids = list(reversed(ids)) if turned else list(ids)
    slug, detail = refusal(pausing(2), given_ids)
    unknown = [id_ for id_ in given_ids if id_ in {"x", "y"}]
    if unknown:
        assert slug == "unknown-tool-use-id"
        assert detail.endswith(f": {', '.join(unknown)}")
    elif "s0" in ids:
        assert slug == "not-a-client-tool-call"
        assert detail.endswith(": s0")
    else:
        assert (slug, detail.endswith("missing: t1")) == (
            "incomplete-tool-outputs",
            True,
        )


@pytest.mark.parametrize("ids", list(permutations(["s1", "t1", "s0"])))
def test_server_calls_are_listed_in_call_order(ids):
    """Whatever the order of the payload, and only those we answer ourselves."""
    slug, detail = refusal(pausing(2), list(ids))
    assert slug == "not-a-client-tool-call"
    assert detail.endswith(": s0, s1")


def test_before_the_model_spoke_nothing_can_be_answered():
    """The refusal names the conversation, whatever the ids."""
    told = "cannot submit tool_outputs: conversation c1 has no assistant turn yet"
    assert refusal([], ["x"]) == ("no-assistant-turn", told)
    assert refusal([user(HI)], []) == ("no-assistant-turn", told)


def test_answers_to_a_turn_without_calls_are_unknown():
    """A completed run left nothing to answer."""
    history = [user(HI), says(call("a")), user(done("a")), says(OK)]
    assert refusal(history, ["a"])[0] == "unknown-tool-use-id"


def test_an_answered_call_is_unexpected():
    """An id that was pending once, and is no more, is named as such."""
    history = [user(HI), says(call("a"), call("b")), user(done("a"))]
    told = "tool_outputs do not match the pending client tool calls — unexpected: a"
    assert refusal(history, ["b", "a"]) == ("incomplete-tool-outputs", told)


def test_unexpected_ids_are_listed_in_call_order():
    """Answered ones and repeated ones alike."""
    calls = [call("a"), call("b"), call("c")]
    history = [user(HI), says(*calls), user(done("b"))]
    slug, detail = refusal(history, ["c", "c", "b", "a", "a"])
    assert (slug, detail.endswith("— unexpected: a, b, c")) == (
        "incomplete-tool-outputs",
        True,
    )


def test_unknown_ids_are_listed_once_in_the_callers_order():
    """They have no call order of their own."""
    told = "tool_use_id(s) not found on latest assistant turn: y, x"
    assert refusal(pausing(1), ["y", "t0", "x", "y"]) == ("unknown-tool-use-id", told)


def test_no_answers_at_all_miss_every_pending_call():
    """An empty list is judged like any other."""
    slug, detail = refusal(pausing(2), [])
    assert (slug, detail.endswith("— missing: t0, t1")) == (
        "incomplete-tool-outputs",
        True,
    )
