"""`agentloop doctor`: what is wrong with this installation, one line each."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal, TypeAlias

import typer
from rich.console import Console

from agentloop.cli import backends, parts
from agentloop.core.config import Auto, Config
from agentloop.core.content import Message, Text
from agentloop.core.phases import Infer, Log, ModelFailed
from agentloop.ports import (
    Backend,
    JobContext,
    MissingExtraError,
    SessionSetup,
    StoreUnavailableError,
    require,
)

Grade: TypeAlias = Literal["ok", "note", "wrong"]
Finding: TypeAlias = tuple[Grade, str]
PACKAGES = {
    "attrs": "core",
    "cattrs": "core",
    "msgspec": "tools",
    "jsonschema-rs": "tools",
    "boto3": "bedrock",
    "botocore": "bedrock",
    "snowflake-connector-python": "cortex",
    "mcp": "mcp",
    "starlette": "http",
}
_MARKS = {"ok": "[green]ok[/]   ", "note": "[yellow]note[/] ", "wrong": "[red]wrong[/]"}
_WAYS_OUT = {
    "denied": "grant the user's default role SNOWFLAKE.CORTEX_USER, or renew the token",
    "not_found": "check the model's name, the region, and cross-region inference",
    "invalid_request": "check the model's name, the region, and cross-region inference",
    "quota": "the account's budget is spent",
    "connection": "check the host name, proxies and network policies",
}


def doctor(
    store: Annotated[str, typer.Option(help=parts.STORE_HELP)] = "memory:",
    backend: Annotated[
        str, typer.Option(help="bedrock, or cortex[:CONNECTION]")
    ] = "bedrock",
    region: Annotated[str | None, typer.Option(help="The provider's region.")] = None,
    endpoint_url: Annotated[
        str | None, typer.Option(help="Another address for the provider.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Also ask this model for one token, which costs as much."),
    ] = None,
) -> None:
    """Check versions, store, credentials, region, time-outs and retries.

    Cortex is logged in to; otherwise nothing is sent to a provider unless a model is
    named. Exits with 1 when something is wrong.
    """
    kind, _, connection = backend.partition(":")
    if kind not in {"bedrock", "cortex"}:
        parts.stop(
            f"--backend {backend!r} has nothing to examine; use bedrock or cortex"
        )
    console = Console()
    wrong = False
    with parts.plain_errors():
        for grade, text in _findings(store, kind, connection, (region, endpoint_url)):
            wrong = wrong or grade == "wrong"
            console.print(f"{_MARKS[grade]} {text}", highlight=False, soft_wrap=True)
        if model is not None and not wrong:
            with backends.choose(backend, endpoint_url, region, None) as chosen:
                grade, text = _ask(chosen.default, model)
            wrong = grade == "wrong"
            console.print(f"{_MARKS[grade]} {text}", highlight=False, soft_wrap=True)
    raise typer.Exit(1 if wrong else 0)


def _findings(
    store: str, kind: str, connection: str, where: tuple[str | None, str | None]
) -> Iterator[Finding]:
    yield from _versions()
    yield from _store(store)
    if kind == "cortex":
        yield from _cortex(connection)
    else:
        yield from _bedrock(*where)


def _versions() -> Iterator[Finding]:
    python = platform.python_version()
    grade: Grade = "ok" if sys.version_info >= (3, 11) else "wrong"
    yield grade, f"Python {python}"
    for name, extra in PACKAGES.items():
        try:
            yield "ok", f"{name} {version(name)}"
        except PackageNotFoundError:
            yield "note", f"{name} is missing; pip install 'agentloop\\[{extra}]'"


def _store(url: str) -> Iterator[Finding]:
    told = parts.shown(url)
    if parts.is_missing(url):
        yield "note", f"store {told}: no such file yet; the first run makes it"
        return
    try:
        with parts.open_store(url) as store:
            store.ping()
    except StoreUnavailableError as error:
        yield "wrong", f"store {told}: {error}"
    else:
        yield "ok", f"store {told} answers"


def _bedrock(region: str | None, endpoint_url: str | None) -> Iterator[Finding]:
    try:
        session = require("boto3", "bedrock").Session(region_name=region)
    except MissingExtraError as error:
        yield "wrong", str(error)
        return
    # Asking the instance metadata service would send traffic and may hang.
    provider = session._session.get_component("credential_provider")
    provider.remove("iam-role")
    credentials = session.get_credentials()
    if credentials is None:
        yield "wrong", "no AWS credentials found outside instance metadata"
    else:
        yield "ok", f"AWS credentials by {credentials.method}"
    if session.region_name is None and endpoint_url is None:
        yield "wrong", "no AWS region; give --region or set AWS_REGION"
        return
    yield "ok", f"region {session.region_name or 'unset, an endpoint is given'}"
    from agentloop.backends.bedrock import BedrockBackend

    built = BedrockBackend(region=session.region_name, endpoint_url=endpoint_url)
    for warning in built.warnings():
        yield "note", warning


def _cortex(name: str) -> Iterator[Finding]:
    """Log in, and say as whom and where."""
    connection = backends.connect(name or None)
    try:
        row = connection.cursor().execute(_WHO).fetchone()
    finally:
        connection.close()
    yield "ok", f"Snowflake lets {row[0]} in"
    if row[1]:
        yield "ok", f"session role {row[1]} (REST uses the user's default role)"
    else:
        yield "note", "the session has no role; REST uses the user's default role"
    yield "ok", f"region {row[2]}"


_WHO = "select current_user(), current_role(), current_region()"


def _ask(backend: Backend | None, model: str) -> Finding:
    """One token from a model: the proof of role, region, model and token."""
    if backend is None:
        raise AssertionError("a --backend always names one")
    config = Config(model=model, max_tokens=1)
    setup = SessionSetup(config=config, system=None, specs=(), history=())
    log = Log(Message("user", (Text("Say a word."),)))
    command = Infer(1, 1, 0.0, 0.0, Auto(), log)
    job = JobContext(job_id="00000000-0000-4000-8000-000000000000", timeout=60.0)
    event = backend.session(setup).infer(command, job, None).event
    if not isinstance(event, ModelFailed):
        return "ok", f"model {model} answers"
    failure = event.failure
    way_out = _WAYS_OUT.get(failure.kind, "")
    return "wrong", f"model {model}: {failure.message}" + (way_out and f"; {way_out}")
