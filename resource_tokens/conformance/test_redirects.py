"""
The redirect matrix: wherever an API sends its caller, the token stays where it belongs.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from resource_tokens.conformance.bench import Bench, Candidate

STATUSES = (301, 302, 303, 307, 308)
ASTRAY = {
    "another API of the same host": "{gateway}/orders/x",
    "another API by a relative path": "../orders/x",
    "a path that some servers read as another API": "{gateway}/billing/%2e%2e/orders/x",
    "an API whose path begins alike": "{gateway}/billing-admin/x",
    "another API on another host": "{warehouse}/stock/x",
    "a host that is nobody's": "{nobody}/x",
    "a host that is nobody's, without a scheme": "//{nobody_at}/x",
    "a host that is nobody's, behind a user name": "http://{gateway_at}@{nobody_at}/x",
    "a host that is nobody's, in two hops": "{gateway}/billing/second",
}


def test_no_token_goes_astray_by_redirect(
    candidate: Candidate, bench: Bench, warm: Any, record_property: Callable[[str, object], None]
) -> None:
    """
    A redirect to where the token does not belong does not take it there.
    """

    def followed(target: str) -> None:
        for status in STATUSES:
            bench.gateway.redirect("/billing/first", bench.filled(target), status)
            bench.gateway.redirect("/billing/second", f"{bench.nobody.url}x", status)
            candidate.get(warm, bench.billing, f"{bench.billing}first")

    astray = bench.astray({name: partial(followed, target) for name, target in ASTRAY.items()})
    record_property("astray", json.dumps(astray))

    assert not astray, f"led astray by: {', '.join(astray)}"


def test_a_redirect_within_the_api_works(candidate: Candidate, bench: Bench, warm: Any) -> None:
    """
    A redirect within the API is followed with its token.
    """
    for status in STATUSES:
        bench.gateway.redirect(f"/billing/{status}", "/billing/v2", status)
        assert candidate.get(warm, bench.billing, f"{bench.billing}{status}") == 200

    bench.ledger.assert_no_leaks()


@pytest.mark.parametrize("status", [307, 308])
def test_no_secret_goes_astray_by_redirect(candidate: Candidate, bench: Bench, status: int) -> None:
    """
    A redirect of the token endpoint does not take the client's secret along.
    """
    server = bench.authorization_server
    server.redirect("/as/token", f"{bench.nobody.url}token", status)
    candidate.get(candidate.client(), bench.billing)

    assert "/as/token" in [record.path for record in server.requests], "no token was asked for"
    secrets = ("alice-secret", b64encode(b"alice:alice-secret").decode())
    assert [s for record in bench.nobody.requests for s in secrets if s in record.text] == []
