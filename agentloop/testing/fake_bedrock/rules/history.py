"""Rules on the order of turns and on what each turn holds.

Every function takes an indexed request and yields the texts Bedrock answers with; the
table that orders them stands in the package.
"""

from collections.abc import Iterator

from agentloop.testing.fake_bedrock.rules.view import Ask, Block
from agentloop.testing.fake_bedrock.values import at, items, only_key, text

_PROMPT_FORBIDS = (
    "system",
    "inferenceConfig",
    "toolConfig",
    "additionalModelRequestFields",
)
_USER_ONLY = ("toolResult", "image", "document", "video", "audio")
_ASSISTANT_ONLY = ("toolUse", "reasoningContent", "citationsContent")


def prompt_variables(ask: Ask) -> Iterator[str]:
    """Prompt variables and prompt ids belong together and replace the rest."""
    if not ask.prompt and "promptVariables" in ask.body:
        yield "The promptVariables field is only supported with a prompt as modelId."
    for name in _PROMPT_FORBIDS:
        if ask.prompt and name in ask.body:
            yield f"The {name} field can't be set when modelId is a prompt."


def starts_with_user(ask: Ask) -> Iterator[str]:
    """There is a first message and it is the user's."""
    if ask.turns[:1] and ask.turns[0].role == "user":
        return
    if not ask.prompt or ask.turns:
        yield (
            "A conversation must start with a user message. "
            "Try again with a conversation that starts with a user message."
        )


def roles_alternate(ask: Ask) -> Iterator[str]:
    """No two neighbours share a role."""
    for before, turn in zip(ask.turns, ask.turns[1:], strict=False):
        if before.role == turn.role:
            yield (
                "A conversation must alternate between user and assistant roles. Make "
                "sure the conversation alternates between user and assistant roles and "
                "try again."
            )


def content_filled(ask: Ask) -> Iterator[str]:
    """Every message holds at least one block."""
    for turn in ask.turns:
        if not turn.blocks:
            yield (
                f"The content field in the Message object at messages.{turn.index} is "
                "empty. Add a ContentBlock object to the content field and try again."
            )


def text_filled(ask: Ask) -> Iterator[str]:
    """No text is empty or only white space."""
    for block in ask.blocks("text"):
        if not str(block.value).strip():
            yield _blank("ContentBlock", block.path)
    for block in ask.blocks("toolResult"):
        for place, part in enumerate(items(block.value, "content")):
            if only_key(part) == "text" and not text(part, "text").strip():
                yield _blank(
                    "ToolResultContentBlock",
                    f"{block.path}.toolResult.content.{place}",
                )


def system_filled(ask: Ask) -> Iterator[str]:
    """No system text is only white space."""
    for place, part in enumerate(items(ask.body, "system")):
        if only_key(part) == "text" and not text(part, "text").strip():
            yield _blank("SystemContentBlock", f"system.{place}")


def system_turns_change_tools(ask: Ask) -> Iterator[str]:
    """A `system` message carries tool changes only."""
    for place, message in enumerate(items(ask.body, "messages")):
        if text(message, "role") != "system":
            continue
        for index, block in enumerate(items(message, "content")):
            if only_key(block) not in {"toolAddition", "toolRemoval", "cachePoint"}:
                yield (
                    f"The {only_key(block)} block at messages.{place}.content.{index} "
                    "is not supported in a system message."
                )


def blocks_fit_role(ask: Ask) -> Iterator[str]:
    """Results and media are the user's, tool uses and reasoning the assistant's."""
    for block in ask.blocks(*_USER_ONLY):
        if block.role != "user":
            yield _wrong_role(block)
    for block in ask.blocks(*_ASSISTANT_ONLY):
        if block.role != "assistant":
            yield _wrong_role(block)


def uses_unique(ask: Ask) -> Iterator[str]:
    """A turn names each tool use id once; another turn may reuse it."""
    yield from _repeated(ask, "toolUse")


def results_unique(ask: Ask) -> Iterator[str]:
    """A turn answers each tool use id once."""
    yield from _repeated(ask, "toolResult")


def uses_answered(ask: Ask) -> Iterator[str]:
    """Every tool use is answered in the very next user turn."""
    for place, turn in enumerate(ask.turns):
        after = ask.turns[place + 1] if place + 1 < len(ask.turns) else None
        answered = after.ids("toolResult") if after else ()
        missing = [i for i in turn.ids("toolUse") if i not in answered]
        if missing:
            yield (
                f"Expected toolResult blocks at messages.{turn.index + 1}.content for "
                f"the following Ids: {', '.join(missing)}"
            )


def results_asked_for(ask: Ask) -> Iterator[str]:
    """No turn holds more results than the turn before it holds tool uses."""
    for place, turn in enumerate(ask.turns):
        asked = ask.turns[place - 1].ids("toolUse") if place else ()
        if len(turn.ids("toolResult")) > len(asked):
            yield (
                f"The number of toolResult blocks at messages.{turn.index}.content "
                "exceeds the number of toolUse blocks of previous turn."
            )


def error_results_filled(ask: Ask) -> Iterator[str]:
    """An error result says something."""
    for block in ask.blocks("toolResult"):
        failed = text(block.value, "status") == "error"
        if failed and not items(block.value, "content"):
            yield (
                f"The content field at {block.path}.toolResult cannot be empty when "
                "status value is error."
            )


def results_filled(ask: Ask) -> Iterator[str]:
    """A result says something."""
    for block in ask.blocks("toolResult"):
        if not items(block.value, "content"):
            yield (
                "The content field in the ToolResultBlock object at "
                f"{block.path}.toolResult is empty. Add a ToolResultContentBlock "
                "object to the content field and try again."
            )


def result_json_is_object(ask: Ask) -> Iterator[str]:
    """A `json` result is an object, never a list or a bare value."""
    for block in ask.blocks("toolResult"):
        for place, part in enumerate(items(block.value, "content")):
            if only_key(part) == "json" and not isinstance(at(part, "json"), dict):
                yield no_object(f"{block.path}.toolResult.content.{place}.json")


def input_is_object(ask: Ask) -> Iterator[str]:
    """The input of a tool use is an object."""
    for block in ask.blocks("toolUse"):
        if not isinstance(at(block.value, "input"), dict):
            yield no_object(f"{block.path}.toolUse.input")


def ends_with_user(ask: Ask) -> Iterator[str]:
    """The last message is the user's, unless the model takes a prefill."""
    if not ask.turns or ask.turns[-1].role == "user" or ask.model.prefill:
        return
    if ask.model.anthropic:
        yield (
            "This model does not support assistant message prefill. "
            "The conversation must end with a user message."
        )
    else:
        yield (
            "A conversation must end with a user message. "
            "Try again with a conversation that ends with a user message."
        )


def no_object(path: str) -> str:
    """Bedrock's text for a document that should be an object."""
    return (
        f"The format of the value at {path} is invalid. "
        "Provide a json object for the field and try again."
    )


def _repeated(ask: Ask, kind: str) -> Iterator[str]:
    for turn in ask.turns:
        ids = turn.ids(kind)
        twice = [i for place, i in enumerate(ids) if i in ids[:place]]
        if twice:
            yield (
                f"The {kind} blocks at messages.{turn.index}.content contain duplicate "
                f"Ids: {', '.join(dict.fromkeys(twice))}"
            )


def _blank(owner: str, path: str) -> str:
    return (
        f"The text field in the {owner} object at {path} is blank. "
        "Add text to the text field, and try again."
    )


def _wrong_role(block: Block) -> str:
    return (
        f"The {block.kind} block at {block.path} is not supported in "
        f"{'an assistant' if block.role == 'assistant' else 'a user'} message."
    )
