"""Run events as server-sent events: resumed, live, alive, and ended."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from attrs import evolve

from agentloop import AgentLoop
from agentloop.core.run import RunEvent
from agentloop.http import HttpOptions, fixed_tokens
from agentloop.http.calls import Calls
from agentloop.http.serve import Serving, served
from agentloop.http.streams import (
    MAX_WAITING,
    EventStream,
    Inbox,
    OpenStreams,
    frame_of,
)
from agentloop.ports import StoreUnavailableError
from agentloop.runtime.choices import Choices
from agentloop.runtime.watch import Kept
from agentloop.testing.scripted import ScriptedBackend, calls, says
from tests.http_world import ALICE, TOKENS, FaultyStore, World, slug, world


def frames(text: str) -> list[dict[str, str]]:
    """The events of a stream, as a reader of the format sees them."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line[:1] != ":"]
        fields = dict(line.split(": ", 1) for line in lines)
        if "data" in fields:
            found.append(fields)
    return found


@pytest.fixture(params=["sync", "async"])
def told(request: pytest.FixtureRequest) -> Iterator[tuple[World, str]]:
    """An ended run with a tool call, over each face."""
    script = (calls(("nowhere-x", {})),)
    with world(*script, face=request.param) as opened:
        run = opened.run(opened.conversation())
        yield opened, f"/agents/runs/{run['id']}/events"


def test_an_ended_run_is_told_from_its_first_event_to_its_last(
    told: tuple[World, str],
) -> None:
    """Each kept event has its id, its name and its JSON; then the stream ends."""
    served, path = told
    stream = served.get(path)
    assert stream.status_code == 200
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream.headers["cache-control"] == "no-store"
    events = frames(stream.text)
    assert [event["event"] for event in events] == ["job_submitted", "terminal"]
    assert [event["id"] for event in events] == ["1", "2"]
    for event in events:
        data = json.loads(event["data"])
        assert (str(data["id"]), data["kind"]) == (event["id"], event["event"])
    assert json.loads(events[-1]["data"])["data"]["status"] == "failed"


def test_a_stream_is_resumed_after_any_event(told: tuple[World, str]) -> None:
    """`Last-Event-ID` n brings what came after n, and after the last one 204."""
    served, path = told
    whole = frames(served.get(path).text)
    for seen in range(len(whole)):
        headers = {"last-event-id": str(seen)}
        rest = served.get(path, headers=headers)
        assert frames(rest.text) == whole[seen:]
    for beyond in (str(len(whole)), "999"):
        over = served.get(path, headers={"last-event-id": beyond})
        assert (over.status_code, over.content) == (204, b"")


def test_a_frame_is_one_line_of_ascii() -> None:
    """What a model says cannot end a frame or forge one."""
    event = RunEvent("text_delta", {"text": "a\n\nevent: terminal\ndata: {}\u2028é"})
    lines = frame_of(event).decode("ascii").split("\n")
    assert lines[0] == "event: text_delta"
    assert json.loads(lines[1].removeprefix("data: "))["data"] == event.data
    assert lines[2:] == ["", ""]


# ------------------------------------------------ live, over a socket


class Reader:
    """A client of one stream that reads frame by frame."""

    def __init__(self, url: str, path: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), 10)
        head = f"GET {path} HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer alice"
        self._socket.sendall(f"{head}\r\n\r\n".encode())
        self._file = self._socket.makefile("rb")

    def block(self) -> str:
        """The next block of the stream, "" at its end."""
        lines: list[str] = []
        while line := self._file.readline().decode():
            text = line.strip("\r\n")
            if text == "" and any(": " in line or line[:1] == ":" for line in lines):
                return "\n".join(lines)
            lines.append(text)
        return ""

    def until(self, wanted: Callable[[str], bool]) -> list[str]:
        """The blocks up to the first one that is wanted."""
        blocks = []
        while block := self.block():
            blocks.append(block)
            if wanted(block):
                return blocks
        raise AssertionError(f"the stream ended: {blocks}")

    def status(self) -> int:
        """The status of the answer."""
        return int(self._file.readline().split()[1])

    def close(self) -> None:
        """Go away."""
        self._file.close()
        self._socket.close()


def reading(url: str, run_id: str) -> "closing[Reader]":
    """A reader of a run's events that goes away with its block."""
    return closing(Reader(url, f"/agents/runs/{run_id}/events"))


class Gate:
    """A model that waits inside its answer until the test lets it go on."""

    def __init__(self, *replies: Any) -> None:
        self.inside = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self._replies = list(replies)

    def __call__(self, _: Any) -> Any:
        self.inside.release()
        assert self.go_on.acquire(timeout=10)
        return self._replies.pop(0)


QUICK = HttpOptions(heartbeat=0.05, poll=0.02)


def started(loop: AgentLoop) -> str:
    """The id of a run that was just started."""
    conversation = loop.create_conversation(defaults={"model": "m"}, scope=ALICE)
    return loop.start_run(conversation.id, "hi", scope=ALICE).id


def is_event(kind: str) -> Callable[[str], bool]:
    """Whether a block is an event of a kind."""
    return lambda block: f"event: {kind}" in block


def test_events_come_while_the_run_goes_on() -> None:
    """Kept events with ids, deltas without, comments while nothing happens."""
    gate = Gate(says("one\ntwo\n"))
    with (
        AgentLoop(ScriptedBackend(gate)) as loop,
        served(loop, fixed_tokens(TOKENS), Serving(port=0, workers=0), QUICK) as url,
        reading(url, run_id := started(loop)) as reader,
    ):
        reader.until(lambda block: block.startswith("retry: "))
        with loop.worker(1, poll=0.02):
            assert gate.inside.acquire(timeout=10)
            reader.until(is_event("job_submitted"))
            reader.until(alive)
            gate.go_on.release()
            rest = reader.until(is_event("terminal"))
        told_deltas = [block for block in rest if is_event("text_delta")(block)]
        texts = [json.loads(b.partition("data: ")[2]) for b in told_deltas]
        assert [text["data"]["text"] for text in texts] == ["one\n", "two\n"]
        assert all(delta.startswith("event: ") for delta in told_deltas)
        assert rest[-1].startswith("id: 2\n")
        assert reader.block() == ""
        assert loop.get_run(run_id, scope=ALICE).status == "completed"


def alive(block: str) -> bool:
    """Whether a block says that the stream is alive."""
    return block.startswith(": alive")


def test_a_reader_that_goes_away_leaves_nothing_behind() -> None:
    """Neither a listener nor an open stream, and the run goes on."""
    gate = Gate(says("done"))
    with (
        AgentLoop(ScriptedBackend(gate)) as loop,
        served(loop, fixed_tokens(TOKENS), Serving(port=0), QUICK) as url,
    ):
        run_id = started(loop)
        assert gate.inside.acquire(timeout=10)
        with reading(url, run_id) as reader:
            reader.until(is_event("job_submitted"))
            assert loop.watch.hub.has_listeners(run_id)
        pause = threading.Event()
        while loop.watch.hub.has_listeners(run_id):
            pause.wait(0.01)
        gate.go_on.release()
        assert loop.wait(run_id, scope=ALICE).status == "completed"


def test_a_run_that_another_loop_drives_is_followed_by_its_rows() -> None:
    """Events of other processes are read from the store."""
    store = FaultyStore()
    driver = AgentLoop(ScriptedBackend(says("hello")), store)
    with (
        AgentLoop(ScriptedBackend(), store) as loop,
        served(loop, fixed_tokens(TOKENS), Serving(port=0, workers=0), QUICK) as url,
        driver,
        reading(url, run_id := started(loop)) as reader,
    ):
        reader.until(alive)
        driver.wait(run_id, scope=ALICE)
        blocks = reader.until(is_event("terminal"))
        ids = [block.splitlines()[0] for block in blocks if block[:3] == "id:"]
        assert ids == ["id: 1", "id: 2"]


def test_a_deleted_run_ends_its_streams() -> None:
    """There is nothing to wait for any more."""
    with (
        AgentLoop(ScriptedBackend()) as loop,
        served(loop, fixed_tokens(TOKENS), Serving(port=0, workers=0), QUICK) as url,
        reading(url, run_id := started(loop)) as reader,
    ):
        reader.until(alive)
        run = loop.get_run(run_id, scope=ALICE)
        loop.delete_conversation(run.conversation_id, scope=ALICE)
        while block := reader.block():
            assert alive(block)


def test_a_stream_outlives_a_store_that_is_away_for_a_while() -> None:
    """It stays silent but alive, and goes on when the store is back."""
    store = FaultyStore()
    with (
        AgentLoop(ScriptedBackend(says("hello")), store) as loop,
        served(loop, fixed_tokens(TOKENS), Serving(port=0, workers=0), QUICK) as url,
        reading(url, run_id := started(loop)) as reader,
    ):
        reader.until(lambda block: block.startswith("retry:"))

        def away(real: Any, *args: Any) -> Any:
            raise StoreUnavailableError("away")

        store.faults["events"] = away
        reader.until(alive)
        reader.until(alive)
        del store.faults["events"]
        loop.wait(run_id, scope=ALICE)
        reader.until(is_event("terminal"))


# ------------------------------------------------ what is heard and what is stored


class Story:
    """A watched loop whose store and hub say what the test wrote."""

    def __init__(self, *looks: Kept) -> None:
        self.listener: Any = None
        self.asked: list[int] = []
        self._looks = list(looks)

    def kept(self, run_id: str, caller: Any, after: int) -> Kept:
        self.asked.append(after)
        return self._looks.pop(0)

    @contextmanager
    def listening(self, run_id: str, listener: Any) -> Iterator[None]:
        self.listener = listener
        yield


def told_events(*ids: int) -> tuple[RunEvent, ...]:
    """Kept events by id; the third is the last of its run."""
    return tuple(
        RunEvent("terminal" if id_ == 3 else "tool_started", {}, id_) for id_ in ids
    )


def test_a_gap_in_what_was_heard_is_filled_from_the_store() -> None:
    """A reader gets each event once and in order, whoever drove the run."""
    story = Story(Kept((), ended=False), Kept(told_events(1, 2), ended=False))
    sent: list[bytes] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        body = message.get("body", b"")
        sent.append(body)
        if body.startswith(b"retry"):
            # Another process stored 1; this one goes on with 2 and 3.
            asyncio.get_running_loop().call_later(0.01, say, 2)
        if b"id: 2" in body:
            story.listener(*told_events(2))  # heard again, later
            say(3)

    def say(id_: int) -> None:
        story.listener(*told_events(id_))

    async def follow() -> None:
        with ThreadPoolExecutor(1) as executor:
            face: Any = SimpleNamespace(watch=story)
            stream = EventStream(
                run_id="r",
                caller=ALICE,
                after=0,
                calls=Calls(face, fixed_tokens(TOKENS), executor, Choices()),
                options=HttpOptions(poll=10, heartbeat=10),
                streams=OpenStreams(),
            )
            await stream({}, receive, send)

    asyncio.run(follow())
    ids = [event["id"] for event in frames(b"".join(sent).decode())]
    assert ids == ["1", "2", "3"]
    assert story.asked == [0, 0]


def test_deltas_beyond_what_a_slow_reader_may_leave_are_dropped() -> None:
    """Kept events never are."""

    async def flood() -> list[RunEvent]:
        inbox = Inbox()
        for _ in range(MAX_WAITING + 5):
            inbox.post(RunEvent("text_delta", {"text": "x"}))
        inbox.post(RunEvent("terminal", {}, 1))
        await asyncio.sleep(0)
        return await inbox.take(1)

    taken = asyncio.run(flood())
    assert len(taken) == MAX_WAITING + 1
    assert taken[-1].kind == "terminal"


def test_streams_opened_while_the_server_drains_end_at_once() -> None:
    """Readers come back to another process."""

    async def open_late() -> tuple[bool, bool, int]:
        streams = OpenStreams()
        early = streams.open()
        streams.close()
        late = streams.open()
        count = len(streams)
        streams.forget(early)
        streams.forget(late)
        return early.closed, late.closed, count - len(streams)

    assert asyncio.run(open_late()) == (True, True, 2)


def test_too_many_streams_are_refused() -> None:
    """429 with `Retry-After`; the streams that are open go on."""
    options = evolve(QUICK, max_streams=1)
    with (
        AgentLoop(ScriptedBackend(says("done"))) as loop,
        served(loop, fixed_tokens(TOKENS), Serving(port=0, workers=0), options) as url,
        reading(url, run_id := started(loop)) as reader,
    ):
        reader.until(alive)
        with reading(url, run_id) as second:
            assert second.status() == 429
        loop.wait(run_id, scope=ALICE)
        reader.until(is_event("terminal"))


def test_an_unknown_run_has_no_stream() -> None:
    """A problem, not an empty stream."""
    with world(workers=0) as idle:
        assert slug(idle.get("/agents/runs/x/events")) == "agent-run-not-found"
