"""The audit: one row per act of an operator, append-only."""

from __future__ import annotations

from typing import Any

from sellapi.storage.database import Tx

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
    tx.execute(
        "INSERT INTO audit (at_ms, actor, via, act, target, before, after) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (at_ms, actor, via, act, target, before, after),
    )


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
    where, params = ["1 = 1"], []  # type: list[str], list[Any]
    for clause, value in (
        ("id < ?", before_id),
        ("at_ms >= ?", since_ms),
        ("actor = ?", actor),
        ("target = ?", target),
        ("act LIKE ? || '%'", act),
    ):
        if value is not None:
            where.append(clause)
            params.append(value)
    return tx.rows(
        f"SELECT * FROM audit WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?",
        (*params, limit),
    )
