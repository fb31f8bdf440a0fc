"""
Connections that show a client certificate, for tokens that are bound to it (RFC 8705 3).

httpx gives a client one certificate for all that it connects to. Here a connection shows one only
for a hop that carries a token bound to it, and such connections are kept apart from all others.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from cachetools import LRUCache

from resource_tokens._httpx import http
from resource_tokens._locks import SafeLock
from resource_tokens.exceptions import ResourceTokensError
from resource_tokens.guards import (
    CERTIFICATE,
    EXTENSION,
    AsyncTransport,
    Transport,
    copied,
    hop_of,
)
from resource_tokens.oauth.token_endpoint import TokenRequest

if TYPE_CHECKING:
    import httpx
    import httpx2

    from resource_tokens.oauth.tls_client_auth import TlsClientAuth

__all__ = ["AsyncCertificateTransport", "CertificateTransport"]


class CertificateTransport(Transport):
    """
    The transport of a client for `Resource(..., sender="mtls")`.

    It shows the certificate of `TlsClientAuth` to the destinations of such a resource, along with
    its token, and to nobody else: not to other destinations, not after a redirect from elsewhere,
    and not without the token. Certificates that are replaced are shown from the next token on.

    Security: the certificate goes with the token. A client that was given a certificate in another
    way, such as `verify=` with a context that has one, shows it to whoever asks.

    Args:
        make: What makes the transports to use, one for each certificate and one without:
            `httpx.HTTPTransport`, `httpx2.HTTPTransport`, or a function with more options that
            hands `verify=` on to them. An `EgressGuard` goes in here, around what it returns.
        verify: A file with the certificate authorities to trust, instead of httpx's own.
    """

    def __init__(
        self,
        make: Callable[..., httpx.BaseTransport | httpx2.BaseTransport],
        *,
        verify: str | os.PathLike[str] | None = None,
    ) -> None:
        self._transports = _Transports(make, verify)

    def handle_request(self, request: Any) -> Any:
        """
        Send a request on a connection with its certificate, or on one without.

        Raises:
            EgressBlockedError: If the certificate of its token cannot be had any more.
        """
        transport, request, unused = self._transports.choose(request)
        for each in unused:
            each.close()
        return transport.handle_request(request)

    def close(self) -> None:
        """
        Close all connections.
        """
        for each in self._transports.take_all():
            each.close()


class AsyncCertificateTransport(AsyncTransport):
    """
    The same as `CertificateTransport` for async clients.

    Args:
        make: `httpx.AsyncHTTPTransport`, `httpx2.AsyncHTTPTransport`, or a function that hands
            `verify=` on to them.
        verify: A file with the certificate authorities to trust, instead of httpx's own.
    """

    def __init__(
        self,
        make: Callable[..., httpx.AsyncBaseTransport | httpx2.AsyncBaseTransport],
        *,
        verify: str | os.PathLike[str] | None = None,
    ) -> None:
        self._transports = _Transports(make, verify)

    async def handle_async_request(self, request: Any) -> Any:
        """
        Send a request on a connection with its certificate, or on one without.

        Raises:
            EgressBlockedError: If the certificate of its token cannot be had any more.
        """
        transport, request, unused = self._transports.choose(request)
        for each in unused:
            await each.aclose()
        return await transport.handle_async_request(request)

    async def aclose(self) -> None:
        """
        Close all connections.
        """
        for each in self._transports.take_all():
            await each.aclose()


class _Transports:
    """
    A transport without a certificate, and one for each that is in use.
    """

    def __init__(self, make: Callable[..., Any], verify: str | os.PathLike[str] | None) -> None:
        self._make = make
        self._verify = verify
        self._plain = make(verify=self._context())
        self._lock = SafeLock()
        # By the thumbprint of the certificate; guarded by _lock.
        self._certified: LRUCache[bytes, Any] = LRUCache(_AT_ONCE + 1)

    def choose(self, request: Any) -> tuple[Any, Any, list[Any]]:
        """
        The transport for a request, the request to hand to it, and the transports to close.
        """
        guard = request.extensions.get(EXTENSION)
        if guard is None:
            return self._plain, request, []
        hop = hop_of(request, first=guard.first)
        asked = guard.certified(hop)
        if asked is None:
            return self._plain, request, []
        # A copy: httpx takes the extensions of its own request along to where a redirect leads.
        request = copied(request)
        request.extensions[CERTIFICATE] = asked.certificate
        with self._lock:
            known = self._certified.get(asked.certificate)
        if known is not None:
            return known, request, []
        context = self._certified_context(asked)
        if context is None:
            raise guard.uncertified(
                hop,
                asked.resource.identifier,
                "the certificate that its token is bound to is not in the files any more. If it "
                "was replaced just now, try again: the next token is bound to the new one.",
            )
        made = self._make(verify=context)
        with self._lock:
            kept = self._certified.setdefault(asked.certificate, made)
            unused = [] if kept is made else [made]
            while len(self._certified) > _AT_ONCE:
                unused.append(self._certified.popitem()[1])
        return kept, request, unused

    def take_all(self) -> list[Any]:
        """
        All transports, to be closed.
        """
        with self._lock:
            certified = list(self._certified.values())
            self._certified.clear()
        return [self._plain, *certified]

    def _certified_context(self, asked: TokenRequest) -> ssl.SSLContext | None:
        """
        A context with the certificate that a token is bound to; `None` if it is not there.
        """
        # As `TokenRequest` sees to.
        client_auth, context = cast("TlsClientAuth", asked.client_auth), self._context()
        read = client_auth.certificate.read
        # Looked at before and after, as files can be replaced in between.
        with suppress(OSError, ResourceTokensError):
            before = read()
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(*client_auth.files, password="")
            if before == read() == asked.certificate:
                return context
        return None

    def _context(self) -> ssl.SSLContext:
        if self._verify is not None:
            return ssl.create_default_context(cafile=self._verify)
        return http.create_ssl_context()


# Each has connections of its own. Those of certificates that were replaced long ago are closed.
_AT_ONCE = 16
