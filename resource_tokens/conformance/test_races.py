"""
Races: many who miss together, and two who share a process.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from resource_tokens.conformance.bench import Bench, Candidate

CROWD = 20


def test_a_stampede_is_one_token_request(candidate: Candidate, bench: Bench) -> None:
    """
    Twenty who need the same token at once cause one token request.
    """
    bench.authorization_server.delay = timedelta(milliseconds=50)
    clients = candidate.client()
    outcomes = candidate.together([(clients, bench.billing, f"{bench.billing}v1")] * CROWD)

    assert outcomes == [200] * CROWD
    assert len(bench.authorization_server.token_requests) == 1


def test_a_stampede_for_two_apis(candidate: Candidate, bench: Bench) -> None:
    """
    Twenty who need the tokens of two APIs at once all show the right one.
    """
    clients = candidate.client()
    wanted = [(clients, url, f"{url}v1") for url in (bench.billing, bench.orders)] * (CROWD // 2)
    outcomes = candidate.together(wanted)

    assert outcomes == [200] * CROWD
    bench.ledger.assert_no_leaks()


def test_two_users_race(candidate: Candidate, bench: Bench) -> None:
    """
    Two clients in one process, racing for the same API, show tokens of their own.
    """
    alice = candidate.client(client_id="alice", client_secret="alice-secret")  # noqa: S106
    bob = candidate.client(client_id="bob", client_secret="bob-secret")  # noqa: S106
    wanted = [
        (clients, bench.billing, f"{bench.billing}{name}")
        for clients, name in ((alice, "alice"), (bob, "bob"))
    ]
    outcomes = candidate.together(wanted * (CROWD // 2))

    assert outcomes == [200] * CROWD
    for name in ("alice", "bob"):
        shown = [claims["client_id"] for claims in bench.arrived(f"/billing/{name}") if claims]
        assert set(shown) == {name}


def test_a_wrong_secret_gets_no_token_of_the_right_one(
    candidate: Candidate, bench: Bench, warm: Any
) -> None:
    """
    Who knows the client's name and not its secret shows no token that was asked for with it.
    """
    impostor = candidate.client(client_id="alice", client_secret="guessed")  # noqa: S106
    outcome = candidate.get(impostor, bench.billing, f"{bench.billing}impostor")

    assert outcome != 200
    assert [claims for claims in bench.arrived("/billing/impostor") if claims] == []


def test_a_revoked_token_is_replaced(candidate: Candidate, bench: Bench, warm: Any) -> None:
    """
    When the API refuses a token that was revoked, the caller gets an answer all the same.
    """
    bench.authorization_server.revoke(bench.authorization_server.issued[-1])

    assert candidate.get(warm, bench.billing, f"{bench.billing}v2") == 200


def test_twenty_who_hold_a_revoked_token(candidate: Candidate, bench: Bench, warm: Any) -> None:
    """
    Twenty who show the same revoked token at once cause one token request.
    """
    bench.authorization_server.delay = timedelta(milliseconds=50)
    bench.authorization_server.revoke(bench.authorization_server.issued[-1])
    before = len(bench.authorization_server.token_requests)
    outcomes = candidate.together([(warm, bench.billing, f"{bench.billing}v2")] * CROWD)

    assert outcomes == [200] * CROWD
    assert len(bench.authorization_server.token_requests) - before == 1
