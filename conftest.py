"""
Runs the code blocks of README.md, CONTRIBUTING.md and docs/, by Sybil.

The documents show hosts such as `https://inventory.example.com/`, which nobody can ask. No mock
answers for them: each document gets real servers on 127.0.0.1, those of `resource_tokens.testing`,
and right before a block runs the shown origins in its text are replaced by the origins of these
servers. What the block prints is translated back before it is compared. All else, from the token
request to the check of `aud`, happens over sockets.

- A `python` block is executed; the blocks of one document share a namespace. If it defines a test,
  it is run by a pytest of its own instead.
- An `output` block is what the `python` block before it prints.
- A `toml` block is written to `resource-tokens.toml` in a folder of the document's own, in which
  its later blocks run.
- In a comment that readers do not see, `<!--- invisible-code-block: python ... --->` can prepare
  the servers, by the name `loopback`.
- Every other language is only shown; tests/test_docs.py holds the list of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import ExitStack, chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from sybil import Example, Lexeme, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

from resource_tokens.testing import LocalAuthorizationServer, LocalResourceServer


class Loopback:
    """
    The servers behind the hosts that a document shows.
    """

    def __init__(self) -> None:
        self.login = LocalAuthorizationServer().start()
        self.inventory = LocalResourceServer(self.login).start()
        self.billing = LocalResourceServer(self.login).start()
        self.gateway = LocalResourceServer(
            self.login,
            audiences={"/billing": "urn:example:billing", "/orders": "urn:example:orders"},
        ).start()
        self.storage = LocalResourceServer(self.login).start()
        self.storage.respond("/exports/stock.csv", body=b"sku,count\n")
        self.inventory.redirect("/v1/export", f"{self.storage.url}exports/stock.csv")
        self._origins = {
            "https://login.example.com": self.login.issuer,
            "https://inventory.example.com": self.inventory.url.rstrip("/"),
            "https://billing.example.com": self.billing.url.rstrip("/"),
            "https://gw.example.com": self.gateway.url.rstrip("/"),
            "https://storage.example.net": self.storage.url.rstrip("/"),
        }

    def stop(self) -> None:
        """
        Stop them all.
        """
        for server in (self.login, self.inventory, self.billing, self.gateway, self.storage):
            server.stop()

    def real(self, text: str) -> str:
        """
        The text with the shown origins replaced by the real ones.
        """
        for shown, real in self._origins.items():
            text = re.sub(rf"{re.escape(shown)}(?![\w.:@-])", real, text)
        return text

    def shown(self, text: str) -> str:
        """
        The other way round.
        """
        for shown, real in self._origins.items():
            text = text.replace(real, shown)
        return text


def run_python(example: Example) -> str | None:
    """
    Execute a block, or test with it if it defines tests. A text returned is a failure.
    """
    loopback: Loopback = example.namespace["loopback"]
    block: Lexeme = example.parsed
    example.parsed = Lexeme(loopback.real(block), block.offset, block.line_offset)
    if re.search(r"^(?:async )?def test_", example.parsed, re.MULTILINE):
        return outcome_of_tests(example.parsed)
    printed = StringIO()
    with redirect_stdout(printed):
        PythonEvaluator()(example)
    example.namespace["printed"] = loopback.shown(printed.getvalue())
    return None


def write_toml(example: Example) -> None:
    """
    Write a settings file for the blocks that follow.
    """
    namespace = example.namespace
    if "folder" not in namespace:
        namespace["folder"] = Path(namespace["cleanup"].enter_context(TemporaryDirectory()))
        namespace["cleanup"].enter_context(chdir(namespace["folder"]))
        (namespace["folder"] / "refresh-token").write_text("rt-1", encoding="utf-8")
    text = namespace["loopback"].real(str(example.parsed))
    (namespace["folder"] / "resource-tokens.toml").write_text(text, encoding="utf-8")


def outcome_of_tests(source: str) -> str | None:
    """
    Run a block that is a test module the way its reader does.
    """
    with TemporaryDirectory() as folder:
        Path(folder, "test_block.py").write_text(source, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        tested = subprocess.run(  # noqa: S603 - what runs is our own documentation
            command, cwd=folder, capture_output=True, text=True, check=False
        )
    return tested.stdout + tested.stderr if tested.returncode else None


def compare_output(example: Example) -> str | None:
    """
    Compare with what the block before has printed. The ports of loopback addresses differ.
    """
    expected, actual = (
        re.sub(r"(?<=127\.0\.0\.1:)\d+", "PORT", text).strip()
        for text in (str(example.parsed), example.namespace["printed"])
    )
    return None if expected == actual else f"expected:\n{expected}\nprinted:\n{actual}"


def set_up(namespace: dict[str, Any]) -> None:
    """
    Before the first block of a document.
    """
    stack = namespace["cleanup"] = ExitStack()
    namespace["loopback"] = loopback = Loopback()
    stack.callback(loopback.stop)
    # The servers are on this machine, so no proxy leads to them.
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment["ORDERS_CLIENT_SECRET"] = loopback.login.clients["orders-worker"]
    stack.enter_context(mock.patch.dict(os.environ, environment, clear=True))


def tear_down(namespace: dict[str, Any]) -> None:
    """
    After the last one.
    """
    namespace["cleanup"].close()


pytest_collect_file = Sybil(
    parsers=[
        CodeBlockParser(language="python", evaluator=run_python),
        CodeBlockParser(language="output", evaluator=compare_output),
        CodeBlockParser(language="toml", evaluator=write_toml),
    ],
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/*/*.md", "docs/*/*/*.md"],
    setup=set_up,
    teardown=tear_down,
).pytest()
