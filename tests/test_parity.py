"""One script, four wires: Bedrock and the three of Cortex leave the same behind.

Every flow runs through each backend's real client on a real socket, once as a whole
and once listened to. What a caller can see afterwards must not tell the wires apart,
but for what `DIFFERENCES` declares and gives the reason for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from attrs import evolve, field, frozen

from agentloop import AgentLoop, Scope
from agentloop.backends.bedrock import BedrockBackend
from agentloop.core.config import ToolSpec
from agentloop.core.content import Message, Reasoning, Text, ToolResult, ToolUse
from agentloop.core.routing import Offer
from agentloop.core.run import Run, Usage
from agentloop.ports import ToolAnswer, ToolCall
from agentloop.testing import fake_bedrock, fake_snowflake
from agentloop.testing.fake_bedrock import FakeBedrock
from agentloop.testing.fake_snowflake import FakeSnowflake
from tests.cortex_cases import backend_for

SCOPE = Scope(1, 407)
PNG = "iVBORw0KGgo="
SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "slots": {"type": "integer"}},
    "required": ["text", "slots"],
    "additionalProperties": False,
}
CLIENT_TOOLS = [
    {
        "alias": "user",
        "tools": [
            {
                "name": "confirm",
                "description": "Ask the user.",
                "input_schema": {"type": "object", "properties": {}},
            }
        ],
    }
]


# ---------------------------------------------------------------- verbs


class BedrockVerbs:
    """What a script can say, in Bedrock's words."""

    says = staticmethod(fake_bedrock.says)
    calls = staticmethod(fake_bedrock.calls)
    thinks = staticmethod(fake_bedrock.thinks)
    thinks_secretly = staticmethod(fake_bedrock.thinks_secretly)
    tokens = staticmethod(fake_bedrock.tokens)
    throttles = staticmethod(fake_bedrock.throttles)
    garbles = staticmethod(lambda: fake_bedrock.raw_body(b'{"output": ['))

    @staticmethod
    def truncates(*given: Any, usage: tuple[int, int], **more: Any) -> Any:
        return evolve(fake_bedrock.truncates(*given, **more), usage=usage)

    @staticmethod
    def busy() -> Any:
        return fake_bedrock.fails("ServiceUnavailableException")

    @staticmethod
    def forbids() -> Any:
        return fake_bedrock.fails("AccessDeniedException")

    @staticmethod
    def overflows() -> Any:
        return fake_bedrock.fails("ValidationException", message="prompt is too long")


class CortexVerbs:
    """The same in Cortex' words."""

    says = staticmethod(fake_snowflake.says)
    calls = staticmethod(fake_snowflake.calls)
    thinks = staticmethod(fake_snowflake.thinks)
    thinks_secretly = staticmethod(fake_snowflake.thinks_secretly)
    tokens = staticmethod(fake_snowflake.tokens)
    throttles = staticmethod(fake_snowflake.throttles)
    garbles = staticmethod(fake_snowflake.garbles)
    forbids = staticmethod(fake_snowflake.forbids)

    @staticmethod
    def truncates(*given: Any, usage: tuple[int, int], **more: Any) -> Any:
        billed = fake_snowflake.tokens(*usage)
        return evolve(fake_snowflake.truncates(*given, **more), usage=billed)

    @staticmethod
    def busy() -> Any:
        return fake_snowflake.fails(503, "busy")

    @staticmethod
    def overflows() -> Any:
        return fake_snowflake.fails(400, "prompt is too long")


# ---------------------------------------------------------------- wires


@contextmanager
def over_bedrock(script: Any) -> Iterator[tuple[Any, Any]]:
    """Bedrock, by boto3."""
    with FakeBedrock(*script(BedrockVerbs)) as fake:
        yield fake, BedrockBackend(fake.client())


def over_cortex(dialect: str) -> Any:
    """Cortex in one dialect, by the installed connector."""

    @contextmanager
    def opened(script: Any) -> Iterator[tuple[Any, Any]]:
        with FakeSnowflake(*script(CortexVerbs)) as fake:
            backend = backend_for(dialect, fake.connect())
            try:
                yield fake, backend
            finally:
                backend.close()

    return opened


WIRES = {
    "bedrock": (over_bedrock, "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    "messages": (over_cortex("messages"), "claude-sonnet-4-5"),
    "chat": (over_cortex("chat"), "openai-gpt-5"),
    "sql": (over_cortex("sql"), "claude-sonnet-4-5"),
}


class Rooms:
    """A tool server with one tool that works and one that fails."""

    def declared(self) -> tuple[Offer, ...]:
        schema = {"type": "object", "properties": {"day": {"type": "string"}}}
        names = ("free", "book")
        specs = [ToolSpec(name=n, description=n, input_schema=schema) for n in names]
        return tuple(map(Offer, specs))

    def discover(self, timeout: float) -> tuple[Offer, ...]:
        return self.declared()

    def call(self, call: ToolCall) -> ToolAnswer:
        day = call.arguments.get("day")
        return ToolAnswer((Text(f"{call.name} {day}"),), is_error=call.name == "book")

    def close(self) -> None:
        """Nothing is open."""


# ---------------------------------------------------------------- what is left


@frozen
class Left:
    """What a caller can see after a flow, with ids numbered in their order."""

    runs: tuple[Any, ...]
    messages: tuple[Message, ...]
    usage: tuple[Usage | None, ...]
    attempts: tuple[tuple[str, ...], ...]


class Numbers:
    """Ids by the order in which they first appear."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, id_: str) -> str:
        return self._known.setdefault(id_, f"id-{len(self._known) + 1}")

    def message(self, found: Any) -> Message:
        blocks = tuple(
            evolve(block, tool_use_id=self.of(block.tool_use_id))
            if isinstance(block, ToolUse | ToolResult)
            else block
            for block in found.content_blocks
        )
        return Message(found.role, blocks)

    def run(self, run: Run) -> Any:
        pending = tuple(
            (self.of(call.tool_use_id), call.name, dict(call.arguments))
            for call in run.pending_tool_calls
        )
        return {
            "status": run.status,
            "iterations_used": run.iterations_used,
            "jobs": len(run.submitted_inference_job_ids),
            "pending": pending,
            "final_text": run.final_text,
            "final_structured_output": run.final_structured_output,
            # The message names the provider's own code; the type is ours.
            "error": run.error and run.error.type,
        }


@frozen
class Flow:
    """A script and what is done with it.

    Attributes:
        script: the replies, in the words it is given.
        said: payloads of the runs, one after another; a function is given the run
            before and makes the payload.
        config: beyond the model.
        start: further arguments of every run's start.
        sql: whether SQL can carry the flow.
        streams: whether a stream can carry it.
    """

    script: Callable[[Any], list[Any]]
    said: tuple[Any, ...] = ("hi",)
    config: dict[str, Any] = field(factory=dict)
    start: dict[str, Any] = field(factory=dict)
    sql: bool = True
    streams: bool = True


def played(wire: str, flow: Flow, *, streams: bool) -> Left:
    """What a flow leaves behind over one wire."""
    opened, model = WIRES[wire]
    with opened(flow.script) as (fake, backend):
        loop = AgentLoop(backend, tools={"rooms": Rooms()}, pause=lambda *_: 0.0)
        with loop:
            created = loop.create_conversation(
                defaults={"model": model, **flow.config},
                system_prompt="Be brief.",
                scope=SCOPE,
            )
            runs: list[Run] = []
            for said in flow.said:
                payload = said(runs[-1]) if callable(said) else said
                runs.append(one_run(loop, created.id, payload, flow, streams))
            left = seen(loop, created.id, runs)
            tries = sum(len(kinds) for kinds in left.attempts)
            assert len(fake.requests) == tries
            assert all(
                job.request_verified
                for run in runs
                for job in loop.list_jobs(run.id, scope=SCOPE)
            )
    return left


def one_run(
    loop: AgentLoop, conversation: str, payload: Any, flow: Flow, streams: bool
) -> Run:
    """One run, driven here; listened to while it is."""
    if not streams:
        return loop.run(conversation, payload, scope=SCOPE, **flow.start)
    run = loop.start_run(conversation, payload, scope=SCOPE, **flow.start)
    kinds = [event.kind for event in loop.events(run.id, scope=SCOPE)]
    assert kinds[-1] == "terminal"
    return loop.get_run(run.id, scope=SCOPE)


def seen(loop: AgentLoop, conversation: str, runs: list[Run]) -> Left:
    """What can be read afterwards."""
    numbers = Numbers()
    delta = loop.messages(conversation, scope=SCOPE)
    messages = tuple(map(numbers.message, delta.messages))
    jobs = [job for run in runs for job in loop.list_jobs(run.id, scope=SCOPE)]
    return Left(
        runs=tuple(map(numbers.run, runs)),
        messages=messages,
        usage=tuple(run.usage for run in runs),
        attempts=tuple(tuple(a.outcome for a in job.attempts) for job in jobs),
    )


def confirms(run: Run) -> Any:
    """The caller's answers to whatever a run paused on."""
    outputs = [
        {"tool_use_id": call.tool_use_id, "content": f"yes to {call.name}"}
        for call in run.pending_tool_calls
    ]
    return {"kind": "tool_outputs", "outputs": outputs}


# ---------------------------------------------------------------- flows

COST = (10, 5)
FREE = "rooms-free"
BOOK = "rooms-book"
CONFIRM = "user-confirm"
PICTURE = {
    "kind": "user_message",
    "content_blocks": [
        {"type": "text", "text": "what is this?"},
        {"type": "image", "format": "png", "data": PNG},
    ],
}
DONE = {"text": "done", "slots": 2}

FLOWS: dict[str, Flow] = {
    "answer": Flow(lambda it: [it.says("hello é 😀", usage=COST)]),
    "several runs": Flow(
        lambda it: [
            it.says("one", usage=COST),
            it.calls((FREE, {"day": "Mon"}), ids=["a"], usage=COST),
            it.says("two", usage=COST),
            it.says("three", usage=COST),
        ],
        said=("1", "2", "3"),
    ),
    "server tools": Flow(
        lambda it: [
            it.calls((FREE, {"day": "Mon"}), text="a look", ids=["a"], usage=COST),
            it.calls((FREE, {"day": "Tue"}), ids=["b"], usage=COST),
            it.says("Tuesday", usage=COST),
        ]
    ),
    "parallel": Flow(
        lambda it: [
            it.calls(
                *((FREE, {"day": day}) for day in ("Mon", "Tue", "Wed")),
                ids=["a", "b", "c"],
                usage=COST,
            ),
            it.says("any day", usage=COST),
        ]
    ),
    "a failing tool": Flow(
        lambda it: [
            it.calls((BOOK, {}), (FREE, {}), ids=["a", "b"], usage=COST),
            it.says("sorry", usage=COST),
        ]
    ),
    "client tools": Flow(
        lambda it: [
            it.calls((CONFIRM, {}), (CONFIRM, {"x": [1]}), ids=["a", "b"], usage=COST),
            it.says("booked", usage=COST),
        ],
        said=("hi", confirms),
        config={"client_tools": CLIENT_TOOLS},
    ),
    "mixed": Flow(
        lambda it: [
            it.calls((CONFIRM, {}), (FREE, {}), text="so", ids=["a", "b"], usage=COST),
            it.says("booked", usage=COST),
        ],
        said=("hi", confirms),
        config={"client_tools": CLIENT_TOOLS},
    ),
    "forced tool": Flow(
        lambda it: [
            it.calls((FREE, {}), ids=["a"], usage=COST),
            it.says("done", usage=COST),
        ],
        start={"tool_choice": {"kind": "any"}},
    ),
    "structured": Flow(
        lambda it: [it.says('{"text":"done","slots":2}', usage=COST)],
        config={"output_format_schema": SCHEMA, "mcp_servers": []},
    ),
    "structured with tools": Flow(
        lambda it: [
            it.calls((FREE, {}), ids=["a"], usage=COST),
            it.says('{"text":"done","slots":2}', usage=COST),
        ],
        config={"output_format_schema": SCHEMA},
    ),
    "structured that does not fit": Flow(
        lambda it: [it.says('{"text":"done"}', usage=COST)],
        config={"output_format_schema": SCHEMA, "mcp_servers": []},
    ),
    "reasoning": Flow(
        lambda it: [
            it.thinks("let me see", signature="sig-1")
            + it.thinks_secretly("AAA=")
            + it.calls((FREE, {}), ids=["a"], usage=COST),
            it.thinks("hm", signature="sig-2") + it.says("four", usage=COST),
            it.says("five", usage=COST),
        ],
        said=("hi", "and now?"),
    ),
    "images": Flow(
        lambda it: [it.says("a dot", usage=COST), it.says("yes", usage=COST)],
        said=(PICTURE, "sure?"),
    ),
    "truncated call": Flow(
        lambda it: [
            it.truncates((FREE, {"day": "Mon"}), at=6, text="so", usage=(10, 4096))
        ]
    ),
    "truncated text": Flow(
        lambda it: [
            it.says("and then", stop="max_tokens", usage=(10, 4096)),
            it.says("so", usage=COST),
        ],
        said=("hi", "go on"),
    ),
    "throttled twice": Flow(
        lambda it: [it.throttles(), it.throttles(), it.says("at last", usage=COST)]
    ),
    "throttled for good": Flow(lambda it: [it.throttles()] * 5),
    "busy between tools": Flow(
        lambda it: [
            it.calls((FREE, {}), ids=["a"], usage=COST),
            it.busy(),
            it.says("done", usage=COST),
        ]
    ),
    "denied": Flow(lambda it: [it.forbids()]),
    "denied after a call": Flow(
        lambda it: [it.calls((FREE, {}), ids=["a"], usage=COST), it.forbids()]
    ),
    "too long": Flow(lambda it: [it.overflows()]),
    "no JSON": Flow(lambda it: [it.garbles()], sql=False, streams=False),
    "refusal": Flow(
        lambda it: [
            it.says("I cannot.", stop="refusal", usage=COST),
            it.says("fine", usage=COST),
        ],
        said=("hi", "something else"),
    ),
    "a stop that names no call": Flow(
        lambda it: [it.says("so", stop="tool_use", usage=COST)]
    ),
    "calls despite an end": Flow(
        lambda it: [
            it.calls((FREE, {}), stop="end_turn", ids=["a"], usage=COST),
            it.says("done", usage=COST),
        ]
    ),
    "an unknown tool": Flow(
        lambda it: [
            it.calls((FREE, {}), ("nowhere-go", {}), ids=["a", "b"], usage=COST),
            it.says("fine", usage=COST),
        ],
        said=("hi", "again"),
    ),
    "a blank answer": Flow(lambda it: [it.says(" \n", usage=COST)]),
    "one id twice": Flow(
        lambda it: [it.calls((FREE, {}), (FREE, {}), ids=["a", "a"], usage=COST)],
        sql=False,  # calls have no ids there
    ),
    "the last iteration": Flow(
        lambda it: [it.calls((FREE, {}), ids=["a"], usage=COST)],
        config={"max_iterations": 1},
    ),
    "usage with cache": Flow(
        lambda it: [
            it.calls(
                (FREE, {}), ids=["a"], usage=it.tokens(10, 5, read=20, written=30)
            ),
            it.says("done", usage=it.tokens(1, 2, read=3)),
        ]
    ),
}


# ---------------------------------------------------------------- differences


def without_reasoning(left: Left) -> Left:
    """The same messages without their reasoning."""
    kept = (
        Message(m.role, tuple(b for b in m.content if not isinstance(b, Reasoning)))
        for m in left.messages
    )
    return evolve(left, messages=tuple(kept))


def cache_tokens(**known: int) -> Callable[[Left], Left]:
    """The same usage, split as far as is known."""

    def change(left: Left) -> Left:
        return evolve(
            left, usage=tuple(usage and evolve(usage, **known) for usage in left.usage)
        )

    return change


def completed(text: str) -> Callable[[Left], Left]:
    """The same with its first run completed by this text."""

    def change(left: Left) -> Left:
        first = {
            **left.runs[0],
            "status": "completed",
            "final_text": text,
            "error": None,
        }
        return evolve(left, runs=(first, *left.runs[1:]))

    return change


DIFFERENCES: dict[tuple[str, str], tuple[str, Callable[[Left], Left]]] = {
    ("chat", "usage with cache"): (
        "OpenAI's wire does not tell what was written to a cache",
        cache_tokens(cache_write_tokens=0),
    ),
    ("sql", "usage with cache"): (
        "COMPLETE tells nothing of caches",
        cache_tokens(cache_read_tokens=0, cache_write_tokens=0),
    ),
    ("sql", "reasoning"): ("COMPLETE shows no reasoning", without_reasoning),
    ("sql", "refusal"): (
        "COMPLETE tells no stop reason, so a refusal is a text like others",
        completed("I cannot."),
    ),
    ("sql", "a stop that names no call"): (
        "COMPLETE tells no stop reason",
        completed("so"),
    ),
}

CASES = [
    pytest.param(name, wire, streams, id=f"{name}-{wire}-{way}")
    for name, flow in FLOWS.items()
    for wire in WIRES
    for streams, way in ((False, "whole"), (True, "stream"))
    if (flow.sql or wire != "sql") and (flow.streams or not streams)
]


@pytest.fixture(scope="module")
def references() -> dict[str, Left]:
    """What each flow leaves over Bedrock, played once."""
    return {}


@pytest.mark.parametrize(("name", "wire", "streams"), CASES)
def test_parity(
    name: str, wire: str, streams: bool, references: dict[str, Left]
) -> None:
    """A flow leaves the same messages, runs, usage and attempts over every wire."""
    flow = FLOWS[name]
    if name not in references:
        references[name] = played("bedrock", flow, streams=False)
    _, change = DIFFERENCES.get((wire, name), ("", lambda left: left))
    assert played(wire, flow, streams=streams) == change(references[name])


def test_differences_are_real() -> None:
    """Every declared difference changes something, and names a flow and a wire."""
    for (wire, name), (why, change) in DIFFERENCES.items():
        assert why
        assert wire in WIRES
        reference = played("bedrock", FLOWS[name], streams=False)
        assert change(reference) != reference


def test_the_flows_mean_something() -> None:
    """The reference itself is what each of the main flows is about."""
    left = {n: played("bedrock", FLOWS[n], streams=False) for n in MEANT}
    assert {n: found(left[n]) for n, found in MEANT.items()} == dict.fromkeys(
        MEANT, True
    )


MEANT: dict[str, Callable[[Left], bool]] = {
    "mixed": lambda left: (
        [run["status"] for run in left.runs] == ["requires_action", "completed"]
    ),
    "structured": lambda left: left.runs[0]["final_structured_output"] == DONE,
    "structured that does not fit": lambda left: (
        left.runs[0]["error"] == "AgentLoopSchemaDecodeFailed"
    ),
    "reasoning": lambda left: (
        sum(isinstance(b, Reasoning) for m in left.messages for b in m.content) == 3
    ),
    "truncated call": lambda left: left.runs[0]["error"] == "AgentLoopOutputTruncated",
    "throttled twice": lambda left: (
        left.attempts == (("throttled", "throttled", "ok"),)
        and left.usage[0] is not None
        and left.usage[0].attempts_without_usage == 2
    ),
    "throttled for good": lambda left: left.runs[0]["error"] == "JobFailed",
    "refusal": lambda left: left.runs[0]["error"] == "AgentLoopContentBlocked",
    "too long": lambda left: left.runs[0]["error"] == "AgentLoopContextWindowExceeded",
    "usage with cache": lambda left: (
        left.usage[0] is not None and left.usage[0].prompt_tokens == 64
    ),
}
