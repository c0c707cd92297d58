"""`agentloop doctor`: what is wrong with this installation, one line each."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal, TypeAlias

import typer
from rich.console import Console

from agentloop.cli import parts
from agentloop.ports import MissingExtraError, StoreUnavailableError, require

Grade: TypeAlias = Literal["ok", "note", "wrong"]
Finding: TypeAlias = tuple[Grade, str]
PACKAGES = {
    "attrs": "core",
    "cattrs": "core",
    "msgspec": "tools",
    "jsonschema-rs": "tools",
    "boto3": "bedrock",
    "botocore": "bedrock",
}
_MARKS = {"ok": "[green]ok[/]   ", "note": "[yellow]note[/] ", "wrong": "[red]wrong[/]"}


def doctor(
    store: Annotated[str, typer.Option(help=parts.STORE_HELP)] = "memory:",
    backend: Annotated[str, typer.Option(help="bedrock")] = "bedrock",
    region: Annotated[str | None, typer.Option(help="The provider's region.")] = None,
    endpoint_url: Annotated[
        str | None, typer.Option(help="Another address for the provider.")
    ] = None,
) -> None:
    """Check versions, store, credentials, region, time-outs and retries.

    Nothing is sent to a provider. Exits with 1 when something is wrong.
    """
    if backend != "bedrock":
        parts.stop(f"--backend {backend!r} has nothing to examine; use bedrock")
    console = Console()
    wrong = False
    for grade, text in _findings(store, region, endpoint_url):
        wrong = wrong or grade == "wrong"
        console.print(f"{_MARKS[grade]} {text}", highlight=False)
    raise typer.Exit(1 if wrong else 0)


def _findings(
    store: str, region: str | None, endpoint_url: str | None
) -> Iterator[Finding]:
    yield from _versions()
    yield from _store(store)
    yield from _bedrock(region, endpoint_url)


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
    try:
        with parts.open_store(url) as store:
            store.ping()
    except StoreUnavailableError as error:
        yield "wrong", f"store {url}: {error}"
    else:
        yield "ok", f"store {url} answers"


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
