"""Whole runs over Cortex: crashes, cancels, expiries, and what the records say."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from agentloop import AgentLoop, Scope
from agentloop.backends.bedrock import BedrockBackend
from agentloop.core.content import ToolUse
from agentloop.core.run import Run
from agentloop.stores.memory import MemoryStore
from agentloop.testing import fake_bedrock
from agentloop.testing.fake_snowflake import (
    FakeSnowflake,
    calls,
    expires,
    says,
    throttles,
    waits,
)
from agentloop.wire.checkpoint import remembered_in
from tests.cortex_cases import MODELS, backend_for
from tests.faces import Rooms

SCOPE = Scope(1, 407)
LEASE = 0.3


def loop_over(backend: Any, store: Any = None) -> AgentLoop:
    """A loop that waits for nothing but leases."""
    return AgentLoop(
        backend,
        store,
        tools={"rooms": Rooms()},
        pause=lambda *_: 0.0,
        lease=LEASE,
    )


def started(loop: AgentLoop, dialect: str) -> Run:
    """A run that nobody drives yet."""
    created = loop.create_conversation(defaults={"model": MODELS[dialect]}, scope=SCOPE)
    return loop.start_run(created.id, "hi", scope=SCOPE)


def until(found: Callable[[], Any]) -> Any:
    """The first thing that is true, within some seconds."""
    pause = threading.Event()
    for _ in range(1000):
        if value := found():
            return value
        pause.wait(0.01)
    raise AssertionError("it did not come to be in time")


class CrashError(BaseException):
    """The worker is gone, and leaves everything as it is."""


class Doomed:
    """A connection under which the worker dies while it waits for an answer."""

    def __init__(self, connection: Any) -> None:
        self._real = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_query_status(self, _: str) -> Any:
        raise CrashError


def test_a_crash_is_not_paid_for_twice() -> None:
    """Another worker fetches the answer of a query whose worker died."""
    store = MemoryStore()
    with FakeSnowflake(calls(("rooms-free", {})), says("booked", usage=(7, 3))) as sf:
        dead = loop_over(backend_for("sql", Doomed(sf.connect())), store)
        run = started(dead, "sql")
        with pytest.raises(CrashError):
            dead.wait(run.id, scope=SCOPE)
        assert sf.inferences == 1
        with loop_over(backend_for("sql", sf.connect()), store) as loop:
            with loop.worker(1, poll=0.05):
                ended = loop.wait(run.id, scope=SCOPE, timeout=20)
            jobs = loop.list_jobs(run.id, scope=SCOPE)
        assert (sf.inferences, sf.attempts) == (2, 2)
        first, second = (request.query_id for request in sf.requests)
    assert (ended.status, ended.final_text) == ("completed", "booked")
    assert ended.usage is not None
    assert (ended.usage.prompt_tokens, ended.usage.attempts_without_usage) == (17, 1)
    assert [a.outcome for a in jobs[0].attempts] == ["lost", "ok"]
    assert jobs[0].attempts[1].provider_request_id == first
    assert jobs[1].attempts[0].provider_request_id == second
    assert sf.requests[0].tag == jobs[0].id


def test_a_cancel_aborts_the_query() -> None:
    """A run that is cancelled while its query runs ends, and so does the query."""
    with FakeSnowflake() as sf, loop_over(backend_for("sql", sf.connect())) as loop:
        sf.script(waits(sf.gate(), says("too late")))
        run = started(loop, "sql")
        with loop.worker(1):
            request = until(lambda: sf.requests)[0]
            loop.cancel_run(run.id, scope=SCOPE)
            ended = loop.wait(run.id, scope=SCOPE, timeout=20)
        assert ended.error is not None
        assert ended.error.type == "AgentLoopCancelled"
        result = until(lambda: sf.query_result(request.query_id))
        assert result.errno == 604


@pytest.mark.parametrize("dialect", ["messages", "chat"])
def test_a_renewal_is_shown_and_does_not_count(dialect: str) -> None:
    """A request that met an expired session is in the record, outside the count."""
    with FakeSnowflake(expires(), throttles(), says("done", usage=(7, 3))) as sf:
        backend = backend_for(dialect, sf.connect())
        with loop_over(backend) as loop:
            run = started(loop, dialect)
            ended = loop.wait(run.id, scope=SCOPE)
            (job,) = loop.list_jobs(run.id, scope=SCOPE)
        backend.close()
        ids = [request.request_id for request in sf.requests]
    shown = [(a.number, a.outcome, a.provider_request_id) for a in job.attempts]
    assert shown == [
        (1, "expired", ids[0]),
        (1, "throttled", ids[1]),
        (2, "ok", ids[2]),
    ]
    assert ended.usage is not None
    assert (ended.usage.total_tokens, ended.usage.attempts_without_usage) == (10, 1)


BEDROCK_MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"


def test_one_conversation_over_every_wire() -> None:
    """A conversation goes from backend to backend, and each takes what others left."""
    thinks, ask = fake_bedrock.thinks, ("rooms-free", {"day": "Mon"})
    script = (
        thinks("hm", signature="sig-1") + fake_bedrock.calls(ask),
        fake_bedrock.says("one"),
        fake_bedrock.says("five"),
    )
    with fake_bedrock.FakeBedrock(*script) as bedrock, FakeSnowflake() as sf:
        for word in ("two", "three", "four"):
            sf.script(calls(ask, ask, text="a look"), says(word))
        sf.trust("sig-1", "hm")
        rest = backend_for("messages", sf.connect())
        sql = backend_for("sql", sf.connect())
        planes = {"rest": rest, "sql": sql}
        loop = AgentLoop(
            BedrockBackend(bedrock.client()), backends=planes, tools={"rooms": Rooms()}
        )
        with loop:
            created = loop.create_conversation(
                defaults={"model": BEDROCK_MODEL}, scope=SCOPE
            )
            overrides: list[Any] = [
                None,
                {"data_plane_id": "rest", "model": MODELS["messages"]},
                {"data_plane_id": "rest", "model": MODELS["chat"]},
                {"data_plane_id": "sql", "model": MODELS["sql"]},
                None,
            ]
            texts = [
                loop.run(
                    created.id, "go on", scope=SCOPE, config_override=override
                ).final_text
                for override in overrides
            ]
        rest.close()
        assert texts == ["one", "two", "three", "four", "five"]
        assert [request.door for request in sf.requests] == [
            *("messages", "messages", "chat", "chat", "sql", "sql")
        ]
        assert sf.refused == ()
        assert bedrock.refused == []


def dies(loop: AgentLoop, run: Run) -> None:
    """The worker of a loop dies while it drives a run, and its lease runs out."""
    with pytest.raises(CrashError):
        loop.wait(run.id, scope=SCOPE)
    threading.Event().wait(LEASE * 1.2)


class Dying:
    """A backend under which workers die at the door, `lives` attempts later."""

    def __init__(self, backend: Any, lives: int) -> None:
        self._real = backend
        self._lives = lives
        self.name = backend.name
        self.handed: list[str | None] = []

    def check(self, *given: Any) -> None:
        self._real.check(*given)

    def session(self, given: Any) -> Any:
        session = self._real.session(given)
        whole = session.infer

        def infer(command: Any, job: Any, on_delta: Any) -> Any:
            self.handed.append(job.remembered)
            if self._lives == 0:
                raise CrashError
            self._lives -= 1
            return whole(command, job, on_delta)

        session.infer = infer
        return session


def test_workers_that_die_one_after_another_pay_once() -> None:
    """A query stays remembered until its answer is there, whoever dies meanwhile."""
    store = MemoryStore()
    with FakeSnowflake(says("booked", usage=(7, 3))) as sf:
        first = loop_over(backend_for("sql", Doomed(sf.connect())), store)
        run = started(first, "sql")
        dies(first, run)
        dying = Dying(backend_for("sql", sf.connect()), lives=0)
        dies(loop_over(dying, store), run)
        loop = loop_over(backend_for("sql", sf.connect()), store)
        ended = loop.wait(run.id, scope=SCOPE)
        (job,) = loop.list_jobs(run.id, scope=SCOPE)
        assert (sf.inferences, len(sf.requests)) == (1, 1)
        query = sf.requests[0].query_id
    assert ended.final_text == "booked"
    assert dying.handed == [query]
    shown = [(a.outcome, a.provider_request_id) for a in job.attempts]
    assert shown == [("lost", query), ("lost", query), ("ok", query)]


def test_a_retry_remembers_the_query_as_well() -> None:
    """The commit between two attempts keeps the query that the first one left."""
    store = MemoryStore()
    with FakeSnowflake(says("booked", usage=(7, 3))) as sf:
        flaky = backend_for("sql", Resetting(sf.connect()))
        first = loop_over(Dying(flaky, lives=1), store)
        run = started(first, "sql")
        dies(first, run)
        loop = loop_over(backend_for("sql", sf.connect()), store)
        assert loop.wait(run.id, scope=SCOPE).final_text == "booked"
        assert sf.inferences == 1


class Resetting(Doomed):
    """A connection that is reset under whoever waits for an answer."""

    def get_query_status(self, _: str) -> Any:
        raise ConnectionResetError


def test_what_was_remembered_ends_with_its_inference() -> None:
    """The next iteration is told nothing of the query before it."""
    with FakeSnowflake(calls(("rooms-free", {})), says("booked")) as sf:
        watched = Dying(backend_for("sql", sf.connect()), lives=9)
        store = MemoryStore()
        loop = loop_over(watched, store)
        run = started(loop, "sql")
        headers: list[str] = []
        real = store.checkpoint

        def checkpoint(lease: Any, revision: int, change: Any, *rest: Any) -> bool:
            headers.append(change.header)
            return real(lease, revision, change, *rest)

        store.checkpoint = checkpoint  # type: ignore[method-assign]
        loop.wait(run.id, scope=SCOPE)
        queries = [request.query_id for request in sf.requests]
    assert watched.handed == [None, None]
    assert [remembered_in(header) for header in headers if header] == [
        *(None, queries[0], None, None, queries[1])
    ]


def test_cancelling_an_orphaned_run_aborts_its_query() -> None:
    """A query whose worker died is ended by whoever cancels the run."""
    store = MemoryStore()
    with FakeSnowflake() as sf:
        sf.script(waits(sf.gate(), says("too late")))
        dead = loop_over(backend_for("sql", Doomed(sf.connect())), store)
        run = started(dead, "sql")
        dies(dead, run)
        loop = loop_over(backend_for("sql", sf.connect()), store)
        loop.cancel_run(run.id, scope=SCOPE)
        ended = loop.wait(run.id, scope=SCOPE)
        result = sf.query_result(sf.requests[0].query_id or "")
    assert ended.error is not None
    assert ended.error.type == "AgentLoopCancelled"
    assert getattr(result, "errno", None) == 604


@pytest.mark.parametrize("door", ["/abort-request", "nothing"])
def test_a_cancel_waits_for_no_provider(door: str) -> None:
    """Where the query cannot be ended, the run ends all the same."""
    store = MemoryStore()
    with FakeSnowflake() as sf:
        sf.script(waits(sf.gate(), says("too late")))
        dead = loop_over(backend_for("sql", Doomed(sf.connect())), store)
        run = started(dead, "sql")
        dies(dead, run)
        connection = sf.connect()
        loop = loop_over(backend_for("sql", connection), store)
        sf.break_http(door, 503)
        if door == "nothing":
            connection.close()
        loop.cancel_run(run.id, scope=SCOPE)
        ended = loop.wait(run.id, scope=SCOPE)
        sf.mend()
    assert ended.error is not None
    assert ended.error.type == "AgentLoopCancelled"


def test_runs_over_sql_share_no_ids() -> None:
    """Calls of several runs over SQL go on to a provider that wants each id once."""
    ask = ("rooms-free", {"day": "Mon"})
    script = (calls(ask), says("1"), calls(ask), says("2"), says("3"))
    with FakeSnowflake(*script) as sf:
        connection = sf.connect()
        planes = {"sql": backend_for("sql", connection)}
        rest = backend_for("messages", connection)
        with AgentLoop(rest, backends=planes, tools={"rooms": Rooms()}) as loop:
            created = loop.create_conversation(
                defaults={"model": MODELS["messages"]}, scope=SCOPE
            )
            overrides: list[Any] = [{"data_plane_id": "sql"}] * 2 + [None]
            for override in overrides:
                loop.run(created.id, "go", scope=SCOPE, config_override=override)
            stored = loop.messages(created.id, scope=SCOPE)
        rest.close()
        assert sf.refused == ()
    ids = [
        block.tool_use_id
        for message in stored.messages
        for block in message.content_blocks
        if isinstance(block, ToolUse)
    ]
    assert len(ids) == len(set(ids)) == 2


@pytest.mark.parametrize("dialect", MODELS)
def test_another_login_where_one_has_run_out(dialect: str) -> None:
    """A host that opens another connection goes on when its master token is gone."""
    with FakeSnowflake(default=says("hello")) as sf:
        backend = backend_for(dialect, sf.connect(), reconnect=sf.connect)
        with loop_over(backend) as loop:
            loop.wait(started(loop, dialect).id, scope=SCOPE)
            sf.expire_masters()
            for _ in range(2):
                run = started(loop, dialect)
                assert loop.wait(run.id, scope=SCOPE).status == "completed"
        assert sf.logins == 2
        backend.close()


def test_a_query_outlives_the_login_that_made_it() -> None:
    """The answer of a query is fetched over the next connection, and not paid twice."""
    with FakeSnowflake() as sf:
        gate = sf.gate()
        sf.script(waits(gate, says("hello")))
        backend = backend_for("sql", sf.connect(), reconnect=sf.connect)
        with loop_over(backend) as loop, loop.worker(1):
            run = started(loop, "sql")
            until(lambda: sf.requests)
            sf.expire_masters()
            until(lambda: sf.logins == 2)
            gate.open()
            assert loop.wait(run.id, scope=SCOPE, timeout=20).final_text == "hello"
        assert sf.inferences == 1
