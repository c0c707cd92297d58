"""Configs: naming rules at their edges, and the merge as properties."""

import pytest
from attrs import asdict, evolve, fields
from hypothesis import given

from agentloop.core.catalog import RequestError
from agentloop.core.config import (
    MAX_ITERATIONS,
    REQUIRED,
    ClientTools,
    Config,
    McpServer,
    Override,
    ToolSpec,
    is_alias,
    is_wire_name,
    merge,
    split_wire_name,
    validate,
    wire_name,
    with_registered,
)
from tests import strategies as some

URL = "https://docs.example.com/mcp"


def spec(name: str, schema: dict | None = None) -> ToolSpec:
    """A tool with this schema."""
    return ToolSpec(name=name, input_schema=schema or {"type": "object"})


def config(**fields: object) -> Config:
    """A config with these fields and a model."""
    return Config(**{"model": "m", **fields})


def servers(*aliases: str) -> Config:
    """A config with servers under these aliases."""
    return config(mcp_servers=tuple(McpServer(alias=a, url=URL) for a in aliases))


def offering(alias: str, *names: str) -> McpServer:
    """A server that declares these tools."""
    return McpServer(alias=alias, url=URL, tools=tuple(spec(name) for name in names))


def clients(alias: str, *names: str) -> ClientTools:
    """Tools of the caller under an alias."""
    return ClientTools(alias=alias, tools=tuple(spec(name) for name in names))


def bare(*names: str) -> Config:
    """A config with bare tools of these names."""
    return config(tools=tuple(spec(name) for name in names))


def refused(bad: Config, registered: tuple[str, ...] = ()) -> tuple[str, str]:
    """Slug and detail with which a config is refused."""
    with pytest.raises(RequestError) as caught:
        validate(bad, registered)
    return caught.value.slug, caught.value.detail


# ---------------------------------------------------------------- names

LOOK_ALIKES = ("dоcs", "dócs", "ｄocs", "docѕ", "d\u200bocs", "docs\n", "a１")
"""Cyrillic, accented, full-width, zero-width and almost right."""


@pytest.mark.parametrize("alias", ["a", "Z", "a2345678", "DOCS", "x9"])
def test_an_alias_has_up_to_eight_letters_and_digits(alias):
    """A letter first, then letters and digits, one to eight in all."""
    assert is_alias(alias)
    validate(servers(alias))


@pytest.mark.parametrize(
    "alias",
    ["", "a23456789", "9a", "_a", "a-b", "a_b", "a b", " a", "a ", *LOOK_ALIKES],
)
def test_a_bad_alias_is_refused_wherever_it_stands(alias):
    """Servers and client tools follow one rule, and the message quotes it."""
    assert not is_alias(alias)
    told = f"invalid tool aliases (must match ^[a-zA-Z][a-zA-Z0-9]{{0,7}}$): {alias}"
    assert refused(servers(alias)) == ("invalid-tool-alias", told)
    grouped = config(client_tools=(clients(alias, "x"),))
    assert refused(grouped) == ("invalid-tool-alias", told)


def test_all_bad_aliases_are_named_in_their_order():
    """The caller mends them in one go."""
    slug, detail = refused(
        config(
            mcp_servers=(McpServer(alias="9", url=URL), McpServer(alias="ok", url=URL)),
            client_tools=(clients("a-b"),),
        )
    )
    assert (slug, detail.endswith(": 9, a-b")) == ("invalid-tool-alias", True)


@pytest.mark.parametrize(
    "bad",
    [
        servers("docs", "docs"),
        config(client_tools=(clients("docs"), clients("docs"))),
        config(mcp_servers=(offering("docs"),), client_tools=(clients("docs"),)),
    ],
)
def test_an_alias_is_used_once_over_servers_and_client_tools(bad):
    """Twice among servers, twice among client tools, or once in each."""
    told = (
        "duplicate tool aliases (must be unique across mcp_servers + client_tools)"
        ": docs"
    )
    assert refused(bad) == ("duplicate-tool-alias", told)


def test_aliases_differ_by_case():
    """Names are compared exactly."""
    validate(servers("docs", "Docs"))


@pytest.mark.parametrize(
    ("alias", "length", "fits"),
    [
        ("a", 62, True),
        ("a", 63, False),
        ("a2345678", 55, True),
        ("a2345678", 56, False),
    ],
)
def test_a_wire_name_has_up_to_64_characters(alias, length, fits):
    """Alias, dash and name count together, for servers and for client tools."""
    name = "n" * length
    for good in (
        config(mcp_servers=(offering(alias, name),)),
        config(client_tools=(clients(alias, name),)),
    ):
        if fits:
            validate(good)
            continue
        told = f"tool wire names exceed Bedrock's 64-char limit: {alias}-{name}"
        assert refused(good) == ("tool-name-too-long", told)


@pytest.mark.parametrize("name", ["x", "-x", "x-", "a-b--c", "_", "9", "A_b-9"])
def test_an_aliased_tool_may_have_dashes(name):
    """Only the first dash of a wire name separates."""
    validate(config(client_tools=(clients("user", name),)))
    assert split_wire_name(wire_name("user", name)) == ("user", name)


@pytest.mark.parametrize("name", ["", "a b", "a.b", "é", "a/b", "a\n", "ａ"])
def test_an_aliased_tool_has_letters_digits_and_two_marks(name):
    """A name that no provider takes is refused where it is declared."""
    told = f"tool names may hold only a-z, A-Z, 0-9, _ and -: docs-{name}"
    bad = config(mcp_servers=(offering("docs", name),))
    assert refused(bad) == ("invalid-config", told)


def test_an_aliased_tool_is_declared_once():
    """The same name twice under one alias is refused, under two it is not."""
    twice = config(client_tools=(clients("user", "x", "y", "x"),))
    told = "tools declared twice under one alias: user-x"
    assert refused(twice) == ("invalid-config", told)
    validate(config(mcp_servers=(offering("docs", "x"), offering("web", "x"))))


@pytest.mark.parametrize("name", ["a", "n" * 64, "_", "9x", "CONFIRM_booking"])
def test_a_bare_tool_has_up_to_64_characters_without_a_dash(name):
    """Vintages B and C: a caller's tool goes by its own name."""
    assert is_wire_name(name)
    validate(bare(name))


@pytest.mark.parametrize("name", ["", "a-b", "-", "n" * 65])
def test_a_bad_bare_name_is_refused(name):
    """Empty, dashed and long names have a slug of their own."""
    shown = name or "''"
    told = (
        "invalid caller-declared tool names "
        f"(must be non-empty, dash-free, and ≤ 64 chars): {shown}"
    )
    assert refused(bare("ok", name)) == ("invalid-caller-tool-name", told)


@pytest.mark.parametrize("name", ["a b", "é", "a.b", "a\n", "ａ"])
def test_a_bare_name_that_no_provider_takes_is_refused(name):
    """Characters outside the common set are no documented case, but an error."""
    assert not is_wire_name(name)
    told = f"tool names may hold only a-z, A-Z, 0-9, _: {name}"
    assert refused(bare(name)) == ("invalid-config", told)


def test_a_bare_name_is_declared_once():
    """Every repeated name is listed, once."""
    told = (
        "duplicate caller-declared tool names (must be unique within tools[]): ask, go"
    )
    bad = bare("ask", "go", "ask", "go", "ask")
    assert refused(bad) == ("duplicate-caller-tool-name", told)


def test_a_bare_name_may_equal_an_alias_or_a_servers_own_name():
    """The three name spaces do not touch, because a dash tells them apart."""
    both = config(mcp_servers=(offering("docs", "ask"),), tools=(spec("docs"),))
    validate(evolve(both, tools=(spec("docs"), spec("ask"))))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("docs-search", ("docs", "search")),
        ("docs-a-b", ("docs", "a-b")),
        ("docs-", ("docs", "")),
        ("-x", ("", "x")),
        ("docs", None),
        ("", None),
    ],
)
def test_a_wire_name_splits_at_its_first_dash(name, parts):
    """Alias and tool, or nothing for a name without a dash."""
    assert split_wire_name(name) == parts


# ---------------------------------------------------------------- servers


def test_a_server_without_url_names_an_alias_of_the_host():
    """Registered is fine; anything else is refused with what there is."""
    validate(config(mcp_servers=(McpServer(alias="rooms"),)), ("rooms",))
    told = (
        "$.mcp_servers[1] has no url and 'roomz' is no alias registered by the host "
        "(registered: desk, rooms)"
    )
    bad = config(mcp_servers=(McpServer(alias="rooms"), McpServer(alias="roomz")))
    assert refused(bad, ("rooms", "desk")) == ("invalid-config", told)
    assert refused(bad)[1].endswith("(registered: none)")


def test_a_server_without_url_declares_no_tools():
    """The host's tools are the host's to declare."""
    bad = config(mcp_servers=(McpServer(alias="rooms", tools=()),))
    told = "$.mcp_servers[0].tools needs a url: the tools of 'rooms' are the host's"
    assert refused(bad, ("rooms",)) == ("invalid-config", told)


def test_a_config_names_no_more_servers_than_can_be_asked():
    """Sixty-four by URL; the aliases of the host do not count."""

    def servers(n):
        return tuple(McpServer(alias=f"s{i}", url=URL) for i in range(n))

    own = [f"own{i}" for i in range(70)]
    hosts = tuple(McpServer(alias=alias) for alias in own)
    validate(config(mcp_servers=(*servers(64), *hosts)), own)
    told = "$.mcp_servers may hold at most 64 servers with a url, not 65"
    assert refused(config(mcp_servers=servers(65))) == ("invalid-config", told)


@pytest.mark.parametrize("url", ["", " \t"])
def test_a_blank_url_is_refused(url):
    """It is neither an address nor the absence of one."""
    bad = config(mcp_servers=(McpServer(alias="docs", url=url),))
    assert refused(bad) == ("invalid-config", "$.mcp_servers[0].url must not be blank")


@pytest.mark.parametrize(
    "url",
    [
        "not a url",
        "rooms.example.com/mcp",
        "ftp://rooms.example.com/mcp",
        "//rooms.example.com/mcp",
        "https://",
        "https:///mcp",
        "https://rooms.example.com/a b",
        "https://rooms.example.com/\n",
        "https://röoms.example.com/mcp",
        "https:\\\\rooms.example.com",
        "https://rooms.example.com/" + "x" * 2048,
    ],
)
def test_what_is_no_url_is_refused(url):
    """At once and with its path, not when a run comes to need it."""
    fine = McpServer(alias="web", url=URL)
    slug, told = refused(config(mcp_servers=(fine, McpServer(alias="docs", url=url))))
    assert slug == "invalid-config"
    assert told.startswith("$.mcp_servers[1].url must be an http or https URL of at mo")
    assert len(told) < 300


@pytest.mark.parametrize(
    "url", ["HTTPS://x", "http://127.0.0.1:8000/mcp?a=b#c", "https://[2606::1]/", URL]
)
def test_a_url_is_judged_by_its_form_alone(url):
    """Where a server may be is for the host to say, when a run is started."""
    validate(config(mcp_servers=(McpServer(alias="docs", url=url),)))


def test_registered_aliases_are_offered_unless_servers_are_listed():
    """Absent means all of them; a list, also an empty one, is taken as it is."""
    offered = with_registered(config(), ["rooms", "desk"])
    assert offered.mcp_servers == (McpServer(alias="rooms"), McpServer(alias="desk"))
    assert with_registered(config(), []).mcp_servers is None
    for listed in ((), (McpServer(alias="docs", url=URL),)):
        kept = config(mcp_servers=listed)
        assert with_registered(kept, ["rooms"]) is kept


# ---------------------------------------------------------------- numbers, schemas


@pytest.mark.parametrize(
    "good",
    [
        {"max_iterations": 1},
        {"max_iterations": MAX_ITERATIONS},
        {"max_tokens": 1},
        {"temperature": 0},
        {"temperature": 1.0},
    ],
)
def test_numbers_are_taken_up_to_their_bounds(good):
    """The bounds themselves are inside."""
    validate(config(**good))


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"model": ""}, "$.model must not be blank"),
        ({"model": " \n"}, "$.model must not be blank"),
        (
            {"max_iterations": 0},
            "$.max_iterations must be between 1 and 10000, not 0",
        ),
        (
            {"max_iterations": 10_001},
            "$.max_iterations must be between 1 and 10000, not 10001",
        ),
        ({"max_tokens": 0}, "$.max_tokens must be at least 1, not 0"),
        ({"max_tokens": -7}, "$.max_tokens must be at least 1, not -7"),
        ({"temperature": -0.1}, "$.temperature must be between 0 and 1, not -0.1"),
        ({"temperature": 1.01}, "$.temperature must be between 0 and 1, not 1.01"),
        (
            {"temperature": float("nan")},
            "$.temperature must be between 0 and 1, not nan",
        ),
    ],
)
def test_numbers_outside_their_bounds_are_refused_by_path(bad, told):
    """The message names the field, the bounds and the value."""
    assert refused(config(**bad)) == ("invalid-config", told)


def test_defaults_are_those_of_the_contract():
    """Eight iterations, 4096 tokens, and nothing else."""
    set_ = {k: v for k, v in asdict(config()).items() if v is not None}
    assert set_ == {"model": "m", "max_iterations": 8, "max_tokens": 4096}


OUTSIDE = {"properties": {"x": {"anyOf": [{}, {"$ref": "https://x.example.com/s"}]}}}
WHERE = ".properties.x.anyOf[1].$ref"


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        (config(output_format_schema=OUTSIDE), "$.output_format_schema"),
        (config(tools=(spec("a"), spec("b", OUTSIDE))), "$.tools[1].input_schema"),
        (
            config(client_tools=(ClientTools(alias="u", tools=(spec("b", OUTSIDE),)),)),
            "$.client_tools[0].tools[0].input_schema",
        ),
        (
            config(
                mcp_servers=(
                    McpServer(alias="docs", url=URL),
                    McpServer(alias="web", url=URL, tools=(spec("b", OUTSIDE),)),
                )
            ),
            "$.mcp_servers[1].tools[0].input_schema",
        ),
    ],
)
def test_a_schema_refers_to_nothing_outside(bad, path):
    """A reference that would be fetched is refused, wherever it is declared."""
    told = f"{path}{WHERE} must stay inside the schema, not 'https://x.example.com/s'"
    assert refused(bad) == ("invalid-config", told)


@pytest.mark.parametrize("word", ["$ref", "$dynamicRef"])
@pytest.mark.parametrize("target", ["other.json", "file:///etc/passwd", "", "urn:x"])
def test_both_words_of_reference_are_looked_at(word, target):
    """Relative, absolute, empty: only a fragment is inside."""
    assert refused(config(output_format_schema={"items": {word: target}}))[1] == (
        f"$.output_format_schema.items.{word} "
        f"must stay inside the schema, not '{target}'"
    )


@pytest.mark.parametrize(
    "good",
    [
        {"$ref": "#/$defs/x", "$defs": {"x": {}}},
        {"$dynamicRef": "#node"},
        {"properties": {"$ref": {"type": "string"}}},
        {"items": ({"$ref": "#"},)},
        {"enum": ["https://x.example.com/s", None, 3]},
    ],
)
def test_references_inside_a_schema_are_fine(good):
    """Fragments stay, and a property may be called `$ref`."""
    validate(config(output_format_schema=good))


def test_a_long_key_above_many_values_is_walked_in_little_memory():
    """A schema of some megabytes costs no more than its own size."""
    schema = {"k" * 1_000_000: [1] * 100_000}
    validate(config(output_format_schema=schema))


@given(some.configs())
def test_a_config_that_follows_the_rules_is_taken(made):
    """No rule refuses what the strategy builds by the written rules."""
    validate(made)


# ---------------------------------------------------------------- merge


@given(some.configs(), some.overrides())
def test_present_fields_replace_and_absent_ones_inherit(defaults, override):
    """Each field comes whole from one side, null included."""
    merged = merge(defaults, override)
    for field in fields(Config):
        wanted = override.changes.get(field.name, getattr(defaults, field.name))
        assert getattr(merged, field.name) == wanted


@given(some.configs(), some.overrides())
def test_merging_twice_is_merging_once(defaults, override):
    """The override of its own result changes nothing."""
    merged = merge(defaults, override)
    assert merge(merged, override) == merged


@given(some.configs(), some.overrides(), some.overrides())
def test_the_later_override_wins(defaults, first, second):
    """Two merges are one merge of both overrides."""
    both = Override({**first.changes, **second.changes})
    assert merge(merge(defaults, first), second) == merge(defaults, both)


@given(some.configs(), some.overrides())
def test_a_legal_override_of_legal_defaults_is_legal(defaults, override):
    """Rules between fields hold after a merge of harmless fields."""
    validate(merge(defaults, override))


@given(some.configs())
def test_no_override_is_the_defaults(defaults):
    """Absent and empty overrides return the very same config."""
    assert merge(defaults, None) is defaults
    assert merge(defaults, Override({})) is defaults


def test_lists_are_replaced_whole():
    """Neither servers nor tools of the defaults shine through."""
    defaults = config(tools=(spec("a"), spec("b")), mcp_servers=(offering("docs"),))
    merged = merge(defaults, Override({"tools": (spec("c"),), "mcp_servers": ()}))
    assert [tool.name for tool in merged.tools] == ["c"]
    assert merged.mcp_servers == ()


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_null_does_not_clear_what_every_run_needs(name):
    """Model, iterations and tokens are refused by path."""
    with pytest.raises(RequestError) as caught:
        merge(config(), Override({name: None}))
    told = f"$.config_override.{name} cannot be null"
    assert (caught.value.slug, caught.value.detail) == ("invalid-config", told)


@pytest.mark.parametrize(
    "name", sorted({field.name for field in fields(Config)} - REQUIRED)
)
def test_null_clears_everything_else(name):
    """An optional field is absent after an explicit null."""
    defaults = config(
        data_plane_id="p",
        execution_cluster="shared",
        compute_pool_id="c",
        temperature=0.5,
        output_format_schema={},
        mcp_servers=(),
        client_tools=(),
        tools=(),
    )
    assert getattr(merge(defaults, Override({name: None})), name) is None


def test_a_merge_can_break_rules_between_fields():
    """What was legal in the defaults is checked again with what joined it."""
    defaults = config(client_tools=(clients("docs", "x"),))
    merged = merge(defaults, Override({"mcp_servers": (offering("docs", "y"),)}))
    assert refused(merged)[0] == "duplicate-tool-alias"
