"""The boto3 client: how we build one, and what to say about one we are given.

A client of ours makes one attempt per call (the loop retries), waits long enough for
an inference, keeps idle connections alive and has a connection for each call in
flight. A host's client is used as it is; `client_warnings` tells what about it does
not fit, for `agentloop doctor` and for logs. What is no client for inference at all
is refused by `check_client`.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, Final

from attrs import frozen

from agentloop.backends.common.doors import refuse
from agentloop.ports import require

CONNECT_TIMEOUT: Final = 10.0
READ_TIMEOUT: Final = 900.0
LEAST_READ_TIMEOUT: Final = 600.0
"""Less is not enough for long answers; AWS advises an hour to begin with."""
SERVICE: Final = "bedrock-runtime"
_REGION: Final = re.compile(r"(?!-)[a-zA-Z0-9-]{1,63}(?<!-)")  # botocore's own rule
_ENDPOINT: Final = re.compile(r"https?://[^\s/]+(/\S*)?")


@frozen(kw_only=True)
class ClientSettings:
    """What a client of our own is built from; None leaves it to boto3."""

    region: str | None = None
    endpoint_url: str | None = None
    max_in_flight: int = 32
    read_timeout: float = READ_TIMEOUT


def check_settings(settings: ClientSettings) -> None:
    """That a client can be built from the settings, as far as we can tell.

    Raises:
        TypeError: a value of the wrong kind.
        ValueError: one that no client can have.
    """
    for name, rule, example in (
        ("region", _REGION, "us-east-1"),
        ("endpoint_url", _ENDPOINT, "https://HOST"),
    ):
        text = getattr(settings, name)
        if text is not None and not isinstance(text, str):
            raise refuse(name, "text", text)
        if text is not None and not rule.fullmatch(text):
            raise ValueError(f"{name} must be such as {example}, not {text!r:.60}")
    most: Any = settings.max_in_flight
    if not isinstance(most, int) or isinstance(most, bool):
        raise refuse("max_in_flight", "a whole number", most)
    if most < 1:
        raise ValueError(f"max_in_flight must be at least 1, not {most}")
    patience: Any = settings.read_timeout
    if not isinstance(patience, int | float) or isinstance(patience, bool):
        raise refuse("read_timeout", "a number of seconds", patience)
    if not 0 < patience < math.inf:  # also when it is not a number
        raise ValueError(f"read_timeout must be above 0 seconds, not {patience}")


def check_client(client: Any) -> None:
    """That a client can infer; what cannot is told by its kind.

    A client of another make that has `converse` is taken: hosts wrap theirs.

    Raises:
        TypeError: it is none, or one of another service.
    """
    service = _service(client)
    if service not in {None, SERVICE}:
        raise TypeError(
            f"client= must be a boto3 client of {SERVICE}, not one of {service}; "
            f"make it with session.client({SERVICE!r})"
        )
    if callable(getattr(client, "converse", None)) and not isinstance(client, type):
        return
    if callable(getattr(client, "client", None)):
        way_out = f"give session.client({SERVICE!r})"
    else:
        way_out = "leave it out to have one built, BedrockBackend(region=...)"
    wrong = refuse("client=", f"a boto3 client of {SERVICE}", client)
    raise TypeError(f"{wrong}; {way_out}")


def _service(client: Any) -> Any:
    model = getattr(getattr(client, "meta", None), "service_model", None)
    return getattr(model, "service_name", None)


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
    return session.client(SERVICE, endpoint_url=settings.endpoint_url, config=config)


def client_warnings(client: Any, max_in_flight: int = 0) -> tuple[str, ...]:
    """What about a client does not fit inference in a loop, one sentence each."""
    return tuple(_warnings(client, max_in_flight))


def _warnings(client: Any, max_in_flight: int) -> Iterator[str]:
    service = _service(client)
    if service != SERVICE:
        yield f"the client is one for {service}; inference needs {SERVICE}"
        return
    config = client.meta.config
    attempts = attempts_of(client)
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


def attempts_of(client: Any) -> int:
    """How many requests one call may make; botocore has settled the spellings."""
    retries = client.meta.config.retries or {}
    if "total_max_attempts" in retries:
        return int(retries["total_max_attempts"])
    return 5 if retries.get("mode", "legacy") == "legacy" else 3
