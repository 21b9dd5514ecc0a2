"""Acts on models: what is for sale, at which price, and who answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sellapi.admin.models import PRICE_WORDS, parse_prices
from sellapi.admin.service import Admin
from sellapi.admin.views import Model
from sellapi.admin.words import parse_day
from sellapi.domain.credits import parse_usd
from sellapi.domain.pricing import Prices
from tui.acts.act import Act, Context, Field, FormSpec, Line, Stage, Values
from tui.acts.typed import differing, whole
from tui.words import day_time

__all__ = ["ACTS", "ask_model"]

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
COUNTS = ("long_context", "context", "max_output")
"""Fields that are counts of tokens; 0 takes one away."""
PER_MILLION = "USD per million tokens"


def _images(images: Mapping[str, str]) -> str:
    words = [price if key == "*:*" else f"{key}={price}" for key, price in images.items()]
    return " ".join(words)


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


async def ask_model(stage: Stage, at: Context, title: str) -> Model | None:
    """The model looked at, or the one chosen from all; None when the operator left."""
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
            changed[name] = "0" if name in COUNTS else ""
    return changed


def _from_words(start: str) -> str:
    return f"{day_time(parse_day(start) * 1000)[:16]} UTC"


def _holds_words(changed: Mapping[str, str], start: str) -> str:
    """From when a change of a model holds: what is scheduled is its price, and only that."""
    if not start:
        return "it holds for the next request"
    rest = {"name", "tier", "context", "max_output"} & set(changed)
    also = ", the rest for the next request" if rest else ""
    return f"the new price holds from {_from_words(start)}{also}"


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
        gone = {n: "none" for n in COUNTS if not values[n]}
        lines = [Line(labels[n].lower(), gone.get(n, v), before[n]) for n, v in changed.items()]
        if lines and values["start"]:
            lines.append(Line("prices from", _from_words(values["start"])))
        return differing(lines)

    return preview


async def set_model(stage: Stage, at: Context) -> None:
    model = await ask_model(stage, at, "Change which model?")
    if model is None:
        return
    before = _model_before(model)

    def act(admin: Admin, values: Values) -> str:
        changed = _model_changes(model, values)
        admin.models.set(
            model.slug,
            prices=_price_words({n: v for n, v in changed.items() if n != "images"}),
            images=changed.get("images", "").split(),
            start=values["start"] or None,
            name=changed.get("name"),
            tier=changed.get("tier"),
            context=whole("Context", changed.get("context", "")),
            max_output=whole("Longest answer", changed.get("max_output", "")),
        )
        return _holds_words(changed, values["start"])

    holds = await stage.fill(
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
    if holds is not None:
        stage.done(f"{model.slug} is changed; {holds}.")


async def enable(stage: Stage, at: Context) -> None:
    model = await ask_model(stage, at, "Offer which model?")
    if model is not None:
        done = await stage.fetch(lambda admin: admin.models.enable(model.slug))
        words = "is for sale" if done.available else f"is on, but {done.why_not}"
        stage.done(f"{done.slug} {words}.")


async def disable(stage: Stage, at: Context) -> None:
    model = await ask_model(stage, at, "Offer which model no more?")
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


ACTS = (
    Act("models.add", "Add a model", "With price and route", "models add", add_model),
    Act("models.set", "Change a model", "Prices, tier, limits", "models set", set_model),
    Act("models.enable", "Enable a model", "Offer it", "models enable", enable),
    Act("models.disable", "Disable a model", "Offer it no more", "models disable", disable),
)  # fmt: skip
