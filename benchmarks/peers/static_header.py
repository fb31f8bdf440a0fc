"""
A header set once: the least that sends a token, and what all others are held to.

Those of requests and of azure-core are with the libraries that send by these.
"""

from __future__ import annotations

from typing import Any

import httpx
import httpx2

from benchmarks.peers import STATIC, Peer, Setting, ask, opened

__all__ = ["PEERS"]


def _made_by(client: Any) -> Any:
    def make(setting: Setting) -> Any:
        token = setting.tokens[0] if setting.tokens else ask(setting, setting.resources[0])
        return opened(client, setting, headers={"Authorization": f"Bearer {token}"})

    return make


PEERS = tuple(
    Peer(
        name=STATIC,
        stack=library.__name__,
        imports=f"import {library.__name__}",
        blocking=_made_by(library.Client),
        asynchronous=_made_by(library.AsyncClient),
        several=True,
        distribution=library.__name__,
    )
    for library in (httpx, httpx2)
)
