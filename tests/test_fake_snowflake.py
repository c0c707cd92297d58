"""FakeSnowflake seen through the real connector: sessions, queries, COMPLETE.

Runs on both connector lines; what they do differently is told by their version.
"""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import snowflake.connector
from snowflake.connector.constants import QueryStatus
from snowflake.connector.errors import DatabaseError, Error, ProgrammingError

from agentloop.testing.fake_snowflake import (
    Account,
    Failed,
    FakeSnowflake,
    Reply,
    Rows,
    ScriptError,
    answers,
    breaks,
    calls,
    cuts,
    expires,
    fails,
    hangs,
    html,
    loses,
    nulls,
    polled,
    resets,
    says,
    sql_fails,
    stalls,
    thinks,
    throttles_as_400,
    tokens,
    waits,
)

FIFTH = int(snowflake.connector.__version__.split(".")[0]) >= 5

COMPLETE = "select snowflake.cortex.complete(%s, parse_json(%s), parse_json(%s)) as r"
MODEL = "claude-sonnet-4-5"
NASTY = 'it\'s a "test" \\ with\nlines\t% and ? and :1 \u2028 $$ \U0001f600'


@pytest.fixture
def sf() -> Iterator[FakeSnowflake]:
    """A fake whose script must be used up."""
    with FakeSnowflake() as fake:
        yield fake


def arguments(text: str = "hi", **options: Any) -> tuple[str, str, str]:
    """The three arguments of COMPLETE."""
    history = [{"role": "user", "content": text}]
    return MODEL, json.dumps(history), json.dumps(options)


def complete(connection: Any, *given: Any, **parameters: Any) -> Any:
    """Ask COMPLETE and wait; the value of the row."""
    cursor = connection.cursor()
    cursor.execute(COMPLETE, given or arguments(), _statement_params=parameters or None)
    return cursor.fetchone()[0]


def submit(connection: Any, **parameters: Any) -> str:
    """Ask COMPLETE without waiting; the query id."""
    cursor = connection.cursor()
    cursor.execute_async(COMPLETE, arguments(), _statement_params=parameters or None)
    assert cursor.sfqid
    return cursor.sfqid


def collect(connection: Any, query_id: str) -> str:
    """The text a submitted query answered."""
    cursor = connection.cursor()
    cursor.get_results_from_sfqid(query_id)
    return said(cursor.fetchone()[0])


def said(value: str) -> str:
    """The text in a COMPLETE document."""
    return json.loads(value)["choices"][0]["messages"]


def until(happened: Callable[[], object]) -> None:
    """Wait for something another thread brings about."""
    while not happened():
        time.sleep(0.001)


# -- sessions --------------------------------------------------------------------------
def test_a_connection_logs_in_and_out(sf: FakeSnowflake) -> None:
    """One login and one logout reach the server, and nothing in between."""
    connection = sf.connect()
    assert sf.logins == 1
    connection.close()
    assert sf.hits == {"POST /session/v1/login-request": 1, "POST /session": 1}


@pytest.mark.parametrize("errno", [390100, 390144])
def test_logins_can_be_refused(sf: FakeSnowflake, errno: int) -> None:
    """A refused login is a DatabaseError with its number, and can be allowed again."""
    sf.refuse_logins(errno)
    with pytest.raises(DatabaseError) as refused:
        sf.connect()
    assert (refused.value.errno, sf.logins) == (errno, 0)
    sf.refuse_logins(None)
    sf.connect()
    assert sf.logins == 1


def test_an_expired_session_is_renewed_by_the_connector(sf: FakeSnowflake) -> None:
    """The statement after expiry succeeds by one renewal."""
    connection = sf.connect()
    sf.expire()
    assert connection.cursor().execute("select 1").fetchone() == (1,)
    assert sf.renewals == 1


def test_an_expired_master_token_needs_a_new_login(sf: FakeSnowflake) -> None:
    """Nothing renews when the master token is gone: 390114."""
    connection = sf.connect()
    sf.expire_masters()
    with pytest.raises(DatabaseError) as gone:
        connection.cursor().execute("select 1")
    assert (gone.value.errno, sf.renewals) == (390114, 0)


def test_expiry_at_a_submission_costs_no_second_inference(sf: FakeSnowflake) -> None:
    """A query refused for its token is submitted again and runs once."""
    connection = sf.connect()
    sf.script(expires(), says("after"))
    assert said(complete(connection)) == "after"
    assert (sf.renewals, sf.inferences, sf.attempts) == (1, 1, 2)


# -- small statements ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sql", "row"),
    [
        ("select 1", (1,)),
        ("select 1, 'it''s', null, -2;", (1, "it's", None, -2)),
        (r"select 'a\nb\'c\\d\u00e9\x41\101' as x", ("a\nb'c\\déAA",)),
        ("select $$it's raw \\n$$", ("it's raw \\n",)),
        ("select parse_json('{\"a\": [1]}')::variant", ('{"a":[1]}',)),
        ("select array_construct(1, 'b')", ('[1,"b"]',)),
        ("select object_construct('a', 1, 'b', null)", ('{"a":1}',)),
        ("select CURRENT_ROLE(), current_region()", ("AGENT_ROLE", "AWS_US_WEST_2")),
    ],
)
def test_small_statements(sf: FakeSnowflake, sql: str, row: tuple[object, ...]) -> None:
    """Literals, bindings, JSON and session functions evaluate like in Snowflake."""
    assert sf.connect().cursor().execute(sql).fetchone() == row


def test_session_statements(sf: FakeSnowflake) -> None:
    """Parameters and roles that a session sets are in force and can be shown."""
    cursor = sf.connect().cursor()
    cursor.execute(
        "alter session set query_tag = 'it''s', statement_timeout_in_seconds=9"
    )
    cursor.execute("use role AUDITOR")
    shown = cursor.execute("show parameters like 'QUERY%'").fetchall()
    assert [row[:2] for row in shown] == [("QUERY_TAG", "it's")]
    assert cursor.execute("select current_role()").fetchone() == ("AUDITOR",)


@pytest.mark.parametrize(
    ("sql", "errno"),
    [
        ("explain everything", 1003),
        ("select 1 2", 1003),
        ("select nobody", 904),
        ("select cortex.complete('a', 'b')", 904),
        ("select nothing(1)", 2141),
        ("select parse_json('{')", 100069),
        ("select snowflake.cortex.complete('a')", 938),
    ],
)
def test_unreadable_statements_fail(sf: FakeSnowflake, sql: str, errno: int) -> None:
    """What the server cannot read is a compilation error with its number."""
    with pytest.raises(ProgrammingError) as failed:
        sf.connect().cursor().execute(sql)
    assert failed.value.errno == errno


def test_a_detached_compilation_error_is_known_at_once(sf: FakeSnowflake) -> None:
    """4.x raises it at submission; 5.x swallows it there and tells by the status."""
    connection = sf.connect()
    cursor = connection.cursor()
    if FIFTH:
        cursor.execute_async("select nobody")
        status = connection.get_query_status(cursor.sfqid)
        assert status == QueryStatus.FAILED_WITH_ERROR
    else:
        with pytest.raises(ProgrammingError) as failed:
            cursor.execute_async("select nobody")
        assert failed.value.errno == 904


def test_statements_can_be_taught(sf: FakeSnowflake) -> None:
    """A test adds answers, computed answers and errors for statements of its own."""
    sf.on_sql("from orders", Rows(("N", "NAME"), ((7, "x"), (8, None))))
    sf.on_sql("^call ", lambda sql: Rows(("SQL",), ((sql.upper(),),)))
    sf.fail_sql("from secrets", 3001)
    cursor = sf.connect().cursor()
    assert cursor.execute("select * from orders").fetchall() == [(7, "x"), (8, None)]
    assert cursor.execute("call me()").fetchone() == ("CALL ME()",)
    with pytest.raises(ProgrammingError) as denied:
        cursor.execute("select * from secrets")
    assert denied.value.errno == 3001


# -- COMPLETE --------------------------------------------------------------------------
@pytest.mark.parametrize("qmark", [False, True])
def test_arguments_arrive_as_they_were_given(sf: FakeSnowflake, qmark: bool) -> None:
    """Both parameter styles carry every character to the model."""
    sf.script(says(NASTY))
    sql = COMPLETE.replace("%s", "?") if qmark else COMPLETE
    cursor = sf.connect().cursor()
    cursor.execute(sql, arguments(NASTY), _force_qmark_paramstyle=qmark)
    assert said(cursor.fetchone()[0]) == NASTY
    (request,) = sf.requests
    assert (request.last_user_text, request.model) == (NASTY, MODEL)
    assert request.query_id == cursor.sfqid
    assert cursor.description[0].name == "R"


def test_without_options_the_answer_is_plain_text(sf: FakeSnowflake) -> None:
    """A bare prompt gets bare text; reasoning is not shown."""
    sf.script(thinks("hm") + says("plain"))
    sql = "select snowflake.cortex.complete('llama3.1-70b', 'hi')"
    assert sf.connect().cursor().execute(sql).fetchone() == ("plain",)


def test_with_options_the_answer_is_a_document(sf: FakeSnowflake) -> None:
    """Empty options are options: choices, model and usage."""
    sf.script(says("hi", usage=tokens(100, 7, read=20, written=3)))
    document = json.loads(complete(sf.connect()))
    assert document == {
        "choices": [{"messages": "hi"}],
        "created": 1_700_000_000,
        "model": MODEL,
        "usage": {"completion_tokens": 7, "prompt_tokens": 123, "total_tokens": 130},
    }


PERSON = {"type": "object", "properties": {"name": {"type": "string"}}}


def structured(schema: Any) -> tuple[str, str, str]:
    """Arguments that ask for structured output."""
    return arguments(response_format={"type": "json", "schema": schema})


@pytest.mark.parametrize("details", [True, False])
def test_structured_output_has_two_shapes(details: bool) -> None:
    """With details the object has model and usage around it, without it is alone."""
    with FakeSnowflake(says('{"name": "Ada"}'), account=Account(details=details)) as sf:
        document = json.loads(complete(sf.connect(), *structured(PERSON)))
    if details:
        (output,) = document["structured_output"]
        assert output == {"raw_message": {"name": "Ada"}, "type": "json"}
        assert document["usage"]["total_tokens"] == 15
    else:
        assert document == {"name": "Ada"}


def test_text_that_is_no_json_does_not_fit_structured_output(sf: FakeSnowflake) -> None:
    """The provider answers 422 inside 100351 when the model broke the schema."""
    sf.script(says("Ada"))
    with pytest.raises(ProgrammingError, match=r"422 .*json mode output validation"):
        complete(sf.connect(), *structured(PERSON))


EMULATION = {
    "type": "object",
    "properties": {
        "tool_calls": {
            "type": ["array", "null"],
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "arguments": {"type": "string"},
                },
            },
        },
        "final": {"type": ["string", "null"]},
    },
}


def test_scripted_calls_are_said_in_the_callers_schema(sf: FakeSnowflake) -> None:
    """SQL has no tools, so calls take the names the schema has for them."""
    sf.script(calls(("add", {"x": 1}), ("sub", {})), says("done"))
    connection = sf.connect()
    first, second = (
        json.loads(complete(connection, *structured(EMULATION)))["structured_output"]
        for _ in range(2)
    )
    wanted = [
        {"name": "add", "arguments": '{"x":1}'},
        {"name": "sub", "arguments": "{}"},
    ]
    assert first[0]["raw_message"] == {"tool_calls": wanted, "final": None}
    assert second[0]["raw_message"] == {"tool_calls": None, "final": "done"}


def test_the_emulation_can_be_replaced() -> None:
    """A host with another convention says scripted answers its own way."""
    account = Account(emulate=lambda answer, _: {"said": answer.text}, details=False)
    with FakeSnowflake(says("hi"), account=account) as sf:
        assert complete(sf.connect(), *structured(PERSON)) == '{"said":"hi"}'


# -- errors ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reply", "errno", "sqlstate"),
    [
        (fails(400, 'unknown model "x"'), 100351, "P0000"),
        (throttles_as_400(), 100351, "P0000"),
        (sql_fails(100350), 100350, "P0000"),
        (sql_fails(606), 606, "57P03"),
        (sql_fails(604), 604, "57014"),
        (sql_fails(630), 630, "57014"),
        (sql_fails(2141), 2141, "42601"),
        (sql_fails(3001), 3001, "42501"),
        (sql_fails(390318), 390318, "08001"),
    ],
)
def test_failures_have_their_number_and_state(
    sf: FakeSnowflake, reply: Reply, errno: int, sqlstate: str
) -> None:
    """Both lines raise ProgrammingError with errno, sqlstate and query id."""
    sf.script(reply)
    with pytest.raises(ProgrammingError) as failed:
        complete(sf.connect())
    error = failed.value
    assert (error.errno, error.sqlstate) == (errno, sqlstate)
    assert error.sfqid == sf.queries[-1].id
    assert (sf.inferences, sf.attempts) == (0, 1)


def test_the_remote_status_is_inside_the_message(sf: FakeSnowflake) -> None:
    """Errno 100351 carries the remote status and its text as a JSON string."""
    sf.script(fails(400, 'unknown model "x"'))
    with pytest.raises(ProgrammingError) as failed:
        complete(sf.connect())
    expected = """remote service error: 400 '"unknown model \\"x\\""'"""
    assert failed.value.raw_msg.endswith(expected)


def test_rules_refuse_without_using_the_script(sf: FakeSnowflake) -> None:
    """A call with an unknown model fails remotely and consumes nothing."""
    connection = sf.connect()
    sf.script(says("for the legal one"))
    with pytest.raises(ProgrammingError, match="unknown model"):
        complete(connection, "gpt-4", *arguments()[1:])
    assert [r.complaint for r in sf.refused] == ['unknown model "gpt-4"']
    assert said(complete(connection)) == "for the legal one"


def test_a_null_row_is_no_error(sf: FakeSnowflake) -> None:
    """NULL arrives as None; TRY_COMPLETE turns remote failures into it."""
    sf.script(nulls(), fails(400, "no"))
    connection = sf.connect()
    assert complete(connection) is None
    cursor = connection.cursor()
    cursor.execute(COMPLETE.replace("complete", "try_complete"), arguments())
    assert cursor.fetchone() == (None,)


@pytest.mark.parametrize(
    ("replies", "inferences"),
    [
        ((resets(), says("ok")), 1),
        ((html(503), says("ok")), 1),
        ((loses(says("ok")),), 1),
    ],
)
def test_resent_submissions_run_once(
    sf: FakeSnowflake, replies: tuple[Reply, ...], inferences: int
) -> None:
    """Connectors resend by themselves, with the same request id: one inference."""
    connection = sf.connect()
    sf.script(*replies)
    assert said(complete(connection)) == "ok"
    assert sf.inferences == inferences
    assert list(sf.submissions.values()) == [2]
    assert len(sf.queries) == 1


def test_oversized_statements_fail(sf: FakeSnowflake) -> None:
    """A statement with more than a mebibyte is refused before any inference."""
    with pytest.raises(ProgrammingError, match="too long"):
        complete(sf.connect(), *arguments("x" * 1024 * 1024))
    assert sf.requests == ()


# -- queries over time -----------------------------------------------------------------
def test_the_query_id_is_known_before_the_answer(sf: FakeSnowflake) -> None:
    """A detached query runs, is found by its id, and answers later."""
    connection = sf.connect()
    gate = sf.gate()
    sf.script(waits(gate, says("late")))
    query_id = submit(connection, QUERY_TAG="run-1/2", STATEMENT_TIMEOUT_IN_SECONDS=60)
    assert connection.get_query_status(query_id) == QueryStatus.RUNNING
    assert sf.query_result(query_id) is None
    gate.open()
    assert connection.get_query_status(query_id) == QueryStatus.SUCCESS
    assert collect(connection, query_id) == "late"
    (request,) = sf.requests
    assert (request.tag, request.query_id) == ("run-1/2", query_id)
    assert request.parameters["STATEMENT_TIMEOUT_IN_SECONDS"] == 60
    assert sf.inferences == 1


def test_another_connection_collects_the_answer(sf: FakeSnowflake) -> None:
    """A query outlives the session that submitted it."""
    first = sf.connect()
    gate = sf.gate()
    sf.script(waits(gate, says("late")))
    query_id = submit(first)
    first.close()
    gate.open()
    assert collect(sf.connect(), query_id) == "late"
    assert sf.inferences == 1


CRASHING = """
import os, sys
from agentloop.testing.fake_snowflake.connections import snowflake_connection
connection = snowflake_connection(int(sys.argv[1]))
cursor = connection.cursor()
cursor.execute_async(sys.argv[2])
print(cursor.sfqid, flush=True)
os._exit(9)
"""


def test_a_query_survives_the_process_that_submitted_it(sf: FakeSnowflake) -> None:
    """Another process dies right after submitting; this one gets the answer."""
    gate = sf.gate()
    sf.script(waits(gate, says("survived")))
    sql = f"select snowflake.cortex.complete('{MODEL}', 'hi')"
    command = [sys.executable, "-c", CRASHING, str(sf.port), sql]
    died = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert died.returncode == 9, died.stderr
    gate.open()
    cursor = sf.connect().cursor()
    cursor.get_results_from_sfqid(died.stdout.strip())
    assert cursor.fetchall() == [("survived",)]
    assert (sf.inferences, sf.attempts) == (1, 1)


def test_a_slow_answer_is_told_in_progress() -> None:
    """A waiting client is sent to the result address until the answer is there."""
    with FakeSnowflake(account=Account(patience=0.01)) as sf:
        gate = sf.gate()
        sf.script(waits(gate, says("late")))
        connection = sf.connect()
        got: list[str] = []
        client = threading.Thread(target=lambda: got.append(said(complete(connection))))
        client.start()
        until(lambda: sf.hits["GET /queries/<id>/result"])
        gate.open()
        client.join()
    assert got == ["late"]
    assert (sf.inferences, len(sf.submissions)) == (1, 1)


def test_polls_can_be_counted_out(sf: FakeSnowflake) -> None:
    """A query is said to run for exactly the scripted number of looks."""
    connection = sf.connect()
    sf.script(polled(2, says("third time")))
    query_id = submit(connection)
    seen = [connection.get_query_status(query_id) for _ in range(3)]
    assert seen == [QueryStatus.RUNNING, QueryStatus.RUNNING, QueryStatus.SUCCESS]


def test_an_aborted_query_ends_with_604(sf: FakeSnowflake) -> None:
    """Cancelling ends the query; its inference stays counted."""
    connection = sf.connect()
    sf.script(hangs())
    query_id = submit(connection)
    assert connection.cursor().abort_query(query_id)
    with pytest.raises(ProgrammingError) as canceled:
        collect(connection, query_id)
    assert (canceled.value.errno, sf.inferences) == (604, 1)
    assert sf.query_result(query_id) == Failed(604, "57014", "SQL execution canceled")


def test_a_query_can_be_cancelled_by_statement(sf: FakeSnowflake) -> None:
    """SYSTEM$CANCEL_QUERY from another session ends it too."""
    sf.script(hangs())
    query_id = submit(sf.connect())
    sf.connect().cursor().execute(f"select system$cancel_query('{query_id}')")
    assert isinstance(sf.query_result(query_id), Failed)


def test_aborting_a_finished_query_changes_nothing(sf: FakeSnowflake) -> None:
    """A late cancel does not take the answer away."""
    connection = sf.connect()
    sf.script(says("done"))
    query_id = submit(connection)
    connection.cursor().abort_query(query_id)
    assert collect(connection, query_id) == "done"


@pytest.mark.parametrize("by_session", [False, True])
def test_statement_timeouts_are_enforced(sf: FakeSnowflake, by_session: bool) -> None:
    """A query that outlasts its statement or session timeout fails with 630."""
    connection = sf.connect()
    parameters = {} if by_session else {"STATEMENT_TIMEOUT_IN_SECONDS": 5}
    if by_session:
        connection.cursor().execute("alter session set STATEMENT_TIMEOUT_IN_SECONDS=5")
    sf.script(stalls(4, says("in time")), stalls(6, says("too late")))
    quick, slow = submit(connection, **parameters), submit(connection, **parameters)
    sf.advance(6)
    assert collect(connection, quick) == "in time"
    with pytest.raises(ProgrammingError, match="timeout of 5 second") as late:
        collect(connection, slow)
    assert (late.value.errno, sf.inferences) == (630, 2)


def test_a_timed_out_query_stays_so(sf: FakeSnowflake) -> None:
    """An answer that comes after the timeout does not undo it."""
    gate = sf.gate()
    sf.script(waits(gate, says("too late")))
    query_id = submit(sf.connect(), STATEMENT_TIMEOUT_IN_SECONDS=5)
    sf.advance(6)
    gate.open()
    result = sf.query_result(query_id)
    assert isinstance(result, Failed)
    assert result.errno == 630


def test_a_detached_failure_shows_when_looked_at(sf: FakeSnowflake) -> None:
    """A remote failure is told by the status, not at submission."""
    connection = sf.connect()
    sf.script(fails(429, "too many requests"))
    query_id = submit(connection)
    assert connection.get_query_status(query_id) == QueryStatus.FAILED_WITH_ERROR
    with pytest.raises(ProgrammingError, match="429") as failed:
        collect(connection, query_id)
    assert failed.value.errno == 100351


def test_an_unknown_query_has_no_data(sf: FakeSnowflake) -> None:
    """Monitoring knows nothing about ids it never gave."""
    missing = "01b00000-0000-4000-8000-00000000dead"
    assert sf.connect().get_query_status(missing) == QueryStatus.NO_DATA
    with pytest.raises(KeyError):
        sf.query_result(missing)


def test_four_cursors_share_a_connection(sf: FakeSnowflake) -> None:
    """Parallel cursors each get their own answer, counted exactly."""
    connection = sf.connect()
    sf.always(answers(lambda request: says(request.last_user_text)))
    got: dict[str, str] = {}

    def ask(text: str) -> None:
        for turn in range(5):
            mine = f"{text}-{turn}"
            got[mine] = said(complete(connection, *arguments(mine)))

    threads = [threading.Thread(target=ask, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(asked == answered for asked, answered in got.items())
    assert (len(got), sf.inferences, len(sf.submissions)) == (20, 20, 20)


def test_closing_ends_a_waiting_statement() -> None:
    """A client that waits for an answer gets an error when the fake closes."""
    sf = FakeSnowflake(hangs())
    connection = sf.connect()
    ended: list[Error] = []

    def ask() -> None:
        try:
            complete(connection)
        except Error as error:
            ended.append(error)

    client = threading.Thread(target=ask)
    client.start()
    until(lambda: sf.inferences)
    sf.close()
    client.join()
    assert len(ended) == 1


# -- without a connector ---------------------------------------------------------------
def raw(sf: FakeSnowflake, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request with a fresh session."""
    connection = http.client.HTTPConnection("127.0.0.1", sf.port, timeout=30)
    token = f'Snowflake Token="{sf.open_session()}"'
    connection.request(method, path, json.dumps(body), {"Authorization": token})
    response = connection.getresponse()
    document = json.loads(response.read())
    connection.close()
    return response.status, document


def test_a_submission_can_be_aborted_by_its_request_id(sf: FakeSnowflake) -> None:
    """The client-side timer of 4.x cancels what it has no query id for."""
    sf.script(hangs())
    query_id = submit(sf.connect())
    (query,) = sf.queries
    told = {"requestId": query.request_id}
    status, document = raw(sf, "POST", "/queries/v1/abort-request?requestId=x", told)
    assert (status, document["success"]) == (200, True)
    assert isinstance(sf.query_result(query_id), Failed)


def test_results_are_scanned_and_fetched(sf: FakeSnowflake) -> None:
    """4.x scans a finished query by statement, 5.x fetches it by address."""
    connection = sf.connect()
    sf.script(says("twice"))
    query_id = submit(connection)
    cursor = connection.cursor()
    cursor.execute(f"select * from table(result_scan('{query_id}'))")
    _, fetched = raw(sf, "GET", f"/queries/{query_id}/result")
    assert (
        said(cursor.fetchone()[0]) == said(fetched["data"]["rowset"][0][0]) == "twice"
    )


@pytest.mark.parametrize("running", [True, False])
def test_unfinished_results_cannot_be_scanned(sf: FakeSnowflake, running: bool) -> None:
    """A query that runs, or is unknown, has no result to scan or fetch."""
    connection = sf.connect()
    query_id = "01b00000-0000-4000-8000-00000000dead"
    if running:
        sf.script(hangs())
        query_id = submit(connection)
    with pytest.raises(ProgrammingError, match="not found"):
        connection.cursor().execute(f"select * from table(result_scan('{query_id}'))")
    if not running:
        _, fetched = raw(sf, "GET", f"/queries/{query_id}/result")
        assert fetched["code"] == "000709"


def test_sql_wants_a_session() -> None:
    """Without a session token the SQL endpoints answer 401."""
    with FakeSnowflake() as sf:
        connection = http.client.HTTPConnection("127.0.0.1", sf.port, timeout=30)
        for token in ("Bearer pat", ""):
            head = {"Authorization": token}
            connection.request("POST", "/queries/v1/query-request", b"{}", head)
            response = connection.getresponse()
            assert response.status == 401
            response.read()
        connection.close()


def test_a_fault_of_the_fake_fails_the_test() -> None:
    """A taught function that raises is reported by the script's check."""
    sf = FakeSnowflake()
    sf.on_sql("boom", lambda sql: Rows((), ((len(sql), 1 // 0),)))
    with pytest.raises(ProgrammingError, match="ZeroDivisionError"):
        sf.connect().cursor().execute("boom")
    sf.close()
    with pytest.raises(ScriptError, match="ZeroDivisionError"):
        sf.assert_done()


# -- the script ------------------------------------------------------------------------
def test_leftover_replies_fail() -> None:
    """Leaving the block names the replies nobody asked for."""
    with (
        pytest.raises(ScriptError, match=r"nobody asked for .*unused"),
        FakeSnowflake(says("unused")),
    ):
        pass


def test_missing_replies_fail() -> None:
    """A call without a scripted reply is refused loudly and named at the end."""
    sf = FakeSnowflake()
    with pytest.raises(ProgrammingError, match="no reply"):
        complete(sf.connect())
    sf.close()
    assert [request.number for request in sf.unexpected] == [1]
    with pytest.raises(ScriptError, match="no reply was left for request #1 sql"):
        sf.assert_done()


@pytest.mark.parametrize("reply", [calls(("add", {})), cuts(says("x"), at=9)])
def test_what_sql_cannot_say_fails(reply: Reply) -> None:
    """A reply SQL has no words for is an error of the script, not a silent change."""
    sf = FakeSnowflake(reply)
    with pytest.raises(ProgrammingError, match="SQL"):
        complete(sf.connect())
    sf.close()
    with pytest.raises(ScriptError, match="SQL"):
        sf.assert_done()


def test_a_broken_stream_is_a_remote_error(sf: FakeSnowflake) -> None:
    """What would break a stream fails a row with status 500, billed all the same."""
    sf.script(breaks("model overloaded"))
    with pytest.raises(ProgrammingError, match=r"500 .*model overloaded"):
        complete(sf.connect())
    assert sf.inferences == 1


def test_another_failure_is_not_hidden_by_leftovers() -> None:
    """The script is not checked when the block already failed."""
    with pytest.raises(ZeroDivisionError), FakeSnowflake(says("unused")):
        raise ZeroDivisionError


# -- the trap --------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_connectors_own_rest_client_is_the_trap(sf: FakeSnowflake) -> None:
    """`conn.rest.request` posts an inference again on 4.x; the server sees each one."""
    connection = sf.connect()
    replies = (fails(503, "busy"), says("twice"))
    sf.script(*replies[: 1 if FIFTH else 2])
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}

    def post() -> Any:
        path = "/api/v2/cortex/v1/chat/completions"
        return connection.rest.request(path, body=body, method="post", client="rest")

    if FIFTH:
        with pytest.raises(Error):
            post()
    else:
        assert post()["choices"][0]["message"]["content"] == "twice"
    assert sf.attempts == (1 if FIFTH else 2)
    assert sf.hits["POST /api/v2/cortex/v1/chat/completions"] == sf.attempts
