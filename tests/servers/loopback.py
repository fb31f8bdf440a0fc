"""
Plain requests to the test servers themselves.

Not httpx: a test may alias or patch it. No proxy from the environment: it could not reach loopback.
"""

import json
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def send(url: str, *, method: str = "GET", body: bytes | None = None, timeout: float = 10) -> bytes:
    """
    The body of the answer; raises OSError for an error status or a broken connection.
    """
    if urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ValueError(f"{url} is not a loopback address")
    request = urllib.request.Request(url, body, method=method)
    with _opener.open(request, timeout=timeout) as response:
        answer = response.read()
    assert isinstance(answer, bytes)
    return answer


def fetch_json(url: str, *, timeout: float = 10) -> Any:
    """
    The JSON document at this address.
    """
    return json.loads(send(url, timeout=timeout))


def post_form(url: str, form: Mapping[str, str | list[str]]) -> bytes:
    """
    The answer to a form; a list repeats its parameter.
    """
    return send(url, method="POST", body=urlencode(form, doseq=True).encode())
