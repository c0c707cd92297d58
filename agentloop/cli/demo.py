"""`agentloop demo`: a real run from `pending` to its end, without an account.

Everything is real but the model: boto3 speaks HTTP to a server on this machine
that answers like Bedrock and enforces its rules, tools are Python functions, and
the store is a SQLite file.
"""

import shlex
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from agentloop.backends.bedrock import BedrockBackend
from agentloop.cli import parts, render
from agentloop.core.run import Run, Scope
from agentloop.runtime.face import AgentLoop
from agentloop.stores.sqlite import SQLiteStore
from agentloop.testing.fake_bedrock import FakeBedrock, calls, fails, says, throttles
from agentloop.tools.functions import tool
from agentloop.wire import to_json

SCOPE = Scope(1, 407)
DEFAULTS: dict[str, Any] = {
    "model": "anthropic.claude-opus-4.6",
    "max_iterations": 6,
    "max_tokens": 1024,
    "client_tools": [
        {
            "alias": "user",
            "tools": [
                {
                    "name": "confirm_booking",
                    "description": "Ask the person to confirm a slot.",
                    "input_schema": {
                        "type": "object",
                        "required": ["slot"],
                        "properties": {"slot": {"type": "string"}},
                    },
                }
            ],
        }
    ],
}
SCRIPT = (
    calls(("rooms-free_slots", {"day": "Friday"}), text="Let me look."),
    throttles("slow down"),
    calls(("user-confirm_booking", {"slot": "Friday 10:00"})),
    calls(("rooms-book", {"slot": "Friday 10:00"})),
    says("Room 3 is booked for Friday at 10:00."),
    fails("AccessDeniedException", 403, "no access to this model"),
)


@tool(repeatable=True)
def free_slots(day: str) -> list[str]:
    """Free slots of room 3 on a day."""
    return [f"{day} 10:00", f"{day} 14:00"]


@tool
def book(slot: str) -> str:
    """Book room 3 for a slot."""
    return f"booked: {slot}"


def demo(
    keep: Annotated[
        str | None, typer.Option(help="Keep the store in this file.")
    ] = None,
) -> None:
    """Watch a booking: a run pauses for a person, goes on, and another one fails."""
    console = render.console()
    with tempfile.TemporaryDirectory(prefix="agentloop-demo-") as folder:
        file = keep or str(Path(folder) / "demo.db")
        with parts.plain_errors(), FakeBedrock(*SCRIPT) as bedrock:
            store = SQLiteStore(file)
            try:
                conversation = _play(
                    AgentLoop(
                        BedrockBackend(bedrock.client()),
                        store,
                        {"rooms": [free_slots, book]},
                    ),
                    console,
                )
            finally:
                store.close()
    if keep:
        again = ["agentloop", "messages", conversation, "--store", keep]
        scope = ["--company", str(SCOPE.company_id), "--user", str(SCOPE.user_id)]
        command = shlex.join([*again, *scope])  # in one line, to be copied
        console.print(f"kept; read it with: {command}", markup=False, soft_wrap=True)


def _play(loop: AgentLoop, console: Console) -> str:
    """The scenes of the demo, in one conversation, whose id is returned."""
    with loop:
        conversation = loop.create_conversation(
            name="room booking",
            system_prompt="Help people book rooms. Ask before you book.",
            defaults=DEFAULTS,
            scope=SCOPE,
        )
        id_ = conversation.id
        say(console, "the person asks")
        question = "Is room 3 free on Friday? Book it if so."
        paused = _drive(loop, id_, question, console)
        slot = paused.pending_tool_calls[0].arguments["slot"]
        say(console, f"the person confirms {slot}, which is a run of its own")
        outputs = [
            {
                "tool_use_id": call.tool_use_id,
                "content": {"confirmed": True},
            }
            for call in paused.pending_tool_calls
        ]
        payload = {"kind": "tool_outputs", "outputs": outputs}
        booked = _drive(loop, id_, payload, console)
        say(console, "one more question, and the provider says no")
        failed = _drive(loop, id_, "And on Saturday?", console)
        _report(loop, id_, booked, failed, console)
        return id_


def _drive(loop: AgentLoop, id_: str, payload: Any, console: Console) -> Run:
    started = loop.start_run(id_, payload, scope=SCOPE)
    console.print(f"  {render.status(started.status)} [dim]run {started.id}[/]")
    progress = render.Progress(console)
    for event in loop.events(started.id, scope=SCOPE):
        progress.show(event)
    return loop.get_run(started.id, scope=SCOPE)


def say(console: Console, text: str) -> None:
    """A heading between two runs."""
    console.print(f"\n[bold]{escape(text)}[/]")


def _report(
    loop: AgentLoop, id_: str, booked: Run, failed: Run, console: Console
) -> None:
    delta = loop.messages(id_, scope=SCOPE)
    say(console, f"the conversation, now at version {delta.current_version}")
    console.print(render.message_table(delta.messages))
    say(console, "the run that failed left no message, and says why")
    console.print_json(data=to_json(failed.error))
    say(console, "the run that completed")
    console.print_json(data=to_json(booked))
