"""How runs, events and messages look on a terminal.

What a provider, a model or a tool said is printed as it is: square brackets in it are
no markup, and colons no emoji. Whatever goes into a line of ours is escaped here.
"""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentloop.core.content import (
    Block,
    Document,
    Image,
    Json,
    Reasoning,
    Text,
    ToolResult,
    ToolUse,
)
from agentloop.core.run import Run, RunEvent, StoredMessage
from agentloop.wire import dump

_COLOURS = {
    "completed": "green",
    "requires_action": "yellow",
    "failed": "red",
    "running": "cyan",
    "pending": "cyan",
}


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A terminal that takes `:name:` in a text for what it is."""
    return Console(stderr=stderr, quiet=quiet, emoji=False, highlight=False)


def status(name: str) -> str:
    """A run's status, coloured."""
    return f"[{_COLOURS.get(name, 'white')}]{escape(name)}[/]"


class Progress:
    """Prints the events of a run as they happen."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._in_text = False

    def show(self, event: RunEvent) -> None:
        """Print one event; text deltas run on in one paragraph."""
        data = event.data
        if event.kind == "text_delta":
            if not self._in_text:
                self._console.print("    [dim]says[/]      ", end="")
            self._console.print(data["text"], end="", markup=False)
            self._in_text = True
            return
        if self._in_text:
            self._console.print()
            self._in_text = False
        if line := _line(event.kind, data):
            self._console.print(line)


def _line(kind: str, data: Any) -> str:
    match kind:
        case "job_submitted":
            job = f"[dim]job {data['job_id'][:8]}[/]"
            again = f", attempt {data['attempt']}" if data["attempt"] > 1 else ""
            return f"  [bold]iteration {data['iteration']}[/]{again} {job}"
        case "tool_started":
            return f"    [dim]calls[/]     {escape(data['name'])}"
        case "tool_finished":
            mark = "[red]failed[/]" if data["is_error"] else "[green]returned[/]"
            name = escape(data.get("name", data["key"]))
            return f"    [dim]tool[/]      {name} {mark}"
        case "attempt_discarded":
            code = f" ({data['code']})" if data.get("code") else ""
            why = escape(f"{data['reason']}{code}")
            return f"    [dim]attempt {data['attempt']}[/] {why}"
        case "retry_wait":
            return f"    [dim]waits[/]     {_span(data)}, then tries again"
        case "tools_discovered":
            return f"    [dim]found[/]     {data['tools']} tools"
        case "terminal":
            error = f" {data['error']}" if "error" in data else ""
            return f"  → {status(data['status'])}{escape(error)}"
        case _:
            return ""


def _span(data: Any) -> str:
    """How long is waited: about so long, but never less than the provider asked."""
    least = data.get("at_least", 0.0)
    if least > data["delay"]:
        return f"at least {least:g} s"
    return f"about {data['delay']:g} s"


def message_table(messages: Iterable[StoredMessage]) -> Table:
    """The messages of a conversation, one row each."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("no", "role", "content"):
        table.add_column(name)
    for message in messages:
        content = "\n".join(_block(block) for block in message.content_blocks)
        table.add_row(str(message.sequence_no), message.role, content)
    return table


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return escape(text)
        case ToolUse(_, name, arguments):
            return f"[cyan]{escape(name)}[/]({escape(dump(dict(arguments)))})"
        case ToolResult(_, content, is_error):
            inner = " ".join(_block(part) for part in content)
            mark = "[red]✗[/]" if is_error else "[green]=[/]"
            return f"{mark} {inner}"
        case Json(value):
            return escape(dump(value))
        case Image(format_) | Document(format_):
            return f"[dim]<{escape(format_)}>[/]"
        case Reasoning():
            return "[dim]<reasoning>[/]"
        case _:
            return f"[dim]<{escape(block.provider)} block>[/]"


def error(run: Run) -> str:
    """Why a run failed, in one line."""
    if run.error is None:
        raise AssertionError("only a failed run is asked for its error")
    return f"[red]{escape(run.error.type)}[/] {escape(run.error.message)}"


def summary(run: Run) -> str:
    """One line about how a run stands."""
    usage = run.usage
    tokens = f", {usage.total_tokens} tokens" if usage is not None else ""
    iterations = run.iterations_used or len(run.submitted_inference_job_ids)
    return f"{status(run.status)} after {iterations} iteration(s){tokens}"
