"""langchain: create_agent over a chat model of our own."""

from common import ANSWER, QUESTION, measure
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool


class Model(BaseChatModel):
    """Answers at once."""

    count: object

    @property
    def _llm_type(self):
        return "lean"

    def bind_tools(self, tools, **kwargs):
        """The tools are known."""
        return self

    def _reply(self):
        if self.count.ask():
            return AIMessage(ANSWER)
        use = {
            "name": "free_slots",
            "args": self.count.arguments(),
            "id": f"t{self.count.model}",
        }
        return AIMessage("Let me look.", tool_calls=[use])

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=self._reply())])

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        return self._generate(messages)


def prepare(count):
    """One run on a fresh agent."""

    @tool
    async def free_slots(day: str, room: int) -> str:
        """Free slots of a room on a day."""
        return count.answer(day, room)

    agent = create_agent(Model(count=count), [free_slots])
    asked = {"messages": [{"role": "user", "content": QUESTION}]}
    config = {"recursion_limit": 10 * count.turns + 10}
    return lambda: agent.ainvoke(asked, config)


measure("langchain", prepare)
