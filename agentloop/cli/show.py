"""`agentloop show` and `agentloop messages`: what is in a store."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from agentloop.cli import parts, render
from agentloop.core.catalog import RequestError
from agentloop.runtime.face import AgentLoop
from agentloop.testing.scripted import ScriptedBackend
from agentloop.wire import to_json

Company = Annotated[int, typer.Option(help="The company of the scope.")]
User = Annotated[int, typer.Option(help="The user of the scope.")]
StoreUrl = Annotated[str, typer.Option(help=parts.STORE_HELP)]


@contextmanager
def _reader(store: str) -> Iterator[AgentLoop]:
    """A loop to read with: its model is an empty script that refuses to speak."""
    with parts.open_store(store, must_exist=True) as opened:
        yield AgentLoop(ScriptedBackend(), opened)


def show(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="A run, or an inference job.")
    ],
    store: StoreUrl = "agentloop.db",
    company: Company = 1,
    user: User = 1,
) -> None:
    """Print a run, or one of its inference jobs, as JSON."""
    scope = parts.scope(company, user)
    with parts.plain_errors(), _reader(store) as loop:
        try:
            found = to_json(loop.get_run(id_, scope=scope))
        except RequestError:
            found = to_json(loop.inference_job(id_, scope=scope))
    typer.echo(parts.as_json(found))


def messages(
    conversation: Annotated[str, typer.Argument(help="A conversation.")],
    store: StoreUrl = "agentloop.db",
    since: Annotated[int, typer.Option(help="Only what came after.")] = 0,
    json_only: Annotated[
        bool, typer.Option("--json", help="Print the contract's JSON.")
    ] = False,
    company: Company = 1,
    user: User = 1,
) -> None:
    """Print the messages of a conversation."""
    scope = parts.scope(company, user)
    with parts.plain_errors(), _reader(store) as loop:
        delta = loop.messages(conversation, scope=scope, since=since)
    if json_only:
        typer.echo(parts.as_json(to_json(delta)))
        return
    console = render.console()
    console.print(render.message_table(delta.messages))
    console.print(f"[dim]version {delta.current_version}[/]")
