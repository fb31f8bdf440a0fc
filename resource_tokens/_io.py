"""
What a decision may ask for: send a request, wait for somebody else's flight. Blocking and async.

Both colours have the same `async` methods. Those of `BlockingIO` never suspend, so a coroutine
that awaits nothing else can be run to its end without an event loop: `run_to_end`.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Hashable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cachetools import LRUCache

from resource_tokens._httpx import http
from resource_tokens._locks import SafeLock
from resource_tokens._single_flight import Waiter
from resource_tokens.oauth.messages import HTTPAnswer, HTTPRequest
from resource_tokens.oauth.metadata import AuthorizationServer

__all__ = ["IO", "AsyncIO", "BlockingIO", "SendError", "run_to_end"]

T = TypeVar("T")


class SendError(Exception):
    """
    A request to an authorization server that got no whole answer. Its text is safe to show.

    Attributes:
        sent: Whether the request may have reached the server.
        passing: Whether another try may go better.
    """

    def __init__(self, text: str, *, sent: bool = True, passing: bool = True) -> None:
        super().__init__(text)
        self.sent = sent
        self.passing = passing


class IO(Waiter, Protocol):
    """
    The two colours' common face: to wait, and to send.
    """

    async def send(
        self, request: HTTPRequest, server: AuthorizationServer, limit: float
    ) -> HTTPAnswer:
        """
        Send one request and read its whole answer within `limit` seconds, without redirects.

        Raises:
            SendError: If there was no whole answer in time, or too much of it.
        """
        ...

    async def sleep(self, seconds: float) -> None:
        """
        Wait before another try.
        """


def run_to_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """
    Run a coroutine that never suspends.

    Raises:
        RuntimeError: If it did suspend, which a blocking caller could not wait for.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # the coroutine's own return type
    coroutine.close()
    raise RuntimeError("A step of a blocking call waited for an event loop.")


class BlockingIO:
    """
    For threads.
    """

    blocking = True

    def __init__(self) -> None:
        self._tls = _TLSContexts()

    async def send(
        self, request: HTTPRequest, server: AuthorizationServer, limit: float
    ) -> HTTPAnswer:
        deadline = _Deadline(limit)
        try:
            with (
                deadline,
                http.Client(**self._tls.options(server, request, limit)) as client,
                client.stream(**_arguments(request), extensions={"trace": deadline}) as response,
            ):
                body = _Body(response)
                for chunk in response.iter_raw():
                    body.add(chunk)
                    if body.too_large:
                        raise _too_large()
                return body.answer()
        except _FAILURES as error:
            failure = _send_error(error)
        if deadline.passed():
            failure = _too_late(limit)
        raise failure

    async def sleep(self, seconds: float) -> None:
        # For threads: no event loop waits here.
        time.sleep(seconds)  # noqa: ASYNC251

    async def wait(self, future: Future[Any], limit: float) -> None:
        with suppress(CancelledError, TimeoutError):
            future.exception(limit)


class AsyncIO:
    """
    For asyncio and trio.
    """

    blocking = False

    def __init__(self) -> None:
        self._tls = _TLSContexts()

    async def send(
        self, request: HTTPRequest, server: AuthorizationServer, limit: float
    ) -> HTTPAnswer:
        # Local: httpx itself imports anyio only when it is first used.
        import anyio

        failure = _too_late(limit)
        with anyio.move_on_after(limit) as scope:
            try:
                async with (
                    http.AsyncClient(**self._tls.options(server, request, limit)) as client,
                    client.stream(**_arguments(request)) as response,
                ):
                    body = _Body(response)
                    async for chunk in response.aiter_raw():
                        body.add(chunk)
                        if body.too_large:
                            # Not left by raising here: that would leave httpx's own generators
                            # unfinished, which trio reports.
                            scope.cancel()
                            failure = _too_large()
                    if not body.too_large:
                        return body.answer()
            except _FAILURES as error:
                failure = _send_error(error)
        raise failure

    async def sleep(self, seconds: float) -> None:
        import anyio

        await anyio.sleep(seconds)

    async def wait(self, future: Future[Any], limit: float) -> None:
        import anyio

        done = anyio.Event()
        call_soon = _call_soon_threadsafe()

        def wake(_: Future[Any]) -> None:
            # The loop that waited may be gone by the time the leader is done.
            with suppress(RuntimeError):
                call_soon(done.set)

        future.add_done_callback(wake)
        with anyio.move_on_after(limit):
            await done.wait()


def _call_soon_threadsafe() -> Callable[[Callable[[], object]], object]:
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        run_sync_soon: Callable[[Callable[[], object]], object] = (
            trio.lowlevel.current_trio_token().run_sync_soon
        )
        return run_sync_soon
    import asyncio

    return asyncio.get_running_loop().call_soon_threadsafe


class _TLSContexts:
    """
    Client options, with one TLS context per server and client certificate: loading certificates
    takes milliseconds.
    """

    def __init__(self) -> None:
        self._contexts: LRUCache[Hashable, ssl.SSLContext] = LRUCache(64)  # guarded by _lock
        self._lock = SafeLock()

    def options(
        self, server: AuthorizationServer, request: HTTPRequest, limit: float
    ) -> dict[str, Any]:
        certificate = request.certificate
        # A certificate that was replaced is another one, under the same name.
        changed = [Path(file).stat().st_mtime_ns for file in certificate or ()]
        key = (server, certificate, *changed)
        with self._lock:
            context = self._contexts.get(key)
        if context is None:
            context = _tls_context(server)
            if certificate is not None:
                if context is server.verify:
                    raise SendError(_OWN_CONTEXT, sent=False, passing=False)
                context.load_cert_chain(certificate.certificate, certificate.key)
            with self._lock:
                self._contexts[key] = context
        return {
            "verify": context,
            "proxy": server.proxy,
            "timeout": limit,
            "trust_env": server.trust_env,
            "follow_redirects": False,
        }


def _tls_context(server: AuthorizationServer) -> ssl.SSLContext:
    if isinstance(server.verify, ssl.SSLContext):
        return server.verify
    if isinstance(server.verify, str):
        return ssl.create_default_context(cafile=server.verify)
    return http.create_ssl_context(verify=server.verify, trust_env=server.trust_env)


def _arguments(request: HTTPRequest) -> dict[str, Any]:
    # A compressed answer could unpack to any size.
    headers = {**request.headers, "Accept-Encoding": "identity"}
    return {
        "method": request.method,
        "url": request.url,
        "headers": headers,
        "content": request.body or None,
    }


class _Body:
    """
    The body of an answer, up to a size that no honest answer reaches.
    """

    def __init__(self, response: Any) -> None:
        self._response = response
        self._body = bytearray()

    def add(self, chunk: bytes) -> None:
        self._body += chunk

    @property
    def too_large(self) -> bool:
        return len(self._body) > _MAX_BODY

    def answer(self) -> HTTPAnswer:
        headers = {name.lower(): value for name, value in self._response.headers.items()}
        return HTTPAnswer(self._response.status_code, headers, bytes(self._body))


class _Deadline:
    """
    A limit on a blocking request as a whole.

    httpx limits each read; a server that sends a byte now and then keeps such a request alive for
    hours. The sockets of the request, made known by httpcore's `trace`, are shut down from
    another thread when the time is up.
    """

    def __init__(self, limit: float) -> None:
        self._ends_at = time.monotonic() + limit
        self._timer = threading.Timer(limit, self._shut_down)
        self._timer.daemon = True
        self._stream: Any = None

    def __call__(self, name: str, info: dict[str, Any]) -> None:
        stream = info.get("return_value")
        if hasattr(stream, "get_extra_info"):
            self._stream = stream
        if self.passed():
            raise SendError(f"{name} came too late")

    def passed(self) -> bool:
        return time.monotonic() >= self._ends_at

    def _shut_down(self) -> None:
        connection = None if self._stream is None else self._stream.get_extra_info("socket")
        if connection is not None:
            # Not SSLSocket.shutdown, which takes the TLS state away from under the reader.
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *exc_info: object) -> None:
        self._timer.cancel()


def _send_error(error: Exception) -> SendError:
    # A new one, not chained: the error itself holds the request, and with it the credentials.
    if isinstance(error, SendError):
        return SendError(str(error), sent=error.sent, passing=error.passing)
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    # What trio or a TLS library said is further down.
    told = next((cause for cause in causes if str(cause)), error)
    return SendError(
        f"{type(told).__name__}: {told}",
        sent=not isinstance(error, _NEVER_SENT),
        passing=not any(isinstance(cause, _FINAL) for cause in causes),
    )


def _too_late(limit: float) -> SendError:
    return SendError(f"no whole answer within {limit:.3g} s")


def _too_large() -> SendError:
    return SendError(f"the answer is larger than {_MAX_BODY // 1024} KiB", passing=False)


_MAX_BODY = 64 * 1024
_TOO_LARGE = f"the answer is larger than {_MAX_BODY // 1024} KiB"
_OWN_CONTEXT = (
    "an SSLContext in verify= is not given a client certificate, since others may use it: load "
    "the certificate into it, or give verify= the path of a CA bundle"
)
_NEVER_SENT = (http.ConnectError, http.ConnectTimeout, http.ProxyError)
# What is wrong with the configuration is wrong the next time as well.
_FINAL = (ssl.SSLCertVerificationError, http.InvalidURL, http.UnsupportedProtocol, ValueError)
_FAILURES = (http.HTTPError, http.InvalidURL, http.StreamError, OSError, ValueError, SendError)
