"""The Cortex backend as hosts configure it: models, options, transports, refusals."""

import re
import subprocess
import sys
from typing import Any

import pytest

from agentloop.backends.cortex import (
    CachePoints,
    Capabilities,
    CortexBackend,
    ModelOptions,
    Thinking,
    capabilities_of,
)
from agentloop.backends.cortex import backend as backend_module
from agentloop.backends.cortex.account import address_of, plain_url
from agentloop.backends.cortex.capabilities import dialect_of
from agentloop.core.catalog import RequestError
from agentloop.core.config import AnyTool, Auto, Config, SpecificTool
from agentloop.ports import MissingExtraError
from agentloop.testing.fake_snowflake import MODELS, FakeSnowflake
from agentloop.testing.fake_snowflake.known import has_tools, is_claude
from tests.bedrock_cases import ROOMS
from tests.cortex_cases import ASKED, CLAUDE, GPT, JOB, LLAMA, OPUS, setup


class Untouched:
    """A connection that nobody may look at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the connection's {name} was touched")


# ---------------------------------------------------------------- costs


@pytest.mark.parametrize("transport", ["rest", "sql"])
def test_nothing_is_touched_until_it_is_used(transport: Any) -> None:
    """Building, checking, opening a session and encoding leave the connection alone."""
    backend = CortexBackend(Untouched(), transport=transport)
    backend.check(Config(model=CLAUDE), Auto())
    session = backend.session(setup("sql", specs=()))
    assert session.request(ASKED, JOB)
    backend.close()


def test_importing_costs_nothing() -> None:
    """Importing and building load neither the connector nor the HTTP client."""
    code = (
        "import sys; from agentloop.backends.cortex import CortexBackend; "
        "CortexBackend(object()); CortexBackend(object(), transport='sql'); "
        "print({m.partition('.')[0] for m in sys.modules} "
        "& {'snowflake', 'urllib3', 'requests', 'ssl', 'boto3'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_name() -> None:
    """Job records call it cortex, whichever way it goes."""
    for transport in ("rest", "sql"):
        backend = CortexBackend(object(), transport=transport)  # type: ignore[arg-type] # both are transports
        assert (backend.name, backend.transport) == ("cortex", transport)


BAD_CHOICES: list[tuple[Any, dict[str, Any], str]] = [
    (object(), {"transport": "grpc"}, "transport must be rest or sql, not 'grpc'"),
    (None, {}, "the rest transport needs a connection, or auth"),
    (None, {"transport": "sql"}, "the sql transport needs a connection"),
    (
        object(),
        {"transport": "sql", "auth": lambda: ("", {})},
        "auth is for the rest transport; sql uses the connection",
    ),
]


@pytest.mark.parametrize(("connection", "choices", "problem"), BAD_CHOICES)
def test_choices_that_do_not_fit(
    connection: Any, choices: dict[str, Any], problem: str
) -> None:
    """What cannot work is refused when it is built, with the way out."""
    with pytest.raises(ValueError, match=problem):
        CortexBackend(connection, **choices)


def test_missing_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """REST without its HTTP client says how to install it, when a run starts."""
    monkeypatch.setattr(backend_module, "find_spec", lambda _: None)
    config = Config(model=CLAUDE)
    with pytest.raises(MissingExtraError, match=r"agentloop\[cortex\]"):
        CortexBackend(object()).check(config, Auto())
    CortexBackend(object(), transport="sql").check(config, Auto())
    CortexBackend(object(), pool=object()).check(config, Auto())


# ---------------------------------------------------------------- models

FAMILIES = {
    "claude-4-sonnet": "claude",
    "claude-3-5-sonnet": "claude",
    OPUS: "claude",
    GPT: "openai",
    "openai-o4-mini": "openai",
    LLAMA: "llama",
    "snowflake-llama-3.3-70b": "llama",
    "snowflake-arctic": "arctic",
    "mistral-large2": "mistral",
    "mixtral-8x7b": "mistral",
    "deepseek-r1": "deepseek",
    "something-new": "unknown",
    "": "unknown",
}


@pytest.mark.parametrize(("name", "family"), FAMILIES.items(), ids=repr)
def test_family(name: str, family: str) -> None:
    """A model is known by the beginning of its name."""
    assert capabilities_of(name).family == family


@pytest.mark.parametrize("name", MODELS)
def test_never_more_than_is_known(name: str) -> None:
    """The table offers tools to exactly those families that really have some."""
    can = capabilities_of(name)
    assert can.tools is has_tools(name)
    assert (can.reasoning == "signed") is is_claude(name)
    assert bool(can.forced_choice) is can.tools


VERSIONS = {
    "claude-3-5-sonnet": (set(), False),
    "claude-3-7-sonnet": ({"budget"}, False),
    "claude-4-sonnet": ({"budget"}, False),
    "claude-4-opus": ({"budget"}, False),
    "claude-sonnet-4-5": ({"budget"}, True),
    "claude-haiku-4-5": ({"budget"}, True),
    "claude-opus-4-6": ({"budget", "adaptive"}, True),
    "claude-opus-4-7": ({"budget", "adaptive"}, True),
    "claude-next": (set(), False),
}


@pytest.mark.parametrize("name", VERSIONS)
def test_claude_versions(name: str) -> None:
    """What Claude can do follows from its version, in both spellings."""
    can = capabilities_of(name)
    assert (set(can.thinking), can.native_schema) == VERSIONS[name]


@pytest.mark.parametrize("name", MODELS)
def test_dialect(name: str) -> None:
    """Claude is spoken to over Anthropic's wire, all others over OpenAI's."""
    assert dialect_of(name, "rest") == ("messages" if is_claude(name) else "chat")
    assert dialect_of(name, "sql") == "sql"


OWN = Capabilities(family="own", tools=True)


@pytest.mark.parametrize(
    "own", [{"mine": OWN}, {"mine": OWN}.get], ids=["mapping", "function"]
)
def test_own_capabilities(own: Any) -> None:
    """A host's record wins over the table, for the models it names."""
    ids = {"mine": LLAMA, "other": LLAMA}
    backend = CortexBackend(object(), capabilities=own, model_ids=ids)
    backend.check(Config(model="mine", tools=(ROOMS,)), Auto())
    with pytest.raises(RequestError, match="'other' takes no tools"):
        backend.check(Config(model="other", tools=(ROOMS,)), Auto())


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (None, b'"mine"'),
        ({"mine": GPT}, b'"openai-gpt-5"'),
        ({"x": GPT}, b'"mine"'),
        (str.upper, b'"MINE"'),
    ],
    ids=["none", "mapping", "not in it", "function"],
)
def test_model_ids(ids: Any, expected: bytes) -> None:
    """The name asked for is the host's for the model, else the model's own."""
    backend = CortexBackend(object(), model_ids=ids)
    session = backend.session(setup(name="mine"))
    assert b'"model":' + expected in session.request(ASKED, JOB)


# ---------------------------------------------------------------- checks

FORCED = SpecificTool("ask_user")
REFUSED: dict[str, tuple[str, str, Any, ModelOptions, str]] = {
    "tools over SQL": (
        "sql",
        CLAUDE,
        {"tools": (ROOMS,)},
        ModelOptions(),
        "emulate_tools=True",
    ),
    "tools for a family without": (
        "rest",
        LLAMA,
        {"tools": (ROOMS,)},
        ModelOptions(),
        "takes no tools over REST",
    ),
    "a forced tool": ("rest", LLAMA, AnyTool(), ModelOptions(), r"made to call"),
    "a named tool": ("rest", LLAMA, FORCED, ModelOptions(), r"made to call"),
    "thinking and a forced tool": (
        "rest",
        CLAUDE,
        AnyTool(),
        ModelOptions(thinking=Thinking(2000)),
        "a thinking model cannot be made to call a tool",
    ),
    "raw thinking and a forced tool": (
        "rest",
        CLAUDE,
        AnyTool(),
        ModelOptions(request_fields={"thinking": {"type": "enabled"}}),
        "a thinking model cannot be made to call a tool",
    ),
    "too many tokens": (
        "sql",
        CLAUDE,
        {"max_tokens": 8193},
        ModelOptions(),
        "at most 8192 tokens",
    ),
    "thinking over SQL": (
        "sql",
        CLAUDE,
        {},
        ModelOptions(thinking=Thinking(2000)),
        "has no budget thinking on this transport",
    ),
    "adaptive thinking": (
        "rest",
        CLAUDE,
        {},
        ModelOptions(thinking=Thinking()),
        "has no adaptive thinking",
    ),
    "thinking at a temperature": (
        "rest",
        CLAUDE,
        {"temperature": 0.5},
        ModelOptions(thinking=Thinking(2000)),
        "temperature 1 only",
    ),
    "too small a budget": (
        "rest",
        CLAUDE,
        {},
        ModelOptions(thinking=Thinking(100)),
        "at least 1024",
    ),
    "too large a budget": (
        "rest",
        CLAUDE,
        {"max_tokens": 2000},
        ModelOptions(thinking=Thinking(2000)),
        "below max_tokens",
    ),
    "top_p": ("rest", GPT, {}, ModelOptions(top_p=2), "between 0 and 1"),
    "two samplers": (
        "rest",
        CLAUDE,
        {"temperature": 0.5},
        ModelOptions(top_p=0.5),
        "temperature or top_p, not both",
    ),
    "cache points": (
        "rest",
        GPT,
        {},
        ModelOptions(cache=CachePoints(tools=False)),
        "takes no cache points in messages, system",
    ),
    "cache points over SQL": (
        "sql",
        CLAUDE,
        {},
        ModelOptions(cache=CachePoints()),
        "takes no cache points",
    ),
    "effort": ("rest", LLAMA, {}, ModelOptions(effort="low"), "told an effort"),
    "effort over SQL": ("sql", CLAUDE, {}, ModelOptions(effort="low"), "effort"),
    "stop sequences over SQL": (
        "sql",
        CLAUDE,
        {},
        ModelOptions(stop_sequences=("END",)),
        "no stop sequences",
    ),
    "a blank stop sequence": (
        "rest",
        CLAUDE,
        {},
        ModelOptions(stop_sequences=(" ",)),
        "must not be blank",
    ),
    "betas": ("rest", GPT, {}, ModelOptions(betas=("x",)), "no anthropic-beta"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_when_a_run_starts(case: str) -> None:
    """What every request of a run would be refused for is a 400 before it costs."""
    transport, name, changes, options, problem = REFUSED[case]
    choice = Auto() if isinstance(changes, dict) else changes
    config = Config(model=name, **(changes if isinstance(changes, dict) else {}))
    backend = CortexBackend(
        object(),
        transport=transport,  # type: ignore[arg-type] # the table holds both
        options={name: options},
    )
    with pytest.raises(RequestError, match=problem) as caught:
        backend.check(config, choice)
    assert (caught.value.slug, caught.value.status) == ("invalid-config", 400)


ACCEPTED: list[tuple[str, str, dict[str, Any], Any, ModelOptions]] = [
    ("rest", CLAUDE, {"tools": (ROOMS,)}, AnyTool(), ModelOptions()),
    ("rest", GPT, {"tools": (ROOMS,), "temperature": 0.5}, FORCED, ModelOptions()),
    ("rest", CLAUDE, {"temperature": 1}, Auto(), ModelOptions(thinking=Thinking(2000))),
    ("rest", OPUS, {}, Auto(), ModelOptions(thinking=Thinking(), effort="high")),
    ("rest", CLAUDE, {}, Auto(), ModelOptions(cache=CachePoints(), betas=("x",))),
    ("sql", LLAMA, {"max_tokens": 8192}, Auto(), ModelOptions(top_p=0.5)),
]


@pytest.mark.parametrize("number", range(len(ACCEPTED)))
def test_accepted(number: int) -> None:
    """What goes together is let through."""
    transport, name, changes, choice, options = ACCEPTED[number]
    backend = CortexBackend(
        object(),
        transport=transport,  # type: ignore[arg-type] # the table holds both
        options={name: options},
    )
    backend.check(Config(model=name, **changes), choice)


def test_emulated_tools_are_accepted() -> None:
    """A host that asks for emulated tools gets them over SQL, forced ones too."""
    backend = CortexBackend(object(), transport="sql", emulate_tools=True)
    backend.check(Config(model=LLAMA, tools=(ROOMS,)), SpecificTool("ask_user"))


def test_emulation_is_for_sql_alone() -> None:
    """Over REST tools are never emulated, and whoever asks for it is told so."""
    with pytest.raises(ValueError, match="emulate_tools is for the sql transport"):
        CortexBackend(object(), emulate_tools=True)
    with pytest.raises(RequestError, match="takes no tools over REST"):
        CortexBackend(object()).check(Config(model=LLAMA, tools=(ROOMS,)), Auto())


# ---------------------------------------------------------------- the connection

URLS = {
    "https://org-acme.snowflakecomputing.com:443": (
        "https://org-acme.snowflakecomputing.com:443"
    ),
    "https://org-Ac_me.snowflakecomputing.com/": (
        "https://org-ac-me.snowflakecomputing.com"
    ),
    "https://a_b.eu.privatelink.snowflakecomputing.com:443": (
        "https://a-b.eu.privatelink.snowflakecomputing.com:443"
    ),
    "http://my_proxy:8080": "http://my_proxy:8080",
}


@pytest.mark.parametrize(("url", "plain"), URLS.items())
def test_host_names(url: str, plain: str) -> None:
    """Underscores of account names become the dashes of their host names."""
    assert plain_url(url) == plain


def test_address() -> None:
    """URL and token are read from a real connection without any warning."""
    with FakeSnowflake() as sf:
        connection = sf.connect()
        assert address_of(connection) == (sf.url, "session-1-0")
        connection.close()
        assert address_of(connection)[1] is None


def test_address_of_a_wrapped_connection() -> None:
    """An object that only looks like a connection is asked in the plain way."""

    class Rest:
        token = "t"
        server_url = "http://h:1"

    class Wrapped:
        rest = Rest()

    assert address_of(Wrapped()) == ("http://h:1", "t")


WRONG: dict[str, dict[str, Any]] = {
    "connection must be a connection of the Snowflake connector, not a str": {
        "connection": "prod"
    },
    "connection must be a connection of the Snowflake connector, not a dict": {
        "connection": {"account": "a", "password": "secret"}
    },
    "auth must be a function, not a str": {"connection": None, "auth": "token"},
    "options['m'] must be of ModelOptions, not a dict: ModelOptions(...)": {
        "options": {"m": {"top_p": 0.5}}
    },
    "options['m'].betas must be of tuple or list, not a str": {
        "options": {"m": ModelOptions(betas="x")}  # type: ignore[arg-type] # meant
    },
    "capabilities['m'] must be of Capabilities, not a dict": {
        "capabilities": {"m": {"tools": True}}
    },
    "model_ids must be the provider's ids by model name": {"model_ids": ["m"]},
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_part_is_refused_at_the_door(words: str) -> None:
    """What is given is looked at when the backend is made, and no secret is told."""
    with pytest.raises(TypeError, match=re.escape(words)) as caught:
        CortexBackend(**{"connection": object(), **WRONG[words]})
    assert "secret" not in str(caught.value)
