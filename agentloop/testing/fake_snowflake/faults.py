"""Named faults: what the provider, and what lies before it, is known to do wrong.

The room holds verbs for everything that is not an answer. It must not know wires.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from agentloop.testing.fake_snowflake.replies import (
    Expired,
    Failure,
    Null,
    Page,
    Reset,
    SqlFailure,
)

THROTTLED: Final = "all requests were throttled by remote service"


def fails(
    status: int,
    message: str,
    *,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Failure:
    """A failed inference: an HTTP status on REST, errno 100351 on SQL.

    Args:
        status: The HTTP status.
        message: What the body says.
        code: The provider's own code in the body, if any.
        headers: Further headers, like `retry-after`.
    """
    return Failure(status=status, message=message, code=code, headers=headers or {})


def throttles() -> Failure:
    """Too many requests, as HTTP 429."""
    return fails(429, "too many requests")


def throttles_as_400() -> Failure:
    """Too many requests, told as a bad one: the provider does that too."""
    return fails(400, THROTTLED)


def over_budget() -> Failure:
    """The account's budget is spent."""
    return fails(402, "budget exceeded")


def forbids() -> Failure:
    """The role may not use the model."""
    return fails(403, "not authorized", code="003001")


def misfits() -> Failure:
    """The model's output did not fit the schema."""
    return fails(
        422, "json mode output validation error: final answer is not an object"
    )


def times_out() -> Failure:
    """The inference took too long."""
    return fails(503, "inference timed out")


def overloads() -> Failure:
    """The model is overloaded."""
    return fails(529, "overloaded")


def html(status: int = 502) -> Page:
    """The error page of a proxy on the way."""
    page = b"<html><body><h1>Bad Gateway</h1></body></html>"
    return raw_body(page, status=status, content_type="text/html")


def raw_body(
    body: bytes, *, status: int = 200, content_type: str = "application/json"
) -> Page:
    """Any bytes as a reply, also an empty body or half a JSON text."""
    return Page(status=status, body=body, content_type=content_type)


def garbles() -> Page:
    """A success whose body is no JSON."""
    return raw_body(b'{"id": "msg_1", "content": [')


def resets() -> Reset:
    """A connection reset before anything was done; see `loses` for one after."""
    return Reset()


def expires(
    key: Literal["code", "error_code"] = "code", *, number: bool = False
) -> Expired:
    """The session token expires at this very request; SQL and REST share it."""
    return Expired(key=key, number=number)


def nulls() -> Null:
    """A NULL row."""
    return Null()


SQL_ERRORS: Final[Mapping[int, tuple[str, str]]] = {
    604: ("57014", "SQL execution canceled"),
    606: (
        "57P03",
        "No active warehouse selected in the current session. "
        "Select an active warehouse with the 'use warehouse' command.",
    ),
    630: ("57014", "Statement reached its statement timeout and was canceled."),
    2141: ("42601", "SQL compilation error: Unknown function COMPLETE"),
    3001: ("42501", "SQL access control error: Insufficient privileges"),
    100350: ("P0000", "Request failed for external function: remote unreachable"),
    390114: ("08001", "Authentication token has expired. The user must re-login."),
    390318: ("08001", "OAuth access token expired."),
}


def sql_fails(errno: int, message: str | None = None) -> SqlFailure:
    """A failed statement with the state and text that belong to its number.

    Args:
        errno: One of `SQL_ERRORS`.
        message: Another text.
    """
    sqlstate, usual = SQL_ERRORS[errno]
    return SqlFailure(errno=errno, sqlstate=sqlstate, message=message or usual)


def sql_unreachable() -> SqlFailure:
    """The provider behind the SQL function could not be reached."""
    return sql_fails(100350)
