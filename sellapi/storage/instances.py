"""Server processes as others see them: which are alive, and what they last wrote of themselves."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from sellapi.storage.database import Tx
from sellapi.storage.journal import lock_path
from sellapi.storage.tables import Instance

__all__ = ["all_instances", "is_alive", "served_engine", "served_providers"]

FRESH_S = 10
"""A status row older than this says nothing about now."""


def is_alive(database: Path, instance_id: str) -> bool:
    """Whether the process still holds its lock. A look only: the lock is let go at once."""
    try:
        fd = os.open(lock_path(database, instance_id), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # A shared lock: two lookers do not take each other for a living server.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def all_instances(tx: Tx, database: Path) -> list[dict[str, Any]]:
    """Instance rows with ``alive`` and the decoded ``status``."""
    found = tx.rows(Instance.select().order_by(Instance.started_at, Instance.id))
    for row in found:
        row["alive"] = is_alive(database, row["id"])
        try:
            status = json.loads(row["status"])
        except ValueError:
            status = {}
        row["status"] = status if isinstance(status, dict) else {}
    return found


def _serving(tx: Tx, database: Path, now: int) -> list[dict[str, Any]]:
    """Those that live and have told of themselves lately, the newest last."""
    return [
        row
        for row in all_instances(tx, database)
        if row["alive"] and now - row["status_at"] <= FRESH_S
    ]


def served_engine(tx: Tx, database: Path, now: int) -> str | None:
    """Which engine the newest living server calls providers with; None when none says."""
    said = [row["status"].get("engine") for row in _serving(tx, database, now)]
    return next((name for name in reversed(said) if isinstance(name, str)), None)


def served_providers(tx: Tx, database: Path, now: int) -> dict[str, dict[str, Any]]:
    """What living servers say of providers, by name.

    ``{"usable": bool, "broken": bool, "routes": [health of each route that was used]}``, the routes
    as `gateway.router.Router.report` tells them.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in _serving(tx, database, now):
        for said in _dicts(row["status"].get("providers")):
            provider = found.setdefault(
                str(said.get("name")), {"usable": False, "broken": False, "routes": []}
            )
            provider["usable"] |= bool(said.get("usable"))
            provider["broken"] |= bool(said.get("broken"))
        for route in _dicts(row["status"].get("routes")):
            name = str(route.get("route")).partition(":")[0]
            if name in found:
                found[name]["routes"].append(route)
    return found


def _dicts(value: object) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []
