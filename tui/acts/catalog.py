"""Acts on what is for sale: models and their routes, providers, packs, tiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sellapi.admin.models import PRICE_WORDS, parse_prices
from sellapi.admin.service import Admin
from sellapi.admin.views import Model, Provider, Tier
from sellapi.domain.credits import format_credits, parse_credits, parse_usd
from sellapi.domain.pricing import Prices
from sellapi.errors import UsageError
from tui.acts.act import Act, Context, Field, FormSpec, Line, Stage, Values
from tui.words import amount, usd

__all__ = ["ACTS", "PRICE_LABELS"]

PRICE_LABELS = {
    "input": "Input",
    "output": "Output",
    "cached_input": "Cached input",
    "cache_write": "Cache write",
    "cache_write_1h": "Cache write 1h",
    "audio_input": "Audio input",
    "image_input": "Image input",
    "image_output": "Image output",
    "long_input": "Long input",
    "long_output": "Long output",
    "long_cached_input": "Long cached",
    "long_cache_write": "Long write",
}
MODES = (("chat", "chat"), ("embedding", "embedding"), ("image", "image"))
TIERS = (("free", "free"), ("pro", "pro"))
PER_MILLION = "USD per million tokens"


def whole(label: str, text: str) -> int | None:
    """A whole number a person typed, None for nothing; raises `UsageError`."""
    if not text:
        return None
    digits = text.replace(",", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 13):
        raise UsageError(f"{label}: {text!r} is no whole number")
    return int(digits)


def seconds(text: str) -> float | None:
    """Seconds a person typed; raises `UsageError`."""
    return None if not text else parse_usd(text) / 1_000_000


def _images(images: Mapping[str, str]) -> str:
    words = [price if key == "*:*" else f"{key}={price}" for key, price in images.items()]
    return " ".join(words)


# -- models ------------------------------------------------------------------------------------


def _price_words(values: Values) -> dict[str, str | int | None]:
    words: dict[str, str | int | None] = {n: v for n in PRICE_WORDS if (v := values.get(n, ""))}
    if values.get("long_context"):
        words["long_context"] = whole("Long from", values["long_context"])
    return words


def _price_fields(prices: Mapping[str, Any]) -> tuple[Field, ...]:
    fields = [
        Field(name, label, str(prices.get(PRICE_WORDS[name], "")),
              PER_MILLION if name in ("input", "output") else "")
        for name, label in PRICE_LABELS.items()
    ]  # fmt: skip
    long_context = str(prices.get("long_context", ""))
    fields.insert(8, Field("long_context", "Long from", long_context, "tokens above which"))
    images = _images(prices.get("images", {}))
    return (*fields, Field("images", "Image", images, "USD each: 0.04 or 1024x1024:high=0.2"))


async def add_model(stage: Stage, at: Context) -> None:
    providers = await stage.fetch(lambda admin: admin.providers.list())
    names = tuple((f"{p.name} ({p.kind})", p.name) for p in providers)

    def act(admin: Admin, v: Values) -> Model:
        return admin.models.add(
            v["slug"],
            mode=v["mode"],
            provider=v["provider"] or None,
            upstream=v["upstream"] or None,
            prices=_price_words(v),
            images=v["images"].split(),
            tier=v["tier"],
            context=whole("Context", v["context"]),
            max_output=whole("Longest answer", v["max_output"]),
        )

    first = at.provider or (providers[0].name if providers else "")
    model = await stage.fill(
        FormSpec(
            title="Add a model",
            verb="Add",
            intro="Without a price it stays off. Prices are USD per million tokens.",
            fields=(
                Field("slug", "Slug", hint="openai/gpt-5.4", required=True),
                Field("mode", "Mode", "chat", options=MODES, required=True),
                Field("tier", "Tier", "pro", options=TIERS, required=True),
                Field("provider", "Provider", first, options=names),
                Field("upstream", "Upstream id", hint="what comes after the slug's last /"),
                Field("context", "Context", hint="tokens"),
                Field("max_output", "Longest answer", hint="tokens"),
                *_price_fields({}),
            ),
            act=act,
        )
    )
    if model is not None:
        stage.done(f"{model.slug} is {'for sale' if model.available else model.why_not}.")


async def _ask_model(stage: Stage, at: Context, title: str) -> Model | None:
    if at.model:
        slug = at.model
        return await stage.fetch(lambda admin: admin.models.show(slug))
    models = await stage.fetch(lambda admin: admin.models.list())
    return await stage.fill(
        FormSpec(
            title=title,
            verb="Go on",
            fields=(
                Field("model", "Model", options=tuple((m.slug, m.slug) for m in models),
                      required=True),
            ),
            act=lambda admin, v: admin.models.show(v["model"]),
        )
    )  # fmt: skip


def _model_before(model: Model) -> dict[str, str]:
    before = {f.name: f.value for f in _price_fields(model.prices)}
    return {
        "name": model.name,
        "tier": model.tier,
        "context": "" if model.context_length is None else str(model.context_length),
        "max_output": "" if model.max_output is None else str(model.max_output),
        **before,
    }


def _model_changes(model: Model, values: Values) -> dict[str, str]:
    """What differs from how it is; a price that was taken out becomes ``none``."""
    before = _model_before(model)
    changed = {n: values[n] for n in before if values[n] != before[n]}
    for name, value in changed.items():
        if not value and name in (*PRICE_WORDS, "images"):
            changed[name] = "none"
        elif not value:
            changed[name] = "0" if name in ("long_context", "context", "max_output") else ""
    return changed


def _model_preview(model: Model) -> Any:
    labels = {"name": "name", "tier": "tier", "context": "context", "max_output": "longest answer",
              "long_context": "long from", "images": "image", **PRICE_LABELS}  # fmt: skip

    def preview(admin: Admin, values: Values) -> list[Line]:
        del admin
        changed, before = _model_changes(model, values), _model_before(model)
        prices = _price_words({n: v for n, v in changed.items() if n != "images"})
        base = {
            PRICE_WORDS[n]: parse_usd(before[n]) for n in PRICE_WORDS if before[n]
        }  # what stands now, so that a long price without its step is told before the act
        step = whole("Long from", before["long_context"])
        parse_prices(Prices(**base, long_context=step), prices, changed.get("images", "").split())  # type: ignore[arg-type]
        for name in ("context", "max_output"):
            whole(labels[name], changed.get(name, ""))
        lines = [Line(labels[n].lower(), v, before[n] or "none") for n, v in changed.items()]
        if lines and values["start"]:
            lines.append(Line("prices from", values["start"]))
        if not lines:
            raise UsageError("nothing differs from how it is: change a field, or Esc")
        return lines

    return preview


async def set_model(stage: Stage, at: Context) -> None:
    model = await _ask_model(stage, at, "Change which model?")
    if model is None:
        return
    before = _model_before(model)

    def act(admin: Admin, values: Values) -> Model:
        changed = _model_changes(model, values)
        return admin.models.set(
            model.slug,
            prices=_price_words({n: v for n, v in changed.items() if n != "images"}),
            images=changed.get("images", "").split(),
            start=values["start"] or None,
            name=changed.get("name"),
            tier=changed.get("tier"),
            context=whole("Context", changed.get("context", "")),
            max_output=whole("Longest answer", changed.get("max_output", "")),
        )

    done = await stage.fill(
        FormSpec(
            title=f"Change {model.slug}",
            verb="Change",
            intro="Prices in USD per million tokens. A change of price is a new version.",
            fields=(
                Field("name", "Name", before["name"], required=True),
                Field("tier", "Tier", before["tier"], options=TIERS, required=True),
                Field("context", "Context", before["context"], "tokens"),
                Field("max_output", "Longest answer", before["max_output"], "tokens"),
                *_price_fields(model.prices),
                Field("start", "Prices from", hint="at once; or 2027-01-01 (UTC)"),
            ),
            preview=_model_preview(model),
            act=act,
        )
    )
    if done is not None:
        stage.done(f"{done.slug} is changed; it holds for the next request.")


async def enable(stage: Stage, at: Context) -> None:
    model = await _ask_model(stage, at, "Offer which model?")
    if model is not None:
        done = await stage.fetch(lambda admin: admin.models.enable(model.slug))
        words = "is for sale" if done.available else f"is on, but {done.why_not}"
        stage.done(f"{done.slug} {words}.")


async def disable(stage: Stage, at: Context) -> None:
    model = await _ask_model(stage, at, "Offer which model no more?")
    if model is None:
        return
    done = await stage.fill(
        FormSpec(
            title="Take this model off the shelf?",
            intro=f"{model.slug}\n\nIt answers 404 from the next request on; o puts it back.",
            verb="Disable",
            danger=True,
            act=lambda admin, _v: admin.models.disable(model.slug),
        )
    )
    if done is not None:
        stage.done(f"{done.slug} is off.")


async def add_route(stage: Stage, at: Context) -> None:
    model = await _ask_model(stage, at, "A route for which model?")
    if model is None:
        return
    providers = await stage.fetch(lambda admin: admin.providers.list())

    def act(admin: Admin, v: Values) -> Model:
        return admin.models.route_add(
            model.slug,
            f"{v['provider']}:{v['upstream']}",
            priority=whole("Priority", v["priority"]),
            weight=whole("Weight", v["weight"]),
            timeout_s=seconds(v["timeout"]),
            cost=v["cost"].split(),
        )

    done = await stage.fill(
        FormSpec(
            title=f"Another route for {model.slug}",
            verb="Add",
            fields=(
                Field("provider", "Provider", options=tuple((p.name, p.name) for p in providers),
                      required=True),
                Field("upstream", "Upstream id", model.upstream or "", required=True),
                Field("priority", "Priority", hint="after those there are; lowest is first"),
                Field("weight", "Weight", hint="1; share among equal priorities"),
                Field("timeout", "Timeout", hint="seconds; the provider's"),
                Field("cost", "Our cost", hint="input=2.5 output=15, USD per million"),
            ),
            act=act,
        )
    )  # fmt: skip
    if done is not None:
        stage.done(f"{done.slug} has {len(done.routes)} routes.")


async def remove_route(stage: Stage, at: Context) -> None:
    model = await _ask_model(stage, at, "Remove a route of which model?")
    if model is None:
        return
    targets = tuple(f"{r.provider}:{r.upstream}" for r in model.routes)
    done = await stage.fill(
        FormSpec(
            title=f"Remove a route of {model.slug}",
            verb="Remove",
            danger=True,
            fields=(
                Field("target", "Route", targets[0] if targets else "",
                      options=tuple((t, t) for t in targets), required=True),
            ),
            act=lambda admin, v: admin.models.route_remove(model.slug, v["target"]),
        )
    )  # fmt: skip
    if done is not None:
        left = f"{len(done.routes)} routes" if done.routes else "no route left and is not sold"
        stage.done(f"{done.slug} has {left}.")


# -- providers ---------------------------------------------------------------------------------

KINDS = tuple((k, k) for k in ("openai", "anthropic", "gemini"))


def _connection_fields(old: Provider | None) -> tuple[Field, ...]:
    headers = {} if old is None else old.headers
    return (
        Field("base_url", "Base URL", "" if old is None else old.base_url,
              "its maker's; or https://host/v1"),
        Field("api_key_env", "Key variable", (old.api_key_env if old else "") or "",
              "OPENAI_API_KEY: a name, never the key"),
        Field("api_key_file", "Key file", (old.api_key_file if old else "") or "",
              "or a file that holds it"),
        Field("headers", "Headers", " ".join(f"{k}={v}" for k, v in headers.items()),
              "NAME=VALUE; secrets as NAME=env:VARIABLE"),
        Field("max_connections", "Connections", "" if old is None else str(old.max_connections),
              "256"),
        Field("timeout", "Timeout", "" if old is None else f"{old.timeout_s:g}", "seconds; 600"),
        Field("proxy", "Proxy", (old.proxy if old else "") or "", "none; http://proxy:3128"),
    )  # fmt: skip


async def add_provider(stage: Stage, _at: Context) -> None:
    def act(admin: Admin, v: Values) -> Provider:
        return admin.providers.add(
            v["name"],
            kind=v["kind"],
            base_url=v["base_url"] or None,
            api_key_env=v["api_key_env"] or None,
            api_key_file=v["api_key_file"] or None,
            no_key=bool(v["no_key"]),
            headers=v["headers"].split(),
            max_connections=whole("Connections", v["max_connections"]),
            timeout_s=seconds(v["timeout"]),
            proxy=v["proxy"] or None,
        )

    done = await stage.fill(
        FormSpec(
            title="Add a provider",
            verb="Add",
            intro="Its key stays in the environment of `sellapi serve`, or in a file.",
            fields=(
                Field("name", "Name", hint="backup", required=True),
                Field("kind", "Kind", "openai", options=KINDS, required=True),
                *_connection_fields(None),
                Field("no_key", "Wants no key", flag=True),
            ),
            act=act,
        )
    )
    if done is not None:
        stage.done(f"{done.name}: {done.state}. {' '.join(done.hints)}")


async def _ask_provider(stage: Stage, at: Context, title: str) -> Provider | None:
    if at.provider:
        name = at.provider
        return await stage.fetch(lambda admin: admin.providers.show(name))
    providers = await stage.fetch(lambda admin: admin.providers.list())
    return await stage.fill(
        FormSpec(
            title=title,
            verb="Go on",
            fields=(
                Field("provider", "Provider", options=tuple((p.name, p.name) for p in providers),
                      required=True),
            ),
            act=lambda admin, v: admin.providers.show(v["provider"]),
        )
    )  # fmt: skip


def _provider_changes(old: Provider, values: Values) -> dict[str, str]:
    before = {f.name: f.value for f in _connection_fields(old)}
    before["enabled"] = "yes" if old.enabled else ""
    changed = {n: values[n] for n in before if values[n] != before[n]}
    if changed.get("proxy") == "":
        changed["proxy"] = "none"
    for one, other in (("api_key_env", "api_key_file"), ("api_key_file", "api_key_env")):
        if changed.get(one) == "" and values[other]:
            del changed[one]  # naming the one place takes the other away
    return changed


async def set_provider(stage: Stage, at: Context) -> None:
    old = await _ask_provider(stage, at, "Change which provider?")
    if old is None:
        return

    def preview(_admin: Admin, values: Values) -> list[Line]:
        changed = _provider_changes(old, values)
        before = {f.name: f.value for f in _connection_fields(old)}
        before["enabled"] = "yes" if old.enabled else ""
        if not changed:
            raise UsageError("nothing differs from how it is: change a field, or Esc")
        whole("Connections", changed.get("max_connections", ""))
        seconds(changed.get("timeout", ""))
        return [Line(n.replace("_", " "), v or "no", before[n] or "none")
                for n, v in changed.items()]  # fmt: skip

    def act(admin: Admin, values: Values) -> Provider:
        changed = _provider_changes(old, values)
        gone = {k for k in old.headers if k not in {p.partition("=")[0].lower()
                for p in changed.get("headers", "").split()}}  # fmt: skip
        headers = changed["headers"].split() if "headers" in changed else []
        if "headers" in changed and not headers:
            headers = [f"{name}=" for name in sorted(gone)]
        return admin.providers.set(
            old.name,
            base_url=changed.get("base_url"),
            api_key_env=changed.get("api_key_env"),
            api_key_file=changed.get("api_key_file"),
            headers=headers,
            max_connections=whole("Connections", changed.get("max_connections", "")),
            timeout_s=seconds(changed.get("timeout", "")),
            proxy=changed.get("proxy"),
            enabled=None if "enabled" not in changed else bool(changed["enabled"]),
        )

    done = await stage.fill(
        FormSpec(
            title=f"Change provider {old.name}",
            verb="Change",
            fields=(
                *_connection_fields(old),
                Field("enabled", "In use", "yes" if old.enabled else "", flag=True),
            ),
            preview=preview,
            act=act,
        )
    )
    if done is not None:
        stage.done(f"{done.name}: {done.state}. {' '.join(done.hints)}")


async def test_provider(stage: Stage, at: Context) -> None:
    provider = await _ask_provider(stage, at, "Test which provider?")
    if provider is None:
        return
    stage.tell(f"Calling {provider.name} once …")
    found = await stage.fetch(lambda admin: admin.providers.test(provider.name))
    words = f"{found.name}, {found.model}: {found.message}"
    if found.ok:
        stage.done(f"{words} in {found.latency_ms} ms.")
    else:
        stage.tell(words, bad=True)


async def remove_provider(stage: Stage, at: Context) -> None:
    provider = await _ask_provider(stage, at, "Remove which provider?")
    if provider is None:
        return
    slugs = await stage.fetch(lambda admin: admin.providers.routed_models(provider.name))
    shown = ", ".join(slugs[:6]) + (" …" if len(slugs) > 6 else "")
    words = f"{len(slugs)} models lose a route: {shown}" if slugs else "No model goes to it."
    done = await stage.fill(
        FormSpec(
            title="Remove this provider?",
            intro=f"{provider.name} ({provider.kind})\n\n{words}",
            verb="Remove",
            danger=True,
            act=lambda admin, _v: admin.providers.remove(provider.name),
        )
    )
    if done is not None:
        stage.done(f"{done.name} is removed.")


# -- packs and tiers ---------------------------------------------------------------------------


async def add_pack(stage: Stage, _at: Context) -> None:
    def preview(_admin: Admin, v: Values) -> list[Line]:
        value, price = parse_credits(v["credits"]), parse_usd(v["price"])
        worth_usd = value // 100_000  # a credit is $0.00001; USD 1e-6
        return [
            Line("pack", v["slug"]),
            Line("credits", f"{amount(value)} (list value {usd(worth_usd)})"),
            Line("price", usd(price)),
        ]

    done = await stage.fill(
        FormSpec(
            title="Add a pack",
            verb="Add",
            intro="A pack never changes once it is there: retire it and add another.",
            fields=(
                Field("slug", "Slug", hint="starter", required=True),
                Field("credits", "Credits", hint="500000", required=True),
                Field("price", "Price USD", hint="5", required=True),
            ),
            preview=preview,
            act=lambda admin, v: admin.packs.add(
                v["slug"], amount=v["credits"], price_usd=v["price"]
            ),
        )
    )
    if done is not None:
        stage.done(f"Pack {done.slug} is for sale.")


async def retire_pack(stage: Stage, at: Context) -> None:
    packs = await stage.fetch(lambda admin: admin.packs.list(retired=False))
    options = tuple((p.slug, p.slug) for p in packs)
    chosen = at.pack if at.pack in {p.slug for p in packs} else ""
    done = await stage.fill(
        FormSpec(
            title="Retire a pack?",
            intro="It is sold no more. What was sold of it stays.",
            verb="Retire",
            danger=True,
            fields=(Field("pack", "Pack", chosen, options=options, required=True),),
            act=lambda admin, v: admin.packs.retire(v["pack"]),
        )
    )
    if done is not None:
        stage.done(f"Pack {done.slug} is retired.")


def _tier_before(tier: Tier) -> dict[str, str]:
    return {
        "rpm": str(tier.rpm),
        "account_rpm": str(tier.account_rpm),
        "signup_credits": format_credits(tier.signup_credits),
    }


async def set_tier(stage: Stage, at: Context) -> None:
    tiers = {t.name: t for t in await stage.fetch(lambda admin: admin.tiers.list())}
    name = at.tier or await stage.fill(
        FormSpec(
            title="Change which tier?",
            verb="Go on",
            fields=(Field("tier", "Tier", "free", options=TIERS, required=True),),
            act=lambda _admin, v: v["tier"],
        )
    )
    if not name or name not in tiers:
        return
    before = _tier_before(tiers[name])
    labels = {"rpm": "per key", "account_rpm": "per account", "signup_credits": "signup credits"}

    def changes(values: Values) -> dict[str, str]:
        return {n: values[n] for n in before if values[n] != before[n]}

    def preview(_admin: Admin, values: Values) -> list[Line]:
        changed = changes(values)
        if not changed:
            raise UsageError("nothing differs from how it is: change a field, or Esc")
        for field in ("rpm", "account_rpm"):
            whole(labels[field], values[field])
        parse_credits(values["signup_credits"])
        return [Line(labels[n], v, before[n]) for n, v in changed.items()]

    def act(admin: Admin, values: Values) -> Tier:
        changed = changes(values)
        return admin.tiers.set(
            name,
            rpm=whole("per key", changed.get("rpm", "")),
            account_rpm=whole("per account", changed.get("account_rpm", "")),
            signup_credits=changed.get("signup_credits"),
        )

    done = await stage.fill(
        FormSpec(
            title=f"Change tier {name}",
            verb="Change",
            fields=(
                Field("rpm", "Per key", before["rpm"], "requests a minute", required=True),
                Field("account_rpm", "Per account", before["account_rpm"], required=True),
                Field("signup_credits", "Signup credits", before["signup_credits"], required=True),
            ),
            preview=preview,
            act=act,
        )
    )
    if done is not None:
        stage.done(f"Tier {done.name} is changed; it holds for the next request.")


ACTS = (
    Act("models.add", "Add a model", "With price and route", "models add", add_model),
    Act("models.set", "Change a model", "Prices, tier, limits", "models set", set_model),
    Act("models.enable", "Enable a model", "Offer it", "models enable", enable),
    Act("models.disable", "Disable a model", "Offer it no more", "models disable", disable),
    Act("models.route_add", "Add a route", "Another provider answers", "models route", add_route),
    Act("models.route_remove", "Remove a route", "", "models route", remove_route),
    Act("providers.add", "Add a provider", "An account at a maker", "providers add", add_provider),
    Act("providers.set", "Change a provider", "URL, key, limits", "providers set", set_provider),
    Act("providers.test", "Test a provider", "One cheap call", "providers test", test_provider),
    Act("providers.remove", "Remove a provider", "And the routes to it", "providers remove",
        remove_provider),
    Act("packs.add", "Add a pack", "Credits at a price", "packs add", add_pack),
    Act("packs.retire", "Retire a pack", "Sell it no more", "packs retire", retire_pack),
    Act("tiers.set", "Change a tier", "Limits, signup credits", "tiers set", set_tier),
)  # fmt: skip
