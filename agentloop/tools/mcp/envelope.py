"""Judging what a server sent: JSON-RPC envelopes, event streams, statuses.

The tables that turn a broken or refusing answer into a `Failure` live here and
nowhere else (contract 8.2, McpProtocol and McpServerError). Pure: bytes and
values in, values out; no SDK, no socket. Nothing a server wrote reaches a failure
but the message of a JSON-RPC error, shortened; messages are scrubbed of our own
secrets before they are judged.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, TypeAlias

from attrs import frozen

from agentloop.core.catalog import Failure, FailureKind, describe
from agentloop.core.content import JsonObject
from agentloop.wire import Limits, TooLargeError, WireError, parse

SESSION_LOST: Final = "session-lost"
"""Code of a failure after which a new session and the same request are due."""

UNDELIVERED: Final = "undelivered"
"""Code of a failure before the request was sent: it was certainly not processed."""

_RPC_KINDS: Final[Mapping[int, FailureKind]] = {
    -32601: "unknown_tool",
    -32602: "tool_validation",
}
_SHOWN: Final = 300
_MAX_RETRY_AFTER: Final = 3600
_MIN_SECRET: Final = 8
"""Shorter values are words; scrubbing would garble."""
_REDACTED: Final = "[redacted]"


class FaultError(Exception):
    """A failure on its way out of this package; it never leaves it."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)


def protocol_fault(problem: str, code: str | None = None) -> FaultError:
    """A server that does not speak MCP as agreed; trying again would not help."""
    return FaultError(Failure(kind="mcp_protocol", message=problem, code=code))


def server_fault(problem: str, code: str | None = None) -> FaultError:
    """A server that cannot be reached or broke off; another attempt may do."""
    return FaultError(Failure(kind="mcp_server", message=problem, code=code))


@frozen
class Caller:
    """Whom a request goes to and what it asks, for the words of a failure."""

    alias: str
    method: str
    tool: str | None = None


# ---------------------------------------------------------------- envelopes

Message: TypeAlias = dict[str, Any]


def read_message(data: bytes, limits: Limits, alias: str) -> Message:
    """The JSON-RPC message in some bytes, its values cleaned.

    Raises:
        FaultError: over the caps, not JSON, or not JSON-RPC 2.0.
    """
    try:
        value, _ = parse(data, limits)
    except TooLargeError as error:
        raise protocol_fault(
            f"the answer of '{alias}' is too large: {error.problem}"
        ) from None
    except WireError as error:
        # The problem names a place and a rule, at most a key: no values.
        raise protocol_fault(
            f"the answer of '{alias}' is not JSON: {error.problem}"
        ) from None
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        raise protocol_fault(f"the answer of '{alias}' is not JSON-RPC 2.0")
    if "method" in value and ("result" in value or "error" in value):
        raise protocol_fault(f"'{alias}' sent a request that is an answer as well")
    return value


def is_reply(message: Message) -> bool:
    """Whether a message answers a request rather than starting something."""
    return "method" not in message


def reply_of(message: Message, expected_id: object, caller: Caller) -> JsonObject:
    """The result in a reply to a request.

    Raises:
        FaultError: a wrong id, a broken structure, or the server's own error.
    """
    found = message.get("id")
    if type(found) is not type(expected_id) or found != expected_id:
        raise protocol_fault(f"'{caller.alias}' answered a request nobody made")
    if ("result" in message) == ("error" in message):
        raise protocol_fault(
            f"the answer of '{caller.alias}' needs exactly one of result and error"
        )
    if "error" in message:
        raise FaultError(_rpc_failure(message["error"], caller))
    result = message["result"]
    if not isinstance(result, dict):
        raise protocol_fault(f"the result of '{caller.alias}' is no object")
    return result


def _rpc_failure(error: object, caller: Caller) -> Failure:
    match error:
        case {"code": int() as code, "message": str() as said} if code is not True:
            problem = " ".join(said[:_SHOWN].split())
        case _:
            return protocol_fault(
                f"the error of '{caller.alias}' needs a code and a message"
            ).failure
    kind: FailureKind = _RPC_KINDS.get(code, "mcp_protocol")
    name = caller.tool or caller.method
    match code:
        case -32601:
            message = describe("UnknownTool", name=name)
        case -32602:
            message = describe("ToolValidation", name=name, problem=problem)
        case _:
            message = f"'{caller.alias}' answered with error {code}: {problem}"
    return Failure(kind=kind, message=message, code=str(code))


def secrets_in(named: Mapping[str, str]) -> tuple[str, ...]:
    """What must not come back, of headers or variables by name.

    Where the name speaks of a secret: the whole value, a token without its scheme,
    and whatever in it looks random. Elsewhere only a value that looks random, or a
    URL with a password: the names of a project, a region or a tenant are words of
    ordinary data, and cutting them out would damage it.

    Longest first, so that no part is replaced inside a whole.
    """
    found: set[str] = set()
    for name, value in named.items():
        if _SECRET_NAME.search(name):
            parts = (part for part in _PARTS.split(value) if _looks_random(part))
            found |= {value, value.partition(" ")[2].strip(), *parts}
        elif _looks_random(value) or _USERINFO.search(value):
            found |= {value, *_USERINFO.findall(value)}
    long = (secret for secret in found if len(secret) >= _MIN_SECRET)
    return tuple(sorted(long, key=len, reverse=True))


_SECRET_NAME: Final = re.compile(
    r"auth|token|secret|passw|credential|cookie|signature|session"
    r"|(^|[-_]|api|access)key($|[-_])",
    re.IGNORECASE,
)
_PARTS: Final = re.compile(r"[\s;,=]+")
_RUN: Final = re.compile(r"[A-Za-z0-9+]{16,}")
_USERINFO: Final = re.compile(r"://[^/@\s:]*:([^/@\s]+)@")


def _looks_random(text: str) -> bool:
    """Whether a text holds a long run of letters and digits, as no word does."""
    runs: list[str] = _RUN.findall(text)
    return any(not run.isalpha() and not run.isdigit() for run in runs)


def scrub(text: str, secrets: Collection[str]) -> str:
    """The text without the secrets that we sent along."""
    for secret in secrets:
        text = text.replace(secret, _REDACTED)
    return text


def scrub_values(value: Any, secrets: Collection[str]) -> Any:
    """A JSON value whose texts hold none of our secrets.

    A server that echoes our headers would otherwise carry the host's token into
    stored messages and to the model. The name of a tool stays as it is: the tool is
    called by it, and who hides a token in one could as well encode it.
    """
    match value:
        case str():
            return scrub(value, secrets)
        case dict():
            return {
                scrub(key, secrets): item
                if key == "name" and "inputSchema" in value
                else scrub_values(item, secrets)
                for key, item in value.items()
            }
        case list():
            return [scrub_values(item, secrets) for item in value]
        case _:
            return value


# ---------------------------------------------------------------- statuses


@frozen
class Head:
    """The status and headers of an HTTP answer, names in lower case."""

    status: int
    headers: Mapping[str, str]

    @property
    def media_type(self) -> str:
        """The content type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def status_fault(head: Head, alias: str) -> FaultError | None:
    """What a status says by itself; None when the body has to be read.

    5xx, 408 and 429 pass, so the loop may try again, after the server's hint.
    Every other refusal lasts. Redirects are followed before this is asked.
    """
    status = head.status
    if status == 200:
        return None
    if status >= 500 or status in {408, 429}:
        return FaultError(
            Failure(
                kind="mcp_server",
                message=f"'{alias}' answered with HTTP {status}",
                code=str(status),
                retry_after=_retry_after(head),
            )
        )
    return protocol_fault(_refusal(status, alias), str(status))


def _refusal(status: int, alias: str) -> str:
    match status:
        case 401 | 403:
            return (
                f"'{alias}' refused the credentials with HTTP {status}; "
                "check the host's credentials callback for it"
            )
        case _ if status < 300:
            return f"'{alias}' answered a request with HTTP {status} and no result"
        case _:
            return f"'{alias}' refused the request with HTTP {status}"


def _retry_after(head: Head) -> float:
    hint = head.headers.get("retry-after", "")
    return float(min(int(hint), _MAX_RETRY_AFTER)) if _SECONDS.fullmatch(hint) else 0.0


_SECONDS = re.compile(r"[0-9]{1,9}")


# ---------------------------------------------------------------- event streams


@frozen
class ServerEvent:
    """One server-sent event; `data` is None when it only carried an id."""

    data: bytes | None
    id: str | None
    retry: float | None


class EventReader:
    """Server-sent events out of chunks, in linear time whatever the chunking."""

    def __init__(self) -> None:
        self._partial: list[bytes] = []
        self._after_return = False
        self._fields: dict[str, list[bytes]] = {}

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """The events that a chunk completes."""
        if self._after_return and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_return = chunk.endswith(b"\r")
        *lines, rest = _LINE_END.split(chunk)
        for line in lines:
            whole = b"".join((*self._partial, line))
            self._partial = []
            if not whole:
                yield from self._dispatch()
            else:
                name, _, value = whole.partition(b":")
                field = name.decode("ascii", "replace")
                self._fields.setdefault(field, []).append(value.removeprefix(b" "))
        if rest:
            self._partial.append(rest)

    def _dispatch(self) -> Iterator[ServerEvent]:
        fields, self._fields = self._fields, {}
        kind = fields.get("event", [b"message"])[-1]
        data = b"\n".join(fields.get("data", []))
        ident = fields.get("id", [None])[-1]
        retry = fields.get("retry", [b""])[-1].decode("ascii", "replace")
        if fields:
            yield ServerEvent(
                data if data and kind == b"message" else None,
                None if ident is None else ident.decode("utf-8", "replace"),
                int(retry) / 1000 if _SECONDS.fullmatch(retry) else None,
            )


_LINE_END = re.compile(rb"\r\n|\r|\n")
