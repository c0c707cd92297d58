"""From a command to the turns of its request, each message encoded once.

A `Conversation` follows one run. Its history is encoded when first needed, each
message of the log when it first appears; a request is then a join of bytes.
"""

from agentloop.backends.cortex.codec.chat import ChatBody
from agentloop.backends.cortex.codec.complete import CompleteBody
from agentloop.backends.cortex.codec.frame import Body, Frame, Moment
from agentloop.backends.cortex.codec.messages import MessagesBody
from agentloop.backends.cortex.codec.turns import Turns
from agentloop.backends.cortex.options import Model
from agentloop.core.content import Message
from agentloop.core.phases import Infer, Log
from agentloop.ports import SessionSetup


class Conversation:
    """The requests of one run, one after another.

    Attributes:
        body: writes bodies in the model's dialect.
    """

    def __init__(self, setup: SessionSetup, model: Model) -> None:
        self._setup = setup
        self._frame = Frame(setup, model)
        self.body = _body(self._frame)
        self._turns: Turns | None = None
        self._taken = 0
        self._newest: Message | None = None

    def request(self, command: Infer, *, streamed: bool) -> bytes:
        """The body of the request for a command, byte for byte as it is sent."""
        return self.body.body(*self.turns(command, streamed=streamed))

    def turns(self, command: Infer, *, streamed: bool) -> tuple[bytes, Moment]:
        """The encoded turns for a command, and what else its request depends on."""
        turns = self._up_to(command.log)
        closed, last = turns.encoded()
        moment = Moment(
            choice=command.tool_choice,
            used=turns.tool_names,
            may_think=turns.may_think,
            streamed=streamed,
        )
        return b",".join((*closed, last)), moment

    def take_notes(self) -> tuple[str, ...]:
        """What was changed for Cortex' sake since this was last asked."""
        return self._frame.notes.take()

    def tool_name(self, wire: str) -> str:
        """The name that a tool name in a reply stands for."""
        return self._frame.names.back(wire)

    def _up_to(self, log: Log) -> Turns:
        """The turns of the history and of exactly this log.

        A log only grows while a session lives; one that is not a continuation of
        the last (a request rebuilt for an earlier iteration) starts afresh.
        """
        turns = self._turns
        follows = self._taken <= len(log) and (
            self._taken == 0 or log[self._taken - 1] is self._newest
        )
        if turns is None or not follows:
            turns = Turns(self.body.writer(), self._frame.notes)
            turns.extend(self._setup.history)
            self._turns, self._taken = turns, 0
        turns.extend(log.since(self._taken))
        self._taken = len(log)
        self._newest = log[-1] if self._taken else None
        return turns


def _body(frame: Frame) -> Body:
    match frame.model.dialect:
        case "messages":
            return MessagesBody(frame)
        case "chat":
            return ChatBody(frame)
        case "sql":
            return CompleteBody(frame)
