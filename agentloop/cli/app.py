"""The commands by name, and what they share."""

import typer

from agentloop.cli import conformance, demo, doctor, errors, migrate, run, serve, show

app = typer.Typer(
    name="agentloop",
    help="Run agent loops: conversations, runs and tools over your own storage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("run")(run.run)
app.command("show")(show.show)
app.command("messages")(show.messages)
app.command("errors")(errors.errors)
app.command("doctor")(doctor.doctor)
app.command("serve")(serve.serve)
app.command("worker")(serve.worker)
app.command("migrate")(migrate.migrate)
app.add_typer(conformance.app, name="conformance")
