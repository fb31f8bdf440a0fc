"""
Fixtures for pytest: a fresh authorization server, APIs that check its tokens, and a ledger of which
token arrived where.

pytest imports this module in every run where the package is installed, so it imports nothing else
of the package before a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from resource_tokens.testing import LocalAuthorizationServer, LocalResourceServer, TokenLedger


def pytest_load_initial_conftests(parser: pytest.Parser, args: list[str]) -> None:
    """
    The option of the conformance kit, in the runs that ask for the kit and in no other.
    """
    if any(arg.startswith("resource_tokens.conformance") for arg in args):
        parser.addoption(
            "--auth",
            dest=_KIT,
            metavar="MODULE:FACTORY",
            help="what the conformance kit tests; resource_tokens itself by default",
        )


def pytest_report_header(config: pytest.Config) -> str | None:
    """
    What the conformance kit tests, in the first lines of its report.
    """
    named = config.getoption(_KIT, default=None)
    return None if named is None else f"conformance of: {named}"


class StartResourceServer(Protocol):
    """
    What the `resource_server` fixture is: a function that starts one more API.
    """

    def __call__(
        self, *, audience: str | None = None, audiences: Mapping[str, str | None] | None = None
    ) -> LocalResourceServer:
        """
        Start an API for one audience, or for several by path.
        """
        ...


@pytest.fixture
def authorization_server() -> Iterator[LocalAuthorizationServer]:
    """
    A fresh `LocalAuthorizationServer`, stopped after the test.
    """
    from resource_tokens.testing import LocalAuthorizationServer

    with LocalAuthorizationServer() as server:
        yield server


@pytest.fixture
def token_ledger(authorization_server: LocalAuthorizationServer) -> TokenLedger:
    """
    The `TokenLedger` of all that `resource_server` starts.
    """
    from resource_tokens.testing import TokenLedger

    return TokenLedger(authorization_server)


@pytest.fixture
def resource_server(
    authorization_server: LocalAuthorizationServer, token_ledger: TokenLedger
) -> Iterator[StartResourceServer]:
    """
    A function that starts a `LocalResourceServer`, stopped after the test.
    """
    from resource_tokens.testing import LocalResourceServer

    with ExitStack() as stack:

        def start(
            *, audience: str | None = None, audiences: Mapping[str, str | None] | None = None
        ) -> LocalResourceServer:
            server = LocalResourceServer(
                authorization_server, audience=audience, audiences=audiences
            )
            token_ledger.watch(server)
            return stack.enter_context(server)

        yield start


_KIT = "resource_tokens_conformance"
