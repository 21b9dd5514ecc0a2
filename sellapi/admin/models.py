"""Models: what is for sale, at which price, and who answers for it."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sellapi.admin.core import Act, Noun
from sellapi.admin.providers import provider_rows
from sellapi.admin.views import ImportChange, Model, PriceVersion, Provider, Route, iso
from sellapi.admin.words import clean, parse_day, parse_name, split_list
from sellapi.domain.catalog import MODES, TIERS
from sellapi.domain.credits import parse_usd
from sellapi.domain.pricing import Prices
from sellapi.errors import Refused, SellapiError, UsageError
from sellapi.storage import catalog
from sellapi.storage.database import Tx

__all__ = ["PRICE_WORDS", "Models", "new_model", "parse_prices", "price_view"]

PRICE_WORDS = {
    "input": "input",
    "output": "output",
    "cached_input": "cache_read",
    "cache_write": "cache_write",
    "cache_write_1h": "cache_write_1h",
    "audio_input": "audio_input",
    "image_input": "image_input",
    "image_output": "image_output",
    "long_input": "long_input",
    "long_output": "long_output",
    "long_cached_input": "long_cache_read",
    "long_cache_write": "long_cache_write",
}
"""Option names of the command line -> fields of `Prices`."""
MODALITIES = ("text", "image", "audio", "file", "video")
ALLOWABLE = (
    "service_tier", "web_search_options", "modalities", "audio", "models", "route", "provider",
    "plugins", "fallbacks", "stream", "partial_images",
)  # fmt: skip
IMPORT_CHUNK = 40
"""Changes of an import that are made together: about as many milliseconds."""
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*(/[A-Za-z0-9][A-Za-z0-9._:-]*){0,3}", re.ASCII)


# -- words into prices -------------------------------------------------------------------------


def parse_prices(
    base: Prices, words: Mapping[str, str | int | None], images: Sequence[str]
) -> Prices:
    """``base`` with the stated prices put in. Words are decimal USD; ``none`` takes a price away.

    ``images`` are ``USD`` (any size and quality) or ``SIZE:QUALITY=USD`` with ``*`` for any.
    """
    changes: dict[str, Any] = {}
    for name, word in words.items():
        if word is None:
            continue
        if name == "long_context":
            changes[name] = _tokens(word)
        elif str(word).strip().lower() == "none":
            changes[PRICE_WORDS[name]] = None
        else:
            changes[PRICE_WORDS[name]] = parse_usd(str(word).strip())
    if images:
        changes["images"] = _parse_images(images)
    prices = replace(base, **changes)
    if prices.wants_step:
        raise UsageError("long prices want --long-context N: the tokens they begin above")
    return prices


def _tokens(word: str | int) -> int | None:
    """A number of tokens; 0 takes it away."""
    text = str(word).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= 10**9):
        raise UsageError("a number of tokens is between 1 and a milliard; 0 means unknown")
    return int(text) or None


_IMAGE_KEY = re.compile(r"(\*|auto|[124]K|[0-9]{2,5}x[0-9]{2,5}):(\*|[a-z]{2,10})", re.ASCII)


def _parse_images(images: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for word in images:
        key, equals, price = word.rpartition("=")
        if not equals and price.strip().lower() == "none":
            return {}
        key = key or "*:*"
        if not _IMAGE_KEY.fullmatch(key):
            raise UsageError(
                f"--image {clean(word)!r}: write 0.04 or 1024x1024:high=0.2 or 2K:*=0.1 or *:low=0.02"
            )
        found[key] = parse_usd(price.strip())
    return found


# -- rows into views ---------------------------------------------------------------------------


def price_view(row: Mapping[str, Any]) -> PriceVersion:
    return PriceVersion(
        id=row["id"],
        effective_at=row["effective_at"],
        prices=Prices.from_json(json.loads(row["prices"])).display(),
        actor=row["actor"],
        created_at=row["created_at"],
    )


def _route_view(row: Mapping[str, Any], providers: Mapping[str, Provider]) -> Route:
    cost = None if row["cost"] is None else Prices.from_json(json.loads(row["cost"])).display()
    return Route(
        provider=row["provider"],
        upstream=row["upstream_id"],
        priority=row["priority"],
        weight=row["weight"],
        timeout_s=None if row["timeout_ms"] is None else row["timeout_ms"] / 1000,
        max_concurrency=row["max_concurrency"],
        retry_on_timeout=bool(row["retry_on_timeout"]),
        cost=cost,
        available=providers[row["provider"]].available,
    )


def _why_not(
    enabled: bool, prices: Prices, routes: Sequence[Route], providers: Mapping[str, Provider]
) -> str | None:
    if not prices.stated:
        return "it has no price: sellapi models set SLUG --input … --output …"
    if not enabled:
        return "it is disabled"
    if not routes:
        return "it has no route: sellapi models route SLUG add PROVIDER:ID"
    if not any(r.available for r in routes):
        first = routes[0].provider
        return f"provider {first}: {providers[first].state}"
    return None


def _margin_pct(prices: Prices, cost: Prices | None) -> int | None:
    """Margin in percent of the price, over a request of equal input and output."""
    if cost is None or not prices.stated:
        return None
    if prices.images and prices.input is None and prices.output is None:
        sold, spent = prices.per_image("auto", "auto"), cost.per_image("auto", "auto")
        if not spent:  # paid by tokens, sold by the image: not comparable without usage
            return None
    else:
        ours, theirs = prices.tokens(0), cost.tokens(0)
        sold, spent = ours["input"] + ours["output"], theirs["input"] + theirs["output"]
    return None if sold == 0 else (sold - spent) * 100 // sold


def _model_view(
    row: Mapping[str, Any],
    current: Mapping[str, Any] | None,
    scheduled: Sequence[Mapping[str, Any]],
    route_rows: Sequence[Mapping[str, Any]],
    providers: Mapping[str, Provider],
) -> Model:
    prices = Prices() if current is None else Prices.from_json(json.loads(current["prices"]))
    routes = tuple(_route_view(r, providers) for r in route_rows)
    why_not = _why_not(bool(row["enabled"]), prices, routes, providers)
    first_cost = route_rows[0]["cost"] if route_rows else None
    cost = None if first_cost is None else Prices.from_json(json.loads(first_cost))
    return Model(
        slug=row["slug"],
        name=row["name"],
        mode=row["mode"],
        tier=row["tier"],
        enabled=bool(row["enabled"]),
        available=why_not is None,
        why_not=why_not,
        provider=routes[0].provider if routes else None,
        upstream=routes[0].upstream if routes else None,
        prices=prices.display(),
        scheduled=tuple(price_view(p) for p in scheduled),
        routes=routes,
        context_length=row["context_length"],
        max_output=row["max_output"],
        input_modalities=tuple(json.loads(row["input_modalities"])),
        allowed_fields=tuple(json.loads(row["allowed_fields"])),
        margin_pct=_margin_pct(prices, cost),
        created_at=row["created_at"],
    )


def find_model(tx: Tx, slug: str) -> dict[str, Any]:
    row = catalog.model(tx, slug.strip())
    if row is None:
        raise Refused(f"there is no model {clean(slug)}: `sellapi models list` shows the slugs")
    return row


def _columns(
    *,
    name: str | None = None,
    tier: str | None = None,
    context: int | None = None,
    max_output: int | None = None,
    modalities: str | None = None,
    allow_fields: str | None = None,
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if name is not None:
        values["name"] = parse_name(name)
    if tier is not None:
        if tier not in TIERS:
            raise UsageError(f"{clean(tier)!r} is no tier: free or pro")
        values["tier"] = tier
    for column, number in (("context_length", context), ("max_output", max_output)):
        if number is not None:
            values[column] = _tokens(number)
    if modalities is not None:
        values["input_modalities"] = _known_words("modality", modalities, MODALITIES)
    if allow_fields is not None:
        values["allowed_fields"] = _known_words("billing field", allow_fields, ALLOWABLE)
    return values


def _known_words(what: str, text: str, known: Sequence[str]) -> str:
    words = [] if text.strip().lower() == "none" else split_list(text)
    for word in words:
        if word not in known:
            raise UsageError(f"{clean(word)!r} is no {what}: {', '.join(known)}")
    return json.dumps(words)


def new_model(
    slug: str,
    *,
    mode: str,
    upstream: str | None = None,
    prices: Mapping[str, str | int | None] | None = None,
    images: Sequence[str] = (),
    tier: str | None = None,
    **more: Any,
) -> tuple[dict[str, Any], Prices]:
    """A model's columns and prices from words; raises `UsageError` for what can never be one."""
    slug = slug.strip()
    if len(slug) > 200 or not _SLUG.fullmatch(slug):
        raise UsageError(f"{clean(slug)!r} is no slug: write for example openai/gpt-5.4")
    if mode not in MODES:
        raise UsageError(f"{clean(mode)!r} is no mode: {', '.join(MODES)}")
    if upstream is not None:
        _check_upstream(upstream)
    stated = parse_prices(Prices(), prices or {}, images)
    named = {"slug": slug, "name": slug, "mode": mode, "enabled": int(stated.stated)}
    return {**named, **_columns(tier=tier or "pro", **more)}, stated


def _check_upstream(upstream: str) -> None:
    if not upstream or len(upstream) > 200 or clean(upstream) != upstream:
        raise UsageError("--upstream wants the id the provider knows the model by")


class Models(Noun):
    def _views(self, tx: Tx, rows: Sequence[Mapping[str, Any]]) -> tuple[Model, ...]:
        current, scheduled = catalog.all_prices(tx, self.desk.now())
        routes, providers = catalog.routes(tx), provider_rows(self, tx)
        return tuple(
            _model_view(
                row,
                current.get(row["id"]),
                scheduled.get(row["id"], ()),
                routes.get(row["id"], ()),
                providers,
            )
            for row in rows
        )

    def list(self) -> tuple[Model, ...]:
        with self.read() as tx:
            return self._views(tx, catalog.models(tx))

    def show(self, slug: str) -> Model:
        with self.read() as tx:
            return self._views(tx, [find_model(tx, slug)])[0]

    def price_history(self, slug: str) -> tuple[PriceVersion, ...]:
        """All price versions of a model, the first to take effect first."""
        with self.read() as tx:
            rows = catalog.price_versions(tx, find_model(tx, slug)["id"])
        return tuple(price_view(r) for r in rows)

    def add(
        self,
        slug: str,
        *,
        mode: str,
        provider: str | None = None,
        upstream: str | None = None,
        prices: Mapping[str, str | int | None] | None = None,
        images: Sequence[str] = (),
        name: str | None = None,
        tier: str | None = None,
        context: int | None = None,
        max_output: int | None = None,
        modalities: str | None = None,
        allow_fields: str | None = None,
    ) -> Model:
        """A new model. Without a price it stays disabled: nothing is ever given away by mistake."""
        row, stated = new_model(
            slug,
            mode=mode,
            upstream=upstream,
            prices=prices,
            images=images,
            name=name,
            tier=tier,
            context=context,
            max_output=max_output,
            modalities=modalities,
            allow_fields=allow_fields,
        )
        with self.act("models.add") as act:
            self._add(act, row, stated, provider, upstream)
            return self._views(act.tx, [find_model(act.tx, row["slug"])])[0]

    def _add(
        self,
        act: Act,
        row: Mapping[str, Any],
        stated: Prices,
        provider: str | None,
        upstream: str | None,
    ) -> None:
        slug = row["slug"]
        if catalog.model(act.tx, slug):
            raise Refused(f"there is a model {slug} already: `sellapi models set`")
        now = self.desk.now()
        model_id = catalog.add_model(act.tx, {**row, "created_at": now})
        if stated.stated:
            catalog.add_price(act.tx, model_id, stated, now, self.desk.actor, now)
        if provider is not None:
            named = slug.rpartition("/")[2] if upstream is None else upstream
            self._add_route(act, model_id, provider, named)
        after = {**row, "prices": stated.to_json(), "provider": provider, "upstream": upstream}
        act.say(f"model:{slug}", after=after)

    def apply(
        self,
        changes: Sequence[ImportChange],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Make an import's changes, each with an audit row of its own.

        In transactions of `IMPORT_CHUNK`, so that customers' requests get their turn between them. A
        plan holds only what can be done; if the database fails on the way, the same import goes on.
        """
        for start in range(0, len(changes), IMPORT_CHUNK):
            if progress:
                progress(start, len(changes))
            try:
                with self.desk.database.transaction() as tx:
                    for change in changes[start : start + IMPORT_CHUNK]:
                        self._apply(tx, change)
            except SellapiError as error:
                if start:
                    error.args = (f"{error}; {start} of {len(changes)} changes are made",)
                raise

    def _apply(self, tx: Tx, change: ImportChange) -> None:
        data = dict(change.data)
        if change.act == "add":
            provider = data.pop("provider")
            with self.act("models.add", tx) as act:
                self._add(act, *new_model(**data), provider, data["upstream"])
        else:
            with self.act("models.set", tx) as act:
                row = find_model(tx, data["slug"])
                before, after = self._reprice(act, row["id"], data["prices"], (), None)
                act.say(f"model:{row['slug']}", before=before, after=after)

    def _starts(self, act: Act, model_id: int, at: int | None) -> tuple[int, ...]:
        """When a new price begins: on its day, or now."""
        if at is not None:
            return (at,)
        # A clock that went back: what was set at once before must not take over again later.
        now, latest = self.desk.now(), catalog.latest_immediate(act.tx, model_id)
        return (now, latest) if latest > now else (now,)

    def _add_price(
        self, act: Act, model_id: int, prices: Prices, starts: Sequence[int]
    ) -> tuple[str, ...]:
        """A new version, also in what is scheduled behind it: each of those is a copy of all prices
        and would undo this change on its day. Returns the days of those that were written anew.
        """
        made = (self.desk.actor, self.desk.now())
        coming = catalog.prices_after(act.tx, model_id, starts[-1])
        for start in starts:
            catalog.add_price(act.tx, model_id, prices, start, *made)
        days = []
        for start, scheduled, given in coming:
            day, prices = iso(start)[:10], scheduled.carried(given, prices)
            if not prices.stated:
                raise Refused(f"a model keeps a price, and with what begins on {day} it had none")
            if prices != scheduled:
                catalog.add_price(act.tx, model_id, prices, start, *made)
                days.append(day)
        return tuple(days)

    def _add_route(
        self, act: Act, model_id: int, provider: str, upstream: str, **more: Any
    ) -> None:
        row = catalog.provider(act.tx, provider.strip().lower())
        if row is None:
            raise Refused(
                f"there is no provider {clean(provider)}: `sellapi providers list` shows them"
            )
        _check_upstream(upstream)
        try:
            catalog.add_route(
                act.tx,
                {
                    "model_id": model_id,
                    "provider_id": row["id"],
                    "upstream_id": upstream,
                    **{n: v for n, v in more.items() if v is not None},
                },
            )
        except sqlite3.IntegrityError:
            raise Refused(f"there is a route to {provider}:{clean(upstream)} already") from None

    def set(
        self,
        slug: str,
        *,
        provider: str | None = None,
        upstream: str | None = None,
        prices: Mapping[str, str | int | None] | None = None,
        images: Sequence[str] = (),
        start: str | None = None,
        name: str | None = None,
        tier: str | None = None,
        context: int | None = None,
        max_output: int | None = None,
        modalities: str | None = None,
        allow_fields: str | None = None,
    ) -> Model:
        """Change a model. Every change of price is a new version; ``start`` (a UTC day) schedules
        it. What is scheduled behind it keeps the prices it set itself and takes over the others.
        ``provider``/``upstream`` replace all routes.
        """
        values = _columns(
            name=name,
            tier=tier,
            context=context,
            max_output=max_output,
            modalities=modalities,
            allow_fields=allow_fields,
        )
        words = {n: v for n, v in (prices or {}).items() if v is not None}
        at = None if start is None else parse_day(start)
        if at is not None and at <= self.desk.now():
            raise UsageError(f"--from {start} is not in the future: leave it out to change at once")
        if at is not None and not (words or images):
            raise UsageError("--from schedules a price: say which")
        routed = provider is not None or upstream is not None
        if not (values or words or images or routed):
            raise UsageError("say what to set: --input, --output, --tier, --provider, …")
        with self.act("models.set") as act:
            row = find_model(act.tx, slug)
            before: dict[str, Any] = {n: row[n] for n in values}
            after: dict[str, Any] = dict(values)
            catalog.change_model(act.tx, row["id"], values)
            if words or images:
                was, became = self._reprice(act, row["id"], words, images, at)
                before |= was
                after |= became
                if at is not None:
                    after["from"] = start
            if routed:
                self._replace_routes(act, row, provider, upstream, before, after)
            act.say(f"model:{slug}", before=before, after=after)
            return self._views(act.tx, [find_model(act.tx, slug)])[0]

    def _reprice(
        self,
        act: Act,
        model_id: int,
        words: Mapping[str, str | int | None],
        images: Sequence[str],
        at: int | None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """How prices were and are, for the audit."""
        starts = self._starts(act, model_id, at)
        old = catalog.prices_at(act.tx, model_id, starts[-1])
        new = parse_prices(old, words, images)
        if not new.stated:
            raise Refused("a model keeps a price: `sellapi models disable` stops its sale")
        carried = self._add_price(act, model_id, new, starts) if new != old else ()
        after = {"prices": new.to_json(), **({"carried_into": carried} if carried else {})}
        return {"prices": old.to_json()}, after

    def _replace_routes(
        self,
        act: Act,
        row: Mapping[str, Any],
        provider: str | None,
        upstream: str | None,
        before: dict[str, Any],
        after: dict[str, Any],
    ) -> None:
        old = catalog.routes(act.tx, row["id"]).get(row["id"], [])
        if provider is None and old:
            provider = old[0]["provider"]
        if upstream is None:
            upstream = old[0]["upstream_id"] if old else row["slug"].rpartition("/")[2]
        if provider is None:
            raise UsageError("say which provider: --provider NAME")
        catalog.remove_routes(act.tx, row["id"])
        self._add_route(act, row["id"], provider, upstream)
        before["routes"] = [f"{r['provider']}:{r['upstream_id']}" for r in old]
        after["routes"] = [f"{provider}:{upstream}"]

    def enable(self, slug: str) -> Model:
        """Offer a model; refused while it has no price."""
        return self._switch(slug, True)

    def disable(self, slug: str) -> Model:
        """Offer it no more; holds for the next request."""
        return self._switch(slug, False)

    def _switch(self, slug: str, on: bool) -> Model:
        with self.act("models.enable" if on else "models.disable") as act:
            row = find_model(act.tx, slug)
            prices = catalog.prices_at(act.tx, row["id"], self.desk.now())
            if on and not prices.stated:
                raise Refused(
                    f"{slug} has no price: `sellapi models set {slug} --input … --output …` first"
                )
            if bool(row["enabled"]) == on:
                act.nothing_done()
            catalog.change_model(act.tx, row["id"], {"enabled": int(on)})
            act.say(f"model:{slug}", before={"enabled": row["enabled"]}, after={"enabled": int(on)})
            return self._views(act.tx, [find_model(act.tx, slug)])[0]

    def route_add(
        self,
        slug: str,
        target: str,
        *,
        priority: int | None = None,
        weight: int | None = None,
        timeout_s: float | None = None,
        max_concurrency: int | None = None,
        retry_on_timeout: bool = False,
        cost: Sequence[str] = (),
    ) -> Model:
        """Another way to answer for a model, ``PROVIDER:UPSTREAM-ID``.

        ``cost`` are ``NAME=USD`` as the provider charges us (names as in the price options), for
        margins. Without a priority the route comes after those there are.
        """
        provider, _, upstream = target.partition(":")
        if not upstream:
            raise UsageError(f"{clean(target)!r} is no route: write PROVIDER:ID, openai:gpt-5.4")
        for what, value, least, most in (
            ("priority", priority, 0, 1_000_000),
            ("weight", weight, 1, 1_000_000),
            ("timeout", timeout_s, 0.1, 86_400),
            ("concurrency", max_concurrency, 1, 100_000),
        ):
            if value is not None and not least <= value <= most:
                raise UsageError(f"a route's {what} is between {least} and {most:,}")
        with self.act("models.route_add") as act:
            row = find_model(act.tx, slug)
            old = catalog.routes(act.tx, row["id"]).get(row["id"], [])
            if priority is None:
                priority = max((r["priority"] for r in old), default=-1) + 1
            costs = _parse_cost(cost)
            more = {
                "priority": priority,
                "weight": weight,
                "timeout_ms": None if timeout_s is None else round(timeout_s * 1000),
                "max_concurrency": max_concurrency,
                "retry_on_timeout": int(retry_on_timeout),
                "cost": json.dumps(costs.to_json(), sort_keys=True) if costs.stated else None,
            }
            self._add_route(act, row["id"], provider, upstream, **more)
            act.say(f"model:{slug}", after={"route": target, **more})
            return self._views(act.tx, [row])[0]

    def route_remove(self, slug: str, target: str) -> Model:
        """Remove a route, ``PROVIDER:UPSTREAM-ID``."""
        provider, _, upstream = target.partition(":")
        with self.act("models.route_remove") as act:
            row = find_model(act.tx, slug)
            routes = catalog.routes(act.tx, row["id"]).get(row["id"], [])
            gone = [r for r in routes if (r["provider"], r["upstream_id"]) == (provider, upstream)]
            if not gone:
                raise Refused(f"{slug} has no route {clean(target)}: `sellapi models show {slug}`")
            catalog.remove_route(act.tx, gone[0]["id"])
            act.say(f"model:{slug}", before={"route": target})
            return self._views(act.tx, [row])[0]


def _parse_cost(pairs: Sequence[str]) -> Prices:
    words: dict[str, str | int | None] = {}
    images: list[str] = []
    for pair in pairs:
        name, equals, price = pair.partition("=")
        name = name.strip().replace("-", "_")
        if name == "image" and equals:
            images.append(price)
        elif equals and (name in PRICE_WORDS or name == "long_context"):
            words[name] = price
        else:
            raise UsageError(f"--cost {clean(pair)!r}: write input=2.5 or output=15")
    return parse_prices(Prices(), words, images)
