"""
Reading destinations, hosts, URLs and paths: what they say, and whether others could read them in
another way.

What is compared here is never sent.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from resource_tokens._httpx import http
from resource_tokens.exceptions import ConfigurationError

if TYPE_CHECKING:
    import httpx
    import httpx2

    AnyURL = httpx.URL | httpx2.URL | str
else:
    AnyURL = Any

__all__ = [
    "AMBIGUOUS",
    "ANY",
    "HOST",
    "AnyURL",
    "Origin",
    "as_read_loosely",
    "canonical_ipv6",
    "decoded",
    "destination",
    "display_url",
    "is_secure_url",
    "parse_destination",
]

Origin = tuple[str, bytes, int | None]
"""
Scheme, host in its ASCII form, port or `None` for the scheme's own.
"""

# Stands for `*.` among the hosts of a map. No host of a URL can begin so; one can begin with "*".
ANY = b"\0."
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
HOST = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}\.?".encode())

# What servers, gateways and their caches read in different ways: encoded dots, slashes,
# backslashes, semicolons, controls and overlong UTF-8 (however often encoded), their plain forms,
# empty segments and dot segments. See CVE-2021-31920, CVE-2019-9901, CVE-2021-29492.
AMBIGUOUS = re.compile(
    rb"%(?:25)*(?:2[ef]|5c|3b|[01][0-9a-f]|7f|c[01])|%(?![0-9a-f]{2})|[^\x21-\x7e]|[\\;#]|//"
    rb"|(?<=/)\.{1,2}(?=/|$)",
    re.IGNORECASE,
)


def parse_destination(
    text: str, identifier: str, *, plain_http: bool
) -> tuple[str, bytes, int | None, bytes]:
    """
    The scheme, host, port (`None` for the default) and path prefix (no slash at its end).

    Args:
        text: The destination as configured.
        identifier: The resource it belongs to.
        plain_http: Let it be plain `http` to a host that is no loopback address.

    Raises:
        ConfigurationError: If it is no plain URL prefix, is plain `http` without leave, or is too
            broad.
    """

    def refuse(why: str) -> ConfigurationError:
        return ConfigurationError(f"The destination {text!r} of {identifier!r} {why}")

    scheme, separator, rest = text.partition("://")
    wildcard = rest.startswith("*.")
    try:
        url = http.URL(f"{scheme}{separator}{rest.removeprefix('*.')}")
    except (http.InvalidURL, TypeError, UnicodeError) as error:
        raise refuse(f"is no URL: {error}.") from None
    if url.scheme not in ("https", "http") or not separator or not url.raw_host:
        raise refuse("is no http(s) URL. Write it like 'https://api.example.com/'.")
    if "@" in rest.partition("/")[0] or "?" in text or "#" in text:
        raise refuse("must be an origin with an optional path: no userinfo, query or fragment.")
    if re.search(r"[\s\\]", text):
        raise refuse("contains white space or a backslash.")
    # httpx also reads ":+443" and digits of other scripts.
    port = re.search(r":([^:\]]*)$", rest.partition("/")[0])
    if port and not (re.fullmatch(r"[1-9][0-9]{0,4}", port[1]) and int(port[1]) < 65536):
        raise refuse("has a port that is no plain number from 1 to 65535.")
    host = _configured_host(url.raw_host, refuse)
    if wildcard:
        if b"." not in host.strip(b".") or b":" in host or _is_address(host):
            raise refuse("is too broad: a wildcard needs at least two labels behind it.")
        if not identifier.lower().startswith(("https:", "http:")):
            # RFC 8707 3: with an abstract identifier the client has to know which endpoints
            # belong to it; a wildcard says it does not.
            raise refuse("is a wildcard, and an abstract identifier needs its hosts by name.")
        host = ANY + host
    if not (plain_http or is_secure_url(url)):
        raise refuse(
            "is plain http, where everybody on the way can read the token. Use https, a loopback "
            "address such as 127.0.0.1, or Resource(..., allow_http=True)."
        )
    prefix = url.raw_path.rstrip(b"/") if url.raw_path != b"/" else b""
    # httpx resolves dot segments in the URL, so they are looked for in the text.
    if AMBIGUOUS.search(url.raw_path) or re.search(r"/\.{1,2}(?:/|$)|;", rest):
        raise refuse("has a path that servers read in different ways. Write it in its plain form.")
    return url.scheme, host, url.port, prefix


def _configured_host(host: bytes, refuse: Any) -> bytes:
    if b":" in host:
        address = canonical_ipv6(host)
        if not address:
            raise refuse("has an IPv6 address with a zone, which means nothing to anybody else.")
        return address
    if b"*" in host:
        raise refuse("has a wildcard that is not one whole leftmost label.")
    if not HOST.fullmatch(host):
        raise refuse("has a host with characters that no host name has.")
    last = host.rstrip(b".").rpartition(b".")[2]
    if re.fullmatch(rb"[0-9]+|0x[0-9a-f]*", last) and not _is_address(host):
        raise refuse("has a number for a host, which resolvers read in different ways.")
    return host


def _is_address(host: bytes) -> bool:
    try:
        ipaddress.ip_address(host.decode("ascii"))
    except ValueError:
        return False
    return True


def canonical_ipv6(host: bytes) -> bytes:
    """
    The one spelling of an IPv6 address; empty if it is none or has a zone.
    """
    try:
        address = ipaddress.IPv6Address(host.decode("ascii"))
    except ValueError:
        return b""
    return b"" if address.scope_id else address.compressed.encode()


def decoded(text: bytes) -> bytes | None:
    """
    A text without percent-encoding, however often it was encoded; `None` if that is beyond reason.
    """
    text = re.sub(rb"%(?:25)+", b"%25", text)
    for _ in range(4):
        plain = unquote_to_bytes(text)
        if plain == text:
            return text
        text = plain
    return None


def as_read_loosely(path: bytes) -> bytes | None:
    """
    A path as servers read it that decode it, ignore letter case, cut it at an encoded `?` or `#`,
    or drop dots and spaces at the end of a segment.
    """
    plain = decoded(path)
    if plain is None:
        return None
    path = re.split(rb"[?#]", plain, maxsplit=1)[0].lower()
    return b"/".join(segment.rstrip(b". ") for segment in path.split(b"/"))


def is_secure_url(url: Any) -> bool:
    """
    Whether what is sent there cannot be read on a network: `https`, or a loopback address.

    Only address literals count as loopback: a name such as `localhost` is whatever the resolver
    says it is.
    """
    if url.scheme == "https":
        return True
    try:
        address = ipaddress.ip_address(url.raw_host.decode("ascii"))
    except ValueError:
        return False
    # Whether ::ffff:127.0.0.1 is a loopback address differs between versions of Python.
    mapped = address.version == 6 and address.ipv4_mapped is not None
    return url.scheme == "http" and address.is_loopback and not mapped


def display_url(url: Any) -> str:
    """
    A URL for messages: no userinfo and no query, where secrets live.
    """
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


def destination(scheme: str, host: bytes, port: int | None, target: bytes) -> str:
    """
    Where a request on the wire goes, for messages. Without the query, where secrets live.
    """
    name = host.decode("ascii", "backslashreplace")
    name = f"[{name}]" if ":" in name else name
    path = target.partition(b"?")[0].decode("ascii", "backslashreplace")
    return f"{scheme}://{name}{'' if port is None else f':{port}'}{path}"
