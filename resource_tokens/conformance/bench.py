"""
The servers of the kit, and the client under test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio

from resource_tokens.conformance.setting import Setting
from resource_tokens.pytest_plugin import StartResourceServer
from resource_tokens.testing import LocalAuthorizationServer, LocalResourceServer, TokenLedger

__all__ = ["Bench", "Candidate", "Factory"]

Factory = Callable[[Setting], Any]


class Bench:
    """
    A gateway with three APIs below its paths, an API on another host, and a host that is nobody's.
    """

    def __init__(
        self,
        authorization_server: LocalAuthorizationServer,
        resource_server: StartResourceServer,
        ledger: TokenLedger,
    ) -> None:
        self.authorization_server = authorization_server
        self.ledger = ledger
        names = ("/billing", "/billing-admin", "/orders")
        self.gateway = resource_server(audiences=dict.fromkeys(names))
        self.warehouse = resource_server(audiences={"/stock": None})
        self.nobody = resource_server(audiences={})
        self.billing = f"{self.gateway.url}billing/"
        self.orders = f"{self.gateway.url}orders/"
        self.stock = f"{self.warehouse.url}stock/"
        self.resources = {
            url: url.rstrip("/")
            for url in (self.billing, f"{self.gateway.url}billing-admin/", self.orders, self.stock)
        }
        for name in names:
            _publish(self.gateway, name, authorization_server.issuer)
        _publish(self.warehouse, "/stock", authorization_server.issuer)

    def astray(self, cases: Mapping[str, Callable[[], object]]) -> list[str]:
        """
        Those of some cases in which a token went astray.
        """
        found = []
        for name, case in cases.items():
            before = len(self.ledger.leaks())
            case()
            if len(self.ledger.leaks()) > before:
                found.append(name)
        return found

    def filled(self, text: str) -> str:
        """
        A text with the origins of the servers, `{nobody}`, their authorities, `{nobody_at}`, and
        their ports, `{nobody_port}`.
        """
        servers = {"gateway": self.gateway, "warehouse": self.warehouse, "nobody": self.nobody}
        names = {name: server.url.rstrip("/") for name, server in servers.items()}
        for name in servers:
            names[f"{name}_at"] = names[name].partition("://")[2]
            names[f"{name}_port"] = names[f"{name}_at"].partition(":")[2]
        return text.format(**names)

    def arrived(self, path: str) -> list[dict[str, Any] | None]:
        """
        The claims of the token in each request to the gateway below a path; None for those
        without one.
        """
        issued = self.authorization_server.issued
        found = []
        for record in self.gateway.requests:
            if record.path.startswith(path):
                tokens = [token for token in issued if token in record.text]
                claims = self.authorization_server.claims(tokens[0]) if tokens else None
                found.append(claims)
        return found


def _publish(server: LocalResourceServer, path: str, issuer: str) -> None:
    # RFC 9728: some plugins ask the resource for its authorization server.
    document = {"resource": f"{server.url}{path[1:]}", "authorization_servers": [issuer]}
    server.respond(
        f"/.well-known/oauth-protected-resource{path}",
        headers={"Content-Type": "application/json"},
        body=json.dumps(document).encode(),
    )


class Candidate:
    """
    What the factory makes, in one colour.

    Attributes:
        made: The clients and mappings of clients so far.
    """

    def __init__(self, factory: Factory, setting: Callable[..., Setting], portal: Any) -> None:
        self._factory = factory
        self._setting = setting
        self._portal = portal
        self.made: list[Any] = []

    def client(self, **changes: Any) -> Any:
        """
        Another client, or mapping of clients, in a setting that differs in something.
        """
        made = self._call(self._factory, self._setting(**changes))
        self.made.append(made)
        return made

    def get(self, clients: Any, destination: str, url: str = "") -> Any:
        """
        Send a request to a URL by the client of a destination. Returns the status, or the error.
        """
        return self.together([(clients, destination, url)])[0]

    def together(self, wanted: Sequence[tuple[Any, str, str]]) -> list[Any]:
        """
        Send many requests at the same time.
        """
        calls = [
            partial(_of(clients, destination).request, "GET", url or destination, **_FOLLOWING)
            for clients, destination, url in wanted
        ]
        if self._portal is None:
            with ThreadPoolExecutor(len(calls)) as pool:
                return list(pool.map(_outcome, calls))
        return list(self._portal.call(_all_of_them, calls))

    def close(self) -> None:
        """
        Close what was made.
        """
        for made in self.made:
            clients = list(made.values()) if isinstance(made, Mapping) else [made]
            for client in clients:
                self._call(client.close if self._portal is None else client.aclose)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args) if self._portal is None else self._portal.call(function, *args)


def _of(clients: Any, destination: str) -> Any:
    return clients[destination] if isinstance(clients, Mapping) else clients


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call().status_code
    except Exception as error:  # noqa: BLE001 - a request that was refused is an outcome
        return error


async def _all_of_them(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    outcomes: list[Any] = [None] * len(calls)

    async def one(index: int) -> None:
        try:
            outcomes[index] = (await calls[index]()).status_code
        except Exception as error:  # noqa: BLE001 - a request that was refused is an outcome
            outcomes[index] = error

    async with anyio.create_task_group() as group:
        for index in range(len(calls)):
            group.start_soon(one, index)
    return outcomes


_FOLLOWING = {"follow_redirects": True, "timeout": 10}
