"""openai-agents: Runner.run over a model of our own."""

import json

from agents import (
    Agent,
    Model,
    ModelResponse,
    RunConfig,
    Runner,
    Usage,
    function_tool,
    set_tracing_disabled,
)
from common import ANSWER, QUESTION, measure
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)

set_tracing_disabled(disabled=True)


class Lean(Model):
    """Answers at once."""

    def __init__(self, count):
        self.count = count

    async def get_response(self, *args, **kwargs):
        """One answer."""
        last = self.count.ask()
        number = self.count.model
        text = ResponseOutputText(
            text=ANSWER if last else "Let me look.", type="output_text", annotations=[]
        )
        output = [
            ResponseOutputMessage(
                id=f"m{number}",
                content=[text],
                role="assistant",
                status="completed",
                type="message",
            )
        ]
        if not last:
            output.append(
                ResponseFunctionToolCall(
                    call_id=f"t{number}",
                    name="free_slots",
                    arguments=json.dumps(self.count.arguments()),
                    type="function_call",
                )
            )
        return ModelResponse(output=output, usage=Usage(), response_id=None)

    def stream_response(self, *args, **kwargs):
        """Not asked for."""
        raise NotImplementedError


def prepare(count):
    """One run on a fresh agent."""

    @function_tool
    async def free_slots(day: str, room: int) -> str:
        """Free slots of a room on a day."""
        return count.answer(day, room)

    agent = Agent(name="lean", model=Lean(count), tools=[free_slots])
    config = RunConfig(tracing_disabled=True)
    turns = count.turns + 1
    return lambda: Runner.run(agent, QUESTION, max_turns=turns, run_config=config)


measure("openai-agents", prepare)
