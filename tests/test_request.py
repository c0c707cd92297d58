"""Requests: what opens a run, and payloads that say nothing."""

import pytest
from hypothesis import given

from agentloop.core.catalog import RequestError
from agentloop.core.content import Document, Image, Message, Text, ToolResult
from agentloop.core.request import ToolOutputs, UserMessage, check_payload, opening
from tests import strategies as some

HELLO = Text("Is room 3 free?")
PICTURE = Image("png", "iVBORw0=")
PAPER = Document("pdf", "rules", "JVBERi0=")
DONE = ToolResult("t1", ())


@pytest.mark.parametrize(
    ("payload", "content"),
    [
        (UserMessage((HELLO, PICTURE)), (HELLO, PICTURE)),
        (ToolOutputs((DONE,)), (DONE,)),
    ],
)
def test_either_payload_opens_a_run_as_the_user(payload, content):
    """A user turn and answers to calls both become the first message."""
    assert opening(payload) == Message("user", content)


@given(some.payloads())
def test_an_opening_holds_what_the_payload_held(payload):
    """Nothing is added, dropped or reordered."""
    held = payload.content if isinstance(payload, UserMessage) else payload.outputs
    assert opening(payload).content == held


@pytest.mark.parametrize(
    "payload",
    [
        UserMessage((HELLO,)),
        UserMessage((PICTURE,)),
        UserMessage((PICTURE, HELLO)),
        UserMessage((PAPER, HELLO)),
        UserMessage((Text("\u200b"),)),
        ToolOutputs((DONE,)),
        ToolOutputs((DONE, DONE)),
        ToolOutputs((ToolResult("t1", (Text(""),), True),)),
    ],
)
def test_a_payload_that_says_something_is_taken(payload):
    """Who answers which call is not judged here."""
    check_payload(payload)


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (UserMessage(()), "$.payload.content_blocks must not be empty"),
        (UserMessage((Text(""),)), "$.payload.text must not be blank"),
        (UserMessage((HELLO, Text(" \n"))), "$.payload.text must not be blank"),
        (UserMessage((PAPER,)), "$.payload: a document needs a text beside it"),
        (UserMessage((PAPER, PICTURE)), "$.payload: a document needs a text beside it"),
        (ToolOutputs(()), "$.payload.outputs must not be empty"),
    ],
)
def test_a_payload_that_says_nothing_is_refused_by_path(payload, problem):
    """Empty lists, blank texts and documents without a word about them."""
    with pytest.raises(RequestError) as caught:
        check_payload(payload)
    assert (caught.value.slug, caught.value.detail) == ("invalid-request", problem)
