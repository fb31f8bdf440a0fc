"""
azure-core: a pipeline whose bearer token policy asks a credential.

The policies are those of every Azure client that touch a token. The credential, which in an Azure
program comes from azure-identity, asks the server of the benchmark and keeps nothing: the policy
is the cache that is measured.
"""

from __future__ import annotations

import time
from typing import Any

import aiohttp
import requests
from azure.core import AsyncPipelineClient, PipelineClient
from azure.core.credentials import AccessTokenInfo
from azure.core.pipeline.policies import (
    AsyncBearerTokenCredentialPolicy,
    AsyncRedirectPolicy,
    BearerTokenCredentialPolicy,
    HeadersPolicy,
    RedirectPolicy,
    SensitiveHeaderCleanupPolicy,
)
from azure.core.pipeline.transport import AioHttpTransport, RequestsTransport
from azure.core.rest import HttpRequest
from requests.adapters import HTTPAdapter

from benchmarks.peers import CONNECTIONS, STATIC, ByURL, Peer, Setting, ask, basic, leeway

__all__ = ["PEERS"]


class Credential:
    def __init__(self, setting: Setting, resource: str) -> None:
        self._url = setting.token_endpoint
        self._headers = {"Authorization": basic(setting)}
        self._form = {"grant_type": "client_credentials", "resource": resource}

    def get_token_info(self, *scopes: str, options: Any = None) -> AccessTokenInfo:
        del scopes, options
        answer = requests.post(self._url, self._form, headers=self._headers, timeout=60)
        return _token_info(answer.json())


class AsyncCredential(Credential):
    async def get_token_info(  # type: ignore[override]
        self, *scopes: str, options: Any = None
    ) -> AccessTokenInfo:
        del scopes, options
        async with (
            aiohttp.ClientSession() as session,
            session.post(self._url, data=self._form, headers=self._headers) as answer,
        ):
            return _token_info(await answer.json())


def _token_info(issued: Any) -> AccessTokenInfo:
    return AccessTokenInfo(issued["access_token"], int(time.time()) + issued["expires_in"])


class _Pipeline:
    """
    A pipeline with `get(url)`. Unasked, it sends no token by http, not even on loopback.
    """

    def __init__(self, client: Any, options: dict[str, Any]) -> None:
        self._client = client
        self._options = options
        self.close = self.aclose = client.close

    def get(self, url: str) -> Any:
        return self._client.send_request(HttpRequest("GET", url), **self._options)


class _PunctualPolicy(BearerTokenCredentialPolicy[Any, Any]):
    """
    It refreshes 240 to 300 s before the end, drawn for each token; here always 300.
    """

    def _request_token(self, *scopes: str, **kwargs: Any) -> None:
        super()._request_token(*scopes, **kwargs)
        self._refresh_jitter = 0


class _AsyncPunctualPolicy(AsyncBearerTokenCredentialPolicy[Any, Any]):
    async def _request_token(self, *scopes: str, **kwargs: Any) -> None:
        await super()._request_token(*scopes, **kwargs)
        self._refresh_jitter = 0


def _transport() -> RequestsTransport:
    session = requests.Session()
    session.mount("http://", HTTPAdapter(CONNECTIONS, CONNECTIONS))
    return RequestsTransport(session=session)


def _blocking(resource: str, policy: Any, transport: Any) -> Any:
    policies = [RedirectPolicy(), policy, SensitiveHeaderCleanupPolicy()]
    return PipelineClient(resource, policies=policies, transport=transport)


def _asynchronous(resource: str, policy: Any, transport: Any) -> Any:
    policies = [AsyncRedirectPolicy(), policy, SensitiveHeaderCleanupPolicy()]
    return AsyncPipelineClient(resource, policies=policies, transport=transport)


def _made_by(client: Any, transport: Any, policy: Any, **options: Any) -> Any:
    def make(setting: Setting) -> Any:
        shared = transport()
        pipelines = {
            resource: _Pipeline(client(resource, policy(setting, resource), shared), options)
            for resource in setting.resources
        }
        if len(pipelines) == 1:
            return pipelines[setting.resources[0]]
        return ByURL({url: pipeline.get for url, pipeline in pipelines.items()}, shared.close)

    return make


def _static(setting: Setting, resource: str) -> Any:
    return HeadersPolicy({"Authorization": f"Bearer {ask(setting, resource)}"})


def _bearer(setting: Setting, resource: str) -> Any:
    policy: Any = _PunctualPolicy if setting.punctual else BearerTokenCredentialPolicy
    return policy(Credential(setting, resource), f"{resource}/.default")


def _async_bearer(setting: Setting, resource: str) -> Any:
    policy: Any = _AsyncPunctualPolicy if setting.punctual else AsyncBearerTokenCredentialPolicy
    return policy(AsyncCredential(setting, resource), f"{resource}/.default")


_BY_HTTP = {"enforce_https": False}

PEERS = (
    Peer(
        name=STATIC,
        stack="azure-core",
        imports="import requests; from azure.core import PipelineClient",
        blocking=_made_by(_blocking, _transport, _static),
        asynchronous=_made_by(_asynchronous, AioHttpTransport, _static),
        distribution="azure-core",
    ),
    Peer(
        name="azure-core",
        stack="azure-core",
        imports=(
            "import requests; from azure.core import PipelineClient; "
            "from azure.core.pipeline.policies import BearerTokenCredentialPolicy"
        ),
        blocking=_made_by(_blocking, _transport, _bearer, **_BY_HTTP),
        asynchronous=_made_by(_asynchronous, AioHttpTransport, _async_bearer, **_BY_HTTP),
        lifetime=leeway(300),
        distribution="azure-core",
    ),
)
