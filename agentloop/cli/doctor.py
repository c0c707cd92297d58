"""`agentloop doctor`: what is wrong with this installation, one line each."""

import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Literal, TypeAlias

import typer
from rich.console import Console
from rich.markup import escape

from agentloop.cli import backends, parts, render
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
    "agentloop": "",
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
RETRY_VARIABLES = ("AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE")
_MARKS = {"ok": "[green]ok[/]   ", "note": "[yellow]note[/] ", "wrong": "[red]wrong[/]"}
_WAYS_OUT = {
    "bedrock": {
        "denied": "grant the caller bedrock:InvokeModel, and the account the model",
        "not_found": "check the model's id and the region",
        "invalid_request": "check the model's id and the region",
        "quota": "ask for a higher quota of the account",
        "connection": "check the region, proxies and network policies",
    },
    "cortex": {  # the rest is in the messages themselves
        "invalid_request": "check the model's name and options",
        "connection": "check the host name, proxies and network policies",
    },
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
    console = render.console()
    wrong = False
    with parts.plain_errors():
        for finding in _findings(store, kind, connection, (region, endpoint_url)):
            wrong = wrong or finding[0] == "wrong"
            _tell(console, finding)
        if model is not None and not wrong:
            with backends.choose(backend, endpoint_url, region, None) as chosen:
                finding = _ask(chosen.default, model)
            wrong = finding[0] == "wrong"
            _tell(console, finding)
    raise typer.Exit(1 if wrong else 0)


def _tell(console: Console, finding: Finding) -> None:
    grade, text = finding
    console.print(f"{_MARKS[grade]} {escape(text)}", soft_wrap=True)


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
            yield "note", f"{name} is missing; pip install 'agentloop[{extra}]'"


def _store(url: str) -> Iterator[Finding]:
    told = parts.shown(url)
    file = parts.file_of(url)
    if file is not None and not file.resolve().parent.is_dir():
        yield "wrong", f"store {told}: there is no folder {file.parent}"
        return
    if file is not None and not file.exists():
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
        errors = require("botocore.exceptions", "bedrock")
    except MissingExtraError as error:
        yield "wrong", str(error)
        return
    try:
        yield from _aws(region, endpoint_url)
    except (errors.BotoCoreError, ValueError) as error:
        yield "wrong", f"AWS: {' '.join(str(error).split())}"


def _aws(region: str | None, endpoint_url: str | None) -> Iterator[Finding]:
    from agentloop.backends.bedrock import BedrockBackend

    BedrockBackend(region=region, endpoint_url=endpoint_url)  # refuses what is no URL
    session = require("boto3", "bedrock").Session(region_name=region)
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
    yield from _clients(session, endpoint_url)


def _clients(session: Any, endpoint_url: str | None) -> Iterator[Finding]:
    """Time-outs and retries of the client that we build, and of one a host may give."""
    from agentloop.backends.bedrock import BedrockBackend, client_warnings

    built = BedrockBackend(region=session.region_name, endpoint_url=endpoint_url)
    yield "ok", f"BedrockBackend() builds a client with {_limits(built.open().client)}"
    for warning in built.warnings():
        yield "note", warning
    plain = session.client("bedrock-runtime", endpoint_url=endpoint_url)
    text = f"a plain boto3 client given to BedrockBackend has {_limits(plain)}"
    yield ("note" if client_warnings(plain) else "ok"), text
    for name in RETRY_VARIABLES:
        if value := os.environ.get(name):
            yield "note", f"{name}={value} is set; a client that we build ignores it"


def _limits(client: Any) -> str:
    from agentloop.backends.bedrock.client import attempts_of

    config, attempts = client.meta.config, attempts_of(client)
    return (
        f"{attempts} attempt{'s' if attempts > 1 else ''} per call, "
        f"time-outs of {config.connect_timeout:g} s to connect and "
        f"{config.read_timeout:g} s to read, {config.max_pool_connections} connections"
    )


def _cortex(name: str) -> Iterator[Finding]:
    """Log in, and say as whom and where; what a role may do is asked, too."""
    from agentloop.backends.cortex.errors import failure_of

    error_type = require("snowflake.connector", "cortex").Error
    try:
        connection = backends.login(name or None)
    except error_type as error:
        yield "wrong", f"login: {failure_of(error).message}"
        return
    try:
        user, role, region = connection.cursor().execute(_WHO).fetchone()
        yield "ok", f"Snowflake lets {user} in"
        yield _role(connection.cursor(), role, error_type)
        yield _region(connection.cursor(), region, error_type)
    except error_type as error:
        yield "wrong", f"session: {failure_of(error).message}"
    finally:
        connection.close()
    from agentloop.backends.cortex.http import CONNECT_TIMEOUT, READ_TIMEOUT

    yield (
        "ok",
        f"over REST: 1 attempt per call, time-outs of {CONNECT_TIMEOUT:g} s to connect "
        f"and {READ_TIMEOUT:g} s to read",
    )


def _role(cursor: Any, role: str | None, error_type: type[Exception]) -> Finding:
    """Whether the session's role may use Cortex, where Snowflake tells."""
    if not role:
        return "note", "the session has no role; REST uses the user's default role"
    try:
        held = cursor.execute(_HELD).fetchone()
    except error_type:
        return "note", f"role {role}; what it may do was not told"
    if "TRUE" in {str(one).upper() for one in held}:
        return "ok", f"session role {role} (REST uses the user's default role)"
    grant = f"grant database role {_USER_ROLE} to role {role}"
    return "wrong", f"role {role} lacks {_USER_ROLE}; {grant}"


def _region(cursor: Any, region: str, error_type: type[Exception]) -> Finding:
    """The account's region, and whether models of others are in reach."""
    try:
        row = cursor.execute(_CROSS).fetchone()
    except error_type:
        row = None
    if row is None:
        return "ok", f"region {region}"
    if str(row[1]).upper() != "DISABLED":
        return "ok", f"region {region}, cross-region inference {row[1]}"
    return "note", f"region {region} alone: models of others are unknown; see {_ACROSS}"


_USER_ROLE = "SNOWFLAKE.CORTEX_USER"
_ACROSS = "CORTEX_ENABLED_CROSS_REGION"
_WHO = "select current_user(), current_role(), current_region()"
_HELD = "select " + ", ".join(
    f"sys_context('SNOWFLAKE$SESSION', 'IS_DATABASE_ROLE_ACTIVATED', '{role}')"
    for role in (_USER_ROLE, "SNOWFLAKE.CORTEX_REST_API_USER")
)
_CROSS = f"show parameters like '{_ACROSS}' in account"


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
    way_out = _WAYS_OUT.get(backend.name, {}).get(failure.kind, "")
    return "wrong", f"model {model}: {failure.message}" + (way_out and f"; {way_out}")
