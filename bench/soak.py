"""Full load for twenty minutes, answers and streams in turn: memory must be flat."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench import billing
from bench.load import closed_loop
from bench.machine import rss_bytes
from bench.report import Value, check_lines, judge
from bench.shop import JOBS
from bench.stage import open_stage
from bench.targets import billing_checks

__all__ = ["growth_mb", "run_soak"]

TURN_S = 10
JOBS_IN_TURN = ("plain", "burst", "plain", "claude-burst", "paced-5ms")
MB = 1 << 20
BYTES_PER_REQUEST = 1_500
REQUESTS_PER_S = 12_000
FLAT_MB = 10.0


def growth_mb(memory: Sequence[float]) -> float:
    """Megabytes between the second tenth of a run and its last: what start-up takes is over then.

    Medians of each, so that one large moment is not taken for a leak.
    """
    tenth = max(len(memory) // 10, 1)
    return statistics.median(memory[-tenth:]) - statistics.median(
        memory[tenth : 2 * tenth] or memory
    )


def run_soak(minutes: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Raises `SystemExit` when the disk has no room for the requests such a run writes."""
    seconds, begun = minutes * 60, time.monotonic()
    memory: list[float] = []
    turns: list[dict[str, float | str]] = []
    with open_stage() as stage:
        needed = int(seconds * REQUESTS_PER_S * BYTES_PER_REQUEST)
        if shutil.disk_usage(stage.folder).free < needed:
            raise SystemExit(
                f"a soak of {minutes:g} minutes may write {needed >> 30} GB; free some"
            )
        subject = stage.add_sellapi()
        assert subject.process is not None
        number = 0
        while time.monotonic() - begun < seconds:
            job = JOBS[JOBS_IN_TURN[number % len(JOBS_IN_TURN)]]
            number += 1
            done = closed_loop(
                subject.target(job),
                stage.folder,
                connections=64,
                seconds=TURN_S,
                core=stage.cores.load,
            )
            stage.answered[subject.name] += done.requests
            memory.append(rss_bytes(subject.process.pid) / MB)
            at = time.monotonic() - begun
            turns.append({"at_s": at, "job": job.name, "per_s": done.rps, "memory_mb": memory[-1]})
            turns[-1]["errors"] = done.errors
            say(f"{at:7.0f} s  {job.name:<13} {done.rps:8,.0f}/s  {memory[-1]:6.1f} MB")
        counted = billing.count(stage, subject)
    errors = sum(float(t["errors"]) for t in turns)
    whole = [
        judge("memory grew by", Value(growth_mb(memory), True, 1), "<=", FLAT_MB, unit="MB"),
        judge("highest memory", Value(max(memory), True, 1), "<=", 200, unit="MB"),
        judge("errors", Value(errors, True, 1), "<=", 0),
        *billing_checks(counted),
    ]
    for line in check_lines(whole):
        say(line)
    return {
        "minutes": minutes,
        "turns": turns,
        "checks": [c.name + ": " + c.verdict for c in whole],
    }
