"""
`resource-tokens explain`: what would happen to a request, and why.

Nothing is sent. The request is rehearsed: the real auth object, the real client and the real guard,
with servers that answer from here and tokens that are good nowhere. So no rule is told a second
time.
"""

from __future__ import annotations

import difflib
import json
import secrets
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

from resource_tokens._destinations import display_url
from resource_tokens._httpx import http
from resource_tokens.auth import ResourceTokenAuth
from resource_tokens.exceptions import ResourceTokensError
from resource_tokens.guards import EgressGuard
from resource_tokens.oauth.client_auth import ClientSecretPost
from resource_tokens.oauth.grants import ClientCredentials
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.oauth.token_endpoint import TokenRequest
from resource_tokens.resources import Resource, ResourceMap
from resource_tokens.settings import Entry, Settings

__all__ = ["Explanation", "Hop", "entry_for", "explain"]


@dataclass(frozen=True, slots=True)
class Hop:
    """
    One request on the wire.

    Attributes:
        url: Where it goes.
        host: Its `Host` header.
        token_for: The resource whose token it carries; `None` if it carries none.
        why: Why it carries none, or not the one of the request.
    """

    url: str
    host: str
    token_for: str | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """
    What would happen to a request.

    Attributes:
        url: Where it would go.
        entry: The destination and resource it belongs to.
        parameters: What the token would be asked for by.
        hops: The requests on the wire, redirects included.
        refusal: Why it would not be sent.
        hint: A destination that may be meant.
    """

    url: str
    entry: Entry | None
    parameters: tuple[tuple[str, str], ...]
    hops: tuple[Hop, ...]
    refusal: str = ""
    hint: str = ""

    def as_json(self) -> dict[str, Any]:
        """
        The same for programs.
        """
        entry = self.entry
        return {
            "url": self.url,
            "destination": entry and entry.destination,
            "resource": entry and entry.resource.identifier,
            "server": entry and entry.server.name,
            "client_id": entry and entry.client_auth.client_id,
            "client_authentication": entry and entry.client_auth.method,
            "subject": entry and entry.resource.subject,
            "sender": entry and entry.resource.sender,
            "token_request": dict(self.parameters),
            "hops": [
                {"url": hop.url, "host": hop.host, "token_for": hop.token_for, "why": hop.why}
                for hop in self.hops
            ],
            "refusal": self.refusal or None,
        }


def explain(settings: Settings, url: str, redirect_to: str | None = None) -> Explanation:
    """
    What would happen to a request.

    Args:
        settings: The settings.
        url: Where it would go.
        redirect_to: Where the API would redirect it to.
    """
    hops, refusal = _Rehearsal(settings, redirect_to).of(url)
    shown = url
    try:
        shown = display_url(http.URL(url))
        entry = entry_for(settings, url)
    except (ResourceTokensError, http.InvalidURL, ValueError):
        # The rehearsal has said why.
        return Explanation(shown, None, (), hops, refusal)
    if entry is not None:
        return Explanation(shown, entry, _parameters(settings, entry), hops, refusal)
    known = [entry.destination for entry in settings.entries]
    near = difflib.get_close_matches(shown, known, 1, 0.5) if refusal else []
    return Explanation(shown, None, (), hops, refusal, "".join(near))


def entry_for(settings: Settings, url: str) -> Entry | None:
    """
    The destination that a URL belongs to.

    Raises:
        EgressBlockedError: If it can be read in more than one way.
    """
    # The map answers with a resource. Here each destination has one of its own.
    numbered = {
        entry.destination: replace(
            entry.resource,
            identifier=f"https://{number}.invalid/",
            server=None,
            client_auth=None,
        )
        for number, entry in enumerate(settings.entries)
    }
    found = ResourceMap(numbered).resource_for(url)
    if found is None:
        return None
    return settings.entries[list(numbered.values()).index(found)]


def _parameters(settings: Settings, entry: Entry) -> tuple[tuple[str, str], ...]:
    if entry.resource.subject == "required":
        # That depends on the subject.
        return ()
    request = TokenRequest(
        entry.server,
        entry.client_auth,
        settings.grant or ClientCredentials(),
        entry.resource,
        frozenset(entry.resource.scopes),
    )
    scope = [("scope", " ".join(sorted(request.scopes_sent)))] if request.scopes_sent else []
    return (("grant_type", request.grant.grant_type), *request.target, *scope)


class _Rehearsal:
    """
    One request, with nobody at the other end.
    """

    def __init__(self, settings: Settings, redirect_to: str | None) -> None:
        self._redirect_to = redirect_to
        self._issued: dict[str, str] = {}
        self._hops: list[Hop] = []
        # What is one server and client in the settings is one here.
        self._stand_ins: dict[object, tuple[AuthorizationServer, ClientSecretPost]] = {}
        resources = {entry.destination: self._stand_in(entry) for entry in settings.entries}
        self._auth = ResourceTokenAuth(
            *next(iter(self._stand_ins.values())),
            resources,
            unmapped=settings.unmapped,
        )

    def of(self, url: str) -> tuple[tuple[Hop, ...], str]:
        """
        The hops, and why the rest was not sent.
        """
        transport: Any = EgressGuard(http.MockTransport(self._answer))
        refusal = ""
        with http.Client(
            auth=self._auth, transport=transport, follow_redirects=True, trust_env=False
        ) as client:
            try:
                response = client.get(url)
            except (ResourceTokensError, http.HTTPError, http.InvalidURL, ValueError) as error:
                refusal = str(error)
            else:
                self._say_why(response.extensions.get("token_withheld", ()))
        return tuple(self._hops), refusal

    def _stand_in(self, entry: Entry) -> Resource:
        server, client_auth = entry.server, entry.client_auth
        identity = (server, client_auth.client_id, client_auth.method, client_auth.fingerprint())
        if identity not in self._stand_ins:
            number = len(self._stand_ins)
            self._stand_ins[identity] = (
                AuthorizationServer(
                    token_endpoint=f"https://{number}.invalid/token",
                    transport=http.MockTransport(self._issue),
                ),
                ClientSecretPost(f"{number}", "of nobody"),
            )
        server, client_auth = self._stand_ins[identity]
        # A rehearsal has no subject and proves nothing. Where a token may go is the same.
        return replace(
            entry.resource,
            server=server,
            client_auth=client_auth,
            subject="none",
            exchange=None,
            sender="bearer",
        )

    def _issue(self, request: Any) -> Any:
        resource = dict(parse_qsl(request.content.decode()))["resource"]
        token = secrets.token_urlsafe(32)
        self._issued[f"Bearer {token}"] = resource
        answer = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": 3600,
            "resource": resource,
        }
        headers = {"Content-Type": "application/json"}
        return http.Response(200, headers=headers, content=json.dumps(answer).encode())

    def _answer(self, request: Any) -> Any:
        shown = self._issued.get(request.headers.get("Authorization", ""))
        self._hops.append(Hop(display_url(request.url), request.headers["Host"], shown))
        if self._redirect_to is not None and len(self._hops) == 1:
            return http.Response(302, headers={"Location": self._redirect_to})
        return http.Response(200)

    def _say_why(self, withheld: Any) -> None:
        for event in withheld:
            self._hops[-1] = replace(self._hops[-1], why=event.detail)
