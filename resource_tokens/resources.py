"""
Which resource does this URL belong to?

The destination of a request decides which token it may carry, before any cache is looked at.
Rules, in this order:

1. The scheme, the host and the port of the URL select one host entry: an exact host first, then
   `*.` for exactly one label. No entry, no resource.
2. A host entry without a path covers the whole host. As soon as one of its rules has a path, the
   longest prefix wins, on segment boundaries, and a path under no rule has no resource.
3. Paths are compared as they go on the wire. Under path rules a path that a server could read in
   another way than we do is refused, never normalised.
4. What is configured is compared, never sent: the `resource` parameter goes out byte for byte.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from resource_tokens._destinations import (
    AMBIGUOUS,
    ANY,
    HOST,
    AnyURL,
    Origin,
    as_read_loosely,
    canonical_ipv6,
    destination,
    display_url,
    is_secure_url,
    parse_destination,
)
from resource_tokens._httpx import http
from resource_tokens.exceptions import ConfigurationError, EgressBlockedError

if TYPE_CHECKING:
    from resource_tokens.oauth.client_auth import ClientAuth
    from resource_tokens.oauth.exchange import Exchange
    from resource_tokens.oauth.metadata import AuthorizationServer

__all__ = ["Resource", "ResourceMap", "parse_scopes"]


@dataclass(frozen=True, slots=True)
class Resource:
    """
    A protected resource: the name by which its tokens are asked for, and the rights wanted.

    Args:
        identifier: The absolute URI to send as `resource`, byte for byte (RFC 8707 2). No
            fragment; `urn:` is fine.
        scopes: The scopes to ask for (RFC 6749 3.3): an iterable, or one space-delimited string.
            Order does not matter, case does.
        max_scopes: The most that a server can talk this client into: all scopes that are asked for
            because a challenge or the metadata of the resource names them are among these. By
            default nothing is asked for but `scopes`.
        audience: The `aud` the server is expected to write, where it differs from `identifier`.
        server: The authorization server for this resource, instead of the auth object's own.
        client_auth: The client authentication to use there, instead of the auth object's own.
        subject: On whose behalf it is called. `"optional"`: on behalf of the subject of
            `auth.on_behalf_of`, if there is one in reach, else as this service itself.
            `"required"`: a request without a subject is refused. `"none"`: always as this service
            itself.
        exchange: How its tokens are asked for on behalf of somebody, instead of the way of the
            auth object or of the server's dialect.
        extra: More parameters for the token request, such as `{"tenant": "blue"}`.
        allow_http: Let the token travel over plain `http` to a destination that is no loopback
            address. Whoever can read that network can then use the token.
        verify_audience: `"auto"` checks `aud` when the token is a JWT, and the server's dialect
            or `audience` says what stands there; `"require"` refuses tokens unless that or a
            `resource` member of the response says what they are for; `"off"` believes the server.
        redirects: What happens when another resource redirects here. `"withhold"` sends such a
            request without a token, since it is that other API which chose it;
            `"reauthorize"` sends it with the token of this resource.
        allow_http_proxy: Let a proxy that is spoken to in plain `http` see the token.
        connect_to: The origin of a sidecar or mesh proxy that requests for this resource are sent
            to instead, such as `"http://127.0.0.1:15001"`.
        host_header: With `connect_to`, the `Host` by which the sidecar knows the resource; the
            host and port of the destination by default.
        sender: Who can use its tokens. `"bearer"`: whoever has one. `"dpop"`: whoever also has the
            proof key of the auth object (RFC 9449). `"mtls"`: whoever also has the certificate of
            its `TlsClientAuth` (RFC 8705). A token that the server has not bound so is refused.

    Raises:
        ConfigurationError: If a value cannot be what it stands for.
    """

    identifier: str
    scopes: Iterable[str] = field(default=(), kw_only=True)
    max_scopes: Iterable[str] | None = field(default=None, kw_only=True)
    audience: str | None = field(default=None, kw_only=True)
    server: AuthorizationServer | None = field(default=None, kw_only=True)
    client_auth: ClientAuth | None = field(default=None, kw_only=True)
    subject: Literal["optional", "required", "none"] = field(default="optional", kw_only=True)
    exchange: Exchange | None = field(default=None, kw_only=True)
    extra: Mapping[str, str] | tuple[tuple[str, str], ...] = field(default=(), kw_only=True)
    allow_http: bool = field(default=False, kw_only=True)
    verify_audience: Literal["auto", "require", "off"] = field(default="auto", kw_only=True)
    redirects: Literal["withhold", "reauthorize"] = field(default="withhold", kw_only=True)
    allow_http_proxy: bool = field(default=False, kw_only=True)
    connect_to: str | None = field(default=None, kw_only=True)
    host_header: str | None = field(default=None, kw_only=True)
    sender: Literal["bearer", "dpop", "mtls"] = field(default="bearer", kw_only=True)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_identifier(self.identifier)
        object.__setattr__(self, "scopes", parse_scopes(self.scopes))
        if self.max_scopes is not None:
            object.__setattr__(self, "max_scopes", parse_scopes(self.max_scopes))
        object.__setattr__(self, "extra", _check_extra(self.identifier, self.extra))
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            # By its type too, because 1 == True.
            if not isinstance(value, type(choices[0])) or value not in choices:
                raise ConfigurationError(
                    f"{name}={value!r} for {self.identifier!r}: "
                    f"use {' or '.join(map(repr, choices))}."
                )
        if self.audience is not None and not _is_text(self.audience):
            raise ConfigurationError(
                f"audience={self.audience!r} for {self.identifier!r} is no text."
            )
        if self.host_header is not None and (
            self.connect_to is None or not re.fullmatch(r"[A-Za-z0-9._:\[\]-]+", self.host_header)
        ):
            raise ConfigurationError(
                f"host_header={self.host_header!r} for {self.identifier!r} is a host with an "
                "optional port, and goes with connect_to=."
            )
        if self.sender == "mtls" and (self.connect_to or self.redirects == "reauthorize"):
            raise ConfigurationError(
                f"{self.identifier!r} has sender='mtls', which goes neither with connect_to=, "
                "where the connection is a sidecar's own, nor with redirects='reauthorize': no "
                "other API chooses where this certificate is shown."
            )
        if (self.server is None) != (self.client_auth is None):
            # A credential belongs to the server it was issued by, and is shown to no other.
            raise ConfigurationError(
                f"Resource {self.identifier!r} names only one of server= and client_auth=. A "
                "credential is bound to its authorization server, so give both."
            )
        identity = tuple(getattr(self, f.name) for f in fields(self) if f.compare)
        object.__setattr__(self, "_hash", hash(identity))

    def __reduce__(self) -> tuple[Any, ...]:
        # Built anew, because hashes of strings differ from process to process.
        arguments = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return _unpickled, (arguments,)

    def __hash__(self) -> int:
        # Computed once: a resource is looked up in dictionaries on every request.
        return self._hash

    @property
    def expected_audience(self) -> str:
        """
        The `aud` value that makes a token good at this resource.
        """
        return self.identifier if self.audience is None else self.audience


def _unpickled(arguments: dict[str, Any]) -> Resource:
    return Resource(**arguments)


_CHOICES: dict[str, tuple[object, ...]] = {
    "allow_http": (True, False),
    "allow_http_proxy": (True, False),
    "verify_audience": ("auto", "require", "off"),
    "redirects": ("withhold", "reauthorize"),
    "subject": ("optional", "required", "none"),
    "sender": ("bearer", "dpop", "mtls"),
}


class ResourceMap:
    """
    The destinations of a program, each mapped to the resource it belongs to.

    Args:
        resources: A list of `https` URLs or `Resource`s, each both destination and resource; or a
            mapping of destination to resource. A destination is an origin with an optional path,
            and `https://*.example.com/` covers exactly one label. The list is the allow-list:
            whatever is not in it never gets a token, and an empty one matches nothing.
        discover: The issuers that a resource of this map may name in its metadata (RFC 9728) as
            its authorization server. It is asked for its metadata only if there are any.

    Attributes:
        discover: As above.

    Raises:
        ConfigurationError: If a destination is no plain URL prefix, is plain `http` without
            leave, is too broad, or is given twice.
    """

    __slots__ = ("_hosts", "_rules", "_sidecars", "discover")

    def __init__(
        self,
        resources: Mapping[str, Resource | str] | Iterable[Resource | str] | ResourceMap,
        *,
        discover: Iterable[str] = (),
    ) -> None:
        self.discover = _issuers(resources, discover)
        self._rules: dict[str, Resource] = {}
        self._hosts: dict[Origin, _Paths] = {}
        # From the origin of a sidecar and a Host header to the origin that is meant.
        self._sidecars: dict[tuple[Origin, bytes], Origin] = {}
        for prefix, resource in _pairs(resources):
            self._add(prefix, resource)

    def _add(self, destination: str, resource: Resource) -> None:
        plain_http = resource.allow_http or resource.connect_to is not None
        scheme, host, port, prefix = parse_destination(
            destination, resource.identifier, plain_http=plain_http
        )
        if resource.sender == "mtls" and scheme != "https":
            raise ConfigurationError(
                f"The destination {destination!r} is plain http, where no certificate is shown, "
                f"and {resource.identifier!r} has sender='mtls'. Use https."
            )
        paths = self._hosts.setdefault((scheme, host, port), _Paths())
        twin = paths.twin_of(prefix)
        if twin is not None:
            raise ConfigurationError(
                f"The destination {destination!r} is mapped twice, to {twin.identifier!r} and to "
                f"{resource.identifier!r}: the two differ at most in letter case or encoding, "
                "which some servers ignore. Keep one."
            )
        paths.add(prefix, resource)
        if resource.connect_to is not None:
            self._add_sidecar((scheme, host, port), resource)
        self._rules[destination] = resource

    def _add_sidecar(self, origin: Origin, resource: Resource) -> None:
        sidecar, host_header = _sidecar_of(origin, resource)
        known = self._sidecars.setdefault((sidecar, host_header), origin)
        if known != origin:
            raise ConfigurationError(
                f"{resource.connect_to!r} with the Host {host_header.decode()!r} is mapped to two "
                f"destinations, {known[1].decode()!r} and {origin[1].decode()!r}. A sidecar tells "
                "them apart by the Host alone, so give each its own host_header=."
            )

    def resource_for(self, url: AnyURL) -> Resource | None:
        r"""
        The resource that a URL belongs to, or `None` if no destination covers it.

        Raises:
            EgressBlockedError: If the URL is covered but can be read in more than one way:
                userinfo, or, on a host with path rules, `%2e`, `%2f`, `%5c`, `\`, `;`, `//` and
                the like in the path.
        """
        if isinstance(url, str):
            url = http.URL(url)
        scheme, host, port = url.scheme, url.raw_host, url.port
        paths = self._hosts.get((scheme, host, port)) or self._find(scheme, host, port)
        if paths is None:
            return None
        if url.userinfo:
            raise EgressBlockedError(
                f"The URL for {display_url(url)} carries userinfo, which can make one host look "
                "like another. Remove it from the URL.",
                display_url(url),
                reason="ambiguous_url",
            )
        return paths.whole or paths.longest(scheme, host, port, url.raw_path)

    def resource_at(
        self,
        scheme: str,
        host: bytes,
        port: int | None,
        target: bytes,
        host_header: bytes = b"",
    ) -> Resource | None:
        """
        The resource that a request on the wire belongs to: what is behind a sidecar is known by
        its `Host`, and reached in no other way.

        Args:
            scheme: `"https"` or `"http"`.
            host: The host in its ASCII form, an IPv6 address without brackets.
            port: The port, or `None` for the scheme's own.
            target: The path and the query, as sent.
            host_header: The `Host` header.

        Raises:
            EgressBlockedError: As `resource_for`.
        """
        behind = None
        if self._sidecars:
            behind = self.behind_sidecar(scheme, host, port, host_header)
        scheme, host, port = behind or (scheme, host, port)
        paths = self._hosts.get((scheme, host, port)) or self._find(scheme, host, port)
        if paths is None:
            return None
        resource = paths.whole or paths.longest(scheme, host, port, target)
        if resource is None or (resource.connect_to is not None) != (behind is not None):
            return None
        return resource

    @property
    def has_sidecars(self) -> bool:
        """
        Whether any resource is behind a sidecar.
        """
        return bool(self._sidecars)

    def behind_sidecar(
        self, scheme: str, host: bytes, port: int | None, host_header: bytes
    ) -> Origin | None:
        """
        The origin that a request to a sidecar is for, by its `Host`; `None` if there is no sidecar.
        """
        return self._sidecars.get(((scheme, host, port), host_header.lower()))

    def _find(self, scheme: str, host: bytes, port: int | None) -> _Paths | None:
        if b":" in host:
            return self._hosts.get((scheme, canonical_ipv6(host), port))
        wildcard = self._hosts.get((scheme, ANY + host.partition(b".")[2], port))
        # What stands for `*` must be a label as host names have them: not "", not "evil%2f".
        return wildcard if HOST.fullmatch(host) else None

    def __iter__(self) -> Iterator[tuple[str, Resource]]:
        return iter(self._rules.items())

    def __len__(self) -> int:
        return len(self._rules)

    def __repr__(self) -> str:
        rules = ", ".join(f"{d!r}: {r.identifier!r}" for d, r in self._rules.items())
        return f"ResourceMap({{{rules}}})"


class _Paths:
    """
    The rules of one host.
    """

    __slots__ = ("depth", "folded", "rules", "whole")

    def __init__(self) -> None:
        self.rules: dict[bytes, Resource] = {}
        self.folded: dict[bytes, Resource] = {}
        self.depth = 0
        # Set while the only rule covers the whole host: then the path decides nothing, and no
        # path is ambiguous.
        self.whole: Resource | None = None

    def twin_of(self, prefix: bytes) -> Resource | None:
        return self.folded.get(as_read_loosely(prefix) or prefix)

    def add(self, prefix: bytes, resource: Resource) -> None:
        self.rules[prefix] = resource
        self.folded[as_read_loosely(prefix) or prefix] = resource
        self.depth = max(self.depth, prefix.count(b"/"))
        self.whole = resource if self.depth == 0 else None

    def longest(self, scheme: str, host: bytes, port: int | None, target: bytes) -> Resource | None:
        path = target.partition(b"?")[0]
        odd = AMBIGUOUS.search(path)
        if odd is not None:
            raise _ambiguous(
                destination(scheme, host, port, target),
                f"contains {odd.group().decode('ascii', 'replace')!r}, which servers read in "
                "different ways. Send the path in its plain form.",
            )
        found = self._walk(self.rules, path)
        loosely = as_read_loosely(path)
        if loosely is None or found != self._walk(self.folded, loosely):
            raise _ambiguous(
                destination(scheme, host, port, target),
                "maps to another resource when letter case is ignored or percent-encoding is "
                "decoded, as some servers do. Write it exactly like the destination.",
            )
        return found

    def _walk(self, rules: dict[bytes, Resource], path: bytes) -> Resource | None:
        segments = path.split(b"/", self.depth + 1)[: self.depth + 1]
        for count in range(len(segments), 0, -1):
            resource = rules.get(b"/".join(segments[:count]))
            if resource is not None:
                return resource
        return None


def _ambiguous(where: str, why: str) -> EgressBlockedError:
    return EgressBlockedError(
        f"On this host the path decides which resource is meant, and the path of {where} {why}",
        where,
        reason="ambiguous_url",
    )


def _sidecar_of(origin: Origin, resource: Resource) -> tuple[Origin, bytes]:
    """
    The origin that requests to a resource behind a sidecar are sent to, and their `Host` header.
    """
    try:
        url = http.URL(str(resource.connect_to))
    except http.InvalidURL:
        url = http.URL()
    if url.scheme not in ("https", "http") or not url.raw_host or url.raw_path != b"/":
        raise ConfigurationError(
            f"connect_to={resource.connect_to!r} for {resource.identifier!r} is no origin such as "
            "'http://127.0.0.1:15001'."
        )
    if not (resource.allow_http or is_secure_url(url)):
        raise ConfigurationError(
            f"connect_to={resource.connect_to!r} for {resource.identifier!r} is plain http, and "
            "no loopback address. Use one, or https, or Resource(..., allow_http=True)."
        )
    if origin[1].startswith(ANY):
        raise ConfigurationError(
            f"{resource.identifier!r} has connect_to= and a wildcard destination. Behind a "
            "sidecar every host is named."
        )
    if resource.host_header is not None:
        host_header = resource.host_header.lower().encode("ascii")
    else:
        host_header = destination(*origin, b"").partition("://")[2].encode("ascii")
    return (url.scheme, url.raw_host, url.port), host_header


def parse_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """
    The set of scopes meant by an iterable, or by one space-delimited string (RFC 6749 3.3).
    """
    if not isinstance(scopes, Iterable):
        raise ConfigurationError(f"scopes={scopes!r} is neither a string nor a list of strings.")
    parsed = frozenset(scopes.split(" ") if isinstance(scopes, str) else scopes) - {""}
    for scope in parsed:
        # RFC 6749 3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E )
        if not isinstance(scope, str) or not re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]+", scope):
            raise ConfigurationError(
                f"{scope!r} is no scope: RFC 6749 3.3 allows printable ASCII without space, "
                "quote and backslash."
            )
    return parsed


_RESERVED = frozenset(
    {
        "grant_type",
        "resource",
        "scope",
        "client_id",
        "client_secret",
        "client_assertion",
        "client_assertion_type",
        "refresh_token",
        "assertion",
        "subject_token",
        "subject_token_type",
        "actor_token",
        "actor_token_type",
        "requested_token_type",
        "requested_token_use",
    }
)


def _pairs(
    resources: Mapping[str, Resource | str] | Iterable[Resource | str] | ResourceMap,
) -> Iterator[tuple[str, Resource]]:
    if isinstance(resources, str):
        raise ConfigurationError(
            f"resources={resources!r} is one string. Give a list, [{resources!r}], or a mapping."
        )
    if isinstance(resources, ResourceMap):
        yield from resources
    elif isinstance(resources, Mapping):
        for destination, resource in resources.items():
            if not isinstance(destination, str):
                raise ConfigurationError(f"The destination {destination!r} is no string.")
            yield destination, _as_resource(resource)
    else:
        for item in resources:
            resource = _as_resource(item)
            if not resource.identifier.lower().startswith(("https:", "http:")):
                raise ConfigurationError(
                    f"{resource.identifier!r} does not say where it is served. Map its "
                    f"destination to it: {{'https://...': {resource.identifier!r}}}."
                )
            yield resource.identifier, resource


def _issuers(resources: object, discover: Iterable[str]) -> frozenset[str]:
    if isinstance(discover, str) or not isinstance(discover, Iterable):
        raise ConfigurationError(f"discover={discover!r} is no list. Give a list of issuers.")
    issuers = frozenset(discover)
    for issuer in issuers:
        if not isinstance(issuer, str) or not issuer:
            raise ConfigurationError(f"discover=[{issuer!r}]: that is no issuer.")
    inherited = resources.discover if isinstance(resources, ResourceMap) else frozenset[str]()
    return issuers or inherited


def _as_resource(value: Resource | str) -> Resource:
    if isinstance(value, Resource):
        return value
    if isinstance(value, str):
        return Resource(value)
    raise ConfigurationError(
        f"A resource is a `Resource` or its identifier as a string, not {type(value).__name__}."
    )


def _check_identifier(identifier: str) -> None:
    if not isinstance(identifier, str):
        raise ConfigurationError(
            f"A resource identifier is a string, not {type(identifier).__name__}."
        )
    # RFC 8707 2: "Its value MUST be an absolute URI", so a scheme is required.
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+", identifier) or re.fullmatch(
        r"(?i)https?:(?://)?[/?#:]*", identifier
    ):
        raise ConfigurationError(
            f"{identifier!r} is no resource identifier: RFC 8707 asks for an absolute URI in "
            "ASCII, such as 'https://api.example.com/' or 'urn:example:billing'."
        )
    # RFC 8707 2: "The URI MUST NOT include a fragment component." An empty one is one too.
    if "#" in identifier:
        raise ConfigurationError(
            f"The resource identifier {identifier!r} has a fragment, which RFC 8707 forbids. "
            "Remove it from '#' on."
        )
    # RFC 8707 2: "It SHOULD NOT include a query component".
    if "?" in identifier:
        warnings.warn(
            f"The resource identifier {identifier!r} has a query. It is sent unchanged, but "
            "RFC 8707 advises against it.",
            UserWarning,
            stacklevel=4,
        )


def _check_extra(
    identifier: str, extra: Mapping[str, str] | tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...]:
    for name, value in dict(extra).items():
        if name in _RESERVED or not _is_text(name) or not _is_text(value):
            raise ConfigurationError(
                f"extra={{{name!r}: ...}} for {identifier!r}: names and values are strings, and "
                "the parameters that have an argument of their own are set by that argument."
            )
    return tuple(sorted(dict(extra).items()))


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
