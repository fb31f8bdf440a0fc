"""
The three services of `examples/middle_tier`, with node-oidc-provider to exchange tokens: who has
been where with what, by the ledgers of the services and of the provider.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from examples.middle_tier import gateway, inventory, orders
from examples.middle_tier.parts import Visit, digest
from resource_tokens import AuthorizationServer
from tests.servers.asgi import served
from tests.servers.oidc_provider import OidcProvider
from tests.servers.tls import trusting

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
SECRET = "a secret of forty-two characters, or so"
USERS = ("alice", "bob", "carol")


@dataclass
class Service:
    """
    A running service.

    Attributes:
        tokens: Every token that was shown to it, which its own ledger does not keep.
    """

    app: Any
    url: str = ""
    tokens: list[str] = field(default_factory=list)

    @property
    def visits(self) -> list[Visit]:
        found: list[Visit] = self.app.state.ledger.visits
        return found

    def at(self, url: str) -> Any:
        """
        The application, with an eye on what it is shown.
        """
        self.url = f"{url}/"

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            shown = dict(scope.get("headers", ())).get(b"authorization", b"").decode()
            self.tokens += [shown.removeprefix("Bearer ")] if shown else []
            await self.app(scope, receive, send)

        return watched


class Shop:
    """
    The three services in a row, and the browsers of their users.
    """

    def __init__(self, provider: OidcProvider, stack: ExitStack) -> None:
        provider.clear()
        self.provider = provider
        login = AuthorizationServer(
            issuer=provider.issuer, verify=trusting(), dialect="node-oidc-provider"
        )
        self.inventory = Service(inventory.application(login))
        stack.enter_context(served(self.inventory.at))
        self.orders = Service(orders.application(login, SECRET, self.inventory.url))
        stack.enter_context(served(self.orders.at))
        self.gateway = Service(gateway.application(login, SECRET, self.orders.url))
        stack.enter_context(served(self.gateway.at))
        self.browser = stack.enter_context(httpx.Client(trust_env=False))

    def log_in(self, user: str) -> str:
        """
        The token that a login leads to, which is for the gateway.
        """
        return self.provider.user_token(user, "gateway")

    def ask(self, service: Service, path: str, token: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return self.browser.get(f"{service.url}{path}", headers=headers)

    def order(self, token: str) -> Any:
        """
        What the gateway answers to a user.
        """
        return self.ask(self.gateway, "my/orders/7", token).raise_for_status().json()

    def exchanges(self) -> Counter[tuple[str | None, str]]:
        """
        How often which service has asked for a token for which resource.
        """
        asked = self.provider.ledger()
        assert {(EXCHANGE, None)} >= {(e["form"]["grant_type"][0], e["error"]) for e in asked}
        return Counter((e["client_id"], e["form"]["resource"][0]) for e in asked)


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    config: Any = {
        "clients": [
            {"client_id": name, "client_secret": SECRET, "grant_types": [EXCHANGE]}
            for name in ("gateway", "orders")
        ],
        # A service that exchanges tokens is a client too, and they are for it by that name.
        "resources": {
            "urn:example:orders": {"scopes": ["orders:read"], "audience": "orders"},
            "urn:example:inventory": {"scopes": ["stock:read"], "audience": "inventory"},
        },
    }
    with OidcProvider(config) as running:
        yield running


@pytest.fixture
def shop(provider: OidcProvider) -> Iterator[Shop]:
    with ExitStack() as stack:
        yield Shop(provider, stack)


def test_a_user_is_the_same_at_every_service(shop: Shop) -> None:
    """
    P3: one request through three services, with three tokens, each for one of them and about the
    user who has asked.
    """
    token = shop.log_in("alice")

    answer = shop.order(token)

    assert ("alice", "alice") == (answer["of"], answer["stock"]["asked_for"])
    names = ("gateway", "orders", "inventory")
    for name, service in zip(names, (shop.gateway, shop.orders, shop.inventory), strict=True):
        (visit,) = service.visits
        assert ((name,), "alice", "") == (visit.audience, visit.subject, visit.refused)
    assert digest(token) == shop.gateway.visits[0].token
    assert 3 == len({*shop.gateway.tokens, *shop.orders.tokens, *shop.inventory.tokens})
    expected = {("gateway", "urn:example:orders"): 1, ("orders", "urn:example:inventory"): 1}
    assert expected == shop.exchanges()


def test_a_token_is_refused_at_every_other_service(shop: Shop) -> None:
    """
    Whoever has a token of one service gets in at no other one: not the user, and not the services
    that were called with it. Nothing is exchanged for them.
    """
    shop.order(shop.log_in("alice"))
    services = {
        "gateway": (shop.gateway, "my/orders/7"),
        "orders": (shop.orders, "orders/7"),
        "inventory": (shop.inventory, "stock/lamp"),
    }
    shown = {name: service.tokens[0] for name, (service, _) in services.items()}
    before = shop.exchanges()

    for own, token in shown.items():
        for name, (service, path) in services.items():
            if name == own:
                continue
            answer = shop.ask(service, path, token)
            assert 401 == answer.status_code
            assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
            refusal = Visit(
                digest(token), refused=f"The token is for {own!r}, and not for {name!r}."
            )
            assert refusal == service.visits[-1]
    assert [3, 3, 3] == [len(service.visits) for service, _ in services.values()]
    assert before == shop.exchanges()


def test_users_who_come_together_are_kept_apart(shop: Shop) -> None:
    """
    Sixty requests of three users at once: each sees what is theirs, and each service asks once for
    each of them.
    """
    tokens = {user: shop.log_in(user) for user in USERS}

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda user: (user, shop.order(tokens[user])), USERS * 20))

    assert 60 == len(answers)
    assert [] == [
        user for user, found in answers if {user} != {found["of"], found["stock"]["asked_for"]}
    ]
    for service in (shop.gateway, shop.orders, shop.inventory):
        assert Counter(dict.fromkeys(USERS, 20)) == Counter(v.subject for v in service.visits)
        # A user has one token at each service.
        assert 3 == len({(visit.subject, visit.token) for visit in service.visits})
    expected = {("gateway", "urn:example:orders"): 3, ("orders", "urn:example:inventory"): 3}
    assert expected == shop.exchanges()
