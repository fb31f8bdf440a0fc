"""
The benchmarks run and count right. What they time is nobody's business here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(name="rows", scope="module")
def _rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    file = tmp_path_factory.mktemp("benchmarks") / "rows.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", file],
        cwd=ROOT,
        check=True,
    )
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return rows


def test_every_row_is_there(rows: list[dict[str, Any]]) -> None:
    """
    Each benchmark measures every case, and every median is a positive number.
    """
    clients = [f"{library} {colour}" for library in ("httpx", "httpx2") for colour in _COLOURS]
    expected = [
        *(("warm-request", f"{client}, {rules}") for client in clients for rules in _RULES),
        ("cache-lookup", "by Resource"),
        ("cache-lookup", "by identifier"),
        *(("stampede", case) for case in _STAMPEDES),
        ("import-time", "import resource_tokens / import httpx"),
        *(("loopback-request", client) for client in clients),
        ("memory", "200 tokens"),
        ("memory", "20 tokens"),
    ]

    assert expected == [(row["benchmark"], row["case"]) for row in rows]
    assert all(row["spread"]["median"] > 0 for row in rows)
    assert all(row["baseline"] is None or row["baseline"]["median"] > 0 for row in rows)


def test_a_stampede_causes_one_token_request_per_resource(rows: list[dict[str, Any]]) -> None:
    """
    P6: however many tasks or threads miss together, the server gets one request for each resource.
    """
    stampedes = [row for row in rows if row["benchmark"] == "stampede"]

    assert _STAMPEDES == {row["case"]: row["spread"]["median"] for row in stampedes}


_COLOURS = ("sync", "async")
_RULES = ("1 rule", "1,000 rules")
_STAMPEDES = {
    "1,000 asyncio tasks, 1 resource": 1,
    "1,000 trio tasks, 1 resource": 1,
    "64 threads, 1 resource": 1,
    "1,000 asyncio tasks, 100 resources": 100,
}
