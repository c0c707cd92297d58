"""strands: an Agent over a model of our own."""

import json

from common import ANSWER, QUESTION, measure
from strands import Agent, tool
from strands.models import Model


class Lean(Model):
    """Streams its answer in as few events as the protocol has."""

    def __init__(self, count):
        self.count = count

    def update_config(self, **config):
        """There is none."""

    def get_config(self):
        """There is none."""
        return {}

    async def structured_output(self, output_model, prompt, **kwargs):
        """Not asked for."""
        raise NotImplementedError
        yield

    async def stream(self, messages, tool_specs=None, system_prompt=None, **kwargs):
        """One answer."""
        last = self.count.ask()
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockStart": {"start": {}}}
        text = ANSWER if last else "Let me look."
        yield {"contentBlockDelta": {"delta": {"text": text}}}
        yield {"contentBlockStop": {}}
        if not last:
            use = {"toolUseId": f"t{self.count.model}", "name": "free_slots"}
            yield {"contentBlockStart": {"start": {"toolUse": use}}}
            arguments = json.dumps(self.count.arguments())
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": arguments}}}}
            yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn" if last else "tool_use"}}


def prepare(count):
    """One run on a fresh agent."""

    @tool
    async def free_slots(day: str, room: int) -> str:
        """Free slots of a room on a day."""
        return count.answer(day, room)

    agent = Agent(model=Lean(count), tools=[free_slots], callback_handler=None)
    return lambda: agent.invoke_async(QUESTION)


measure("strands-agents", prepare)
