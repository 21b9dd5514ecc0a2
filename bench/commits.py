"""The disk, another yardstick: ``python -m bench.commits FOLDER RATE SECONDS`` times bare commits.

A request waits for two of them, so no gateway that keeps its word adds less on this disk. Each is what
SQLite does for one row with ``synchronous=FULL`` (a few pages of the write-ahead log, one fdatasync), at
fixed times: a disk that had a rest is slower than one at work. Prints milliseconds as JSON.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from pathlib import Path

from bench.report import percentile

__all__ = ["pace"]


def pace(folder: Path, rate: float, seconds: float) -> dict[str, float]:
    """``{p50_ms, p99_ms, max_ms}`` of commits at so many a second, in a file of their own."""
    path = folder / "commits.db"
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, words TEXT)")
    took: list[float] = []
    begun = time.perf_counter()
    for turn in range(int(rate * seconds)):
        time.sleep(max(0.0, begun + turn / rate - time.perf_counter()))
        before = time.perf_counter()
        connection.execute("INSERT INTO rows (words) VALUES (?)", ("x" * 200,))
        took.append((time.perf_counter() - before) * 1000)
    connection.close()
    return {"p50_ms": percentile(took, 50), "p99_ms": percentile(took, 99), "max_ms": max(took)}


if __name__ == "__main__":
    folder, rate, seconds = sys.argv[1:]
    print(json.dumps(pace(Path(folder), float(rate), float(seconds))))
