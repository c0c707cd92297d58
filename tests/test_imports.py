"""What importing costs, and what is public."""

import subprocess
import sys

import pytest

import agentloop

HEAVY = (
    "asyncio",
    "boto3",
    "botocore",
    "concurrent.futures",
    "httpx",
    "jsonschema_rs",
    "mcp",
    "msgspec",
    "psycopg",
    "rich",
    "snowflake",
    "sqlite3",
    "starlette",
    "typer",
    "urllib3",
)
PROVIDERS = tuple(n for n in HEAVY if n not in {"asyncio", "concurrent.futures"})


def loaded_by(code: str) -> set[str]:
    """The modules a fresh interpreter has after running some code."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import agentloop", HEAVY),
        ("from agentloop import Scope, Config, RequestError", HEAVY),
        ("from agentloop import tool\n@tool\ndef f(x: int) -> int:\n  'F.'", PROVIDERS),
        ("from agentloop import AgentLoop", (*PROVIDERS, "asyncio")),
        ("from agentloop import AsyncAgentLoop", PROVIDERS),
        ("from agentloop.backends.bedrock import BedrockBackend as B; B()", ("boto3",)),
        ("import agentloop.testing.plugin", ("agentloop.runtime", *PROVIDERS)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_heavy_is_loaded_before_it_is_used(
    code: str, forbidden: tuple[str, ...]
) -> None:
    """Importing a name loads what it needs and no provider, face or driver beside."""
    loaded = loaded_by(code)
    assert [name for name in forbidden if name in loaded] == []


def test_public_names_are_sorted_and_there() -> None:
    """`__all__` is in order, and each name can be had."""
    assert agentloop.__all__ == sorted(agentloop.__all__)
    assert dir(agentloop) == agentloop.__all__
    for name in agentloop.__all__:
        assert getattr(agentloop, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A typo is told as usual."""
    with pytest.raises(AttributeError, match="no attribute 'AgentLop'"):
        _ = agentloop.AgentLop
