"""A DynamoDB store by its address: `dynamodb://TABLE?region=REGION&endpoint=URL`.

For commands, which have no client of a host. Credentials come from where boto3
looks for them, never from the address. Nothing in here reads or writes a row.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from attrs import frozen

from agentloop.ports.system import require
from agentloop.stores.dynamodb import DynamoDBStore

SCHEME: Final = "dynamodb://"
_TABLE: Final = re.compile(r"[A-Za-z0-9_.-]{3,255}")
_OPTIONS: Final = frozenset({"region", "endpoint"})


@frozen
class Address:
    """What an address says."""

    table: str
    region: str | None = None
    endpoint: str | None = None


def parsed(url: str) -> Address:
    """Read an address.

    Raises:
        ValueError: it is none; the message says what it should look like.
    """
    split = urlsplit(url)
    options = dict(parse_qsl(split.query, keep_blank_values=True))
    wrong = _problem(split.netloc, split.path, options)
    if not url.startswith(SCHEME) or wrong:
        raise ValueError(
            f"{url!r} names no table{wrong}; give"
            " dynamodb://TABLE, perhaps with ?region=REGION&endpoint=URL"
        )
    return Address(split.netloc, options.get("region"), options.get("endpoint"))


def _problem(table: str, path: str, options: Mapping[str, str]) -> str:
    if path.strip("/") or not _TABLE.fullmatch(table):
        return " of 3 to 255 letters, digits, dots, dashes and underscores"
    odd = sorted(options.keys() - _OPTIONS) or [
        key for key in options if not options[key]
    ]
    return f" that is told by {odd[0]!r}" if odd else ""


@contextmanager
def opened_at(url: str) -> Iterator[DynamoDBStore]:
    """The store at an address, on a client of its own that is closed at the end.

    Raises:
        ValueError: the address is none, or no region is known.
        MissingExtraError: boto3 is not installed.
    """
    address = parsed(url)
    errors = require("botocore.exceptions", "dynamodb")
    config = require("botocore.config", "dynamodb").Config(
        connect_timeout=3, read_timeout=10, retries={"mode": "standard"}
    )
    try:
        client = require("boto3", "dynamodb").client(
            "dynamodb",
            region_name=address.region,
            endpoint_url=address.endpoint,
            config=config,
        )
    except errors.NoRegionError:
        raise ValueError(
            f"no region is known for {url!r}; add ?region=REGION, or set AWS_REGION"
        ) from None
    try:
        yield DynamoDBStore(client, address.table)
    finally:
        client.close()
