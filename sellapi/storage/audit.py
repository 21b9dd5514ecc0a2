"""The audit: one row per act of an operator, append-only."""

from __future__ import annotations

from typing import Any

from sellapi.storage.database import Tx
from sellapi.storage.tables import Audit, narrowed

__all__ = ["page", "record"]


def record(
    tx: Tx,
    *,
    at_ms: int,
    actor: str,
    via: str,
    act: str,
    target: str,
    before: str | None,
    after: str | None,
) -> None:
    """Append a row; ``before`` and ``after`` are JSON texts."""
    who, what = {"at_ms": at_ms, "actor": actor, "via": via}, {"act": act, "target": target}
    tx.insert(Audit, {**who, **what, "before": before, "after": after})


def page(
    tx: Tx,
    *,
    act: str | None,
    actor: str | None,
    target: str | None,
    since_ms: int | None,
    before_id: int | None,
    limit: int,
) -> list[dict[str, Any]]:
    """Rows newest first; ``act`` is a prefix (``keys`` finds ``keys.create``)."""
    query = narrowed(
        Audit.select(),
        (before_id, Audit.id < before_id),
        (since_ms, Audit.at_ms >= since_ms),
        (actor, Audit.actor == actor),
        (target, Audit.target == target),
        (act, Audit.act.startswith(act or "")),
    )
    return tx.rows(query.order_by(Audit.id.desc()).limit(limit))
