"""
A test server in a process of its own.
"""

import json
import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

__all__ = ["ChildServer"]


class ChildServer:
    """
    A running server: configured by one line on its stdin, ready when it writes one to its stdout.

    Args:
        command: What to run. It ends when its stdin does, so it cannot outlive us.
        config: The configuration. Over stdin, because a command line shows secrets to everyone
            on the machine.
        timeout: Seconds until it is ready.

    Attributes:
        ready: What it wrote.

    Raises:
        RuntimeError: It did not come up; what it said on stderr is in the message.
    """

    def __init__(
        self, command: Sequence[str], config: Mapping[str, Any], *, timeout: float = 30
    ) -> None:
        # A file, because a pipe that nobody reads would block the server once full.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr
        )
        try:
            self.ready: dict[str, Any] = self._configured(config, timeout)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """
        The process id of the server.
        """
        return self._process.pid

    @property
    def running(self) -> bool:
        """
        Whether its process is still there.
        """
        return self._process.poll() is None

    def stop(self) -> None:
        """
        End the process. A second call is harmless.
        """
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _configured(self, config: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(config).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("ended at once") from None
        line = self._first_line(timeout)
        if not line:
            raise self._failure("ended before it was ready")
        ready: dict[str, Any] = json.loads(line)
        return ready

    def _first_line(self, timeout: float) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            return lines.get(timeout=timeout)
        except queue.Empty:
            raise self._failure("did not say in time where it listens") from None

    def _failure(self, what: str) -> RuntimeError:
        self._process.kill()
        status = self._process.wait()
        self._stderr.seek(0)
        stderr = self._stderr.read().decode(errors="replace")
        return RuntimeError(
            f"{type(self).__name__} {what} (exit status {status}). It said:\n{stderr}"
        )
