"""
Events: what happened to a token, for a log line, a counter or a hook.

No event holds a token, a secret or a query string.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["EventName", "Events", "TokenEvent"]

EventName = Literal[
    "token_issued",
    "token_refreshed",
    "token_loaded",
    "token_request_failed",
    "token_request_retried",
    "refresh_token_rotated",
    "credential_rotated",
    "token_rejected",
    "token_withheld",
    "egress_blocked",
    "audience_mismatch",
    "insufficient_scope",
    "insufficient_user_authentication",
    "insufficient_claims",
    "unmapped_destination",
    "subject_missing",
    "clock_skew",
    "scope_narrowed",
    "scope_widened",
    "expires_in_missing",
    "metadata_discovered",
    "resource_discovered",
    "discovery_failed",
    "store_failed",
    "store_recovered",
    "inbound_rejected",
    "keys_loaded",
    "keys_failed",
]


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """
    Something that happened to a token, or to the wish for one.

    Attributes:
        name: What happened.
        resource: The resource concerned.
        issuer: The authorization server, by its issuer or else its token endpoint.
        destination: Where a request was going, without its query; "" where none was.
        detail: More in words.
    """

    name: EventName
    resource: str
    issuer: str = ""
    destination: str = ""
    detail: str = ""


class Events:
    """
    Sends each event to the `resource_tokens` logger and to the user's hook.
    """

    __slots__ = ("_hook",)

    def __init__(self, hook: Callable[[TokenEvent], object] | None = None) -> None:
        self._hook = hook

    def emit(self, event: TokenEvent) -> None:
        """
        Report an event. A hook that raises is logged and changes nothing else: a broken counter
        must not cost a token.
        """
        level = logging.INFO if event.name in _ORDINARY else logging.WARNING
        if _logger.isEnabledFor(level):
            _logger.log(
                level,
                "%s resource=%s issuer=%s destination=%s %s",
                event.name,
                event.resource,
                event.issuer,
                event.destination,
                event.detail,
                extra={"token_event": event},
            )
        if self._hook is not None:
            try:
                self._hook(event)
            except Exception as error:  # noqa: BLE001 - whatever a user's hook raises
                # Without the traceback: its frames are the user's own.
                _logger.error(  # noqa: TRY400
                    "on_event raised %s for %s", type(error).__name__, event.name
                )


_logger = logging.getLogger("resource_tokens")
_ORDINARY = frozenset(
    {
        "token_issued",
        "token_refreshed",
        "token_loaded",
        "store_recovered",
        "metadata_discovered",
        "resource_discovered",
        "refresh_token_rotated",
        "credential_rotated",
        "keys_loaded",
    }
)
