"""
The authorization server, and finding its token endpoint from its issuer (RFC 8414).
"""

from __future__ import annotations

import ssl
import warnings
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from resource_tokens._destinations import display_url, is_secure_url
from resource_tokens._httpx import http
from resource_tokens.exceptions import ConfigurationError, TokenRequestError
from resource_tokens.oauth.dialects import RFC8707, DialectOrName, dialect_of
from resource_tokens.oauth.messages import (
    HTTPAnswer,
    HTTPRequest,
    json_object,
    quoted,
    refused_redirect,
)

__all__ = ["AuthorizationServer", "metadata_requests", "token_endpoint_in"]


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
        dialect: How the server departs from the standards, if it does: the name of a preset, such
            as `"entra-v2"`, or a `Dialect`.
        verify: `True`, a CA bundle's path, or an `ssl.SSLContext`.
        proxy: A proxy for token requests.
        timeout: The time for one request as a whole, from connecting to the last byte.
        trust_env: Whether environment variables may name proxies and certificates.

    Raises:
        ConfigurationError: If neither URL is given, or one is not `https` (or loopback `http`).
    """

    issuer: str | None = None
    token_endpoint: str | None = None
    dialect: DialectOrName = RFC8707  # type: ignore[assignment]  # pyright: ignore
    verify: bool | str | ssl.SSLContext = True
    proxy: str | None = field(default=None, repr=False)
    timeout: timedelta = timedelta(seconds=10)
    trust_env: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dialect", dialect_of(self.dialect))
        if self.issuer is None and self.token_endpoint is None:
            raise ConfigurationError("AuthorizationServer needs issuer= or token_endpoint=.")
        if self.issuer is not None:
            url = _parsed("issuer", self.issuer)
            # RFC 8414 2: an https URL "that has no query or fragment components".
            if "?" in self.issuer or "#" in self.issuer or url.userinfo:
                raise ConfigurationError(
                    f"The issuer {self.issuer!r} has a query, fragment or userinfo. RFC 8414 "
                    "allows none."
                )
        if self.token_endpoint is not None:
            url = _parsed("token endpoint", self.token_endpoint)
            # RFC 6749 3.2: "The endpoint URI MUST NOT include a fragment component."
            if "#" in self.token_endpoint or url.userinfo:
                raise ConfigurationError(
                    f"The token endpoint {self.token_endpoint!r} has a fragment or userinfo."
                )
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
        if self.verify is False:
            warnings.warn(
                f"verify=False for {self.name}: anybody on the way can read the client's "
                "credentials and issue tokens of their own.",
                UserWarning,
                stacklevel=3,
            )

    @property
    def name(self) -> str:
        """
        What this server is called in messages, which is its issuer or else its token endpoint
        without the query.
        """
        return self.issuer or display_url(http.URL(str(self.token_endpoint)))


def metadata_requests(issuer: str) -> tuple[HTTPRequest, HTTPRequest]:
    """
    Where to look for the metadata, in order: the OAuth address, then the OpenID one.
    """
    url = http.URL(issuer)
    # RFC 8414 3.1: "Any terminating "/" MUST be removed before inserting "/.well-known/"".
    path = url.raw_path.decode("ascii").rstrip("/")
    inserted = url.copy_with(raw_path=f"/.well-known/oauth-authorization-server{path}".encode())
    # OpenID Connect Discovery 4: the suffix is appended to the issuer.
    appended = url.copy_with(raw_path=f"{path}/.well-known/openid-configuration".encode())
    headers = {"Accept": "application/json"}
    return (
        HTTPRequest("GET", str(inserted), headers),
        HTTPRequest("GET", str(appended), headers),
    )


def token_endpoint_in(answer: HTTPAnswer, issuer: str, resource: str) -> str | None:
    """
    The token endpoint in a metadata document; `None` if there is no document at that address.

    Raises:
        TokenRequestError: If there is one that cannot be believed.
    """

    def refuse(why: str) -> TokenRequestError:
        return TokenRequestError(
            f"No token for {resource!r}: the metadata of the issuer {issuer!r} {why}",
            resource,
            answer.status,
        )

    if 300 <= answer.status < 400:
        raise refused_redirect(answer, f"The metadata address of {issuer!r}", resource)
    if 400 <= answer.status < 500 and answer.status != 429:
        return None
    if answer.status != 200:
        raise refuse(f"could not be read: status {answer.status}. Try again later.")
    # RFC 8414 3.2: "using the "application/json" content type".
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    document = json_object(answer) if kind == "application/json" else None
    if document is None:
        raise refuse(
            f"is no JSON document (content type {quoted(kind)!r}). Check the issuer, or configure "
            "token_endpoint= instead."
        )
    # RFC 8414 3.3: the value "MUST be identical to the authorization server's issuer identifier
    # value into which the well-known URI string was inserted". Equal code points, nothing else.
    if document.get("issuer") != issuer:
        raise refuse(
            f"names another issuer, {quoted(str(document.get('issuer')))!r}. The two must be "
            "equal to the letter; a slash at the end counts."
        )
    return _believed_endpoint(document.get("token_endpoint"), issuer, refuse)


def _believed_endpoint(endpoint: object, issuer: str, refuse: Any) -> str:
    try:
        url = http.URL(endpoint) if isinstance(endpoint, str) else None
    except (http.InvalidURL, UnicodeError):
        url = None
    if url is None or not _names_a_host(url) or "#" in str(endpoint) or url.userinfo:
        raise refuse("has no usable token_endpoint. Configure token_endpoint= instead.")
    if not is_secure_url(url) or (issuer.lower().startswith("https:") and url.scheme != "https"):
        raise refuse("names a token_endpoint that is plain http, where credentials can be read.")
    return str(endpoint)


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


def _parsed(what: str, value: object) -> Any:
    try:
        url = http.URL(value) if isinstance(value, str) else None
    except (http.InvalidURL, UnicodeError):
        url = None
    if url is None or not _names_a_host(url):
        raise ConfigurationError(
            f"The {what} {value!r} is no URL like 'https://login.example.com'."
        )
    if not is_secure_url(url):
        raise ConfigurationError(
            f"The {what} {value!r} is not https. Credentials go there: use https, or a loopback "
            "address such as 127.0.0.1 for tests."
        )
    return url
