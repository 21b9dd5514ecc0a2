"""The catalog as the operator writes it: tiers, packs, providers, models, routes, price versions."""

from __future__ import annotations

import json
from typing import Any

from sellapi.domain.pricing import Prices
from sellapi.storage.database import Tx

__all__ = ["add_price", "model", "models", "packs", "provider", "providers", "tiers"]


def tiers(tx: Tx) -> list[dict[str, Any]]:
    return tx.rows("SELECT name, rpm, account_rpm, signup_credits FROM tiers ORDER BY name")


def set_tier(tx: Tx, name: str, values: dict[str, Any]) -> None:
    columns = ", ".join(f"{column} = ?" for column in values)
    tx.execute(f"UPDATE tiers SET {columns} WHERE name = ?", (*values.values(), name))


def add_tier(tx: Tx, name: str, rpm: int, account_rpm: int, signup: int) -> None:
    tx.execute("INSERT INTO tiers VALUES (?, ?, ?, ?)", (name, rpm, account_rpm, signup))


def signup_credits(tx: Tx, tier: str) -> int:
    """Microcredits a new user of a tier starts with."""
    return int(tx.value("SELECT signup_credits FROM tiers WHERE name = ?", (tier,)) or 0)


# -- packs -------------------------------------------------------------------------------------


def packs(tx: Tx) -> list[dict[str, Any]]:
    return tx.rows("SELECT * FROM packs ORDER BY status, credits, id")


def pack(tx: Tx, slug: str) -> dict[str, Any] | None:
    return tx.one("SELECT * FROM packs WHERE slug = ?", (slug,))


def add_pack(tx: Tx, slug: str, amount: int, price_micro_usd: int, now: int) -> None:
    tx.execute(
        "INSERT INTO packs (slug, credits, price_micro_usd, created_at) VALUES (?, ?, ?, ?)",
        (slug, amount, price_micro_usd, now),
    )


# -- providers ---------------------------------------------------------------------------------

_PROVIDER = """
SELECT p.*, (SELECT count(DISTINCT model_id) FROM routes r WHERE r.provider_id = p.id) AS models
FROM providers p
"""


def providers(tx: Tx) -> list[dict[str, Any]]:
    return tx.rows(f"{_PROVIDER} ORDER BY p.name")


def provider(tx: Tx, name: str) -> dict[str, Any] | None:
    return tx.one(f"{_PROVIDER} WHERE p.name = ?", (name,))


def insert(tx: Tx, table: str, values: dict[str, Any]) -> int:
    """Insert a row of named columns; table and columns come from code, never from people."""
    marks = ", ".join("?" * len(values))
    cursor = tx.execute(
        f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values())
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def routed_models(tx: Tx, provider_id: int) -> list[str]:
    """Slugs of the models routed to a provider."""
    return [
        row[0]
        for row in tx.execute(
            "SELECT DISTINCT m.slug FROM routes r JOIN models m ON m.id = r.model_id "
            "WHERE r.provider_id = ? ORDER BY m.slug",
            (provider_id,),
        )
    ]


def remove_provider(tx: Tx, provider_id: int) -> None:
    """Remove a provider and the routes to it."""
    tx.execute("DELETE FROM routes WHERE provider_id = ?", (provider_id,))
    tx.execute("DELETE FROM providers WHERE id = ?", (provider_id,))


# -- models ------------------------------------------------------------------------------------


def model(tx: Tx, slug: str) -> dict[str, Any] | None:
    return tx.one("SELECT * FROM models WHERE slug = ?", (slug,))


def models(tx: Tx) -> list[dict[str, Any]]:
    return tx.rows("SELECT * FROM models ORDER BY slug")


def routes(tx: Tx, model_id: int | None = None) -> dict[int, list[dict[str, Any]]]:
    """Routes by model id, in the order they are tried."""
    where = "" if model_id is None else "WHERE r.model_id = ?"
    found: dict[int, list[dict[str, Any]]] = {}
    for row in tx.rows(
        "SELECT r.*, p.name AS provider, p.kind FROM routes r "
        f"JOIN providers p ON p.id = r.provider_id {where} ORDER BY r.priority, r.id",
        () if model_id is None else (model_id,),
    ):
        found.setdefault(row["model_id"], []).append(row)
    return found


def remove_routes(tx: Tx, model_id: int) -> None:
    """Remove all routes of a model."""
    tx.execute("DELETE FROM routes WHERE model_id = ?", (model_id,))


def remove_route(tx: Tx, route_id: int) -> None:
    tx.execute("DELETE FROM routes WHERE id = ?", (route_id,))


def counts(tx: Tx) -> tuple[int, int]:
    """How many models and packs there are."""
    return (
        int(tx.value("SELECT count(*) FROM models")),
        int(tx.value("SELECT count(*) FROM packs")),
    )


def price_versions(tx: Tx, model_id: int) -> list[dict[str, Any]]:
    """A model's price versions, the first to take effect first."""
    return tx.rows("SELECT * FROM prices WHERE model_id = ? ORDER BY effective_at, id", (model_id,))


def price_version(tx: Tx, price_id: int) -> dict[str, Any] | None:
    return tx.one("SELECT * FROM prices WHERE id = ?", (price_id,))


def all_prices(tx: Tx, now: int) -> tuple[dict[int, dict[str, Any]], dict[int, list[Any]]]:
    """``(version in force by model id, scheduled versions by model id)``."""
    current: dict[int, dict[str, Any]] = {}
    scheduled: dict[int, list[Any]] = {}
    for row in tx.rows("SELECT * FROM prices ORDER BY effective_at, id"):
        if row["effective_at"] <= now:
            current[row["model_id"]] = row
        else:
            scheduled.setdefault(row["model_id"], []).append(row)
    return current, scheduled


def prices_at(tx: Tx, model_id: int, at: int) -> Prices:
    """The version in force at a time; no prices when none is."""
    row = tx.one(
        "SELECT * FROM prices WHERE model_id = ? AND effective_at <= ? "
        "ORDER BY effective_at DESC, id DESC LIMIT 1",
        (model_id, at),
    )
    return Prices() if row is None else Prices.from_json(json.loads(row["prices"]))


def latest_immediate(tx: Tx, model_id: int) -> int:
    """When the last price that was not scheduled took effect; 0 when there is none."""
    return int(
        tx.value(
            "SELECT max(effective_at) FROM prices WHERE model_id = ? "
            "AND effective_at <= created_at",
            (model_id,),
        )
        or 0
    )


def add_price(
    tx: Tx, model_id: int, prices: Prices, effective_at: int, actor: str, now: int
) -> int:
    """A new price version; the old ones stay, receipts point at them."""
    return insert(
        tx,
        "prices",
        {
            "model_id": model_id,
            "effective_at": effective_at,
            "prices": json.dumps(prices.to_json(), sort_keys=True),
            "actor": actor,
            "created_at": now,
        },
    )
