"""The tables of Cortex' errors: total, as documented, and free of secrets."""

import inspect
import json
from typing import Any

import pytest
import urllib3.exceptions
from hypothesis import given
from hypothesis import strategies as st

from agentloop.backends.cortex.errors import (
    EVENTS,
    HINTS,
    broken_off,
    code_in,
    failure_of,
    kind_of,
    refusal,
    scrubbed,
)
from agentloop.core.catalog import FAILURES, Failure, FailureKind

RETRIED = {"throttled", "overloaded", "unavailable", "connection", "timeout"}


def body(message: str, code: Any = None) -> bytes:
    """A refusal's body as Cortex writes it."""
    value = {"message": message, "request_id": "r-1"}
    return json.dumps(value if code is None else {"code": code, **value}).encode()


REFUSALS: list[tuple[int, bytes, FailureKind]] = [
    (400, body("invalid options"), "invalid_request"),
    (400, body('unknown model "x"'), "not_found"),
    (400, body("schema validation failed"), "invalid_request"),
    (400, body("input schema validation error: 'format'"), "invalid_request"),
    (400, body("max tokens of 128000 exceeded"), "context_window"),
    (400, body("Input is too long for requested model"), "context_window"),
    (400, body("prompt is too long: 210000 tokens"), "context_window"),
    (400, body("all requests were throttled by remote service"), "throttled"),
    (400, body("Incoming request ... payload.", "390142"), "invalid_request"),
    (401, body("JWT token is invalid.", "390144"), "denied"),
    (401, body("Session no longer exists.", "390111"), "denied"),
    (401, b"", "denied"),
    (402, body("budget exceeded"), "quota"),
    (403, body("not authorized", "003001"), "denied"),
    (403, body("not authorized"), "denied"),
    (404, body("no such path"), "not_found"),
    (407, b"proxy", "denied"),
    (408, b"", "timeout"),
    (413, body("request is larger than 20 MiB"), "invalid_request"),
    (422, body("json mode output validation error: no object"), "schema_decode"),
    (422, body("something else"), "provider"),
    (424, b"", "provider"),
    (429, body("too many requests"), "throttled"),
    (500, body("internal"), "unavailable"),
    (501, b"", "provider"),
    (502, b"<html><h1>Bad Gateway</h1></html>", "unavailable"),
    (503, body("inference timed out"), "timeout"),
    (503, body("busy"), "unavailable"),
    (504, b"", "timeout"),
    (505, b"", "provider"),
    (520, b"", "unavailable"),
    (529, body("overloaded"), "overloaded"),
    (302, b"", "provider"),
    (200, body("Your session has expired.", 390112), "denied"),
    (200, body("The user must re-login.", "390114"), "denied"),
    (200, body("OAuth access token expired.", "390318"), "denied"),
]


@pytest.mark.parametrize(("status", "raw", "kind"), REFUSALS)
def test_refusals(status: int, raw: bytes, kind: FailureKind) -> None:
    """Each refusal is read by what its text says, then its code, then its status."""
    failure = refusal(status, raw, {})
    assert failure.kind == kind
    assert failure.retried == (kind in RETRIED)
    assert failure.code
    assert failure.code in failure.message


class SqlError(Exception):
    """An error with the members that both connector lines give theirs."""

    def __init__(self, errno: int, text: str, sqlstate: str = "") -> None:
        self.errno, self.raw_msg, self.sqlstate = errno, text, sqlstate
        self.sfqid = "01b0"
        super().__init__(f"{errno:06d} ({sqlstate}): {self.sfqid}: {text}")


HINTED = [
    (refusal(400, body('unknown model "x"'), {}), "model"),
    (refusal(404, b"", {}), "model"),
    (refusal(403, body("not authorized", "003001"), {}), "role"),
    (refusal(403, b"", {}), "role"),
    (refusal(401, body("JWT token is invalid", "390144"), {}), "token"),
    (refusal(401, b"", {}), "token"),
    (refusal(200, body("session expired", "390112"), {}), "token"),
    (refusal(402, b"", {}), "budget"),
    (failure_of(SqlError(3001, "Insufficient privileges")), "session role"),
    (failure_of(SqlError(580403, "HTTP 403")), "session role"),
    (failure_of(SqlError(2141, "Unknown function COMPLETE")), "session role"),
    (failure_of(SqlError(390114, "token has expired")), "token"),
    (failure_of(SqlError(250002, "Connection is closed")), "token"),
    (failure_of(SqlError(290401, "401 Unauthorized")), "token"),
]


@pytest.mark.parametrize(("failure", "topic"), HINTED)
def test_hints(failure: Failure, topic: str) -> None:
    """A refusal that the host can mend says in the same line which one thing it is."""
    assert failure.message.endswith(f"({HINTS[topic]})")
    assert "\n" not in failure.message


def test_each_hint_is_about_one_thing() -> None:
    """Every hint has its refusal, and what the host cannot mend has none."""
    assert {topic for _, topic in HINTED} == set(HINTS)
    assert "(" not in refusal(503, body("busy"), {}).message


@pytest.mark.parametrize("key", ["code", "error_code"])
@pytest.mark.parametrize("value", ["390112", 390112], ids=["text", "number"])
def test_codes(key: str, value: Any) -> None:
    """Snowflake's code is found under both keys, as a string and as a number."""
    assert code_in({key: value}) == "390112"


@pytest.mark.parametrize("value", [None, "", True, [], {}])
def test_codes_that_are_none(value: Any) -> None:
    """What is no code is not taken for one."""
    assert code_in({"code": value}) is None


@given(st.integers(100, 599), st.binary(max_size=200))
def test_refusals_are_total(status: int, raw: bytes) -> None:
    """Any status with any body is some failure, and never an exception."""
    failure = refusal(status, raw, {})
    assert failure.kind in FAILURES
    failure.message.encode()


HEADERS: list[tuple[dict[str, str], float]] = [
    ({}, 0.0),
    ({"retry-after": "7"}, 7.0),
    ({"retry-after": "0.5"}, 0.5),
    ({"retry-after": "-1"}, 0.0),
    ({"retry-after": "inf"}, 0.0),
    ({"retry-after": "soon"}, 0.0),
    ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, 0.0),
    (
        {
            "retry-after": "Wed, 21 Oct 2026 07:28:30 GMT",
            "date": "Wed, 21 Oct 2026 07:28:00 GMT",
        },
        30.0,
    ),
]


@pytest.mark.parametrize(("headers", "seconds"), HEADERS)
def test_hints_to_wait(headers: dict[str, str], seconds: float) -> None:
    """A hint how long to wait is taken in seconds and as a date."""
    assert refusal(429, b"", headers).retry_after == seconds


# ---------------------------------------------------------------- events

BROKEN: list[tuple[Any, FailureKind]] = [
    *(({"type": name, "message": "no"}, kind) for name, kind in EVENTS.items()),
    ({"type": "new_error", "message": "no"}, "unavailable"),
    ({"type": "new_error", "code": "429"}, "throttled"),
    ({"code": "500", "message": "no"}, "unavailable"),
    ({"type": "api_error", "message": "prompt is too long"}, "context_window"),
    ("just a text", "unavailable"),
    (None, "unavailable"),
]


@pytest.mark.parametrize(("error", "kind"), BROKEN)
def test_error_events(error: Any, kind: FailureKind) -> None:
    """An `error` event is read by its type, its code and its text."""
    assert broken_off({"error": error}).kind == kind


# ---------------------------------------------------------------- exceptions


def remote(status: int, text: str) -> str:
    """How a statement tells what the remote service said."""
    why = "Request failed for external function COMPLETE$V6 with remote service error"
    return f"{why}: {status} '{json.dumps(text)}'"


STATEMENTS: list[tuple[int, str, FailureKind]] = [
    (100351, remote(400, 'unknown model "x"'), "not_found"),
    (100351, remote(400, "all requests were throttled by remote service"), "throttled"),
    (100351, remote(400, "max tokens of 8192 exceeded"), "context_window"),
    (100351, remote(402, "budget exceeded"), "quota"),
    (100351, remote(403, "not authorized"), "denied"),
    (100351, remote(422, "json mode output validation error: x"), "schema_decode"),
    (100351, remote(429, "too many requests"), "throttled"),
    (100351, remote(503, "inference timed out"), "timeout"),
    (100351, remote(529, "overloaded"), "overloaded"),
    (100351, "without a status", "provider"),
    (100350, "remote unreachable", "unavailable"),
    (604, "SQL execution canceled", "provider"),
    (606, "No active warehouse selected", "invalid_request"),
    (630, "Statement reached its statement timeout", "timeout"),
    (2141, "Unknown function COMPLETE", "not_found"),
    (3001, "Insufficient privileges", "denied"),
    (390100, "Incorrect username or password", "denied"),
    (390112, "session expired", "denied"),
    (390114, "token has expired", "denied"),
    (390144, "JWT token is invalid", "denied"),
    (390318, "OAuth access token expired", "denied"),
    (390999, "something about tokens", "denied"),
    (250001, "could not connect", "connection"),
    (250002, "Connection is closed", "denied"),
    (290401, "401 Unauthorized", "denied"),
    (580400, "290400: HTTP 400: Bad Request", "invalid_request"),
    (580403, "290403: HTTP 403: Forbidden", "denied"),
    (580429, "290429: HTTP 429: Too Many Requests", "throttled"),
    (580503, "290503: HTTP 503: Service Unavailable", "unavailable"),
    (6, "responded with error status: 403 Forbidden", "denied"),
    (6, "Invalid Snowflake response", "provider"),
    (4, "HTTP 503, retries exhausted", "unavailable"),
    (14, "HYT00", "connection"),
    (1003, "syntax error", "provider"),
    (-1, "no number", "provider"),
]


@pytest.mark.parametrize(("errno", "text", "kind"), STATEMENTS)
def test_statements(errno: int, text: str, kind: FailureKind) -> None:
    """A failed statement is read by its number, or the status inside of it."""
    failure = failure_of(SqlError(errno, text))
    assert failure.kind == kind
    assert failure.code


def every_urllib3_error() -> list[type[Exception]]:
    """The classes that urllib3 can raise."""
    return [
        found
        for name, found in inspect.getmembers(urllib3.exceptions, inspect.isclass)
        if issubclass(found, urllib3.exceptions.HTTPError) and found.__name__ == name
    ]


OURS = {
    "ClosedPoolError",
    "FullPoolError",
    "HostChangedError",
    "PoolError",
    "RequestError",
}
"""Classes that tell of a wrong use of urllib3, which no second try mends."""


@pytest.mark.parametrize("class_", every_urllib3_error())
def test_urllib3(class_: type[Exception]) -> None:
    """Every class of urllib3's is in the table, itself or by an ancestor."""
    members = {"__init__": lambda _: None, "__str__": lambda _: "no"}
    failure = failure_of(type(class_.__name__, (class_,), members)())
    assert (failure.kind == "provider") is (class_.__name__ in OURS)
    assert failure.code == class_.__name__


OTHERS: list[tuple[Exception, FailureKind]] = [
    (TimeoutError("late"), "timeout"),
    (ConnectionResetError("reset"), "connection"),
    (OSError("no route"), "connection"),
    (ValueError("odd"), "provider"),
    (RuntimeError("odd"), "provider"),
]


@pytest.mark.parametrize(("error", "kind"), OTHERS)
def test_other_exceptions(error: Exception, kind: FailureKind) -> None:
    """Faults of the network are tried again, faults of programs are not."""
    assert failure_of(error).kind == kind


def test_statuses_are_total() -> None:
    """Every status without words has a kind that fits its class."""
    for status in range(100, 600):
        kind = kind_of(status, None, "")
        assert kind in FAILURES
        if kind in RETRIED:
            assert status in {408, 429} or status >= 500


# ---------------------------------------------------------------- secrets

SECRETS = [
    'Authorization: Snowflake Token="ver:1-hint:123-ETMsDgAAAX"',
    "Bearer eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJB.c2ln",
    "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJBIn0.c2lnbmF0dXJl",
    "token: ver:1-hint:92019-ETMsDgAAAXabcdef",
    "https://user:hunter22@proxy:3128/",
    "password=correct-horse-battery",
]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_cut_out(text: str) -> None:
    """What looks like a credential is in no message."""
    shown = scrubbed(f"it said {text} and more")
    assert "[removed]" in shown
    for part in ("ETMsDg", "eyJ", "hunter22", "horse"):
        assert part not in shown
    assert part not in refusal(403, body(text), {}).message
