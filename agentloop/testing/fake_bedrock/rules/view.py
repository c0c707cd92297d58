"""A well-shaped request, indexed once so that each rule reads only what it judges.

Built after the shapes were checked. No rule stands here.
"""

from collections.abc import Iterator

from attrs import frozen

from agentloop.testing.fake_bedrock.facts import ModelFacts
from agentloop.testing.fake_bedrock.values import Json, items, obj, only_key, text


@frozen
class Block:
    """One content block and where it stands.

    Attributes:
        turn: Index of its message.
        index: Index in the message.
        role: Role of its message.
        kind: Its tag, like `text` or `toolUse`.
        value: What stands behind the tag.
    """

    turn: int
    index: int
    role: str
    kind: str
    value: object

    @property
    def path(self) -> str:
        """Its place in the words of Bedrock."""
        return f"messages.{self.turn}.content.{self.index}"

    @property
    def tool_use_id(self) -> str:
        """The `toolUseId` of a tool block."""
        return text(self.value, "toolUseId")


@frozen
class Turn:
    """One message of the conversation."""

    index: int
    role: str
    blocks: tuple[Block, ...]

    def kind(self, *kinds: str) -> tuple[Block, ...]:
        """Its blocks of these kinds, in order."""
        return tuple(block for block in self.blocks if block.kind in kinds)

    def ids(self, kind: str) -> tuple[str, ...]:
        """The tool use ids of its blocks of one kind, in order."""
        return tuple(block.tool_use_id for block in self.kind(kind))


@frozen
class Ask:
    """One request, ready to be judged.

    Attributes:
        model: What its model accepts.
        prompt: Whether the model id names a stored prompt.
        body: The whole request body.
        turns: Its messages, `system` ones left out: they carry no talk.
        by_kind: Its content blocks, by tag.
        tools: The entries of `toolConfig.tools`.
        found_media: Its images and documents with their paths, by tag.
    """

    model: ModelFacts
    prompt: bool
    body: Json
    turns: tuple[Turn, ...]
    by_kind: dict[str, list[Block]]
    tools: tuple[object, ...]
    found_media: dict[str, list[tuple[str, Json]]]

    def blocks(self, *kinds: str) -> Iterator[Block]:
        """Every block of these kinds, kind by kind."""
        for kind in kinds:
            yield from self.by_kind.get(kind, ())

    def specs(self) -> Iterator[tuple[int, Json]]:
        """Every `toolSpec` with its index in the tool list."""
        for place, tool in enumerate(self.tools):
            if only_key(tool) == "toolSpec":
                yield place, obj(tool, "toolSpec")

    def media(self, kind: str) -> Iterator[tuple[str, Json]]:
        """Every image or document with its path, those in tool results included."""
        yield from self.found_media.get(kind, ())

    @property
    def choice(self) -> str:
        """The tag of `toolChoice`, empty when there is none."""
        return only_key(obj(self.body, "toolConfig", "toolChoice"))

    @property
    def thinking(self) -> str:
        """How Claude was asked to think: `enabled`, `adaptive` or nothing."""
        mode = text(self.body, "additionalModelRequestFields", "thinking", "type")
        return mode if mode in {"enabled", "adaptive"} else ""


def index_request(model: ModelFacts, body: Json, *, prompt: bool = False) -> Ask:
    """Index a request whose shapes are known to be right."""
    turns = tuple(
        _turn(place, message)
        for place, message in enumerate(items(body, "messages"))
        if text(message, "role") != "system"
    )
    by_kind: dict[str, list[Block]] = {}
    for turn in turns:
        for block in turn.blocks:
            by_kind.setdefault(block.kind, []).append(block)
    return Ask(
        model=model,
        prompt=prompt,
        body=body,
        turns=turns,
        by_kind=by_kind,
        tools=items(body, "toolConfig", "tools"),
        found_media=_media(by_kind),
    )


def _media(by_kind: dict[str, list[Block]]) -> dict[str, list[tuple[str, Json]]]:
    found: dict[str, list[tuple[str, Json]]] = {
        kind: [(f"{block.path}.{kind}", obj(block.value)) for block in by_kind[kind]]
        for kind in by_kind.keys() & {"image", "document"}
    }
    for block in by_kind.get("toolResult", ()):
        for place, part in enumerate(items(block.value, "content")):
            kind = only_key(part)
            if kind in {"image", "document"}:
                path = f"{block.path}.toolResult.content.{place}.{kind}"
                found.setdefault(kind, []).append((path, obj(part, kind)))
    return found


def _turn(place: int, message: object) -> Turn:
    role = text(message, "role")
    return Turn(
        index=place,
        role=role,
        blocks=tuple(
            Block(place, index, role, kind := only_key(raw), obj(raw).get(kind))
            for index, raw in enumerate(items(message, "content"))
        ),
    )
