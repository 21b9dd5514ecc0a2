"""The catalog as the operator writes it: tiers, packs, providers, models, routes, price versions."""

from __future__ import annotations

import json
from typing import Any

from peewee import fn

from sellapi.domain.pricing import Prices
from sellapi.storage.database import Tx
from sellapi.storage.tables import Model, Pack, Price, Provider, Route, Tier, narrowed

__all__ = ["add_price", "model", "models", "packs", "provider", "providers", "tiers"]


def tiers(tx: Tx) -> list[dict[str, Any]]:
    return tx.rows(Tier.select().order_by(Tier.name))


def set_tier(tx: Tx, name: str, values: dict[str, Any]) -> None:
    tx.update(Tier, name, values)


def add_tier(tx: Tx, name: str, rpm: int, account_rpm: int, signup: int) -> None:
    limits = {"rpm": rpm, "account_rpm": account_rpm, "signup_credits": signup}
    tx.insert(Tier, {"name": name, **limits})


def signup_credits(tx: Tx, tier: str) -> int:
    """Microcredits a new user of a tier starts with."""
    return int(tx.value(Tier.select(Tier.signup_credits).where(Tier.name == tier)) or 0)


# -- packs -------------------------------------------------------------------------------------


def packs(tx: Tx) -> list[dict[str, Any]]:
    return tx.rows(Pack.select().order_by(Pack.status, Pack.credits, Pack.id))


def pack(tx: Tx, slug: str) -> dict[str, Any] | None:
    return tx.one(Pack.select().where(Pack.slug == slug))


def add_pack(tx: Tx, slug: str, amount: int, price_micro_usd: int, now: int) -> None:
    price = {"credits": amount, "price_micro_usd": price_micro_usd}
    tx.insert(Pack, {"slug": slug, **price, "created_at": now})


def retire_pack(tx: Tx, pack_id: int) -> None:
    tx.update(Pack, pack_id, {"status": "retired"})


# -- providers ---------------------------------------------------------------------------------


def _providers() -> Any:
    routed = Route.select(fn.COUNT(Route.model.distinct())).where(Route.provider == Provider.id)
    return Provider.select(Provider, routed.alias("models"))


def providers(tx: Tx) -> list[dict[str, Any]]:
    return tx.rows(_providers().order_by(Provider.name))


def provider(tx: Tx, name: str) -> dict[str, Any] | None:
    return tx.one(_providers().where(Provider.name == name))


def add_provider(tx: Tx, values: dict[str, Any]) -> int:
    return tx.insert(Provider, values)


def change_provider(tx: Tx, provider_id: int, values: dict[str, Any]) -> None:
    tx.update(Provider, provider_id, values)


def disable_providers(tx: Tx) -> None:
    """Switch all providers off."""
    tx.run(Provider.update(enabled=0))


def routed_models(tx: Tx, provider_id: int) -> list[str]:
    """Slugs of the models routed to a provider."""
    query = Model.select(Model.slug).distinct().join(Route).where(Route.provider == provider_id)
    return [row["slug"] for row in tx.rows(query.order_by(Model.slug))]


def remove_provider(tx: Tx, provider_id: int) -> None:
    """Remove a provider and the routes to it."""
    tx.run(Route.delete().where(Route.provider == provider_id))
    tx.run(Provider.delete().where(Provider.id == provider_id))


# -- models ------------------------------------------------------------------------------------


def model(tx: Tx, slug: str) -> dict[str, Any] | None:
    return tx.one(Model.select().where(Model.slug == slug))


def models(tx: Tx) -> list[dict[str, Any]]:
    return tx.rows(Model.select().order_by(Model.slug))


def add_model(tx: Tx, values: dict[str, Any]) -> int:
    return tx.insert(Model, values)


def change_model(tx: Tx, model_id: int, values: dict[str, Any]) -> None:
    tx.update(Model, model_id, values)


def routes(tx: Tx, model_id: int | None = None) -> dict[int, list[dict[str, Any]]]:
    """Routes by model id, in the order they are tried."""
    query = Route.select(Route, Provider.name.alias("provider"), Provider.kind).join(Provider)
    query = narrowed(query, (model_id, Route.model == model_id))
    found: dict[int, list[dict[str, Any]]] = {}
    for row in tx.rows(query.order_by(Route.priority, Route.id)):
        found.setdefault(row["model_id"], []).append(row)
    return found


def add_route(tx: Tx, values: dict[str, Any]) -> None:
    tx.insert(Route, values)


def remove_routes(tx: Tx, model_id: int) -> None:
    """Remove all routes of a model."""
    tx.run(Route.delete().where(Route.model == model_id))


def remove_route(tx: Tx, route_id: int) -> None:
    tx.run(Route.delete().where(Route.id == route_id))


def counts(tx: Tx) -> tuple[int, int]:
    """How many models and packs there are."""
    return (
        int(tx.value(Model.select(fn.COUNT(Model.id)))),
        int(tx.value(Pack.select(fn.COUNT(Pack.id)))),
    )


# -- prices ------------------------------------------------------------------------------------


def price_versions(tx: Tx, model_id: int | None = None) -> list[dict[str, Any]]:
    """Price versions of a model or of all, the first to take effect first."""
    query = narrowed(Price.select(), (model_id, Price.model == model_id))
    return tx.rows(query.order_by(Price.effective_at, Price.id))


def price_version(tx: Tx, price_id: int) -> dict[str, Any] | None:
    return tx.one(Price.select().where(Price.id == price_id))


def all_prices(tx: Tx, now: int) -> tuple[dict[int, dict[str, Any]], dict[int, list[Any]]]:
    """``(version in force by model id, versions that will be by model id)``."""
    current: dict[int, dict[str, Any]] = {}
    coming: dict[int, list[dict[str, Any]]] = {}
    for row in price_versions(tx):
        if row["effective_at"] <= now:
            current[row["model_id"]] = row
        else:
            coming.setdefault(row["model_id"], []).append(row)
    return current, {model_id: _last_by_start(rows) for model_id, rows in coming.items()}


def _last_by_start(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of versions that begin together only the newest will ever be in force."""
    return list({row["effective_at"]: row for row in rows}.values())


def prices_after(tx: Tx, model_id: int, at: int) -> list[tuple[int, Prices, set[str]]]:
    """``(begin, prices, what the day was given)`` of the versions that take over after a time.

    A version is a copy of all prices. Given is what differed, in any version of that day, from what
    was to hold before it when that version was written; so it stays given when both become the same
    for a while. (A price that was given as it stood cannot be told from one left alone.)
    """
    rows = price_versions(tx, model_id)
    coming = []
    for last in _last_by_start([r for r in rows if r["effective_at"] > at]):
        begin = last["effective_at"]
        given: set[str] = set()
        for version in (r for r in rows if r["effective_at"] == begin):
            known = [r for r in rows if r["effective_at"] < begin and r["id"] < version["id"]]
            before = _read(known[-1]) if known else Prices()
            given |= _read(version).differing(before)
        coming.append((begin, _read(last), given))
    return coming


def _read(row: dict[str, Any]) -> Prices:
    return Prices.from_json(json.loads(row["prices"]))


def prices_at(tx: Tx, model_id: int, at: int) -> Prices:
    """The version in force at a time; no prices when none is."""
    past = Price.select(Price.prices).where((Price.model == model_id) & (Price.effective_at <= at))
    text = tx.value(past.order_by(Price.effective_at.desc(), Price.id.desc()).limit(1))
    return Prices() if text is None else Prices.from_json(json.loads(text))


def latest_immediate(tx: Tx, model_id: int) -> int:
    """When the last price that was not scheduled took effect; 0 when there is none."""
    at_once = (Price.model == model_id) & (Price.effective_at <= Price.created_at)
    return int(tx.value(Price.select(fn.MAX(Price.effective_at)).where(at_once)) or 0)


def add_price(
    tx: Tx, model_id: int, prices: Prices, effective_at: int, actor: str, now: int
) -> int:
    """A new price version; the old ones stay, receipts point at them."""
    text = json.dumps(prices.to_json(), sort_keys=True)
    made = {"actor": actor, "created_at": now}
    return tx.insert(
        Price, {"model_id": model_id, "effective_at": effective_at, "prices": text, **made}
    )
