"""
Tokens in what others log.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO

import pytest

from resource_tokens.logs import TokenFilter
from tests.conftest import BILLING, ORDERS, Caller, World
from tests.servers.http2 import Http2Sink
from tests.servers.tls import serving

HTTP2 = {"http1": False, "http2": True}


@contextmanager
def everything_written(*filters: logging.Filter) -> Iterator[StringIO]:
    """
    What a handler of the root logger writes at DEBUG.
    """
    written = StringIO()
    handler, root = logging.StreamHandler(written), logging.getLogger()
    for each in filters:
        handler.addFilter(each)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield written
    finally:
        root.setLevel(before)
        root.removeHandler(handler)


def record(
    message: str, *args: object, name: str = "mine", error: bool = False
) -> logging.LogRecord:
    exc_info = sys.exc_info() if error else None
    return logging.LogRecord(name, logging.DEBUG, __file__, 1, message, args, exc_info)


def test_a_real_conversation_at_debug_shows_no_token(
    caller: Caller, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """
    L3, P9: HTTP/2 with every logger at DEBUG, an API that sends the token back in `Location`, a
    copy of it in another header, and the program's own line.
    """
    with Http2Sink(serving()) as api:
        auth = world.auth({f"{api.url}/orders": ORDERS, f"{api.url}/billing": BILLING})
        tokens = TokenFilter(auth.cache)
        with (
            caplog.filtering(tokens),
            everything_written(tokens) as written,
            caller.client(auth=auth, **HTTP2) as client,
        ):
            token = caller.token_for(auth, f"{api.url}/orders").reveal()
            api.redirects["/orders/jump"] = f"/billing/landing?access_token={token}"
            response = client.get(f"{api.url}/orders/jump", headers={"X-Copy": token})
            client.get(f"{api.url}/billing/x", auth=None, params={"access_token": token})
            logging.getLogger("mine").debug("sent with %s", response.request.headers["X-Copy"])

    text = written.getvalue()
    assert [] == [issued for issued in world.server.issued if issued in text]
    assert f"sent with <token for {ORDERS}>" in text
    assert f"{api.url}/billing/x?access_token=<token for {ORDERS}>" in text
    assert f"/billing/landing?access_token=<token for {ORDERS}>" in text
    assert "send_request_headers.started" in text
    assert "header" not in [line.split()[0] for line in text.splitlines()]


def test_hpack_is_silent(world: World) -> None:
    """
    L3: its records show headers as they are sent, where a token is Huffman-coded, and readable.
    """
    tokens = TokenFilter(world.auth().cache)

    assert not tokens.filter(record("Encoded header block to %s", b"\x82", name="hpack.hpack"))
    assert not tokens.filter(record("Evicting %s", "x", name="hpack.table"))
    assert tokens.filter(record("hpack is not what this is about", name="hpackage"))


def test_several_caches_are_masked(world: World) -> None:
    """
    P9: a program may have several auth objects.
    """
    first, second = world.auth(), world.auth()
    texts = [auth.token_for(world.orders.url).reveal() for auth in (first, second)]
    line = record("%s and %s", *texts)

    assert TokenFilter(first.cache, second.cache).filter(line)

    assert f"<token for {ORDERS}> and <token for {ORDERS}>" == line.getMessage()


def test_what_holds_no_token_stays_as_it_is(world: World) -> None:
    """
    A record of somebody else's keeps its template and its arguments, for structured logs.
    """
    line = record("%s took %d ms", "x" * 2000, 5)

    assert TokenFilter(world.auth().cache).filter(line)

    assert ("%s took %d ms", ("x" * 2000, 5)) == (line.msg, line.args)


def test_a_traceback_is_masked(world: World) -> None:
    """
    P9: the text of an error that was raised with a token in it.
    """
    auth = world.auth()
    token = auth.token_for(world.orders.url).reveal()
    written = StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(TokenFilter(auth.cache))
    try:
        raise ValueError(f"cannot send {token}")
    except ValueError:
        fresh, formatted = (record("failed", error=True) for _ in range(2))
        formatted.exc_text = traceback.format_exc()
    for line in (fresh, formatted):
        handler.handle(line)

    assert token not in written.getvalue()
    assert 2 == written.getvalue().count(f"ValueError: cannot send <token for {ORDERS}>")


def test_a_record_that_cannot_be_formatted_is_the_handlers_affair(world: World) -> None:
    """
    A filter that raised would raise in the line that logs.
    """
    assert TokenFilter(world.auth().cache).filter(record("%d", "no number"))
