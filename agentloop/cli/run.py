"""`agentloop run`: one user message, driven here to its end."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from agentloop.cli import backends, parts, render
from agentloop.core.run import Run, Scope
from agentloop.runtime.face import AgentLoop
from agentloop.wire import WireError, parse, to_json

EXIT_CODES = {"completed": 0, "requires_action": 3, "failed": 1}
INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""


def run(
    config: Annotated[
        str,
        typer.Argument(
            help="A JSON file: defaults (with a model), and optionally name, "
            "system_prompt. With --conversation it is not read; give '-'."
        ),
    ],
    message: Annotated[str, typer.Argument(help="What the user says.")],
    store: Annotated[str, typer.Option(help=parts.STORE_HELP)] = "agentloop.db",
    backend: Annotated[str, typer.Option(help=parts.BACKEND_HELP)] = "bedrock",
    backends_file: Annotated[
        str | None, typer.Option("--backends", help=parts.BACKENDS_HELP)
    ] = None,
    endpoint_url: Annotated[
        str | None, typer.Option(help="Another address for the provider.")
    ] = None,
    region: Annotated[str | None, typer.Option(help="The provider's region.")] = None,
    tools: Annotated[
        list[str] | None,
        typer.Option(help="Host tools, ALIAS=module:name; may be repeated."),
    ] = None,
    conversation: Annotated[
        str | None, typer.Option(help="Go on with this conversation.")
    ] = None,
    company: Annotated[int, typer.Option(help="The company of the scope.")] = 1,
    user: Annotated[int, typer.Option(help="The user of the scope.")] = 1,
    ask: Annotated[
        bool, typer.Option(help="Answer client tools at the prompt.")
    ] = True,
    json_only: Annotated[
        bool, typer.Option("--json", help="Print the run as JSON and nothing else.")
    ] = False,
) -> None:
    """Say something to an agent and watch its run.

    Exits with 0 when the run completed, 3 when it waits for client tools, 1 when
    it failed, 2 when it could not be started, and 130 after Ctrl-C: then the run is
    kept, and a worker over the same store goes on with it.
    """
    scope = Scope(company, user)
    console = Console(stderr=json_only, quiet=json_only)
    with (
        parts.plain_errors(),
        parts.open_store(store) as opened,
        backends.choose(backend, endpoint_url, region, backends_file) as chosen,
        parts.make_loop(
            chosen.default,
            opened,
            parts.load_tools(tools or []),
            backends=chosen.planes,
        ) as loop,
        _told_of_ctrl_c(store),
    ):
        id_ = conversation or _create(loop, parts.read_json(config), scope)
        console.print(f"[dim]conversation {id_}[/]")
        ended = _drive(loop, id_, message, scope, console)
        while ask and ended.status == "requires_action":
            outputs = _answers(ended)
            ended = _drive(loop, id_, outputs, scope, console)
    _report(ended, console, json_only)
    raise typer.Exit(EXIT_CODES[ended.status])


@contextmanager
def _told_of_ctrl_c(store: str) -> Iterator[None]:
    """Say what becomes of the run, which the loop then gives back."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(
            "\nagentloop: stopping when the call under way has ended; Ctrl-C again "
            f"stops at once. To go on: agentloop worker --store {parts.shown(store)}",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None


def _create(loop: AgentLoop, body: Any, scope: Scope) -> str:
    return loop.create_conversation(body, scope=scope).id


def _drive(
    loop: AgentLoop, conversation: str, payload: Any, scope: Scope, console: Console
) -> Run:
    started = loop.start_run(conversation, payload, scope=scope)
    console.print(f"[dim]run {started.id}[/] {render.status(started.status)}")
    progress = render.Progress(console)
    for event in loop.events(started.id, scope=scope):
        progress.show(event)
    return loop.get_run(started.id, scope=scope)


def _answers(run: Run) -> dict[str, Any]:
    """Ask for every pending call; JSON is taken as such, anything else as text."""
    outputs = []
    for call in run.pending_tool_calls:
        shown = parts.as_json(dict(call.arguments))
        typer.echo(f"{call.name} {shown}", err=True)
        text = typer.prompt("answer", err=True)
        outputs.append({"tool_use_id": call.tool_use_id, "content": _value(text)})
    return {"kind": "tool_outputs", "outputs": outputs}


def _value(text: str) -> Any:
    try:
        return parse(text)[0]
    except WireError:
        return text


def _report(run: Run, console: Console, json_only: bool) -> None:
    if json_only:
        typer.echo(parts.as_json(to_json(run)))
        return
    console.print(render.summary(run))
    if run.error is not None:
        console.print(f"[red]{run.error.type}[/] {run.error.message}", highlight=False)
    if run.final_text is not None:
        console.print(run.final_text, markup=False, highlight=False)
    elif run.final_structured_output is not None:
        console.print_json(data=run.final_structured_output)
