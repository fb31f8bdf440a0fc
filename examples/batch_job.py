"""
A nightly job: its tokens before it starts, tokens that outlive its uploads, and a ledger of where
each one went.

Run it: python examples/batch_job.py
"""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta

import httpx

from resource_tokens import AuthorizationServer, ClientSecretBasic, ResourceTokenAuth
from resource_tokens.ledger import TokenUse, UseLedger
from resource_tokens.testing import LocalAuthorizationServer, LocalResourceServer

NAMES = ("billing", "inventory", "reports")
UPLOADS = 30


def main() -> int:
    records: list[TokenUse] = []
    with ExitStack() as servers:
        login = servers.enter_context(LocalAuthorizationServer(clients={"nightly": "secret"}))
        apis = {
            name: servers.enter_context(LocalResourceServer(login, audience=f"urn:example:{name}"))
            for name in NAMES
        }
        auth = ResourceTokenAuth(
            AuthorizationServer(issuer=login.issuer),
            ClientSecretBasic("nightly", "secret"),
            resources={api.url: f"urn:example:{name}" for name, api in apis.items()},
            ledger=UseLedger(records.append),
        )
        # Whatever cannot be had is known now, and not when half of the work is done.
        auth.prefetch()
        print(f"{len(login.token_requests)} tokens before the work begins")

        lasting = auth.with_min_ttl(timedelta(minutes=10))
        with httpx.Client(auth=lasting, trust_env=False) as client, ThreadPoolExecutor(8) as pool:

            def upload(number: int) -> int:
                url = f"{apis[NAMES[number % len(NAMES)]].url}v1/items/{number}"
                return client.put(url, content=b"...").status_code

            statuses = Counter(pool.map(upload, range(UPLOADS)))
        print(f"{UPLOADS} uploads in 8 threads: {dict(statuses)}")
        print(f"{len(login.token_requests)} token requests in all")

    print("\nWhich token went where:")
    went = Counter((use.token[:8], use.rule, use.decision) for use in records)
    for (token, rule, decision), count in sorted(went.items(), key=lambda item: item[0][1]):
        print(f"  {token}... {decision} {count} times at {rule}")
    tokens, places = {use.token for use in records}, {use.rule for use in records}
    print(f"{len(tokens)} tokens, {len(places)} places, {len(went)} pairs of the two")
    sound = len(tokens) == len(places) == len(went) == len(NAMES)
    return 0 if sound and statuses == {200: UPLOADS} else 1


if __name__ == "__main__":
    sys.exit(main())
