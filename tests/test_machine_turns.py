"""What the model may say, under every stop reason: the whole table."""

import pytest

from agentloop.core.content import Image, Opaque, Reasoning, Text, ToolUse, tool_uses
from agentloop.core.history import problems, unanswered
from agentloop.core.machine import next_command
from agentloop.core.phases import (
    CallingTools,
    Completed,
    Failed,
    Finished,
    LoopState,
    RequiresAction,
)
from tests.samples import APPROVE, ASK, HELLO, LOST, READ, SEARCH, begin, reply, uses
from tests.strategies import STOPS

THOUGHT = Reasoning("the calendar says so", "c2lnbmF0dXJl")
BLANK = Text(" \n\t")
SHAPES = {
    "text": (HELLO,),
    "two texts": (HELLO, Text("More.")),
    "blank and text": (BLANK, HELLO),
    "reasoning and text": (THOUGHT, HELLO),
    "opaque and text": (Opaque("bedrock", {"x": 1}), HELLO),
    "blank": (BLANK,),
    "empty": (),
    "reasoning only": (THOUGHT,),
    "opaque only": (Opaque("bedrock", {"x": 1}),),
    "image only": (Image("png", "iVBORw0="),),
    "duplicate ids": (ToolUse("t", SEARCH, {}), ToolUse("t", READ, {})),
    "server call": uses(SEARCH),
    "text and call": (HELLO, *uses(SEARCH)),
    "blank and call": (BLANK, *uses(SEARCH)),
    "reasoning and call": (THOUGHT, *uses(SEARCH)),
    "parallel": uses(SEARCH, READ),
    "mixed": uses(SEARCH, ASK),
    "client call": uses(APPROVE),
    "two client calls": uses(ASK, APPROVE),
    "unresolved name": uses(LOST),
    "server and unresolved": uses(SEARCH, LOST),
    "client and unresolved": uses(ASK, LOST),
}

OUTCOMES = {
    "C": "completed",
    "T": "calling tools",
    "A": "requires action",
    "U": "AgentLoopUnknownToolAlias",
    "M": "AgentLoopMalformedModelOutput",
    "O": "AgentLoopOutputTruncated",
    "B": "AgentLoopContentBlocked",
    "W": "AgentLoopContextWindowExceeded",
}
# One letter for each stop reason, in the order of this line:
COLUMNS = "end_turn stop_sequence pause unknown tool_use max_tokens content_blocked"
COLUMNS = f"{COLUMNS} context_window malformed".split()
TABLE = {
    "text": "C C C C M O B W M",
    "two texts": "C C C C M O B W M",
    "blank and text": "C C C C M O B W M",
    "reasoning and text": "C C C C M O B W M",
    "opaque and text": "C C C C M O B W M",
    "blank": "M M M M M O B W M",
    "empty": "M M M M M O B W M",
    "reasoning only": "M M M M M O B W M",
    "opaque only": "M M M M M O B W M",
    "image only": "M M M M M O B W M",
    "duplicate ids": "M M M M M O B W M",
    "server call": "T T T T T O B W M",
    "text and call": "T T T T T O B W M",
    "blank and call": "T T T T T O B W M",
    "reasoning and call": "T T T T T O B W M",
    "parallel": "T T T T T O B W M",
    "mixed": "T T T T T O B W M",
    "client call": "A A A A A O B W M",
    "two client calls": "A A A A A O B W M",
    "unresolved name": "U U U U U O B W M",
    "server and unresolved": "U U U U U O B W M",
    "client and unresolved": "U U U U U O B W M",
}
CELLS = [
    pytest.param(shape, stop, OUTCOMES[letter], id=f"{shape}-{stop}")
    for shape, letters in TABLE.items()
    for stop, letter in zip(COLUMNS, letters.split(), strict=True)
]
NOT_KEPT = {
    "blank",
    "empty",
    "reasoning only",
    "opaque only",
    "image only",
    "duplicate ids",
}
"""Shapes that no history could hold."""


def outcome_of(state: LoopState) -> str:
    """What became of a run, as the table calls it."""
    match state.phase:
        case CallingTools():
            return "calling tools"
        case Finished(Completed()):
            return "completed"
        case Finished(RequiresAction()):
            return "requires action"
        case Finished(Failed(type_)):
            return type_
        case other:
            return f"unexpected {other}"


def test_the_table_is_whole():
    """Every shape and every stop reason has its cell."""
    assert set(TABLE) == set(SHAPES)
    assert set(COLUMNS) == set(STOPS)
    assert len(CELLS) == len(SHAPES) * len(STOPS)


@pytest.mark.parametrize(("shape", "stop", "expected"), CELLS)
def test_content_decides_and_the_stop_reason_hints(shape, stop, expected):
    """Each shape under each stop reason leads where the table says."""
    assert outcome_of(reply(begin(), *SHAPES[shape], stop=stop)) == expected


@pytest.mark.parametrize(("shape", "stop", "expected"), CELLS)
def test_what_is_kept_of_a_turn_is_legal(shape, stop, expected):
    """Blank texts are gone, and no call stays open unless somebody answers it."""
    state = reply(begin(), *SHAPES[shape], stop=stop)
    log = list(state.log)
    assert problems(log) == []
    spoken = [message for message in log if message.role == "assistant"]
    assert len(spoken) == (0 if shape in NOT_KEPT else 1)
    kept = [block for block in SHAPES[shape] if block != BLANK]
    assert [block for message in spoken for block in message.content] == (
        [] if shape in NOT_KEPT else kept
    )
    open_calls = {
        "calling tools": tool_uses(spoken[0]) if spoken else (),
        "requires action": tool_uses(spoken[0]) if spoken else (),
    }
    assert unanswered(log) == open_calls.get(expected, ())


@pytest.mark.parametrize(("shape", "stop", "expected"), CELLS)
def test_only_a_turn_that_counts_is_carried_out(shape, stop, expected):
    """Calls of a void turn are in no command."""
    command = next_command(reply(begin(), *SHAPES[shape], stop=stop))
    called = [call.use.name for call in getattr(command, "window", ())]
    wanted = [use.name for use in SHAPES[shape] if isinstance(use, ToolUse)]
    wanted = [name for name in wanted if name in {SEARCH, READ}]
    assert called == (wanted if expected == "calling tools" else [])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("unresolved name", "inferring"),
        ("server and unresolved", "calling tools"),
        ("client and unresolved", "requires action"),
    ],
)
def test_a_host_may_have_the_model_told_of_lost_names(shape, expected):
    """With that policy the rest of the turn goes on as if the name were not there."""
    state = reply(begin(on_unresolved_call="tell_model"), *SHAPES[shape])
    found = "inferring" if state.iterations == 2 else outcome_of(state)
    assert found == expected
    assert problems(list(state.log)) == []
