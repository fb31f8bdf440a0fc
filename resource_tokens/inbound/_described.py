"""
The URLs of an API: what it is known by, what it says of itself there (RFC 9728), and what its
clients call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from resource_tokens._destinations import is_secure_url
from resource_tokens._httpx import http
from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.protected_resource import is_describable, where_described
from resource_tokens.oauth.published_keys import ALGORITHMS
from resource_tokens.resources import Resource

__all__ = ["Described", "checked_url", "described", "external"]


@dataclass(frozen=True, slots=True)
class Described:
    """
    What an API is known by.

    Attributes:
        identifier: Its resource identifier.
        url: Where its metadata is.
    """

    identifier: str
    url: str

    @property
    def path(self) -> str:
        """
        Where its metadata is on its own host.
        """
        return http.URL(self.url).raw_path.decode("ascii")

    def document(self, issuer: str, scopes: Iterable[str]) -> dict[str, Any]:
        """
        The metadata (RFC 9728 2).
        """
        document = {
            "resource": self.identifier,
            "authorization_servers": [issuer],
            "scopes_supported": sorted(scopes),
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": list(ALGORITHMS),
        }
        # RFC 9728 3.2: "Claims with zero elements MUST be omitted from the response."
        return {name: value for name, value in document.items() if value}


def described(resource: str | None, audience: str) -> Described | None:
    """
    What an API is known by: what is configured, or else its audience; `None` if that is no URL for
    metadata.

    Raises:
        ConfigurationError: If what is configured is none.
    """
    try:
        known = Resource(audience if resource is None else resource)
        if is_describable(known):
            return Described(known.identifier, where_described(known)[0].url)
    except ConfigurationError:
        if resource is not None:
            raise
    if resource is not None:
        raise ConfigurationError(f"resource={resource!r} is no https URL (RFC 9728 1.2).")
    return None


def external(given: str | None, known: Described | None) -> str | None:
    """
    What goes before the path of a request to make the URL that the client has asked for; `None` if
    nobody knows.

    Raises:
        ConfigurationError: If what is configured is no URL prefix.
    """
    if given is not None:
        checked_url("base_url", given)
        return given.rstrip("/")
    if known is None:
        return None
    return str(http.URL(known.identifier).copy_with(raw_path=b"/")).rstrip("/")


def checked_url(name: str, text: object, *, secure: bool = False) -> None:
    """
    Raises:
        ConfigurationError: If a text is no URL, or one that everybody on the way can listen to.
    """
    try:
        url = http.URL(text) if isinstance(text, str) else None
    except (http.InvalidURL, UnicodeError):
        url = None
    if (
        url is None
        or url.scheme not in {"https", "http"}
        or not url.raw_host
        or url.userinfo
        or "#" in str(text)
        or (name == "base_url" and url.query)
    ):
        raise ConfigurationError(f"{name}={text!r} is no URL like 'https://api.example.com/'.")
    if secure and not is_secure_url(url):
        raise ConfigurationError(f"{name}={text!r} is plain http. Use https.")
