"""
Grants: on whose behalf a token is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

__all__ = ["ClientCredentials"]


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """
    The client asks for itself (RFC 6749 4.4).

    A refresh token in the answer is ignored: a new request does the same with one secret less
    to keep (RFC 6749 4.4.3).
    """

    grant_type: ClassVar[str] = "client_credentials"
