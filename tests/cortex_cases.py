"""Conversations and questions for the Cortex tests, in all three dialects."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import evolve

from agentloop.backends.cortex import CortexBackend, ModelOptions, capabilities_of
from agentloop.backends.cortex.capabilities import dialect_of
from agentloop.backends.cortex.codec.encode import Conversation
from agentloop.backends.cortex.options import Model
from agentloop.core.phases import ModelFailed, ModelReplied
from agentloop.ports import Inference, JobContext, SessionSetup
from agentloop.testing.fake_snowflake import FakeSnowflake
from tests import bedrock_cases as cases
from tests.bedrock_cases import infer, user

CLAUDE = "claude-sonnet-4-5"
OPUS = "claude-opus-4-7"
GPT = "openai-gpt-5"
LLAMA = "llama3.1-70b"
MODELS = {"messages": CLAUDE, "chat": GPT, "sql": CLAUDE}
REST = ("messages", "chat")
JOB = JobContext(job_id="00000000-0000-5000-8000-000000000001", timeout=20.0)
ASKED = infer(user("hi"))


def model(
    dialect: str = "messages",
    name: str | None = None,
    options: ModelOptions | None = None,
    *,
    emulated: bool = False,
) -> Model:
    """A model with the capabilities of the table, on one wire."""
    id_ = name or MODELS[dialect]
    transport = "sql" if dialect == "sql" else "rest"
    assert dialect_of(id_, transport) == dialect
    return Model(
        id=id_,
        dialect=dialect,
        can=capabilities_of(id_),
        options=options or ModelOptions(),
        emulated=emulated,
    )


def setup(dialect: str = "messages", *history: Any, **changes: Any) -> SessionSetup:
    """A setup with one tool and a history, for the dialect's model."""
    name = changes.pop("name", None) or MODELS[dialect]
    return cases.setup(*history, **{"model": name, **changes})


def body_of(
    *messages: Any,
    to: Model | None = None,
    given: SessionSetup | None = None,
    choice: Any = None,
    streamed: bool = False,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The parsed request for a log, and what was noted while it was made."""
    to = to or model()
    conversation = Conversation(given or setup(to.dialect, name=to.id), to)
    raw = conversation.request(infer(*messages, choice=choice), streamed=streamed)
    return json.loads(raw), conversation.take_notes()


def backend_for(dialect: str, connection: Any, **choices: Any) -> CortexBackend:
    """A backend on the dialect's transport; SQL emulates tools."""
    if dialect == "sql":
        choices = {"transport": "sql", "emulate_tools": True, **choices}
    return CortexBackend(connection, **choices)


@contextmanager
def opened(
    snowflake: FakeSnowflake, dialect: str = "messages", **choices: Any
) -> Iterator[CortexBackend]:
    """A backend over a real connection to the fake, its own sockets closed."""
    backend = backend_for(dialect, snowflake.connect(), **choices)
    try:
        yield backend
    finally:
        backend.close()


def asked(
    snowflake: FakeSnowflake,
    dialect: str = "messages",
    *,
    streams: bool = False,
    job: JobContext = JOB,
    **choices: Any,
) -> Inference:
    """One inference over a connection of its own."""
    with opened(snowflake, dialect, **choices) as backend:
        session = backend.session(setup(dialect))
        return session.infer(ASKED, job, (lambda _: None) if streams else None)


def replied(inference: Inference) -> ModelReplied:
    """The event of an inference that went well."""
    assert isinstance(inference.event, ModelReplied), inference.event
    return inference.event


def failed(inference: Inference) -> ModelFailed:
    """The event of one that did not."""
    assert isinstance(inference.event, ModelFailed), inference.event
    return inference.event


def job(**changes: Any) -> JobContext:
    """The job with other circumstances."""
    return evolve(JOB, **changes)
