"""HTTP without second tries: one POST, its headers, its body piece by piece.

urllib3 does the work, because it is well kept, pools connections and comes with boto3
anyway. The proxy is the connection's, or else the environment's, TLS is verified with
the system's certificates; a host with other wishes brings its own pool manager.
Redirects are not followed: they would carry the token elsewhere.

This room knows no credentials and no JSON.
"""

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from agentloop.backends.cortex.account import Proxy
from agentloop.backends.cortex.calls import Deadline
from agentloop.ports import require

CONNECT_TIMEOUT: Final = 10.0
SLOWEST: Final = 64 * 1024
"""Bytes per second that an uplink must manage: sending counts as connecting."""

READ_TIMEOUT: Final = 900.0
"""Seconds of silence that end an attempt nobody set a time-out for."""

MOST_BYTES: Final = 64 * 1024 * 1024
_PIECE: Final = 64 * 1024
_LINGER: Final = 0.1
"""Seconds that the end of a body may take after the end of the reply in it."""


class Incoming:
    """A reply whose body is still to be read; headers have lower-case names."""

    def __init__(self, response: Any, deadline: Deadline) -> None:
        self._response = response
        self._deadline = deadline
        self._socket = _socket_of(response)
        self.status: int = response.status
        self.headers: Mapping[str, str] = {
            name.lower(): value for name, value in response.headers.items()
        }

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes in.

        Raises:
            TimeoutError: the attempt's time is up.
            ValueError: the body is larger than any reply.
        """
        size = 0
        while True:
            self._wait_at_most(self._deadline.within(READ_TIMEOUT))
            piece = self._response.read1(_PIECE)
            if not piece:
                return
            size += len(piece)
            if size > MOST_BYTES:
                raise ValueError(f"a reply of more than {MOST_BYTES} bytes")
            yield piece

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces())

    def done(self) -> None:
        """Give the connection back, if the body ends soon; else close it."""
        try:
            self._wait_at_most(_LINGER)
            if self._response.read1(_PIECE):
                self._response.close()
        except Exception:
            self._response.close()
        else:
            self._response.release_conn()

    def drop(self) -> None:
        """Close the connection."""
        self._response.close()

    def _wait_at_most(self, seconds: float) -> None:
        """Set how long the next read may be silent, where the socket is in reach."""
        if self._socket is not None:
            with suppress(
                OSError
            ):  # closed with the end of the body: nothing to wait for
                self._socket.settimeout(seconds)


def _socket_of(response: Any) -> Any:
    """The socket that a body comes from, None where it is out of reach.

    A reply that ends with its connection has taken the socket from it: it is where
    the standard library's reader reads then.
    """
    found = getattr(response.connection, "sock", None)
    if found is None:
        reader = getattr(getattr(response, "_fp", None), "fp", None)
        found = getattr(getattr(reader, "raw", None), "_sock", None)
    return found


class Http:
    """One pool of connections, made when it is first needed.

    Args:
        pool: a urllib3 pool manager of the host's; it is used and never closed.
        size: how many connections a pool of our own keeps.
        proxy: the proxy of a pool of our own, asked when it is made.
    """

    def __init__(
        self, pool: Any, size: int, proxy: Callable[[], Proxy | None] = lambda: None
    ) -> None:
        self._pool = pool
        self._size = size
        self._proxy = proxy
        self._lock = threading.Lock()

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], deadline: Deadline
    ) -> Incoming:
        """Send exactly one request and wait for the head of its reply.

        Raises:
            MissingExtraError: urllib3 is not installed.
            TimeoutError: the attempt's time is up.
            Exception: what urllib3 raises; `errors` knows its classes.
        """
        timeout = require("urllib3", "cortex").Timeout(
            connect=deadline.within(CONNECT_TIMEOUT + len(body) / SLOWEST),
            read=deadline.within(READ_TIMEOUT),
        )
        response = self._manager(url).request(
            "POST",
            url,
            body=body,
            headers=dict(headers),
            timeout=timeout,
            retries=False,
            redirect=False,
            preload_content=False,
        )
        return Incoming(response, deadline)

    def close(self) -> None:
        """Close idle connections of a pool of our own."""
        with self._lock:
            if isinstance(self._pool, _Own):
                self._pool.manager.clear()
                self._pool = None

    def _manager(self, url: str) -> Any:
        pool = self._pool
        if pool is None:
            with self._lock:
                if self._pool is None:
                    self._pool = _Own(_built(url, self._size, self._proxy()))
                pool = self._pool
        return pool.manager if isinstance(pool, _Own) else pool


class _Own:
    """A pool manager that we made and may close."""

    def __init__(self, manager: Any) -> None:
        self.manager = manager


def _built(url: str, size: int, named: Proxy | None) -> Any:
    """A pool manager, through the proxy that is named for the host, if one is."""
    urllib3 = require("urllib3", "cortex")
    sockets = urllib3.connection.HTTPConnection.default_socket_options
    # Gateways drop connections that are silent while a model thinks.
    alive = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    common = {"maxsize": size, "socket_options": [*sockets, alive]}
    proxy = _proxy_for(urlsplit(url), named)
    if not proxy:
        return urllib3.PoolManager(**common)
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    headers = _proxy_headers(urllib3, proxy)
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **common)


def _proxy_for(target: SplitResult, named: Proxy | None) -> str | None:
    """The URL of the proxy on the way to a target, None when there is none."""
    from urllib.request import getproxies, proxy_bypass  # loads ssl: not before use

    host = target.hostname or ""
    if named is None:
        return None if proxy_bypass(host) else getproxies().get(target.scheme)
    return None if _is_direct(host, named.no_proxy) else named.url


def _is_direct(host: str, no_proxy: str) -> bool:
    """Whether a host, or a domain that it is in, is among those without a proxy."""
    names = [name.strip().removeprefix("*").lstrip(".") for name in no_proxy.split(",")]
    if "*" in no_proxy.split(","):
        return True
    return any(name and f".{host}".endswith(f".{name}") for name in names)


def _proxy_headers(urllib3: Any, proxy: str) -> dict[str, str] | None:
    parts = urlsplit(proxy)
    if not parts.username:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    headers: dict[str, str] = urllib3.make_headers(proxy_basic_auth=pair)
    return headers
