"""pydantic-ai: an Agent over a FunctionModel."""

from common import ANSWER, QUESTION, measure
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.usage import UsageLimits


def prepare(count):
    """One run on a fresh agent."""

    async def model(messages, info):
        if count.ask():
            return ModelResponse(parts=[TextPart(ANSWER)])
        use = ToolCallPart(
            "free_slots", count.arguments(), tool_call_id=f"t{count.model}"
        )
        return ModelResponse(parts=[TextPart("Let me look."), use])

    agent = Agent(FunctionModel(model))

    @agent.tool_plain
    async def free_slots(day: str, room: int) -> str:
        """Free slots of a room on a day."""
        return count.answer(day, room)

    limits = UsageLimits(request_limit=None)
    return lambda: agent.run(QUESTION, usage_limits=limits)


measure("pydantic-ai-slim", prepare)
