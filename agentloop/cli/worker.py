"""`agentloop worker`: drives started runs over a store, or for an engine."""

import os
import signal
import threading
from contextlib import ExitStack

import typer

from agentloop.cli import engines, flags, parts
from agentloop.cli.unattended import (
    ATTEMPT_TIMEOUT,
    OTHERS,
    RUN_TIMEOUT,
    TOOL_TIMEOUT,
    Bounds,
    Model,
    Wanted,
)
from agentloop.http.logs import LOGGER, configure_logging
from agentloop.runtime.face import AgentLoop


def worker(
    store: flags.StoreUrl = "agentloop.db",
    backend: flags.BackendName = "bedrock",
    backends_file: flags.BackendsFile = None,
    endpoint_url: flags.EndpointUrl = None,
    region: flags.Region = None,
    tools: flags.ToolSpecs = None,
    concurrency: flags.AtOnce = 16,
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
    """Drive started runs, and whatever a dead worker left, until SIGTERM or SIGINT.

    What is under way then may end; what has not when the drain is over is taken up
    by others when its lease has run out. Exits with 0 when all ended, else with 1.
    """
    with parts.plain_errors(), ExitStack() as stack:
        configure_logging(json=json_logs, also=OTHERS)
        place = engines.Asked(engine, address, namespace, task_queue, store)
        driving = stack.enter_context(engines.opened(place))
        model = Model(backend, endpoint_url, region, backends_file, concurrency)
        seconds = engines.lease(lease, driving)
        bounds = Bounds(run_timeout, attempt_timeout, tool_timeout, seconds)
        wanted = Wanted(store, model, tools, allow_private_mcp, bounds)
        loop = stack.enter_context(stack.enter_context(wanted.loop(AgentLoop)))
        asked = _asked_to_stop()
        pace = engines.Pace(at_once=concurrency, drain=0.8 * drain)
        working = stack.enter_context(engines.working(loop, driving, pace))
        typer.echo(f"agentloop drives runs of {parts.shown(store)}")
        try:
            _until(asked, working)
        finally:
            _end_within(drain)


def _asked_to_stop() -> threading.Event:
    """What a signal sets."""
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    return asked


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
