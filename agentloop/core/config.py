"""Configuration of a conversation and of one run, its merge and its rules.

Holds the config values of contract sections 1.2 to 1.4, the sparse override of
section 3, the tool choice of 4.3 and every naming rule of 4.1 and 4.2. Refusals
are `RequestError`s with the documented slugs. Parsing JSON is `agentloop.wire`'s.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from attrs import evolve, frozen

from agentloop.core.catalog import RequestError
from agentloop.core.content import JsonObject

MAX_WIRE_NAME = 64
MAX_ITERATIONS = 10_000
MAX_SERVERS = 64
"""MCP servers that a config may name by URL: each is asked for its tools in each run,
and no provider takes as many tools as this many servers would have."""
_URL = re.compile(r"(?=[!-\[\]-~]{1,2048}\Z)https?://[^/?#]+[^#]*(#.*)?", re.IGNORECASE)
"""What every reader of URLs agrees on; where one may lead is for the host to say."""
_ALIAS = re.compile(r"[a-zA-Z][a-zA-Z0-9]{0,7}")
_WIRE_NAME = re.compile(rf"[a-zA-Z0-9_-]{{1,{MAX_WIRE_NAME}}}")


@frozen(kw_only=True)
class ToolSpec:
    """A tool as a model is told of it; `input_schema` is a JSON Schema object."""

    name: str
    description: str | None = None
    input_schema: JsonObject
    strict: bool | None = None


@frozen(kw_only=True)
class McpServer:
    """A server of tools under an alias.

    With a `url` it is reached by MCP; `tools` present is its declared catalog,
    absent means it is discovered when the run starts. Without a `url` it names
    an alias that the host registered.
    """

    alias: str
    url: str | None = None
    tools: tuple[ToolSpec, ...] | None = None
    description: str | None = None


@frozen(kw_only=True)
class ClientTools:
    """Tools under an alias that the caller answers (the seed's vintage)."""

    alias: str
    tools: tuple[ToolSpec, ...]
    description: str | None = None


@frozen(kw_only=True)
class Config:
    """ConversationDefaults, and a run's `effective_config` (contract 1.2).

    None means absent: a list that is absent is empty, except `mcp_servers`,
    whose absence offers every alias that the host registered.
    """

    model: str
    data_plane_id: str | None = None
    execution_cluster: Literal["shared", "dedicated"] | None = None
    compute_pool_id: str | None = None
    max_iterations: int = 8
    max_tokens: int = 4096
    temperature: float | None = None
    output_format_schema: JsonObject | None = None
    mcp_servers: tuple[McpServer, ...] | None = None
    client_tools: tuple[ClientTools, ...] | None = None
    tools: tuple[ToolSpec, ...] | None = None


REQUIRED: frozenset[str] = frozenset({"model", "max_iterations", "max_tokens"})
"""The fields that an explicit null cannot clear."""


@frozen
class Override:
    """The fields a run changes, and only those; a None value clears the field."""

    changes: Mapping[str, Any]


@frozen
class Auto:
    """`{"kind": "auto"}`: the model decides."""


@frozen
class AnyTool:
    """`{"kind": "any"}`: the model must call some tool on the first iteration."""


@frozen
class SpecificTool:
    """`{"kind": "specific_tool"}`: the model must call this tool first.

    `name` is a wire name or a caller's bare name; with `mcp_alias` it is the
    server's own name.
    """

    name: str
    mcp_alias: str | None = None


ToolChoice: TypeAlias = Auto | AnyTool | SpecificTool


def wire_name(alias: str, tool: str) -> str:
    """The name under which the model sees a tool of an alias."""
    return f"{alias}-{tool}"


def split_wire_name(name: str) -> tuple[str, str] | None:
    """`(alias, tool)` split at the first dash, or None for a name without one."""
    alias, dash, tool = name.partition("-")
    return (alias, tool) if dash else None


def is_alias(text: str) -> bool:
    """Whether `text` follows the alias rule `^[a-zA-Z][a-zA-Z0-9]{0,7}$`."""
    return _ALIAS.fullmatch(text) is not None


def is_wire_name(text: str) -> bool:
    """Whether `text` is a name that every provider takes."""
    return _WIRE_NAME.fullmatch(text) is not None


def merge(defaults: Config, override: Override | None) -> Config:
    """The effective config: each field present replaces the default whole.

    Raises:
        RequestError: `invalid-config` when a mandatory field is set to null.
    """
    if override is None or not override.changes:
        return defaults
    for name in sorted(REQUIRED & override.changes.keys()):
        if override.changes[name] is None:
            problem = f"$.config_override.{name} cannot be null"
            raise RequestError("invalid-config", problem=problem)
    return evolve(defaults, **override.changes)


def with_registered(config: Config, registered: Iterable[str]) -> Config:
    """The config with every registered alias on offer, unless it lists servers."""
    aliases = tuple(registered)
    if config.mcp_servers is not None or not aliases:
        return config
    servers = tuple(McpServer(alias=alias) for alias in aliases)
    return evolve(config, mcp_servers=servers)


def validate(config: Config, registered: Collection[str] = ()) -> None:
    """Check every rule on a config, the same at creation and after a merge.

    Args:
        config: the defaults of a conversation or a run's effective config.
        registered: the aliases under which the host offers tools of its own.

    Raises:
        RequestError: with the documented slug of the first rule that is broken.
    """
    _check_numbers(config)
    _check_schemas(config)
    _check_aliases(config)
    _check_wire_names(config)
    _check_caller_tools(config.tools or ())
    _check_servers(config.mcp_servers or (), registered)


def _refuse(problem: str) -> RequestError:
    return RequestError("invalid-config", problem=problem)


def _check_numbers(config: Config) -> None:
    if not config.model.strip():
        raise _refuse("$.model must not be blank")
    if not 1 <= config.max_iterations <= MAX_ITERATIONS:
        raise _refuse(
            f"$.max_iterations must be between 1 and {MAX_ITERATIONS}, "
            f"not {config.max_iterations}"
        )
    if config.max_tokens < 1:
        raise _refuse(f"$.max_tokens must be at least 1, not {config.max_tokens}")
    if config.temperature is not None and not 0 <= config.temperature <= 1:
        raise _refuse(
            f"$.temperature must be between 0 and 1, not {config.temperature}"
        )


def _check_schemas(config: Config) -> None:
    if config.output_format_schema is not None:
        _check_references(config.output_format_schema, "$.output_format_schema")
    for path, spec in declared_tools(config):
        _check_references(spec.input_schema, f"{path}.input_schema")


def _check_references(schema: JsonObject, path: str) -> None:
    """Refuse references that a validator would have to fetch from somewhere.

    A path is a chain of steps until it is shown, so that a long key is not copied
    once for each of its descendants.
    """
    todo: list[tuple[_Steps, Any]] = [((None, path), schema)]
    while todo:
        where, node = todo.pop()
        if isinstance(node, Mapping):
            _check_reference(node, where)
            todo.extend(((where, f".{key}"), value) for key, value in node.items())
        elif isinstance(node, list | tuple):
            todo.extend(((where, f"[{i}]"), value) for i, value in enumerate(node))


_Steps: TypeAlias = tuple["_Steps | None", str]


def _check_reference(node: Mapping[str, Any], where: _Steps) -> None:
    for word in ("$ref", "$dynamicRef"):
        ref = node.get(word)
        if isinstance(ref, str) and not ref.startswith("#"):
            path = _path((where, f".{word}"))
            raise _refuse(f"{path} must stay inside the schema, not '{ref}'")


def _path(steps: _Steps | None) -> str:
    shown = ""
    while steps is not None:
        steps, step = steps
        shown = step + shown
    return shown


def declared_tools(config: Config) -> Iterator[tuple[str, ToolSpec]]:
    """Every tool that a config declares, with its JSON path."""
    for i, server in enumerate(config.mcp_servers or ()):
        for j, spec in enumerate(server.tools or ()):
            yield f"$.mcp_servers[{i}].tools[{j}]", spec
    yield from callers_tools(config)


def callers_tools(config: Config) -> Iterator[tuple[str, ToolSpec]]:
    """Every tool that the caller answers, with its JSON path."""
    for i, group in enumerate(config.client_tools or ()):
        for j, spec in enumerate(group.tools):
            yield f"$.client_tools[{i}].tools[{j}]", spec
    for j, spec in enumerate(config.tools or ()):
        yield f"$.tools[{j}]", spec


def _groups(config: Config) -> Iterator[tuple[str, tuple[ToolSpec, ...]]]:
    """Every alias with the tools declared under it."""
    for server in config.mcp_servers or ():
        yield server.alias, server.tools or ()
    for group in config.client_tools or ():
        yield group.alias, group.tools


def _check_aliases(config: Config) -> None:
    aliases = [alias for alias, _ in _groups(config)]
    bad = [alias for alias in aliases if not is_alias(alias)]
    if bad:
        raise RequestError("invalid-tool-alias", names=", ".join(bad))
    if twice := _duplicates(aliases):
        raise RequestError("duplicate-tool-alias", names=", ".join(twice))


def _check_wire_names(config: Config) -> None:
    pairs = [(alias, spec.name) for alias, specs in _groups(config) for spec in specs]
    names = [wire_name(alias, tool) for alias, tool in pairs]
    long = [name for name in names if len(name) > MAX_WIRE_NAME]
    if long:
        raise RequestError("tool-name-too-long", names=", ".join(long))
    bad = [wire_name(a, t) for a, t in pairs if not (t and _WIRE_NAME.fullmatch(t))]
    if bad:
        raise _refuse(
            f"tool names may hold only a-z, A-Z, 0-9, _ and -: {', '.join(bad)}"
        )
    if twice := _duplicates(names):
        raise _refuse(f"tools declared twice under one alias: {', '.join(twice)}")


def _check_caller_tools(tools: tuple[ToolSpec, ...]) -> None:
    names = [spec.name for spec in tools]
    bad = [n for n in names if not n or "-" in n or len(n) > MAX_WIRE_NAME]
    if bad:
        shown = ", ".join(name or "''" for name in bad)
        raise RequestError("invalid-caller-tool-name", names=shown)
    if twice := _duplicates(names):
        raise RequestError("duplicate-caller-tool-name", names=", ".join(twice))
    odd = [name for name in names if not is_wire_name(name)]
    if odd:
        raise _refuse(f"tool names may hold only a-z, A-Z, 0-9, _: {', '.join(odd)}")


def _check_servers(servers: tuple[McpServer, ...], registered: Collection[str]) -> None:
    by_url = sum(server.url is not None for server in servers)
    if by_url > MAX_SERVERS:
        raise _refuse(
            f"$.mcp_servers may hold at most {MAX_SERVERS} servers with a url, "
            f"not {by_url}"
        )
    for i, server in enumerate(servers):
        if server.url is not None:
            _check_url(server.url, f"$.mcp_servers[{i}].url")
            continue
        if server.alias not in registered:
            known = ", ".join(sorted(registered)) or "none"
            raise _refuse(
                f"$.mcp_servers[{i}] has no url and '{server.alias}' is no alias "
                f"registered by the host (registered: {known})"
            )
        if server.tools is not None:
            raise _refuse(
                f"$.mcp_servers[{i}].tools needs a url: "
                f"the tools of '{server.alias}' are the host's"
            )


def _check_url(url: str, path: str) -> None:
    if not url.strip():
        raise _refuse(f"{path} must not be blank")
    if not _URL.fullmatch(url):
        raise _refuse(
            f"{path} must be an http or https URL of at most 2048 printable ASCII "
            f"characters, not {url!r:.100}"
        )


def _duplicates(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
