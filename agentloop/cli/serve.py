"""`agentloop serve` and `agentloop worker`: the contract over HTTP, and its hands.

`serve` answers requests and drives runs in one process; with `--concurrency 0` it only
answers, and `worker` processes over the same store drive. With `--engine` both belong
to an execution engine: `serve` starts runs there, `worker` is one of its workers.
"""

import os
import re
import signal
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from agentloop.cli import backends, engines, parts
from agentloop.core.run import Scope
from agentloop.http.auth import Authenticate, fixed_tokens, is_token
from agentloop.http.logs import LOGGER, configure_logging, log_run_event
from agentloop.http.options import HttpOptions
from agentloop.ports import ServerDirectory, Store, StoreUnavailableError

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
RUN_TIMEOUT, ATTEMPT_TIMEOUT, TOOL_TIMEOUT = 900.0, 300.0, 120.0
"""What holds a worker of a server that nobody watches, unless a flag says otherwise."""
MAX_REQUESTS, MAX_STREAMS = 256, 1000
"""Requests wait for a few threads, streams for none: more of the latter may be open."""
OTHERS = ("uvicorn", "asyncio")
"""Libraries below ours that have something to say when things go wrong."""
TOKEN_VARIABLE = "AGENTLOOP_TOKENS"  # noqa: S105 - the name of a variable, no secret


def serve(
    store: StoreUrl = "agentloop.db",
    backend: BackendName = "bedrock",
    backends_file: BackendsFile = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    host: Annotated[str, typer.Option(help="Listen on this address.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="And this port; 0 takes a free one.")
    ] = 8000,
    token: Annotated[
        list[str] | None,
        typer.Option(
            help="TOKEN=COMPANY:USER; may be repeated. Also one a line in a file "
            "given as @FILE, where # begins a comment, or in the variable "
            f"{TOKEN_VARIABLE}, between spaces."
        ),
    ] = None,
    tools: ToolSpecs = None,
    workers: Annotated[
        int,
        typer.Option("--concurrency", min=0, help="Runs driven at once; 0: none."),
    ] = 16,
    visibility: Annotated[
        str, typer.Option(help="Who reads by id: company, or user.")
    ] = "company",
    max_requests: Annotated[
        int, typer.Option(min=1, help="Requests under way beyond which to answer 429.")
    ] = MAX_REQUESTS,
    max_streams: Annotated[
        int, typer.Option(min=1, help="Event streams open beyond which to answer 429.")
    ] = MAX_STREAMS,
    drain: Drain = 30.0,
    run_timeout: RunTimeout = RUN_TIMEOUT,
    attempt_timeout: AttemptTimeout = ATTEMPT_TIMEOUT,
    tool_timeout: ToolTimeout = TOOL_TIMEOUT,
    lease: LeaseSeconds = None,
    engine: engines.EngineName = None,
    address: engines.Address = None,
    namespace: engines.Namespace = None,
    task_queue: engines.TaskQueue = "agentloop",
    allow_private_mcp: PrivateMcp = False,
    json_logs: JsonLogs = True,
) -> None:
    """Serve the Agent Conversations contract over HTTP, with a worker inside.

    SIGTERM drains: runs under way are given back between two effects, and the next
    start picks them up. Exits with 0 when everything ended in time, else with 1.
    """
    with parts.plain_errors():
        from agentloop.http.serve import Serving
        from agentloop.http.serve import serve as run_server

        authenticate = tokens_of(token or [])
        configure_logging(json=json_logs, also=OTHERS)
        asked_engine = engines.Asked(
            name=engine,
            address=address,
            namespace=namespace,
            task_queue=task_queue,
            store=store,
        )
        serving = Serving(
            host=host,
            port=port,
            workers=0 if engine else workers,
            drain_seconds=drain,
            ready=lambda url: typer.echo(f"agentloop serves {url}"),
        )
        with ExitStack() as stack:
            opened = stack.enter_context(parts.open_store(store))
            driving = stack.enter_context(engines.opened(asked_engine))
            asked = backends.choose(backend, endpoint_url, region, backends_file)
            chosen = stack.enter_context(asked)
            loop = parts.make_loop(
                chosen.default,
                opened,
                parts.load_tools(tools or []),
                backends=chosen.planes,
                mcp=directory(allow_private_mcp),
                engine=None if driving is None else driving.engine,
                observer=log_run_event,
                run_timeout=run_timeout,
                attempt_timeout=attempt_timeout,
                tool_timeout=tool_timeout,
                lease=engines.lease(lease, driving),
                visibility=_visibility(visibility),
            )
            limits = HttpOptions(max_requests=max_requests, max_streams=max_streams)
            try:
                drained = run_server(loop, authenticate, serving, limits)
            except (OSError, OverflowError) as error:
                parts.stop(f"cannot listen on {host}:{port}: {error}")
            if not drained:
                os._exit(1)  # a thread inside an inference would be waited for
            loop.close()


def worker(
    store: StoreUrl = "agentloop.db",
    backend: BackendName = "bedrock",
    backends_file: BackendsFile = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    tools: ToolSpecs = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Runs driven at once.")] = 16,
    drain: Drain = 30.0,
    run_timeout: RunTimeout = RUN_TIMEOUT,
    attempt_timeout: AttemptTimeout = ATTEMPT_TIMEOUT,
    tool_timeout: ToolTimeout = TOOL_TIMEOUT,
    lease: LeaseSeconds = None,
    engine: engines.EngineName = None,
    address: engines.Address = None,
    namespace: engines.Namespace = None,
    task_queue: engines.TaskQueue = "agentloop",
    allow_private_mcp: PrivateMcp = False,
    json_logs: JsonLogs = True,
) -> None:
    """Drive started runs, and whatever a dead worker left, until SIGTERM or SIGINT.

    What is under way then may end; what has not when the drain is over is taken up
    by others when its lease has run out. Exits with 0 when all ended, else with 1.
    """
    with parts.plain_errors(), ExitStack() as stack:
        configure_logging(json=json_logs, also=OTHERS)
        opened = stack.enter_context(parts.open_store(store))
        asked_engine = engines.Asked(
            name=engine,
            address=address,
            namespace=namespace,
            task_queue=task_queue,
            store=store,
        )
        driving = stack.enter_context(engines.opened(asked_engine))
        _check_schema(opened)
        wanted = backends.choose(backend, endpoint_url, region, backends_file)
        chosen = stack.enter_context(wanted)
        loop = stack.enter_context(
            parts.make_loop(
                chosen.default,
                opened,
                parts.load_tools(tools or []),
                backends=chosen.planes,
                mcp=directory(allow_private_mcp),
                observer=log_run_event,
                run_timeout=run_timeout,
                attempt_timeout=attempt_timeout,
                tool_timeout=tool_timeout,
                lease=engines.lease(lease, driving),
            )
        )
        asked = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: asked.set())
        pace = engines.Pace(at_once=concurrency, drain=0.8 * drain)
        working = stack.enter_context(engines.working(loop, driving, pace))
        typer.echo(f"agentloop drives runs of {parts.shown(store)}")
        try:
            _until(asked, working)
        finally:
            _end_within(drain)


def _check_schema(store: Store) -> None:
    """Refuse a store whose tables are missing or of another release.

    One that is away now may be there later, and is waited for.

    Raises:
        SchemaVersionError: it was not migrated.
    """
    with suppress(StoreUnavailableError):
        store.ping()


def _end_within(seconds: float) -> None:
    """Have this process end in time, whatever its threads are inside of.

    The interpreter would wait for them when it ends.
    """

    def end() -> None:
        LOGGER.warning("stopped before all was drained")
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _until(asked: threading.Event, working: object) -> None:
    """Wait for a signal, as long as there is somebody to work."""
    while not asked.wait(1.0):
        if isinstance(working, engines.Watched) and not working.alive:
            parts.stop("the worker has ended; its log says why")


def directory(allow_private: bool) -> ServerDirectory | None:
    """How MCP servers are reached; None leaves it to the loop's own way."""
    if not allow_private:
        return None
    from agentloop.tools.mcp import McpDirectory, McpOptions

    return McpDirectory(McpOptions(allow_private=True))


def tokens_of(given: list[str]) -> Authenticate:
    """The callers that `--token` values, files and the environment name."""
    lines = [line for value in given for line in _lines(value)]
    lines += os.environ.get(TOKEN_VARIABLE, "").split()
    if not lines:
        parts.stop(f"give at least one --token TOKEN=COMPANY:USER, or {TOKEN_VARIABLE}")
    callers = dict(_caller(line) for line in lines)
    if len(callers) < len(lines):
        parts.stop("a --token is given twice; its caller would be the last one")
    return fixed_tokens(callers)


def _lines(value: str) -> list[str]:
    if not value.startswith("@"):
        return [value]
    try:
        text = Path(value[1:]).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        parts.stop(f"cannot read {value[1:]}: {error.strerror}")
    except UnicodeDecodeError:
        parts.stop(f"cannot read {value[1:]}: it is no UTF-8")
    told = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in told if line]


_CALLER = re.compile(r"(.+)=([0-9]{1,18}):([0-9]{1,18})", re.DOTALL)
"""Ids of up to eighteen digits are what every store takes."""


def _caller(line: str) -> tuple[str, Scope]:
    """A token and its scope; a wrong line is told without its token."""
    found = _CALLER.fullmatch(line)
    if found is None:
        parts.stop("a --token is not of the form TOKEN=COMPANY:USER")
    if not is_token(found[1]):
        parts.stop(
            "a --token holds what no bearer token may: only letters, digits and "
            "-._~+/ are sent, with = at the end"
        )
    return found[1], parts.scope(int(found[2]), int(found[3]))


def _visibility(given: str) -> Literal["company", "user"]:
    if given == "company":
        return "company"
    if given != "user":
        parts.stop(f"--visibility {given!r} is unknown; use company or user")
    return "user"
