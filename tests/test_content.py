"""Blocks and messages: values, and the questions they answer."""

import pytest
from attrs.exceptions import FrozenInstanceError

from agentloop.core.content import (
    Image,
    Message,
    Opaque,
    Reasoning,
    Text,
    ToolResult,
    ToolUse,
    is_blank,
    texts,
    tool_results,
    tool_uses,
    without_blanks,
)

USE, OTHER = ToolUse("a", "docs-search", {}), ToolUse("b", "ask", {"x": 1})
DONE = ToolResult("a", (Text("inside"),))


def test_blocks_are_found_in_their_order():
    """Calls, results and texts come out as they stand, and nothing from within."""
    message = Message("assistant", (Text("1"), USE, DONE, Text("2"), OTHER))
    assert tool_uses(message) == (USE, OTHER)
    assert tool_results(message) == (DONE,)
    assert list(texts(message)) == ["1", "2"]


def test_an_empty_message_has_nothing():
    """Nothing is found where nothing is."""
    message = Message("user", ())
    assert (tool_uses(message), tool_results(message)) == ((), ())
    assert list(texts(message)) == []


@pytest.mark.parametrize(
    ("block", "blank"),
    [
        (Text(""), True),
        (Text(" \t\r\n"), True),
        (Text("\u00a0\u2003\u3000"), True),
        (Text("\x1c\x85"), True),
        (Text("."), False),
        (Text("\u200b"), False),
        (Text(" a "), False),
        (Reasoning(""), False),
        (Image("png", ""), False),
        (Opaque("bedrock", {}), False),
        (ToolResult("a", ()), False),
    ],
)
def test_only_texts_of_white_space_are_blank(block, blank):
    """Any Unicode white space counts, a zero-width space is a character."""
    assert is_blank(block) is blank
    said = (Text("1"), block, USE)
    assert without_blanks(said) == ((Text("1"), USE) if blank else said)


def test_content_without_blanks_is_the_very_same():
    """Nothing is copied where nothing is taken out."""
    said = (Text("1"), USE)
    assert without_blanks(said) is said


def test_a_result_is_no_error_unless_it_says_so():
    """The flag is off by default."""
    assert ToolResult("a", ()).is_error is False


def test_values_are_frozen():
    """A message can be shared, because nobody can change it."""
    with pytest.raises(FrozenInstanceError):
        Message("user", ()).role = "tool"
