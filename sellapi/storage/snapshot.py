"""What a server keeps in memory: the catalog and its callers, each with the version it was read at."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sellapi.domain.catalog import Catalog, Model, Provider, Route, Tier
from sellapi.domain.pricing import Prices
from sellapi.domain.quirks import quirks_for
from sellapi.storage.database import Tx

__all__ = ["Caller", "read_caller", "read_catalog"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a key and its account, as read at ``key_version`` and ``account_version``.

    Times are unix seconds. ``secret_expires_at`` is the end of a rotated secret's grace period.
    """

    key_id: int
    key_version: int
    key_status: str
    key_expires_at: int | None
    secret_expires_at: int | None
    models: frozenset[str] | None
    """Slugs the key may use; None for all."""
    ips: tuple[str, ...] | None
    key_left: int | None
    """What is left under the key's own limit, as read; None without a limit."""
    account_id: int
    account_version: int
    account_status: str
    tier: str
    balance: int
    """As read; the hold decides by the database, this is a hint for the bound on output."""
    held: int
    owed: int

    @property
    def available(self) -> int:
        """What a hold may take: the account's and the key's own, whichever is less."""
        free = self.balance - self.held
        return free if self.key_left is None else max(0, min(free, self.key_left))


_CALLER = """
SELECT k.id, k.version, k.status, k.expires_at, s.expires_at, k.models, k.ips,
    k.spend_limit - k.spent - k.held,
    a.id, a.version, a.status, a.tier, a.balance, a.held, a.owed
FROM key_secrets s JOIN keys k ON k.id = s.key_id JOIN accounts a ON a.id = k.account_id
WHERE s.digest = ?
"""


def read_caller(tx: Tx, digest: bytes) -> Caller | None:
    """The caller a key's SHA-256 belongs to, in one statement; None when unknown."""
    row = tx.execute(_CALLER, (digest,)).fetchone()
    if row is None:
        return None
    (
        key_id,
        key_version,
        status,
        expires_at,
        secret_expires_at,
        models,
        ips,
        key_left,
        *account,
    ) = row
    return Caller(
        key_id,
        key_version,
        status,
        expires_at,
        secret_expires_at,
        None if models is None else frozenset(json.loads(models)),
        None if ips is None else tuple(json.loads(ips)),
        key_left,
        *account,
    )


def _prices_at(tx: Tx, now: float) -> dict[int, tuple[int, Prices]]:
    """The price version in force for each model: the latest effective one, by (time, id)."""
    current: dict[int, tuple[int, Prices]] = {}
    for price_id, model_id, prices in tx.execute(
        "SELECT id, model_id, prices FROM prices WHERE effective_at <= ? ORDER BY effective_at, id",
        (int(now),),
    ):
        current[model_id] = (price_id, Prices.from_json(json.loads(prices)))
    return current


def _providers(tx: Tx) -> dict[int, Provider]:
    return {
        row["id"]: Provider(
            id=row["id"],
            name=row["name"],
            kind=row["kind"],
            base_url=row["base_url"],
            api_key_env=row["api_key_env"],
            api_key_file=row["api_key_file"],
            headers=json.loads(row["headers"]),
            max_connections=row["max_connections"],
            timeout_s=row["timeout_ms"] / 1000,
            proxy=row["proxy"],
            enabled=bool(row["enabled"]),
        )
        for row in tx.rows("SELECT * FROM providers")
    }


def _routes(tx: Tx) -> dict[int, list[Route]]:
    providers = _providers(tx)
    routes: dict[int, list[Route]] = {}
    for row in tx.rows("SELECT * FROM routes ORDER BY priority, id"):
        provider = providers[row["provider_id"]]
        routes.setdefault(row["model_id"], []).append(
            Route(
                id=row["id"],
                provider=provider,
                upstream_id=row["upstream_id"],
                quirks=quirks_for(provider.kind, row["upstream_id"]),
                priority=row["priority"],
                weight=row["weight"],
                timeout_s=None if row["timeout_ms"] is None else row["timeout_ms"] / 1000,
                max_concurrency=row["max_concurrency"],
                retry_on_timeout=bool(row["retry_on_timeout"]),
                cost=None if row["cost"] is None else Prices.from_json(json.loads(row["cost"])),
            )
        )
    return routes


def read_catalog(tx: Tx, now: float) -> Catalog:
    """Everything for sale, at one version; models without a price are left out.

    Call it inside a transaction or retry when the version moved while reading.
    """
    version = tx.catalog_version
    prices, routes = _prices_at(tx, now), _routes(tx)
    models = {}
    for row in tx.rows("SELECT * FROM models ORDER BY id"):
        price_id, price = prices.get(row["id"], (0, Prices()))
        if not price.stated:
            continue
        models[row["slug"]] = Model(
            id=row["id"],
            slug=row["slug"],
            name=row["name"],
            mode=row["mode"],
            tier=row["tier"],
            enabled=bool(row["enabled"]),
            price_id=price_id,
            prices=price,
            routes=tuple(routes.get(row["id"], ())),
            context_length=row["context_length"],
            max_output=row["max_output"],
            input_modalities=tuple(json.loads(row["input_modalities"])),
            allowed_fields=frozenset(json.loads(row["allowed_fields"])),
            created_at=row["created_at"],
        )
    tiers = {row["name"]: Tier(**row) for row in tx.rows("SELECT * FROM tiers")}
    coming = tx.value("SELECT min(effective_at) FROM prices WHERE effective_at > ?", (int(now),))
    return Catalog(version, models, tiers, coming)
