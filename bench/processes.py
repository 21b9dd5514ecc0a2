"""Starting programs on a core of their own, and ending exactly those again, by their ids."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["Process", "free_port", "wait_for"]


def free_port() -> int:
    """A port nobody listens on, below those the kernel gives to outgoing connections."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("a hundred ports were tried and all were taken")


class Process:
    """A program in a session of its own; its output goes to a file beside the run's other files."""

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        log: Path,
        core: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.log = log
        pinned = () if core is None else ("taskset", "-c", str(core))  # it execs: the id stays
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                [*pinned, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def wait(self, timeout_s: float) -> int:
        """The exit code; a program that takes longer is ended and raises `TimeoutError`."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.stop(grace_s=1)
            raise TimeoutError(f"{self.log.stem} took over {timeout_s} s") from None

    def stop(self, grace_s: float = 15) -> None:
        """SIGTERM, then SIGKILL for it and what it started (its session is its own)."""
        if not self.running:
            return
        self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait(5)

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def wait_for(process: Process, port: int, timeout_s: float = 20) -> None:
    """Until the program listens; raises `RuntimeError` with the end of its output if it never does."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not process.running:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.01)
    raise RuntimeError(f"nothing listens on port {port}:\n{process.tail()}")
