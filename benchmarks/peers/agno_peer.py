"""agno: an Agent over a model of our own."""

import json

from agno.agent import Agent
from agno.models.base import Model
from agno.models.response import ModelResponse
from common import ANSWER, QUESTION, measure


class Lean(Model):
    """Answers at once."""

    def __init__(self, count):
        super().__init__(id="lean", name="lean", provider="lean")
        self.count = count

    def _reply(self):
        if self.count.ask():
            return ModelResponse(role="assistant", content=ANSWER)
        use = {
            "id": f"t{self.count.model}",
            "type": "function",
            "function": {
                "name": "free_slots",
                "arguments": json.dumps(self.count.arguments()),
            },
        }
        return ModelResponse(role="assistant", content="Let me look.", tool_calls=[use])

    def invoke(self, *args, **kwargs):
        """One answer."""
        return self._reply()

    async def ainvoke(self, *args, **kwargs):
        """One answer."""
        return self._reply()

    def invoke_stream(self, *args, **kwargs):
        """Not asked for."""
        raise NotImplementedError

    def ainvoke_stream(self, *args, **kwargs):
        """Not asked for."""
        raise NotImplementedError

    def _parse_provider_response(self, response, **kwargs):
        return response

    def _parse_provider_response_delta(self, response, **kwargs):
        return response


def prepare(count):
    """One run on a fresh agent."""

    async def free_slots(day: str, room: int) -> str:
        """Free slots of a room on a day."""
        return count.answer(day, room)

    agent = Agent(model=Lean(count), tools=[free_slots], telemetry=False)
    return lambda: agent.arun(QUESTION)


measure("agno", prepare)
