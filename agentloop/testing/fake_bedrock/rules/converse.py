"""The shape of a Converse request, transcribed from the public Bedrock runtime API.

Source: the `bedrock-runtime` service model of botocore 1.44 (2023-09-30). A test walks
the installed botocore's model beside this table, so a value that AWS adds is noticed.
Only shapes stand here.
"""

from typing import Final

from agentloop.testing.fake_bedrock.rules.shapes import (
    Blob,
    Document,
    Flag,
    ListOf,
    MapOf,
    Number,
    Struct,
    Text,
    Union,
)

IMAGE_FORMATS: Final = ("png", "jpeg", "gif", "webp")
DOCUMENT_FORMATS: Final = (
    "pdf",
    "csv",
    "doc",
    "docx",
    "xls",
    "xlsx",
    "html",
    "txt",
    "md",
)
_VIDEO_FORMATS: Final = (
    "mkv",
    "mov",
    "mp4",
    "webm",
    "flv",
    "mpeg",
    "mpg",
    "wmv",
    "three_gp",
)
_AUDIO_FORMATS: Final = (
    "mp3",
    "opus",
    "wav",
    "aac",
    "flac",
    "mp4",
    "ogg",
    "mkv",
    "mka",
    "x-aac",
    "m4a",
    "mpeg",
    "mpga",
    "pcm",
    "webm",
)

_TEXT: Final = Text()
_FILLED: Final = Text(least=1)
_TOOL_NAME: Final = Text(1, 64, "[a-zA-Z0-9_-]+")
_TOOL_USE_ID: Final = Text(1, 64, "[a-zA-Z0-9_.:-]+")
_PROJECT: Final = (
    "([a-zA-Z0-9_-]+|arn:aws(|-us-gov|-cn|-iso|-iso-b|-iso-f|-eusc):bedrock:"
    "[0-9a-z-]{1,20}:[0-9]{12}:project/[a-zA-Z0-9_-]+)"
)
_ERROR: Final = Struct({"message": _TEXT})
_PLACE: Final = Number(whole=True)

_S3: Final = Struct(
    {
        "uri": Text(1, 1024, r"s3://[a-z0-9][\.\-a-z0-9]{1,61}[a-z0-9](/.*)?"),
        "bucketOwner": Text(pattern="[0-9]{12}"),
    },
    required=("uri",),
)
_BYTES_OR_S3: Final = Union({"bytes": Blob(1), "s3Location": _S3})
_CITATIONS: Final = Struct({"enabled": Flag()}, required=("enabled",))
_CACHE_POINT: Final = Struct(
    {"type": Text(among=("default",)), "ttl": Text(among=("5m", "1h"))},
    required=("type",),
)
_IMAGE: Final = Struct(
    {"format": Text(among=IMAGE_FORMATS), "source": _BYTES_OR_S3, "error": _ERROR},
    required=("format", "source"),
)
_DOCUMENT: Final = Struct(
    {
        "format": Text(among=DOCUMENT_FORMATS),
        "name": Text(1, 200),
        "source": Union(
            {
                "bytes": Blob(1),
                "s3Location": _S3,
                "text": _TEXT,
                "content": ListOf(Union({"text": _TEXT})),
            }
        ),
        "context": _TEXT,
        "citations": _CITATIONS,
    },
    required=("name", "source"),
)
_VIDEO: Final = Struct(
    {"format": Text(among=_VIDEO_FORMATS), "source": _BYTES_OR_S3},
    required=("format", "source"),
)
_AUDIO: Final = Struct(
    {"format": Text(among=_AUDIO_FORMATS), "source": _BYTES_OR_S3, "error": _ERROR},
    required=("format", "source"),
)
_SEARCH_RESULT: Final = Struct(
    {
        "source": _TEXT,
        "title": _TEXT,
        "content": ListOf(Struct({"text": _TEXT}, required=("text",))),
        "citations": _CITATIONS,
    },
    required=("source", "title", "content"),
)
_TOOL_USE: Final = Struct(
    {
        "toolUseId": _TOOL_USE_ID,
        "name": _TOOL_NAME,
        "input": Document(),
        "type": Text(among=("server_tool_use",)),
    },
    required=("toolUseId", "name", "input"),
)
_TOOL_RESULT: Final = Struct(
    {
        "toolUseId": _TOOL_USE_ID,
        "content": ListOf(
            Union(
                {
                    "json": Document(),
                    "text": _TEXT,
                    "image": _IMAGE,
                    "document": _DOCUMENT,
                    "video": _VIDEO,
                    "searchResult": _SEARCH_RESULT,
                }
            )
        ),
        "status": Text(among=("success", "error")),
        "type": _TEXT,
    },
    required=("toolUseId", "content"),
)
_GUARD_CONTENT: Final = Union(
    {
        "text": Struct(
            {
                "text": _TEXT,
                "qualifiers": ListOf(
                    Text(among=("grounding_source", "query", "guard_content"))
                ),
            },
            required=("text",),
        ),
        "image": Struct(
            {
                "format": Text(among=("png", "jpeg")),
                "source": Union({"bytes": Blob(1)}),
            },
            required=("format", "source"),
        ),
    }
)
_REASONING: Final = Union(
    {
        "reasoningText": Struct(
            {"text": _TEXT, "signature": _TEXT}, required=("text",)
        ),
        "redactedContent": Blob(),
    }
)
_CITED: Final = Struct(
    {
        "content": ListOf(Union({"text": _TEXT})),
        "citations": ListOf(
            Struct(
                {
                    "title": _TEXT,
                    "source": _TEXT,
                    "sourceContent": ListOf(Union({"text": _TEXT})),
                    "location": Union(
                        {
                            "web": Struct({"url": _TEXT, "domain": _TEXT}),
                            "documentChar": Struct(
                                {
                                    "documentIndex": _PLACE,
                                    "start": _PLACE,
                                    "end": _PLACE,
                                }
                            ),
                            "documentPage": Struct(
                                {
                                    "documentIndex": _PLACE,
                                    "start": _PLACE,
                                    "end": _PLACE,
                                }
                            ),
                            "documentChunk": Struct(
                                {
                                    "documentIndex": _PLACE,
                                    "start": _PLACE,
                                    "end": _PLACE,
                                }
                            ),
                            "searchResultLocation": Struct(
                                {
                                    "searchResultIndex": _PLACE,
                                    "start": _PLACE,
                                    "end": _PLACE,
                                }
                            ),
                        }
                    ),
                }
            )
        ),
    }
)
_TOOL_CHANGE: Final = Struct(
    {
        "tool": Struct(
            {"type": Text(1, 64), "name": Text(1, 128), "serverName": Text(1, 128)}
        )
    },
    required=("tool",),
)
_MESSAGE: Final = Struct(
    {
        "role": Text(among=("user", "assistant", "system")),
        "content": ListOf(
            Union(
                {
                    "text": _TEXT,
                    "image": _IMAGE,
                    "document": _DOCUMENT,
                    "video": _VIDEO,
                    "audio": _AUDIO,
                    "toolUse": _TOOL_USE,
                    "toolResult": _TOOL_RESULT,
                    "guardContent": _GUARD_CONTENT,
                    "cachePoint": _CACHE_POINT,
                    "reasoningContent": _REASONING,
                    "citationsContent": _CITED,
                    "searchResult": _SEARCH_RESULT,
                    "toolAddition": _TOOL_CHANGE,
                    "toolRemoval": _TOOL_CHANGE,
                }
            )
        ),
    },
    required=("role", "content"),
)
_TOOL_CONFIG: Final = Struct(
    {
        "tools": ListOf(
            Union(
                {
                    "toolSpec": Struct(
                        {
                            "name": _TOOL_NAME,
                            "description": _FILLED,
                            "inputSchema": Union({"json": Document()}),
                            "strict": Flag(),
                        },
                        required=("name", "inputSchema"),
                    ),
                    "systemTool": Struct({"name": _TOOL_NAME}, required=("name",)),
                    "cachePoint": _CACHE_POINT,
                }
            ),
            least=1,
        ),
        "toolChoice": Union(
            {
                "auto": Struct({}),
                "any": Struct({}),
                "tool": Struct({"name": _TOOL_NAME}, required=("name",)),
            }
        ),
    },
    required=("tools",),
)
_OUTPUT_CONFIG: Final = Struct(
    {
        "textFormat": Struct(
            {
                "type": Text(among=("json_schema",)),
                "structure": Union(
                    {
                        "jsonSchema": Struct(
                            {"schema": _TEXT, "name": _TEXT, "description": _TEXT},
                            required=("schema",),
                        )
                    }
                ),
            },
            required=("type", "structure"),
        ),
        "effort": Text(most=16),
    }
)
_METADATA_CHARS: Final = r"[a-zA-Z0-9\s:_@$#=/+,-.]"

REQUEST: Final = Struct(
    {
        "messages": ListOf(_MESSAGE),
        "system": ListOf(
            Union(
                {
                    "text": _FILLED,
                    "guardContent": _GUARD_CONTENT,
                    "cachePoint": _CACHE_POINT,
                }
            )
        ),
        "inferenceConfig": Struct(
            {
                "maxTokens": Number(1, whole=True),
                "temperature": Number(0, 1),
                "topP": Number(0, 1),
                "stopSequences": ListOf(_FILLED, most=2500),
            }
        ),
        "toolConfig": _TOOL_CONFIG,
        "guardrailConfig": Struct(
            {
                "guardrailIdentifier": Text(
                    most=2048,
                    pattern=(
                        "(|([a-z0-9]+)|(arn:aws(-[^:]+)?:bedrock:[a-z0-9-]{1,20}:"
                        "[0-9]{12}:guardrail/[a-z0-9]+))"
                    ),
                ),
                "guardrailVersion": Text(pattern="(|([1-9][0-9]{0,7})|(DRAFT))"),
                "trace": Text(among=("enabled", "disabled", "enabled_full")),
                "streamProcessingMode": Text(among=("sync", "async")),
            }
        ),
        "additionalModelRequestFields": Document(),
        "promptVariables": MapOf(_TEXT, Union({"text": _TEXT})),
        "additionalModelResponseFieldPaths": ListOf(Text(1, 256), most=10),
        "requestMetadata": MapOf(
            Text(1, 256, _METADATA_CHARS + "{1,256}"),
            Text(0, 256, _METADATA_CHARS + "{0,256}"),
            least=1,
            most=16,
        ),
        "performanceConfig": Struct({"latency": Text(among=("standard", "optimized"))}),
        "serviceTier": Struct(
            {"type": Text(among=("priority", "default", "flex", "reserved"))},
            required=("type",),
        ),
        "outputConfig": _OUTPUT_CONFIG,
        "projectIdentifier": Text(1, 2048, _PROJECT),
    }
)
