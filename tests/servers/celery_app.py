"""
A Celery app whose tasks call an API. Its broker is the store's server, in a database of its own.
"""

from __future__ import annotations

from typing import Any

from celery import Celery

from tests.servers.fleet import called, placed

__all__ = ["app", "call"]

_URL = placed().redis_url.removesuffix("/0")
app = Celery("fleet", broker=f"{_URL}/1", backend=f"{_URL}/2")


@app.task(name="call")  # type: ignore[untyped-decorator]  # it has no types
def call(path: str) -> dict[str, Any]:
    """
    Which process did it, and what the API said to the token.
    """
    return called(path)
