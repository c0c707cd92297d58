"""Blocking calls of a host: their shares, their turns and their threads."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from agentloop.tools.mcp.errands import CrowdedError, Errands, site_of


class Stuck:
    """Work that waits until it is let go; counts how often it is at it."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.begun: list[str] = []

    def work(self, name: str) -> Callable[[], str]:
        """Work that says that it began, then waits."""

        def wait() -> str:
            self.begun.append(name)
            self.release.wait(10)
            return name

        return wait


async def settled(condition: Callable[[], bool]) -> None:
    """Wait for what threads do."""
    while not condition():
        await asyncio.sleep(0.005)


@pytest.mark.asyncio
async def test_a_key_has_its_share_of_threads_and_a_queue() -> None:
    """What is beyond the share is done in its turn; another key does not wait."""
    errands, stuck = Errands(share=2, threads=10), Stuck()
    names = "abcde"
    many = [errands.run("one", stuck.work(name)) for name in names]
    waiting = asyncio.gather(*many)
    await settled(lambda: len(stuck.begun) == 2)
    assert await errands.run("two", lambda: "at once") == "at once"
    assert stuck.begun == ["a", "b"]
    stuck.release.set()
    assert await waiting == list(names)


@pytest.mark.asyncio
async def test_without_a_thread_for_its_key_a_call_is_refused() -> None:
    """The cap on all threads is told at once; who has threads keeps them."""
    errands, stuck = Errands(share=2, threads=2), Stuck()
    held = [errands.run("one", stuck.work(name)) for name in "ab"]
    waiting = asyncio.gather(*held)
    await settled(lambda: len(stuck.begun) == 2)
    with pytest.raises(CrowdedError):
        await errands.run("two", lambda: None)
    later = asyncio.ensure_future(errands.run("one", stuck.work("c")))
    stuck.release.set()
    assert await waiting == ["a", "b"]
    assert await later == "c"
    assert await errands.run("two", lambda: "free again") == "free again"


@pytest.mark.asyncio
async def test_who_gives_up_leaves_the_queue() -> None:
    """A cancelled call that has not begun never does."""
    errands, stuck = Errands(share=1), Stuck()
    first = asyncio.ensure_future(errands.run("one", stuck.work("a")))
    await settled(lambda: stuck.begun == ["a"])
    gone = asyncio.ensure_future(errands.run("one", stuck.work("b")))
    last = asyncio.ensure_future(errands.run("one", stuck.work("c")))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    stuck.release.set()
    assert (await first, await last) == ("a", "c")
    assert stuck.begun == ["a", "c"]


@pytest.mark.asyncio
async def test_what_a_call_raises_is_its_callers() -> None:
    """An exception comes back, and the thread is there for the next call."""
    errands = Errands(share=1)

    def fail() -> None:
        raise OSError("no answer")

    for _ in range(3):
        with pytest.raises(OSError, match="no answer"):
            await errands.run("one", fail)


@pytest.mark.asyncio
async def test_a_forked_child_begins_anew() -> None:
    """Threads that stayed with the parent count for nothing."""
    errands, stuck = Errands(share=1, threads=1), Stuck()
    first = asyncio.ensure_future(errands.run("one", stuck.work("a")))
    await settled(lambda: stuck.begun == ["a"])
    with pytest.raises(CrowdedError):
        await errands.run("two", lambda: None)
    errands.forget()
    assert await errands.run("two", lambda: "mine") == "mine"
    stuck.release.set()
    assert await first == "a"


SITES = {
    "localhost": "localhost",
    "example.com": "example.com",
    "a.b.example.com": "example.com",
    "mcp.example.co.uk": "example.co.uk",
    "example.co.uk": "example.co.uk",
    "co.uk": "co.uk",
    "mcp.example.io": "example.io",
}


@pytest.mark.parametrize(("host", "site"), SITES.items())
def test_a_site_is_what_was_registered(host: str, site: str) -> None:
    """Names under one registered name share threads, neighbours do not."""
    assert site_of(host) == site
