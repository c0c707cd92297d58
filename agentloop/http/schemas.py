"""JSON Schemas of the values that cross the wire, made from the classes that parse.

Types give shapes, the converter's tag tables give discriminators, and `BOUNDS`
the rules that `agentloop.core.config` and the converter check in code.
"""

import inspect
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import (
    Any,
    Final,
    Literal,
    TypeAlias,
    Union,
    get_args,
    get_origin,
)

import attrs

from agentloop.core.config import (
    MAX_ITERATIONS,
    ClientTools,
    Config,
    McpServer,
    Override,
    ToolSpec,
)
from agentloop.core.content import Block, Content, Document, Image, ToolResult
from agentloop.core.request import (
    NewConversation,
    Payload,
    StartRequest,
    UserContent,
)
from agentloop.core.run import (
    Attempt,
    Conversation,
    InferenceJob,
    MessageDelta,
    PendingToolCall,
    Run,
    RunEvent,
    StoredMessage,
    Usage,
)
from agentloop.wire.converter import DOCUMENT_FORMATS, IMAGE_FORMATS
from agentloop.wire.shapes import BLOCK_TAGS, CHOICE_TAGS

Schema: TypeAlias = dict[str, Any]

UUID: Final[Schema] = {"type": "string", "format": "uuid"}
INSTANT: Final[Schema] = {"type": "string", "format": "date-time"}
_COUNT: Final[Schema] = {"minimum": 0}
_ALIAS: Final[Schema] = {"pattern": "^[a-zA-Z][a-zA-Z0-9]{0,7}$"}
_BASE64: Final[Schema] = {
    "contentEncoding": "base64",
    "pattern": "^([A-Za-z0-9+/]{4})*"
    "([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$",
}
_NOT_BLANK: Final[Schema] = {"pattern": r"[^\s\x1c-\x1f\x85]"}

BOUNDS: Final[Mapping[tuple[type, str], Schema]] = {
    (Config, "model"): _NOT_BLANK,
    (Config, "max_iterations"): {"minimum": 1, "maximum": MAX_ITERATIONS},
    (Config, "max_tokens"): {"minimum": 1},
    (Config, "temperature"): {"minimum": 0, "maximum": 1},
    (McpServer, "alias"): _ALIAS,
    (ClientTools, "alias"): _ALIAS,
    (Image, "format"): {"enum": list(IMAGE_FORMATS)},
    (Image, "data"): _BASE64,
    (Document, "format"): {"enum": list(DOCUMENT_FORMATS)},
    (Document, "name"): {"minLength": 1, "maxLength": 200},
    (Document, "data"): _BASE64,
    (StartRequest, "client_op_id"): UUID,
    (Run, "id"): UUID,
    (Run, "conversation_id"): UUID,
    (Run, "client_op_id"): UUID,
    (Conversation, "id"): UUID,
    (StoredMessage, "id"): UUID,
    (StoredMessage, "run_id"): UUID,
    (InferenceJob, "id"): UUID,
    (InferenceJob, "run_id"): UUID,
    (Conversation, "version"): _COUNT,
    (MessageDelta, "current_version"): _COUNT,
    (StoredMessage, "sequence_no"): {"minimum": 1},
    (Run, "iterations_used"): _COUNT,
    (InferenceJob, "iteration"): {"minimum": 1},
    (Attempt, "number"): {"minimum": 1},
}
"""What a field obeys beyond its type."""

_WHOLE: Final = frozenset(
    {
        Run,
        Conversation,
        StoredMessage,
        MessageDelta,
        Usage,
        PendingToolCall,
        InferenceJob,
        Attempt,
        RunEvent,
    }
)
"""Classes that are only ever sent, with every field present."""
_CLOSED: Final = frozenset(
    {NewConversation, StartRequest, Config, ToolSpec, McpServer, ClientTools}
    | BLOCK_TAGS.keys()
    | CHOICE_TAGS.keys()
)
"""Classes that callers send, in which an unknown key is refused."""
_REFINED: Final[Mapping[tuple[type, str], Any]] = {
    (NewConversation, "defaults"): Config,
}
"""Fields whose annotation says less than the converter knows."""
_RENAMED: Final[Mapping[tuple[type, str], str]] = {
    (ToolResult, "content"): "content_blocks"
}
_NULL: Final[Schema] = {"type": "null"}
_PLAIN: Final[Mapping[Any, Schema]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Any: {},
}


class Schemas:
    """Schemas as `$ref`s, and the components they point to."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}

    def of(self, type_: Any) -> Schema:
        """The schema of a type of the wire."""
        if type_ in _PLAIN:
            return dict(_PLAIN[type_])
        if type_ == Payload:
            return self._component("Payload", self._payload)
        if type_ == Override:
            return self._component("ConfigOverride", self._override)
        if inspect.isclass(type_) and attrs.has(type_):
            return self._component(_name(type_), lambda: self._object(type_))
        return self._composed(type_)

    def _composed(self, type_: Any) -> Schema:
        origin, args = get_origin(type_), get_args(type_)
        if origin in {Union, UnionType}:
            return self._union(type_, args)
        if origin is tuple:
            return {"type": "array", "items": self.of(args[0])}
        if origin is Literal:
            return {"type": "string", "enum": list(args)}
        if (inspect.isclass(origin) and issubclass(origin, Mapping)) or type_ is dict:
            return {"type": "object"}
        raise AssertionError(f"no schema for {type_!r}")

    def _union(self, type_: Any, args: tuple[Any, ...]) -> Schema:
        members = [arg for arg in args if arg is not NoneType]
        if len(members) == len(args):
            return self._tagged(type_, members)
        rest = self.of(members[0]) if len(members) == 1 else self._choice(members)
        return {"anyOf": [rest, dict(_NULL)]}

    def _tagged(self, type_: Any, members: list[Any]) -> Schema:
        named = {Block: "Block", Content: "ResultContent", UserContent: "UserContent"}
        name = next(name for union, name in named.items() if union == type_)
        return self._component(name, lambda: self._choice(members))

    def _choice(self, members: list[Any]) -> Schema:
        """One of several classes, told apart by the tag that the converter reads."""
        key = "type" if members[0] in BLOCK_TAGS else "kind"
        tags = BLOCK_TAGS if key == "type" else CHOICE_TAGS
        refs = {tags[member]: self.of(member)["$ref"] for member in members}
        return {
            "oneOf": [{"$ref": ref} for ref in refs.values()],
            "discriminator": {"propertyName": key, "mapping": refs},
        }

    def _object(self, type_: type) -> Schema:
        fields = attrs.fields(type_)
        names = {f.name: _RENAMED.get((type_, f.name), f.name) for f in fields}
        tag = _tag(type_)
        properties = {names[f.name]: self._field(type_, f) for f in fields}
        if type_ is Usage:
            properties["total_tokens"] = {"type": "integer"}
        required = [names[f.name] for f in fields if _is_required(type_, f)]
        schema: Schema = {
            "type": "object",
            "description": inspect.getdoc(type_),
            "properties": {**tag, **properties},
            "required": [*tag, *required],
        }
        if type_ is Usage:
            schema["required"].append("total_tokens")
        if type_ in _CLOSED:
            schema["additionalProperties"] = False
        return schema

    def _field(self, type_: type, field: "attrs.Attribute[Any]") -> Schema:
        schema = self.of(_REFINED.get((type_, field.name), field.type))
        bound = BOUNDS.get((type_, field.name), _by_name(field.name))
        if "anyOf" in schema:
            schema["anyOf"][0].update(bound)
        else:
            schema.update(bound)
        if isinstance(field.default, int | str) and type_ in _CLOSED:
            schema["default"] = field.default
        return schema

    def _component(self, name: str, make: Any) -> Schema:
        if name not in self.components:
            self.components[name] = {}  # so that a type may hold itself
            self.components[name] = make()
        return {"$ref": f"#/components/schemas/{name}"}

    # ------------------------------------------------------------ own spellings

    def _override(self) -> Schema:
        """Any fields of a config; null clears those that may be cleared."""
        config = self._object(Config)
        properties = config["properties"]
        for name in properties:
            properties[name].pop("default", None)
        return {
            "type": "object",
            "description": "The fields that differ from the defaults for this run.",
            "properties": properties,
            "additionalProperties": False,
        }

    def _payload(self) -> Schema:
        return {
            "oneOf": [
                _shape("user_message", text=dict(_PLAIN[str])),
                _shape("user_message", content_blocks=self.of(tuple[UserContent, ...])),
                _shape("tool_outputs", outputs=self._outputs()),
            ]
        }

    def _outputs(self) -> Schema:
        contents = {
            "content": {"description": "A text, or any JSON value."},
            "content_blocks": self.of(tuple[Content, ...]),
        }
        items = [
            {
                "type": "object",
                "properties": {
                    "tool_use_id": {"type": "string"},
                    "is_error": {"type": "boolean", "default": False},
                    name: schema,
                },
                "required": ["tool_use_id", name],
                "additionalProperties": False,
            }
            for name, schema in contents.items()
        ]
        return {"type": "array", "minItems": 1, "items": {"oneOf": items}}


def _shape(kind: str, **member: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {"kind": {"const": kind}, **member},
        "required": ["kind", *member],
        "additionalProperties": False,
    }


def _name(type_: type) -> str:
    return "ConversationDefaults" if type_ is Config else type_.__name__


def _tag(type_: type) -> dict[str, Schema]:
    for key, tags in (("type", BLOCK_TAGS), ("kind", CHOICE_TAGS)):
        if type_ in tags:
            return {key: {"const": tags[type_]}}
    return {}


def _is_required(type_: type, field: "attrs.Attribute[Any]") -> bool:
    return type_ in _WHOLE or field.default is attrs.NOTHING


def _by_name(name: str) -> Schema:
    """Instants are told by their names everywhere."""
    return INSTANT if name.endswith("_at") else {}
