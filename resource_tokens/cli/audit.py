"""
`resource-tokens audit`: which APIs really check what they are shown?

Each API is asked the same harmless question several times:

1. A token is presented to the API it was issued for, or it was issued for a canary: a resource that
   is no API. No API's own token is ever shown to another, whatever comes of it.
2. Every question is one request: `GET` or `HEAD`, and no redirect is followed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from resource_tokens._destinations import display_url
from resource_tokens._httpx import http
from resource_tokens.cli.explain import entry_for
from resource_tokens.cli.verdicts import (
    Answer,
    ApiReport,
    Presented,
    Report,
    Result,
    Verdict,
    judged,
    measured,
    measured_by,
)
from resource_tokens.exceptions import (
    ConfigurationError,
    OAuthError,
    ResourceTokensError,
)
from resource_tokens.oauth.challenges import challenges_in
from resource_tokens.oauth.dpop import ProofKey
from resource_tokens.oauth.grants import ClientCredentials
from resource_tokens.oauth.jwt import claims_of
from resource_tokens.oauth.messages import quoted
from resource_tokens.resources import Resource
from resource_tokens.settings import AuditRequest, Entry, Settings
from resource_tokens.tokens import AccessToken

__all__ = ["Audit", "requests_from"]


@dataclass(slots=True)
class _Asking:
    """
    One API while it is being asked.
    """

    entry: Entry
    request: AuditRequest | None
    right: AccessToken | None = None
    results: dict[Presented, Result] = field(default_factory=dict)

    @property
    def control(self) -> Answer | None:
        result = self.results.get(Presented.RIGHT)
        return None if result is None else result.answer


class Audit:
    """
    An audit of the APIs of some settings.

    Args:
        settings: The settings.
        requests: The requests to make, by destination, in the place of those of the settings.
        only: The destinations to ask; all by default.
        wait: How many seconds may be waited for tokens to expire.
        timeout: How many seconds to wait for an answer.
        progress: Told what is going on.
        now: Seconds since the epoch.
        sleep: Waits.

    Raises:
        ConfigurationError: If a destination is not mapped, or a canary is one of the APIs.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        requests: dict[str, AuditRequest] | None = None,
        only: Iterable[str] = (),
        wait: float = 0.0,
        timeout: float = 10.0,
        progress: Callable[[str], object] = lambda _: None,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._settings = settings
        self._wait = wait
        self._progress = progress
        self._now = now
        self._sleep = sleep
        wanted = set(only)
        unknown = wanted - {entry.destination for entry in settings.entries}
        if unknown:
            raise ConfigurationError(f"No resource is mapped to {', '.join(sorted(unknown))}.")
        self._apis = [
            _Asking(entry, (requests or {}).get(entry.destination, entry.audit))
            for entry in settings.entries
            if not wanted or entry.destination in wanted
        ]
        for api in self._apis:
            self._check_canary(api.entry)
        # Of its own, unless the settings have one: tokens may be bound to it.
        self._proof_key = settings.proof_key or ProofKey()
        self._auth = replace(settings, proof_key=self._proof_key).auth()
        self._clients = _Clients(timeout)

    @property
    def plan(self) -> list[tuple[AuditRequest, list[Presented]]]:
        """
        The requests that will be made, if all tokens can be had, and with what.
        """
        return [(api.request, list(self._planned(api))) for api in self._apis if api.request]

    def run(self) -> Report:
        """
        Ask all APIs.
        """
        started = self._now()
        with self._clients:
            for api in self._apis:
                self._ask(api)
            # Last, as it takes its time.
            for api in self._apis:
                if Presented.EXPIRED not in api.results:
                    self._ask_with_expired(api, until=started + self._wait)
        self._auth.close()
        reports = [
            ApiReport(
                api.entry.destination,
                api.entry.resource.identifier,
                self._settings.lines(("resources", api.entry.destination)),
                api.request,
                tuple(api.results[presented] for presented in Presented),
            )
            for api in self._apis
        ]
        return Report(self._settings.origin, datetime.fromtimestamp(started, UTC), tuple(reports))

    def _planned(self, api: _Asking) -> Iterator[Presented]:
        yield from (Presented.RIGHT, Presented.NONE)
        if not self._why_no_canary(api.entry):
            yield Presented.CANARY
        if self._wait:
            yield Presented.EXPIRED
        if api.request is not None and api.request.wrong_scopes:
            yield Presented.SCOPE

    def _check_canary(self, entry: Entry) -> None:
        known = {
            _loosely(name)
            for one in self._settings.entries
            for name in (one.resource.identifier, one.resource.expected_audience, one.destination)
        }
        if entry.canary is not None and _loosely(entry.canary) in known:
            raise ConfigurationError(
                f"The canary {entry.canary!r} is one of your APIs, and its tokens are good there. "
                "Register a resource that is no API."
            )

    def _why_no_canary(self, entry: Entry) -> str:
        if entry.canary is None:
            return (
                f"no canary: register a resource that is no API at {entry.server.name!r}, and name "
                f"it in `servers.{entry.server_name}.canary`"
            )
        grant = self._settings.grant or ClientCredentials()
        if not entry.server.dialect.names_target(grant.grant_type):
            return "this server cannot be told which API a token is for"
        return ""

    def _ask(self, api: _Asking) -> None:
        """
        Show an API everything but an expired token.
        """
        if api.request is None:
            self._nothing(api, "no request: name a harmless one in `audit` of this resource")
            return
        if api.entry.resource.sender == "mtls":
            self._nothing(api, "its tokens are bound to a certificate, which an audit has not")
            return
        try:
            api.right = self._auth.cache.get(api.entry.resource)
        except ResourceTokensError as error:
            self._unclear(api, Presented.RIGHT, f"no token could be had: {error}")
        else:
            answer = self._present(api, Presented.RIGHT, api.right)
            api.results[Presented.RIGHT] = measured(answer)
        self._show(api, Presented.NONE, None)
        right, none = api.results[Presented.RIGHT], api.results[Presented.NONE]
        api.results[Presented.RIGHT] = measured_by(right, none)
        self._ask_with_canary(api)
        self._ask_with_wrong_scope(api)

    def _ask_with_canary(self, api: _Asking) -> None:
        why = self._why_no_canary(api.entry)
        if why:
            self._unclear(api, Presented.CANARY, why)
            return
        try:
            token = self._canary_of(api)
        except ResourceTokensError as error:
            self._unclear(api, Presented.CANARY, f"no canary's token could be had: {error}")
            return
        needed = frozenset() if api.right is None else api.right.scopes
        # Refused for its scopes says nothing of its audience.
        self._show(api, Presented.CANARY, token, alike=needed <= token.scopes)

    def _canary_of(self, api: _Asking) -> AccessToken:
        own = api.entry.resource
        canary = Resource(
            str(api.entry.canary),
            server=own.server,
            client_auth=own.client_auth,
            subject="none",
            extra=own.extra,
            sender=own.sender,
        )
        scopes = None if api.right is None else api.right.scopes
        try:
            return self._auth.cache.get(canary, scopes or None)
        except OAuthError as error:
            if error.error != "invalid_scope":
                raise
        return self._auth.cache.get(canary)

    def _ask_with_wrong_scope(self, api: _Asking) -> None:
        wrong = frozenset() if api.request is None else api.request.wrong_scopes
        if not wrong:
            why = "no scopes: name some that must not do in `audit.wrong_scopes`"
            api.results[Presented.SCOPE] = Result(Presented.SCOPE, Verdict.NOT_TRIED, None, why)
            return
        try:
            token = self._auth.cache.get(api.entry.resource, wrong)
        except ResourceTokensError as error:
            self._unclear(api, Presented.SCOPE, f"no such token could be had: {error}")
            return
        if not token.scopes <= wrong or (api.right is not None and token.same_as(api.right)):
            self._unclear(
                api, Presented.SCOPE, "the server grants other scopes than it is asked for"
            )
            return
        self._show(api, Presented.SCOPE, token)

    def _ask_with_expired(self, api: _Asking, until: float) -> None:
        if api.right is None:
            self._not_tried(api, "no token could be had")
            return
        expired = _expiry(api.right) + _LEEWAY
        if expired > until:
            left = int(expired - self._now()) + 1
            self._not_tried(api, f"it takes {left} s until a token has expired: --wait {left}")
            return
        if expired > self._now():
            self._progress(f"waiting until the token for {api.entry.destination} has expired")
            self._sleep(expired - self._now())
        self._show(api, Presented.EXPIRED, api.right)

    def _nothing(self, api: _Asking, why: str) -> None:
        for presented in Presented:
            api.results[presented] = Result(presented, Verdict.UNCLEAR, None, why)

    def _unclear(self, api: _Asking, presented: Presented, why: str) -> None:
        api.results[presented] = Result(presented, Verdict.UNCLEAR, None, why)

    def _not_tried(self, api: _Asking, why: str) -> None:
        api.results[Presented.EXPIRED] = Result(Presented.EXPIRED, Verdict.NOT_TRIED, None, why)

    def _show(
        self,
        api: _Asking,
        presented: Presented,
        token: AccessToken | None,
        *,
        alike: bool = True,
    ) -> None:
        """
        Present what must be refused, and judge the answer.
        """
        answer = self._present(api, presented, token)
        verdict, why = judged(answer, api.control, alike=alike)
        api.results[presented] = Result(presented, verdict, answer, why)

    def _present(self, api: _Asking, presented: Presented, token: AccessToken | None) -> Answer:
        """
        One request. The token is this API's own, or a canary's.
        """
        resource, request = api.entry.resource, api.request
        if request is None or (
            token is not None and token.resource not in (resource.identifier, api.entry.canary)
        ):
            raise RuntimeError("An API's token was about to be shown to another.")
        self._progress(f"{request.method} {display_url(http.URL(request.url))}, {presented}")
        url, headers = http.URL(request.url), {"Accept": "*/*"}
        if token is not None:
            headers["Authorization"] = token.authorization
        if resource.connect_to is not None:
            sidecar = http.URL(resource.connect_to)
            headers["Host"] = resource.host_header or url.netloc.decode("ascii")
            url = url.copy_with(scheme=sidecar.scheme, host=sidecar.host, port=sidecar.port)
        # A proxy that is asked in plain http would see the token.
        client = self._clients.client(proxies=url.scheme == "https" or resource.allow_http_proxy)
        proving = token is not None and resource.sender == "dpop"
        nonce: str | None = None
        try:
            while True:
                if proving:
                    headers["DPoP"] = self._proof_key.proof(
                        request.method, str(url), self._now(), nonce=nonce, token=token
                    )
                with client.stream(request.method, url, headers=headers) as response:
                    wanted = response.headers.get("DPoP-Nonce")
                    asks = proving and wanted is not None and response.status_code == 401
                    if nonce is not None or not asks:
                        return self._answer_in(response)
                    # Once more, with the nonce that it asks for.
                    nonce = wanted
        except http.HTTPError as error:
            return Answer(None, type(error).__name__)

    def _answer_in(self, response: Any) -> Answer:
        detail = ""
        challenges = challenges_in(response.headers.get_list("WWW-Authenticate"))
        if response.status_code in (401, 403):
            detail = next((challenge.error for challenge in challenges if challenge.error), "")
        elif response.has_redirect_location:
            detail = f"to {display_url(response.next_request.url)}"
        # An API can say anything, even what it was shown.
        return Answer(response.status_code, quoted(self._auth.cache.bindings.masked(detail)))


class _Clients(ExitStack):
    """
    The clients that ask: with the proxies of the environment, and without.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__()
        self._timeout = timeout
        self._made: dict[bool, http.Client] = {}

    def client(self, *, proxies: bool) -> http.Client:
        """
        A client that remembers nothing and follows nothing: a session that the right token has
        begun would let in everybody else.
        """
        if proxies not in self._made:
            client = http.Client(timeout=self._timeout, trust_env=proxies, follow_redirects=False)
            self._made[proxies] = self.enter_context(client)
        self._made[proxies].cookies.clear()
        return self._made[proxies]


def requests_from(settings: Settings, lines: Iterable[str]) -> dict[str, AuditRequest]:
    """
    Requests by the destination that they belong to.

    Args:
        settings: The settings.
        lines: The requests, `GET https://...`.

    Raises:
        ConfigurationError: If one is none, or belongs to no destination.
    """
    requests = {}
    for line in lines:
        method, _, url = line.partition(" ")
        if method not in ("GET", "HEAD"):
            raise ConfigurationError("A request is given as 'GET URL' or 'HEAD URL'.")
        entry = entry_for(settings, url.strip())
        if entry is None:
            raise ConfigurationError(f"No resource is mapped to {url}.")
        wrong_scopes = entry.audit.wrong_scopes if entry.audit else frozenset()
        requests[entry.destination] = AuditRequest(
            url.strip(), "GET" if method == "GET" else "HEAD", wrong_scopes
        )
    return requests


def _expiry(token: AccessToken) -> float:
    claims = claims_of(token.reveal())
    said = token.expires_at.timestamp()
    return said if claims is None or claims.expires_at is None else max(said, claims.expires_at)


def _loosely(name: str) -> str:
    return name.rstrip("/").lower()


# RFC 7519 4.1.4: "Implementers MAY provide for some small leeway, usually no more than a few
# minutes, to account for clock skew."
_LEEWAY = 300.0
