"""`agentloop run`: one user message, or the answers to pending calls, driven here."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from agentloop.cli import backends, flags, parts, render
from agentloop.core.catalog import RequestError
from agentloop.core.run import Run, Scope
from agentloop.runtime.face import AgentLoop
from agentloop.wire import WireError, parse, to_json

EXIT_CODES = {"completed": 0, "requires_action": 3, "failed": 1}
INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""
DEFAULTS: Mapping[str, Any] = {
    "--store": "agentloop.db",
    "--backend": "bedrock",
    "--company": 1,
    "--user": 1,
}
"""What an option is when it is not given, where that is something."""


def run(
    config: flags.ConfigFile,
    message: flags.Message = None,
    store: flags.StoreUrl = "agentloop.db",
    backend: flags.BackendName = "bedrock",
    backends_file: flags.BackendsFile = None,
    endpoint_url: flags.EndpointUrl = None,
    region: flags.Region = None,
    tools: flags.ToolSpecs = None,
    conversation: flags.ConversationId = None,
    company: flags.Company = 1,
    user: flags.User = 1,
    ask: flags.Ask = True,
    json_only: flags.JsonOnly = False,
) -> None:
    """Say something to an agent and watch its run.

    Exits with 0 when the run completed, 3 when it waits for client tools, 1 when
    it failed, 2 when it could not be started, and 130 after Ctrl-C. What is left to
    do then is told: a run that waits is answered by the same command without a
    message, one that was interrupted is gone on with by a worker over the same store.
    """
    scope = parts.scope(company, user)
    _check_message(message, conversation)
    console = render.console(stderr=json_only, quiet=json_only)
    options = {
        "--store": store,
        "--backend": backend,
        "--backends": backends_file,
        "--endpoint-url": endpoint_url,
        "--region": region,
        "--company": company,
        "--user": user,
    }
    with parts.plain_errors(), _opened(options, tools or []) as loop:
        id_ = conversation or _create(loop, config, scope)
        again = _again(id_, options, tools or [])
        console.print(f"[dim]conversation {escape(id_)}[/]")
        if message is None:
            ended = _waiting(loop, id_, scope)
        else:
            ended = _drive(loop, id_, message, scope, console)
        while ask and (outputs := _answers(ended, again)):
            ended = _drive(loop, id_, outputs, scope, console)
    _report(ended, console, json_only)
    if ended.status == "requires_action":
        _tell_how_to_answer(ended, again)
    raise typer.Exit(EXIT_CODES[ended.status])


@contextmanager
def _opened(options: Mapping[str, Any], tools: list[str]) -> Iterator[AgentLoop]:
    """The loop that the options name, closed at the end, also by Ctrl-C."""
    named = ("--backend", "--endpoint-url", "--region", "--backends")
    backend, endpoint_url, region, file = map(options.__getitem__, named)
    with (
        parts.open_store(options["--store"]) as store,
        backends.choose(backend, endpoint_url, region, file) as chosen,
        parts.make_loop(
            AgentLoop,
            chosen.default,
            store,
            parts.load_tools(tools),
            backends=chosen.planes,
        ) as loop,
        _told_of_ctrl_c(options["--store"]),
    ):
        yield loop


def _check_message(message: str | None, conversation: str | None) -> None:
    if message is None and conversation is None:
        parts.stop("give a MESSAGE, or --conversation to answer what it waits for")
    if message is not None and not message.strip():
        parts.stop("MESSAGE is blank; say something")


def _again(conversation: str, options: Mapping[str, Any], tools: list[str]) -> str:
    """The command that answers the calls which a run of the conversation waits for.

    Empty where nothing is kept of it.
    """
    if options["--store"] in parts.IN_MEMORY:
        return ""
    words = ["agentloop", "run", "-", "--conversation", conversation]
    for name, value in options.items():
        if value != DEFAULTS.get(name):
            shown = parts.shown(value) if name == "--store" else str(value)
            words += [name, shown]
    for spec in tools:
        words += ["--tools", spec]
    return shlex.join(words)


def _waiting(loop: AgentLoop, conversation: str, scope: Scope) -> Run:
    """The run of a conversation whose calls nobody has answered yet.

    A run that failed does not count: it may have been an answer that came to nothing.
    """
    runs = loop.list_runs(conversation, scope=scope)
    last = next((run for run in reversed(runs) if run.status != "failed"), None)
    if last is None or last.status != "requires_action":
        parts.stop(f"conversation {conversation} waits for no answer; give a MESSAGE")
    return last


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


def _create(loop: AgentLoop, file: str, scope: Scope) -> str:
    body = parts.read_json(file)
    if not isinstance(body, dict) or not isinstance(body.get("defaults"), dict):
        parts.stop(
            f'{file}: needs an object such as {{"defaults": {{"model": "..."}}}}, and '
            "optionally name and system_prompt beside defaults"
        )
    try:
        return loop.create_conversation(body, scope=scope).id
    except RequestError as error:
        parts.stop(f"{file}: {error}")


def _drive(
    loop: AgentLoop, conversation: str, payload: Any, scope: Scope, console: Console
) -> Run:
    started = loop.start_run(conversation, payload, scope=scope)
    console.print(f"[dim]run {started.id}[/] {render.status(started.status)}")
    progress = render.Progress(console)
    for event in loop.events(started.id, scope=scope):
        progress.show(event)
    return loop.get_run(started.id, scope=scope)


def _answers(run: Run, again: str) -> dict[str, Any] | None:
    """Ask for every pending call; JSON is taken as such, anything else as text.

    None when there is none, or when the input ends before the last answer; the run
    goes on waiting then, as it does after Ctrl-C.
    """
    if run.status != "requires_action":
        return None
    outputs = []
    for call in run.pending_tool_calls:
        shown = parts.as_json(dict(call.arguments))
        typer.echo(f"{call.name} {shown}", err=True)
        try:
            text = _line("answer: ")
        except KeyboardInterrupt:
            _tell_how_to_answer(run, again)
            raise typer.Exit(INTERRUPTED) from None
        if text is None:
            return None
        outputs.append({"tool_use_id": call.tool_use_id, "content": _value(text)})
    return {"kind": "tool_outputs", "outputs": outputs}


def _line(prompt: str) -> str | None:
    """A line that is not blank, or None at the end of the input."""
    while True:
        typer.echo(prompt, err=True, nl=False)
        line = sys.stdin.readline()
        if not line:
            typer.echo("", err=True)
            return None
        if line.strip():
            return line.strip()


def _tell_how_to_answer(run: Run, again: str) -> None:
    calls = len(run.pending_tool_calls)
    answers = f"{calls} answer{'s' if calls > 1 else ''}"
    way_out = f"To answer: {again}" if again else "It is not kept: its store is memory"
    typer.echo(f"\nagentloop: run {run.id} waits for {answers}. {way_out}", err=True)


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
        console.print(render.error(run))
    if run.final_text is not None:
        console.print(run.final_text, markup=False)
    elif run.final_structured_output is not None:
        console.print_json(data=run.final_structured_output)
