"""What the machine is, what its processors do, and whether somebody else keeps them busy."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["Cores", "Load", "Watch", "cpu_s", "describe", "peak_bytes", "rss_bytes"]

ROOT = Path(__file__).resolve().parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
OTHERS_MAX = 0.12
"""Cores that programs which are not ours may use while we measure; more spoils the figures."""
STEAL_MAX = 0.04
"""Cores the hypervisor may keep from us."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The measured program alone on one core; load and stand-ins on others."""

    subject: int
    load: int
    upstream: int

    @classmethod
    def here(cls) -> Cores:
        """Raises `SystemExit` on a machine with one core: nothing could be told apart there."""
        free = sorted(os.sched_getaffinity(0))
        if len(free) < 2:
            raise SystemExit("bench needs two cores: one for the gateway, one for the load")
        return cls(free[0], free[1], free[2] if len(free) > 2 else free[1])


@dataclass(frozen=True, slots=True)
class Load:
    """Processor time during one measurement, in cores."""

    seconds: float
    ours: float
    others: float
    steal: float

    @property
    def quiet(self) -> bool:
        return self.others <= OTHERS_MAX and self.steal <= STEAL_MAX


def parse_stat(line: str) -> tuple[int, int]:
    """``(work, steal)`` in ticks from the first line of /proc/stat (proc(5)).

    Work is user, nice, system, irq and softirq; guests are inside user already.
    """
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    return user + nice + system + irq + softirq, steal


def _machine() -> tuple[float, float]:
    with Path("/proc/stat").open() as file:
        work, steal = parse_stat(file.readline())
    return work / TICKS, steal / TICKS


def cpu_s(pid: int) -> float:
    """User and system time of a process, all threads, in seconds (proc(5), fields 14 and 15)."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def rss_bytes(pid: int) -> int:
    """Resident memory now."""
    return _status_bytes(pid, "VmRSS:")


def peak_bytes(pid: int) -> int:
    """The most resident memory there ever was."""
    return _status_bytes(pid, "VmHWM:")


class Watch:
    """Who used the processors between its making and `stop`.

    Ours are the long-lived processes named, this one, and every child that ended meanwhile.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = tuple(pids)
        self._start = time.perf_counter()
        self._work, self._steal = _machine()
        self._ours = self._used()

    def _used(self) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = resource.getrusage(resource.RUSAGE_SELF)
        used = ended.ru_utime + ended.ru_stime + own.ru_utime + own.ru_stime
        return used + sum(cpu_s(pid) for pid in self._pids)

    def stop(self) -> Load:
        seconds = max(time.perf_counter() - self._start, 1e-6)
        work, steal = _machine()
        ours = (self._used() - self._ours) / seconds
        others = max((work - self._work) / seconds - ours, 0.0)
        return Load(seconds, ours, others, (steal - self._steal) / seconds)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def describe() -> dict[str, Any]:
    """Commit, machine and versions, for the head of a result."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    packages = ("sanic", "uvloop", "httptools", "httpx", "msgspec", "orjson", "peewee")
    versions = {name: metadata.version(name) for name in packages}
    versions["python"] = platform.python_version()
    versions["nginx"] = _run("nginx", "-v").rpartition("/")[2] if shutil.which("nginx") else ""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": _run("git", "rev-parse", "--short=12", "HEAD"),
        "dirty": bool(_run("git", "status", "--porcelain", "--", "sellapi", "cli.py", "bench")),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gb": round(memory / 2**30),
            "kernel": platform.release(),
        },
        "versions": versions,
    }
