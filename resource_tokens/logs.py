"""
Keeping tokens out of what others log.

This library logs none. But httpx writes each URL, httpcore the headers of each response, and hpack
each header of HTTP/2; and what a program itself logs of a request, nobody knows.
"""

from __future__ import annotations

import logging

from resource_tokens.cache import TokenCache

__all__ = ["TokenFilter"]


class TokenFilter(logging.Filter):
    """
    Masks the live tokens of some caches in every record, whoever has written it.

    Add it to each handler, not to a logger: the filters of a logger do not see what comes from the
    loggers below it. The message and the traceback are masked, which changes the record for all
    handlers; the attributes that a program adds by `extra=` are not. Records of `hpack` are
    dropped: they show the headers as they are sent, compressed but readable.

    Args:
        caches: Those whose tokens are masked, such as `auth.cache`.
    """

    def __init__(self, *caches: TokenCache) -> None:
        super().__init__()
        self._caches = caches

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Mask a record. Returns whether it is to be written.
        """
        if record.name.partition(".")[0] == "hpack":
            return False
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - what cannot be formatted is reported by the handler
            return True
        masked = self._masked(message)
        if masked != message:
            record.msg, record.args = masked, ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self._masked(record.exc_text)
        return True

    def _masked(self, text: str) -> str:
        for cache in self._caches:
            text = cache.bindings.masked(text)
        return text
