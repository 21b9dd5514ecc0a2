"""Acts on packs and tiers: what a customer may buy, and what follows from it."""

from __future__ import annotations

from sellapi.admin.service import Admin
from sellapi.admin.views import Tier
from sellapi.domain.credits import format_credits, parse_credits, parse_usd
from tui.acts.act import Act, Context, Field, FormSpec, Line, Stage, Values
from tui.acts.typed import differing, whole
from tui.words import amount, usd

__all__ = ["ACTS"]

TIERS = (("free", "free"), ("pro", "pro"))


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

    def preview(admin: Admin, v: Values) -> list[Line]:
        pack = admin.packs.show(v["pack"])
        return [
            Line("pack", f"{pack.slug}: {amount(pack.credits)} credits for {usd(pack.price_usd)}"),
            Line("status", "retired, for good", pack.status),
        ]

    done = await stage.fill(
        FormSpec(
            title="Retire a pack",
            intro="It is sold no more. What was sold of it stays.",
            verb="Retire",
            danger=True,
            fields=(Field("pack", "Pack", chosen, options=options, required=True),),
            preview=preview,
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
        for field in ("rpm", "account_rpm"):
            whole(labels[field], values[field])
        parse_credits(values["signup_credits"])
        return differing([Line(labels[n], v, before[n]) for n, v in changed.items()])

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
    Act("packs.add", "Add a pack", "Credits at a price", "packs add", add_pack),
    Act("packs.retire", "Retire a pack", "Sell it no more", "packs retire", retire_pack),
    Act("tiers.set", "Change a tier", "Limits, signup credits", "tiers set", set_tier),
)  # fmt: skip
