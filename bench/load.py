"""Load from outside: wrk for closed loops, `bench.openloop` for a fixed rate of arrivals."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import ROOT
from bench.processes import Process

__all__ = [
    "Closed",
    "OpenLoop",
    "Target",
    "closed_loop",
    "have",
    "parse_wrk",
    "probe",
    "wrk_script",
]


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send what: ``headers`` of every request, and a key each in turn if there are any."""

    port: int
    path: str
    body: bytes
    keys: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Closed:
    """What a closed loop reached. Times in milliseconds, errors in requests."""

    requests: int
    seconds: float
    bytes: int
    errors: int
    p50_ms: float
    p99_ms: float
    max_ms: float

    @property
    def rps(self) -> float:
        return self.requests / self.seconds


_SCRIPT = """
local keys = {%(keys)s}
local file = assert(io.open(%(body)s, "rb"))
local body = file:read("*a")
file:close()
local made, turn = {}, 0

function init(args)
  for i = 1, math.max(#keys, 1) do
    local headers = {%(headers)s}
    if #keys > 0 then headers["Authorization"] = "Bearer " .. keys[i] end
    made[i] = wrk.format("POST", nil, headers, body)
  end
end

function request()
  turn = turn %% #made + 1
  return made[turn]
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'BENCH {"requests":%%d,"us":%%d,"bytes":%%.0f,"errors":%%d,"p50":%%d,"p99":%%d,"max":%%d}\\n',
    summary.requests, summary.duration, summary.bytes,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


def wrk_script(target: Target, body: Path) -> str:
    """Lua for wrk (its SCRIPTING file): every request is made once, before the clock starts."""
    headers = (("Content-Type", "application/json"), *target.headers)
    return _SCRIPT % {
        "keys": ",".join(json.dumps(key) for key in target.keys),
        "body": json.dumps(str(body)),
        "headers": ",".join(f"[{json.dumps(n)}]={json.dumps(v)}" for n, v in headers),
    }


def parse_wrk(output: str) -> Closed:
    """Raises `RuntimeError` with wrk's words when it did not get to its end."""
    for line in output.splitlines():
        if line.startswith("BENCH "):
            found = json.loads(line.removeprefix("BENCH "))
            return Closed(
                requests=found["requests"],
                seconds=found["us"] / 1e6,
                bytes=found["bytes"],
                errors=found["errors"],
                p50_ms=found["p50"] / 1000,
                p99_ms=found["p99"] / 1000,
                max_ms=found["max"] / 1000,
            )
    raise RuntimeError(f"wrk gave no result:\n{output[-2000:]}")


def probe(target: Target, timeout_s: float = 30) -> tuple[int, bytes]:
    """One request by hand: its status and every byte that came back, head and framing included."""
    lines = [f"POST {target.path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in target.headers]
    lines += [f"Authorization: Bearer {key}" for key in target.keys[:1]]
    lines += [f"Content-Length: {len(target.body)}", "", ""]
    with socket.create_connection(("127.0.0.1", target.port), timeout_s) as sock:
        sock.sendall("\r\n".join(lines).encode() + target.body)
        got = b""
        while not _complete(got):
            piece = sock.recv(1 << 16)
            if not piece:
                break
            got += piece
    if not got:
        raise ConnectionError("the connection was closed without an answer")
    return int(got[9:12]), got


def _complete(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    _, found, rest = head.lower().partition(b"content-length:")
    return len(body) >= int(rest.split(b"\r\n", 1)[0]) if found else body.endswith(b"0\r\n\r\n")


def closed_loop(
    target: Target, folder: Path, *, connections: int, seconds: int, core: int
) -> Closed:
    """As many requests as get answered over so many connections."""
    body, script, log = (folder / f"wrk{end}" for end in (".body", ".lua", ".out"))
    body.write_bytes(target.body)
    script.write_text(wrk_script(target, body))
    log.write_bytes(b"")
    url = f"http://127.0.0.1:{target.port}{target.path}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    process = Process([*command, "-s", str(script), url], log=log, core=core)
    try:
        process.wait(seconds + 45)
    finally:
        process.stop()
    return parse_wrk(log.read_text())


class OpenLoop:
    """A fixed rate of arrivals, from a program of its own; `result` waits for its end."""

    def __init__(
        self, target: Target, folder: Path, *, rate: float, seconds: float, core: int, name: str
    ) -> None:
        self._seconds = seconds
        body, spec = folder / f"{name}.body", folder / f"{name}.json"
        self._answer = folder / f"{name}.result"
        self._answer.unlink(missing_ok=True)
        body.write_bytes(target.body)
        headers = [("content-type", "application/json"), *target.headers]
        plan = {
            "port": target.port,
            "path": target.path,
            "headers": headers,
            "keys": target.keys,
            "body": str(body),
            "rate": rate,
            "seconds": seconds,
            "answer": str(self._answer),
        }
        spec.write_text(json.dumps(plan))
        command = [sys.executable, "-m", "bench.openloop", str(spec)]
        self._process = Process(command, log=folder / f"{name}.out", core=core, cwd=ROOT)

    def result(self) -> dict[str, Any]:
        """Figures as `bench.openloop` says them; raises `RuntimeError` when it failed."""
        try:
            code = self._process.wait(self._seconds + 60)
        finally:
            self._process.stop()
        if code:
            raise RuntimeError(f"the open loop failed:\n{self._process.tail()}")
        found: dict[str, Any] = json.loads(self._answer.read_text())
        return found


def have(programs: Sequence[str]) -> None:
    """Raises `SystemExit` naming what is missing and how to get it."""
    missing = [p for p in programs if shutil.which(p) is None]
    if missing:
        names = " ".join("nginx-light" if p == "nginx" else p for p in missing)
        raise SystemExit(f"bench needs {', '.join(missing)}: sudo apt-get install {names}")
