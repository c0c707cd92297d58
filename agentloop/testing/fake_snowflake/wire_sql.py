"""Answers as `COMPLETE` returns them: text, a JSON document, or structured output.

The room holds pure encoders, and the obedient model: SQL has no tools, so a scripted
call can only be said in the caller's own JSON schema. It must not parse SQL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from agentloop.testing.fake_snowflake.replies import (
    Answer,
    Call,
    Opaque,
    Redacted,
    Text,
    Thought,
)
from agentloop.testing.fake_snowflake.shapes import Doc, Json, doc, dumps, loads

#: Says an answer in the JSON the schema asks for.
Emulate: TypeAlias = Callable[[Answer, Doc], Json]

_INPUTS: Final = ("arguments", "input", "args", "parameters")
_BESIDE_CALLS: Final = ("text", "message", "thought", "say")


class UnservableError(ValueError):
    """The script holds a reply this door has no words for."""


class MisfitError(ValueError):
    """The scripted text is not the JSON the request asked for."""


def completed(answer: Answer, request: Doc, emulate: Emulate, *, details: bool) -> str:
    """The value of the row.

    Args:
        answer: What the model says.
        request: The arguments of the call.
        emulate: Puts the answer in the words of a schema.
        details: Whether structured output comes with model and usage around it.

    Raises:
        UnservableError: If SQL cannot carry the answer.
        MisfitError: If structured output was asked and the text is no JSON.
    """
    _check(answer)
    options = request.get("options")
    if options is None:
        return _plain(answer)
    asked = doc(doc(options).get("response_format"))
    if not asked:
        choice: Doc = {"messages": _plain(answer)}
        return dumps({"choices": [choice], **_tail(answer, request)})
    value = emulate(answer, doc(asked.get("schema")))
    if not details:
        return dumps(value)
    output: Doc = {"raw_message": value, "type": "json"}
    return dumps({"structured_output": [output], **_tail(answer, request)})


def obey(answer: Answer, schema: Doc) -> Json:
    """What a model that follows the schema would write.

    A schema with `tool_calls` gets the calls in its own property names; any other gets
    the scripted text, which must be JSON.
    """
    properties = doc(schema.get("properties"))
    if "tool_calls" not in properties:
        if answer.tool_calls:
            raise UnservableError("the schema has no tool_calls to say a call in")
        return _parsed(answer.text)
    return {name: _member(name, answer, doc(properties[name])) for name in properties}


def _check(answer: Answer) -> None:
    for block in answer.blocks:
        if isinstance(block, Opaque):
            raise UnservableError(f"SQL has no content blocks, so no {block.doc!r}")
    travel = answer.delivery
    cut = travel.ending is not None and travel.ending.how != "reset"
    if cut:
        raise UnservableError("SQL does not stream, so nothing can be cut")


def _plain(answer: Answer) -> str:
    said: list[str] = []
    for block in answer.blocks:
        match block:
            case Text(text):
                said.append(text)
            case Call():
                raise UnservableError(
                    f"SQL has no tools: call {block.name!r} needs a response_format"
                )
            case Thought() | Redacted() | Opaque():
                pass  # SQL shows no reasoning
    return "".join(said)


def _tail(answer: Answer, request: Doc) -> Doc:
    usage = answer.billed
    prompt = usage.input + usage.cache_read + usage.cache_write
    return {
        "created": 1_700_000_000,
        "model": request.get("model"),
        "usage": {
            "completion_tokens": usage.output,
            "prompt_tokens": prompt,
            "total_tokens": prompt + usage.output,
        },
    }


def _member(name: str, answer: Answer, schema: Doc) -> Json:
    if name == "tool_calls":
        shape = doc(doc(schema.get("items")).get("properties"))
        calls: list[Json] = [_said(call, shape) for call in answer.tool_calls]
        return calls or (None if _takes(schema, "null") else [])
    if answer.tool_calls and name not in _BESIDE_CALLS:
        return None
    if _takes(schema, "string"):
        return answer.text or None
    return _parsed(answer.text)


def _said(call: Call, shape: Doc) -> Json:
    said: Doc = {}
    for name in shape:
        if name in _INPUTS:
            as_text = _takes(doc(shape[name]), "string")
            said[name] = call.written if as_text else dict(call.input)
        else:
            said[name] = call.id if name == "id" else call.name
    return said


def _takes(schema: Doc, type_: str) -> bool:
    declared = schema.get("type")
    return declared == type_ or (isinstance(declared, list) and type_ in declared)


def _parsed(text: str) -> Json:
    try:
        value = loads(text)
    except ValueError:
        raise MisfitError(f"json mode output validation error: {text[:80]!r}") from None
    return value
