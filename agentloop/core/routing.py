"""Who answers a call: the tools on offer, and what a name resolves to.

A run sees the tools of its servers under `alias-tool`, the caller's aliased
tools likewise, and the caller's bare tools by their own dash-free name (contract
section 4 and "Names that resolve to nothing" of section 11).
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias, assert_never

from attrs import evolve, frozen

from agentloop.core.catalog import Failure, RequestError, describe
from agentloop.core.config import (
    AnyTool,
    Auto,
    Config,
    SpecificTool,
    ToolChoice,
    ToolSpec,
    is_alias,
    is_wire_name,
    split_wire_name,
    wire_name,
)

InDoubt: TypeAlias = Literal["tell", "repeat", "fail"]
"""What to do about a call whose worker died while it may have been running:
tell the model that the outcome is unknown, run it again, or fail the run."""


@frozen
class Offer:
    """A tool that a server offers, under the server's own name."""

    spec: ToolSpec
    in_doubt: InDoubt = "tell"


Catalogs: TypeAlias = Mapping[str, tuple[Offer, ...] | None]
"""What each server alias offers; None means that it must be discovered."""


@frozen
class ServerRoute:
    """We call the tool."""

    alias: str
    tool: str
    in_doubt: InDoubt = "tell"


@frozen
class ClientRoute:
    """The caller answers; the run pauses."""


Route: TypeAlias = ServerRoute | ClientRoute


@frozen
class Routing:
    """Every wire name with its route, and what is needed to explain a miss."""

    routes: Mapping[str, Route]
    declared: frozenset[str] = frozenset()
    discovered: frozenset[str] = frozenset()
    has_caller_tools: bool = False


@frozen
class Toolbox:
    """What a run offers: routes, specs under their wire names, and what was left out.

    `dropped` are discovered tools whose wire name no provider would take.
    """

    routing: Routing
    specs: tuple[ToolSpec, ...]
    dropped: tuple[str, ...] = ()


def declared_catalogs(
    config: Config, registered: Mapping[str, tuple[Offer, ...]]
) -> Catalogs:
    """The catalogs known without asking a server, None for those to discover.

    Raises:
        KeyError: an alias without url that the host no longer registers.
    """
    return {
        server.alias: registered[server.alias]
        if server.url is None
        else None
        if server.tools is None
        else tuple(Offer(spec) for spec in server.tools)
        for server in config.mcp_servers or ()
    }


def assemble(config: Config, catalogs: Catalogs) -> Toolbox:
    """Everything the model is offered, once all catalogs are known.

    Raises:
        ValueError: a catalog is still to be discovered.
    """
    routes: dict[str, Route] = {}
    specs: list[ToolSpec] = []
    dropped: list[str] = []
    for name, spec, route in _offers(config, catalogs):
        if is_wire_name(name) and name not in routes:
            routes[name] = route
            specs.append(evolve(spec, name=name))
        else:
            dropped.append(name)
    servers = config.mcp_servers or ()
    found = {s.alias for s in servers if s.url is not None and s.tools is None}
    known = {s.alias for s in servers} - found
    known |= {group.alias for group in config.client_tools or ()}
    routing = Routing(
        MappingProxyType(routes),
        declared=frozenset(known),
        discovered=frozenset(found),
        has_caller_tools=bool(config.tools),
    )
    return Toolbox(routing, tuple(specs), tuple(dropped))


def _offers(
    config: Config, catalogs: Catalogs
) -> Iterator[tuple[str, ToolSpec, Route]]:
    for alias, offers in catalogs.items():
        if offers is None:
            raise ValueError(f"the tools of '{alias}' were not discovered yet")
        for offer in offers:
            tool = offer.spec.name
            route = ServerRoute(alias, tool, offer.in_doubt)
            yield wire_name(alias, tool), offer.spec, route
    for group in config.client_tools or ():
        for spec in group.tools:
            yield wire_name(group.alias, spec.name), spec, ClientRoute()
    for spec in config.tools or ():
        yield spec.name, spec, ClientRoute()


def resolve(routing: Routing, name: str) -> Route | Failure:
    """The route of a name the model used, or why it has none."""
    if (route := routing.routes.get(name)) is not None:
        return route
    parts = split_wire_name(name)
    if parts is None:
        known = routing.has_caller_tools
        return _miss("unknown_alias" if known else "malformed_name", name)
    alias = parts[0]
    if alias in routing.declared:
        return _miss("unknown_tool", name)
    return _miss("unknown_alias" if is_alias(alias) else "malformed_name", name)


def _miss(
    kind: Literal["unknown_alias", "malformed_name", "unknown_tool"], name: str
) -> Failure:
    type_ = Failure(kind=kind, message="").type
    return Failure(kind=kind, message=describe(type_, name=name[:200]))


def check_tool_choice(
    choice: ToolChoice | None, config: Config, catalogs: Catalogs
) -> str | None:
    """Check a tool choice before the run is written (contract 4.3).

    Returns:
        The alias of a server that must be asked for its tools before the name
        can be judged, or None when everything is settled.

    Raises:
        RequestError: the choice names nothing that is on offer.
    """
    match choice:
        case None | Auto():
            return None
        case AnyTool():
            if _statically_empty(config, catalogs):
                raise RequestError("tool-choice-without-tools", kind="any")
            return None
        case SpecificTool():
            return _check_specific(choice, config, catalogs)
        case _:
            assert_never(choice)


def _statically_empty(config: Config, catalogs: Catalogs) -> bool:
    ours = any(offers is None or offers for offers in catalogs.values())
    theirs = any(group.tools for group in config.client_tools or ())
    return not (ours or theirs or config.tools)


def _check_specific(
    choice: SpecificTool, config: Config, catalogs: Catalogs
) -> str | None:
    alias, tool = choice.mcp_alias, choice.name
    if alias is None:
        if choice.name in _client_names(config):
            return None
        alias, tool = split_wire_name(choice.name) or ("", choice.name)
        if alias not in catalogs:
            raise RequestError("unknown-tool-choice-name", name=choice.name)
    elif alias not in catalogs:
        raise RequestError("unknown-tool-choice-mcp-alias", alias=alias)
    offers = catalogs[alias]
    if offers is None:
        return alias
    usable = is_wire_name(wire_name(alias, tool))  # others are not on offer
    if not usable or all(offer.spec.name != tool for offer in offers):
        raise RequestError("unknown-tool-choice-name", name=choice.name)
    return None


def _client_names(config: Config) -> set[str]:
    return {
        wire_name(group.alias, spec.name)
        for group in config.client_tools or ()
        for spec in group.tools
    } | {spec.name for spec in config.tools or ()}


def on_the_wire(choice: ToolChoice | None) -> ToolChoice:
    """The choice with its tool under the wire name, auto when nothing is forced."""
    match choice:
        case None:
            return Auto()
        case SpecificTool(name, mcp_alias) if mcp_alias is not None:
            return SpecificTool(wire_name(mcp_alias, name))
        case _:
            return choice
