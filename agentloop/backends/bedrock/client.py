"""The boto3 client: how we build one, and what to say about one we are given.

A client of ours makes one attempt per call (the loop retries), waits long enough for
an inference, keeps idle connections alive and has a connection for each call in
flight. A host's client is used as it is; `client_warnings` tells what about it does
not fit, for `agentloop doctor` and for logs.
"""

from collections.abc import Iterator
from typing import Any, Final

from attrs import frozen

from agentloop.ports import require

CONNECT_TIMEOUT: Final = 10.0
READ_TIMEOUT: Final = 900.0
LEAST_READ_TIMEOUT: Final = 600.0
"""Less is not enough for long answers; AWS advises an hour to begin with."""


@frozen(kw_only=True)
class ClientSettings:
    """What a client of our own is built from; None leaves it to boto3."""

    region: str | None = None
    endpoint_url: str | None = None
    max_in_flight: int = 32
    read_timeout: float = READ_TIMEOUT


def build_client(settings: ClientSettings) -> Any:
    """A `bedrock-runtime` client of our own, from a session of its own.

    Not to be called by two threads at once: making sessions and clients is not
    thread-safe, using clients is.

    Raises:
        MissingExtraError: boto3 is not installed.
    """
    session = require("boto3.session", "bedrock").Session(region_name=settings.region)
    config = require("botocore.config", "bedrock").Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=settings.read_timeout,
        tcp_keepalive=True,
        max_pool_connections=settings.max_in_flight,
        user_agent_extra="agentloop",
    )
    return session.client(
        "bedrock-runtime", endpoint_url=settings.endpoint_url, config=config
    )


def client_warnings(client: Any, max_in_flight: int = 0) -> tuple[str, ...]:
    """What about a client does not fit inference in a loop, one sentence each."""
    return tuple(_warnings(client, max_in_flight))


def _warnings(client: Any, max_in_flight: int) -> Iterator[str]:
    meta = getattr(client, "meta", None)
    model = getattr(meta, "service_model", None)
    service = getattr(model, "service_name", None)
    if service != "bedrock-runtime":
        yield f"the client is one for {service}; inference needs bedrock-runtime"
        return
    config = meta.config  # type: ignore[union-attr] # it has a service model
    attempts = _attempts(config.retries or {})
    if attempts > 1:
        yield (
            f"the client makes up to {attempts} attempts per call, each a whole "
            "inference; the loop retries itself: set total_max_attempts to 1"
        )
    if config.read_timeout < LEAST_READ_TIMEOUT:
        yield (
            f"the client's read_timeout of {config.read_timeout} s ends long answers; "
            f"set at least {LEAST_READ_TIMEOUT:.0f} s"
        )
    if config.max_pool_connections < max_in_flight:
        yield (
            f"the client's pool of {config.max_pool_connections} connections is "
            f"smaller than the {max_in_flight} calls in flight; set "
            "max_pool_connections"
        )
    if not config.tcp_keepalive:
        yield (
            "the client does not keep idle connections alive; gateways drop them "
            "after 350 s: set tcp_keepalive"
        )


def _attempts(retries: dict[str, Any]) -> int:
    """How many requests one call may make; botocore has settled the spellings."""
    if "total_max_attempts" in retries:
        return int(retries["total_max_attempts"])
    return 5 if retries.get("mode", "legacy") == "legacy" else 3
