"""The flags that commands share, or that would hide what a command does.

Values are looked at by the commands and by `agentloop.cli.parts`, not here.
"""

from typing import Annotated

import typer

from agentloop.cli import engines, parts

TOKEN_VARIABLE = "AGENTLOOP_TOKENS"  # noqa: S105 - the name of a variable, no secret

StoreUrl = Annotated[str, typer.Option(help=parts.STORE_HELP)]
BackendName = Annotated[str, typer.Option(help=parts.BACKEND_HELP)]
BackendsFile = Annotated[
    str | None, typer.Option("--backends", help=parts.BACKENDS_HELP)
]
EndpointUrl = Annotated[
    str | None, typer.Option(help="Another address for the provider.")
]
Region = Annotated[str | None, typer.Option(help="The provider's region.")]
ToolSpecs = Annotated[
    list[str] | None,
    typer.Option(help="Host tools, ALIAS=module:name; may be repeated."),
]
PrivateMcp = Annotated[
    bool,
    typer.Option(
        "--allow-private-mcp",
        help="Let MCP servers be on private addresses and plain http. For development.",
    ),
]
LeaseSeconds = Annotated[
    float | None,
    typer.Option(
        help="Seconds until a run of a silent process is taken over; "
        f"{engines.EMBEDDED_LEASE:g}, or {engines.ENGINE_LEASE:g} with an engine."
    ),
]
RunTimeout = Annotated[
    float,
    typer.Option(
        help="Seconds a run may take from its first claim on, its waits included: "
        "what a provider's or a server's Retry-After can cost at most."
    ),
]
AttemptTimeout = Annotated[float, typer.Option(help="Seconds one inference may take.")]
ToolTimeout = Annotated[float, typer.Option(help="Seconds one tool call may take.")]
JsonLogs = Annotated[bool, typer.Option(help="Write logs as JSON lines.")]
Drain = Annotated[
    float, typer.Option(min=0.0, help="Seconds that stopping may take altogether.")
]
Host = Annotated[str, typer.Option(help="Listen on this address.")]
Port = Annotated[int, typer.Option(help="And this port; 0 takes a free one.")]
Tokens = Annotated[
    list[str] | None,
    typer.Option(
        help="TOKEN=COMPANY:USER; may be repeated. Also one a line in a file "
        "given as @FILE, where # begins a comment, or in the variable "
        f"{TOKEN_VARIABLE}, between spaces."
    ),
]
Workers = Annotated[
    int, typer.Option("--concurrency", min=0, help="Runs driven at once; 0: none.")
]
AtOnce = Annotated[
    int, typer.Option("--concurrency", min=1, help="Runs driven at once.")
]
Visibility = Annotated[str, typer.Option(help="Who reads by id: company, or user.")]
MaxRequests = Annotated[
    int, typer.Option(min=1, help="Requests under way beyond which to answer 429.")
]
MaxStreams = Annotated[
    int, typer.Option(min=1, help="Event streams open beyond which to answer 429.")
]
ConfigFile = Annotated[
    str,
    typer.Argument(
        help="A JSON file: defaults (with a model), and optionally name, "
        "system_prompt. With --conversation it is not read; give '-'.",
    ),
]
Message = Annotated[
    str | None,
    typer.Argument(
        help="What the user says. With --conversation it may be left out, to "
        "answer the calls that its last run waits for."
    ),
]
ConversationId = Annotated[
    str | None, typer.Option(help="Go on with this conversation.")
]
Company = Annotated[int, typer.Option(help="The company of the scope.")]
User = Annotated[int, typer.Option(help="The user of the scope.")]
Ask = Annotated[bool, typer.Option(help="Answer client tools at the prompt.")]
JsonOnly = Annotated[
    bool, typer.Option("--json", help="Print the run as JSON and nothing else.")
]
