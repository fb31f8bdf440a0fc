"""
The authorization server, and finding its endpoints from its issuer (RFC 8414).
"""

from __future__ import annotations

import os
import re
import ssl
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

from resource_tokens._addresses import Reach, reach_of
from resource_tokens._destinations import display_url, is_secure_url
from resource_tokens._httpx import LIBRARIES, http
from resource_tokens.exceptions import ConfigurationError, TokenRequestError
from resource_tokens.oauth.dialects import RFC8707, DialectOrName, dialect_of
from resource_tokens.oauth.messages import (
    HTTPAnswer,
    HTTPRequest,
    Members,
    json_object,
    quoted,
    refused_redirect,
)
from resource_tokens.tokens import Secret

if TYPE_CHECKING:
    import httpx
    import httpx2

    Transport = (
        httpx.BaseTransport
        | httpx.AsyncBaseTransport
        | httpx2.BaseTransport
        | httpx2.AsyncBaseTransport
    )
else:
    Transport = Any

__all__ = [
    "AuthorizationServer",
    "EndpointName",
    "Metadata",
    "disbelieved",
    "headers_for",
    "json_document",
    "metadata_in",
    "metadata_requests",
    "strings_in",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationServer:
    """
    The authorization server that issues the tokens, and how to reach it.

    Token requests go through a client of their own: no redirects, no environment proxies or
    `.netrc` unless `trust_env`, and a bounded answer.

    Args:
        issuer: The issuer identifier, exactly as the server writes it (RFC 8414 2). The token
            endpoint is discovered from it when `token_endpoint` is not given.
        token_endpoint: The URL to ask for tokens, when it should not be discovered.
        revocation_endpoint: The URL to revoke tokens at (RFC 7009), when it should not be
            discovered.
        dialect: How the server departs from the standards, if it does: the name of a preset, such
            as `"entra-v2"`, or a `Dialect`.
        verify: `True`, a CA bundle's path, or an `ssl.SSLContext`.
        proxy: A proxy for token requests.
        timeout: The time for one request as a whole, from connecting to the last byte.
        trust_env: Whether environment variables may name proxies and certificates.
        headers: More headers for each request to this server, such as the key of a gateway in
            front of it.
        uds: The path of a Unix socket to connect to, instead of the hosts of the URLs. These may
            then be plain `http`.
        transport: What to send requests with instead of the network, for tests: a transport of
            httpx or httpx2. For blocking calls it needs `handle_request`, for async ones
            `handle_async_request`. It is used by many requests, and never closed.

    Raises:
        ConfigurationError: If neither URL is given, one is not `https` (or loopback `http`), or
            another argument cannot be what it stands for.
    """

    issuer: str | None = None
    token_endpoint: str | None = None
    dialect: DialectOrName = RFC8707  # type: ignore[assignment]  # pyright: ignore
    verify: bool | str | ssl.SSLContext = True
    proxy: str | None = None
    timeout: timedelta = timedelta(seconds=10)
    trust_env: bool = False
    headers: Mapping[str, str] | tuple[tuple[str, Secret], ...] = ()
    uds: str | os.PathLike[str] | None = None
    transport: Transport | None = None
    revocation_endpoint: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dialect", dialect_of(self.dialect))
        self._check_headers()
        if self.issuer is None and self.token_endpoint is None:
            raise ConfigurationError("AuthorizationServer needs issuer= or token_endpoint=.")
        if self.issuer is not None:
            url = self._parsed("issuer", self.issuer)
            # RFC 8414 2: an https URL "that has no query or fragment components".
            if "?" in self.issuer or "#" in self.issuer or url.userinfo:
                raise ConfigurationError(
                    f"The issuer {display_url(url)!r} has a query, fragment or userinfo. RFC 8414 "
                    "allows none."
                )
        self._check_endpoint("token endpoint", self.token_endpoint)
        self._check_endpoint("revocation endpoint", self.revocation_endpoint)
        if self.proxy is not None:
            _check_proxy(self.proxy)
        if not isinstance(self.verify, bool | str | ssl.SSLContext):
            raise ConfigurationError(
                f"verify={self.verify!r}: give True, the path of a CA bundle, or an SSLContext."
            )
        if not isinstance(self.timeout, timedelta) or self.timeout <= timedelta():
            raise ConfigurationError(
                f"timeout={self.timeout!r}: give a positive timedelta, such as "
                "timedelta(seconds=10)."
            )
        self._check_way()
        if self.verify is False:
            warnings.warn(
                f"verify=False for {self.name}: anybody on the way can read the client's "
                "credentials and issue tokens of their own.",
                UserWarning,
                stacklevel=3,
            )

    def __repr__(self) -> str:
        # The query of a token endpoint can hold a key.
        named = {"issuer": self.issuer}
        if self.token_endpoint is not None:
            named["token_endpoint"] = display_url(http.URL(self.token_endpoint))
        named["dialect"] = self.dialect.name
        shown = (f"{name}={value!r}" for name, value in named.items() if value is not None)
        return f"AuthorizationServer({', '.join(shown)})"

    @property
    def name(self) -> str:
        """
        What this server is called in messages, which is its issuer or else its token endpoint
        without the query.
        """
        return self.issuer or display_url(http.URL(str(self.token_endpoint)))

    def _parsed(self, what: str, value: object) -> Any:
        try:
            url = http.URL(value) if isinstance(value, str) else None
        except (http.InvalidURL, UnicodeError):
            url = None
        if url is None or not _names_a_host(url):
            raise ConfigurationError(
                f"The {what} {_without_secrets(value)!r} is no URL like 'https://login.example.com'."
            )
        if not _is_secure(url, self):
            raise ConfigurationError(
                f"The {what} {display_url(url)!r} is not https. Credentials go there: use https, "
                "or a loopback address such as 127.0.0.1 for tests."
            )
        return url

    def _check_endpoint(self, what: str, value: str | None) -> None:
        if value is not None:
            url = self._parsed(what, value)
            # RFC 6749 3.2: "The endpoint URI MUST NOT include a fragment component."
            if "#" in value or url.userinfo:
                raise ConfigurationError(
                    f"The {what} {display_url(url)!r} has a fragment or userinfo."
                )

    def _check_headers(self) -> None:
        pairs = _header_pairs(self.headers)
        object.__setattr__(self, "headers", pairs)
        # The values are not shown: they can be keys.
        wrong = [name for name, value in pairs if value is None]
        if wrong:
            raise ConfigurationError(
                f"headers={{{wrong[0]!r}: ...}}: names and values are strings that a header can "
                "hold, and what each request sets by itself (Authorization, Host, Content-Type "
                "and the like) cannot be set here."
            )

    def _check_way(self) -> None:
        if self.uds is not None:
            object.__setattr__(self, "uds", _path(self.uds))
        ways = {"proxy": self.proxy, "uds": self.uds, "transport": self.transport}
        given = [f"{name}=" for name, value in ways.items() if value is not None]
        if len(given) > 1:
            raise ConfigurationError(
                f"{' and '.join(given)}: each is a way of its own to reach a server, so give one."
            )
        if self.transport is not None and not isinstance(self.transport, _TRANSPORTS):
            raise ConfigurationError(
                f"transport= is a {type(self.transport).__name__}. Give a transport of httpx or "
                "httpx2, such as httpx.MockTransport(...)."
            )


def headers_for(server: AuthorizationServer) -> tuple[tuple[str, Secret], ...]:
    """
    The headers to add to each request to a server.
    """
    return cast("tuple[tuple[str, Secret], ...]", server.headers)


EndpointName = Literal["token_endpoint", "revocation_endpoint", "introspection_endpoint"]
"""
The endpoints that a client authenticates to (RFC 8414 2).
"""


@dataclass(frozen=True, slots=True)
class Metadata:
    """
    What an authorization server says of itself (RFC 8414 2).

    Attributes:
        issuer: Its issuer identifier.
        endpoints: The URLs of its endpoints, the token endpoint at least.
        mtls_endpoint_aliases: Those for clients that authenticate by certificate, where they
            differ (RFC 8705 5).
        jwks_uri: Where its keys are.
        token_endpoint_auth_methods_supported: How clients may authenticate.
        protected_resources: The resources it issues tokens for, if it says so (RFC 9728 4).
        reach: How near its endpoints may be: no nearer than where this came from.
    """

    issuer: str
    endpoints: Mapping[str, str]
    mtls_endpoint_aliases: Mapping[str, str]
    jwks_uri: str | None
    token_endpoint_auth_methods_supported: tuple[str, ...]
    protected_resources: tuple[str, ...]
    reach: Reach

    def endpoint(self, name: EndpointName, method: str) -> str | None:
        """
        The URL of an endpoint, for clients that authenticate by `method`; `None` if there is none.
        """
        # RFC 8705 5: a client that does mutual TLS "MUST use the alias URL of the endpoint within
        # the "mtls_endpoint_aliases", when present".
        if method in _MUTUAL_TLS and name in self.mtls_endpoint_aliases:
            return self.mtls_endpoint_aliases[name]
        return self.endpoints.get(name)

    def reach_for(self, url: str) -> Reach:
        """
        How near the address behind a URL of these may be. The host of the issuer was named by
        whoever configured it, and is wherever it is.
        """
        same = http.URL(url).raw_host == http.URL(self.issuer).raw_host
        return Reach.LINK_LOCAL if same else self.reach


def metadata_requests(issuer: str) -> tuple[HTTPRequest, ...]:
    """
    Where to look for the metadata, in order: the OAuth address, then the OpenID ones.
    """
    url = http.URL(issuer)
    # RFC 8414 3.1: "Any terminating "/" MUST be removed before inserting "/.well-known/"".
    path = url.raw_path.decode("ascii").rstrip("/")
    # RFC 8414 5 inserts the OpenID suffix too; OpenID Connect Discovery 4 appends it.
    addresses = (
        f"/.well-known/oauth-authorization-server{path}",
        f"/.well-known/openid-configuration{path}",
        f"{path}/.well-known/openid-configuration",
    )
    return tuple(
        HTTPRequest(
            "GET", str(url.copy_with(raw_path=address.encode())), {"Accept": "application/json"}
        )
        for address in dict.fromkeys(addresses)
    )


def metadata_in(answer: HTTPAnswer, server: AuthorizationServer, resource: str) -> Metadata | None:
    """
    The metadata in an answer; `None` if there is no document at that address.

    Args:
        answer: What came back.
        server: The server whose issuer was asked.
        resource: The resource that a token is wanted for.

    Raises:
        TokenRequestError: If there is a document that cannot be believed.
    """
    whose = f"the metadata of the issuer {server.issuer!r}"
    document = json_document(answer, whose, resource)
    if document is None:
        return None
    # RFC 8414 3.3: the value "MUST be identical to the authorization server's issuer identifier
    # value into which the well-known URI string was inserted". Equal code points, nothing else.
    if document.get("issuer") != server.issuer:
        raise disbelieved(
            answer,
            whose,
            resource,
            f"names another issuer, {quoted(str(document.get('issuer')))!r}. The two must be "
            "equal to the letter; a slash at the end counts.",
        )
    reach = reach_of(answer.peer) if answer.peer else _literal_reach(http.URL(str(server.issuer)))
    judge = _Judge(server, reach)
    trouble = judge.trouble_with(document.get("token_endpoint"))
    if trouble:
        raise disbelieved(answer, whose, resource, f"{trouble} Configure token_endpoint= instead.")
    return Metadata(
        str(server.issuer),
        judge.endpoints_in(document),
        judge.endpoints_in(document.get("mtls_endpoint_aliases")),
        judge.url_in(document, "jwks_uri"),
        strings_in(document, "token_endpoint_auth_methods_supported"),
        strings_in(document, "protected_resources"),
        reach,
    )


class _Judge(NamedTuple):
    """
    Whether a URL in a document is one to send something to.
    """

    server: AuthorizationServer
    reach: Reach

    def trouble_with(self, endpoint: object) -> str:
        """
        Why a token endpoint cannot be used; empty if it can.
        """
        try:
            url = http.URL(endpoint) if isinstance(endpoint, str) else None
        except (http.InvalidURL, UnicodeError):
            url = None
        # RFC 6749 3.2: "The endpoint URI MUST NOT include a fragment component."
        if url is None or not _names_a_host(url) or "#" in str(endpoint) or url.userinfo:
            return "has no usable token_endpoint."
        secure = str(self.server.issuer).lower().startswith("https:")
        if not _is_secure(url, self.server) or (secure and url.scheme != "https"):
            return "names a token_endpoint that is plain http, where credentials can be read."
        issuer = http.URL(str(self.server.issuer))
        if url.raw_host != issuer.raw_host and _literal_reach(url) > self.reach:
            return (
                f"names a token_endpoint at {url.host}, which is nearer to this machine than the "
                "document itself."
            )
        return ""

    def url_in(self, members: Members, name: str) -> str | None:
        url = members.get(name)
        return None if self.trouble_with(url) else str(url)

    def endpoints_in(self, members: object) -> Mapping[str, str]:
        members = Members(members if isinstance(members, dict) else {})
        found = {name: self.url_in(members, name) for name in get_args(EndpointName)}
        return MappingProxyType({name: url for name, url in found.items() if url is not None})


def json_document(answer: HTTPAnswer, whose: str, resource: str) -> Members | None:
    """
    The JSON document in an answer; `None` if there is none at that address.

    Args:
        answer: What came back.
        whose: What the document is, for messages.
        resource: The resource that a token is wanted for.

    Raises:
        TokenRequestError: If there is something else, or a redirect to somewhere else.
    """
    if 300 <= answer.status < 400:
        raise refused_redirect(answer, whose[0].upper() + whose[1:], resource)
    if 400 <= answer.status < 500 and answer.status != 429:
        return None
    if answer.status != 200:
        raise disbelieved(
            answer,
            whose,
            resource,
            f"could not be read: status {answer.status}. Try again later.",
        )
    # RFC 8414 3.2 and RFC 9728 3.2: "using the "application/json" content type".
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    document = json_object(answer) if kind == "application/json" else None
    if document is None:
        raise disbelieved(
            answer,
            whose,
            resource,
            f"is no JSON document (content type {quoted(kind)!r}). Check the address, or "
            "configure what it should have said.",
        )
    return document


def disbelieved(answer: HTTPAnswer, whose: str, resource: str, why: str) -> TokenRequestError:
    """
    The error for a document that cannot be believed.
    """
    return TokenRequestError(f"No token for {resource!r}: {whose} {why}", resource, answer.status)


def strings_in(members: Members, name: str) -> tuple[str, ...]:
    """
    The member that is an array of strings; empty if it is absent or anything else.
    """
    values = members.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return ()
    return tuple(values)


def _literal_reach(url: Any) -> Reach:
    """
    The reach of a host that is an address; a name has that of whatever it leads to.
    """
    try:
        return reach_of(url.raw_host.decode("ascii"))
    except ValueError:
        return Reach.PUBLIC


def _without_secrets(value: object) -> object:
    """
    What was given for a URL, without what can be a password or a key in one.
    """
    if not isinstance(value, str):
        return value
    return re.sub(r"//[^/]*@", "//", value.partition("?")[0])


def _is_secure(url: Any, server: AuthorizationServer) -> bool:
    # What goes through a Unix socket is on no network, and what goes to a host of the machine's
    # own, such as Azure's instance metadata, on none that others are on.
    local = server.uds is not None or url.host in server.dialect.local_hosts
    return is_secure_url(url) or (local and url.scheme == "http")


def _names_a_host(url: Any) -> bool:
    # httpx takes hosts and ports that no resolver or socket does.
    labels = url.raw_host.rstrip(b".").split(b".")
    port = 1 if url.port is None else url.port
    return 0 < port < 65536 and all(0 < len(label) < 64 for label in labels)


def _check_proxy(proxy: object) -> None:
    try:
        http.Proxy(http.URL(str(proxy)))
    except (http.InvalidURL, ValueError):
        # Not shown: it can hold a password.
        raise ConfigurationError(
            "proxy= is no proxy URL. Write it like 'http://proxy.example.com:3128'."
        ) from None


def _path(uds: object) -> str:
    path = os.fspath(uds) if isinstance(uds, str | os.PathLike) else None
    if not path or not isinstance(path, str):
        raise ConfigurationError(f"uds={uds!r} is no path of a Unix socket.")
    return path


def _header_pairs(headers: object) -> tuple[tuple[object, Secret | None], ...]:
    """
    Names and values, `None` in the place of what is none.
    """
    if isinstance(headers, Mapping):
        headers = tuple(headers.items())
    if not isinstance(headers, tuple):
        return ((type(headers).__name__, None),)
    # A server made from another one has them as pairs, wrapped already.
    values = [value.reveal() if isinstance(value, Secret) else value for _, value in headers]
    return tuple(
        (name, Secret(value) if _is_header(name, value) else None)
        for (name, _), value in zip(headers, values, strict=True)
    )


def _is_header(name: object, value: object) -> bool:
    return (
        isinstance(name, str)
        and re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) is not None
        and name.lower() not in _OWN_HEADERS
        and isinstance(value, str)
        and re.fullmatch(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", value) is not None
    )


_MUTUAL_TLS = frozenset({"tls_client_auth", "self_signed_tls_client_auth"})
_TRANSPORTS = tuple(
    base for library in LIBRARIES for base in (library.BaseTransport, library.AsyncBaseTransport)
)
_OWN_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "dpop",
        "host",
        "proxy-authorization",
        "transfer-encoding",
    }
)
