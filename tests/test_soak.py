"""
The soak runs and counts right. For how long it goes well is for `make soak` to say.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_three_seconds_of_it(tmp_path: Path) -> None:
    """
    P4, P7: with an authorization server that fails three times in ten, and is down for a while,
    no API sees an expired token, and no request fails while a token is good.
    """
    file = tmp_path / "outcome.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--seconds", "3", "--json", file],
        cwd=ROOT,
        check=False,
        timeout=120,
    )
    outcome = json.loads(file.read_text(encoding="utf-8"))

    assert (0, 0) == (outcome["expired"], outcome["strayed"])
    assert 0 == outcome["failed_with_a_token"]
    assert outcome["requests"] > 0
    assert outcome["token_requests"] > outcome["failures"]
