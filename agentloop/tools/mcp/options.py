"""What a host decides about reaching MCP servers; values only."""

import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

from attrs import field, frozen

from agentloop.core.config import McpServer
from agentloop.core.run import Scope
from agentloop.wire import Limits

EFFECT_KEY: Final = "agentloop/effect-key"
"""The key of `_meta` under which a call's effect key goes to the server: the same
for every attempt of one call, so a server can do the work once."""

Credentials: TypeAlias = Callable[[McpServer, Scope], Mapping[str, str]]
"""The headers that authenticate the host at a server, for who started the run. Asked
before every HTTP request, on a worker thread, so a token may be renewed at any time."""

Resolver: TypeAlias = Callable[[str, int], Sequence[str]]
"""The addresses of a host name; may block, raises OSError when there are none."""


_LIMITS: Final = Limits()


def system_resolver(host: str, port: int) -> Sequence[str]:
    """What the operating system resolves a name to, in its order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


@frozen(kw_only=True)
class McpOptions:
    """How servers named by URL are reached.

    Attributes:
        allow_private: reach private addresses and plain http too; for development
            and tests only, since whoever writes a config then reaches the network
            of the host.
        credentials: headers for a server; without it requests carry none. They go
            to the origin of the configured URL and to no redirect beyond it. Alias
            and URL are the choice of whoever wrote the config: give a token only
            for URLs that it belongs to, never for an alias, and only for the scopes
            that may act by it. Of what the server
            answers, secrets among the headers are redacted: values of headers whose
            name speaks of a secret, and others that look random.
        tls: the context for https, by default the system's trust store.
        proxy: URL of an HTTP proxy. The environment's proxies are never used. The
            proxy resolves names a second time, so with one the address check is
            advice and the proxy must enforce it.
        resolve: how a name becomes addresses; each one is checked, then connected.
        connect_timeout: seconds for one connection, TLS included.
        timeout: seconds for a call that brings no timeout of its own.
        retry: which calls that a server's fault ended are made again, up to the
            loop's attempts: `always`, so that a call may be processed more than once
            (a server tells attempts apart by the key `EFFECT_KEY` in `_meta`), or
            only those that were `undelivered`: never sent, or sent in a session that
            the server had forgotten.
        limits: caps on one answer, its whole event stream included.
        cache_ttl: seconds for which a discovered catalog is kept for other runs,
            with `credentials` for those of the same scope; None asks in every run.
        monotonic: the clock of the cache.
    """

    allow_private: bool = False
    credentials: Credentials | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    resolve: Resolver = system_resolver
    connect_timeout: float = 10.0
    timeout: float = 60.0
    retry: Literal["always", "undelivered"] = "always"
    limits: Limits = _LIMITS
    cache_ttl: float | None = None
    monotonic: Callable[[], float] = time.monotonic


@frozen(kw_only=True)
class StdioOptions:
    """How a server process is run.

    Attributes:
        cwd: its working directory.
        stderr: where its standard error goes, as for `subprocess.Popen`; None
            shares ours.
        timeout: seconds for a call that brings no timeout of its own.
        probe: seconds a process gets to say anything after a call of it timed out,
            a ping included; then it is taken for hung, killed, and started again
            by the next call.
        grace: seconds a process gets to end by itself at each step of a stop.
        limits: caps on one message of the server.

    Of what the server says, secrets among the variables of `env` are redacted, as
    those among the headers of a server by URL are.
    """

    cwd: Path | None = None
    stderr: int | None = None
    timeout: float = 60.0
    probe: float = 10.0
    grace: float = 1.0
    limits: Limits = _LIMITS
