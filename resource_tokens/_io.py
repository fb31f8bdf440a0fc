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
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from pathlib import Path
from types import new_class
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cachetools import LRUCache

from resource_tokens._addresses import reach_of
from resource_tokens._httpx import LIBRARIES, http
from resource_tokens._locks import SafeLock
from resource_tokens._single_flight import Waiter
from resource_tokens.oauth.messages import ClientCertificate, HTTPAnswer, HTTPRequest
from resource_tokens.oauth.metadata import AuthorizationServer, headers_for

__all__ = ["IO", "AsyncIO", "BlockingIO", "SendError", "run_to_end"]

T = TypeVar("T")

if TYPE_CHECKING:
    _AsyncByteStream = http.AsyncByteStream
else:
    # Each library takes only streams of its own.
    _AsyncByteStream = new_class(
        "_AsyncByteStream", tuple(library.AsyncByteStream for library in LIBRARIES)
    )


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

    async def run(self, work: Callable[[], T], limit: float, *, shielded: bool = False) -> T:
        """
        Run a function that blocks.

        Args:
            work: What to run. It is in a thread of its own, and left behind if it takes longer.
            limit: Seconds to wait for it, at most.
            shielded: Whether it is run even if the caller has been cancelled.

        Raises:
            TimeoutError: If it takes too long.
        """
        ...


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
        self._clients = _Clients()

    async def send(
        self, request: HTTPRequest, server: AuthorizationServer, limit: float
    ) -> HTTPAnswer:
        peer = _Peer(request, server)
        deadline = _Deadline(limit, peer)
        try:
            with (
                deadline,
                self._clients.client(server, request, limit, blocking=True) as client,
                client.stream(**_arguments(request, server, deadline)) as response,
            ):
                body = _Body(response, peer)
                for chunk in () if body.whole else response.iter_raw():
                    body.add(chunk)
                    if body.too_large:
                        raise _too_large()
                return body.answer()
        except _FAILURES as error:
            failure = _send_error(error)
        finally:
            peer.close()
        if deadline.passed():
            failure = _too_late(limit)
        raise failure

    async def sleep(self, seconds: float) -> None:
        # For threads: no event loop waits here.
        time.sleep(seconds)  # noqa: ASYNC251

    async def run(self, work: Callable[[], T], limit: float, *, shielded: bool = False) -> T:  # noqa: ARG002
        done: Future[T] = Future()

        def work_apart() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                done.set_exception(error)

        threading.Thread(target=work_apart, name="resource_tokens store", daemon=True).start()
        return done.result(limit)

    async def wait(self, future: Future[Any], limit: float) -> None:
        with suppress(CancelledError, TimeoutError):
            future.exception(limit)


class AsyncIO:
    """
    For asyncio and trio.
    """

    blocking = False

    def __init__(self) -> None:
        self._clients = _Clients()
        # One for each event loop.
        self._limiters: Any = None

    async def send(
        self, request: HTTPRequest, server: AuthorizationServer, limit: float
    ) -> HTTPAnswer:
        # Local: httpx itself imports anyio only when it is first used.
        import anyio

        failure, peer = _too_late(limit), _Peer(request, server)
        with anyio.move_on_after(limit) as scope:
            try:
                async with (
                    self._clients.client(server, request, limit, blocking=False) as client,
                    client.stream(**_arguments(request, server, peer.aconnected)) as response,
                ):
                    body = _Body(response, peer)
                    async for chunk in _nothing() if body.whole else response.aiter_raw():
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
            finally:
                with anyio.CancelScope(shield=True):
                    await peer.aclose()
        raise failure

    async def sleep(self, seconds: float) -> None:
        import anyio

        await anyio.sleep(seconds)

    async def run(self, work: Callable[[], T], limit: float, *, shielded: bool = False) -> T:
        import anyio.to_thread

        with anyio.fail_after(limit, shield=shielded):
            return await anyio.to_thread.run_sync(
                work, abandon_on_cancel=True, limiter=self._limiter()
            )

    def _limiter(self) -> Any:
        """
        What limits the threads for stores. The program's own have another limit, so that a store
        that hangs takes none of them away.
        """
        import anyio.lowlevel

        if self._limiters is None:
            self._limiters = anyio.lowlevel.RunVar("resource_tokens store threads")
        try:
            return self._limiters.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(_STORE_THREADS)
            self._limiters.set(limiter)
            return limiter

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
    # Half imported by another thread it has no such name, and runs nothing here.
    lowlevel = sys.modules.get("trio.lowlevel")
    if getattr(lowlevel, "in_trio_run", bool)():
        run_sync_soon: Callable[[Callable[[], object]], object] = (
            lowlevel.current_trio_token().run_sync_soon  # type: ignore[union-attr]
        )
        return run_sync_soon
    import asyncio

    return asyncio.get_running_loop().call_soon_threadsafe


class _Clients:
    """
    A client for each request, with one TLS context per server and client certificate: loading
    certificates takes milliseconds.
    """

    def __init__(self) -> None:
        self._contexts: LRUCache[Hashable, ssl.SSLContext] = LRUCache(64)  # guarded by _lock
        self._lock = SafeLock()

    def client(
        self, server: AuthorizationServer, request: HTTPRequest, limit: float, *, blocking: bool
    ) -> Any:
        """
        A client of the colour asked for.
        """
        context = self._context(server, request.certificate)
        library: Any = http
        transport: Any = None
        if server.uds is not None:
            kind: Any = http.HTTPTransport if blocking else http.AsyncHTTPTransport
            transport = kind(uds=server.uds, verify=context, trust_env=server.trust_env)
        elif server.transport is not None:
            library = next(lib for lib in LIBRARIES if isinstance(server.transport, _bases(lib)))
            transport = _Borrowed(server.transport, "handle_request" if blocking else _ASYNC)
        make = library.Client if blocking else library.AsyncClient
        return make(
            event_hooks={} if blocking else {"request": [_in_one_piece]},
            verify=context,
            proxy=server.proxy,
            transport=transport,
            timeout=limit,
            trust_env=server.trust_env,
            follow_redirects=False,
        )

    def _context(
        self, server: AuthorizationServer, certificate: ClientCertificate | None
    ) -> ssl.SSLContext:
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
                # Without a password OpenSSL would ask for one on the terminal.
                context.load_cert_chain(certificate.certificate, certificate.key, password="")
            with self._lock:
                self._contexts[key] = context
        return context


class _Borrowed:
    """
    A transport of the user, which no client of ours closes.
    """

    def __init__(self, transport: Any, method: str) -> None:
        if not hasattr(transport, method):
            raise SendError(
                f"the transport {type(transport).__name__} has no {method}, and so cannot be used "
                f"in {'async' if method == _ASYNC else 'blocking'} calls or refreshes ahead",
                sent=False,
                passing=False,
            )
        setattr(self, method, getattr(transport, method))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        pass

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *exc_info: object) -> None:
        pass


def _bases(library: Any) -> tuple[type, type]:
    return library.BaseTransport, library.AsyncBaseTransport


class _Peer:
    """
    What a request is connected to, from httpcore's `trace`: the address that was connected to,
    whatever a name led to before or leads to later.

    Attributes:
        stream: The connection, as far as it has come.
    """

    def __init__(self, request: HTTPRequest, server: AuthorizationServer) -> None:
        self.address = ""
        self.stream: Any = None
        # A transport of the user's own keeps its connections, and shares them.
        self._ours = server.transport is None
        self._request = request
        self._direct = False

    def connected(self, name: str, info: dict[str, Any]) -> None:
        """
        What httpcore calls at each step of a request.

        Raises:
            SendError: If the address is too near. Nothing was sent by then.
        """
        stream = info.get("return_value")
        if hasattr(stream, "get_extra_info"):
            self.stream = stream
        self._look(name, info)

    async def aconnected(self, name: str, info: dict[str, Any]) -> None:
        """
        The same for an async request.
        """
        self.connected(name, info)

    def close(self) -> None:
        """
        Close the connection, which httpcore does not do where a trace raises.
        """
        if self._ours and self.stream is not None:
            self.stream.close()

    async def aclose(self) -> None:
        """
        The same for an async request; nor does httpcore close what is cancelled in its handshake.
        """
        if self._ours and self.stream is not None:
            await self.stream.aclose()

    def _look(self, name: str, info: dict[str, Any]) -> None:
        if name == "connection.connect_tcp.started":
            url = http.URL(self._request.url)
            port = url.port or {"https": 443, "http": 80}[url.scheme]
            # Or else it is a proxy, which connects in our place.
            self._direct = (info["host"], info["port"]) == (url.raw_host.decode("ascii"), port)
        if name != "connection.connect_tcp.complete" or not self._direct:
            return
        connected_to = None
        with suppress(OSError):
            connected_to = info["return_value"].get_extra_info("server_addr")
        if connected_to is None:
            raise SendError("the connection ended as soon as it was made", sent=False)
        self.address = connected_to[0]
        if reach_of(self.address) <= self._request.reach:
            return
        raise SendError(
            f"its host is at {self.address}, which is nearer to this machine than the document "
            "that named it; configure the endpoint itself if that is right",
            sent=False,
            passing=False,
        )


def _tls_context(server: AuthorizationServer) -> ssl.SSLContext:
    if isinstance(server.verify, ssl.SSLContext):
        return server.verify
    if isinstance(server.verify, str):
        return ssl.create_default_context(cafile=server.verify)
    return http.create_ssl_context(verify=server.verify, trust_env=server.trust_env)


def _arguments(
    request: HTTPRequest, server: AuthorizationServer, trace: Callable[..., Any]
) -> dict[str, Any]:
    more = {name: value.reveal() for name, value in headers_for(server)}
    # A compressed answer could unpack to any size.
    headers = {**more, **request.headers, "Accept-Encoding": "identity"}
    return {
        "method": request.method,
        "url": request.url,
        "headers": headers,
        "content": request.body or None,
        "extensions": {"trace": trace},
    }


class _InOnePiece(_AsyncByteStream):
    """
    The body of a request without httpx's generator, which trio reports as unfinished when the
    connection breaks.
    """

    def __init__(self, body: bytes) -> None:
        self._left = [body]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


async def _in_one_piece(request: Any) -> None:
    request.stream = _InOnePiece(request.content)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


class _Body:
    """
    The body of an answer, up to a size that no honest answer reaches.
    """

    def __init__(self, response: Any, peer: _Peer) -> None:
        self._response = response
        self._peer = peer
        # A transport that is none of the network's may hand it over in one piece.
        self.whole: bool = response.is_stream_consumed
        self._body = bytearray(response.content if self.whole else b"")

    def add(self, chunk: bytes) -> None:
        self._body += chunk

    @property
    def too_large(self) -> bool:
        return len(self._body) > _MAX_BODY

    def answer(self) -> HTTPAnswer:
        headers = {name.lower(): value for name, value in self._response.headers.items()}
        status = self._response.status_code
        return HTTPAnswer(status, headers, bytes(self._body), self._peer.address)


class _Deadline:
    """
    A limit on a blocking request as a whole.

    httpx limits each read; a server that sends a byte now and then keeps such a request alive for
    hours. The sockets of the request, made known by httpcore's `trace`, are shut down from
    another thread when the time is up.
    """

    def __init__(self, limit: float, peer: _Peer) -> None:
        self._peer = peer
        self._ends_at = time.monotonic() + limit
        self._timer = threading.Timer(limit, self._shut_down)
        self._timer.daemon = True

    def __call__(self, name: str, info: dict[str, Any]) -> None:
        self._peer.connected(name, info)
        if self.passed():
            raise SendError(f"{name} came too late")

    def passed(self) -> bool:
        return time.monotonic() >= self._ends_at

    def _shut_down(self) -> None:
        stream = self._peer.stream
        connection = None if stream is None else stream.get_extra_info("socket")
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


_STORE_THREADS = 16
_MAX_BODY = 64 * 1024
_TOO_LARGE = f"the answer is larger than {_MAX_BODY // 1024} KiB"
_OWN_CONTEXT = (
    "an SSLContext in verify= is not given a client certificate, since others may use it: load "
    "the certificate into it, or give verify= the path of a CA bundle"
)
_ASYNC = "handle_async_request"


_Errors = tuple[type[Exception], ...]


def _of_both(*names: str) -> _Errors:
    # A transport of the user may be of either library.
    return tuple(getattr(library, name) for library in LIBRARIES for name in names)


_NEVER_SENT = _of_both("ConnectError", "ConnectTimeout", "ProxyError")
_INVALID = _of_both("InvalidURL", "UnsupportedProtocol")
# What is wrong with the configuration is wrong the next time as well.
_FINAL: _Errors = (ssl.SSLCertVerificationError, ValueError, *_INVALID)
_FAILURES: _Errors = (
    OSError,
    ValueError,
    SendError,
    *_of_both("HTTPError", "InvalidURL", "StreamError"),
)
