"""
What a request presents to get in: a token, and what proves that it is the sender's own (RFC 6750 2,
RFC 9449 7.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resource_tokens.tokens import Secret

__all__ = ["Headers", "Presented", "presented"]

Headers = Mapping[str, str] | Iterable[tuple[str, str]] | Iterable[tuple[bytes, bytes]]
"""
The headers of a request. One that came twice is there twice, or its values are joined by commas.
"""


@dataclass(frozen=True, slots=True)
class Presented:
    """
    What one request presents. It is read and not judged, except for its form.

    Attributes:
        method: The HTTP method.
        target: The path and query that were asked for, as on the wire.
        scheme: How the token is presented, `"bearer"` or `"dpop"`; empty if none is.
        token: The token.
        proofs: The value of each `DPoP` header.
        certificate: The client certificate of the connection, `None` if there is none.
        trouble: Why nobody could say which token is meant.
    """

    method: str
    target: str = field(repr=False)
    scheme: str = ""
    token: Secret = field(default=Secret(""), repr=False)
    proofs: tuple[Secret, ...] = field(default=(), repr=False)
    certificate: str | bytes | None = field(default=None, repr=False)
    trouble: str = ""

    @property
    def path(self) -> str:
        """
        The target without the query, where secrets live.
        """
        return self.target.partition("?")[0]


def presented(
    headers: Headers,
    method: str,
    target: str,
    certificate: str | bytes | None = None,
    certificate_header: str = "",
) -> Presented:
    """
    What a request presents. Tokens are looked for in the `Authorization` header and nowhere else.

    Args:
        headers: Its headers.
        method: Its method.
        target: Its path and query.
        certificate: The client certificate of the connection.
        certificate_header: The header that has it instead, in lower case.
    """
    pairs: Any = headers.items() if isinstance(headers, Mapping) else headers
    found: dict[str, list[Secret]] = {"authorization": [], "dpop": [], certificate_header: []}
    for name, value in pairs:
        wanted = found.get((name.decode("latin-1") if isinstance(name, bytes) else name).lower())
        if wanted is not None:
            wanted.append(Secret(value.decode("latin-1") if isinstance(value, bytes) else value))
    if certificate_header:
        # A second one is not from whoever sets the first.
        named = found[certificate_header]
        certificate = named[0].reveal() if len(named) == 1 else None
    credentials, proofs = found["authorization"], tuple(found["dpop"])
    # RFC 6750 2: "Clients MUST NOT use more than one method to transmit the token in each
    # request", and 3.1: one that does is malformed.
    if len(credentials) > 1:
        return Presented(method, target, trouble="There is more than one Authorization header.")
    scheme, _, token = credentials[0].reveal().partition(" ") if credentials else ("", "", "")
    value = Secret(token.strip(" "))
    del token
    # RFC 9110 11.1: the scheme has no letter case. Basic and the like present no token.
    scheme = scheme.lower()
    if scheme not in {"bearer", "dpop"}:
        return Presented(method, target)
    if not _is_one_token(value.reveal()):
        trouble = "The Authorization header does not hold one token."
        return Presented(method, target, scheme, trouble=trouble)
    # RFC 6750 2.3, which RFC 9700 4.3.2 has taken back: no token is read from there.
    if "?" in target and _IN_QUERY.search(target):
        trouble = "There is a token in the Authorization header and one in the query."
        return Presented(method, target, scheme, trouble=trouble)
    return Presented(method, target, scheme, value, proofs, certificate)


def _is_one_token(text: str) -> bool:
    # RFC 6749 A.12 allows ASCII only; a comma joins what were two headers. What else none has is
    # found out where the token is read.
    return text != "" and text.isascii() and " " not in text and "," not in text


_IN_QUERY = re.compile(r"[?&;]access_token=")
