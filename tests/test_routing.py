"""Routing: what is on offer, what a name resolves to, what may be forced."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentloop.core.catalog import Failure, RequestError
from agentloop.core.config import (
    AnyTool,
    Auto,
    ClientTools,
    Config,
    McpServer,
    SpecificTool,
    ToolSpec,
    is_wire_name,
)
from agentloop.core.routing import (
    ClientRoute,
    Offer,
    ServerRoute,
    assemble,
    check_tool_choice,
    declared_catalogs,
    on_the_wire,
    resolve,
)
from tests import strategies as some

URL = "https://x.example.com/mcp"


def spec(name: str) -> ToolSpec:
    """A tool of this name."""
    return ToolSpec(name=name, description="d", input_schema={"type": "object"})


def offers(*names: str) -> tuple[Offer, ...]:
    """What a server with these tools offers."""
    return tuple(Offer(spec(name)) for name in names)


# One config of all vintages: `host` is registered, `said` declares its catalog,
# `found` is discovered, `user` is the caller's (A), `ask` is the caller's (B, C).
SERVERS = (
    McpServer(alias="host"),
    McpServer(alias="said", url=URL, tools=(spec("read"),)),
    McpServer(alias="found", url=URL),
)
GROUPS = (ClientTools(alias="user", tools=(spec("approve"),)),)
BARE = (spec("ask"),)
ALL = Config(model="m", mcp_servers=SERVERS, client_tools=GROUPS, tools=BARE)
REGISTERED = {"host": (Offer(spec("pay"), "fail"),), "other": offers("x")}
CATALOGS = {**declared_catalogs(ALL, REGISTERED), "found": offers("get", "a-b")}


# ---------------------------------------------------------------- catalogs


def test_catalogs_are_known_or_to_be_discovered():
    """The host's and declared ones are known, others are asked for."""
    assert declared_catalogs(ALL, REGISTERED) == {
        "host": REGISTERED["host"],
        "said": offers("read"),
        "found": None,
    }
    assert declared_catalogs(Config(model="m"), REGISTERED) == {}


def test_an_alias_that_the_host_dropped_shows():
    """Whoever starts the run turns this into an error of the run."""
    with pytest.raises(KeyError, match="host"):
        declared_catalogs(ALL, {})


def test_an_empty_declared_catalog_is_known():
    """An empty list means no tools, it does not mean ask."""
    config = Config(model="m", mcp_servers=(McpServer(alias="a", url=URL, tools=()),))
    assert declared_catalogs(config, {}) == {"a": ()}


def test_everything_on_offer_has_a_route_and_a_spec():
    """Names are those the model sees; routes say who answers, and how in doubt."""
    box = assemble(ALL, CATALOGS)
    assert dict(box.routing.routes) == {
        "host-pay": ServerRoute("host", "pay", "fail"),
        "said-read": ServerRoute("said", "read"),
        "found-get": ServerRoute("found", "get"),
        "found-a-b": ServerRoute("found", "a-b"),
        "user-approve": ClientRoute(),
        "ask": ClientRoute(),
    }
    assert [tool.name for tool in box.specs] == list(box.routing.routes)
    assert {tool.description for tool in box.specs} == {"d"}
    assert box.dropped == ()


def test_a_discovered_tool_that_no_provider_takes_is_left_out():
    """Bad characters, long names and repeats are reported and sink nothing."""
    fine, long = "n" * 58, "n" * 59
    found = offers("ok", "a b", "é", fine, long, "ok")
    box = assemble(ALL, {**CATALOGS, "found": found})
    assert [n for n in box.routing.routes if n.startswith("found-")] == [
        "found-ok",
        f"found-{fine}",
    ]
    assert box.dropped == ("found-a b", "found-é", f"found-{long}", "found-ok")


def test_nothing_is_assembled_before_every_server_answered():
    """A catalog that is still to be discovered is a mistake of the driver."""
    with pytest.raises(ValueError, match="the tools of 'found' were not discovered"):
        assemble(ALL, declared_catalogs(ALL, REGISTERED))


def test_a_config_without_tools_offers_nothing():
    """The empty toolbox is a legal one."""
    box = assemble(Config(model="m"), {})
    assert (dict(box.routing.routes), box.specs, box.dropped) == ({}, (), ())


@given(some.configs(), st.data())
def test_every_name_on_offer_resolves_to_its_route(config, data):
    """Whatever the config, specs, routes and resolution agree."""
    catalogs = {
        alias: offers(*data.draw(st.lists(some.texts(), max_size=3)))
        if known is None
        else known
        for alias, known in declared_catalogs(config, {}).items()
    }
    box = assemble(config, catalogs)
    assert [tool.name for tool in box.specs] == list(box.routing.routes)
    for name, route in box.routing.routes.items():
        assert is_wire_name(name)
        assert resolve(box.routing, name) == route
    for name in set(box.dropped) - set(box.routing.routes):
        assert isinstance(resolve(box.routing, name), Failure)


# ---------------------------------------------------------------- names

NO_BARE = Config(model="m", mcp_servers=SERVERS, client_tools=GROUPS)
UNKNOWN, MALFORMED = "AgentLoopUnknownToolAlias", "AgentLoopMalformedToolName"


@pytest.mark.parametrize(
    ("name", "with_bare", "without_bare"),
    [
        # no dash, and not among tools[]
        ("confirm", UNKNOWN, MALFORMED),
        ("", UNKNOWN, MALFORMED),
        ("ASK", UNKNOWN, MALFORMED),
        # a dash, and the part before it breaks the alias rule
        ("9docs-x", MALFORMED, MALFORMED),
        ("a23456789-x", MALFORMED, MALFORMED),
        ("-x", MALFORMED, MALFORMED),
        ("a_b-x", MALFORMED, MALFORMED),
        ("dоcs-x", MALFORMED, MALFORMED),
        # a dash, and the alias is unknown
        ("nope-read", UNKNOWN, UNKNOWN),
        ("Said-read", UNKNOWN, UNKNOWN),
        ("other-x", UNKNOWN, UNKNOWN),
        # the alias is known, the tool is not in its declared catalog
        ("said-write", "UnknownTool", "UnknownTool"),
        ("said-", "UnknownTool", "UnknownTool"),
        ("host-refund", "UnknownTool", "UnknownTool"),
        ("user-reject", "UnknownTool", "UnknownTool"),
        # the alias is known, the tool was not discovered
        ("found-put", UNKNOWN, UNKNOWN),
        ("found-", UNKNOWN, UNKNOWN),
        ("found-a", UNKNOWN, UNKNOWN),
    ],
)
def test_names_that_resolve_to_nothing(name, with_bare, without_bare):
    """Each row of the contract's paragraph, with and without tools[]."""
    for config, type_ in ((ALL, with_bare), (NO_BARE, without_bare)):
        lost = resolve(assemble(config, CATALOGS).routing, name)
        assert isinstance(lost, Failure)
        assert (lost.type, lost.retried) == (type_, False)
        assert f"'{name}'" in lost.message


def test_an_empty_list_of_bare_tools_is_none():
    """`tools: []` has no tools[], as far as names go."""
    config = Config(model="m", tools=())
    assert resolve(assemble(config, {}).routing, "ask").type == MALFORMED


def test_a_very_long_name_is_shown_in_part():
    """A model's nonsense does not fill the error."""
    lost = resolve(assemble(ALL, CATALOGS).routing, "n" * 5_000)
    assert len(lost.message) < 300


# ---------------------------------------------------------------- tool choice

KNOWN = {**CATALOGS, "found": None}


@pytest.mark.parametrize(
    ("choice", "asks"),
    [
        (None, None),
        (Auto(), None),
        (AnyTool(), None),
        (SpecificTool("ask"), None),
        (SpecificTool("user-approve"), None),
        (SpecificTool("said-read"), None),
        (SpecificTool("host-pay"), None),
        (SpecificTool("read", "said"), None),
        (SpecificTool("found-get"), "found"),
        (SpecificTool("get", "found"), "found"),
    ],
)
def test_a_choice_of_something_on_offer_is_taken(choice, asks):
    """What was discovered must first be asked for, the rest is settled."""
    assert check_tool_choice(choice, ALL, KNOWN) == asks
    assert check_tool_choice(choice, ALL, CATALOGS) is None


@pytest.mark.parametrize(
    ("choice", "slug", "named"),
    [
        (SpecificTool("nope"), "unknown-tool-choice-name", "'nope'"),
        (SpecificTool(""), "unknown-tool-choice-name", "''"),
        (SpecificTool("approve"), "unknown-tool-choice-name", "'approve'"),
        (SpecificTool("read"), "unknown-tool-choice-name", "'read'"),
        (SpecificTool("user-reject"), "unknown-tool-choice-name", "'user-reject'"),
        (SpecificTool("said-write"), "unknown-tool-choice-name", "'said-write'"),
        (SpecificTool("nope-read"), "unknown-tool-choice-name", "'nope-read'"),
        (SpecificTool("write", "said"), "unknown-tool-choice-name", "'write'"),
        (SpecificTool("said-read", "said"), "unknown-tool-choice-name", "'said-read'"),
        (SpecificTool("read", "nope"), "unknown-tool-choice-mcp-alias", "'nope'"),
        (SpecificTool("approve", "user"), "unknown-tool-choice-mcp-alias", "'user'"),
        (SpecificTool("ask", ""), "unknown-tool-choice-mcp-alias", "''"),
        (SpecificTool("put", "found"), "unknown-tool-choice-name", "'put'"),
        (SpecificTool("found-put"), "unknown-tool-choice-name", "'found-put'"),
    ],
)
def test_a_choice_of_nothing_on_offer_is_refused(choice, slug, named):
    """Aliases and names have a slug each, and the message quotes the choice."""
    with pytest.raises(RequestError) as caught:
        check_tool_choice(choice, ALL, CATALOGS)
    assert caught.value.slug == slug
    assert named in caught.value.detail


def test_a_choice_of_a_tool_that_is_left_out_is_refused():
    """A name that no provider takes is not in the catalog, though the server has it."""
    with pytest.raises(RequestError) as caught:
        check_tool_choice(SpecificTool("a b", "found"), ALL, {"found": offers("a b")})
    assert caught.value.slug == "unknown-tool-choice-name"


@pytest.mark.parametrize(
    ("config", "catalogs", "empty"),
    [
        (Config(model="m"), {}, True),
        (Config(model="m", tools=()), {"a": ()}, True),
        (Config(model="m", client_tools=(ClientTools(alias="u", tools=()),)), {}, True),
        (Config(model="m", tools=BARE), {}, False),
        (Config(model="m", client_tools=GROUPS), {}, False),
        (Config(model="m"), {"a": offers("x")}, False),
        (Config(model="m"), {"a": (), "b": None}, False),
    ],
)
def test_any_needs_a_tool_unless_one_may_be_found(config, catalogs, empty):
    """Refused only when the catalog is empty for certain."""
    if not empty:
        assert check_tool_choice(AnyTool(), config, catalogs) is None
        return
    with pytest.raises(RequestError) as caught:
        check_tool_choice(AnyTool(), config, catalogs)
    assert caught.value.slug == "tool-choice-without-tools"


def test_a_specific_tool_of_an_empty_catalog_is_refused():
    """Nothing is on offer, so nothing can be forced."""
    with pytest.raises(RequestError) as caught:
        check_tool_choice(SpecificTool("x"), Config(model="m"), {})
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("choice", "wire"),
    [
        (None, Auto()),
        (Auto(), Auto()),
        (AnyTool(), AnyTool()),
        (SpecificTool("ask"), SpecificTool("ask")),
        (SpecificTool("said-read"), SpecificTool("said-read")),
        (SpecificTool("read", "said"), SpecificTool("said-read")),
        (SpecificTool("a-b", "found"), SpecificTool("found-a-b")),
    ],
)
def test_a_choice_goes_out_under_its_wire_name(choice, wire):
    """The backend sees one form only."""
    assert on_the_wire(choice) == wire
