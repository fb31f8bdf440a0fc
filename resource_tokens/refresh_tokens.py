"""
A refresh token that several processes present, one after the other.

1. One process at a time is between `begin` and `end`: whoever has the lease of the family, which is
   named by the digest of the first refresh token. The others wait.
2. The store has the refresh token to present, and whoever has the lease begins with that one. A new
   one is there before anything that came with it is used; the old one is there until then.
3. Before a refresh token is presented, the store says that it is in doubt, and until it is known
   what became of that nobody else presents it. So a process that is killed in between, or outlives
   its lease, lets nobody present a refresh token twice. What such a process costs is said to all.
4. Everything is changed by compare-and-swap on what was there. Without the store nothing is
   presented, unless the server allows reuse.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

from resource_tokens.exceptions import (
    ConfigurationError,
    OAuthError,
    ResourceTokensError,
    TokenRequestError,
)
from resource_tokens.oauth.grants import RefreshToken
from resource_tokens.stores import GrantStore, StoredGrant
from resource_tokens.tokens import Secret, TokenKey

__all__ = ["SharedRefreshToken"]


class SharedRefreshToken(RefreshToken):
    """
    A refresh token for several processes that share a store.

    All of them are given the refresh token that the authorization began with. Where the server
    replaces it, the store has the one to present, sealed; whoever starts later goes on with that.
    One process at a time presents it, and the others wait, so that a server that notices reuse
    (RFC 9700 4.14.2) sees one client.

    - Without the store nothing is presented, and each call that needs a new token fails. Access
      tokens that are still good are used all the while.
    - A process that is killed while it waits for an answer, or before it has stored what came,
      takes with it what nobody else knows: each call of all processes then fails as where an
      answer was lost, until one of them calls `retry`.
    - A store that loses its content loses the refresh token. Let Redis keep it on disk.

    Args:
        refresh_token: The first one of the authorization, the same for all processes.
        store: Where they share it, such as a `RedisTokenStore` or a `FileTokenStore`. To share the
            access tokens as well, give the same store to the auth object.
        scopes: As for `RefreshToken`.
        reusable: As for `RefreshToken`. Then the store may be away.

    Raises:
        ConfigurationError: If an argument cannot be what it stands for.
    """

    __slots__ = (
        "_doubt",
        "_family_key",
        "_holder",
        "_release",
        "_retry",
        "_seen",
        "_shared",
        "_word",
    )

    def __init__(
        self,
        refresh_token: str,
        store: GrantStore,
        *,
        scopes: Iterable[str] | None = None,
        reusable: bool = False,
    ) -> None:
        super().__init__(refresh_token, scopes=scopes, reusable=reusable)
        del refresh_token
        if not hasattr(store, "swap_grant"):
            raise ConfigurationError(
                "SharedRefreshToken: give a store that keeps refresh tokens, such as a "
                "RedisTokenStore or a FileTokenStore."
            )
        self._shared = store
        self._family_key = TokenKey.of(["refresh token", self.fingerprint()])
        # What the store had when we last looked or wrote.
        self._seen: StoredGrant | None = None
        self._retry = False
        # What we have said last that we present, and what is said of it while it is in doubt.
        self._word = self._doubt = secrets.token_hex(16)
        # Who has the lease, and how to give it back.
        self._holder: tuple[int, int] | None = None
        self._release: Callable[[], object] | None = None

    def begin(self, resource: str) -> None:
        """
        See `Grant`. Waits until no other process presents the refresh token.
        """
        failure = ""
        try:
            if self._holder != _me():
                self._take(resource)
        except TokenRequestError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a store raises
            # The words of others can hold anything.
            own = isinstance(error, ResourceTokensError)
            failure = str(error) if own else type(error).__name__
        if failure and not self._reusable:
            raise TokenRequestError(
                f"No token for {resource!r}: the store of the refresh token could not be used "
                f"({failure}), and another process may be presenting it. Nothing was sent. Try "
                "again when the store is back.",
                resource,
            )
        super().begin(resource)
        if not self._reuse_known and not self._is_announced():
            raise TokenRequestError(
                f"No token for {resource!r}: the store could not be told that the refresh token is "
                "being presented, or another process has changed it at the same moment. Nothing "
                "was sent. Try again.",
                resource,
            )

    def accept(self, refresh_token: Secret | None, sent: tuple[Secret, ...], resource: str) -> bool:
        """
        See `Grant`. The new refresh token is in the store when this returns.
        """
        rotated = super().accept(refresh_token, sent, resource)
        if not self._is_kept() and (rotated or not self._reusable):
            raise TokenRequestError(
                f"No token for {resource!r}: what has become of the refresh token could not be "
                "stored. It is kept in memory and stored before the next request. See that this "
                "process goes on until then, for the one in the store is spent.",
                resource,
                200,
            )
        return rotated

    def fail(self, error: ResourceTokensError, sent: tuple[Secret, ...]) -> None:
        """
        See `Grant`. All processes learn what it means.
        """
        super().fail(error, sent)
        self._is_kept()

    def end(self) -> None:
        """
        See `Grant`. Lets the next process begin.
        """
        if self._holder == _me():
            self._is_kept()
            release, self._holder, self._release = self._release, None, None
            # It ends by itself, and the store says by event what is wrong with it.
            with suppress(Exception):
                if release is not None:
                    release()

    def retry(self) -> None:
        """
        As for `RefreshToken`; the next request of this process goes ahead for all.
        """
        super().retry()
        self._retry = True

    def give_up(self) -> Secret:
        """
        See `Grant`. For all processes; those that the store does not tell are told by the server.
        """
        for _ in range(_TRIES):
            with suppress(Exception):
                there = self._shared.load_grant(self._family_key)
                if there is not None and there != self._seen:
                    self._seen = there
                    self._adopt(there)
            super().give_up()
            # Or else another process has changed it in between.
            if self._is_kept():
                break
        return super().give_up()

    def _take(self, resource: str) -> None:
        waited, pause = 0.0, _FIRST_PAUSE
        while (release := self._shared.lease(self._family_key, _LEASE)) is None:
            if waited >= _PATIENCE:
                raise TokenRequestError(
                    f"No token for {resource!r}: other processes were presenting the refresh token "
                    "all the time. The server is slow, or too many tokens are asked for at once.",
                    resource,
                )
            # All who wait would otherwise look at the same moment.
            spread = pause * (0.5 + random.random())  # noqa: S311 - no secret
            time.sleep(spread)
            waited, pause = waited + spread, min(2 * pause, _LONGEST_PAUSE)
        try:
            there = self._shared.load_grant(self._family_key)
            # Or else it is as this object left it, which then knows more than the store; unless it
            # is at it this very moment, in another thread or in the parent of a fork.
            ours = there == self._seen or (there is not None and there.presented == self._word)
            if there is not None and not (ours and self._holder is None):
                self._adopt(there)
            self._seen, self._retry = there, False
        except BaseException:
            with suppress(Exception):
                release()
            raise
        self._holder, self._release = _me(), release

    def _adopt(self, there: StoredGrant) -> None:
        with self._lock:
            self._current = there.refresh_token
            self._in_doubt = bool(there.presented) and not self._retry
            self._doubt = there.presented
            self._reuse_known = self._reusable or there.reuse_known
            if there.ended is not None:
                self._ended = OAuthError("", "", 400, *there.ended)

    def _state(self) -> StoredGrant:
        with self._lock:
            ended = self._ended
            said = None
            if ended is not None:
                said = ended.error, ended.error_description, ended.error_uri
            presented = self._doubt if self._in_doubt else ""
            return StoredGrant(self._current, presented, self._reuse_known, said)

    def _is_announced(self) -> bool:
        """
        Whether all others know that the refresh token is being presented.
        """
        if self._seen is not None and self._seen.presented == self._word:
            # By an earlier try of the same request.
            return True
        self._word = self._doubt = secrets.token_hex(16)
        return self._swap(replace(self._state(), presented=self._word))

    def _is_kept(self) -> bool:
        """
        Whether the store has what we know, now if not before.
        """
        return self._swap(self._state())

    def _swap(self, after: StoredGrant) -> bool:
        if after == self._seen:
            return True
        with suppress(Exception):
            if self._shared.swap_grant(self._family_key, self._seen, after):
                self._seen = after
                return True
        # What has said no, or nothing, can have been the answer to a second try of the same.
        with suppress(Exception):
            there = self._shared.load_grant(self._family_key)
            if there == after or (there is not None and there.presented == self._word):
                self._seen = there
        return after == self._seen


def _me() -> tuple[int, int]:
    # A forked child has the memory of its parent, and not its lease.
    return os.getpid(), threading.get_ident()


_TRIES = 3
_LEASE, _PATIENCE = 30.0, 35.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25
