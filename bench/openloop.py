"""Requests at a fixed rate, whatever the answers do: ``python -m bench.openloop SPEC.json``.

Arrivals are scheduled beforehand and every latency counts from the schedule, not from the moment
of sending: a server that stalls is charged for everyone who would have come meanwhile (no
"coordinated omission"). A plain select() loop, because uvloop's and epoll's timers are whole
milliseconds, which is as much as we want to measure. How late this program itself was is reported.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from bench.report import percentile

WARM_UP_S = 0.5
GRACE_S = 20.0


class Connection:
    """One keep-alive connection and the answer it waits for."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.unsent = memoryview(b"")
        self.due = 0.0
        self.first: float | None = None
        self.measured = False
        self._data = bytearray()
        self._body = -1
        self._length: int | None = None

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, request: bytes, due: float, *, measured: bool) -> None:
        self._data.clear()
        self._body, self._length, self.first = -1, None, None
        self.due, self.measured = due, measured
        self.unsent = memoryview(request)
        self.flush()

    def flush(self) -> None:
        try:
            while self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
        except BlockingIOError:
            return

    def receive(self, now: float) -> int | None:
        """The status once the answer is complete, else None; raises `ConnectionError` at an end."""
        data = self.sock.recv(1 << 18)
        if not data:
            raise ConnectionError
        self._data += data
        if self._body < 0 and not self._read_head():
            return None
        if self.first is None and self._begun():
            self.first = now
        if self._length is None:
            done = self._data.endswith(b"0\r\n\r\n")
        else:
            done = len(self._data) - self._body >= self._length
        return int(self._data[9:12]) if done else None

    def _begun(self) -> bool:
        """Whether something of the body is there; of a stream, an event and not just a comment."""
        if self._length is not None:
            return len(self._data) > self._body
        return self._data.find(b"data:", self._body) >= 0

    def _read_head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        self._body = end + 4
        _, found, rest = bytes(self._data[:end]).lower().partition(b"content-length:")
        self._length = int(rest.split(b"\r\n", 1)[0]) if found else None
        return True


class Run:
    def __init__(self, spec: dict[str, Any]) -> None:
        self._port = spec["port"]
        self._rate = spec["rate"]
        self._warm = int(self._rate * min(WARM_UP_S, spec["seconds"]))
        self._count = self._warm + max(int(self._rate * spec["seconds"]), 1)
        self._requests = _requests(spec)
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()
        self.latencies: list[float] = []
        self.firsts: list[float] = []
        self.late: list[float] = []
        self.errors = 0

    def go(self) -> None:
        start = time.perf_counter() + 0.05
        end = start + self._count / self._rate + GRACE_S
        sent = 0
        while sent < self._count or self._busy:
            now = time.perf_counter()
            if now > end:
                self.errors += len(self._busy)
                break
            while sent < self._count and now >= (due := start + sent / self._rate):
                self._send(sent, due, now)
                sent += 1
            wait = start + sent / self._rate - time.perf_counter() if sent < self._count else 1.0
            writing = [c for c in self._busy if c.unsent]
            ready, free, _ = select.select(self._busy, writing, (), max(wait, 0))
            for connection in free:
                connection.flush()
            for connection in ready:
                self._receive(connection)

    def _send(self, number: int, due: float, now: float) -> None:
        measured = number >= self._warm
        if measured:
            self.late.append(now - due)
        connection = self._idle.pop() if self._idle else Connection(self._port)
        self._busy.add(connection)
        try:
            connection.send(self._requests[number % len(self._requests)], due, measured=measured)
        except ConnectionError:
            self._lost(connection)

    def _receive(self, connection: Connection) -> None:
        now = time.perf_counter()
        try:
            status = connection.receive(now)
        except ConnectionError:
            self._lost(connection)
            return
        if status is None:
            return
        self._busy.discard(connection)
        self._idle.append(connection)
        if status != 200:
            self.errors += 1
        elif connection.measured:
            self.latencies.append(now - connection.due)
            self.firsts.append((connection.first or now) - connection.due)

    def _lost(self, connection: Connection) -> None:
        self.errors += 1
        self._busy.discard(connection)
        connection.sock.close()

    def figures(self) -> dict[str, Any]:
        """Milliseconds; ``late`` is this program's own delay in sending (inside the others)."""
        found: dict[str, Any] = {"answers": len(self.latencies), "errors": self.errors}
        for name, values in (("", self.latencies), ("first_", self.firsts), ("late_", self.late)):
            for share in (50, 99):
                found[f"{name}p{share}_ms"] = percentile(values, share) * 1000
        found["max_ms"] = max(self.latencies, default=0.0) * 1000
        return found


def _requests(spec: dict[str, Any]) -> list[bytes]:
    body = Path(spec["body"]).read_bytes()
    lines = [f"POST {spec['path']} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in spec["headers"]]
    made = []
    for key in spec["keys"] or (None,):
        own = [] if key is None else [f"authorization: Bearer {key}"]
        made.append("\r\n".join(lines + own + ["", ""]).encode() + body)
    return made


def main(path: str) -> None:
    spec = json.loads(Path(path).read_text())
    run = Run(spec)
    gc.collect()
    gc.disable()
    run.go()
    Path(spec["answer"]).write_text(json.dumps(run.figures()))


if __name__ == "__main__":
    main(sys.argv[1])
