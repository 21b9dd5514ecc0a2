"""``python -m bench.abuse``: what a good client feels while others attack, and what memory it costs.

Loopback only; server, provider and attackers are processes of their own, ended by their own ids.
For each attack: p50, p99 and the slowest answer of a client that asks for one embedding after the
other, and the server's resident memory before, at its highest, and 3 s after the attack.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.chaos.__main__ import Chaos, Process
from bench.chaos.load import CHAT, EMBED

Attack = Callable[[int, str, int], Awaitable[None]]
"""``(port, good key, number of this client)``; run again and again by many clients at once."""

ORDER = {"f": "ok", "i": 10, "c": 0, "o": 5, "n": 2}


async def connect(
    port: int, receive_buffer: int = 0, *, attacking: bool = True
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if attacking:  # strangers have other addresses than the good client
        sock.bind((f"127.0.0.{random.randint(2, 9)}", 0))
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return await asyncio.open_connection(sock=sock)


def post(path: str, key: str, body: bytes, *more: str, length: int | None = None) -> bytes:
    lines = [
        f"POST /v1{path} HTTP/1.1",
        "host: x",
        "content-type: application/json",
        f"authorization: Bearer {key}",
        *more,
    ]
    if not any(line.startswith("transfer-encoding") for line in more):
        lines.append(f"content-length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def read_answer(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    await reader.readexactly(length)
    return int(head.split(" ")[1])


async def trickle(port: int, opening: bytes) -> None:
    """One byte a second, until the server has enough of it."""
    reader, writer = await connect(port)
    with contextlib.closing(writer):
        writer.write(opening)
        while not reader.at_eof():
            writer.write(b"x")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(65_536), 1.0)


# -- attacks ---------------------------------------------------------------------------------------


async def slow_heads(port: int, _key: str, _number: int) -> None:
    await trickle(port, b"POST /v1/chat/completions HTTP/1.1\r\nx-slow: ")


async def slow_bodies(port: int, key: str, number: int) -> None:
    key = key if number % 2 else "sk-sellapi-" + "A" * 43
    await trickle(port, post("/embeddings", key, b'{"model": "', length=200_000))


async def idle(port: int, _key: str, _number: int) -> None:
    reader, writer = await connect(port)
    with contextlib.closing(writer):
        await reader.read(65_536)
    await asyncio.sleep(0.2)


async def bad_keys(port: int, _key: str, _number: int) -> None:
    reader, writer = await connect(port)
    with contextlib.closing(writer):
        for _ in range(200):
            key = "sk-sellapi-" + random.randbytes(24).hex()[:43]
            writer.write(post("/chat/completions", key, b"{}"))
            assert await read_answer(reader) == 401


async def giant_heads(port: int, _key: str, _number: int) -> None:
    reader, writer = await connect(port)
    with contextlib.closing(writer):
        writer.write(b"GET /v1/models HTTP/1.1\r\n")
        for _ in range(64):
            writer.write(b"x-big: " + b"y" * 65_000 + b"\r\n")
            await writer.drain()
        await reader.read(65_536)


async def endless_bodies(port: int, key: str, number: int) -> None:
    key = key if number % 2 else "sk-sellapi-" + "A" * 43
    reader, writer = await connect(port)
    with contextlib.closing(writer):
        writer.write(post("/embeddings", key, b"", "transfer-encoding: chunked"))
        piece = b"10000\r\n" + b"z" * 65_536 + b"\r\n"
        while not writer.is_closing() and not reader.at_eof():
            writer.write(piece)
            await writer.drain()


async def never_read(port: int, key: str, _number: int) -> None:
    order = ORDER | {"n": 120, "w": 20_000}
    body = {"model": CHAT, "stream": True, "max_tokens": 64}
    body["messages"] = [{"role": "user", "content": json.dumps(order)}]
    _, writer = await connect(port, receive_buffer=4_096)
    with contextlib.closing(writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(post("/chat/completions", key, json.dumps(body).encode()))
        await asyncio.sleep(60)


async def pipelining(port: int, _key: str, _number: int) -> None:
    reader, writer = await connect(port)
    with contextlib.closing(writer):
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 2_000)
        for _ in range(2_000):
            await read_answer(reader)


async def strange_json(port: int, key: str, number: int) -> None:
    bodies = (
        b'{"model": "' + EMBED.encode() + b'", "input": ' + b"9" * 2_000_000 + b"}",
        b'{"model": "' + EMBED.encode() + b'", "input": ' + b"[" * 1_000_000,
        b'{"model": "' + b"m" * 4_000_000 + b'"}',
        b"{" + b",".join(b'"k%d":1' % i for i in range(200_000)) + b"}",
    )
    reader, writer = await connect(port)
    with contextlib.closing(writer):
        writer.write(post("/embeddings", key, bodies[number % len(bodies)]))
        assert 400 <= await read_answer(reader) < 500


async def zipped(port: int, key: str, _number: int) -> None:
    reader, writer = await connect(port)
    with contextlib.closing(writer):
        writer.write(post("/embeddings", key, b"\x1f\x8b" * 500, "content-encoding: gzip"))
        assert await read_answer(reader) == 415


ATTACKS: dict[str, tuple[Attack, int, str]] = {
    "slow heads": (slow_heads, 1_500, "1,500 connections, one byte a second"),
    "slow bodies": (slow_bodies, 1_000, "1,000 connections, half with a good key"),
    "idle connections": (idle, 6_000, "6,000 connections from 8 addresses"),
    "bad keys": (bad_keys, 100, "100 connections, each key another"),
    "giant heads": (giant_heads, 20, "20 clients, 4 MB of headers"),
    "endless bodies": (endless_bodies, 20, "20 clients, chunked without end"),
    "never read": (never_read, 60, "60 streams of 12 MB, unread"),
    "pipelining": (pipelining, 10, "10 clients, 2,000 requests at once"),
    "strange JSON": (strange_json, 4, "4 clients, MBs of digits, brackets, keys"),
    "zipped bodies": (zipped, 20, "20 clients"),
}


async def attack(name: str, port: int, key: str, seconds: float) -> None:
    act, clients, _ = ATTACKS[name]

    async def again(number: int) -> None:
        await asyncio.sleep(random.random() * min(2.0, clients / 500))
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await act(port, key, number)
            await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(again(n)) for n in range(clients)]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()


# -- the good client -------------------------------------------------------------------------------


async def good(port: int, key: str, seconds: float) -> list[float]:
    """Milliseconds of each answer; anything but a 200 is an error."""
    body = {"model": EMBED, "input": json.dumps(ORDER)}
    request = post("/embeddings", key, json.dumps(body).encode())
    took = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        reader, writer = await connect(
            port, attacking=False
        )  # a new connection now and then, as clients do
        for _ in range(20):
            start = time.perf_counter()
            writer.write(request)
            status = await read_answer(reader)
            took.append((time.perf_counter() - start) * 1_000)
            assert status == 200, status
            await asyncio.sleep(0.005)
        writer.close()
    return sorted(took)


def memory_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


async def measure(
    chaos: Chaos, name: str | None, seconds: float
) -> tuple[list[float], list[float]]:
    """Latencies, and memory before, highest and after."""
    assert chaos.server is not None
    port, pid = int(chaos.url.split(":")[2].split("/")[0]), chaos.server.child.pid
    memory = [memory_mb(pid)]
    child = None
    if name is not None:
        arguments = ["bench.abuse", "--attack", name, str(port), chaos.keys[1], str(seconds + 2)]
        child = Process(*arguments, log=chaos.log.with_name("attack.log"))
        await asyncio.sleep(2.0)
    watching = asyncio.ensure_future(_highest(pid))
    took = await good(port, chaos.keys[2], seconds)
    watching.cancel()
    if child is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(child.child.wait, 20)
        child.end(signal.SIGKILL)
        if child.child.returncode:
            raise RuntimeError(chaos.log.with_name("attack.log").read_text()[-1500:])
    await asyncio.sleep(3.0)
    return took, [memory[0], max(_seen), memory_mb(pid)]


_seen: list[float] = []


async def _highest(pid: int) -> None:
    _seen.clear()
    while True:
        _seen.append(memory_mb(pid))
        await asyncio.sleep(0.1)


async def run(folder: Path, seconds: float, names: list[str]) -> None:
    chaos = Chaos(folder, seed=1)
    try:
        await chaos.start()
        print(f"{'attack':18} {'answers':>7} {'p50 ms':>7} {'p99 ms':>7} {'max ms':>7}   memory MB")
        for name in [None, *names, None]:
            took, memory = await measure(chaos, name, seconds)
            p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
            before, highest, after = memory
            print(
                f"{name or '(none)':18} {len(took):7} {p50:7.1f} {p99:7.1f} {took[-1]:7.1f}   "
                f"{before:.0f} → {highest:.0f} → {after:.0f}   {ATTACKS[name][2] if name else ''}"
            )
            sys.stdout.flush()
        await chaos.end(signal.SIGTERM)
    finally:
        chaos.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.abuse", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each attack")
    parser.add_argument("--only", choices=list(ATTACKS), action="append")
    parser.add_argument("--attack", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        name, port, key, seconds = options.attack
        asyncio.run(attack(name, int(port), key, float(seconds)))
        return
    folder = Path(tempfile.mkdtemp(prefix="sellapi-abuse-"))
    try:
        asyncio.run(run(folder, options.seconds, options.only or list(ATTACKS)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
