"""`agentloop serve`: the contract over HTTP, with hands inside.

It answers requests and drives runs in one process; with `--concurrency 0` it only
answers, and `agentloop worker` processes over the same store drive. With `--engine`
it starts runs there, and those are the engine's workers.

It serves the asynchronous face: what drives runs then takes turns with what answers
requests, where as many threads would all be in the way of the one that answers. The
host's tools are another matter: whatever they do, they do it elsewhere (`offloop`).
"""

import asyncio
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import typer
from attrs import frozen

from agentloop.cli import engines, flags, parts
from agentloop.cli.offloop import OffLoop
from agentloop.cli.unattended import (
    ATTEMPT_TIMEOUT,
    OTHERS,
    RUN_TIMEOUT,
    TOOL_TIMEOUT,
    Bounds,
    Model,
    Wanted,
)
from agentloop.core.run import Scope
from agentloop.http.auth import Authenticate, fixed_tokens, is_token
from agentloop.http.logs import configure_logging
from agentloop.http.options import HttpOptions
from agentloop.ports import Backend, Store
from agentloop.runtime.aface import AsyncAgentLoop
from agentloop.runtime.assembly import Tools, tool_servers

MAX_REQUESTS, MAX_STREAMS = 256, 1000
"""Requests wait for a few threads, streams for none: more of the latter may be open."""
TOOL_SLOTS = 32
"""Tool calls there may be at once beside one for each run."""
MOMENT = 0.5
"""Seconds for threads that have nothing left to do to end."""


def serve(
    store: flags.StoreUrl = "agentloop.db",
    backend: flags.BackendName = "bedrock",
    backends_file: flags.BackendsFile = None,
    endpoint_url: flags.EndpointUrl = None,
    region: flags.Region = None,
    host: flags.Host = "127.0.0.1",
    port: flags.Port = 8000,
    token: flags.Tokens = None,
    tools: flags.ToolSpecs = None,
    workers: flags.Workers = 16,
    visibility: flags.Visibility = "company",
    max_requests: flags.MaxRequests = MAX_REQUESTS,
    max_streams: flags.MaxStreams = MAX_STREAMS,
    drain: flags.Drain = 30.0,
    run_timeout: flags.RunTimeout = RUN_TIMEOUT,
    attempt_timeout: flags.AttemptTimeout = ATTEMPT_TIMEOUT,
    tool_timeout: flags.ToolTimeout = TOOL_TIMEOUT,
    lease: flags.LeaseSeconds = None,
    engine: engines.EngineName = None,
    address: engines.Address = None,
    namespace: engines.Namespace = None,
    task_queue: engines.TaskQueue = "agentloop",
    allow_private_mcp: flags.PrivateMcp = False,
    json_logs: flags.JsonLogs = True,
) -> None:
    """Serve the Agent Conversations contract over HTTP, with a worker inside.

    SIGTERM drains: runs under way are given back between two effects, and the next
    start picks them up. Exits with 0 when everything ended in time, else with 1.
    """
    with _ending(), parts.plain_errors(), ExitStack() as stack:
        callers = _tokens_of(token or [])
        configure_logging(json=json_logs, also=OTHERS)
        place = engines.Asked(engine, address, namespace, task_queue, store)
        driving = stack.enter_context(engines.opened(place))
        at_once = max(workers, 1)
        model = Model(backend, endpoint_url, region, backends_file, at_once)
        seconds = engines.lease(lease, driving)
        bounds = Bounds(run_timeout, attempt_timeout, tool_timeout, seconds)
        wanted = Wanted(store, model, tools, allow_private_mcp, bounds)
        started_there = None if driving is None else driving.engine
        making = wanted.loop(
            partial(_answering, at_once),
            engine=started_there,
            visibility=_visibility(visibility),
        )
        listening = _Listening(host, port, 0 if engine else workers, drain)
        limits = HttpOptions(max_requests=max_requests, max_streams=max_streams)
        listening.serve(stack.enter_context(making), callers, limits)


def _answering(
    at_once: int, backend: Backend | None, store: Store, tools: Tools, **rest: Any
) -> AsyncAgentLoop:
    """A loop for so many runs, whose tools never run where requests are answered."""
    servers = {alias: OffLoop(found) for alias, found in tool_servers(tools).items()}
    slots = TOOL_SLOTS + at_once
    rest.update(in_flight=at_once, tool_slots=slots)
    return AsyncAgentLoop(backend, store, servers, **rest)


@contextmanager
def _ending() -> Iterator[None]:
    """End the process after the block, whatever its threads are inside of.

    The inference of a run that was cancelled is waited for by nobody, but for the
    interpreter.
    """
    before = set(threading.enumerate())
    yield
    until = monotonic() + MOMENT
    ours = [t for t in threading.enumerate() if t not in before and not t.daemon]
    for thread in ours:
        thread.join(max(until - monotonic(), 0.0))
    if any(thread.is_alive() for thread in ours):
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)


@frozen
class _Listening:
    """Where a server listens, how many runs it drives, and how long it may end."""

    host: str
    port: int
    workers: int
    drain: float

    def serve(
        self, loop: AsyncAgentLoop, callers: Authenticate, limits: HttpOptions
    ) -> None:
        """Serve until a signal says to stop, and close the loop.

        Ends the process when that takes long.
        """
        from agentloop.http.serve import Serving, serve

        serving = Serving(
            host=self.host,
            port=self.port,
            workers=self.workers,
            drain_seconds=self.drain,
            ready=lambda url: typer.echo(f"agentloop serves {url}"),
        )
        try:
            drained = serve(loop, callers, serving, limits)
        except (OSError, OverflowError) as error:
            parts.stop(f"cannot listen on {self.host}:{self.port}: {error}")
        if not drained:
            os._exit(1)  # a thread inside an inference would be waited for
        asyncio.run(loop.close())


def _tokens_of(given: list[str]) -> Authenticate:
    """The callers that `--token` values, files and the environment name."""
    lines = [line for value in given for line in _lines(value)]
    lines += os.environ.get(flags.TOKEN_VARIABLE, "").split()
    if not lines:
        parts.stop(
            f"give at least one --token TOKEN=COMPANY:USER, or {flags.TOKEN_VARIABLE}"
        )
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
