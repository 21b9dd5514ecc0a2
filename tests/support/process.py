"""sellapi as people start it: a process of its own, in an environment of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
SOURCE = (sys.executable, str(ROOT / "cli.py"))


def clean_env(home: Path, **more: str) -> dict[str, str]:
    """What a login shell has, and nothing of this machine's settings."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "SHIV_ROOT": str(home / ".shiv"), **more}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class Served:
    """A server that answers; ``url`` ends in /v1, ``output`` is what it has printed so far."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text("utf-8")

    @property
    def key(self) -> str:
        """The key that ``serve --demo`` printed."""
        return "sk-sellapi-" + self.output.partition("sk-sellapi-")[2].split()[0]

    def stop(self, sign: signal.Signals = signal.SIGTERM, within_s: float = 10.0) -> int:
        """Ask it to stop; returns its exit code."""
        self.process.send_signal(sign)
        return self.process.wait(within_s)


@contextmanager
def serve(
    *words: str, command: tuple[str, ...] = SOURCE, cwd: Path, env: dict[str, str]
) -> Iterator[Served]:
    """``sellapi serve`` with ``words`` on a free port, until the block ends.

    Its own session: Sanic may kill its whole process group.
    """
    port, log = free_port(), cwd / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "serve", "--port", str(port), *words],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    served = Served(f"http://127.0.0.1:{port}/v1", process, log)
    try:
        _wait(served, "Stop with Ctrl+C" if "--demo" in words else "sellapi serves")
        yield served
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait(served: Served, said: str, within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        assert served.process.poll() is None, f"it ended by itself:\n{served.output}"
        if said in served.output and _healthy(served):
            return
        time.sleep(0.05)
    raise AssertionError(f"it does not answer:\n{served.output}")


def _healthy(served: Served) -> bool:
    try:
        return httpx.get(served.url.removesuffix("/v1") + "/health").status_code == 200
    except httpx.TransportError:
        return False
