"""What a caller sent, read under caps: JSON bodies, numbers, ids.

A body is counted while it streams in, so that what is too large is never held.
"""

import asyncio
import re
from typing import Any, Final

from starlette.requests import Request

from agentloop.core.catalog import RequestError
from agentloop.http.calls import Calls
from agentloop.wire import Limits, TooLargeError, WireError, is_uuid, parse

SMALL: Final = 16 * 1024
"""Bodies up to this are parsed at once; larger ones on a thread."""
MAX_NUMBER: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly."""
_NUMBER = re.compile(r"[0-9]{1,16}", re.ASCII)


async def read_body(request: Request, limit: int, timeout: float) -> bytes:
    """The body of a request, once it is there.

    Raises:
        RequestError: `payload-too-large`, `request-timeout`.
        ClientDisconnect: the caller went away.
    """
    try:
        async with asyncio.timeout(timeout):
            return await _bytes(request, limit)
    except TimeoutError:
        raise RequestError("request-timeout", seconds=timeout) from None


async def json_of(raw: bytes, limits: Limits, calls: Calls) -> tuple[Any, int]:
    """The JSON value of a body, and how many characters were replaced.

    Raises:
        RequestError: `payload-too-large`, or `invalid-request` for no JSON.
    """
    if len(raw) <= SMALL:
        return _parsed(raw, limits)
    return await calls.on_thread(_parsed, raw, limits)


async def _bytes(request: Request, limit: int) -> bytes:
    """The body, unless it exceeds the limit.

    A body that is not much too large is read to its end and thrown away, because a
    client that is still sending would not see the answer.
    """
    said = _number(request.headers.get("content-length", "0")) or 0
    if said > 4 * limit:
        raise _too_large(limit)
    kept, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > 4 * limit:
            break
        if size <= limit:
            kept += chunk
    if size > limit:
        raise _too_large(limit)
    return bytes(kept)


def _too_large(limit: int) -> RequestError:
    return RequestError("payload-too-large", problem=f"a body of over {limit} bytes")


def _parsed(raw: bytes, limits: Limits) -> tuple[Any, int]:
    try:
        return parse(raw, limits)
    except TooLargeError as error:
        raise RequestError("payload-too-large", problem=str(error)) from None
    except WireError as error:
        raise RequestError("invalid-request", problem=str(error)) from None


def query_number(request: Request, name: str, default: int) -> int:
    """A whole number of the query, at least 0.

    Raises:
        RequestError: `invalid-request` for anything else, or when given twice.
    """
    values = request.query_params.getlist(name)
    if not values:
        return default
    return _whole(name, values)


def last_event_id(request: Request) -> int:
    """The id after which a stream goes on, 0 for all of it.

    Raises:
        RequestError: `invalid-request` when it is no id of an event.
    """
    values = request.headers.getlist("last-event-id")
    return _whole("Last-Event-ID", values) if values else 0


def _whole(name: str, values: list[str]) -> int:
    number = _number(values[0]) if len(values) == 1 else None
    if number is None or number > MAX_NUMBER:
        shown = ", ".join(values)
        problem = f"{name} must be one whole number of at least 0, not {shown!r:.60}"
        raise RequestError("invalid-request", problem=problem)
    return number


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None


def path_id(request: Request, name: str, slug: str) -> str:
    """An id of the path in its canonical form; what is no uuid is unknown.

    Raises:
        RequestError: the 404 of `slug`.
    """
    found = str(request.path_params[name])
    if not is_uuid(found):
        raise RequestError(slug)
    return found.lower()
