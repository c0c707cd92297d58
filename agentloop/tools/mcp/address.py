"""Which addresses an MCP server may have: the forms of a URL, the ranges of an IP.

Contract section 12: https on public addresses only, checked at every redirect
and connected by the checked address. The room is pure: it judges text and
addresses and resolves nothing. One strict reading of a URL is taken and the rest
refused, because two readings of one URL are how such checks are got around.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import urljoin

from attrs import frozen

_DENIED: Final = tuple(
    ip_network(text)
    for text in (
        # The IANA special-purpose registry for IPv4, as of RFC 6890 and later.
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        # Azure's platform address: routable in form, answered inside every VM.
        "168.63.129.16/32",
        # What is special inside 2000::/3; 2001::/23 includes Teredo and ORCHID.
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_UNICAST: Final = ip_network("2000::/3")
"""The one block of IPv6 handed out so far: loopback, mapped, NAT64, unique local,
link-local, site-local and multicast addresses are all outside of it."""

_PRIVATE_NAMES: Final = ("localhost", "local", "internal", "intranet", "home.arpa")
_URL: Final = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE)
_AUTHORITY: Final = re.compile(
    r"(\[[0-9a-f.]*:[0-9a-f:.]*\]|[^\[\]:]+)(?::([0-9]{1,5}))?"
)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"0x[0-9a-f]*|[0-9]+")
_PRINTABLE: Final = re.compile(r"[!-\[\]-~]{1,2048}")
_PORTS: Final = {"https": 443, "http": 80}


class ForbiddenAddressError(ValueError):
    """An address that policy forbids, or a URL that is not plainly readable."""


@frozen
class Policy:
    """What may be reached; `allow_private` is for development and tests."""

    allow_private: bool = False


@frozen
class Endpoint:
    """A URL in its one reading. `host` is lower case, an IPv6 host unbracketed."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: to whom credentials belong."""
        return (self.scheme, self.host, self.port)

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def read_url(text: str, policy: Policy) -> Endpoint:
    """The endpoint that a URL names, its literal address already checked.

    Raises:
        ForbiddenAddressError: not https, not plainly readable, or forbidden.
    """
    if not _PRINTABLE.fullmatch(text):
        raise ForbiddenAddressError(
            "the URL must be 1 to 2048 printable ASCII characters without backslash; "
            "write an international name in its xn-- form"
        )
    parts = _URL.fullmatch(text)
    if parts is None:
        raise ForbiddenAddressError("the URL must start with https://")
    scheme, authority, target = parts[1].lower(), parts[2].lower(), parts[3]
    if scheme != "https" and not policy.allow_private:
        raise ForbiddenAddressError("the URL must start with https://, not http://")
    host, port = _read_authority(authority)
    endpoint = Endpoint(
        scheme,
        _read_host(host, policy),
        _PORTS[scheme] if port is None else port,
        target if target.startswith("/") else f"/{target}",
    )
    if not 0 < endpoint.port < 65536:
        raise ForbiddenAddressError(f"{endpoint.port} is no port")
    return endpoint


def follow(endpoint: Endpoint, location: str, policy: Policy) -> Endpoint:
    """The endpoint that a redirect names, judged like a configured one.

    Raises:
        ForbiddenAddressError: policy forbids it, or it leaves https for http.
    """
    found = read_url(urljoin(str(endpoint), location), policy)
    if endpoint.scheme == "https" and found.scheme == "http":
        raise ForbiddenAddressError("a redirect must not leave https for http")
    return found


def _read_authority(authority: str) -> tuple[str, int | None]:
    if "@" in authority:
        raise ForbiddenAddressError(
            "the URL must not hold user info; credentials come from the host's callback"
        )
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise ForbiddenAddressError("the URL needs a plain host and at most one port")
    return parts[1], int(parts[2]) if parts[2] else None


def _read_host(text: str, policy: Policy) -> str:
    if text.startswith("["):
        return _read_ip(text[1:-1], policy)
    host = text.removesuffix(".")
    labels = host.split(".")
    # A last label that is a number makes URL parsers read an IPv4 address, in
    # octal, hex or with parts left out: only the plain dotted form may pass.
    if _NUMBER.fullmatch(labels[-1]):
        return _read_ip(host, policy)
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ForbiddenAddressError("the URL's host is no plain host name")
    if not policy.allow_private and _is_private_name(host):
        raise ForbiddenAddressError(f"the host '{host}' is a name of private networks")
    return host


def _read_ip(text: str, policy: Policy) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        raise ForbiddenAddressError(
            "the URL's host is neither a name nor a plainly written address"
        ) from None
    check_address(str(address), policy)
    return str(address)


def _is_private_name(host: str) -> bool:
    return "." not in host or host.endswith(
        tuple(f".{name}" for name in _PRIVATE_NAMES)
    )


def check_address(text: str, policy: Policy) -> None:
    """Refuse an address that is not public, unless policy allows private ones.

    Raises:
        ForbiddenAddressError: it is not public; the text does not repeat the
            address, so that a resolver's view of a network is not told.
    """
    if policy.allow_private:
        return
    try:
        address = ip_address(text)
    except ValueError:
        raise ForbiddenAddressError("the host resolves to no address") from None
    if not is_public(address):
        raise ForbiddenAddressError("the host is not on a public address")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is in public, unicast, unembedded space."""
    if isinstance(address, IPv6Address) and (
        address.scope_id is not None or address not in _UNICAST
    ):
        return False
    return not any(
        address in network for network in _DENIED if network.version == address.version
    )
