"""
gRPC: the token of a service in the metadata of each call.

gRPC is not httpx, so that no guard looks at its hops; it follows no redirects either. The token is
asked for by the URL of the very call, and a service that is not on the list gets none.

Run it: python examples/grpc_metadata.py          (needs the package `grpcio`)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import jwt

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    ResourceTokenAuth,
    ResourceTokensError,
)
from resource_tokens.testing import LocalAuthorizationServer

STOCK, PRICES = "urn:example:stock", "urn:example:prices"


class TokenMetadata(grpc.AuthMetadataPlugin):
    """
    Asks for the token of a service before each call. A token at hand costs no request.

    Args:
        origin: Where the services are reached, as `auth` knows it.
    """

    def __init__(self, auth: ResourceTokenAuth, origin: str) -> None:
        self._auth = auth
        self._origin = origin

    def __call__(self, context: Any, callback: Callable[..., None]) -> None:
        # `service_url` names the service: https://host/stock.Stock
        service = context.service_url.rpartition("/")[2]
        try:
            token = self._auth.token_for(f"{self._origin}/{service}/{context.method_name}")
        except ResourceTokensError as error:
            # The call fails, and goes nowhere.
            callback((), error)
        else:
            callback((("authorization", token.authorization),), None)


class Verifying(grpc.GenericRpcHandler):
    """
    The services' side: each wants a token that was issued for it.
    """

    def __init__(self, login: LocalAuthorizationServer, audiences: dict[str, str]) -> None:
        self._login = login
        self._audiences = audiences

    def service(self, details: Any) -> Any:
        metadata = dict(details.invocation_metadata)
        audience = self._audiences.get(details.method.split("/")[1], "")

        def answer(request: bytes, context: Any) -> bytes:
            token = metadata.get("authorization", "").removeprefix("Bearer ")
            try:
                claims = self._login.verify(token, audience=audience)
            except jwt.InvalidTokenError as error:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            return f"{request.decode()} for {claims['client_id']} at {audience}".encode()

        return grpc.unary_unary_rpc_method_handler(answer)


def main() -> int:
    audiences = {"stock.Stock": STOCK, "prices.Prices": PRICES}
    with LocalAuthorizationServer(clients={"orders-worker": "secret"}) as login:
        server = grpc.server(ThreadPoolExecutor(4), handlers=[Verifying(login, audiences)])
        port = server.add_secure_port("127.0.0.1:0", grpc.local_server_credentials())
        server.start()
        origin = f"http://127.0.0.1:{port}"
        auth = ResourceTokenAuth(
            AuthorizationServer(issuer=login.issuer),
            ClientSecretBasic("orders-worker", "secret"),
            resources={f"{origin}/{service}/": to for service, to in audiences.items()},
        )
        credentials = grpc.composite_channel_credentials(
            grpc.local_channel_credentials(),
            grpc.metadata_call_credentials(TokenMetadata(auth, origin)),
        )
        answers = []
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            for method in ("stock.Stock/Count", "prices.Prices/List", "secrets.Secrets/Read"):
                call: Any = channel.unary_unary(f"/{method}")
                try:
                    answers.append(call(method.encode()).decode())
                except grpc.RpcError as error:
                    answers.append(f"{method} got no token: {error.code().name}")
        server.stop(None).wait()
    print("\n".join(answers))
    print(f"token requests: {len(login.token_requests)}")
    return 0 if [answer.rpartition(" ")[2] for answer in answers[:2]] == [STOCK, PRICES] else 1


if __name__ == "__main__":
    sys.exit(main())
