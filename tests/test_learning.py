"""
Learning from a resource (RFC 9728), and answering its refusals by what they ask for (RFC 6750 3.1,
RFC 9470): on real sockets, against honest and against hostile servers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest

from resource_tokens import (
    AudienceMismatchError,
    AuthorizationServer,
    ClientSecretBasic,
    ConfigurationError,
    EgressBlockedError,
    Resource,
    ResourceMap,
    ResourceTokenAuth,
    SubjectToken,
    TokenEvent,
    TokenRequestError,
)
from resource_tokens.ledger import TokenUse, UseLedger
from tests.conftest import Caller, Clock
from tests.servers.apis import Answer, Seen, Sink
from tests.servers.scripted import Issuer
from tests.servers.tls import serving, trusting

WELL_KNOWN = "/.well-known/oauth-protected-resource"


@dataclass
class Place:
    """
    Two issuers, and an API that says of itself what it is told to say.
    """

    own: Issuer
    other: Issuer
    api: Sink
    events: list[TokenEvent] = field(default_factory=list)
    document: dict[str, Any] | None = None
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def identifier(self) -> str:
        return f"{self.api.url}/orders"

    def says(self, **members: Any) -> None:
        usual = {"resource": self.identifier, "authorization_servers": [self.own.issuer]}
        self.document = usual | members

    def answer(self, seen: Seen) -> Answer | None:
        if not seen.path.startswith(WELL_KNOWN):
            return None
        if self.document is None or seen.path != f"{WELL_KNOWN}/orders":
            return Answer(404)
        headers = (("Content-Type", "application/json"), *self.headers)
        return Answer(200, headers, json.dumps(self.document).encode())

    def server(self, issuer: Issuer) -> AuthorizationServer:
        return AuthorizationServer(issuer=issuer.issuer, verify=trusting())

    def auth(
        self, *allowed: Issuer, clock: Any = None, ledger: Any = None, **options: Any
    ) -> ResourceTokenAuth:
        """
        One for the API, and for another one that has a server of its own.
        """
        options.setdefault("verify_audience", "off")
        elsewhere = Resource(
            "urn:example:elsewhere",
            server=self.server(self.other),
            client_auth=ClientSecretBasic("other-client", "other-secret"),
        )
        mapping = {
            self.identifier: Resource(self.identifier, **options),
            "https://elsewhere.example.com/": elsewhere,
        }
        resources = ResourceMap(mapping, discover=[issuer.issuer for issuer in allowed])
        more = {} if clock is None else {"clock": clock}
        return ResourceTokenAuth(
            self.server(self.own),
            ClientSecretBasic("own-client", "own-secret"),
            resources,
            on_event=self.events.append,
            ledger=ledger,
            **more,
        )

    def details(self, name: str) -> list[str]:
        return [event.detail for event in self.events if event.name == name]

    def challenges(self, status: int, challenge: str, *, while_token: str = "") -> None:
        """
        Let the API refuse requests for orders; those with this in their token, if it is given.
        """

        def refuse(seen: Seen) -> Answer | None:
            if seen.path.startswith(WELL_KNOWN) or while_token not in str(seen.headers):
                return None
            return Answer(status, (("WWW-Authenticate", challenge),))

        self.api.behave(refuse)


@pytest.fixture
def place() -> Iterator[Place]:
    with ExitStack() as stack:
        own, other = stack.enter_context(Issuer()), stack.enter_context(Issuer())
        api = stack.enter_context(Sink())
        made = Place(own, other, api)
        api.behave(made.answer)
        yield made


def get(caller: Caller, place: Place, auth: ResourceTokenAuth, **options: Any) -> Any:
    with caller.client(auth=auth) as client:
        return client.get(f"{place.identifier}/7", **options)


def bodies(issuer: Issuer) -> list[str]:
    return [seen.body.decode() for seen in issuer.token_requests]


def test_nothing_is_learned_unless_it_is_allowed(caller: Caller, place: Place) -> None:
    """
    R9728-9: off by default.
    """
    place.says(authorization_servers=[place.other.issuer])
    get(caller, place, place.auth())

    assert [] == place.api.seen_under(WELL_KNOWN)
    assert (1, 0) == (len(place.own.token_requests), len(place.other.token_requests))


def test_a_resource_names_the_server_it_trusts(caller: Caller, place: Place) -> None:
    """
    R9728-2, RMCP-7: the credential that goes there is the one configured for that issuer.
    """
    place.says(authorization_servers=[place.other.issuer])
    auth = place.auth(place.own, place.other, verify_audience="auto")
    place.other.token["resource"] = place.identifier
    get(caller, place, auth)

    assert [] == place.own.token_requests
    (request,) = place.other.token_requests
    assert "b3RoZXItY2xpZW50Om90aGVyLXNlY3JldA==" in str(request.headers)
    assert 1 == len(place.api.seen_under(WELL_KNOWN))
    assert [] == list(place.api.seen_under(WELL_KNOWN)[0].tokens())


def test_the_ledger_names_the_server_that_issued_the_token(caller: Caller, place: Place) -> None:
    """
    P11: and not the configured one, also for the request that had to wait for what was learned.
    """
    uses: list[TokenUse] = []
    place.says(authorization_servers=[place.other.issuer])
    auth = place.auth(place.own, place.other, ledger=UseLedger(uses.append))
    get(caller, place, auth)
    get(caller, place, auth)
    auth.cache.forget()
    caller.token_for(auth, place.identifier)

    known = {(use.issuer, use.client_id) for use in uses}
    assert (3, {(place.other.issuer, "other-client")}) == (len(uses), known)


def test_a_resource_does_not_choose_who_sees_a_users_token(caller: Caller, place: Place) -> None:
    """
    P3, P11, R9700-7: where it names a server that the subject token is not for, the request is
    stopped, and an event says so; a challenge that does so leaves the caller with the refusal.
    """
    subject = SubjectToken("users-token", issuer=place.own.issuer, subject="alice")
    place.says(authorization_servers=[place.other.issuer])
    with pytest.raises(EgressBlockedError, match="issued by"):
        get(caller, place, place.auth(place.own, place.other).on_behalf_of(subject))
    assert "egress_blocked" == place.events[-1].name

    auth = place.auth(place.own, place.other).on_behalf_of(subject)
    place.says()
    assert 200 == get(caller, place, auth).status_code
    place.says(authorization_servers=[place.other.issuer])
    where = f"{place.api.url}{WELL_KNOWN}/orders"
    challenge = ("WWW-Authenticate", f'Bearer resource_metadata="{where}"')
    place.api.behave(lambda seen: place.answer(seen) or Answer(401, (challenge,)))
    assert 401 == get(caller, place, auth).status_code
    assert "egress_blocked" == place.events[-1].name
    assert 2 == len(place.details("egress_blocked"))
    assert [] == place.other.token_requests


def test_what_was_learned_has_to_be_confirmed(caller: Caller, place: Place) -> None:
    """
    R9728-7: a token that does not say what it is for is not used on the word of the API alone.
    """
    place.says(authorization_servers=[place.other.issuer])
    auth = place.auth(place.own, place.other, verify_audience="auto")

    with pytest.raises(AudienceMismatchError):
        get(caller, place, auth)
    assert [] == place.api.seen_under("/orders")


def test_scopes_are_learned_within_bounds(caller: Caller, place: Place) -> None:
    """
    RMCP-8, R9728-7: those that are listed and allowed; configured ones count first.
    """
    place.says(scopes_supported=["orders:read", "orders:write", "billing:read"])
    get(caller, place, place.auth(place.own, max_scopes="orders:read orders:write"))
    get(caller, place, place.auth(place.own))
    get(caller, place, place.auth(place.own, scopes="orders:read"))

    sent = [body.partition("scope=")[2] for body in bodies(place.own)]
    assert ["orders%3Aread+orders%3Awrite", "", "orders%3Aread"] == sent


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"resource": "https://victim.example.com/"}, "is about another one"),
        ({"resource": None}, "is about another one"),
        ({"authorization_servers": ["https://evil.example.com"]}, "names the issuers"),
        ({"authorization_servers": ["https://evil.example.com\r\nX: y"]}, "names the issuers"),
        ({"authorization_servers": ["http://169.254.169.254/"]}, "names the issuers"),
    ],
)
def test_what_cannot_be_believed_ends_it(
    caller: Caller, place: Place, members: dict[str, Any], words: str
) -> None:
    """
    R9728-3, RMCP-7: no token, and no credential anywhere; what was said is escaped.
    """
    place.says(**members)

    with pytest.raises(TokenRequestError, match=words) as caught:
        get(caller, place, place.auth(place.own))
    assert "\r" not in str(caught.value)
    assert [] == place.own.token_requests
    assert [] == place.api.seen_under("/orders")
    assert 1 == len(place.details("discovery_failed"))


def test_an_issuer_that_is_not_allowed_is_not_asked(caller: Caller, place: Place) -> None:
    """
    RMCP-7: although there is a credential for it.
    """
    place.says(authorization_servers=[place.other.issuer])

    with pytest.raises(TokenRequestError, match="names the issuers"):
        get(caller, place, place.auth(place.own))
    assert [] == place.other.seen


def test_an_issuer_without_a_credential_cannot_be_allowed(place: Place) -> None:
    """
    Said at construction.
    """
    with Issuer() as stranger, pytest.raises(ConfigurationError, match="no credential"):
        place.auth(place.own, stranger)


@pytest.mark.parametrize("discover", ["https://login.example.com", [5], 5])
def test_what_is_no_list_of_issuers_is_refused(discover: Any) -> None:
    """
    A string would be read letter by letter.
    """
    with pytest.raises(ConfigurationError, match="discover="):
        ResourceMap([], discover=discover)


def test_without_metadata_what_is_configured_counts(
    caller: Caller, place: Place, clock: Clock
) -> None:
    """
    RMCP-5: both addresses are tried, and an hour later again.
    """
    auth = place.auth(place.own, clock=clock)
    get(caller, place, auth)
    paths = [seen.path for seen in place.api.seen_under(WELL_KNOWN)]
    assert [f"{WELL_KNOWN}/orders", WELL_KNOWN] == paths
    assert 1 == len(place.own.token_requests)

    clock.advance(3600)
    get(caller, place, auth)
    assert 4 == len(place.api.seen_under(WELL_KNOWN))


def test_metadata_is_kept_for_as_long_as_it_says(
    caller: Caller, place: Place, clock: Clock
) -> None:
    """
    R9728-11: by HTTP's own rules, from a minute to an hour; it is read when a token is.
    """
    place.says()
    place.headers = (("Cache-Control", "max-age=120"),)
    auth = place.auth(place.own, clock=clock)
    for wait, read in ((0, 1), (119, 1), (1, 2), (60, 2)):
        clock.advance(wait)
        auth.cache._acquirer._drop(None)
        get(caller, place, auth)
        assert read == len(place.api.seen_under(WELL_KNOWN))


def test_a_failure_is_remembered_for_a_moment(caller: Caller, place: Place, clock: Clock) -> None:
    """
    P10: an API that says something wrong is not asked by every request.
    """
    place.says(resource="https://victim.example.com/")
    auth = place.auth(place.own, clock=clock)
    for _ in range(3):
        with pytest.raises(TokenRequestError):
            get(caller, place, auth)
    assert 1 == len(place.api.seen_under(WELL_KNOWN))

    place.says()
    clock.advance(5.1)
    assert 200 == get(caller, place, auth).status_code


@pytest.mark.parametrize("where", ["redirect", "flood", "html", "loop"])
def test_a_hostile_api_gets_nothing(caller: Caller, place: Place, where: str) -> None:
    """
    R9728-9, P10: redirects are not followed, endless bodies not read, pages not believed.
    """
    target = {"redirect": place.other.url, "loop": f"{place.api.url}{WELL_KNOWN}/orders"}
    answers = {
        "flood": Answer(200, (("Content-Type", "application/json"),), b'"' + b"x" * 200_000),
        "html": Answer(200, (("Content-Type", "text/html"),), b"<html>"),
    }
    answer = answers.get(where) or Answer(307, (("Location", target[where]),))
    place.api.behave(lambda seen: answer if seen.path.startswith(WELL_KNOWN) else None)

    with pytest.raises(TokenRequestError):
        get(caller, place, place.auth(place.own))
    assert [] == place.own.token_requests
    assert [] == place.other.seen
    assert [] == place.api.seen_under("/orders")
    assert 1 == len(place.api.seen)


@pytest.mark.parametrize("verify", [True, False])
def test_an_api_that_nobody_vouches_for_is_not_believed(caller: Caller, verify: bool) -> None:
    """
    R9728-10: its certificate counts, even where those of the authorization server are not checked.
    """
    with Issuer() as login, Sink(tls=serving()) as api:
        with nullcontext() if verify else pytest.warns(UserWarning, match="verify=False"):
            server = AuthorizationServer(issuer=login.issuer, verify=verify)
        auth = ResourceTokenAuth(
            server,
            ClientSecretBasic("own-client", "own-secret"),
            ResourceMap([f"{api.url}/"], discover=[login.issuer]),
        )
        with pytest.raises(TokenRequestError, match="CERTIFICATE_VERIFY_FAILED"):
            caller.token_for(auth, f"{api.url}/x")

        assert ([], []) == (api.seen, login.seen)


def test_a_challenge_names_the_metadata(caller: Caller, place: Place) -> None:
    """
    R9728-6: it is read again, and the request is made once more with what came of it.
    """
    place.says()
    auth = place.auth(place.own, place.other)
    get(caller, place, auth)
    place.says(authorization_servers=[place.other.issuer])
    place.other.token |= {"access_token": "from-the-other", "resource": place.identifier}
    metadata = f"{place.api.url}{WELL_KNOWN}/orders"
    place.challenges(401, f'Bearer resource_metadata="{metadata}"', while_token="issued-here")

    assert 200 == get(caller, place, auth).status_code
    assert (1, 1) == (len(place.own.token_requests), len(place.other.token_requests))


@pytest.mark.parametrize(
    "metadata",
    [
        "{other}/.well-known/oauth-protected-resource",
        "http://169.254.169.254/latest",
        "http://u:p@{api}/x",
        "file:///etc/passwd",
        "{api_url}/x#y",
        "no address",
    ],
)
def test_a_challenge_that_names_another_place_is_not_followed(
    caller: Caller, place: Place, metadata: str
) -> None:
    """
    R9728-9: the caller gets the 401, and an event says why.
    """
    place.says()
    auth = place.auth(place.own)
    get(caller, place, auth)
    named = metadata.format(
        other=place.other.url, api=f"127.0.0.1:{place.api.port}", api_url=place.api.url
    )
    place.challenges(401, f'Bearer resource_metadata="{named}"')

    assert 401 == get(caller, place, auth).status_code
    assert [] == place.other.seen
    assert "not at the same origin" in place.details("discovery_failed")[0]


# Step-up: what a resource asks for, and what is worth a try.


def scope_challenge(scopes: str) -> str:
    return f'Bearer error="insufficient_scope", scope="{scopes}"'


def test_missing_scopes_are_asked_for_once(caller: Caller, place: Place) -> None:
    """
    RMCP-9, R6750-6, R9470-2: the union, one retry, and both tokens are kept.
    """
    auth = place.auth(scopes="orders:read", max_scopes="orders:read orders:write")
    place.challenges(403, scope_challenge("orders:write"), while_token="issued-here-0")
    assert 200 == get(caller, place, auth).status_code
    assert 200 == get(caller, place, auth).status_code

    sent = [body.partition("scope=")[2] for body in bodies(place.own)]
    assert ["orders%3Aread", "orders%3Aread+orders%3Awrite"] == sent
    assert 4 == len(place.api.seen)


@pytest.mark.parametrize(
    ("challenge", "options", "words"),
    [
        (scope_challenge("orders:write"), {}, "max_scopes does not allow all of them"),
        (scope_challenge("a b"), {"max_scopes": "a"}, "max_scopes does not allow all of them"),
        (scope_challenge("orders:read"), {"max_scopes": "a"}, "names no scope"),
        ('Bearer error="insufficient_scope"', {"max_scopes": "a"}, "names no scope"),
    ],
)
def test_what_is_not_allowed_is_not_asked_for(
    caller: Caller, place: Place, challenge: str, options: dict[str, Any], words: str
) -> None:
    """
    R6750-6, P8: the caller gets the 403, and an event says what was missing.
    """
    place.challenges(403, challenge)
    auth = place.auth(scopes="orders:read", **options)

    assert 403 == get(caller, place, auth).status_code
    assert 1 == len(place.own.token_requests)
    assert 1 == len(place.api.seen)
    assert words in place.details("insufficient_scope")[0]


def test_a_wider_token_that_was_not_granted_is_not_shown(caller: Caller, place: Place) -> None:
    """
    RMCP-9: no loop. The server said no by granting less.
    """
    place.own.token["scope"] = "orders:read"
    place.challenges(403, scope_challenge("orders:write"))
    auth = place.auth(scopes="orders:read", max_scopes="orders:write")

    assert 403 == get(caller, place, auth).status_code
    assert 2 == len(place.own.token_requests)
    assert 1 == len(place.api.seen)


def test_a_streamed_body_is_not_sent_twice(caller: Caller, place: Place) -> None:
    """
    P8: it is gone; the 403 goes back.
    """
    place.challenges(403, scope_challenge("orders:write"))
    auth = place.auth(scopes="orders:read", max_scopes="orders:write")

    def blocking() -> Iterator[bytes]:
        yield b"once"

    async def asynchronous() -> Any:
        yield b"once"

    with caller.client(auth=auth) as client:
        body = blocking() if caller.blocking else asynchronous()
        response = client.request("POST", f"{place.identifier}/7", content=body)
    assert 403 == response.status_code
    assert 1 == len(place.own.token_requests)
    assert "cannot be sent again" in place.details("insufficient_scope")[0]


@pytest.mark.parametrize(
    ("challenge", "event", "words"),
    [
        (
            'Bearer error="insufficient_user_authentication", acr_values="gold", max_age="5"',
            "insufficient_user_authentication",
            "acr_values 'gold', max_age 5 s",
        ),
        ('Bearer error="insufficient_claims", claims="eyJ9"', "insufficient_claims", "claims"),
    ],
)
def test_what_no_machine_can_satisfy_costs_nothing(
    caller: Caller, place: Place, challenge: str, event: str, words: str
) -> None:
    """
    R9470-1: no token request, no second try; the answer goes back, and an event says why.
    """
    auth = place.auth()
    get(caller, place, auth)
    place.challenges(401, challenge)

    assert 401 == get(caller, place, auth).status_code
    assert 1 == len(place.own.token_requests)
    assert words in place.details(event)[0]


def test_a_refusal_by_somebody_else_is_nobodys_business(caller: Caller, place: Place) -> None:
    """
    P8: a redirect led elsewhere, and what is there asks for scopes.
    """
    with Sink() as stranger:
        stranger.answer("/x", 403, headers=[("WWW-Authenticate", scope_challenge("orders:write"))])
        place.api.redirect("/orders/7", to=f"{stranger.url}/x")
        auth = place.auth(scopes="orders:read", max_scopes="orders:write")
        response = get(caller, place, auth, follow_redirects=True)

        assert 403 == response.status_code
        assert [] == stranger.tokens_seen()
    assert 1 == len(place.own.token_requests)
    assert [] == place.details("insufficient_scope")
