"""
Events: a hook, standard logging, and nothing secret in either.
"""

from __future__ import annotations

import io
import json
import logging

import pytest

from resource_tokens import TokenEvent
from resource_tokens.events import Events
from tests.conftest import ORDERS, Caller, World

EVENT = TokenEvent("token_issued", "urn:x:a", "https://login.example.com")


def test_an_event_is_a_log_record_with_fields(caplog: pytest.LogCaptureFixture) -> None:
    """
    P11: a line for people, and fields for machines.
    """
    with caplog.at_level(logging.INFO, "resource_tokens"):
        Events().emit(EVENT)
        Events().emit(TokenEvent("token_withheld", "urn:x:a", destination="https://b.test/"))

    issued, withheld = caplog.records
    assert (logging.INFO, logging.WARNING) == (issued.levelno, withheld.levelno)
    assert {
        "name": "token_issued",
        "resource": "urn:x:a",
        "issuer": "https://login.example.com",
    } == issued.__dict__["token_event"]
    assert "token_issued resource=urn:x:a" in issued.getMessage()
    assert "destination=https://b.test/" in withheld.getMessage()


def test_any_json_formatter_can_write_an_event() -> None:
    """
    P11: what a formatter finds in the record is plain JSON, without a line of code for it.
    """
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(OneLineOfJSON())
    logger = logging.getLogger("resource_tokens")
    logger.addHandler(handler)
    try:
        Events().emit(TokenEvent("token_withheld", "urn:x:a", "", "https://b.test/", "why", "r"))
    finally:
        logger.removeHandler(handler)

    assert {
        "name": "token_withheld",
        "resource": "urn:x:a",
        "destination": "https://b.test/",
        "detail": "why",
        "reason": "r",
    } == json.loads(written.getvalue())["token_event"]


class OneLineOfJSON(logging.Formatter):
    """
    What the formatters for JSON have in common: the attributes that `logging` does not set itself.
    """

    def format(self, record: logging.LogRecord) -> str:
        usual = vars(logging.makeLogRecord({}))
        return json.dumps({k: v for k, v in vars(record).items() if k not in usual})


def test_a_switched_off_logger_costs_nothing_but_the_hook(caplog: pytest.LogCaptureFixture) -> None:
    """
    The hook hears of every event, whatever the log level.
    """
    heard: list[TokenEvent] = []
    with caplog.at_level(logging.CRITICAL, "resource_tokens"):
        Events(heard.append).emit(EVENT)

    assert [EVENT] == heard
    assert [] == caplog.records


def test_a_broken_hook_costs_no_token(
    caller: Caller, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """
    What a hook raises is said, without its text, and changes nothing.
    """

    def broken(event: TokenEvent) -> None:
        raise ValueError(f"counter for {event.name} is gone")

    token = caller.token(world.auth(on_event=broken).cache, ORDERS)

    assert ORDERS == token.resource
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert "on_event raised ValueError for token_issued" in said
    assert [] == [text for text in said if "counter" in text]


def test_a_hook_may_use_the_cache(caller: Caller, world: World) -> None:
    """
    A hook runs where the event happens, inside the leader's work; asking for the same token
    there neither blocks nor recurses for ever.
    """
    seen: list[str] = []

    def curious(event: TokenEvent) -> None:
        if event.name not in seen:
            seen.append(event.name)
            assert ORDERS == auth.cache.get(ORDERS).resource

    auth = world.auth(on_event=curious)
    token = caller.token(auth.cache, ORDERS)

    assert ["metadata_discovered", "token_issued"] == seen
    assert token.resource == ORDERS
