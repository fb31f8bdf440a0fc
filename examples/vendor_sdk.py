"""
A vendor's SDK that is built on httpx2, given a client of ours: here the one of OpenAI, against a
gateway in front of two models.

An SDK sets a header of its own from an API key. Where it goes to a mapped destination the plugin
replaces it, so any placeholder will do; it never reaches the gateway.

Run it: python examples/vendor_sdk.py          (needs the packages `openai` and `httpx2`)
"""

from __future__ import annotations

import json
import sys

import httpx2
from openai import OpenAI

from resource_tokens import AuthorizationServer, ClientSecretBasic, ResourceTokenAuth
from resource_tokens.testing import LocalAuthorizationServer, LocalResourceServer

PLACEHOLDER = "an API key that nobody has"


def main() -> int:
    names = {"small": "urn:example:model:small", "large": "urn:example:model:large"}
    with (
        LocalAuthorizationServer(clients={"assistant": "secret"}) as login,
        LocalResourceServer(
            login, audiences={f"/{name}": resource for name, resource in names.items()}
        ) as gateway,
    ):
        auth = ResourceTokenAuth(
            AuthorizationServer(issuer=login.issuer),
            ClientSecretBasic("assistant", "secret"),
            resources={f"{gateway.url}{name}/": resource for name, resource in names.items()},
        )
        for name in names:
            listed = {"object": "list", "data": [{"id": name, "object": "model"}]}
            headers = {"Content-Type": "application/json"}
            gateway.respond(f"/{name}/v1/models", headers=headers, body=json.dumps(listed).encode())
        with httpx2.Client(auth=auth, trust_env=False) as http:
            for name in names:
                url = f"{gateway.url}{name}/v1"
                vendor = OpenAI(api_key=PLACEHOLDER, base_url=url, http_client=http)
                print(f"{url} has {[model.id for model in vendor.models.list()]}")
                # Whatever else is asked for, the gateway answers whom the token is for.
                checked = vendor.models.retrieve("any").to_dict()
                print(f"{url} was shown a token for {checked['audience']}")
        arrived = [dict(record.headers)["Authorization"] for record in gateway.requests]
        audiences = [
            (login.claims(header.removeprefix("Bearer ")) or {}).get("aud") for header in arrived
        ]
    print(f"the placeholder arrived: {PLACEHOLDER in ' '.join(arrived)}")
    expected = [resource for resource in names.values() for _ in range(2)]
    return 0 if audiences == expected else 1


if __name__ == "__main__":
    sys.exit(main())
