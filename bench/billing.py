"""That what was measured was billed: looked up in the measured shop's own database at the end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from bench.machine import ROOT
from bench.stage import Stage, Subject, serve_env
from sellapi.storage.database import Database

__all__ = ["count"]

SETTLED_WITHIN_S = 20.0


def count(stage: Stage, subject: Subject) -> dict[str, float]:
    """``{charges_per_answer, open_holds, ledger_ok, synchronous}`` of a subject that is idle now.

    wrk cuts its last requests off; the gateway reads those upstreams to their end and charges them
    too, so there are a few more charges than answers.
    """
    assert subject.database is not None
    database = Database.open(subject.database)
    try:
        with database.read() as tx:
            deadline = time.monotonic() + SETTLED_WITHIN_S
            while (held := _held(subject.database)) and time.monotonic() < deadline:
                time.sleep(0.2)
            charges = tx.value("SELECT count(*) FROM entries WHERE kind = 'charge'")
            synchronous = tx.value("PRAGMA synchronous")
    finally:
        database.close()
    answered = max(stage.answered[subject.name], 1)
    return {
        "charges_per_answer": charges / answered,
        "open_holds": held,
        "ledger_ok": float(verify(subject.database)["ok"] is True),
        "synchronous": synchronous,
    }


def _held(path: Path) -> int:
    database = Database.open(path)
    try:
        with database.read() as tx:
            return int(tx.value("SELECT count(*) FROM requests WHERE state = 'held'"))
    finally:
        database.close()


def verify(path: Path, timeout_s: float = 1800) -> dict[str, object]:
    """What ``sellapi ledger verify --json`` says."""
    command = [sys.executable, str(ROOT / "cli.py"), "ledger", "verify", "--json"]
    env = serve_env({"SELLAPI_DATABASE": str(path)})
    done = subprocess.run(command, check=False, capture_output=True, env=env, timeout=timeout_s)
    found: dict[str, object] = json.loads(done.stdout)
    return found
