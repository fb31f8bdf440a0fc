"""
This library: an auth class for httpx and httpx2, with the tokens of all resources.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import httpx2

from benchmarks.peers import Peer, Setting, once, opened
from resource_tokens import AuthorizationServer, ClientSecretBasic, ResourceTokenAuth, TokenCache
from resource_tokens.stores import MemoryTokenStore
from resource_tokens.tokens import Secret

__all__ = ["PEERS"]


@once
def _auth(setting: Setting) -> ResourceTokenAuth:
    memory = MemoryTokenStore(max(1024, len(setting.resources)))
    auth = ResourceTokenAuth(
        AuthorizationServer(token_endpoint=setting.token_endpoint),
        ClientSecretBasic(setting.client_id, setting.client_secret),
        setting.resources,
        store=memory,
    )
    if setting.tokens:
        _fill(memory, auth.cache, setting.tokens)
    return auth


def _fill(memory: MemoryTokenStore, cache: TokenCache, tokens: Sequence[str]) -> None:
    """
    Put the tokens where real ones would be, which are all like the first.
    """
    resources = [resource for _, resource in cache.resources]
    cache.get(resources[0])
    issued = memory.load(cache._request_for(resources[0]).key)
    assert issued is not None
    for resource, value in zip(resources, tokens, strict=True):
        token = replace(issued.token, _value=Secret(value), resource=resource.identifier)
        memory.save(cache._request_for(resource).key, replace(issued, token=token))


def _made_by(client: Any) -> Any:
    return lambda setting: opened(client, setting, auth=_auth(setting))


PEERS = tuple(
    Peer(
        name="resource_tokens",
        stack=library.__name__,
        imports="import resource_tokens",
        blocking=_made_by(library.Client),
        asynchronous=_made_by(library.AsyncClient),
        # It refreshes ahead when 25 to 30 % of the life are left, drawn for each token.
        lifetime=lambda after: math.ceil(after / 0.7),
        several=True,
        distribution="resource_tokens",
    )
    for library in (httpx, httpx2)
)
