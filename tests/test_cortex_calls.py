"""Calls of the connector that do not come back, and attempts that end all the same."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest

from agentloop import AgentLoop, Scope
from agentloop.backends.cortex import CortexBackend
from agentloop.backends.cortex.account import ConnectionAuth, Link, address_of
from agentloop.backends.cortex.calls import Calls, Deadline, Patience, StuckError
from agentloop.ports import JobContext
from agentloop.testing.fake_snowflake import FakeSnowflake, says, waits
from tests.cortex_cases import (
    ASKED,
    MODELS,
    asked,
    backend_for,
    failed,
    job,
    opened,
    replied,
    setup,
)

SAID = says("hello")
PLAIN = {"emulate_tools": False}
SCOPE = Scope(1, 407)


def until(found: Callable[[], Any]) -> Any:
    """The first thing that is true, within some seconds."""
    pause = threading.Event()
    for _ in range(2000):
        if value := found():
            return value
        pause.wait(0.01)
    raise AssertionError("it did not come to be in time")


@contextmanager
def ailing(*script: Any, default: Any = None) -> Iterator[FakeSnowflake]:
    """A fake whose broken doors are mended at the end, script used up or not."""
    sf = FakeSnowflake(*script, default=default)
    try:
        yield sf
    finally:
        sf.close()


def settle(sf: FakeSnowflake, backend: CortexBackend) -> None:
    """Mend what was broken, and let every call that was given up come back."""
    sf.mend()
    until(lambda: backend.hanging == 0)


def never() -> Patience:
    """Patience without an end."""
    return Patience(Deadline(None))


# ---------------------------------------------------------------- calls alone


def test_a_call_returns_what_it_finds() -> None:
    """A call gives its value, or raises what was raised, on the thread that waits."""
    calls = Calls()
    assert calls.make(lambda: 7, never()) == 7
    with pytest.raises(KeyError, match="here"):
        calls.make(lambda: {}["here"], never())
    assert calls.hanging == 0


def test_a_call_that_is_given_up_is_counted_until_it_comes_back() -> None:
    """Nobody waits longer than there is patience, and what hangs is known."""
    calls, gate = Calls(), threading.Event()
    with pytest.raises(TimeoutError, match=r"not done after 0\.05 s"):
        calls.make(gate.wait, Patience(Deadline(0.05)))
    assert calls.hanging == 1
    gate.set()
    until(lambda: calls.hanging == 0)


def test_nobody_waits_for_what_is_not_wanted() -> None:
    """A call whose answer nobody wants is given up, and none is begun for nobody."""
    calls, gate, wanted = Calls(), threading.Event(), [True, True, False]
    with pytest.raises(TimeoutError, match="nobody waits"):
        calls.make(gate.wait, Patience(Deadline(None), lambda: not wanted.pop(0)))
    begun: list[int] = []
    with pytest.raises(TimeoutError, match="nobody waits"):
        calls.make(lambda: begun.append(1), Patience(Deadline(None), lambda: True))
    gate.set()
    until(lambda: calls.hanging == 0)
    assert begun == []


def test_what_comes_too_late_is_handed_on() -> None:
    """The result of a call that was given up goes to who cleans up after it."""
    calls, gate, late = Calls(), threading.Event(), list[bool]()
    with pytest.raises(TimeoutError):
        calls.make(gate.wait, Patience(Deadline(0.05)), late.append)
    gate.set()
    until(lambda: late == [True])


def test_no_call_is_begun_while_too_many_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads that hang are bounded; until one comes back there are no more."""
    monkeypatch.setattr("agentloop.backends.cortex.calls.MOST_HANGING", 1)
    calls, gate = Calls(), threading.Event()
    with pytest.raises(TimeoutError):
        calls.make(gate.wait, Patience(Deadline(0.05)))
    with pytest.raises(StuckError, match="1 calls of the connector hang"):
        calls.make(lambda: 7, never())
    gate.set()
    until(lambda: calls.hanging == 0)
    assert calls.make(lambda: 7, never()) == 7


# ---------------------------------------------------------------- SQL


def test_a_poll_that_hangs_ends_with_the_attempt() -> None:
    """An outage of the status door does not outlive the attempt's time.

    The connector tries on behind our back, 4.x for as long as the outage lasts.
    """
    with ailing() as sf, opened(sf, "sql", **PLAIN) as backend:
        sf.script(waits(sf.gate(), SAID))
        sf.break_http("/monitoring/", 503)
        session = backend.session(setup("sql", specs=()))
        found = session.infer(ASKED, job(timeout=0.5), None)
        assert failed(found).failure.kind == "timeout"
        assert backend.hanging == 1
        query = sf.requests[0].query_id or ""
        assert getattr(sf.query_result(query), "errno", None) == 604
        settle(sf, backend)


def test_a_poll_that_hangs_ends_with_a_cancel() -> None:
    """Who does not want the answer any more does not wait for the connector either."""
    gone = threading.Event()
    with ailing() as sf, opened(sf, "sql", **PLAIN) as backend:
        sf.script(waits(sf.gate(), SAID))
        sf.break_http("/monitoring/", 503)
        session = backend.session(setup("sql", specs=()))
        with ThreadPoolExecutor(1) as pool:
            given = job(timeout=600.0, abandoned=gone.is_set)
            found = pool.submit(session.infer, ASKED, given, None)
            until(lambda: sf.hits["GET /monitoring/queries/<id>"])
            gone.set()
            assert "nobody waits" in failed(found.result(20)).failure.message
        settle(sf, backend)


def test_an_answer_that_could_not_be_asked_for_is_not_paid_again() -> None:
    """A query that could be neither polled nor aborted is found by the next attempt."""
    kept: list[str | None] = []
    with ailing(SAID) as sf, opened(sf, "sql", **PLAIN) as backend:
        session = backend.session(setup("sql", specs=()))
        sf.break_http("/monitoring/|/abort-request", 503)
        given = job(timeout=0.5, remember=kept.append)
        assert failed(session.infer(ASKED, given, None)).failure.kind == "timeout"
        assert kept == [sf.requests[0].query_id]
        settle(sf, backend)
        replied(session.infer(ASKED, job(remember=kept.append), None))
        assert sf.inferences == 1


def test_a_submission_that_comes_too_late_is_aborted() -> None:
    """A query whose id came after the attempt had ended does not go on for nobody."""
    gate = threading.Event()
    with ailing() as sf:
        sf.script(waits(sf.gate(), SAID))
        backend = backend_for("sql", Watched(sf.connect(), gate.wait), **PLAIN)
        session = backend.session(setup("sql", specs=()))
        found = session.infer(ASKED, job(timeout=0.1), None)
        assert failed(found).failure.kind == "timeout"
        assert sf.requests == ()
        gate.set()
        request = until(lambda: sf.requests)[0]
        result = until(lambda: sf.query_result(request.query_id or ""))
        assert result.errno == 604
        settle(sf, backend)


def test_the_tries_of_4x_are_told_when_to_end() -> None:
    """Whatever is submitted carries its time-out, so that no call hangs for ever."""
    with FakeSnowflake(SAID) as sf:
        watched = Watched(sf.connect())
        backend = backend_for("sql", watched, **PLAIN)
        replied(
            backend.session(setup("sql", specs=())).infer(ASKED, job(timeout=7.5), None)
        )
        auth = ConnectionAuth(Link(watched), Calls())
        auth.renew(auth.ticket(), Patience(Deadline(7.5)))
        assert watched.timeouts == [8, 8]


class Watched:
    """A connection whose statements are seen, and wait for leave to go out."""

    def __init__(self, connection: Any, leave: Callable[[], object] = bool) -> None:
        self._real = connection
        self._leave = leave
        self.timeouts: list[object] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    @property
    def rest(self) -> Any:
        url, token = address_of(self._real)
        return SimpleNamespace(token=token, server_url=url)

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        with self._real.cursor() as cursor:
            self._cursor = cursor
            yield self

    def execute_async(self, *args: Any, **choices: Any) -> Any:
        self._leave()
        self.timeouts.append(choices["timeout"])
        return self._cursor.execute_async(*args, **choices)

    def execute(self, *args: Any, **choices: Any) -> Any:
        self.timeouts.append(choices["timeout"])
        return self._cursor.execute(*args, **choices)

    def get_results_from_sfqid(self, query_id: str) -> None:
        self._cursor.get_results_from_sfqid(query_id)

    def fetchone(self) -> Any:
        return self._cursor.fetchone()

    def abort_query(self, query_id: str) -> Any:
        return self._cursor.abort_query(query_id)


# ---------------------------------------------------------------- REST


def test_a_renewal_that_hangs_ends_with_each_attempt() -> None:
    """Attempts that meet an expired session wait for one renewal, each in its time."""
    with ailing(default=SAID) as sf, opened(sf) as backend:
        sf.expire()
        sf.break_http("/queries/v1/query-request", 503)
        limits = (0.3, 0.6, 0.6)

        def ask(given: JobContext) -> Any:
            return backend.session(setup()).infer(ASKED, given, None)

        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(ask, [job(timeout=limit) for limit in limits]))
        assert {failed(one).failure.kind for one in found} == {"timeout"}
        assert backend.hanging == 1
        settle(sf, backend)
        replied(ask(job()))


# ---------------------------------------------------------------- whole runs


@pytest.mark.parametrize(
    ("dialect", "door"), [("sql", "/monitoring/"), ("messages", "query-request")]
)
def test_a_run_ends_in_its_time(dialect: str, door: str) -> None:
    """However long the connector would try, a run ends at its deadline."""
    with ailing(default=SAID) as sf, opened(sf, dialect) as backend:
        if dialect != "sql":
            sf.expire()
        sf.break_http(door, 503)
        loop = AgentLoop(
            backend, attempt_timeout=0.4, run_timeout=1.0, pause=lambda *_: 0.0
        )
        with loop:
            created = loop.create_conversation(
                defaults={"model": MODELS[dialect]}, scope=SCOPE
            )
            ended = loop.run(created.id, "hi", scope=SCOPE)
        settle(sf, backend)
    assert ended.error is not None
    assert ended.error.type == "AgentLoopDeadlineExceeded"


# ---------------------------------------------------------------- HTTP below SQL

_LINE = int(version("snowflake-connector-python").partition(".")[0])
IMPATIENT = {"request_timeout" if _LINE >= 5 else "network_timeout": 1}
"""How each line is told that a second is long enough for all its tries."""


@pytest.mark.parametrize(
    ("status", "kinds"),
    [
        (400, {"invalid_request"}),
        (401, {"denied"}),
        (403, {"denied"}),
        (429, {"throttled", "unavailable"}),
        (503, {"unavailable"}),
    ],
)
def test_http_below_a_statement(status: int, kinds: set[str]) -> None:
    """An HTTP refusal of the connector's own doors is read alike on both lines."""
    with ailing(SAID) as sf:
        sf.break_http("/monitoring/", status)
        backend = backend_for("sql", sf.connect(**IMPATIENT), **PLAIN)
        found = backend.session(setup("sql", specs=())).infer(ASKED, job(), None)
    assert failed(found).failure.kind in kinds


def test_a_broken_door_is_mended_after_so_many() -> None:
    """What was broken for one request lets the next one through."""
    with FakeSnowflake(SAID) as sf:
        sf.break_http("/monitoring/", 503, times=1)
        replied(asked(sf, "sql", job=job(timeout=60.0)))
        assert sf.hits["GET /monitoring/queries/<id>"] > 1
