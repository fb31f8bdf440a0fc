"""
The scenarios of the MCP conformance suite that a client without a user can live through: the MCP
SDK's client, on an `httpx2.AsyncClient` with the plugin, against the suite's own servers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.mcp_conformance import run


@pytest.mark.parametrize(
    ("scenario", "version"),
    [
        ("auth/client-credentials-basic", None),
        ("auth/client-credentials-jwt", None),
        ("auth/pre-registration", "2025-11-25"),
        ("auth/pre-registration", "2026-07-28"),
        ("auth/wif-jwt-bearer", None),
    ],
)
def test_a_client_that_the_server_knows_gets_in(
    scenario: str, version: str | None, tmp_path: Path
) -> None:
    """
    RMCP-1, RMCP-4, RMCP-5, RMCP-12: the server's metadata, one token request, and each request of
    the session carries the token.
    """
    outcome = run(scenario, tmp_path, version=version)

    assert outcome.passed, outcome.output
    assert {} == outcome.not_green()
    assert 1 == outcome.observed("token-request")
    assert 1 == outcome.observed("prm-pathbased-requested")
    assert 1 < outcome.observed("incoming-request") == 1 + outcome.observed("valid-bearer-token")


def test_metadata_of_another_issuer_is_not_used(tmp_path: Path) -> None:
    """
    R8414-4, RMCP-6: the metadata is read, and nothing that it names is asked for anything.
    """
    outcome = run("auth/metadata-issuer-mismatch", tmp_path)

    assert outcome.passed, outcome.output
    assert {} == outcome.not_green()
    assert 1 == outcome.observed("authorization-server-metadata")
    assert 0 == outcome.observed("token-request")


def test_metadata_of_another_resource_is_not_followed(tmp_path: Path) -> None:
    """
    R9728-3: the MCP server says that it is somebody else's. Nothing is sent anywhere after that.
    """
    outcome = run("auth/resource-mismatch", tmp_path)

    assert outcome.passed, outcome.output
    assert {} == outcome.not_green()
    assert 1 == outcome.observed("incoming-request")
    assert 0 == outcome.observed("authorization-server-metadata")
    assert 0 == outcome.observed("token-request")


def test_a_server_that_gave_no_credentials_gets_none(tmp_path: Path) -> None:
    """
    RMCP-7: the MCP server names an authorization server that its client has not listed.
    """
    outcome = run("auth/client-credentials-basic", tmp_path, CLIENT_ISSUER="http://127.0.0.1:9")

    assert {"client-credentials-basic-auth": ["FAILURE"]} == outcome.not_green()
    assert 1 == outcome.observed("prm-pathbased-requested")
    assert 0 == outcome.observed("authorization-server-metadata")
    assert 0 == outcome.observed("token-request")


def test_a_workload_token_that_is_refused_is_not_tried_again(tmp_path: Path) -> None:
    """
    R7523-8, R7523-3: one that has expired is presented once, and nothing else in its place.
    """
    outcome = run("auth/wif-jwt-bearer", tmp_path, WORKLOAD_TOKEN="expired_jwt")

    assert {"wif-assertion-expired": ["FAILURE"]} == outcome.not_green()
    assert 1 == outcome.observed("token-request")
    assert 0 == outcome.observed("valid-bearer-token")
    assert "invalid_grant" in outcome.output
