"""
Events: what happened to a token, for a log line, a counter or a hook.

No event holds a token, a secret or a query string.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["EventName", "Events", "Observer", "TokenEvent"]

EventName = Literal[
    "token_issued",
    "token_refreshed",
    "token_loaded",
    "token_request_failed",
    "token_request_retried",
    "refresh_token_rotated",
    "token_revoked",
    "revocation_failed",
    "credential_rotated",
    "token_rejected",
    "proof_renewed",
    "proof_refused",
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
        reason: Why a token was blocked or withheld, as one of the few words of
            `EgressBlockedError.reason`; "" in all other events.
    """

    name: EventName
    resource: str
    issuer: str = ""
    destination: str = ""
    detail: str = ""
    reason: str = ""

    def as_dict(self) -> dict[str, str]:
        """
        What is known, as JSON has it; what is empty is left out.
        """
        fields = {name: str(getattr(self, name)) for name in self.__slots__}
        return {name: value for name, value in fields.items() if value}


class Observer(Protocol):
    """
    What counts and times what happens. `resource_tokens.telemetry.Telemetry` is one.

    Its methods are called from whichever thread it happens in, must be quick, and do not raise.
    `resource` and `issuer` are as configured; what they are given is never a token or a secret.
    """

    def event(self, event: TokenEvent) -> None:
        """
        An event was reported.
        """

    def use(self, decision: str, resource: str, issuer: str) -> None:
        """
        It was decided whether a hop may carry a token: one of the decisions of a `TokenUse`.
        """

    def stale(self, resource: str, issuer: str, seconds: float) -> None:
        """
        A token was presented that was to be refreshed this long ago.
        """

    def waiting(self, resource: str, issuer: str) -> AbstractContextManager[object]:
        """
        A caller waits for a token, whoever asks for it, for as long as this lasts.
        """
        ...

    def asking(
        self, resource: str, issuer: str, grant_type: str, *, ahead: bool
    ) -> AbstractContextManager[object]:
        """
        A token is asked for, from discovery to verdict, for as long as this lasts. What it raises
        is how it failed. `ahead` says that nobody waits for it.
        """
        ...


class Events:
    """
    Sends each event to the `resource_tokens` logger, to the user's hook, and to an observer.

    Attributes:
        observer: Whom to tell more than events.
    """

    __slots__ = ("_hook", "observer")

    def __init__(
        self,
        hook: Callable[[TokenEvent], object] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._hook = hook
        self.observer = observer

    def waiting(self, resource: str, issuer: str) -> AbstractContextManager[object]:
        """
        See `Observer.waiting`.
        """
        observer = self.observer
        return nullcontext() if observer is None else observer.waiting(resource, issuer)

    def asking(
        self, resource: str, issuer: str, grant_type: str, *, ahead: bool
    ) -> AbstractContextManager[object]:
        """
        See `Observer.asking`.
        """
        if self.observer is None:
            return nullcontext()
        return self.observer.asking(resource, issuer, grant_type, ahead=ahead)

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
                # A mapping of strings: every structured formatter can write that.
                extra={"token_event": event.as_dict()},
            )
        if self.observer is not None:
            self.observer.event(event)
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
        "token_revoked",
        "store_recovered",
        "metadata_discovered",
        "resource_discovered",
        "refresh_token_rotated",
        "credential_rotated",
        "keys_loaded",
        "proof_renewed",
    }
)
