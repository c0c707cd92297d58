"""What one step of each room costs: step, encode, decode, checkpoint, validate.

The conversations are those of the tests.
"""

import json

import pytest

from agentloop.backends.bedrock.codec import Conversation, decode
from agentloop.core.content import Text
from agentloop.core.machine import next_command, step
from agentloop.core.phases import ToolReturned
from agentloop.ports import ToolCall
from agentloop.schema import compile_schema
from agentloop.stores.memory import MemoryStore
from agentloop.tools.functions import FunctionTools
from agentloop.wire import message_from, message_text
from agentloop.wire.checkpoint import header_text
from benchmarks import server
from benchmarks.workload import SCOPE, Bench, drive_to_end, free_slots
from tests import bedrock_cases as bedrock
from tests import samples

ARGUMENTS = {"day": "Friday", "room": 3}
TURN = (
    bedrock.said("Let me look.", bedrock.use(day="Fri")),
    bedrock.results(bedrock.result()),
)


def test_step_of_a_model_reply(benchmark):
    """A reply with one call."""

    def prepared():
        state = samples.begin()
        uses = samples.uses(samples.SEARCH)
        return (state, samples.replied(state, uses, stop="tool_use")), {}

    benchmark.pedantic(step, setup=prepared, rounds=2000)


def test_step_of_a_tool_result(benchmark):
    """The result that closes a turn."""
    event = ToolReturned("1.0", (Text("10:00"),))
    benchmark.pedantic(
        step,
        setup=lambda: ((samples.calls(samples.begin(), samples.SEARCH), event), {}),
        rounds=2000,
    )


def test_next_command(benchmark):
    """What is to be done in a state."""
    benchmark(next_command, samples.begin())


@pytest.mark.parametrize("turns", [8, 128])
def test_encoding_the_next_request(benchmark, turns):
    """One more turn on a session that has encoded the others."""
    opening = bedrock.user("Which slots?")
    warm = bedrock.infer(opening, *TURN * (turns - 1))
    due = bedrock.infer(opening, *TURN * turns)

    def prepared():
        conversation = Conversation(bedrock.setup(), bedrock.model())
        conversation.body(warm, "job-1")
        return (conversation, due), {}

    benchmark.pedantic(
        lambda conversation, command: conversation.body(command, "job-2"),
        setup=prepared,
        rounds=200,
    )


def test_decoding_a_reply(benchmark):
    """A reply of Bedrock with one call."""
    body = server.reply(b"", 2).partition(b"\r\n\r\n")[2]
    benchmark(decode, json.loads(body), str)


def test_storing_a_message(benchmark):
    """A message to the line that is kept."""
    benchmark(message_text, TURN[0])


def test_reading_a_message(benchmark):
    """A kept line to the message, with everything checked."""
    benchmark(message_from, message_text(TURN[0]))


def test_writing_a_header(benchmark):
    """The small text of a checkpoint."""
    benchmark(header_text, samples.calls(samples.begin(), samples.SEARCH))


def test_a_run_of_32_turns_in_memory(benchmark):
    """All rooms together."""
    bench = Bench(32, MemoryStore())
    benchmark.pedantic(
        drive_to_end, setup=lambda: ((bench.desk(kept=True),), {}), rounds=50
    )


def test_validating_arguments(benchmark):
    """Arguments against a compiled schema."""
    schema = FunctionTools([free_slots]).declared()[0].spec.input_schema
    benchmark(compile_schema(schema).check, ARGUMENTS)


def test_calling_a_function(benchmark):
    """A validated call of a Python function, from arguments to content."""
    tools = FunctionTools([free_slots])
    call = ToolCall(
        run_id="r",
        scope=SCOPE,
        key="1.0",
        tool_use_id="t",
        name="free_slots",
        arguments=ARGUMENTS,
    )
    benchmark(tools.call, call)
