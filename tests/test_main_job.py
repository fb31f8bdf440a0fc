"""
The main job on real sockets, in every colour: each destination gets its own token.
"""

from __future__ import annotations

import asyncio
import io
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import httpx2
import pytest
import trio

from resource_tokens import (
    ClientSecretPost,
    ConfigurationError,
    EgressBlockedError,
    OAuthError,
    PublicClient,
    Resource,
    ResourceMap,
    ResourceTokenAuth,
    ResourceTokensError,
    TokenCache,
    TokenRequestError,
    UnmappedDestinationError,
)
from resource_tokens._refusals import Remedy
from resource_tokens.tokens import Secret
from tests.conftest import BILLING, CLIENT_ID, CLIENT_SECRET, ORDERS, Caller, Clock, World


def bearer(record: Any) -> list[str]:
    """
    The Authorization values a server saw in one request.
    """
    return [value for name, value in record.headers if name.lower() == "authorization"]


def test_each_destination_gets_its_own_token(caller: Caller, world: World) -> None:
    """
    P1, R9700-3: the destination decides the resource, and each API accepts what it is shown.
    """
    with caller.client(auth=world.auth()) as client:
        first = client.get(f"{world.orders.url}v1/orders")
        second = client.get(f"{world.billing.url}v1/invoices")

    assert (200, 200) == (first.status_code, second.status_code)
    assert [(ORDERS,), (BILLING,)] == [r.resources for r in world.server.token_requests]
    (orders_token,) = world.orders.tokens_seen()
    (billing_token,) = world.billing.tokens_seen()
    assert orders_token != billing_token


def test_a_token_is_asked_for_once_and_used_again(caller: Caller, world: World) -> None:
    """
    P2: two requests to one resource make one token request, of the client credentials grant.
    """
    with caller.client(auth=world.auth()) as client:
        for _ in range(3):
            client.get(f"{world.orders.url}v1/orders")

    (request,) = world.server.token_requests
    assert "client_credentials" == request.grant_type
    assert (ORDERS,) == request.resources
    assert "client_secret_basic" == request.auth_method
    assert 1 == len(world.orders.tokens_seen())


def test_two_clients_of_one_auth_object_share_its_cache(caller: Caller, world: World) -> None:
    """
    P2: the cache hangs on the auth object, not on the client.
    """
    auth = world.auth()
    for _ in range(2):
        with caller.client(auth=auth) as client:
            client.get(world.orders.url)

    assert 1 == len(world.server.token_requests)


def test_scopes_are_asked_for_and_kept_apart(caller: Caller, world: World) -> None:
    """
    P2 and C7, R6749-19: another scope set is another token; the order of scopes makes no
    difference.
    """
    resource = Resource(ORDERS, scopes=["orders:read", "orders:list"])
    auth = world.auth({world.orders.url: resource})
    with caller.client(auth=auth) as client:
        client.get(world.orders.url)
        client.get(world.orders.url, auth=auth.scoped("orders:write"))
        client.get(world.orders.url, auth=auth.scoped("orders:list", "orders:read"))
        client.get(world.orders.url, auth=auth.scoped("orders:list orders:read"))

    asked = [set(r.scopes) for r in world.server.token_requests]
    assert [{"orders:read", "orders:list"}, {"orders:write"}] == asked


def test_extra_parameters_go_along_and_are_part_of_the_key(caller: Caller, world: World) -> None:
    """
    P2: a parameter that was sent is part of what the token is kept under.
    """
    blue = Resource(ORDERS, extra={"tenant": "blue"})
    green = Resource(ORDERS, extra={"tenant": "green"})
    cache = world.auth().cache
    tokens = [caller.token(cache, resource) for resource in (blue, green, blue)]

    sent = [dict(r.parameters)["tenant"] for r in world.server.token_requests]
    assert ["blue", "green"] == sent
    assert tokens[0] == tokens[2] != tokens[1]


def test_an_unmapped_destination_raises_and_nothing_is_sent(caller: Caller, world: World) -> None:
    """
    P1, R9700-4: no mapping, no token, no request (U8: an absolute URL over `base_url` too).
    """
    with (
        caller.client(auth=world.auth(), base_url=world.orders.url) as client,
        pytest.raises(UnmappedDestinationError) as caught,
    ):
        client.get(f"{world.sink.url}/path?access=private")

    assert [] == world.sink.seen
    assert () == world.server.token_requests
    assert caught.value.destination in str(caught.value)
    assert "private" not in str(caught.value)
    assert ["unmapped_destination"] == world.event_names()


def test_an_empty_mapping_matches_nothing(caller: Caller, world: World) -> None:
    """
    P1: an empty map gives no token to anybody.
    """
    with caller.client(auth=world.auth([])) as client, pytest.raises(UnmappedDestinationError):
        client.get(world.orders.url)


def test_an_unmapped_destination_goes_without_a_token_if_asked(
    caller: Caller, world: World
) -> None:
    """
    `unmapped="anonymous"` sends the request as the caller made it.
    """
    with caller.client(auth=world.auth(unmapped="anonymous")) as client:
        client.get(f"{world.sink.url}/plain")
        client.get(f"{world.sink.url}/own", headers={"Authorization": "Basic b3du"})

    plain, own = world.sink.seen
    assert [] == bearer(plain)
    assert ["Basic b3du"] == bearer(own)
    assert () == world.server.token_requests


def test_an_authorization_header_of_the_caller_is_overridden(caller: Caller, world: World) -> None:
    """
    R6750-1, RMCP-3: SDKs set placeholders: at a mapped destination exactly one header goes out, and
    it is ours.
    """
    with caller.client(
        auth=world.auth(), headers=[("authorization", "Bearer a"), ("AUTHORIZATION", "Bearer b")]
    ) as client:
        response = client.get(world.orders.url)

    assert 200 == response.status_code
    (record,) = world.orders.requests
    assert [f"Bearer {world.server.issued[0]}"] == bearer(record)


def test_no_token_means_no_request(caller: Caller, world: World) -> None:
    """
    P4: a mapped request for which no token can be had raises, and never goes out bare.
    """
    world.server.resources = {BILLING: ()}
    with caller.client(auth=world.auth()) as client, pytest.raises(OAuthError) as caught:
        client.get(world.orders.url)

    assert ("invalid_target", 400) == (caught.value.error, caught.value.status)
    assert ORDERS in str(caught.value)
    assert () == world.orders.requests
    assert ["metadata_discovered", "token_request_failed"] == world.event_names()


def test_a_stopped_authorization_server_is_one_clear_error(caller: Caller, world: World) -> None:
    """
    P4: without an answer there is no token, and the error names the resource and the address.
    """
    auth = world.auth()
    world.server.stop()
    with caller.client(auth=auth) as client, pytest.raises(TokenRequestError) as caught:
        client.get(world.orders.url)

    assert not isinstance(caught.value, OAuthError)
    assert caught.value.status is None
    assert ORDERS in str(caught.value)
    assert caught.value.__context__ is None
    assert () == world.orders.requests


def test_many_callers_that_miss_together_make_one_token_request(
    caller: Caller, world: World
) -> None:
    """
    P6: the server is asked once, and everybody gets the same token.
    """
    world.server.delay = timedelta(milliseconds=100)
    cache = world.auth().cache
    tokens = caller.token_together(cache, [ORDERS] * 32)

    assert 1 == len(world.server.token_requests)
    assert 1 == len(set(tokens))


def test_each_caller_gets_its_own_resource_under_contention(caller: Caller, world: World) -> None:
    """
    P6 and C1: twenty keys asked for by two hundred callers at once make twenty token requests,
    and nobody gets another one's token.
    """
    world.server.delay = timedelta(milliseconds=50)
    wanted = [f"urn:example:{n % 20}" for n in range(200 if not caller.blocking else 60)]
    tokens = caller.token_together(world.auth([]).cache, wanted)

    assert wanted == [token.resource for token in tokens]
    assert 20 == len(world.server.token_requests)
    assert 20 == len({token.reveal() for token in tokens})


def test_all_waiters_hear_of_a_refusal_each_with_an_error_of_its_own(
    caller: Caller, world: World
) -> None:
    """
    P6: one refused request informs all waiters; no two share an instance.
    """
    world.server.delay = timedelta(milliseconds=100)
    world.server.resources = {BILLING: ()}
    errors = caller.token_together(world.auth().cache, [ORDERS] * 16)

    assert {"invalid_target"} == {error.error for error in errors}
    assert 16 == len({id(error) for error in errors})
    assert 1 == len(world.server.token_requests)


def test_threads_asyncio_and_trio_share_one_flight(world: World) -> None:
    """
    P6: one cache serves all three at once.
    """
    world.server.delay = timedelta(milliseconds=200)
    cache = world.auth().cache
    tokens: list[Any] = []
    runners = [
        lambda: tokens.append(cache.get(ORDERS)),
        lambda: tokens.append(asyncio.run(cache.aget(ORDERS))),
        lambda: tokens.append(trio.run(cache.aget, ORDERS)),
    ] * 4
    threads = [threading.Thread(target=run) for run in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 12 == len(tokens)
    assert 1 == len(set(tokens))
    assert 1 == len(world.server.token_requests)


def test_a_blocking_call_inside_an_event_loop_does_not_deadlock(world: World) -> None:
    """
    P6: a sync caller never waits for a flight that its own thread would have to finish.
    """
    world.server.delay = timedelta(milliseconds=100)
    cache = world.auth().cache

    async def both() -> tuple[Any, Any]:
        leader = asyncio.create_task(cache.aget(ORDERS))
        while not world.server.requests:  # noqa: ASYNC110 - the server is a thread
            await asyncio.sleep(0)
        blocking = cache.get(ORDERS)
        return await leader, blocking

    first, second = asyncio.run(both())

    assert (ORDERS, ORDERS) == (first.resource, second.resource)


def test_token_for_needs_no_httpx_client(caller: Caller, world: World) -> None:
    """
    `token_for(url)` gives the token of the destination, from the same cache.
    """
    auth = world.auth()
    token = caller.token_for(auth, f"{world.orders.url}v1/orders")
    with caller.client(auth=auth) as client:
        client.get(world.orders.url)

    assert ORDERS == token.resource
    assert f"Bearer {token.reveal()}" == token.authorization
    assert (token.reveal(),) == world.orders.tokens_seen()
    with pytest.raises(UnmappedDestinationError, match=r"unmapped\.example") as caught:
        caller.token_for(auth, "https://user:pass@unmapped.example/x?access_token=private")
    assert "https://unmapped.example/x" == caught.value.destination
    assert "pass@" not in str(caught.value)
    assert "private" not in repr(caught.value.args)
    with pytest.raises(UnmappedDestinationError, match="no URL"):
        caller.token_for(auth, "https://h:x/?access_token=private")
    with pytest.raises(UnmappedDestinationError, match="no URL"):
        caller.token_for(auth, "https://h/\ud800")


def test_a_cache_takes_identifiers_and_resources(caller: Caller, world: World) -> None:
    """
    `TokenCache.get` finds a configured resource by its identifier, with its scopes.
    """
    resource = Resource(ORDERS, scopes="orders:read")
    cache = TokenCache(
        world.authorization_server,
        ClientSecretPost(CLIENT_ID, CLIENT_SECRET),
        resources={world.orders.url: resource},
    )
    by_name = caller.token(cache, ORDERS)
    by_value = caller.token(cache, resource)
    wider = caller.token(cache, ORDERS, ["orders:read", "orders:write"])

    assert by_name == by_value
    assert frozenset({"orders:read"}) == by_name.scopes
    assert frozenset({"orders:read", "orders:write"}) == wider.scopes
    assert {"client_secret_post"} == {r.auth_method for r in world.server.token_requests}


def test_a_name_must_say_what_to_ask_for(world: World) -> None:
    """
    A typing error in an identifier is noticed before the server is asked.
    """
    cache = world.auth(
        {world.orders.url: ORDERS, world.billing.url: Resource(ORDERS, scopes="orders:read")}
    ).cache

    with pytest.raises(ConfigurationError, match="in 0 ways"):
        cache.get("urn:example:order")
    with pytest.raises(ConfigurationError, match="in 2 ways"):
        cache.get(ORDERS)
    assert () == world.server.token_requests


def test_forget_also_forgets_a_refusal(caller: Caller, world: World) -> None:
    """
    Once the server is put right, nobody has to wait for the memory of a refusal to fade.
    """
    cache = world.auth().cache
    world.server.resources = {}
    for resource in (ORDERS, BILLING):
        with pytest.raises(OAuthError):
            caller.token(cache, resource)
    world.server.resources = None
    with pytest.raises(OAuthError):
        caller.token(cache, ORDERS)
    cache.forget(ORDERS)

    assert ORDERS == caller.token(cache, ORDERS).resource
    with pytest.raises(OAuthError):
        caller.token(cache, BILLING)
    cache.forget()
    assert BILLING == caller.token(cache, BILLING).resource


def test_forget_drops_the_tokens_of_a_resource(caller: Caller, world: World) -> None:
    """
    After `forget` the next call asks again; other resources keep theirs.
    """
    cache = world.auth().cache
    before = caller.token(cache, ORDERS)
    kept = caller.token(cache, BILLING)

    assert 1 == cache.forget(ORDERS)
    assert before != caller.token(cache, ORDERS)
    assert kept == caller.token(cache, BILLING)
    assert 2 == cache.forget()
    assert 0 == cache.forget(Resource(BILLING))


def test_a_token_is_replaced_before_its_hard_margin(
    caller: Caller, world: World, clock: Clock
) -> None:
    """
    P7: 30 s before the end of an hour a token is not presented any more.
    """
    cache = world.auth(clock=clock).cache
    first = caller.token(cache, ORDERS)
    clock.advance(3600 - 30)
    second = caller.token(cache, ORDERS)

    assert first != second
    assert 2 == len(world.server.token_requests)


def test_in_the_soft_window_nobody_waits(caller: Caller, world: World, clock: Clock) -> None:
    """
    P7: the old token is served at once, while one refresh goes on behind the callers' backs.
    """
    cache = world.auth(clock=clock).cache
    first = caller.token(cache, ORDERS)
    clock.advance(3600 - 200)
    world.server.delay = timedelta(milliseconds=200)
    served = caller.token_together(cache, [ORDERS] * 16)
    for thread in threading.enumerate():
        if thread.name.startswith("resource_tokens"):
            thread.join()
    after = caller.token(cache, ORDERS)

    assert {first} == set(served)
    assert after != first
    assert 2 == len(world.server.token_requests)
    assert "token_refreshed" == world.event_names()[-1]


def test_a_closed_cache_starts_no_refresh_ahead(caller: Caller, world: World, clock: Clock) -> None:
    """
    `close` is idempotent and ends refreshing ahead; tokens can still be had.
    """
    auth = world.auth(clock=clock)
    first = caller.token(auth.cache, ORDERS)
    auth.close()
    caller.call(auth.close if caller.blocking else auth.aclose)
    clock.advance(3600 - 200)

    assert first == caller.token(auth.cache, ORDERS)
    assert 1 == len(world.server.token_requests)
    clock.advance(200)
    assert first != caller.token(auth.cache, ORDERS)


def test_a_401_renews_the_token_once(caller: Caller, world: World) -> None:
    """
    P8 and R6750-5: the rejected token is replaced, and the request is sent again.
    """
    auth = world.auth()
    with caller.client(auth=auth) as client:
        client.get(world.orders.url)
        world.server.revoke(world.server.issued[0])
        response = client.request("POST", world.orders.url, json={"n": 1})

    assert 200 == response.status_code
    assert [200, 401, 200] == [r.status for r in world.orders.requests]
    assert [b'{"n":1}'] * 2 == [r.body.replace(b" ", b"") for r in world.orders.requests[1:]]
    assert 2 == len(world.server.token_requests)
    assert ["token_rejected", "token_refreshed"] == world.event_names()[-2:]


def test_a_second_401_is_returned(caller: Caller, world: World) -> None:
    """
    P8, R9068-3: a new token that is rejected as well ends it, and so does a token got just now.
    """
    world.orders.respond("/closed", status=401)
    with caller.client(auth=world.auth()) as client:
        cold = client.get(f"{world.orders.url}closed")
        warm = client.get(f"{world.orders.url}closed")
        again = client.get(f"{world.orders.url}closed")

    assert [401, 401, 401] == [cold.status_code, warm.status_code, again.status_code]
    # One for the cold request, one renewal; the key then rests for ten seconds.
    assert 2 == len(world.server.token_requests)
    assert 4 == len(world.orders.requests)


def test_a_401_whose_renewal_fails_is_returned(caller: Caller, world: World) -> None:
    """
    P8: the caller gets the API's answer; why no other token came is an event.
    """
    with caller.client(auth=world.auth()) as client:
        client.get(world.orders.url)
        world.server.revoke(world.server.issued[0])
        world.server.fail_next(1, status=403)
        response = client.get(world.orders.url)

    assert 401 == response.status_code
    assert "token_request_failed" == world.event_names()[-1]


def test_a_401_for_an_old_token_uses_the_one_in_the_store(caller: Caller, world: World) -> None:
    """
    P8, T7: compare-and-swap. Another request has renewed already: nobody is asked again.
    """
    auth = world.auth()
    with caller.client(auth=auth) as client:
        client.get(world.orders.url)
        asked = auth.cache._request_for(Resource(ORDERS))
        old = world.server.issued[0]
        world.server.revoke(old)
        # Both requests were sent with the old token; the first answer renews it.
        client.get(world.orders.url)
        renew = auth.cache._remedied if caller.blocking else auth.cache._aremedied
        refused = _with_value(auth.cache._cached(asked), old)
        rejected = caller.call(renew, asked, refused, Remedy("token_rejected", renew=True))

    assert world.server.issued[1] == rejected.token.reveal()
    assert 2 == len(world.server.token_requests)


def _with_value(cached: Any, value: str) -> Any:
    return replace(cached.token, _value=Secret(value))


def test_a_streamed_body_is_not_sent_twice(caller: Caller, world: World) -> None:
    """
    P8, T16: the 401 is returned when the body cannot be replayed, from a generator or a file.
    """

    def chunks() -> Any:
        yield b"once"

    async def achunks() -> Any:
        yield b"once"

    with caller.client(auth=world.auth()) as client:
        client.get(world.orders.url)
        world.server.revoke(world.server.issued[0])
        body = chunks() if caller.blocking else achunks()
        response = client.request("PUT", world.orders.url, content=body)
        upload = client.request("PUT", world.orders.url, files={"f": io.BytesIO(b"once")})

    assert (401, 401) == (response.status_code, upload.status_code)
    assert 1 == len(world.server.token_requests)


def test_a_401_from_somebody_else_changes_nothing(caller: Caller, world: World) -> None:
    """
    P8, LIB-4: behind a redirect a 401 is not the answer of the API the token was for.
    """
    world.orders.redirect("/away", f"{world.sink.url}/x")
    world.sink.answer("/x", 401)
    auth = world.auth()
    with caller.client(auth=auth, follow_redirects=True) as client:
        client.get(world.orders.url)
        response = client.get(f"{world.orders.url}away")
        client.get(world.orders.url)

    assert 401 == response.status_code
    assert 1 == len(world.server.token_requests)
    assert "token_rejected" not in world.event_names()


def test_a_403_never_asks_again(caller: Caller, world: World) -> None:
    """
    P8, R6750-6, R6750-7: the same scopes would give the same token. Nor does a 400, which is a
    mistake of the client's own.
    """
    world.orders.respond("/admin", 403, {"WWW-Authenticate": 'Bearer error="insufficient_scope"'})
    world.orders.respond("/odd", 400, {"WWW-Authenticate": 'Bearer error="invalid_request"'})
    with caller.client(auth=world.auth()) as client:
        client.get(world.orders.url)
        responses = [client.get(f"{world.orders.url}{path}") for path in ("admin", "odd")]

    assert [403, 400] == [response.status_code for response in responses]
    assert 1 == len(world.server.token_requests)


def test_userinfo_in_a_mapped_url_is_refused(caller: Caller, world: World) -> None:
    """
    U1: userinfo can make one host look like another.
    """
    url = world.orders.url.replace("http://", "http://user:pass@")
    with caller.client(auth=world.auth()) as client, pytest.raises(EgressBlockedError) as caught:
        client.get(url)

    assert "user:pass" not in str(caught.value)
    assert () == world.orders.requests
    assert ["egress_blocked"] == world.event_names()


def test_a_view_does_not_change_the_original(world: World) -> None:
    """
    `scoped` gives a view on the same cache, and shows its scopes.
    """
    auth = world.auth()
    view = auth.scoped("a", "b")

    assert isinstance(view, ResourceTokenAuth)
    assert view.cache is auth.cache
    assert "scopes=['a', 'b']" in repr(view)
    assert "scopes=" not in repr(auth)
    with pytest.raises(ConfigurationError, match="Name the scopes"):
        auth.scoped()


def test_arguments_are_checked_at_construction(world: World) -> None:
    """
    A swapped or misspelt argument is a ConfigurationError, with the remedy.
    """
    with pytest.raises(ConfigurationError, match="unmapped="):
        world.auth(unmapped="ignore")
    with pytest.raises(ConfigurationError, match="in this order"):
        TokenCache(world.client_auth, world.authorization_server)  # type: ignore[arg-type]
    assert CLIENT_ID in repr(world.auth().cache)


def test_type_hints_of_the_public_methods_resolve() -> None:
    """
    Frameworks read annotations at run time.
    """
    for function in (ResourceTokenAuth.token_for, ResourceMap.resource_for, TokenCache.get):
        assert "return" in get_type_hints(function)


def test_one_auth_object_serves_both_libraries(world: World) -> None:
    """
    Section 5: each library takes the same object as its own `Auth`.
    """
    auth = world.auth()
    assert isinstance(auth, httpx.Auth)
    assert isinstance(auth, httpx2.Auth)
    for library in (httpx, httpx2):
        with library.Client(auth=auth, trust_env=False) as client:
            assert 200 == client.get(world.orders.url).status_code

    assert 1 == len(world.server.token_requests)


def test_prefetch_warms_all_destinations(caller: Caller, world: World) -> None:
    """
    Section 9: one token request for each, and none when the requests come.
    """
    auth = world.auth()
    caller.call(auth.prefetch if caller.blocking else auth.aprefetch)
    with caller.client(auth=auth) as client:
        client.get(world.orders.url)
        client.get(world.billing.url)

    assert 2 == len(world.server.issued)


def test_prefetch_takes_urls_and_the_scopes_of_a_view(caller: Caller, world: World) -> None:
    """
    Section 9: what is fetched is what the view would ask for; twice the same is asked for once.
    """
    auth = world.auth().scoped("orders:write")
    url = f"{world.orders.url}/v1"
    caller.call(auth.prefetch if caller.blocking else auth.aprefetch, [url, url])

    assert frozenset({"orders:write"}) == caller.token_for(auth, url).scopes
    assert 1 == len(world.server.issued)


def test_prefetch_tries_all_and_says_what_failed(caller: Caller, world: World) -> None:
    """
    Section 9: nothing is lost: each failure is in the group, and the other tokens are there.
    """
    world.server.fail_next(1, status=400, error="invalid_target")
    auth = world.auth()

    with pytest.raises(ExceptionGroup, match="1 tokens could not be had") as caught:
        caller.call(auth.prefetch if caller.blocking else auth.aprefetch)
    (failure,) = caught.value.exceptions
    assert isinstance(failure, OAuthError)
    assert "invalid_target" == failure.error
    assert 1 == len(world.server.issued)


def test_prefetch_of_an_unmapped_destination_asks_for_nothing(caller: Caller, world: World) -> None:
    """
    P1: the mistake is said before anything is sent.
    """
    auth = world.auth()
    urls = [world.orders.url, world.sink.url]

    with pytest.raises(UnmappedDestinationError):
        caller.call(auth.prefetch if caller.blocking else auth.aprefetch, urls)
    assert () == world.server.issued


def test_a_long_upload_asks_for_a_token_that_lasts(
    caller: Caller, world: World, clock: Clock
) -> None:
    """
    Section 9: `with_min_ttl` is a view: it renews what does not last, for all who share the cache.
    """
    auth = world.auth(clock=clock)
    patient = auth.with_min_ttl(timedelta(seconds=700))
    with caller.client(auth=auth) as client:
        client.get(world.orders.url)
        clock.advance(2900)
        client.get(world.orders.url)
        assert 1 == len(world.server.issued)
        client.get(world.orders.url, auth=patient)
        client.get(world.orders.url)
    token = caller.token_for(patient, world.orders.url)

    assert 2 == len(world.server.issued)
    assert world.server.issued[1] == token.reveal()


@pytest.mark.parametrize("min_ttl", [timedelta(seconds=-1), 600, None])
def test_a_min_ttl_is_a_length_of_time(world: World, min_ttl: Any) -> None:
    """
    A number without a unit is a mistake.
    """
    with pytest.raises(ConfigurationError, match="timedelta"):
        world.auth().with_min_ttl(min_ttl)


def test_a_credential_that_was_replaced_changes_the_key(
    caller: Caller, world: World, clock: Clock, tmp_path: Path
) -> None:
    """
    P2: a few seconds later no token of the old secret is used any more, and nothing else happens.
    """
    file = tmp_path / "secret"
    file.write_text(CLIENT_SECRET + "\n")
    auth = ResourceTokenAuth(
        world.authorization_server,
        ClientSecretPost(CLIENT_ID, file),
        {world.orders.url: ORDERS},
        clock=clock,
        on_event=world.events.append,
    )
    first = caller.token_for(auth, world.orders.url)
    clock.advance(60)
    assert first == caller.token_for(auth, world.orders.url)

    # What is there is no secret of this client any more, but it is read.
    file.write_text("another secret")
    assert first == caller.token_for(auth, world.orders.url)
    clock.advance(5)
    with pytest.raises(OAuthError) as caught:
        caller.token_for(auth, world.orders.url)
    assert "invalid_client" == caught.value.error
    assert 1 == world.event_names().count("credential_rotated")
    file.unlink()
    clock.advance(5)
    with pytest.raises(ResourceTokensError):
        caller.token_for(auth, world.orders.url)
    file.write_text(CLIENT_SECRET)
    clock.advance(60)
    assert first == caller.token_for(auth, world.orders.url)


def test_a_token_on_its_way_when_the_credential_is_replaced_is_not_stopped(
    world: World, clock: Clock, tmp_path: Path
) -> None:
    """
    The guard asks what a token is for, not by which secret it was got.
    """
    file = tmp_path / "secret"
    file.write_text(CLIENT_SECRET)
    auth = ResourceTokenAuth(
        world.authorization_server,
        ClientSecretPost(CLIENT_ID, file),
        {world.orders.url: ORDERS},
        clock=clock,
    )

    def replace_it(_: Any) -> None:
        file.write_text("another secret")
        clock.advance(5)
        auth.cache._request_for(Resource(ORDERS))

    with httpx.Client(auth=auth, event_hooks={"request": [replace_it]}, trust_env=False) as client:
        assert 200 == client.get(world.orders.url).status_code


def test_what_cannot_be_asked_for_is_said_at_construction(world: World) -> None:
    """
    R6749-7: a public client gets no token for itself.
    """
    with pytest.raises(ConfigurationError, match="public client"):
        ResourceTokenAuth(
            world.authorization_server, PublicClient(CLIENT_ID), {world.orders.url: ORDERS}
        )
