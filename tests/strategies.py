"""Hypothesis strategies for everything the core knows, from blocks to states.

Plain values come first, then what the model may say, then events that fit a
state, then whole walks through the machine. Texts hold what JSON may hold, but
neither NUL nor lone surrogates: those are replaced where they come in.
"""

import base64
from collections.abc import Sequence
from functools import cache

from attrs import evolve, frozen
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from agentloop.core.catalog import FAILURES, Failure
from agentloop.core.config import (
    AnyTool,
    Auto,
    ClientTools,
    Config,
    McpServer,
    Override,
    SpecificTool,
    ToolChoice,
    ToolSpec,
)
from agentloop.core.content import (
    Block,
    Content,
    Document,
    Image,
    Json,
    Message,
    Opaque,
    Reasoning,
    Text,
    ToolResult,
    ToolUse,
)
from agentloop.core.history import unanswered
from agentloop.core.machine import next_command, start, step
from agentloop.core.phases import (
    Answer,
    CallingTools,
    CancelRequested,
    DeadlinePassed,
    Discovered,
    Discovering,
    DiscoveryFailed,
    Event,
    Finished,
    Inferring,
    LoopState,
    ModelFailed,
    ModelReplied,
    Plan,
    Recovered,
    ToolFailed,
    ToolReturned,
)
from agentloop.core.request import ToolOutputs, UserMessage
from agentloop.core.routing import Routing
from agentloop.core.run import Usage
from tests.samples import APPROVE, ASK, LOST, PAY, READ, ROUTING, SEARCH, USER

# ---------------------------------------------------------------- plain values

WORDS = "abcXYZ019_"


@cache
def texts(min_size: int = 0, max_size: int = 12) -> SearchStrategy[str]:
    """Any text that may be stored."""
    allowed = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
    return st.text(allowed, min_size=min_size, max_size=max_size)


@cache
def said() -> SearchStrategy[str]:
    """A text that is not blank."""
    return texts(1).filter(lambda text: text.strip())


@cache
def json_values() -> SearchStrategy[object]:
    """Any JSON value."""
    numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    leaves = st.none() | st.booleans() | numbers | texts()
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(texts(), inner, max_size=3)
        ),
        max_leaves=6,
    )


@cache
def json_objects() -> SearchStrategy[dict[str, object]]:
    """Any JSON object."""
    return st.dictionaries(texts(), json_values(), max_size=3)


@cache
def base64_texts() -> SearchStrategy[str]:
    """Some bytes as base64."""
    return st.binary(min_size=1, max_size=9).map(
        lambda data: base64.b64encode(data).decode()
    )


@cache
def usages() -> SearchStrategy[Usage]:
    """What an attempt or a run has cost."""
    count = st.integers(0, 10**6)
    return st.builds(
        Usage,
        prompt_tokens=count,
        completion_tokens=count,
        cache_read_tokens=count,
        cache_write_tokens=count,
        attempts_without_usage=st.integers(0, 3),
    )


# ---------------------------------------------------------------- blocks, messages


@cache
def media() -> SearchStrategy[Image | Document]:
    """An image or a document."""
    images = st.builds(
        Image, st.sampled_from(["png", "jpeg", "gif", "webp"]), base64_texts()
    )
    documents = st.builds(
        Document, st.sampled_from(["pdf", "csv", "md"]), texts(1), base64_texts()
    )
    return images | documents


@cache
def contents() -> SearchStrategy[Content]:
    """A block that a tool result may hold."""
    opaque = st.builds(Opaque, st.sampled_from(["bedrock", "cortex"]), json_objects())
    json = st.builds(Json, json_values())
    return st.builds(Text, texts()) | json | media() | opaque


@cache
def reasonings() -> SearchStrategy[Reasoning]:
    """Reasoning, open or redacted."""
    shown = st.builds(Reasoning, text=texts(), signature=st.none() | texts(1))
    return shown | st.builds(Reasoning, redacted=base64_texts())


@cache
def ids() -> SearchStrategy[str]:
    """The id of a tool use."""
    return st.text("abc", min_size=1, max_size=3).map(lambda text: f"tooluse_{text}")


@cache
def results(of: SearchStrategy[str] | None = None) -> SearchStrategy[ToolResult]:
    """A tool result, of some id."""
    content = st.lists(contents(), max_size=2).map(tuple)
    of = ids() if of is None else of
    return st.builds(ToolResult, of, content, st.booleans())


@cache
def blocks() -> SearchStrategy[Block]:
    """A block of any kind."""
    use = st.builds(ToolUse, ids(), st.text(WORDS + "-", min_size=1), json_objects())
    return contents() | reasonings() | use | results()


@cache
def messages() -> SearchStrategy[Message]:
    """Any message, legal in a history or not."""
    role = st.sampled_from(["user", "assistant", "tool"])
    return st.builds(Message, role, st.lists(blocks(), max_size=4).map(tuple))


# ---------------------------------------------------------------- config


@cache
def aliases() -> SearchStrategy[str]:
    """A name that follows the alias rule."""
    first, rest = st.sampled_from("abzAZ"), st.text("azAZ09", max_size=7)
    return st.tuples(first, rest).map("".join)


@cache
def specs(names: SearchStrategy[str] | None = None) -> SearchStrategy[ToolSpec]:
    """A tool as a model is told of it."""
    return st.builds(
        ToolSpec,
        name=st.text(WORDS + "-", min_size=1, max_size=20) if names is None else names,
        description=st.none() | texts(),
        input_schema=st.just({"type": "object"}) | json_objects(),
        strict=st.none() | st.booleans(),
    )


@cache
def _spec_lists(names: SearchStrategy[str] | None = None) -> SearchStrategy:
    by_name = st.lists(specs(names), max_size=3, unique_by=lambda spec: spec.name)
    return by_name.map(tuple)


_NOTES = st.none() | texts()
_IDS = st.none() | texts(1)
_CLUSTERS = st.sampled_from([None, "shared", "dedicated"])
_BARE = _spec_lists(st.text(WORDS, min_size=1, max_size=20))
_URL = "https://{}.example.com/mcp"
_SERVERS = st.builds(
    McpServer,
    alias=aliases(),
    url=st.just(_URL),
    tools=st.none() | _spec_lists(),
    description=_NOTES,
)
_GROUPS = st.builds(
    ClientTools, alias=aliases(), tools=_spec_lists(), description=_NOTES
)
_FIELDS = {
    "data_plane_id": _IDS,
    "execution_cluster": _CLUSTERS,
    "compute_pool_id": _IDS,
    "max_iterations": st.integers(1, 10_000),
    "max_tokens": st.integers(1, 10**6),
    "temperature": st.none() | st.floats(0, 1) | st.integers(0, 1),
    "output_format_schema": st.none() | json_objects(),
    "tools": st.none() | _BARE,
}


@cache
def configs() -> SearchStrategy[Config]:
    """A config that follows every rule; no host registers an alias for it."""
    aliased = st.lists(
        _SERVERS | _GROUPS, max_size=4, unique_by=lambda entry: entry.alias
    )
    return st.builds(_config, aliased, st.fixed_dictionaries(_FIELDS), said())


def _config(
    aliased: list[McpServer | ClientTools], fields: dict[str, object], model: str
) -> Config:
    servers = tuple(
        evolve(entry, url=_URL.format(entry.alias))
        for entry in aliased
        if isinstance(entry, McpServer)
    )
    groups = tuple(entry for entry in aliased if isinstance(entry, ClientTools))
    return Config(
        model=model,
        mcp_servers=servers or (None if len(model) % 2 else ()),
        client_tools=groups or (None if len(model) % 2 else ()),
        **fields,
    )


@cache
def overrides() -> SearchStrategy[Override]:
    """An override whose result follows every rule, whatever the defaults."""
    return st.fixed_dictionaries(
        {},
        optional={
            **_FIELDS,
            "model": said(),
            "mcp_servers": st.sampled_from([None, ()]),
            "client_tools": st.sampled_from([None, ()]),
        },
    ).map(Override)


@cache
def tool_choices() -> SearchStrategy[ToolChoice]:
    """A tool choice of any kind."""
    name = st.text(WORDS + "-", min_size=1)
    specific = st.builds(SpecificTool, name, st.none() | aliases())
    return st.just(Auto()) | st.just(AnyTool()) | specific


@cache
def payloads() -> SearchStrategy[UserMessage | ToolOutputs]:
    """A payload of either kind."""
    user = st.builds(Text, said()) | media()
    outputs = st.builds(
        ToolResult,
        ids(),
        st.lists(st.builds(Text, texts()) | st.builds(Json, json_values())).map(tuple),
        st.booleans(),
    )
    return st.builds(
        UserMessage, st.lists(user, min_size=1, max_size=3).map(tuple)
    ) | st.builds(ToolOutputs, st.lists(outputs, min_size=1, max_size=3).map(tuple))


# ---------------------------------------------------------------- what a model says

NAMES = (SEARCH, READ, PAY, APPROVE, ASK, LOST, "nodash", "9bad-name", "docs-unknown")
STOPS = (
    "end_turn",
    "tool_use",
    "stop_sequence",
    "max_tokens",
    "content_blocked",
    "context_window",
    "malformed",
    "pause",
    "unknown",
)


def _likely(*often: object, rarely: Sequence[object]) -> SearchStrategy:
    """Mostly one of the first, now and then one of the others."""
    pool = [*often] * (5 * len(rarely) + 1) + [*rarely]
    return st.sampled_from(pool)


_THOUGHTS = ((), (Reasoning("hm", "c2ln"),), (Reasoning(redacted="AAEC"),))
_SPOKEN = (
    (),
    (Text("It is free."),),
    (Text("Let me see."), Text(" \n")),
    (Text(" \n"),),
    (Text("\u00a0"), Text("Yes.")),
    (Text("One."), Text("Two.")),
)
_ODD = ((), (), (), (Opaque("bedrock", {"x": 1}),))
_ARGUMENTS = ({}, {"day": "Fri"}, {"deep": [{"a": None}]})


@cache
@st.composite
def turns(draw: st.DrawFn) -> tuple[Block, ...]:
    """What a model says in one turn: thoughts, texts, calls, or odder things."""
    names = draw(st.lists(_likely(*NAMES[:5], rarely=NAMES[5:]), max_size=4))
    same = draw(_likely(False, rarely=[True]))
    called = [
        ToolUse("same" if same else f"t{i}", name, _ARGUMENTS[i % 3])
        for i, name in enumerate(names)
    ]
    before = [draw(st.sampled_from(kind)) for kind in (_THOUGHTS, _SPOKEN, _ODD)]
    return (*(block for kind in before for block in kind), *called)


@cache
def failures(*kinds: str) -> SearchStrategy[Failure]:
    """A failure of one of the kinds, of any kind when none are given."""
    return st.sampled_from(
        [
            Failure(kind=kind, message="it broke", code=code, retry_after=hint)
            for kind in kinds or sorted(FAILURES)
            for code, hint in ((None, 0.0), ("SomeException", 30.0))
        ]
    )


_ANSWERS = st.sampled_from(
    [
        None,
        Answer("It is free."),
        Answer(None, {"room": 3}),
        Failure(kind="schema_decode", message="$.room: required"),
    ]
)
_COSTS = st.sampled_from(
    [
        None,
        Usage(prompt_tokens=7, completion_tokens=2),
        Usage(prompt_tokens=5, cache_read_tokens=3, cache_write_tokens=1),
    ]
)


# ---------------------------------------------------------------- events


def plans(**fixed: object) -> SearchStrategy[Plan]:
    """A plan with small limits, so that they are reached."""
    fields = {**_PLANS, **{name: st.just(value) for name, value in fixed.items()}}
    return st.fixed_dictionaries(fields).map(lambda chosen: Plan(**chosen))


_PLANS = {
    "max_iterations": st.integers(1, 5),
    "tool_choice": st.sampled_from(
        [Auto(), AnyTool(), SpecificTool(SEARCH), SpecificTool(ASK)]
    ),
    "servers": st.just(("web",)),
    "parallel": st.integers(1, 3),
    "attempts": st.integers(1, 4),
    "delays": st.sampled_from([(), (1.0,), (1.0, 2.0, 4.0)]),
    "on_unresolved_call": st.sampled_from(["fail", "tell_model"]),
    "on_invalid_arguments": st.sampled_from(["fail", "tell_model"]),
}


def due(state: LoopState) -> SearchStrategy[Event]:
    """An answer to the state's command."""
    match state.phase:
        case Discovering(attempt):
            lost = failures("discovery_unavailable", "discovery_refused")
            return st.sampled_from(
                [Discovered(ROUTING)] * 4 + [Discovered(Routing({}))]
            ) | lost.map(lambda failure: DiscoveryFailed(attempt, failure))
        case Inferring(attempt):
            return _model_events(state.iterations, attempt)
        case CallingTools():
            return st.sampled_from(next_command(state).window).flatmap(
                lambda call: _tool_events(call.key, call.attempt)
            )
        case _:
            return st.nothing()


def _model_events(iteration: int, attempt: int) -> SearchStrategy[Event]:
    return st.builds(
        lambda replies, content, stop, failure, usage, answer: (
            ModelReplied(
                iteration=iteration,
                attempt=attempt,
                message=Message("assistant", content),
                stop=stop,
                usage=usage,
                answer=answer,
            )
            if replies
            else ModelFailed(
                iteration=iteration, attempt=attempt, failure=failure, usage=usage
            )
        ),
        _likely(True, rarely=[False]),
        turns(),
        _likely("end_turn", rarely=STOPS),
        failures("throttled", "timeout", "denied", "context_window"),
        _COSTS,
        _ANSWERS,
    )


_CONTENTS = st.sampled_from(
    [
        (),
        (Text("10:00"),),
        (Json({"free": [10, 14]}),),
        (Text(""), Image("png", "iVBORw0="), Opaque("bedrock", {"video": {}})),
    ]
)


def _tool_events(key: str, attempt: int) -> SearchStrategy[Event]:
    lost = failures("mcp_server", "mcp_protocol", "tool_validation", "mcp_timeout")
    return st.builds(
        lambda returns, content, is_error, failure: (
            ToolReturned(key, content, is_error)
            if returns
            else ToolFailed(key, attempt, failure)
        ),
        _likely(True, rarely=[False]),
        _CONTENTS,
        st.booleans(),
        lost,
    )


def interruptions() -> SearchStrategy[Event]:
    """What may happen at any time without having been asked for."""
    return st.sampled_from([CancelRequested(), DeadlinePassed(), Recovered()])


@st.composite
def foreign(draw: st.DrawFn, state: LoopState) -> Event:
    """An answer that does not belong to the state's command."""
    late = st.integers(-1, 9)
    iteration, attempt = draw(late), draw(late)
    match state.phase:
        case Discovering(now):
            kinds = [_model_events(iteration, attempt), _tool_events("1.0", 1)]
            if attempt != now:
                lost = failures("discovery_unavailable")
                kinds.append(st.builds(DiscoveryFailed, st.just(attempt), lost))
        case Inferring(now):
            kinds = [_tool_events("1.0", 1), st.just(Discovered(ROUTING))]
            if (iteration, attempt) != (state.iterations, now):
                kinds.append(_model_events(iteration, attempt))
        case CallingTools(calls):
            kinds = [_model_events(iteration, attempt), st.just(Discovered(ROUTING))]
            open_ = {call.key for call in next_command(state).window}
            closed = [call.key for call in calls if call.key not in open_]
            strange = [*closed, f"{state.iterations + 1}.0", f"{state.iterations}.99"]
            kinds.append(
                st.sampled_from(strange).flatmap(lambda key: _tool_events(key, 1))
            )
        case Finished():
            kinds = [_model_events(iteration, attempt), _tool_events("1.0", 1)]
            kinds += [st.just(Discovered(ROUTING)), interruptions()]
    return draw(st.one_of(kinds))


# ---------------------------------------------------------------- walks


@frozen
class Walk:
    """A run from its start through some events to a state."""

    start: LoopState
    events: tuple[Event, ...]
    state: LoopState


@st.composite
def walks(draw: st.DrawFn, max_events: int = 12, **fixed: object) -> Walk:
    """A run that was driven for a while; fields of its plan may be fixed."""
    plan = draw(plans(**fixed))
    begun = start(plan, USER, draw(st.sampled_from([ROUTING, ROUTING, None])))
    events: list[Event] = []
    state = begun
    for _ in range(draw(st.integers(0, max_events))):
        if isinstance(state.phase, Finished):
            break
        interrupted = draw(_likely(False, rarely=[True]))
        events.append(draw(interruptions() if interrupted else due(state)))
        state = step(state, events[-1])
    return Walk(begun, tuple(events), state)


def states(max_events: int = 12, **fixed: object) -> SearchStrategy[LoopState]:
    """A state that a run can reach."""
    return walks(max_events, **fixed).map(lambda walk: walk.state)


def unfinished_states(**fixed: object) -> SearchStrategy[LoopState]:
    """A state that a run can reach and go on from."""
    return states(**fixed).filter(lambda state: not isinstance(state.phase, Finished))


# ---------------------------------------------------------------- histories


@st.composite
def histories(draw: st.DrawFn, max_runs: int = 3) -> tuple[Message, ...]:
    """A legal conversation: kept logs of finished runs, one after another."""
    history: list[Message] = []
    for _ in range(draw(st.integers(0, max_runs))):
        history += draw(_runs(unanswered(history)))
    return tuple(history)


@st.composite
def _runs(draw: st.DrawFn, pending: Sequence[ToolUse]) -> list[Message]:
    if pending:
        opening: tuple[Block, ...] = tuple(
            ToolResult(use.tool_use_id, draw(_CONTENTS)) for use in pending
        )
    else:
        opening = USER.content
    state = start(draw(plans(tool_choice=Auto())), Message("user", opening), ROUTING)
    while not isinstance(state.phase, Finished):
        state = step(state, draw(due(state)))
    return list(state.log) if next_command(state).keep else []
