"""Bodies are what botocore would write, and handing them over changes nothing else."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agentloop.backends.bedrock.codec import Conversation
from agentloop.backends.bedrock.handover import Errand, serialised
from agentloop.core.config import ToolChoice
from agentloop.core.content import Message
from agentloop.core.phases import Infer, Log
from agentloop.ports import SessionSetup
from agentloop.testing.fake_bedrock import first_violation
from agentloop.testing.fake_bedrock.client import bedrock_client
from tests import bedrock_cases as cases

EXAMPLES = int(os.environ.get("AGENTLOOP_EQUALITY_EXAMPLES", "300"))


@pytest.fixture(scope="module", name="client")
def _client() -> Iterator[Any]:
    """A client that never calls anybody."""
    client = bedrock_client("http://127.0.0.1:9")
    yield client
    client.close()


@settings(max_examples=EXAMPLES)
@given(
    setup=cases.setups(),
    log=cases.messages(),
    model_id=st.sampled_from(cases.FAMILIES),
    options=cases.options(),
    choice=cases.tool_choices(),
)
def test_equality(
    client: Any,
    setup: SessionSetup,
    log: list[Message],
    model_id: str,
    options: Any,
    choice: ToolChoice,
) -> None:
    """Any conversation is legal by every rule we know, and botocore writes it so."""
    assume(cases.within_limits([*setup.history, *log]))
    conversation = Conversation(setup, cases.model(model_id, options))
    body = conversation.body(Infer(1, 1, 0.0, 0.0, choice, Log(*log)), "job-1")
    errand = Errand(operation="ConverseStream", model_id=model_id, body=body)
    assert serialised(client, errand) == body
    assert first_violation(model_id, json.loads(body)) is None
