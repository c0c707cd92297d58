"""google-adk: a Runner in memory over a model of our own."""

from common import ANSWER, QUESTION, measure
from google.adk.agents import LlmAgent, RunConfig
from google.adk.models import BaseLlm, LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types


class Lean(BaseLlm):
    """Answers at once."""

    model: str = "lean"
    count: object

    async def generate_content_async(self, llm_request, stream=False):
        """One answer."""
        if self.count.ask():
            parts = [types.Part(text=ANSWER)]
        else:
            use = types.FunctionCall(
                id=f"t{self.count.model}",
                name="free_slots",
                args=self.count.arguments(),
            )
            parts = [types.Part(text="Let me look."), types.Part(function_call=use)]
        yield LlmResponse(content=types.Content(role="model", parts=parts))


def prepare(count):
    """One run on a fresh agent and session."""

    async def free_slots(day: str, room: int) -> str:
        """Free slots of a room on a day."""
        return count.answer(day, room)

    agent = LlmAgent(name="lean", model=Lean(count=count), tools=[free_slots])
    runner = InMemoryRunner(agent=agent, app_name="lean")
    asked = types.Content(role="user", parts=[types.Part(text=QUESTION)])

    async def work():
        service = runner.session_service
        session = await service.create_session(app_name="lean", user_id="u")
        async for _ in runner.run_async(
            user_id="u",
            session_id=session.id,
            new_message=asked,
            run_config=RunConfig(max_llm_calls=0),
        ):
            pass

    return work


measure("google-adk", prepare)
