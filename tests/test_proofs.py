"""
Proofs of possession on the wire (RFC 9449): where they go, what servers can ask of them, and what
hostile ones get out of that.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import ECKey
from jwt.algorithms import ECAlgorithm

from resource_tokens import (
    AsyncEgressGuard,
    AuthorizationServer,
    ConfigurationError,
    EgressBlockedError,
    EgressGuard,
    OAuthError,
    ProofKey,
    PublicClient,
    RefreshToken,
    Resource,
    ResourceTokenAuth,
    SubjectToken,
    TokenRequestError,
    UnmappedDestinationError,
)
from resource_tokens._proofs import Prover, Terms
from resource_tokens.logs import TokenFilter
from resource_tokens.testing import LocalResourceServer
from tests.conftest import BILLING, CLIENT_ID, CLIENT_SECRET, ORDERS, Caller, World
from tests.servers.apis import Answer
from tests.servers.http2 import Http2Sink
from tests.servers.ledger import Seen
from tests.servers.origin import Origin
from tests.servers.proofs import read_proof
from tests.servers.proxy import RecordingProxy
from tests.servers.tls import serving
from tests.test_logs import HTTP2, everything_written
from tests.test_oidc_provider import BOTH

KEY = ProofKey()


def bound(identifier: str, **options: Any) -> Resource:
    return Resource(identifier, sender="dpop", **options)


def proving(world: World, **options: Any) -> ResourceTokenAuth:
    resources = {world.orders.url: bound(ORDERS), world.billing.url: bound(BILLING)}
    return world.auth(resources, **options)


def proofs_at(api: LocalResourceServer) -> list[str]:
    return [value for r in api.requests for name, value in r.headers if name.lower() == "dpop"]


def claims_at(api: LocalResourceServer) -> list[dict[str, Any]]:
    return [read_proof(proof)[1] for proof in proofs_at(api)]


def wants(nonce: str, error: str = "use_dpop_nonce") -> dict[str, str]:
    return {"WWW-Authenticate": f'DPoP error="{error}"', "DPoP-Nonce": nonce}


def test_both_servers_want_nonces_of_their_own(caller: Caller, world: World) -> None:
    """
    R9449-8 to R9449-11: one more request each, and no more after that.
    """
    world.server.dpop_nonce, world.orders.dpop_nonce = "server-1", "api-1"
    with caller.client(auth=proving(world)) as client:
        assert [200, 200] == [client.get(world.orders.url).status_code for _ in range(2)]
        world.orders.dpop_nonce = "api-2"
        # A new nonce comes with any answer: the one that is refused here was in time for that.
        assert [200, 200] == [client.get(world.orders.url).status_code for _ in range(2)]

    assert [400, 200] == [request.status for request in world.server.token_requests]
    assert [401, 200, 200, 401, 200, 200] == [r.status for r in world.orders.requests]
    nonces = [claims.get("nonce") for claims in claims_at(world.orders)]
    assert [None, "api-1", "api-1", "api-1", "api-2", "api-2"] == nonces
    assert "token_rejected" not in world.event_names()


@BOTH
def test_a_nonce_in_a_good_answer_counts_from_then_on(caller: Caller, world: World) -> None:
    """
    R9449-9: it costs no request to change it.
    """
    api = world.sink
    api.answer("/", 200, headers=[("DPoP-Nonce", "second")], times=1)
    with caller.client(auth=world.auth({f"{api.url}/": bound(ORDERS)})) as client:
        client.get(f"{api.url}/")
        client.get(f"{api.url}/")

    nonces = [read_proof(seen.header("dpop")[0])[1].get("nonce") for seen in api.seen]
    assert [None, "second"] == nonces


@BOTH
def test_endless_challenges_end(caller: Caller, world: World) -> None:
    """
    P10, R9449-10: with another nonce each time there is one more request, no other token, and the
    caller gets the answer.
    """
    api = world.sink
    numbers = iter(range(100))

    def refuse(_: Seen) -> Answer:
        return Answer(401, tuple(wants(f"nonce-{next(numbers)}").items()))

    api.behave(refuse)
    with caller.client(auth=world.auth({f"{api.url}/": bound(ORDERS)})) as client:
        answers = [client.get(f"{api.url}/") for _ in range(2)]

    assert [401, 401] == [answer.status_code for answer in answers]
    assert 4 == len(api.seen)
    assert 1 == len(world.server.issued)
    assert "token_rejected" not in world.event_names()


@BOTH
def test_endless_challenges_of_the_authorization_server_end(caller: Caller, world: World) -> None:
    """
    P10, R9449-8: two requests, and an error that says so.
    """
    for number in range(6):
        world.server.answer_next(
            400, b'{"error": "use_dpop_nonce"}', {"DPoP-Nonce": f"nonce-{number}"}
        )
    with pytest.raises(OAuthError, match="use_dpop_nonce"):
        caller.token(proving(world).cache, ORDERS)

    assert 2 == len(world.server.token_requests)


@pytest.mark.parametrize("nonce", ["", "two words", 'quo"te', "back\\slash", "x" * 513, "a, b"])
def test_what_is_no_nonce_is_not_repeated(world: World, nonce: str) -> None:
    """
    P10, RFC 9449 8.1: not sent back, and no reason to try again.
    """
    world.sink.answer("/", 401, headers=wants(nonce).items())
    with httpx.Client(auth=world.auth({f"{world.sink.url}/": bound(ORDERS)})) as client:
        client.get(f"{world.sink.url}/")
        client.get(f"{world.sink.url}/")

    claims = [read_proof(seen.header("dpop")[0])[1] for seen in world.sink.seen]
    assert 2 == len(claims)
    assert not any("nonce" in each for each in claims)


@BOTH
def test_a_nonce_of_somebody_else_is_nothing(caller: Caller, world: World) -> None:
    """
    P8, R9449-10: a stranger that a redirect leads to, and another API behind the same gateway, give
    out nonces; neither is repeated to the resource, and nothing is tried again.
    """
    gateway = world.sink
    auth = world.auth(
        {
            world.orders.url: bound(ORDERS),
            f"{gateway.url}/orders": bound(ORDERS),
            f"{gateway.url}/billing": bound(BILLING),
        }
    )
    world.orders.redirect("/jump", f"{gateway.url}/nowhere")
    gateway.redirect("/orders/jump", to="/billing/landing")
    for path in ("/nowhere", "/billing/landing", "/billing/direct"):
        gateway.answer(path, 401, headers=wants(f"of{path.replace('/', '-')}").items())
    with caller.client(auth=auth, follow_redirects=True) as client:
        client.get(f"{world.orders.url}jump")
        client.get(f"{gateway.url}/orders/jump")
        client.get(f"{gateway.url}/billing/direct")
        client.get(f"{world.orders.url}x")
        client.get(f"{gateway.url}/orders/x")

    assert 1 == len(gateway.seen_under("/nowhere")) == len(gateway.seen_under("/billing/landing"))
    later = claims_at(world.orders) + [
        read_proof(seen.header("dpop")[0])[1] for seen in gateway.seen_under("/orders")
    ]
    assert 4 == len(later)
    assert not any("nonce" in claims for claims in later)


@BOTH
def test_a_body_that_is_gone_is_not_sent_again(caller: Caller, world: World) -> None:
    """
    R9449-10: the answer goes to the caller; the nonce is there for the next request.
    """
    world.orders.dpop_nonce = "api-1"
    content: Any = iter([b"once"])
    if not caller.blocking:

        async def chunks() -> Any:
            yield b"once"

        content = chunks()
    with caller.client(auth=proving(world)) as client:
        refused = client.request("POST", world.orders.url, content=content)
        accepted = client.request("POST", world.orders.url, content=b"twice")

    assert (401, 200) == (refused.status_code, accepted.status_code)
    assert 2 == len(world.orders.requests)
    assert 1 == world.event_names().count("proof_refused")


@BOTH
@pytest.mark.parametrize("order", [("nonce", "token"), ("token", "nonce")], ids="-".join)
def test_proof_and_token_are_each_replaced_once(
    caller: Caller, world: World, order: tuple[str, ...]
) -> None:
    """
    P8: a refusal of the proof says nothing of the token, and the other way round.
    """
    refusals = {"nonce": wants("n"), "token": {"WWW-Authenticate": 'DPoP error="invalid_token"'}}
    api = world.sink
    with caller.client(auth=world.auth({f"{api.url}/": bound(ORDERS)})) as client:
        client.get(f"{api.url}/warm")
        steps = [Answer(401, tuple(refusals[step].items())) for step in order]
        api.behave(lambda seen: steps.pop(0) if steps and seen.path == "/x" else None)
        assert 200 == client.get(f"{api.url}/x").status_code

    assert [401, 401, 200] == [seen.status for seen in api.seen_under("/x")]
    assert 2 == len(world.server.issued)
    assert {"proof_renewed", "token_rejected"} <= set(world.event_names())


@BOTH
def test_a_wrong_clock_costs_one_request(caller: Caller, world: World) -> None:
    """
    R9449-2: this machine is ten minutes late. Servers that refuse the proof and say what time it
    is get proofs by their own clock; each has its own.
    """
    auth = proving(world, wall_clock=lambda: time.time() - 600)
    with caller.client(auth=auth) as client:
        answers = [client.get(world.orders.url).status_code for _ in range(2)]

    assert [200, 200] == answers
    assert [400, 200] == [request.status for request in world.server.token_requests]
    assert [401, 200, 200] == [request.status for request in world.orders.requests]
    assert any("clock is +" in event.detail for event in world.events)


@BOTH
@pytest.mark.parametrize("date", [None, "yesterday", "now"])
def test_a_refused_proof_without_another_time_is_the_end(
    caller: Caller, world: World, date: str | None
) -> None:
    """
    P10: nothing would be different the next time; and the token is not to blame.
    """
    headers = {"WWW-Authenticate": 'DPoP error="invalid_dpop_proof"'}
    if date is not None:
        now = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        headers["Date"] = now if date == "now" else date
    world.sink.answer("/", 401, headers=headers.items())
    with caller.client(auth=world.auth({f"{world.sink.url}/": bound(ORDERS)})) as client:
        answers = [client.get(f"{world.sink.url}/").status_code for _ in range(2)]

    assert [401, 401] == answers
    assert 2 == len(world.sink.seen)
    assert 1 == len(world.server.issued)


@BOTH
def test_a_proof_of_ones_own_is_replaced(caller: Caller, world: World) -> None:
    """
    R9449-7: as `Authorization` is, and a redirect does not take it along.
    """
    world.orders.redirect("/jump", f"{world.sink.url}/landing")
    headers = {"dPoP": "placeholder", "Authorization": "Bearer placeholder"}
    with caller.client(auth=proving(world), follow_redirects=True) as client:
        assert 200 == client.get(world.orders.url, headers=headers).status_code
        client.get(f"{world.orders.url}jump", headers=headers)

    assert 2 == len(claims_at(world.orders))
    assert [] == world.sink.seen_with("placeholder")
    assert [[]] == [seen.header("dpop") for seen in world.sink.seen]


@BOTH
def test_the_next_request_has_no_proof_in_it(caller: Caller, world: World) -> None:
    """
    P3: what httpx hands out to be sent later, and what it shows of what was sent.
    """
    world.orders.redirect("/jump", f"{world.sink.url}/landing")
    with caller.client(auth=proving(world)) as client:
        response = client.get(f"{world.orders.url}jump")
        client.send(response.next_request, auth=None)

    assert "DPoP" not in response.request.headers
    assert [([], [])] == [(s.header("dpop"), s.header("authorization")) for s in world.sink.seen]


@BOTH
def test_no_proof_goes_in_clear(caller: Caller, world: World) -> None:
    """
    E3b: from https to http on the same host and port.
    """
    with Origin() as origin:
        origin.redirects["/down"] = (302, f"http://127.0.0.1:{origin.port}/clear")
        auth = world.auth({f"https://127.0.0.1:{origin.port}/": bound(ORDERS)})
        with caller.client(auth=auth, follow_redirects=True) as client:
            client.get(f"https://127.0.0.1:{origin.port}/down")

        secure, clear = origin.take()
    assert ("https", "http") == (secure.scheme, clear.scheme)
    assert (1, 0) == tuple(len(each.request.header("dpop")) for each in (secure, clear))
    assert [] == clear.request.header("authorization")


def wrapped(caller: Caller) -> Any:
    """
    httpx's own transport in the guard for others.
    """
    library = caller.library
    if caller.blocking:
        return EgressGuard(library.HTTPTransport())
    return AsyncEgressGuard(library.AsyncHTTPTransport())


def test_around_other_transports_the_guard_makes_the_proof(caller: Caller, world: World) -> None:
    """
    P3: and a redirect to where no guard is takes none along.
    """
    plain = caller.library.HTTPTransport if caller.blocking else caller.library.AsyncHTTPTransport
    world.orders.redirect("/jump", f"{world.sink.url}/landing")
    mounts = {f"all://127.0.0.1:{world.sink.port}": plain()}
    with caller.client(
        auth=proving(world), transport=wrapped(caller), mounts=mounts, follow_redirects=True
    ) as client:
        response = client.get(world.orders.url)
        client.get(f"{world.orders.url}jump")

    assert 200 == response.status_code
    assert "DPoP" not in response.request.headers
    assert [[]] == [seen.header("dpop") for seen in world.sink.seen]


def refusing_mock(caller: Caller, status: int) -> Any:
    return caller.library.MockTransport(lambda _: caller.library.Response(status))


@BOTH
def test_where_nobody_makes_the_proof_a_refusal_says_so(caller: Caller, world: World) -> None:
    """
    P11: a transport that is not httpx's own, without a guard. What it answers itself is let pass.
    """
    auth = proving(world)
    with (
        caller.client(auth=auth, transport=refusing_mock(caller, 401)) as client,
        pytest.raises(EgressBlockedError, match="without the proof of its key"),
    ):
        client.get(world.orders.url)
    with caller.client(auth=auth, transport=refusing_mock(caller, 200)) as client:
        assert 200 == client.get(world.orders.url).status_code


@BOTH
def test_a_proof_names_the_url_that_its_server_knows(caller: Caller, world: World) -> None:
    """
    R9449-2: behind a sidecar that is the scheme of the destination and the `Host` it is known by;
    by way of a plain proxy, the URL that the proxy is asked for.
    """
    sidecar = world.sink.url
    resources = {
        "https://orders.example.com/": bound(ORDERS, connect_to=sidecar),
        "http://billing.internal:8080/": bound(
            BILLING, connect_to=sidecar, host_header="billing.mesh:9000"
        ),
    }
    with caller.client(auth=world.auth(resources)) as client:
        client.get("https://orders.example.com/v1?id=7")
        client.get("http://billing.internal:8080/v1")
    with RecordingProxy(lambda _, port: port) as proxy:
        auth = world.auth({world.orders.url: bound(ORDERS, allow_http_proxy=True)})
        with caller.client(auth=auth, proxy=proxy.url) as client:
            assert 200 == client.get(f"{world.orders.url}a?b").status_code

    targets = [read_proof(seen.header("dpop")[0])[1]["htu"] for seen in world.sink.seen]
    assert ["https://orders.example.com/v1", "http://billing.mesh:9000/v1"] == targets
    assert [f"{world.orders.url}a"] == [claims["htu"] for claims in claims_at(world.orders)]


@pytest.mark.parametrize("guarded", [False, True])
def test_a_reauthorized_redirect_proves_the_other_token(
    caller: Caller, world: World, guarded: bool
) -> None:
    """
    `redirects="reauthorize"`: with its own token, a proof for it, and the nonce it wants; also
    where the hop is looked at twice.
    """
    auth = world.auth(
        {
            world.orders.url: bound(ORDERS),
            world.billing.url: bound(BILLING, redirects="reauthorize"),
        }
    )
    world.billing.dpop_nonce = "api-1"
    world.orders.redirect("/jump", f"{world.billing.url}landing")
    options: Any = {"transport": wrapped(caller)} if guarded else {}
    with caller.client(auth=auth, follow_redirects=True, **options) as client:
        assert 200 == client.get(f"{world.orders.url}jump").status_code

    assert [302, 302] == [request.status for request in world.orders.requests]
    assert [401, 200] == [request.status for request in world.billing.requests]
    assert 1 == len(world.orders.tokens_seen()) == len(world.billing.tokens_seen())


def test_a_bound_token_and_a_plain_one_side_by_side(caller: Caller, world: World) -> None:
    """
    P2: one auth object has both kinds, and a redirect from the one to the other takes nothing.
    """
    auth = world.auth({world.orders.url: bound(ORDERS), world.billing.url: BILLING})
    world.orders.redirect("/jump", f"{world.billing.url}landing")
    world.billing.redirect("/jump", f"{world.orders.url}landing")
    with caller.client(auth=auth, follow_redirects=True) as client:
        direct = [client.get(api.url).status_code for api in (world.orders, world.billing)]
        across = [client.get(f"{api.url}jump").status_code for api in (world.orders, world.billing)]

    assert ([200, 200], [401, 401]) == (direct, across)
    assert [] == proofs_at(world.billing)


@BOTH
def test_many_requests_at_once_have_a_proof_each(caller: Caller, world: World) -> None:
    """
    R9449-11, P6: one token, and no `jti` twice.
    """
    auth = proving(world)
    with caller.client(auth=auth) as client:
        calls: list[Callable[[], Any]] = [partial(client.real.get, world.orders.url)] * 40
        answers = caller.together(calls)

    assert {200} == {answer.status_code for answer in answers}
    assert 1 == len(world.server.issued)
    assert 40 == len({claims["jti"] for claims in claims_at(world.orders)})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_the_key_of_its_parent(world: World) -> None:
    """
    R9449-14: so the tokens in its memory are of use to it, and its proofs are its own.
    """
    auth = proving(world)
    with httpx.Client(auth=auth) as client:
        client.get(world.orders.url)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with httpx.Client(auth=auth) as client:
                status = 0 if client.get(world.orders.url).status_code == 200 else 2
        finally:
            os._exit(status)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert 1 == len(world.server.issued)
    assert 2 == len({claims["jti"] for claims in claims_at(world.orders)})
    assert 1 == len({read_proof(proof)[2] for proof in proofs_at(world.orders)})


@BOTH
def test_no_log_shows_a_proof(caller: Caller, world: World) -> None:
    """
    P9, E11b: hpack writes each header of HTTP/2 at DEBUG; `TokenFilter` drops that.
    """

    def conversation(*filters: logging.Filter) -> bool:
        with Http2Sink(serving()) as api:
            auth = world.auth({f"{api.url}/": bound(ORDERS)})
            with (
                everything_written(*filters) as written,
                caller.client(auth=auth, **HTTP2) as client,
            ):
                client.get(f"{api.url}/")
            ((proof,),) = [[v for name, v in seen if name == "dpop"] for seen in api.seen]
        assert "send_request_headers.started" in written.getvalue()
        return proof in written.getvalue()

    assert conversation()
    assert not conversation(TokenFilter(world.auth().cache))


@BOTH
def test_an_error_that_repeats_the_proof_does_not_show_it(caller: Caller, world: World) -> None:
    """
    P9: a server that sends back in its description what it was sent.
    """
    seen: list[str] = []

    def echo(request: Seen) -> Answer:
        seen.extend(request.header("dpop"))
        description = f"not {seen[-1]}"
        return Answer.from_json(
            400, {"error": "invalid_dpop_proof", "error_description": description}
        )

    world.sink.behave(echo)
    auth = ResourceTokenAuth(
        AuthorizationServer(token_endpoint=f"{world.sink.url}/token"),
        world.client_auth,
        {world.orders.url: bound(ORDERS)},
        on_event=world.events.append,
    )
    with pytest.raises(OAuthError, match="compare the clocks") as caught:
        caller.token_for(auth, world.orders.url)

    assert 1 == len(seen)
    assert seen[0] not in f"{caught.value!r} {world.events!r}"
    assert "not [secret]" in str(caught.value)


def test_a_bound_token_is_taken_out_with_a_proof_for_it(world: World) -> None:
    """
    R9449-7, R9449-10: for a client that is not httpx, nonces included.
    """
    auth, url = proving(world), f"{world.orders.url}v1?id=7"
    world.orders.dpop_nonce = "api-1"
    token = auth.token_for(url)
    headers = {"Authorization": token.authorization, "DPoP": auth.proof_for("GET", url, token)}
    with httpx.Client() as plain:
        refused = plain.get(url, headers=headers)
        nonce = refused.headers["DPoP-Nonce"]
        headers["DPoP"] = auth.proof_for("GET", httpx2.URL(url), token, nonce=nonce)
        accepted = plain.get(url, headers=headers)
        replayed = plain.get(url, headers=headers)
    with httpx.Client(auth=auth) as client:
        known = client.get(url)

    statuses = [answer.status_code for answer in (refused, accepted, replayed, known)]
    assert [401, 200, 401, 200] == statuses
    assert token.authorization.startswith("DPoP ")
    assert 4 == len(world.orders.requests)


def test_a_proof_is_for_the_tokens_own_resource(world: World) -> None:
    """
    P3: neither for another one, nor where there is nothing to prove, nor for a stranger.
    """
    auth = world.auth({world.orders.url: bound(ORDERS), world.billing.url: BILLING})
    orders, billing = auth.token_for(world.orders.url), auth.token_for(world.billing.url)

    with pytest.raises(EgressBlockedError, match="There is no proof"):
        auth.proof_for("GET", world.orders.url, billing)
    with pytest.raises(ConfigurationError, match="bound to no key"):
        auth.proof_for("GET", world.billing.url, billing)
    with pytest.raises(UnmappedDestinationError):
        auth.proof_for("GET", world.sink.url, orders)


def test_a_bound_token_is_no_bearer_token(world: World) -> None:
    """
    R9449-13: it is never shown as one, and would be refused.
    """
    token = proving(world).token_for(world.orders.url)
    with httpx.Client() as plain:
        answer = plain.get(world.orders.url, headers={"Authorization": f"Bearer {token.reveal()}"})

    assert 401 == answer.status_code


@BOTH
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"token_type": "Bearer"}, "not 'DPoP'.*dpop_bound_access_tokens"),
        ({"token_type": None}, "not 'DPoP'"),
    ],
)
def test_a_token_that_is_not_bound_is_refused(
    caller: Caller, world: World, overrides: Any, words: str
) -> None:
    """
    R9449-6, X7: nothing is kept, and nothing is sent.
    """
    world.server.overrides = overrides
    with (
        caller.client(auth=proving(world)) as client,
        pytest.raises(TokenRequestError, match=words),
    ):
        client.get(world.orders.url)

    assert () == world.orders.requests


def test_a_token_type_is_read_in_any_case(world: World) -> None:
    """
    R9449-6, RFC 6749 5.1.
    """
    world.server.overrides = {"token_type": "dPOP"}

    assert "DPoP" == proving(world).token_for(world.orders.url).token_type


def test_a_bound_token_that_was_not_asked_for_says_what_to_set(world: World) -> None:
    """
    X7: it could not be presented.
    """
    world.server.overrides = {"token_type": "DPoP"}
    with pytest.raises(TokenRequestError, match=r"set Resource.*sender='dpop'"):
        world.auth().token_for(world.orders.url)


def test_a_token_that_is_bound_to_another_key_is_refused(world: World) -> None:
    """
    R9449-14: a server that returns what it gave to somebody else.
    """
    proving(world).token_for(world.orders.url)
    world.server.same_token = True
    with pytest.raises(TokenRequestError, match="bound to another key"):
        proving(world).token_for(world.orders.url)


def test_the_key_is_part_of_what_a_token_is_kept_under(world: World) -> None:
    """
    P2, R9449-14: and so is whether there is one.
    """
    resources = [bound(ORDERS), bound(ORDERS), bound(ORDERS), Resource(ORDERS)]
    auths = [
        world.auth({world.orders.url: resource}, proof_key=key)
        for resource, key in zip(resources, (KEY, KEY, None, KEY), strict=True)
    ]
    keys = [a.cache._request_for(r).key for a, r in zip(auths, resources, strict=True)]
    identities = [a.cache._identity(r) for a, r in zip(auths, resources, strict=True)]

    assert keys[0] == keys[1]
    assert 3 == len(set(keys))
    assert identities[0] == identities[1] == identities[2] != identities[3]


def test_a_refresh_token_of_a_public_client_wants_a_key_that_lasts(
    world: World, tmp_path: Path
) -> None:
    """
    R9449-12: it would be of no use after a restart.
    """

    def auth(**options: Any) -> ResourceTokenAuth:
        return ResourceTokenAuth(
            world.authorization_server,
            PublicClient("app"),
            {world.orders.url: bound(ORDERS)},
            grant=RefreshToken("a-refresh-token"),
            **options,
        )

    with pytest.raises(ConfigurationError, match="Give one that lasts"):
        auth()
    with pytest.raises(ConfigurationError, match="Give one that lasts"):
        auth(proof_key=ProofKey())
    file = tmp_path / "key.jwk"
    file.write_text(json.dumps(ECKey.generate_key("P-256").as_dict(private=True)))
    assert auth(proof_key=ProofKey(file))


@pytest.mark.parametrize("sender", ["DPoP", "", None, True])
def test_a_sender_that_is_none(sender: Any) -> None:
    """
    Said at construction.
    """
    with pytest.raises(ConfigurationError, match="use 'bearer' or 'dpop' or 'mtls'"):
        Resource(ORDERS, sender=sender)


def test_servers_are_remembered_up_to_a_number() -> None:
    """
    P10: the least recently used goes first.
    """
    prover = Prover(lambda: 0.0, maxsize=2)
    for server in ("a", "b"):
        prover.heed(server, Terms(), f"of-{server}")
    prover.terms("a")
    prover.heed("c", Terms(), "of-c")

    nonces = [prover.terms(server).nonce for server in "abc"]
    assert ["of-a", None, "of-c"] == nonces


def test_threads_learn_of_nonces_together() -> None:
    """
    P6: what one learns is not lost to another.
    """
    prover = Prover(lambda: 0.0)

    def learn(number: int) -> str:
        server = number % 4
        return prover.heed(server, Terms(), f"n{number}", "use_dpop_nonce")

    with ThreadPoolExecutor(8) as pool:
        reasons = set(pool.map(learn, range(400)))

    assert {"the server wants a nonce in the proof"} == reasons
    assert all(str(prover.terms(server).nonce).startswith("n") for server in range(4))


def test_a_nonce_that_was_used_already_is_no_reason() -> None:
    """
    P10: another proof would say the same.
    """
    prover = Prover(lambda: 0.0)

    assert "" == prover.heed("a", Terms("n"), "n", "use_dpop_nonce")


@BOTH
def test_a_hook_that_goes_elsewhere_takes_no_proof(caller: Caller, world: World) -> None:
    """
    P3: after the auth flow, a hook sends the request to a stranger, without its token.
    """

    def divert(request: Any) -> None:
        request.url = request.url.copy_with(port=world.sink.port)
        request.headers["Host"] = request.url.netloc.decode("ascii")
        del request.headers["Authorization"]

    async def adivert(request: Any) -> None:
        divert(request)

    hooks = {"request": [divert if caller.blocking else adivert]}
    with caller.client(auth=proving(world), event_hooks=hooks) as client:
        client.get(world.orders.url)

    assert [([], [])] == [(s.header("dpop"), s.header("authorization")) for s in world.sink.seen]


def signed_by_hand(changes: dict[str, Any], header: dict[str, Any], url: str) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    claims = {"jti": str(uuid4()), "htm": "POST", "htu": url, "iat": int(time.time())} | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, "ES256", {"typ": "dpop+jwt", "jwk": jwk} | header)


@pytest.mark.parametrize(
    ("changes", "header", "words"),
    [
        ({"htm": "GET"}, {}, "htm"),
        ({"htu": "https://elsewhere.example.com/token"}, {}, "htu"),
        ({"iat": 1_000_000_000}, {}, "iat"),
        ({"ath": "of no token"}, {}, "ath"),
        ({"jti": None}, {}, "jti"),
        ({}, {"typ": "JWT"}, "typ"),
        ({}, {"jwk": {"kty": "EC"}}, ""),
        ({}, {"jwk": None}, ""),
    ],
)
def test_the_servers_for_tests_take_no_wrong_proof(
    world: World, changes: dict[str, Any], header: dict[str, Any], words: str
) -> None:
    """
    RFC 9449 4.3: what a program sends wrongly, its tests are told.
    """
    where = world.server.token_endpoint
    form = {"grant_type": "client_credentials", "resource": ORDERS}
    form |= {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    with httpx.Client() as client:
        good = {"DPoP": signed_by_hand({}, {}, where)}
        wrong = {"DPoP": signed_by_hand(changes, header, where)}
        answers = [client.post(where, data=form, headers=headers) for headers in (good, wrong)]

    assert [200, 400] == [answer.status_code for answer in answers]
    assert "invalid_dpop_proof" == answers[1].json()["error"]
    assert words in answers[1].json()["error_description"]


def test_a_request_and_its_key_go_together(world: World) -> None:
    """
    P2: one without a key for a resource that is to have one, or the other way round, is not made.
    """
    auth = proving(world)
    request = auth.cache._request_for(next(iter(auth.resources))[1])

    with pytest.raises(ConfigurationError, match="goes with sender='dpop'"):
        replace(request, proof_key=None)


@BOTH
def test_the_tokens_of_users_are_bound_to_the_key_of_the_service(
    caller: Caller, world: World
) -> None:
    """
    P2, R9449-5: each user's own token, one key; and a proof for any of them, in a view or not.
    """
    resource = bound(ORDERS, subject="required")
    auth = world.auth({world.orders.url: resource}, proof_key=KEY)
    views = [
        auth.on_behalf_of(
            SubjectToken(
                world.server.user_token(name, audience="urn:example:me"),
                issuer=world.server.issuer,
            )
        )
        for name in ("alice", "bob")
    ]
    with caller.client() as client:
        answers = [client.get(world.orders.url, auth=view) for view in views]

    assert [200, 200] == [answer.status_code for answer in answers]
    assert 2 == len(world.orders.tokens_seen())
    assert {KEY.thumbprint} == {read_proof(proof)[2] for proof in proofs_at(world.orders)}
    token = caller.token_for(views[0], world.orders.url)
    assert read_proof(auth.proof_for("GET", world.orders.url, token))


@BOTH
def test_a_403_that_is_not_about_scopes_is_the_callers(caller: Caller, world: World) -> None:
    """
    P8: it says nothing of the token or the proof.
    """
    world.orders.respond("/x", 403)
    with caller.client(auth=proving(world)) as client:
        assert 403 == client.get(f"{world.orders.url}x").status_code

    assert 1 == len(world.orders.requests)
    assert ["token_issued"] == [name for name in world.event_names() if "metadata" not in name]
