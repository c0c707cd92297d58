"""Inferences over SQL: the real connector, queries that outlive what submitted them."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import pytest

from agentloop.backends.cortex.account import Link
from agentloop.core.catalog import FailureKind
from agentloop.core.content import Text, ToolUse
from agentloop.core.run import Usage
from agentloop.ports import Inference, JobContext
from agentloop.testing.fake_snowflake import (
    Account,
    FakeSnowflake,
    Reply,
    Rows,
    calls,
    expires,
    fails,
    forbids,
    html,
    loses,
    misfits,
    nulls,
    over_budget,
    overloads,
    polled,
    raw_body,
    resets,
    says,
    sql_fails,
    throttles,
    throttles_as_400,
    times_out,
    tokens,
    waits,
)
from tests.bedrock_cases import infer, user
from tests.cortex_cases import (
    ASKED,
    JOB,
    MODELS,
    asked,
    backend_for,
    failed,
    job,
    opened,
    replied,
    setup,
)

SAID = says("hello 'é' \\ %s \n", usage=(7, 3))
PLAIN = {"emulate_tools": False}


def bare() -> Any:
    """A setup without tools."""
    return setup("sql", specs=())


def slow(session: Any, given: JobContext = JOB, command: Any = ASKED) -> Any:
    """An inference on a thread of its own."""
    pool = ThreadPoolExecutor(1)
    found = pool.submit(session.infer, command, given, None)
    pool.shutdown(wait=False)
    return found


def when_running(sf: FakeSnowflake) -> str:
    """The id of the query that is running by now."""
    pause = threading.Event()
    for _ in range(500):
        if sf.requests and sf.requests[-1].query_id:
            return sf.requests[-1].query_id
        pause.wait(0.01)
    raise AssertionError("no query was submitted")


# ---------------------------------------------------------------- replies


@pytest.mark.parametrize("paramstyle", ["pyformat", "format", "qmark", "numeric"])
def test_an_answer(paramstyle: str) -> None:
    """An answer arrives with its usage, however the connection binds values."""
    with FakeSnowflake(SAID) as sf:
        backend = backend_for("sql", sf.connect(paramstyle=paramstyle), **PLAIN)
        found = backend.session(bare()).infer(ASKED, JOB, None)
        assert (sf.inferences, sf.attempts, len(sf.requests)) == (1, 1, 1)
    event = replied(found)
    assert event.message.content == (Text("hello 'é' \\ %s \n"),)
    assert event.usage == Usage(prompt_tokens=7, completion_tokens=3)


HOSTILE = "it's \\ \"q\" %s ? :1 $$ \n é😀 '; drop table x; --"


@pytest.mark.parametrize("paramstyle", ["pyformat", "qmark"])
def test_what_was_said_arrives_unharmed(paramstyle: str) -> None:
    """Quotes, backslashes and marks of every kind arrive as they were written."""
    with FakeSnowflake(SAID) as sf:
        backend = backend_for("sql", sf.connect(paramstyle=paramstyle), **PLAIN)
        session = backend.session(bare())
        replied(session.infer(infer(user(HOSTILE)), JOB, None))
        assert sf.requests[0].last_user_text == HOSTILE


def test_report() -> None:
    """The report holds the query's id, the checksum of its arguments, the row."""
    with FakeSnowflake(SAID) as sf, opened(sf, "sql", **PLAIN) as backend:
        session = backend.session(bare())
        sent = session.request(ASKED, JOB)
        report = session.infer(ASKED, JOB, None).report
        request = sf.requests[0]
    assert report.provider_request_id == request.query_id
    assert report.request_sha256 == sha256(sent).hexdigest()
    assert json.loads(sent) == request.body
    assert json.loads(report.response or "")["usage"]["prompt_tokens"] == 7


def test_statement_parameters() -> None:
    """The job's id is the query's tag, and the attempt's time its time-out."""
    with FakeSnowflake(SAID, SAID) as sf:
        asked(sf, "sql", job=job(timeout=19.2))
        asked(sf, "sql", job=job(timeout=None))
        timed, free = sf.requests
    assert timed.tag == free.tag == JOB.job_id
    assert timed.parameters["STATEMENT_TIMEOUT_IN_SECONDS"] == 20
    assert "STATEMENT_TIMEOUT_IN_SECONDS" not in free.parameters


def test_the_session_keeps_its_own_parameters() -> None:
    """Tag and time-out hold for our statement alone, not for the host's session."""
    with FakeSnowflake(SAID) as sf:
        connection = sf.connect()
        connection.cursor().execute("alter session set query_tag = 'mine'")
        backend = backend_for("sql", connection)
        replied(backend.session(setup("sql")).infer(ASKED, JOB, None))
        shown = connection.cursor().execute("show parameters like 'QUERY_TAG'")
        assert shown.fetchone()[1] == "mine"


def test_whoever_listens_hears_the_whole() -> None:
    """SQL knows no streams: the text is told in one piece when it is there."""
    told: list[str] = []
    with FakeSnowflake(SAID) as sf, opened(sf, "sql", **PLAIN) as backend:
        replied(backend.session(bare()).infer(ASKED, JOB, told.append))
    assert told == ["hello 'é' \\ %s \n"]


def test_emulated_calls() -> None:
    """With emulated tools, calls arrive as calls under ids of ours."""
    said = calls(("rooms-free_slots", {"day": "Mon"}), text="let me see")
    with FakeSnowflake(said) as sf:
        event = replied(asked(sf, "sql"))
    made = JOB.job_id.replace("-", "")
    assert event.message.content == (
        Text("let me see"),
        ToolUse(f"call_{made}_1", "rooms-free_slots", {"day": "Mon"}),
    )


@pytest.mark.parametrize("details", [True, False], ids=["details", "bare"])
def test_structured_output(details: bool) -> None:
    """A structured answer is read with its details and without."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    given_ = setup("sql", specs=(), output_format_schema=schema)
    fake = FakeSnowflake(says('{"n":1}'), account=Account(details=details))
    with fake as sf, opened(sf, "sql", **PLAIN) as backend:
        event = replied(backend.session(given_).infer(ASKED, JOB, None))
    assert event.message.content == (Text('{"n":1}'),)
    assert (event.usage is not None) is details


def test_an_answer_that_took_all_it_might() -> None:
    """An answer of as many tokens as were allowed counts as cut off."""
    with FakeSnowflake(says("a", usage=tokens(7, 4096))) as sf:
        assert replied(asked(sf, "sql")).stop == "max_tokens"


# ---------------------------------------------------------------- faults

FAULTS: dict[str, tuple[Reply, FailureKind]] = {
    "an unknown model": (fails(400, 'unknown model "x"'), "not_found"),
    "a bad request": (fails(400, "invalid options"), "invalid_request"),
    "too long": (fails(400, "max tokens of 10 exceeded"), "context_window"),
    "throttled as 400": (throttles_as_400(), "throttled"),
    "over budget": (over_budget(), "quota"),
    "forbidden": (forbids(), "denied"),
    "a misfit": (misfits(), "schema_decode"),
    "throttled": (throttles(), "throttled"),
    "timed out": (times_out(), "timeout"),
    "overloaded": (overloads(), "overloaded"),
    "unreachable": (sql_fails(100350), "unavailable"),
    "no warehouse": (sql_fails(606), "invalid_request"),
    "cancelled by somebody": (sql_fails(604), "provider"),
    "statement time-out": (sql_fails(630), "timeout"),
    "no such function": (sql_fails(2141), "not_found"),
    "no privilege": (sql_fails(3001), "denied"),
    "master token expired": (sql_fails(390114), "denied"),
    "OAuth token expired": (sql_fails(390318), "denied"),
    "NULL": (nulls(), "provider"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults(case: str) -> None:
    """Each failed statement lands as the catalog says, and was submitted once."""
    reply, kind = FAULTS[case]
    with FakeSnowflake(reply) as sf:
        found = asked(sf, "sql")
        assert (len(sf.requests), sf.attempts) == (1, 1)
    event = failed(found)
    assert event.failure.kind == kind
    assert event.usage is None
    assert found.report.request_sha256


def test_null_says_so() -> None:
    """A NULL row names itself: it is how a SQL function tells that it failed."""
    with FakeSnowflake(nulls()) as sf:
        found = asked(sf, "sql")
    assert failed(found).failure.code == "NULL"
    assert found.report.provider_request_id


@pytest.mark.parametrize("reply", [loses(SAID), polled(3, SAID)], ids=["lost", "slow"])
def test_the_connectors_own_tries_cost_nothing(reply: Reply) -> None:
    """A reply that got lost on the way is fetched again, not inferred again."""
    with FakeSnowflake(reply) as sf:
        with opened(sf, "sql", **PLAIN) as backend:
            event = replied(backend.session(bare()).infer(ASKED, JOB, None))
        assert (sf.inferences, sf.attempts, len(sf.requests)) == (1, 1, 1)
        assert len(sf.submissions) == 1 + _fetches(sf)
    assert event.message.content[0] == Text("hello 'é' \\ %s \n")


def _fetches(sf: FakeSnowflake) -> int:
    """Statements that only read a result, which 4.x submits."""
    return sum("result_scan" in text for text in sf.statements)


@pytest.mark.parametrize("reply", [resets(), html(503), raw_body(b"", status=500)])
def test_faults_below_a_statement(reply: Reply) -> None:
    """What breaks below a statement is mended by the connector, without a second one.

    Its requests carry one id, which is what Snowflake tells repeats by.
    """
    with FakeSnowflake(reply, SAID) as sf:
        with opened(sf, "sql", **PLAIN) as backend:
            found = backend.session(bare()).infer(ASKED, job(timeout=60.0), None)
        assert sf.inferences == 1
        asked_ = {r.request_id for r in sf.requests}
        assert len(asked_) == 1
    replied(found)


def test_an_expired_session() -> None:
    """Expiry in SQL is the connector's business; the inference is made once."""
    with FakeSnowflake(expires(), SAID) as sf:
        with opened(sf, "sql", **PLAIN) as backend:
            replied(backend.session(bare()).infer(ASKED, JOB, None))
        assert (sf.renewals, sf.inferences) == (1, 1)


def test_a_closed_connection() -> None:
    """A connection that the host closed is denied before anything is asked."""
    with FakeSnowflake() as sf:
        connection = sf.connect()
        session = backend_for("sql", connection).session(setup("sql"))
        connection.close()
        found = session.infer(ASKED, JOB, None)
    assert failed(found).failure.kind == "denied"


def test_a_conversation_beyond_a_statement() -> None:
    """What is too long for a statement is refused with a way out, and not sent."""
    with FakeSnowflake() as sf, opened(sf, "sql") as backend:
        session = backend.session(setup("sql"))
        found = session.infer(infer(user("x" * 1_000_000)), JOB, None)
    failure = failed(found).failure
    assert failure.kind == "context_window"
    assert "use the rest transport" in failure.message


@pytest.mark.parametrize(
    ("paramstyle", "text", "bytes_"),
    [
        ("pyformat", "x", 1),
        ("pyformat", "'", 2),
        ("pyformat", '"', 3),
        ("pyformat", "\\", 4),
        ("pyformat", "中", 7),
        ("qmark", "x", 1),
        ("qmark", '"', 4),
    ],
)
def test_a_statement_is_measured_as_it_travels(
    paramstyle: str, text: str, bytes_: int
) -> None:
    """What quoting makes too long is refused before it is sent, and not much less."""
    with FakeSnowflake(SAID) as sf:
        connection = sf.connect(paramstyle=paramstyle)
        session = backend_for("sql", connection, **PLAIN).session(bare())
        over = session.infer(infer(user(text * (1_000_000 // bytes_))), JOB, None)
        assert failed(over).failure.kind == "context_window"
        assert sf.statements == ()
        replied(session.infer(infer(user(text * (999_000 // bytes_))), JOB, None))


def test_nothing_of_the_prompt_is_in_errors() -> None:
    """Errors tell what the server said, not what it was asked."""
    with FakeSnowflake(sql_fails(3001)) as sf, opened(sf, "sql") as backend:
        session = backend.session(setup("sql"))
        found = session.infer(infer(user("my secret plan")), JOB, None)
    assert "secret plan" not in repr(found)


# ---------------------------------------------------------------- time


def test_time_is_up() -> None:
    """An attempt whose time is up aborts its query."""
    with FakeSnowflake() as sf:
        sf.script(waits(sf.gate(), SAID))
        found = asked(sf, "sql", job=job(timeout=0.3))
        query = sf.requests[0].query_id or ""
        result = sf.query_result(query)
    assert failed(found).failure.kind == "timeout"
    assert getattr(result, "errno", None) == 604
    assert found.report.provider_request_id == query


def test_snowflake_ends_what_nobody_aborts() -> None:
    """The statement's own time-out ends it even when its client is gone."""
    with FakeSnowflake() as sf, opened(sf, "sql") as backend:
        sf.script(waits(sf.gate(), SAID))
        found = slow(backend.session(setup("sql")), job(timeout=30.0))
        when_running(sf)
        sf.advance(31)
        failure = failed(found.result(20)).failure
    assert (failure.kind, failure.code) == ("timeout", "000630")


def test_cancel_aborts_the_query() -> None:
    """A query whose answer nobody wants any more is aborted."""
    wanted = threading.Event()
    wanted.set()
    with FakeSnowflake() as sf, opened(sf, "sql") as backend:
        sf.script(waits(sf.gate(), SAID))
        given_ = job(abandoned=lambda: not wanted.is_set())
        found = slow(backend.session(setup("sql")), given_)
        query = when_running(sf)
        assert sf.query_result(query) is None
        wanted.clear()
        event = failed(found.result(20))
        assert getattr(sf.query_result(query), "errno", None) == 604
    assert "nobody waits" in event.failure.message


# ---------------------------------------------------------------- memory


class Memory:
    """What a runtime would keep of one job."""

    def __init__(self) -> None:
        self.kept: str | None = None
        self.all: list[str | None] = []

    def remember(self, text: str | None) -> None:
        self.kept = text
        self.all.append(text)


def test_the_query_is_remembered_before_its_answer() -> None:
    """The query's id is durable while the model still works, and then let go."""
    memory = Memory()
    with FakeSnowflake() as sf, opened(sf, "sql", **PLAIN) as backend:
        gate = sf.gate()
        sf.script(waits(gate, SAID))
        found = slow(backend.session(bare()), job(remember=memory.remember))
        query = when_running(sf)
        while memory.kept is None:
            threading.Event().wait(0.01)
        assert not found.done()
        assert memory.kept == query
        gate.open()
        replied(found.result(20))
    assert memory.all == [query, None]


def crashed(sf: FakeSnowflake) -> str:
    """The id of a query whose submitter died before there was an answer."""

    class CrashError(BaseException):
        """The worker is gone."""

    def crash(_: str | None) -> None:
        kept.append(_ or "")
        raise CrashError

    kept: list[str] = []
    connection = sf.connect()
    session = backend_for("sql", connection, **PLAIN).session(bare())
    real = session._abort
    session._abort = lambda *_: None  # a worker that died aborts nothing
    with pytest.raises(CrashError):
        session.infer(ASKED, job(remember=crash), None)
    session._abort = real
    return kept[0]


def attached(sf: FakeSnowflake, query: str, memory: Memory) -> Inference:
    """The attempt of another worker, over a connection of its own."""
    with opened(sf, "sql", **PLAIN) as backend:
        given_ = job(remembered=query, remember=memory.remember)
        return backend.session(bare()).infer(ASKED, given_, None)


def test_after_a_crash_the_answer_is_fetched() -> None:
    """Another worker fetches the answer of the query, which is paid for once."""
    memory = Memory()
    with FakeSnowflake(SAID) as sf:
        query = crashed(sf)
        found = attached(sf, query, memory)
        assert (sf.inferences, sf.attempts) == (1, 1)
    event = replied(found)
    assert event.message.content == (Text("hello 'é' \\ %s \n"),)
    assert event.usage == Usage(prompt_tokens=7, completion_tokens=3)
    assert found.report.provider_request_id == query
    assert found.report.notes == (
        f"attached to the query {query} of an earlier attempt",
    )
    assert memory.all == [query, None]


def test_after_a_crash_a_running_query_is_waited_for() -> None:
    """A query that still runs is waited for by whoever comes next."""
    with FakeSnowflake() as sf:
        gate = sf.gate()
        sf.script(waits(gate, SAID))
        query = crashed(sf)
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(attached, sf, query, Memory())
            threading.Event().wait(0.1)
            assert not found.done()
            gate.open()
            replied(found.result(20))
        assert sf.inferences == 1


def test_after_a_crash_a_failed_query_is_let_go() -> None:
    """A query that failed meanwhile is this attempt's failure; the next asks anew."""
    memory = Memory()
    with FakeSnowflake(throttles(), SAID) as sf:
        query = crashed(sf)
        assert failed(attached(sf, query, memory)).failure.kind == "throttled"
        assert memory.all == [query, None]
        found = asked(sf, "sql", job=job(remembered=memory.kept))
        assert sf.attempts == 2
    replied(found)


def test_a_query_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that Snowflake knows nothing of is submitted anew, and it is noted."""
    monkeypatch.setattr("agentloop.backends.cortex.sql._MOST_UNKNOWN", 2)
    gone = "01b00000-0000-4000-8000-00000000dead"
    with FakeSnowflake(SAID) as sf:
        found = attached(sf, gone, Memory())
        query = sf.requests[0].query_id
    replied(found)
    assert found.report.provider_request_id == query
    assert f"the query {gone} is gone; another was submitted" in found.report.notes


def test_a_lost_connection_leaves_the_query() -> None:
    """An attempt that lost its way while waiting is followed by one that attaches."""
    memory = Memory()
    with FakeSnowflake(SAID) as sf, opened(sf, "sql", **PLAIN) as backend:
        session = backend.session(bare())
        connection = session._connection
        session._link = Link(Flaky(connection))
        given_ = job(remember=memory.remember)
        first = session.infer(ASKED, given_, None)
        assert failed(first).failure.kind == "connection"
        assert memory.kept == sf.requests[0].query_id
        second = session.infer(ASKED, given_, None)
        assert sf.inferences == 1
    replied(second)
    assert second.report.provider_request_id == first.report.provider_request_id
    assert memory.kept is None


class Flaky:
    """A connection whose first look at a query fails on the way."""

    def __init__(self, connection: Any) -> None:
        self._real = connection
        self._failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_query_status(self, query_id: str) -> Any:
        if not self._failed:
            self._failed = True
            raise ConnectionResetError("reset by peer")
        return self._real.get_query_status(query_id)


def test_a_memory_that_fails_ends_the_attempt() -> None:
    """Where the id cannot be made durable, the query is aborted and the error told."""

    def refuse(text: str | None) -> None:
        if text is not None:
            raise LookupError("the lease is gone")

    with FakeSnowflake() as sf, opened(sf, "sql") as backend:
        sf.script(waits(sf.gate(), SAID))
        session = backend.session(setup("sql"))
        with pytest.raises(LookupError, match="the lease is gone"):
            session.infer(ASKED, job(remember=refuse), None)
        query = sf.requests[0].query_id or ""
        assert getattr(sf.query_result(query), "errno", None) == 604


# ---------------------------------------------------------------- many


def test_threads_share_the_connection() -> None:
    """Inferences of many threads run side by side over one connection."""
    with FakeSnowflake(default=SAID) as sf, opened(sf, "sql", **PLAIN) as backend:
        jobs = [job(job_id=f"job-{number}") for number in range(12)]

        def ask(given_: JobContext) -> Inference:
            return backend.session(bare()).infer(ASKED, given_, None)

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(ask, jobs))
        assert all(replied(one) for one in found)
        assert sorted(r.tag or "" for r in sf.requests) == sorted(
            one.job_id for one in jobs
        )
        assert sf.inferences == 12


def test_taught_rows_of_another_shape() -> None:
    """A row that is no text, or none at all, is a failure and not an exception."""
    for rows in (Rows(("C",), ()), Rows(("C",), ((7,),))):
        with FakeSnowflake() as sf:
            sf.on_sql("cortex.complete", rows)
            failed(asked(sf, "sql"))


def test_a_row_that_is_no_json() -> None:
    """A row that cannot be read is malformed output, and kept for whoever looks."""
    with FakeSnowflake() as sf:
        sf.on_sql("cortex.complete", Rows(("C",), (("half a {",),)))
        found = asked(sf, "sql")
    assert failed(found).failure.kind == "malformed_output"
    assert found.report.response == '"half a {"'


def test_the_model_is_the_hosts_choice() -> None:
    """Over SQL every family can be asked, under Cortex' own name for it."""
    with FakeSnowflake(SAID) as sf:
        with opened(sf, "sql", model_ids={MODELS["sql"]: "llama3.1-8b"}) as backend:
            replied(backend.session(bare()).infer(ASKED, JOB, None))
        assert sf.requests[0].model == "llama3.1-8b"
