"""The `application/vnd.amazon.eventstream` encoding, sending side.

Botocore holds a decoder only, so frames are built here: big endian, u32 total length,
u32 header length, u32 CRC of those eight bytes, headers, payload, u32 CRC of everything
before. Nothing here knows what a message or a script is.
"""

import struct
from functools import cache
from json import dumps
from typing import Final
from zlib import crc32

from agentloop.testing.fake_bedrock.values import Json

_PRELUDE: Final = struct.Struct("!II")
_U32: Final = struct.Struct("!I")
_STRING: Final = 7  # header value type: UTF-8 string with a u16 length


def event(kind: str, data: Json) -> bytes:
    """One event frame of the given `:event-type`."""
    return frame(dumps(data).encode(), _event_headers(kind))


def exception(kind: str, message: str) -> bytes:
    """One exception frame; botocore raises it as `EventStreamError` of that code."""
    return frame(dumps({"message": message}).encode(), _exception_headers(kind))


def frame(payload: bytes, headers: bytes) -> bytes:
    """Wrap a payload and ready-made header bytes with lengths and both checksums."""
    prelude = _PRELUDE.pack(16 + len(headers) + len(payload), len(headers))
    checked = prelude + _U32.pack(crc32(prelude)) + headers + payload
    return checked + _U32.pack(crc32(checked))


def corrupted(whole: bytes) -> bytes:
    """The same frame with one bit of its last checksum turned."""
    return whole[:-1] + bytes([whole[-1] ^ 1])


def header(name: str, value: str) -> bytes:
    """One string header."""
    raw_name, raw_value = name.encode(), value.encode()
    return b"".join(
        (
            struct.pack("!B", len(raw_name)),
            raw_name,
            struct.pack("!BH", _STRING, len(raw_value)),
            raw_value,
        )
    )


@cache
def _event_headers(kind: str) -> bytes:
    return (
        header(":event-type", kind)
        + header(":content-type", "application/json")
        + header(":message-type", "event")
    )


@cache
def _exception_headers(kind: str) -> bytes:
    return (
        header(":exception-type", kind)
        + header(":content-type", "application/json")
        + header(":message-type", "exception")
    )
