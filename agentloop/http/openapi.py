"""The OpenAPI 3.1 document, generated from the operations and the types that parse."""

import re
from collections import defaultdict
from importlib.metadata import version
from typing import Any

from agentloop.core.catalog import BY_SLUG
from agentloop.core.run import EventKind, RunEvent
from agentloop.http import problems, streams
from agentloop.http.operations import (
    COMMON,
    OPERATIONS,
    Listing,
    Number,
    Operation,
    Success,
)
from agentloop.http.schemas import UUID, Schema, Schemas

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds to wait before the next try.",
        "schema": {"type": "integer", "minimum": 0},
    }
}


def document(docs_base: str) -> dict[str, Any]:
    """The document without its `servers`, which depend on where the app is mounted."""
    schemas = Schemas()
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for operation in OPERATIONS:
        paths[operation.path][operation.method.lower()] = _operation(operation, schemas)
    schemas.components["Problem"] = _problem(docs_base)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Agent Conversations",
            "version": version("agentloop"),
            "description": "Conversations with an agent, and the runs of its loop.",
        },
        "paths": dict(paths),
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": _parameters(operation),
        "responses": _responses(operation, schemas),
        "security": [{"bearer": []}] if operation.verb else [],
    }
    if operation.body is not None:
        schema = schemas.of(operation.body)
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    ids = re.findall(r"{(\w+)}", operation.path)
    return [
        *(
            {"name": n, "in": "path", "required": True, "schema": dict(UUID)}
            for n in ids
        ),
        *map(_number, operation.numbers),
    ]


def _number(number: Number) -> dict[str, Any]:
    schema: Schema = {
        "type": "integer",
        "minimum": number.minimum,
        "maximum": number.maximum,
        "default": number.default,
    }
    return {
        "name": number.name,
        "in": number.place,
        "description": number.description,
        "schema": schema,
    }


def _responses(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    by_status: dict[int, list[str]] = defaultdict(list)
    common = COMMON if operation.verb else ()
    for slug in dict.fromkeys((*operation.problems, *common)):
        by_status[BY_SLUG[slug].status or 500].append(slug)
    found = {
        success.status: _success(success, schemas) for success in operation.successes
    }
    for status, slugs in by_status.items():
        found.setdefault(status, _refusal(status, slugs))
    return {str(status): found[status] for status in sorted(found)}


def _success(success: Success, schemas: Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"description": success.description}
    match success.body:
        case None:
            return described
        case streams.EventStream:
            media, schema = streams.MEDIA_TYPE, _frame(schemas)
        case Listing(member, item):
            items = {"type": "array", "items": schemas.of(item)}
            media, schema = "application/json", _only(member, items)
        case type_:
            media, schema = "application/json", schemas.of(type_)
    described["content"] = {media: {"schema": schema}}
    return described


def _frame(schemas: Schemas) -> Schema:
    """One event of a stream; text deltas have no id, because they are not kept."""
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": "^[0-9]+$"},
            "event": schemas.of(EventKind),
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": schemas.of(RunEvent),
            },
        },
        "required": ["event", "data"],
        "additionalProperties": False,
    }


def _only(member: str, schema: Schema) -> Schema:
    return {"type": "object", "properties": {member: schema}, "required": [member]}


def _refusal(status: int, slugs: list[str]) -> dict[str, Any]:
    lines = [f"- `{slug}`: {BY_SLUG[slug].title}" for slug in slugs]
    described: dict[str, Any] = {
        "description": "\n".join(lines),
        "content": {problems.MEDIA_TYPE: {"schema": _PROBLEM}},
    }
    if status in problems.WAITING:
        described["headers"] = _RETRY_AFTER
    return described


def _problem(docs_base: str) -> Schema:
    """RFC 7807, with the id under which the log tells more."""
    text = {"type": "string"}
    return {
        "type": "object",
        "description": "An RFC 7807 problem; `type` is the page that explains it.",
        "properties": {
            "type": {"type": "string", "format": "uri", "examples": [docs_base]},
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "instance": {"type": "string", "format": "uri-reference"},
            "log_id": dict(UUID),
        },
        "required": ["type", "title", "status", "detail", "instance", "log_id"],
        "additionalProperties": False,
    }
