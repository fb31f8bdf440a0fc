"""
Dialects: how a server departs from the standards, as values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["RFC8707", "Dialect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """
    How an authorization server wants to be spoken to.

    Args:
        name: What it is called in messages.
        basic_credentials: `"form"` urlencodes client id and secret before they are put in a
            Basic header, as RFC 6749 2.3.1 asks; `"raw"` does not.
        assertion_audience: The `aud` of a client assertion: the `"issuer"`, or the
            `"token_endpoint"` where a server takes nothing else.
    """

    name: str
    basic_credentials: Literal["form", "raw"] = "form"
    assertion_audience: Literal["issuer", "token_endpoint"] = "issuer"


RFC8707 = Dialect(name="rfc8707")
"""
The standard: one `resource` parameter, and a token whose `aud` says so.
"""
