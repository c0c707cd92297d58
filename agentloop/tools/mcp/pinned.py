"""Connections to checked addresses: a pool that resolves once and pins.

A name is resolved once per connection, every address is judged, and exactly the
judged address is connected, while Host, SNI and the certificate's name stay the
URL's. So a resolver that changes its mind (DNS rebinding) gains nothing. Imports
httpcore2, which the SDK brings; knows no MCP.
"""

import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import cast
from urllib.parse import unquote, urlsplit

import httpcore2
from httpcore2 import SOCKET_OPTION

from agentloop.tools.mcp.address import (
    Endpoint,
    ForbiddenAddressError,
    Policy,
    check_address,
)
from agentloop.tools.mcp.envelope import UNDELIVERED, protocol_fault, server_fault
from agentloop.tools.mcp.errands import LOOK_UPS, CrowdedError, site_of
from agentloop.tools.mcp.options import McpOptions, Resolver

MAX_ADDRESSES = 4
"""Of a name with many addresses the first few are tried, so that each gets a
fair part of the connect timeout."""


_NO_ADDRESS = "its name does not resolve"
_CROWDED = "too many look-ups of other names do not end"


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Opens sockets to judged addresses only."""

    def __init__(self, resolve: Resolver, policy: Policy) -> None:
        self._resolve = resolve
        self._policy = policy
        # Typed by its base: without anyio, which the SDK brings, it is a stub.
        self._sockets = cast(httpcore2.AsyncNetworkBackend, httpcore2.AnyIOBackend())

    async def checked(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host, all of them allowed.

        Raises:
            ForbiddenAddressError: one of them is not; the others do not help, since
                an attacker may list a public address beside a private one.
            ConnectError: there are none.
        """
        try:
            found = await LOOK_UPS.run(site_of(host), lambda: self._resolve(host, port))
        except CrowdedError as error:
            raise httpcore2.ConnectError(_CROWDED) from error
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(_NO_ADDRESS) from error
        for address in found:
            check_address(address, self._policy)
        if not found:
            raise httpcore2.ConnectError(_NO_ADDRESS)
        return found[:MAX_ADDRESSES]

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolve, judge and connect; the framework names the parameters."""
        addresses = await self.checked(host, port)
        share = None if timeout is None else timeout / len(addresses)
        for address in addresses[:-1]:
            try:
                return await self._sockets.connect_tcp(
                    address, port, share, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._sockets.connect_tcp(
            addresses[-1], port, share, local_address, socket_options
        )


class Gate:
    """The pool of one server, with the check that a proxy cannot make for us."""

    def __init__(self, options: McpOptions) -> None:
        policy = Policy(allow_private=options.allow_private)
        self._backend = CheckedBackend(options.resolve, policy)
        self._proxied = options.proxy is not None
        self.pool = httpcore2.AsyncConnectionPool(
            ssl_context=options.tls or _default_tls(),
            proxy=_proxy(options.proxy),
            max_connections=100,
            max_keepalive_connections=16,
            keepalive_expiry=30.0,
            network_backend=None if self._proxied else self._backend,
        )

    async def check(self, endpoint: Endpoint) -> None:
        """Judge the address before a proxy is asked to go there."""
        if self._proxied:
            await self._backend.checked(endpoint.host, endpoint.port)


@cache
def _default_tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _proxy(url: str | None) -> httpcore2.Proxy | None:
    if url is None:
        return None
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if parts.username is None:
        return httpcore2.Proxy(bare)
    login = (unquote(parts.username), unquote(parts.password or ""))
    return httpcore2.Proxy(bare, auth=login)


def url_of(endpoint: Endpoint) -> httpcore2.URL:
    """The endpoint as the pool wants it; nothing is parsed a second time."""
    return httpcore2.URL(
        scheme=endpoint.scheme,
        host=endpoint.host,
        port=endpoint.port,
        target=endpoint.target,
    )


@contextmanager
def translated(alias: str) -> Iterator[None]:
    """Turn what the pool raises into faults, at this one edge.

    Raises:
        FaultError: with the class of the cause but not its text, which may repeat
            addresses and headers.
    """
    try:
        yield
    except ForbiddenAddressError as error:
        raise protocol_fault(
            f"'{alias}' may not be reached: {error}", "forbidden-address"
        ) from None
    except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
        raise server_fault(
            f"'{alias}' cannot be reached: {_reason(error)}", UNDELIVERED
        ) from None
    except (httpcore2.LocalProtocolError, httpcore2.UnsupportedProtocol) as error:
        raise protocol_fault(
            f"the request to '{alias}' cannot be sent: {type(error).__name__}"
        ) from None
    except (
        httpcore2.NetworkError,
        httpcore2.ProtocolError,
        httpcore2.ProxyError,
        httpcore2.TimeoutException,
        OSError,
    ) as error:
        raise server_fault(
            f"'{alias}' broke off the connection: {type(error).__name__}"
        ) from None


def _reason(error: Exception) -> str:
    """The class of what the pool wrapped; of texts, only our own."""
    match error.args:
        case (str() as text,) if text in {_NO_ADDRESS, _CROWDED}:
            return text
        case (BaseException() as inner,):
            return type(inner.__cause__ or inner).__name__
        case _:
            return type(error).__name__
