"""Conversations for the Bedrock tests: fixed ones, and any that hypothesis thinks of.

The generated histories are wilder than a machine ever leaves them: results without
calls, calls without results, blank texts, foreign blocks, names nobody allows. What
the codec makes of them has to be legal all the same.
"""

import json
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from agentloop.backends.bedrock.capabilities import capabilities_of
from agentloop.backends.bedrock.codec import Conversation
from agentloop.backends.bedrock.options import (
    CachePoints,
    Guardrail,
    Model,
    ModelOptions,
)
from agentloop.core.config import AnyTool, Auto, Config, SpecificTool, ToolSpec
from agentloop.core.content import (
    Block,
    Document,
    Image,
    Json,
    JsonObject,
    Message,
    Opaque,
    Reasoning,
    Text,
    ToolResult,
    ToolUse,
)
from agentloop.core.phases import Infer, Log
from agentloop.ports import SessionSetup
from tests import strategies as some

CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "us.amazon.nova-pro-v1:0"
LLAMA = "us.meta.llama3-3-70b-instruct-v1:0"
MISTRAL = "mistral.mistral-large-2407-v1:0"
R1 = "us.deepseek.r1-v1:0"
TITAN = "amazon.titan-text-premier-v1:0"
FAMILIES = (
    CLAUDE,
    "anthropic.claude-opus-4-6-v1",
    "anthropic.claude-opus-4.6",
    "anthropic.claude-sonnet-4.5",
    "anthropic.claude-3-haiku-20240307-v1:0",
    NOVA,
    LLAMA,
    MISTRAL,
    R1,
    TITAN,
    "cohere.command-r-plus-v1:0",
    "openai.gpt-oss-120b-1:0",
)

ROOMS = ToolSpec(
    name="rooms-free_slots",
    description="Free slots of a day.",
    input_schema={
        "type": "object",
        "properties": {"day": {"type": "string"}},
        "required": ["day"],
    },
)
ASK = ToolSpec(name="ask_user", input_schema={"type": "object", "properties": {}})
PNG = "iVBORw0KGgo="
PDF = "JVBERi0xLjc="


# ---------------------------------------------------------------- fixed parts


def user(*blocks: Block | str) -> Message:
    """A user message; plain strings are texts."""
    return Message("user", tuple(Text(b) if isinstance(b, str) else b for b in blocks))


def said(*blocks: Block | str) -> Message:
    """An assistant message."""
    return Message("assistant", user(*blocks).content)


def results(*blocks: Block) -> Message:
    """A tool message."""
    return Message("tool", blocks)


def use(id_: str = "t1", name: str = "rooms-free_slots", **arguments: Any) -> ToolUse:
    """A call."""
    return ToolUse(id_, name, arguments)


def result(id_: str = "t1", text: str = "9:00", *, error: bool = False) -> ToolResult:
    """Its answer."""
    return ToolResult(id_, (Text(text),), is_error=error)


def model(id_: str = CLAUDE, options: ModelOptions | None = None) -> Model:
    """A model with the capabilities of the table."""
    return Model(id=id_, can=capabilities_of(id_), options=options or ModelOptions())


def setup(
    *history: Message,
    specs: tuple[ToolSpec, ...] = (ROOMS,),
    system: str | None = "Be brief.",
    **config: Any,
) -> SessionSetup:
    """A setup with one tool and a history."""
    return SessionSetup(
        config=Config(**{"model": CLAUDE, **config}),
        system=system,
        specs=specs,
        history=history,
    )


def infer(
    *log: Message, choice: Any = None, iteration: int = 1, attempt: int = 1
) -> Infer:
    """The command to ask the model about a log."""
    return Infer(iteration, attempt, 0.0, 0.0, choice or Auto(), Log(*log))


def body_of(
    *messages: Message,
    to: Model | None = None,
    given: SessionSetup | None = None,
    choice: Any = None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The parsed body for a log, and what was noted while it was made."""
    conversation = Conversation(given or setup(), to or model())
    raw = conversation.body(infer(*messages, choice=choice), "job-1")
    return json.loads(raw), conversation.take_notes()


# ---------------------------------------------------------------- any conversation

HOSTILE = st.sampled_from(
    [
        " ",
        "",
        "\n\t",
        "\ud800",
        "a\x00b",
        "\u2028",
        "😀",
        "é",
        '"\\',
        "</script>",
        "\x7f",
    ]
)


def words() -> SearchStrategy[str]:
    """Any text, hostile ones among them."""
    return st.text(max_size=12) | HOSTILE


def values() -> SearchStrategy[object]:
    """A JSON value, with what is almost one."""
    odd = st.sampled_from([float("nan"), float("inf"), "\ud800", (1, 2), {"a": "\x00"}])
    return some.json_values() | odd


def base64s() -> SearchStrategy[str]:
    """Base64, canonical or not, and what is none."""
    return some.base64_texts() | st.sampled_from(["", "YQ", "YR==", "no base64!"])


def media() -> SearchStrategy[Block]:
    """Images and documents under any format and name."""
    formats = st.sampled_from(["png", "PNG", "jpg", "webp", "svg", "pdf", "md", "exe"])
    names = words() | st.sampled_from(["a  b", "plan.pdf", "x" * 300])
    return st.builds(Image, formats, base64s()) | st.builds(
        Document, formats, names, base64s()
    )


def objects() -> SearchStrategy[JsonObject]:
    """The value of an opaque block: of a kind that goes back, or of another."""
    found = {"source": "a", "title": "b", "content": [{"text": "c"}]}
    return st.sampled_from(
        [
            {"searchResult": found},
            {"SDK_UNKNOWN_MEMBER": {"name": "audio2"}},
            {"citationsContent": {"content": [{"text": "c"}], "citations": []}},
            {"video": {"format": "mp4", "source": {"bytes": "AAAA"}}},
            {"toolAddition": {"tool": {"name": "x"}}},
            {"two": 1, "keys": 2},
            {},
        ]
    )


def contents() -> SearchStrategy[Block]:
    """What a tool result may hold."""
    opaque = st.builds(Opaque, st.sampled_from(["bedrock", "cortex"]), objects())
    texts = st.builds(Text, words())
    return texts | st.builds(Json, values()) | media() | opaque


def ids() -> SearchStrategy[str]:
    """Call ids, few enough to meet, some of them illegal."""
    return st.sampled_from(["t1", "t2", "call.3:x", "ünicode", "x" * 80, "", "a b"])


def names() -> SearchStrategy[str]:
    """Tool names, some of them illegal."""
    return st.sampled_from(
        ["rooms-free_slots", "ask_user", "functions.rooms", "x" * 70, "", "ü", "\ud800"]
    )


def spoken() -> SearchStrategy[Message]:
    """An assistant message; a machine keeps its ids apart."""
    arguments = st.dictionaries(st.text(max_size=4), values(), max_size=2)
    uses = st.builds(ToolUse, ids(), names(), arguments)
    thoughts = st.builds(
        Reasoning, text=words(), signature=st.none() | st.just("sig")
    ) | st.builds(Reasoning, redacted=base64s())
    blocks = st.lists(
        st.builds(Text, words())
        | uses
        | thoughts
        | st.builds(Opaque, st.sampled_from(["bedrock", "cortex"]), objects())
        | media(),
        max_size=4,
        unique_by=lambda b: b.tool_use_id if isinstance(b, ToolUse) else id(b),
    )
    return st.builds(Message, st.just("assistant"), blocks.map(tuple))


def heard() -> SearchStrategy[Message]:
    """A user or tool message with any blocks."""
    answered = st.builds(
        ToolResult, ids(), st.lists(contents(), max_size=3).map(tuple), st.booleans()
    )
    blocks = st.lists(contents() | answered, max_size=4).map(tuple)
    return st.builds(Message, st.sampled_from(["user", "tool"]), blocks)


def messages(max_size: int = 6) -> SearchStrategy[list[Message]]:
    """Any messages in any order."""
    return st.lists(spoken() | heard(), max_size=max_size)


def within_limits(found: Iterable[Message]) -> bool:
    """Whether there are no more than the five documents that Bedrock takes."""
    return sum(_documents(block) for m in found for block in m.content) <= 5


def _documents(block: Block) -> int:
    if isinstance(block, ToolResult):
        return sum(_documents(inner) for inner in block.content)
    return isinstance(block, Document)


def options() -> SearchStrategy[ModelOptions]:
    """Options that go with every model; the encoder leaves out what does not."""
    return st.builds(
        ModelOptions,
        stop_sequences=st.sampled_from([(), ("END",), ("é\u2028", "b")]),
        guardrail=st.none()
        | st.builds(Guardrail, identifier=st.just("abc1"), version=st.just("DRAFT")),
        cache=st.none() | st.builds(CachePoints, tools=st.booleans()),
        service_tier=st.none() | st.just("flex"),
        request_fields=st.just({}) | st.just({"top_k": 3, "é": [1.5, None]}),
        metadata=st.just({}) | st.just({"tenant": "a=b"}),
    )


def schemas() -> SearchStrategy[JsonObject | None]:
    """Schemas of the final answer, inside and outside of the native subset."""
    inner = {"type": "object", "properties": {"a": {"type": "integer"}}}
    return st.sampled_from(
        [None, inner, {**inner, "minProperties": 1}, {"type": "object"}]
    )


def setups() -> SearchStrategy[SessionSetup]:
    """Any setup, with tools on offer or without."""
    choices = st.sampled_from([(), (ROOMS,), (ROOMS, ASK)])
    temperatures = st.sampled_from([None, 0, 1, 0.3])

    def build(
        history: list[Message],
        specs: tuple[ToolSpec, ...],
        temperature: float | None,
        system: str | None,
        schema: JsonObject | None,
    ) -> SessionSetup:
        config = Config(
            model="any", temperature=temperature, output_format_schema=schema
        )
        return SessionSetup(config=config, system=system, specs=specs, history=history)

    systems = st.none() | st.just("Be brief. é\u2028") | st.just(" ")
    return st.builds(build, messages(3), choices, temperatures, systems, schemas())


def tool_choices() -> SearchStrategy[Any]:
    """Any tool choice."""
    return st.sampled_from([Auto(), AnyTool(), SpecificTool("rooms-free_slots")])
