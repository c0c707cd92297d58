"""Neutral to Converse: the body of a request, joined from bytes encoded once.

A `Conversation` follows one run. Its history is encoded when first needed, each
message of the log when it first appears; a request is then a join of bytes. The text
is the one that botocore would write for the same parameters (`json.dumps` with its
defaults, blobs as base64), so that it can be handed over or checked against it.
"""

from typing import Final

from agentloop.backends.bedrock.codec.frame import Frame, Moment
from agentloop.backends.bedrock.codec.turns import Turns, with_cache_point
from agentloop.backends.bedrock.options import Model
from agentloop.core.content import Message
from agentloop.core.phases import Infer, Log
from agentloop.ports import SessionSetup

_HEAD: Final = b'{"messages": ['


class Conversation:
    """The requests of one run, one after another."""

    def __init__(self, setup: SessionSetup, model: Model) -> None:
        self._setup = setup
        self._model = model
        self._frame = Frame(setup, model)
        self._turns: Turns | None = None
        self._taken = 0
        self._newest: Message | None = None

    def body(self, command: Infer, job_id: str) -> bytes:
        """The body of the request for a command, byte for byte as it is sent."""
        turns = self._up_to(command.log)
        closed, last = turns.encoded()
        if self._frame.message_point is not None:
            last = with_cache_point(last, self._frame.message_point)
        moment = Moment(command.tool_choice, turns.tool_names, turns.may_think)
        tail = self._frame.tail(moment, job_id)
        return b"".join((_HEAD, closed, last, tail))

    def take_notes(self) -> tuple[str, ...]:
        """What was changed for Bedrock's sake since this was last asked."""
        notes = tuple(dict.fromkeys(self._frame.notes))
        self._frame.notes.clear()
        return notes + (self._turns.take_notes() if self._turns else ())

    def tool_name(self, wire: str) -> str:
        """The name that a tool name in a reply stands for."""
        return self._frame.names.back(wire)

    def _up_to(self, log: Log) -> Turns:
        """The turns of the history and of exactly this log.

        A log only grows while a session lives, and is asked about when it is the
        model's turn. Any other (a request rebuilt for an earlier iteration, a log
        in which the model spoke last) starts afresh.
        """
        turns, newest = self._turns, self._newest
        follows = (
            newest is not None
            and newest.role != "assistant"
            and self._taken <= len(log)
            and log[self._taken - 1] is newest
        )
        if turns is None or not follows:
            turns = Turns(self._model.can, self._frame.names, self._frame.preface)
            turns.extend(self._setup.history)
            self._turns, self._taken = turns, 0
        turns.extend(log.since(self._taken))
        self._taken = len(log)
        self._newest = log[-1] if self._taken else None
        return turns
