"""``python -m bench.chaos [--rounds N] [--seconds S] [--seed N]``: loopback only, own processes only."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpx

from bench.chaos.check import check
from bench.chaos.load import CHAT, DEAD, EMBED, FAILOVER, PRICES, Load
from tests.support.running import Shopkeeper

ROOT = Path(__file__).parents[2]
ACCOUNTS = 40
RUDE_ACCOUNTS = 10
CLIENTS, RUDE = 24, 8
UP_WITHIN_S = 15.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Process:
    """A child in a session of its own; only ever ended by its own pid."""

    def __init__(self, *arguments: str, log: Path, env: dict[str, str] | None = None) -> None:
        self._log = log.open("ab")
        self.child = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def end(self, how: signal.Signals, within_s: float = 30.0) -> None:
        with suppress(ProcessLookupError):
            self.child.send_signal(how)
        try:
            self.child.wait(within_s)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise
        finally:
            self._log.close()


class Chaos:
    """One shop, its provider and its server, over several rounds."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.database = folder / "chaos.db"
        self.log = folder / "server.log"
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.differences: list[str] = []
        self.received: set[str] = set()
        """Requests whose answer came to its end, of all rounds."""
        self._provider_port, self._port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self._port}/v1"
        self.keys = self._stock()
        self._provider = Process(
            "bench.chaos.provider", str(self._provider_port), log=folder / "provider.log"
        )
        self.server: Process | None = None

    def _stock(self) -> list[str]:
        shop = Shopkeeper.open(self.database)
        shop.execute("UPDATE tiers SET rpm = 1000000, account_rpm = 1000000")
        base = f"http://127.0.0.1:{self._provider_port}/v1"
        columns = {"api_key_env": "CHAOS_PROVIDER_KEY", "timeout_ms": 2_500}
        good = shop.provider("good", base, **columns)
        gone = shop.provider("gone", f"http://127.0.0.1:{free_port()}/v1", **columns)
        chat = {"context_length": 4_096, "max_output": 256}
        shop.model(CHAT, good, prices=PRICES[CHAT], **chat)
        shop.model(DEAD, gone, prices=PRICES[DEAD], **chat)
        failover = shop.model(FAILOVER, gone, prices=PRICES[FAILOVER], **chat)
        shop.route(failover, good, "second", priority=1)
        shop.model(EMBED, good, mode="embedding", prices=PRICES[EMBED], context_length=8_192)
        keys = []
        for number in range(ACCOUNTS):
            grant = 40 if number == 0 else 100_000  # one of them is often short
            account = shop.user(f"chaos-{number}@example.test", tier="pro", grant=grant)
            keys.append(shop.key(account))
        shop.database.close()
        return keys

    # -- the server --------------------------------------------------------------------------------

    async def start(self) -> None:
        arguments = ("serve", "--port", str(self._port), "--database", str(self.database))
        env = {
            "CHAOS_PROVIDER_KEY": "chaos-provider-key",
            "SELLAPI_SHUTDOWN_TIMEOUT": "6",
            "SELLAPI_WRITE_STALL_TIMEOUT": "3",
        }
        self.server = Process("bench.chaos.server", *arguments, log=self.log, env=env)
        until = time.monotonic() + UP_WITHIN_S
        async with httpx.AsyncClient(trust_env=False) as http:
            while time.monotonic() < until:
                with suppress(httpx.HTTPError):
                    if (await http.get(self.url.removesuffix("/v1") + "/health")).is_success:
                        return
                if self.server.child.poll() is not None:
                    break
                await asyncio.sleep(0.05)
        raise RuntimeError(f"the server does not start:\n{self.log.read_text()[-2000:]}")

    async def end(self, how: signal.Signals) -> None:
        assert self.server is not None
        self.counts[how.name] += 1
        try:
            await asyncio.to_thread(self.server.end, how)
        except subprocess.TimeoutExpired:
            self.differences.append(f"the server did not end within 30 s of {how.name}")

    async def restart(self, how: signal.Signals) -> None:
        await self.end(how)
        await asyncio.sleep(self.random.random() * 0.3)
        await self.start()

    # -- what happens to it ------------------------------------------------------------------------

    async def killed(self, seconds: float) -> None:
        for _ in range(2):
            await asyncio.sleep(seconds / 3 * (0.5 + self.random.random()))
            await self.restart(signal.SIGKILL)

    async def terminated(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 2)
        await self.restart(signal.SIGTERM)

    async def locked(self, seconds: float) -> None:
        def lock() -> None:
            other = sqlite3.connect(self.database, timeout=10, isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(seconds / 2)
            other.execute("ROLLBACK")
            other.close()

        await asyncio.sleep(seconds / 4)
        self.counts["database locked"] += 1
        await asyncio.to_thread(lock)
        await asyncio.sleep(seconds / 4)

    async def full(self, seconds: float) -> None:
        flag = Path(f"{self.database}.full")
        await asyncio.sleep(seconds / 4)
        self.counts["database full"] += 1
        flag.touch()
        await asyncio.sleep(seconds / 2)
        flag.unlink()
        await asyncio.sleep(seconds / 4)

    async def refused_by_disk(self, seconds: float) -> None:
        """Writes beyond 4 kB into a file fail, as on a broken disk."""
        assert self.server is not None
        pid, free = self.server.child.pid, resource.RLIM_INFINITY
        await asyncio.sleep(seconds / 4)
        self.counts["disk errors"] += 1
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4_096, free))
        await asyncio.sleep(seconds / 2)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (free, free))
        await asyncio.sleep(seconds / 4)

    async def moved_away(self, seconds: float) -> None:
        aside = self.database.with_suffix(".aside")
        await asyncio.sleep(seconds / 4)
        self.counts["database moved away"] += 1
        self.database.rename(aside)
        await asyncio.sleep(seconds / 4)
        aside.rename(self.database)
        await asyncio.sleep(seconds / 2)

    async def operated(self, seconds: float) -> None:
        """Operators at work beside the server: each of these must do what it says."""
        self.counts["operators' acts under load"] += 1
        backup = self.database.with_name(f"backup-{self.random.randrange(2**32)}.db")
        await asyncio.sleep(seconds / 4)
        await asyncio.gather(
            self._cli(0, "db", "backup", str(backup)),
            self._cli(0, "credits", "grant", "chaos-0@example.test", "25", "--reason", "chaos"),
            self._cli(0, "ledger", "verify"),
            self._cli(1, "db", "restore", str(self.log), "--yes"),
        )
        await self._cli(0, "ledger", "verify", database=backup)
        backup.unlink(missing_ok=True)

    async def _cli(self, code: int, *words: str, database: Path | None = None) -> None:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "cli.py", *words, "--database", str(database or self.database)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await child.communicate()
        if child.returncode != code:
            told = said.decode(errors="replace")[-300:]
            self.differences.append(f"`sellapi {words[0]} {words[1]}`: {child.returncode}: {told}")

    async def killed_while(self, trouble: Callable[[float], Awaitable[None]], s: float) -> None:
        async def kill() -> None:
            await asyncio.sleep(s / 2)
            await self.end(signal.SIGKILL)

        await asyncio.gather(trouble(s), kill())
        await self.start()

    # -- a round -----------------------------------------------------------------------------------

    async def round(self, number: int, seconds: float) -> None:
        events: list[tuple[str, Callable[[float], Awaitable[None]]]] = [
            ("kill -9, twice", self.killed),
            ("SIGTERM mid-stream", self.terminated),
            ("locked from outside", self.locked),
            ("database full", self.full),
            ("locked, then kill -9", lambda s: self.killed_while(self.locked, s)),
            ("disk refuses writes", self.refused_by_disk),
            ("full, then kill -9", lambda s: self.killed_while(self.full, s)),
            ("file moved away", self.moved_away),
            ("backup, verify, sales", self.operated),
        ]
        name, event = events[number % len(events)]
        polite, rude = self.keys[:-RUDE_ACCOUNTS], self.keys[-RUDE_ACCOUNTS:]
        load = Load(self.url, polite, rude, seed=self.random.randrange(2**32))
        running = asyncio.ensure_future(load.run(CLIENTS, RUDE))
        await event(seconds)
        await asyncio.sleep(0.5)
        load.stopping = True
        await running
        await self.restart(signal.SIGKILL if number % 2 else signal.SIGTERM)
        self.received |= {a.request_id or "" for a in load.answers if a.complete or a.broken}
        checked = await asyncio.to_thread(
            check, self.database, load.answers, self.received, len(polite)
        )
        self.counts.update(load.seen)
        self.counts["requests sent"] += load.sent
        for what, count in checked.counts.items():
            if what in ("charges", "holds swept", "charges marked undelivered"):
                self.counts[what] = count  # of the whole database
            else:
                self.counts[what] += count
        wrong = checked.differences + [
            f"unwanted answer: {w} ({n})" for w, n in load.unwanted.items()
        ]
        self.differences += [f"round {number + 1} ({name}): {w}" for w in wrong]
        print(f"round {number + 1:2} {name:22} {load.sent:5} requests, {len(wrong)} differences")
        sys.stdout.flush()

    async def finish(self) -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            played = await http.get(f"http://127.0.0.1:{self._provider_port}/stats")
        self.counts.update({f"provider: {fault}": count for fault, count in played.json().items()})
        await self.end(signal.SIGTERM)

    def close(self) -> None:
        for process in (self.server, self._provider):
            if process is not None and process.child.poll() is None:
                process.end(signal.SIGKILL)


async def run(folder: Path, rounds: int, seconds: float, seed: int) -> Chaos:
    """All rounds; the counts and differences are in what is returned."""
    chaos = Chaos(folder, seed)
    try:
        await chaos.start()
        for number in range(rounds):
            await chaos.round(number, seconds)
        await chaos.finish()
    finally:
        chaos.close()
    return chaos


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4.0, help="of trouble in a round")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", action="store_true", help="keep the database and the logs")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sellapi-chaos-"))
    print(f"seed {options.seed}, {options.rounds} rounds")
    started = time.monotonic()
    chaos = asyncio.run(run(folder, options.rounds, options.seconds, options.seed))
    print(f"\n{'what':48} count")
    for what, count in sorted(chaos.counts.items()):
        print(f"{what:48} {count}")
    print(f"{'seconds':48} {time.monotonic() - started:.0f}")
    print(f"{'differences':48} {len(chaos.differences)}")
    for difference in chaos.differences[:40]:
        print(" ", difference)
    if options.keep or chaos.differences:
        print(f"database and logs are in {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if chaos.differences else 0


if __name__ == "__main__":
    sys.exit(main())
