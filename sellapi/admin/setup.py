"""A new shop: schema, tiers, packs, providers and models to sell."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from sellapi.admin import default_catalog as default
from sellapi.admin.core import Act, Noun
from sellapi.admin.models import parse_prices
from sellapi.admin.providers import DEFAULT_BASE_URLS
from sellapi.admin.views import InitResult
from sellapi.admin.words import parse_day, split_list
from sellapi.domain.credits import parse_credits, parse_usd
from sellapi.domain.pricing import Prices
from sellapi.storage import catalog
from sellapi.storage.database import Database

__all__ = ["fill", "init"]


def init(
    path: str | Path,
    *,
    actor: str,
    via: str,
    env: Mapping[str, str],
    clock: Callable[[], float] = time.time,
) -> InitResult:
    """Create the database with the default catalog; on an existing one change nothing."""
    from sellapi.admin.service import Admin

    path = Path(path)
    existing = path.is_file() and path.stat().st_size > 0
    database = Database.open(path) if existing else Database.create(path)
    try:
        admin = Admin(database, actor=actor, via=via, env=env, clock=clock)
        created = fill(admin.users)
        with database.read() as tx:
            models, packs = catalog.counts(tx)
        return InitResult(str(path), created, models, packs)
    finally:
        database.close()


def fill(noun: Noun) -> bool:
    """Write the default catalog into a database that has none; False when it has one."""
    with noun.act("init") as act:
        if catalog.tiers(act.tx):
            act.nothing_done()
            return False
        now, actor = noun.desk.now(), noun.desk.actor
        for name, rpm, account_rpm, signup in default.TIERS:
            catalog.add_tier(act.tx, name, rpm, account_rpm, parse_credits(signup))
        for slug, amount, price in default.PACKS:
            catalog.add_pack(act.tx, slug, parse_credits(amount), parse_usd(price), now)
        providers = {
            name: catalog.add_provider(
                act.tx,
                {
                    "name": name,
                    "kind": kind,
                    "base_url": DEFAULT_BASE_URLS[kind],
                    "api_key_env": variable,
                    "created_at": now,
                },
            )
            for name, kind, variable in default.PROVIDERS
        }
        for model in default.MODELS:
            _add_model(act, model, providers[model.provider], actor, now)
        act.say("shop", after={"models": len(default.MODELS), "packs": len(default.PACKS)})
        return True


def _add_model(
    act: Act, model: default.DefaultModel, provider_id: int, actor: str, now: int
) -> None:
    model_id = catalog.add_model(
        act.tx,
        {
            "slug": model.slug,
            "name": model.name,
            "mode": model.mode,
            "tier": model.tier,
            "context_length": model.context,
            "max_output": model.max_output,
            "input_modalities": json.dumps(split_list(model.modalities)),
            "created_at": now,
        },
    )
    prices = parse_prices(Prices(), model.prices, model.images)
    catalog.add_price(act.tx, model_id, prices, now, actor, now)
    if model.later and parse_day(model.later[0]) > now:
        later = parse_prices(prices, model.later[1], ())
        catalog.add_price(act.tx, model_id, later, parse_day(model.later[0]), actor, now)
    cost = prices if model.cost is None else parse_prices(Prices(), model.cost, ())
    catalog.add_route(
        act.tx,
        {
            "model_id": model_id,
            "provider_id": provider_id,
            "upstream_id": model.upstream,
            "cost": json.dumps(cost.to_json(), sort_keys=True),
        },
    )
