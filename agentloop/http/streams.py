"""A run's events as server-sent events.

Kept events come from the store, each once and in order, with their ids; they are
also what a reader resumes after. Text deltas are passed on as they are heard and
never kept, so they have no id. A stream holds no thread while it waits.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Final

from attrs import frozen
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from agentloop.core.catalog import RequestError
from agentloop.core.run import RunEvent, Scope
from agentloop.http.calls import Calls
from agentloop.http.logs import LOGGER
from agentloop.http.options import HttpOptions
from agentloop.ports import StoreUnavailableError
from agentloop.runtime.follow import Cursor
from agentloop.runtime.watch import Kept
from agentloop.wire import dump, to_json

MEDIA_TYPE: Final = "text/event-stream"
MAX_WAITING: Final = 10_000
"""Text deltas held for a reader who is slow; the rest are dropped."""
RETRY: Final = b"retry: 2000\n\n"
ALIVE: Final = b": alive\n\n"
_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
)


class Inbox:
    """Where the events of a run arrive for one reader, from any thread."""

    def __init__(self) -> None:
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._events: deque[RunEvent] = deque()
        self._changed = asyncio.Event()

    def post(self, event: RunEvent) -> None:
        """Add an event; called on the thread that drives the run."""
        self._loop.call_soon_threadsafe(self._add, event)

    def close(self) -> None:
        """Have the stream end."""
        self.closed = True
        self._changed.set()

    async def take(self, timeout: float) -> list[RunEvent]:
        """Everything that arrived; waits up to `timeout` for the first."""
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return []
        taken = list(self._events)
        self._events.clear()
        if not self.closed:
            self._changed.clear()
        return taken

    def _add(self, event: RunEvent) -> None:
        if event.id is not None or len(self._events) < MAX_WAITING:
            self._events.append(event)
            self._changed.set()


class OpenStreams:
    """The streams that are open, to be ended when the server drains."""

    def __init__(self) -> None:
        self._inboxes: set[Inbox] = set()
        self._closing = False

    def __len__(self) -> int:
        return len(self._inboxes)

    def open(self) -> Inbox:
        """An inbox for one more stream."""
        inbox = Inbox()
        self._inboxes.add(inbox)
        if self._closing:
            inbox.close()
        return inbox

    def forget(self, inbox: Inbox) -> None:
        """A stream has ended."""
        self._inboxes.discard(inbox)

    def close(self) -> None:
        """End every stream, and each that is opened from now on."""
        self._closing = True
        for inbox in self._inboxes:
            inbox.close()


@frozen(kw_only=True)
class EventStream:
    """The response that follows one run; an ASGI application."""

    run_id: str
    caller: Scope
    after: int
    calls: Calls
    options: HttpOptions
    streams: OpenStreams
    status_code: int = 200

    async def __call__(self, _: AsgiScope, receive: Receive, send: Send) -> None:
        """Send events until the last one, or until the reader is gone."""
        inbox = self.streams.open()
        # A list of its own, which a host's middleware may add headers to.
        headers = list(_HEADERS)
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(_close_when_gone(receive, inbox))
                with suppress(OSError):  # the reader is gone
                    await send(start)
                    await self._send_all(inbox, send)
                watching.cancel()
        finally:
            self.streams.forget(inbox)

    async def _send_all(self, inbox: Inbox, send: Send) -> None:
        async with aclosing(self._frames(inbox)) as frames:
            async for frame in frames:
                await send(_chunk(frame, more=True))
        await send(_chunk(b"", more=False))

    async def _frames(self, inbox: Inbox) -> AsyncGenerator[bytes, None]:
        """Frames, the first of which says that from now on everything is heard."""
        with self.calls.face.watch.listening(self.run_id, inbox.post):
            yield RETRY
            async with aclosing(self._live(inbox)) as frames:
                async for frame in frames:
                    yield frame

    async def _live(self, inbox: Inbox) -> AsyncGenerator[bytes, None]:
        clock = asyncio.get_running_loop().time
        spoke = clock()
        async with aclosing(self._events(inbox)) as batches:
            async for batch in batches:
                if batch:
                    spoke = clock()
                    yield b"".join(map(frame_of, batch))
                elif clock() - spoke >= self.options.heartbeat:
                    spoke = clock()
                    yield ALIVE

    async def _events(self, inbox: Inbox) -> AsyncGenerator[list[RunEvent], None]:
        """Batches of events until the terminal one; empty ones while it is quiet."""
        cursor = Cursor(self.after)
        heard: list[RunEvent] = []
        while not inbox.closed:
            batch, ended = await self._news(cursor, heard)
            yield batch
            if ended:
                return
            heard = await inbox.take(min(self.options.poll, self.options.heartbeat))

    async def _news(
        self, cursor: Cursor, heard: list[RunEvent]
    ) -> tuple[list[RunEvent], bool]:
        """What the reader has not seen yet, and whether that was all of it."""
        kept = Kept((), ended=False)
        if _needs_store(heard, cursor.after):
            kept = await self._kept(cursor.after)
        batch = [*cursor.fresh(kept.events)]
        if cursor.more():
            batch += cursor.fresh(heard)
        return batch, kept.ended or not cursor.more()

    async def _kept(self, after: int) -> Kept:
        watch = self.calls.face.watch
        try:
            return await self.calls.on_thread(
                watch.kept, self.run_id, self.caller, after
            )
        except StoreUnavailableError as error:
            LOGGER.warning("a stream waits for the store: %s", error)
            return Kept((), ended=False)
        except RequestError as error:  # deleted meanwhile, or damaged
            LOGGER.warning("a stream ends early: %s", error.slug)
            return Kept((), ended=True)


def _needs_store(heard: Sequence[RunEvent], after: int) -> bool:
    """Whether there may be events that were not heard here.

    When nothing was heard for a while, or when a number is missing: then another
    process drove the run in between.
    """
    if not heard:
        return True
    news = [event.id for event in heard if event.id is not None and event.id > after]
    return bool(news) and news[-1] - after != len(news)


def frame_of(event: RunEvent) -> bytes:
    """One event as a frame; JSON in ASCII never holds a line break."""
    head = "" if event.id is None else f"id: {event.id}\n"
    return f"{head}event: {event.kind}\ndata: {dump(to_json(event))}\n\n".encode()


def _chunk(body: bytes, *, more: bool) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def _close_when_gone(receive: Receive, inbox: Inbox) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    inbox.close()
