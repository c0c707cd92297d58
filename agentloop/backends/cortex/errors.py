"""Every way a call to Cortex fails, and what the loop makes of it: one set of tables.

Total: what no row knows is a `provider` failure and is not tried again. A refusal is
read by what its text says first, then by Snowflake's code, then by its HTTP status;
a failed statement by its number, and where that stands for the remote service, by the
status and text inside it. Sources: "Cortex REST API" (errors, known issues),
"COMPLETE structured outputs", Anthropic's and OpenAI's error references, and the error
numbers of both connector lines. Which kinds are retried is said by the catalog.

Messages name the provider's code and carry no credentials. Exceptions are named by
their class's text, so that this module needs neither urllib3 nor the connector.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from agentloop.backends.common.waits import asked_for
from agentloop.core.catalog import Failure, FailureKind
from agentloop.wire import clean_text

Phase: TypeAlias = Literal["call", "stream"]

EXPIRED: Final = "390112"
"""The session token has expired; told with HTTP 200, and nothing was done."""

TEXTS: Final[tuple[tuple[str, FailureKind], ...]] = (
    # Throttling that comes as a bad request ("Cortex REST API", errors).
    ("throttled by remote service", "throttled"),
    ("output validation error", "schema_decode"),
    ("input schema validation error", "invalid_request"),
    ("unknown model", "not_found"),
    ("max tokens of", "context_window"),
    ("input is too long", "context_window"),
    ("prompt is too long", "context_window"),
    ("exceed context limit", "context_window"),
    ("too many total text bytes", "context_window"),
    ("maximum context length", "context_window"),
    ("context window", "context_window"),
    ("budget exceeded", "quota"),
)
"""Parts of refusals' texts that say more than their status; looked for in 4xx."""

CODES: Final[Mapping[str, FailureKind]] = {
    "003001": "denied",
    "390100": "denied",
    "390101": "denied",
    "390104": "denied",
    "390111": "denied",
    "390112": "denied",
    "390114": "denied",
    "390142": "invalid_request",
    "390144": "denied",
    "390303": "denied",
    "390318": "denied",
}
"""Snowflake's own codes in the bodies of refusals."""

STATUSES: Final[Mapping[int, FailureKind]] = {
    401: "denied",
    402: "quota",
    403: "denied",
    404: "not_found",
    407: "denied",
    408: "timeout",
    422: "provider",
    424: "provider",
    429: "throttled",
    501: "provider",
    504: "timeout",
    505: "provider",
    529: "overloaded",
}
"""Statuses; any other 5xx is `unavailable`, any other 4xx an invalid request."""

EVENTS: Final[Mapping[str, FailureKind]] = {
    "overloaded_error": "overloaded",
    "rate_limit_error": "throttled",
    "rate_limit_exceeded": "throttled",
    "timeout_error": "timeout",
    "api_error": "unavailable",
    "server_error": "unavailable",
    "invalid_request_error": "invalid_request",
    "request_too_large": "invalid_request",
    "authentication_error": "denied",
    "permission_error": "denied",
    "not_found_error": "not_found",
    "billing_error": "quota",
    "insufficient_quota": "quota",
}
"""Types and codes of `error` events within a stream; any other is `unavailable`,
because the model had been accepted already."""

CLASSES: Final[Mapping[str, FailureKind]] = {
    # time
    "ConnectTimeoutError": "timeout",
    "ReadTimeoutError": "timeout",
    "TimeoutError": "timeout",
    # the way to the provider
    "NewConnectionError": "connection",
    "NameResolutionError": "connection",
    "ProtocolError": "connection",
    "IncompleteRead": "connection",
    "CutOffError": "connection",
    "SSLError": "connection",
    "SSLCertVerificationError": "provider",
    "ProxyError": "connection",
    "HTTPError": "connection",
    "OSError": "connection",
    # an answer that is none
    "DecodeError": "malformed_output",
    "EventError": "malformed_output",
    "MalformedError": "malformed_output",
    # credentials
    "NoTokenError": "denied",
    # a request or a setting that is not as it should be
    "LocationValueError": "invalid_request",
    "StatementSizeError": "context_window",
    "GoneError": "provider",
    "StuckError": "unavailable",
    "MaxRetryError": "connection",
    "EmptyPoolError": "connection",
    "PoolError": "provider",
    # the connector, where a number tells nothing
    "ReauthenticationRequest": "denied",
    "ForbiddenError": "denied",
    "BadRequest": "invalid_request",
    "TokenExpiredError": "denied",
    "OperationalError": "connection",
}
"""By class name, the nearest ancestor first; `Exception` itself is `provider`."""

NUMBERS: Final[Mapping[int, FailureKind]] = {
    # statements
    604: "provider",  # cancelled, and not by us
    606: "invalid_request",
    630: "timeout",
    2140: "not_found",
    2141: "not_found",
    3001: "denied",
    100350: "unavailable",
    # sessions and logins
    390100: "denied",
    390101: "denied",
    390111: "denied",
    390112: "denied",
    390114: "denied",
    390144: "denied",
    390189: "denied",
    390318: "denied",
    250001: "connection",
    250002: "denied",  # closed: a connection is the host's to open
    250003: "connection",
    # 5.x: retries spent, a refusal without words, no way to the host
    4: "unavailable",
    6: "provider",
    14: "connection",
}
"""The connector's error numbers, both lines."""

REMOTE: Final = 100351
"""The remote service behind COMPLETE refused; its status and text are inside."""

HINTS: Final[Mapping[str, str]] = {
    "model": "check the model's name; one that is not served in the account's region "
    "is unknown as well, see CORTEX_ENABLED_CROSS_REGION",
    "role": "the user's default role needs SNOWFLAKE.CORTEX_USER",
    "session role": "the session's role needs SNOWFLAKE.CORTEX_USER",
    "token": "the login or its token is not valid, or not any more",
    "budget": "the account's Cortex budget is spent",
}
"""What a refusal most likely asks the host to look at: one thing each.

REST goes by the role that is the user's default, SQL by that of the session.
"""

_LOGINS: Final = re.compile(
    r"390\d{3}|250002|290401|HTTP 401|NoTokenError|TokenExpiredError|Reauth\w+"
)
"""Codes of refusals that are about who asks, whatever it is that they ask."""

_NO_FUNCTION: Final = frozenset({"002140", "002141"})

_HTTP_NUMBERS: Final = (290000, 580000)
"""What 4.x adds to an HTTP status, some of its classes twice."""

_WORDLESS: Final = 6
_HTTP_STATUS: Final = re.compile(r"error status: (\d{3})")
"""How 5.x tells an HTTP refusal: one number for all, and the status in its text."""

_INSIDE: Final = re.compile(r"remote service error:\s*(\d{3})\s*(.*)", re.DOTALL)
_MOST_TEXT: Final = 500
_SECRETS: Final = re.compile(
    r"(?i)snowflake token\s*=\s*\"?[^\s\",;]+\"?"
    r"|(?:authorization|bearer|token|password|secret)\b[\"']?\s*[:=]?\s*[\"']?"
    r"[\w.~+/=:-]{16,}"
    r"|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*"
    r"|://[^/\s@]+:[^/\s@]+@"
)


# ---------------------------------------------------------------- REST


def refusal(status: int, raw: bytes, headers: Mapping[str, str]) -> Failure:
    """What a reply that is no success means; `headers` have lower-case names."""
    code, text = told_in(raw)
    kind, named = kind_of(status, code, text), _named(status, code)
    # A bad token may be told by the status alone.
    hint = _hint(kind, "HTTP 401" if status == 401 else named, "role")
    return Failure(
        kind=kind,
        message=_message(named, text, hint),
        code=named,
        retry_after=asked_for(headers),
    )


def kind_of(status: int, code: str | None, text: str) -> FailureKind:
    """The kind of a refusal, by its text, its code and its status."""
    if 400 <= status < 500:
        lowered = text.lower()
        for part, kind in TEXTS:
            if part in lowered:
                return kind
    if code is not None and code in CODES:
        return CODES[code]
    if status == 503 and "timed out" in text.lower():
        return "timeout"
    if status in STATUSES:
        return STATUSES[status]
    if status >= 500:
        return "unavailable"
    return "invalid_request" if status >= 400 else "provider"


def told_in(raw: bytes) -> tuple[str | None, str]:
    """Code and text of a refusal's body, whatever its shape."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None, _stripped(raw.decode("utf-8", "replace"))
    if not isinstance(value, Mapping):
        return None, str(value)
    return code_in(value), _text_in(value)


def code_in(value: Mapping[str, Any]) -> str | None:
    """Snowflake's code in a body: under either key, a string or a number."""
    for key in ("code", "error_code"):
        found = value.get(key)
        if isinstance(found, str | int) and not isinstance(found, bool) and found != "":
            return str(found)
    return None


def request_id_in(raw: bytes) -> str | None:
    """The id of a refused request, where its body tells it."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    found = value.get("request_id") if isinstance(value, Mapping) else None
    return found if isinstance(found, str) and found else None


def _text_in(value: Mapping[str, Any]) -> str:
    error = value.get("error")
    inner = error.get("message") if isinstance(error, Mapping) else error
    return str(value.get("message") or inner or "")


def _named(status: int, code: str | None) -> str:
    return code or f"HTTP {status}"


def broken_off(event: Mapping[str, Any]) -> Failure:
    """What an `error` event within a stream means."""
    error = event.get("error")
    error = error if isinstance(error, Mapping) else {"message": error}
    names = [str(error[key]) for key in ("type", "code") if error.get(key)]
    text = str(error.get("message") or event.get("message") or "")
    kind = _kind_of_event(names, text)
    return Failure(
        kind=kind,
        message=_message(names[0] if names else "error", text, _hint(kind, "", "role")),
        code=(names[0] if names else "error")[:100],
    )


def _kind_of_event(names: list[str], text: str) -> FailureKind:
    lowered = text.lower()
    for part, kind in TEXTS:
        if part in lowered:
            return kind
    for name in names:
        if name in EVENTS:
            return EVENTS[name]
        if name.isdecimal() and len(name) == 3:
            return kind_of(int(name), None, text)
    return "unavailable"


# ---------------------------------------------------------------- exceptions


def failure_of(error: BaseException) -> Failure:
    """What an exception of the HTTP client, the stream or the connector means."""
    if isinstance(getattr(error, "errno", None), int) and hasattr(error, "sfqid"):
        return sql_failure(error)
    name = type(error).__name__
    kind = _kind_of_class(_root(error))
    hint = _hint(kind, name, "role")
    message = _message(name, str(error), hint, verb="was asked in vain,")
    return Failure(kind=kind, message=message, code=name)


def sql_failure(error: Any) -> Failure:
    """What a failed statement means, on both connector lines."""
    text = str(getattr(error, "raw_msg", None) or getattr(error, "msg", None) or error)
    number = int(error.errno)
    inside = _INSIDE.search(text)
    if number == REMOTE and inside is not None:
        status, said = int(inside[1]), inside[2].strip().strip("'\"")
        kind, named = kind_of(status, None, said), f"HTTP {status}"
        return Failure(
            kind=kind,
            message=_message(named, said, _hint(kind, named, "session role")),
            code=named,
        )
    kind = _kind_of_number(number, error)
    code = f"{number:06d}" if number > 0 else type(error).__name__
    hint = _hint(kind, code, "session role")
    return Failure(kind=kind, message=_message(code, text, hint), code=code)


def _kind_of_number(number: int, error: BaseException) -> FailureKind:
    for base in _HTTP_NUMBERS:
        if base + 400 <= number < base + 600:
            return kind_of(number - base, None, str(error))
    told = _HTTP_STATUS.search(str(error))
    if number == _WORDLESS and told is not None:
        return kind_of(int(told[1]), None, "")
    if number in NUMBERS:
        return NUMBERS[number]
    if 390000 <= number < 391000:
        return "denied"
    return _kind_of_class(error)


def _root(error: BaseException) -> BaseException:
    """A certificate's refusal is wrapped; it is no passing fault of the network."""
    for inner in (*error.args, error.__cause__, error.__context__):
        refused = type(inner).__name__ == "SSLCertVerificationError"
        if refused and isinstance(inner, BaseException):
            return inner
    return error


def _kind_of_class(error: BaseException) -> FailureKind:
    for ancestor in type(error).__mro__:
        kind = CLASSES.get(ancestor.__name__)
        if kind is not None:
            return kind
    return "provider"


# ---------------------------------------------------------------- words and hints


def _message(code: str, text: str, hint: str | None, verb: str = "answered") -> str:
    cleaned, _ = clean_text(" ".join(scrubbed(text).split()))
    shown = cleaned if len(cleaned) <= _MOST_TEXT else f"{cleaned[:_MOST_TEXT]}..."
    told = f"cortex {verb} {code[:100]}"
    told = f"{told}: {shown}" if shown else told
    return f"{told} ({hint})" if hint else told


def _hint(kind: FailureKind, code: str, role: str) -> str | None:
    """What to look at; `role` names the role that the transport goes by."""
    match kind:
        case "denied":
            return HINTS["token" if _LOGINS.fullmatch(code) else role]
        case "not_found":
            return HINTS[role if code in _NO_FUNCTION else "model"]
        case "quota":
            return HINTS["budget"]
        case _:
            return None


def scrubbed(text: str) -> str:
    """A text without anything that looks like a credential."""
    return _SECRETS.sub("[removed]", text)


def _stripped(page: str) -> str:
    """The words of a page that a proxy on the way answered with."""
    return re.sub(r"<[^>]*>", " ", page)
