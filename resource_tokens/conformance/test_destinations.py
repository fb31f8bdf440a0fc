"""
The URL corpus: whatever a URL looks like, the token goes where it belongs or nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from resource_tokens.conformance.bench import Bench, Candidate

PATHS = [
    "../orders/x",
    "v1/../../orders/x",
    "%2e%2e/orders/x",
    "%2E%2E/orders/x",
    ".%2e/orders/x",
    "..%2forders/x",
    "%2e%2e%2forders%2fx",
    "..%5corders%5cx",
    "..\\orders\\x",
    "..;/orders/x",
    "v1;a=b/..;c/../orders/x",
    "%252e%252e/orders/x",
    "/../orders/x",
    "%c0%ae%c0%ae/orders/x",
    "..%2f..%2fbilling%2f..%2forders/x",
]
HOSTS = [
    "{nobody}/x",
    "{nobody}/billing/x",
    "http://localhost:{nobody_port}/billing/x",
    "http://{gateway_at}@{nobody_at}/billing/x",
    "http://{gateway_at}:x@{nobody_at}/billing/x",
    "http://{gateway_at}\\@{nobody_at}/billing/x",
    "http://{nobody_at}#@{gateway_at}/billing/x",
    "http://{nobody_at}?@{gateway_at}/billing/x",
    "http://{nobody_at}/@{gateway_at}/billing/x",
    "{warehouse}/billing/x",
    "{warehouse}/x",
]


def test_no_path_misleads(
    candidate: Candidate, bench: Bench, warm: Any, record_property: Callable[[str, object], None]
) -> None:
    """
    A path that some servers read as another API does not take the token there.
    """

    def sent(path: str) -> Callable[[], object]:
        return partial(candidate.get, warm, bench.billing, bench.billing + path)

    astray = bench.astray({path: sent(path) for path in PATHS})
    record_property("astray", json.dumps(astray))

    assert not astray, f"led astray by: {', '.join(astray)}"


def test_no_host_misleads(
    candidate: Candidate, bench: Bench, warm: Any, record_property: Callable[[str, object], None]
) -> None:
    """
    A request to a host or path that is no API of the list goes without a token, or not at all.
    """

    def sent(url: str) -> Callable[[], object]:
        return partial(candidate.get, warm, bench.billing, bench.filled(url))

    astray = bench.astray({url: sent(url) for url in HOSTS})
    record_property("astray", json.dumps(astray))

    assert not astray, f"led astray by: {', '.join(astray)}"


def test_each_api_sees_its_own_token(candidate: Candidate, bench: Bench, warm: Any) -> None:
    """
    Each API sees tokens that were issued for it, whatever was asked for before.
    """
    for _ in range(2):
        for destination in bench.resources:
            assert candidate.get(warm, destination, f"{destination}v1") == 200

    bench.ledger.assert_no_leaks()


def test_without_a_token_nothing_is_sent(candidate: Candidate, bench: Bench) -> None:
    """
    When no token can be had, no request goes to the API without one.
    """
    bench.authorization_server.fail_next(100, status=400, error="invalid_client")
    clients = candidate.client()
    outcome = candidate.get(clients, bench.billing)

    assert isinstance(outcome, Exception), f"the caller got {outcome} and no error"
    assert bench.arrived("/billing") == []


def test_a_token_for_too_much_is_not_shown(candidate: Candidate, bench: Bench, warm: Any) -> None:
    """
    A token that is good at two of the APIs, as a server without RFC 8707 issues it, is shown to
    none.
    """
    bench.authorization_server.ignore_resource = True
    candidate.get(warm, bench.orders, f"{bench.orders}v1")

    assert [claims for claims in bench.arrived("/orders") if claims is not None] == []
