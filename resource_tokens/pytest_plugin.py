"""
Fixtures for pytest: a fresh authorization server, and APIs that check its tokens.

pytest imports this module in every run where the package is installed, so it imports nothing else
of the package before a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from resource_tokens.testing import LocalAuthorizationServer, LocalResourceServer


class StartResourceServer(Protocol):
    """
    What the `resource_server` fixture is: a function that starts one more API.
    """

    def __call__(
        self, *, audience: str | None = None, audiences: Mapping[str, str] | None = None
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
def resource_server(
    authorization_server: LocalAuthorizationServer,
) -> Iterator[StartResourceServer]:
    """
    A function that starts a `LocalResourceServer`, stopped after the test.
    """
    from resource_tokens.testing import LocalResourceServer

    with ExitStack() as stack:

        def start(
            *, audience: str | None = None, audiences: Mapping[str, str] | None = None
        ) -> LocalResourceServer:
            server = LocalResourceServer(
                authorization_server, audience=audience, audiences=audiences
            )
            return stack.enter_context(server)

        yield start
