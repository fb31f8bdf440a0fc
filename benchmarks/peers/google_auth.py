"""
google-auth: a session of requests with credentials that refresh themselves.

The credentials ask by `refresh_handler`, which is how google-auth gets tokens that are not
Google's, and refresh in the background, which it does when told to.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import requests
from google.auth.transport.requests import AuthorizedSession
from google.oauth2.credentials import Credentials
from requests.adapters import HTTPAdapter

from benchmarks.peers import CONNECTIONS, STATIC, ByURL, Peer, Setting, ask, basic, leeway

__all__ = ["PEERS"]


def _session(session: requests.Session, adapter: HTTPAdapter) -> requests.Session:
    session.mount("http://", adapter)
    return session


def _adapter() -> HTTPAdapter:
    return HTTPAdapter(CONNECTIONS, CONNECTIONS)


def _static(setting: Setting) -> Any:
    session = _session(requests.Session(), _adapter())
    session.headers["Authorization"] = f"Bearer {ask(setting, setting.resources[0])}"
    return session


def _credentials(setting: Setting, resource: str) -> Credentials:
    def refresh(request: Any, scopes: Any) -> tuple[str, datetime]:
        del scopes
        form = {"grant_type": "client_credentials", "resource": resource}
        answer = request(
            setting.token_endpoint,
            "POST",
            urlencode(form),
            {
                "Authorization": basic(setting),
                "Content-Type": "application/x-www-form-urlencoded",
            },
        )
        issued = json.loads(answer.data)
        ends_at = datetime.now(UTC) + timedelta(seconds=issued["expires_in"])
        # google-auth counts in UTC without saying so.
        return issued["access_token"], ends_at.replace(tzinfo=None)

    credentials = Credentials(None, refresh_handler=refresh)  # type: ignore[no-untyped-call]
    credentials.with_non_blocking_refresh()  # type: ignore[no-untyped-call]
    return credentials


def _authorized(setting: Setting) -> Any:
    adapter = _adapter()
    sessions = {
        resource: _session(
            AuthorizedSession(_credentials(setting, resource)),  # type: ignore[no-untyped-call]
            adapter,
        )
        for resource in setting.resources
    }
    if len(sessions) == 1:
        return sessions[setting.resources[0]]
    return ByURL({url: session.get for url, session in sessions.items()}, adapter.close)


PEERS = (
    Peer(
        name=STATIC,
        stack="requests",
        imports="import requests",
        blocking=_static,
        distribution="requests",
    ),
    Peer(
        name="google-auth",
        stack="requests",
        imports=(
            "from google.auth.transport.requests import AuthorizedSession; "
            "from google.oauth2.credentials import Credentials"
        ),
        blocking=_authorized,
        lifetime=leeway(225),
        distribution="google-auth",
    ),
)
