"""
httpx and httpx2: which of the two is installed.

httpx2 continues httpx with the same API, and each refuses the other's `Auth` classes.
A program may use both at once, so the plugin is built for both; only this module counts them.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = ["LIBRARIES", "http"]


def _installed() -> tuple[ModuleType, ...]:
    found = [
        importlib.import_module(name)
        for name in ("httpx", "httpx2")
        if importlib.util.find_spec(name) is not None
    ]
    if not found:
        raise ImportError("resource_tokens needs httpx or httpx2: run `pip install httpx`.")
    # After `httpx2.alias_httpx()` both names are one module.
    return tuple(dict.fromkeys(found))


LIBRARIES = _installed()

if TYPE_CHECKING:
    import httpx as http
else:
    http = LIBRARIES[0]
