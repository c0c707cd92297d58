"""Rules on tool definitions, tool choice and what each model family takes of them."""

from collections import Counter
from collections.abc import Iterator

from agentloop.testing.fake_bedrock.rules.history import no_object
from agentloop.testing.fake_bedrock.rules.view import Ask
from agentloop.testing.fake_bedrock.values import at, obj, only_key, text

MODEL_SAYS = "The model returned the following errors: "
_TALK = ("text", "image", "document", "video")


def tool_config_present(ask: Ask) -> Iterator[str]:
    """Tool blocks anywhere in the history need a tool configuration."""
    if "toolConfig" not in ask.body and any(ask.blocks("toolUse", "toolResult")):
        yield (
            "The toolConfig field must be defined when using toolUse and toolResult "
            "content blocks."
        )


def model_has_tools(ask: Ask) -> Iterator[str]:
    """Some models take no tools at all."""
    if ask.tools and not ask.model.tools:
        yield "This model doesn't support tool use."


def schema_is_object(ask: Ask) -> Iterator[str]:
    """The input schema is an object, and so are its properties."""
    for place, spec in ask.specs():
        path = f"toolConfig.tools.{place}.toolSpec.inputSchema.json"
        schema = at(spec, "inputSchema", "json")
        if not isinstance(schema, dict):
            yield no_object(path)
        elif not isinstance(schema.get("properties", {}), dict):
            yield no_object(f"{path}.properties")


def schema_type_is_object(ask: Ask) -> Iterator[str]:
    """The top level of an input schema says `"type": "object"`."""
    for place, spec in ask.specs():
        if at(spec, "inputSchema", "json", "type") != "object":
            yield (
                f"The value at toolConfig.tools.{place}.toolSpec.inputSchema.json.type "
                "must be one of the following: object."
            )


def choice_supported(ask: Ask) -> Iterator[str]:
    """The model takes this kind of tool choice."""
    if ask.choice and ask.choice not in ask.model.choices:
        field = f"toolConfig.toolChoice.{ask.choice}"
        yield (
            f"This model doesn't support the {field} field. "
            f"Remove {field} and try again."
        )


def choice_known(ask: Ask) -> Iterator[str]:
    """A forced tool is one of the tools."""
    wanted = text(ask.body, "toolConfig", "toolChoice", "tool", "name")
    if wanted and wanted not in _names(ask):
        yield (
            f"{MODEL_SAYS}tool_choice.tool.name: Tool '{wanted}' not found in provided "
            "tools"
        )


def names_unique(ask: Ask) -> Iterator[str]:
    """Every tool has its own name."""
    if any(count > 1 for count in Counter(_names(ask)).values()):
        yield f"{MODEL_SAYS}tools: Tool names must be unique."


def no_root_composition(ask: Ask) -> Iterator[str]:
    """Claude takes no `oneOf`, `allOf` or `anyOf` at the top of a schema."""
    if not ask.model.anthropic:
        return
    for place, spec in ask.specs():
        schema = obj(spec, "inputSchema", "json")
        if schema.keys() & {"oneOf", "allOf", "anyOf"}:
            yield (
                f"{MODEL_SAYS}tools.{place}.custom.input_schema: input_schema does not "
                "support oneOf, allOf, or anyOf at the top level"
            )


def status_supported(ask: Ask) -> Iterator[str]:
    """Only some families take a result's status."""
    if ask.model.result_status:
        return
    if any(at(block.value, "status") for block in ask.blocks("toolResult")):
        yield (
            "This model doesn't support the status field. Remove status and try again."
        )


def results_stand_alone(ask: Ask) -> Iterator[str]:
    """Outside Claude, a turn with tool results holds nothing else."""
    if ask.model.mixed_results:
        return
    for turn in ask.turns:
        if turn.kind("toolResult") and turn.kind(*_TALK):
            yield (
                f"messages.{turn.index}.content: Conversation blocks and tool result "
                "blocks cannot be provided in the same turn."
            )


def use_ids_new(ask: Ask) -> Iterator[str]:
    """For Claude, the id of a call is new in its conversation."""
    known: set[str] = set()
    for turn in ask.turns if ask.model.anthropic else ():
        for block in turn.kind("toolUse"):
            if block.tool_use_id in known:
                yield f"{MODEL_SAYS}{block.path}: `tool_use` ids must be unique"
        known.update(turn.ids("toolUse"))


def results_stand_first(ask: Ask) -> Iterator[str]:
    """For Claude, tool results come before any text of their turn."""
    if not ask.model.anthropic:
        return
    for turn in ask.turns:
        kinds = [
            block.kind == "toolResult" for block in turn.kind("toolResult", *_TALK)
        ]
        if kinds != sorted(kinds, reverse=True):
            yield (
                f"{MODEL_SAYS}messages.{turn.index - 1}: `tool_use` ids were found "
                "without `tool_result` blocks immediately after: "
                f"{', '.join(turn.ids('toolResult'))}. Each `tool_use` block must have "
                "a corresponding `tool_result` block in the next message."
            )


def _names(ask: Ask) -> list[str]:
    return [
        text(tool, kind, "name")
        for tool in ask.tools
        if (kind := only_key(tool)) in {"toolSpec", "systemTool"}
    ]
