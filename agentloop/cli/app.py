"""The commands by name, and what they share."""

from importlib.metadata import version
from typing import Annotated

import typer

from agentloop.cli import (
    conformance,
    demo,
    doctor,
    errors,
    migrate,
    run,
    serve,
    show,
    worker,
)

app = typer.Typer(
    name="agentloop",
    help="Run agent loops: conversations, runs and tools over your own storage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"agentloop {version('agentloop')}")
        raise typer.Exit


@app.callback()
def agentloop(
    _: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_tell_version,
            is_eager=True,
            help="Print the version and end.",
        ),
    ] = False,
) -> None:
    """Run agent loops: conversations, runs and tools over your own storage."""


app.command("demo")(demo.demo)
app.command("run")(run.run)
app.command("show")(show.show)
app.command("messages")(show.messages)
app.command("errors")(errors.errors)
app.command("doctor")(doctor.doctor)
app.command("serve")(serve.serve)
app.command("worker")(worker.worker)
app.command("migrate")(migrate.migrate)
app.add_typer(conformance.app, name="conformance")
