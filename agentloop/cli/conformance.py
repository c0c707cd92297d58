"""`agentloop conformance store module:factory`: does a host's store keep its word?"""

from typing import Annotated

import typer

from agentloop.cli import parts
from agentloop.testing.conformance import Outcome, Report, StoreConformance
from agentloop.testing.conformance.places import imported

app = typer.Typer(
    help="Examine what a host wrote by the promises of its port.",
    no_args_is_help=True,
)


@app.callback()
def conformance() -> None:
    """Examine what a host wrote by the promises of its port."""


@app.command("store")
def store(
    factory: Annotated[
        str,
        typer.Argument(
            help="module:name of a function that makes a store. With a parameter"
            " `clock` it also gets checks that need time to pass."
        ),
    ],
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Only what is not kept, and the counts.")
    ] = False,
) -> None:
    """Run every check on a store; exits with 1 when a promise is broken.

    Use a database without precious rows: checks prune what ended a day ago.
    """
    try:
        make = imported(factory)
    except (ValueError, TypeError, ImportError) as error:
        parts.stop(str(error))
    done: list[Outcome] = []
    for outcome in StoreConformance(make, place=factory).outcomes():
        done.append(outcome)
        if outcome.verdict != "kept" or not quiet:
            typer.echo(outcome)
    report = Report(tuple(done))
    typer.echo(report.summary())
    raise typer.Exit(0 if report.conforms else 1)
