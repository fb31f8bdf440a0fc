"""
TLS for the servers and clients of the tests, from one throw-away certificate authority.
"""

from __future__ import annotations

import socket
import ssl
from functools import cache

import trustme

__all__ = ["asking", "authority", "certificate", "secured", "serving", "trusting"]


@cache
def authority() -> trustme.CA:
    """
    The one that has issued every certificate here, known to no system.
    """
    return trustme.CA()


@cache
def certificate(*names: str) -> trustme.LeafCert:
    """
    A certificate for 127.0.0.1 and these names.
    """
    return authority().issue_cert("127.0.0.1", *names)


def serving(*names: str) -> ssl.SSLContext:
    """
    A context of its own for a server at 127.0.0.1 and these names.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate(*names).configure_cert(context)
    # Tickets would be sent before the first answer, which then waits for them to be confirmed.
    context.num_tickets = 0
    return context


def asking(*names: str) -> ssl.SSLContext:
    """
    The same for a server that asks for a certificate of the authority, and does without one.
    """
    context = serving(*names)
    authority().configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


@cache
def trusting() -> ssl.SSLContext:
    """
    The context of clients that trust the authority and nobody else.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context


def secured(connection: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """
    The server's end of TLS on a connection, whose own socket stays able to end it.

    `SSLSocket.shutdown` would pull the rug from under a thread that reads.
    """
    return context.wrap_socket(connection.dup(), server_side=True)
