"""A server for one loop: uvicorn with a worker inside, and a drain that ends.

Stopping goes in one order. No new connections and no new runs; event streams end,
their readers resume elsewhere; runs under way are given back between two effects;
requests get their answers. Whatever is not done within `drain_seconds` is left: a
run so left is taken up by the next worker when its lease has run out.
"""

import asyncio
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from typing import TypeAlias

import uvicorn
from attrs import evolve, field, frozen

from agentloop.http.app import Application, build
from agentloop.http.auth import Authenticate
from agentloop.http.calls import Face
from agentloop.http.logs import LOGGER
from agentloop.http.options import HttpOptions
from agentloop.http.protocol import protocol_of
from agentloop.runtime.aface import AsyncAgentLoop
from agentloop.runtime.face import AgentLoop

Ready: TypeAlias = Callable[[str], object]
_TICK = 0.05
TO_GIVE_BACK = 1.0
"""Seconds for a store to take runs back after the drain, or their leases run out."""
BACKLOG = 2048
"""Connections that may wait to be accepted."""
_ASKED_TO_END = (signal.SIGINT, signal.SIGTERM)


@frozen(kw_only=True)
class Serving:
    """Where to listen and how to stop; spans are in seconds.

    Attributes:
        host: the address to listen on.
        port: the port; 0 takes a free one.
        workers: how many runs this process drives at once; 0: none, others do.
        drain_seconds: how long stopping may take altogether.
        keep_alive: how long an idle connection is kept.
        ready: called with the URL when requests are taken.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 4
    drain_seconds: float = 30.0
    keep_alive: int = 5
    ready: Ready = field(default=lambda _: None)


def serve(
    loop: Face,
    authenticate: Authenticate,
    serving: Serving | None = None,
    options: HttpOptions | None = None,
) -> bool:
    """Serve until SIGTERM or SIGINT, then drain; call it on the main thread.

    Returns:
        Whether everything ended within `drain_seconds`. If not, threads are still
        inside an inference, a tool or the store, and the interpreter would wait for
        those of its pools: a program that must end then leaves by `os._exit`.

    Raises:
        OSError: the address cannot be listened on.
    """
    server = Server.over(loop, authenticate, serving, options)
    with _signals_to(server.stop):
        return _run(server)


def _run(server: "Server") -> bool:
    """As `asyncio.run`, which would wait for tasks and threads that do not end."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(server.run())
    finally:
        if not asyncio.all_tasks(loop):
            loop.close()


@contextmanager
def served(
    loop: Face,
    authenticate: Authenticate,
    serving: Serving | None = None,
    options: HttpOptions | None = None,
) -> Iterator[str]:
    """Serve on a thread while the block runs; yields the URL.

    For tests and demonstrations. Takes a free port unless `serving` names one.

    Raises:
        OSError: the address cannot be listened on.
        TimeoutError: the server did not come up.
    """
    up = threading.Event()
    chosen = evolve(serving or Serving(port=0), ready=lambda _: up.set())
    server = Server.over(loop, authenticate, chosen, options)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.run()), name="agentloop-serve", daemon=True
    )
    thread.start()
    try:
        if not up.wait(10):
            raise TimeoutError("the server did not come up within 10 s")
        yield server.url
    finally:
        server.stop()
        thread.join()


@frozen(kw_only=True)
class Server:
    """uvicorn, the app and the worker, started and stopped together."""

    face: Face
    application: Application
    serving: Serving
    uvicorn: uvicorn.Server
    listener: socket.socket

    @classmethod
    def over(
        cls,
        face: Face,
        authenticate: Authenticate,
        serving: Serving | None = None,
        options: HttpOptions | None = None,
    ) -> "Server":
        """A server that listens already, so that its URL is known."""
        serving = serving or Serving()
        options = options or HttpOptions()
        application = build(face, authenticate, options)
        config = uvicorn.Config(
            application.app,
            # On h11, whatever else is installed: with httptools uvicorn answers
            # HTTP/1.0 in chunks, which such a reader of a stream takes for content.
            http=protocol_of(application.reporter, options.ids),
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here depends on where a caller sits
            timeout_keep_alive=serving.keep_alive,
            timeout_graceful_shutdown=max(1, int(serving.drain_seconds)),
        )
        listener = _listener(serving.host, serving.port)
        return cls(
            face=face,
            application=application,
            serving=serving,
            uvicorn=uvicorn.Server(config),
            listener=listener,
        )

    @property
    def url(self) -> str:
        """Where the server listens."""
        host, port = self.listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def stop(self) -> None:
        """Ask the server to drain; may be called from any thread."""
        self.uvicorn.should_exit = True

    async def run(self) -> bool:
        """Serve until asked to stop; returns whether all ended in time."""
        stack = AsyncExitStack()
        if self.serving.workers:
            working = _working(self.face, self.serving.workers)
            await stack.enter_async_context(working)
        url = self.url  # the listener is closed when serving ends
        answering = asyncio.ensure_future(self.uvicorn.serve([self.listener]))
        await self._until_asked(answering, url)
        LOGGER.info("draining for at most %s s", self.serving.drain_seconds)
        self.application.streams.close()
        giving_back = asyncio.ensure_future(stack.aclose())
        drained = await _ended([answering, giving_back], self.serving.drain_seconds)
        await _given_back()
        LOGGER.info("drained" if drained else "stopped before all was drained")
        return drained

    async def _until_asked(self, answering: "asyncio.Future[None]", url: str) -> None:
        announced = False
        while not (self.uvicorn.should_exit or answering.done()):
            if self.uvicorn.started and not announced:
                announced = True
                self.serving.ready(url)
            await asyncio.sleep(_TICK)


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, because asyncio switches Nagle's algorithm off only
    # where it is; otherwise an answer in two parts waits 40 ms for the first one.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)  # who comes before uvicorn is up waits
    except OSError:
        listener.close()
        raise
    return listener


async def _ended(tasks: "list[asyncio.Future[None]]", seconds: float) -> bool:
    """Whether all tasks ended in time; those that did not are cancelled."""
    done, late = await asyncio.wait(tasks, timeout=seconds)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    for task in done:
        task.result()
    return not late


async def _given_back() -> None:
    """Cancel what is left on the event loop: drives, which give their runs back.

    Also tools of the host that ignored that nobody waits for them any more.
    """
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=TO_GIVE_BACK)


def _working(face: Face, n: int) -> "AbstractAsyncContextManager[object]":
    if isinstance(face, AsyncAgentLoop):
        return face.worker(n)
    return _on_thread(face, n)


@asynccontextmanager
async def _on_thread(face: AgentLoop, n: int) -> AsyncIterator[None]:
    """A worker whose end can be waited for, and left behind when it takes too long."""
    loop = asyncio.get_running_loop()
    began, ended, stop = asyncio.Event(), asyncio.Event(), threading.Event()

    def tell(event: asyncio.Event) -> None:
        with suppress(RuntimeError):  # nobody waits any more, the loop is closed
            loop.call_soon_threadsafe(event.set)

    def work() -> None:
        with face.worker(n):
            tell(began)
            stop.wait()
        tell(ended)

    threading.Thread(target=work, name="agentloop-working", daemon=True).start()
    await began.wait()
    try:
        yield
    finally:
        stop.set()
        await ended.wait()


@contextmanager
def _signals_to(stop: Callable[[], None]) -> Iterator[None]:
    """Have the signals that end a process call `stop` instead.

    uvicorn takes them over while it serves and raises them again afterwards, which
    must not kill the process while runs are given back.
    """
    before = {sig: signal.signal(sig, lambda *_: stop()) for sig in _ASKED_TO_END}
    try:
        yield
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)
