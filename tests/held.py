"""
What a test has had in its hands, and whether any of it shows a secret.
"""

from __future__ import annotations

import gc
import pickle
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import httpx
import httpx2

import resource_tokens
from resource_tokens.testing import LocalAuthorizationServer
from resource_tokens.tokens import Secret

__all__ = ["Held"]


class Held:
    """
    The objects of this library that can be reached from some values, by their own attributes.

    Args:
        values: Where to begin.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        self.secrets: set[str] = set()
        self._ours: list[Any] = []
        self._errors: list[BaseException] = []
        known: dict[int, Any] = {}
        todo = deque(values)
        while todo:
            value = todo.popleft()
            if id(value) not in known:
                # Kept, so that its number is nobody else's.
                known[id(value)] = value
                self._note(value)
                todo.extend(_reached(value))

    def shown(self) -> Iterator[str]:
        """
        All that they show of themselves.
        """
        for value in self._ours:
            yield f"{value!r} {value}"
            yield from _pickled(value)
        for error in self._errors:
            yield from _traceback_of(error)

    def _note(self, value: Any) -> None:
        if isinstance(value, LocalAuthorizationServer):
            self.secrets |= set(value.issued)
        elif isinstance(value, Secret) and len(value.reveal()) >= _LONG:
            self.secrets.add(value.reveal())
        if isinstance(value, BaseException):
            self._errors.append(value)
        if _is_ours(value):
            self._ours.append(value)


def _is_ours(value: Any) -> bool:
    module = str(type(value).__module__)
    return module.startswith("resource_tokens.") and not module.startswith(_SERVERS)


def _reached(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset | deque):
        return value
    if isinstance(value, MethodType):
        return [value.__self__]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, BaseExceptionGroup):
        return value.exceptions
    if isinstance(value, BaseException):
        return [value.__cause__, value.__context__]
    if isinstance(value, httpx.Response | httpx2.Response):
        return [value.extensions, value.history, value.request]
    if isinstance(value, httpx.Request | httpx2.Request):
        return [value.extensions]
    if isinstance(value, _CLIENTS):
        return [value.auth]
    if _is_ours(value) or str(type(value).__module__).startswith("tests."):
        return gc.get_referents(value)
    return ()


def _pickled(value: Any) -> Iterator[str]:
    try:
        yield pickle.dumps(value).decode("latin-1")
    except Exception:  # noqa: BLE001 - whatever keeps it from being pickled, it is not
        return


def _traceback_of(error: BaseException) -> Iterator[str]:
    """
    What reporters of errors show: the text, and the local variables. Those of tests are their own.
    """
    yield "".join(traceback.format_exception_only(error))
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.startswith(_PACKAGE):
            yield repr(frame.f_locals)


_LONG = 16
_PACKAGE = str(Path(resource_tokens.__file__).parent)
_SERVERS = ("resource_tokens.testing", "resource_tokens._local_http")
_CLIENTS = (httpx.Client, httpx.AsyncClient, httpx2.Client, httpx2.AsyncClient)
