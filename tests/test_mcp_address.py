"""Which URLs and addresses may be reached: the forms, one by one."""

from ipaddress import ip_address

import pytest

from agentloop.core.catalog import RequestError
from agentloop.core.config import McpServer
from agentloop.tools.mcp import McpDirectory, McpOptions
from agentloop.tools.mcp.address import (
    Endpoint,
    ForbiddenAddressError,
    Policy,
    check_address,
    follow,
    is_public,
    read_url,
)
from tests.faces import SCOPE

PUBLIC = Policy()
PRIVATE = Policy(allow_private=True)

ALLOWED = {
    "https://example.com": ("https", "example.com", 443, "/"),
    "https://example.com/": ("https", "example.com", 443, "/"),
    "https://example.com/mcp": ("https", "example.com", 443, "/mcp"),
    "https://example.com/mcp?key=1&b=%20": (
        "https",
        "example.com",
        443,
        "/mcp?key=1&b=%20",
    ),
    "https://example.com?key=1": ("https", "example.com", 443, "/?key=1"),
    "https://example.com/mcp#part": ("https", "example.com", 443, "/mcp"),
    "https://EXAMPLE.com/MCP": ("https", "example.com", 443, "/MCP"),
    "HTTPS://example.com/": ("https", "example.com", 443, "/"),
    "https://example.com./mcp": ("https", "example.com", 443, "/mcp"),
    "https://example.com:443/": ("https", "example.com", 443, "/"),
    "https://example.com:8443/": ("https", "example.com", 8443, "/"),
    "https://example.com:65535/": ("https", "example.com", 65535, "/"),
    "https://a.b.c.d.example.com/": ("https", "a.b.c.d.example.com", 443, "/"),
    "https://under_score.example.com/": (
        "https",
        "under_score.example.com",
        443,
        "/",
    ),
    "https://xn--bcher-kva.example/": ("https", "xn--bcher-kva.example", 443, "/"),
    "https://example.com/@127.0.0.1/": ("https", "example.com", 443, "/@127.0.0.1/"),
    "https://example.com/#@127.0.0.1/": ("https", "example.com", 443, "/"),
    "https://example.com#@127.0.0.1/": ("https", "example.com", 443, "/"),
    "https://example.com?@127.0.0.1/": ("https", "example.com", 443, "/?@127.0.0.1/"),
    "https://127.0.0.1.example.com/": ("https", "127.0.0.1.example.com", 443, "/"),
    "https://0x7f.example.com/": ("https", "0x7f.example.com", 443, "/"),
    "https://localhost.example.com/": ("https", "localhost.example.com", 443, "/"),
    "https://8.8.8.8/": ("https", "8.8.8.8", 443, "/"),
    "https://8.8.8.8./": ("https", "8.8.8.8", 443, "/"),
    "https://1.1.1.1:8443/mcp": ("https", "1.1.1.1", 8443, "/mcp"),
    "https://[2606:4700:4700::1111]/": ("https", "2606:4700:4700::1111", 443, "/"),
    "https://[2606:4700:4700:0:0:0:0:1111]/": (
        "https",
        "2606:4700:4700::1111",
        443,
        "/",
    ),
    "https://[2A00:1450::200E]:8443/x": ("https", "2a00:1450::200e", 8443, "/x"),
    "https://100.63.255.255/": ("https", "100.63.255.255", 443, "/"),
    "https://100.128.0.0/": ("https", "100.128.0.0", 443, "/"),
    "https://172.15.255.255/": ("https", "172.15.255.255", 443, "/"),
    "https://172.32.0.0/": ("https", "172.32.0.0", 443, "/"),
    "https://169.253.255.255/": ("https", "169.253.255.255", 443, "/"),
    "https://223.255.255.255/": ("https", "223.255.255.255", 443, "/"),
}

SCHEMES = [
    "",
    " ",
    "example.com",
    "//example.com/mcp",
    "/mcp",
    "mcp",
    "?x",
    "#x",
    "https",
    "https:",
    "https:/",
    "https://",
    "https:///",
    "https:///mcp",
    "https:/example.com",
    "https:example.com",
    "http:",
    "http://",
    "http://example.com/",
    "HTTP://example.com/",
    "http://8.8.8.8/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "file://example.com/etc/passwd",
    "gopher://example.com:70/_x",
    "dict://example.com:11211/",
    "ldap://example.com/",
    "ws://example.com/",
    "wss://example.com/",
    "jar:https://example.com!/",
    "data:text/plain,hello",
    "javascript:alert(1)",
    "unix:///var/run/docker.sock",
    "https+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "httpss://example.com/",
    "shttps://example.com/",
    "https:\\\\example.com\\",
    "https:\\/example.com/",
    " https://example.com/",
    "https://example.com/ ",
    "\thttps://example.com/",
    "ht\ntps://example.com/",
    "https://exa\tmple.com/",
    "https://example.com/\r\nHost: x",
    "https://example.com/\x00",
    "https://example.com\x00.evil.com/",
    "https://example.com/\x7f",
    "https://example.com/" + "a" * 2100,
]

USERINFO = [
    "https://user@example.com/",
    "https://user:secret@example.com/",
    "https://:secret@example.com/",
    "https://@example.com/",
    "https://example.com@127.0.0.1/",
    "https://127.0.0.1@example.com/",
    "https://example.com:443@127.0.0.1/",
    "https://example.com%40127.0.0.1/",
    "https://example.com\\@127.0.0.1/",
    "https://127.0.0.1\\@example.com/",
    "https://a@b@127.0.0.1/",
    "https://[::1]@example.com/",
]

HOSTS = [
    "https://./",
    "https://../",
    "https://.example.com/",
    "https://example..com/",
    "https://example.com../",
    "https://-example.com/",
    "https://example-.com/",
    "https://exam ple.com/",
    "https://exam%20ple.com/",
    "https://%65xample.com/",
    "https://%31%32%37.0.0.1/",
    "https://127%2e0%2e0%2e1/",
    "https://example,com/",
    "https://example;com/",
    "https://example.com;.evil.com/",
    "https://exa<mple.com/",
    "https://exa^mple.com/",
    "https://exa|mple.com/",
    "https://{example.com}/",
    "https://*.example.com/",
    "https://example.com!/",
    "https://$host/",
    "https://bücher.example/",
    "https://１２７.０.０.１/",
    "https://127。0。0。1/",
    "https://①②⑦.⓪.⓪.①/",
    "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "https://exa\u200bmple.com/",
    "https://exa\u00admple.com/",
    "https://example\u3002com/",
    "https://" + "a" * 64 + ".com/",
    "https://" + "a." * 130 + "com/",
    "https://[]/",
    "https://[/",
    "https://]/",
    "https://[example.com]/",
    "https://[127.0.0.1]/",
    "https://[8.8.8.8]/",
    "https://[::1/",
    "https://::1/",
    "https://2606:4700:4700::1111/",
    "https://[[2606:4700::1]]/",
    "https://[2606:4700::1]evil.com/",
    "https://evil.com[2606:4700::1]/",
    "https://[2606:4700::1].example.com/",
    "https://[2606:4700::1%25eth0]/",
    "https://[fe80::1%25eth0]/",
    "https://[fe80::1%eth0]/",
    "https://[v1.fe80::a+en1]/",
    "https://[2606:4700:::1111]/",
    "https://[2606:4700]/",
    "https://[1:2:3:4:5:6:7:8:9]/",
    "https://[:]/",
    "https://[.]/",
]

PORTS = [
    "https://example.com:/",
    "https://example.com:0/",
    "https://example.com:65536/",
    "https://example.com:99999/",
    "https://example.com:123456/",
    "https://example.com:-1/",
    "https://example.com:+443/",
    "https://example.com:443a/",
    "https://example.com:0x1bb/",
    "https://example.com: 443/",
    "https://example.com:443:443/",
    "https://example.com:80:127.0.0.1/",
    "https://example.com:%34%34%33/",
    "https://example.com:४४३/",
    "https://8.8.8.8:0/",
    "https://[2606:4700:4700::1111]:/",
    "https://[2606:4700:4700::1111]:0/",
]

NUMBERS = [
    "https://2130706433/",
    "https://017700000001/",
    "https://0x7f000001/",
    "https://0X7F000001/",
    "https://0x7f.1/",
    "https://0x7f.0x0.0x0.0x1/",
    "https://0177.0.0.1/",
    "https://0177.0.0.01/",
    "https://127.1/",
    "https://127.0.1/",
    "https://127.0.0.1./",
    "https://127.0.0.0x1/",
    "https://127.0.0.01/",
    "https://127.0.0.001/",
    "https://00127.0.0.1/",
    "https://127.0.0.1.0/",
    "https://127.0.0.256/",
    "https://1.2.3/",
    "https://1/",
    "https://0/",
    "https://00/",
    "https://0x/",
    "https://0.0/",
    "https://4294967296/",
    "https://134744072/",
    "https://0x08080808/",
    "https://010.8.8.8/",
    "https://8.8.2056/",
    "https://8.526344/",
    "https://8.8.8.8.8/",
    "https://example.1/",
    "https://example.0x1/",
    "https://2852039166/",
    "https://0xa9fea9fe/",
    "https://0251.0376.0251.0376/",
    "https://0xa9.0xfe.0xa9.0xfe/",
    "https://3232235521/",
    "https://167772161/",
]

NAMES = [
    "https://localhost/",
    "https://LOCALHOST/",
    "https://LocalHost./",
    "https://localhost:8443/",
    "https://a.localhost/",
    "https://a.b.localhost./",
    "https://intranet/",
    "https://router/",
    "https://metadata/",
    "https://kubernetes/",
    "https://metadata.google.internal/",
    "https://metadata.google.internal./computeMetadata/v1/",
    "https://instance-data.ec2.internal/",
    "https://db.local/",
    "https://printer.home.arpa/",
    "https://wiki.intranet/",
]

ADDRESSES_V4 = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.0",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.0",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.0",
    "127.0.0.1",
    "127.1.2.3",
    "127.255.255.255",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.255.255",
    "172.16.0.0",
    "172.17.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.0",
    "192.168.1.1",
    "192.168.255.255",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
]

ADDRESSES_V6 = [
    "::",
    "::1",
    "0:0:0:0:0:0:0:1",
    "::7f00:1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:169.254.169.254",
    "::ffff:10.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::1",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::1",
    "2002:0808:0808::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd12:3456:789a::1",
    "fe80::1",
    "fe80::a9fe:a9fe",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]

FORBIDDEN = [
    *SCHEMES,
    *USERINFO,
    *HOSTS,
    *PORTS,
    *NUMBERS,
    *NAMES,
    *(f"https://{address}/mcp" for address in ADDRESSES_V4),
    *(f"https://{address}:8443" for address in ADDRESSES_V4[:6]),
    *(f"https://[{address}]/mcp" for address in ADDRESSES_V6),
]


def test_the_table_is_as_long_as_promised() -> None:
    """More than two hundred forms are tried, and none of them twice."""
    assert len(ALLOWED) + len(FORBIDDEN) >= 200
    assert len(set(FORBIDDEN)) == len(FORBIDDEN)


@pytest.mark.parametrize("url", FORBIDDEN)
def test_forbidden_forms(url: str) -> None:
    """A URL that is not plainly public https is refused before anything is asked."""
    with pytest.raises(ForbiddenAddressError):
        read_url(url, PUBLIC)


@pytest.mark.parametrize(("url", "parts"), ALLOWED.items())
def test_allowed_forms(url: str, parts: tuple[str, str, int, str]) -> None:
    """A plain https URL has one reading, and reading it again changes nothing."""
    endpoint = read_url(url, PUBLIC)
    assert endpoint == Endpoint(*parts)
    assert read_url(str(endpoint), PUBLIC) == endpoint


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/mcp",
        "http://localhost:8000/mcp",
        "http://router/mcp",
        "https://10.0.0.1/",
        "http://[::1]:8000/mcp",
        "https://db.local/",
        "http://example.com/",
    ],
)
def test_private_forms_when_allowed(url: str) -> None:
    """With allow_private plain http and private hosts are read like any other."""
    assert str(read_url(url, PRIVATE)) == url


@pytest.mark.parametrize(
    "url", [*USERINFO, *HOSTS, *PORTS, "https://127.1/", "https://0x7f000001/"]
)
def test_unclear_forms_stay_forbidden(url: str) -> None:
    """What can be read in two ways is refused even where private hosts are not."""
    with pytest.raises(ForbiddenAddressError):
        read_url(url, PRIVATE)


@pytest.mark.parametrize("address", [*ADDRESSES_V4, *ADDRESSES_V6, "fe80::1%eth0"])
def test_private_addresses(address: str) -> None:
    """An address outside public unicast space is no place to connect to."""
    assert not is_public(ip_address(address))
    with pytest.raises(ForbiddenAddressError) as caught:
        check_address(address, PUBLIC)
    assert address not in str(caught.value)
    check_address(address, PRIVATE)


@pytest.mark.parametrize("text", ["", "example.com", "127.1", "1.2.3.4/8"])
def test_what_is_no_address(text: str) -> None:
    """A resolver that returns no addresses gets nobody connected."""
    with pytest.raises(ForbiddenAddressError):
        check_address(text, PUBLIC)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/other", "https://example.com/other"),
        ("other", "https://example.com/a/other"),
        ("?x=1", "https://example.com/a/mcp?x=1"),
        ("//other.example/mcp", "https://other.example/mcp"),
        ("https://other.example:8443/", "https://other.example:8443/"),
    ],
)
def test_redirects(location: str, target: str) -> None:
    """A location is resolved against the URL it came from and read as strictly."""
    start = read_url("https://example.com/a/mcp", PUBLIC)
    assert str(follow(start, location, PUBLIC)) == target


@pytest.mark.parametrize(
    "location",
    [
        "http://example.com/a/mcp",
        "http://other.example/",
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "//localhost/",
        "https://[::1]/",
        "https://user@example.com/",
        "file:///etc/passwd",
    ],
)
def test_forbidden_redirects(location: str) -> None:
    """A redirect is judged like a configured URL, whatever led to it."""
    start = read_url("https://example.com/a/mcp", PUBLIC)
    with pytest.raises(ForbiddenAddressError):
        follow(start, location, PUBLIC)


def test_redirects_never_leave_https() -> None:
    """Even for development a redirect from https to http is not followed."""
    start = read_url("https://example.com/", PRIVATE)
    with pytest.raises(ForbiddenAddressError, match="https for http"):
        follow(start, "http://example.com/", PRIVATE)


@pytest.mark.parametrize(
    "url", ["http://example.com/", "https://127.0.0.1/", "https://a:b@example.com/"]
)
def test_the_directory_refuses_by_policy(url: str) -> None:
    """Opening a forbidden server is the caller's mistake and says whose alias it is."""
    with pytest.raises(RequestError, match="'rooms'") as caught:
        McpDirectory().open(McpServer(alias="rooms", url=url), SCOPE)
    assert caught.value.slug == "invalid-config"
    assert "a:b" not in str(caught.value)


def test_a_server_without_a_url_is_refused() -> None:
    """The directory opens servers by URL only."""
    with pytest.raises(RequestError):
        McpDirectory(McpOptions(allow_private=True)).open(
            McpServer(alias="rooms"), SCOPE
        )
