"""``sellapi packs`` and ``sellapi tiers``."""

from __future__ import annotations

import click

from sellapi.commands.common import ROW_ID, Out, command, group


@group(
    "packs",
    "Packs of credits, and their sales.",
    example="sellapi packs list\nsellapi packs sell ann@shop.test starter --reference invoice-17",
)
def packs() -> None: ...


@command(packs, "list", example="sellapi packs list")
def list_(out: Out) -> None:
    """List packs, retired ones last."""
    out.many(
        out.admin.packs.list(),
        ["slug", "credits", "price_usd", "status"],
        empty="no packs yet: sellapi packs add SLUG --credits N --price-usd P",
    )


@command(packs, "show", example="sellapi packs show starter")
@click.argument("slug")
def show(out: Out, slug: str) -> None:
    """Show one pack."""
    out.one(out.admin.packs.show(slug))


@command(packs, "add", example="sellapi packs add big --credits 1000000 --price-usd 9.50")
@click.argument("slug")
@click.option("--credits", "amount", required=True, help="Credits it holds.")
@click.option("--price-usd", required=True, help="What it costs.")
def add(out: Out, slug: str, amount: str, price_usd: str) -> None:
    """Add a pack. A pack never changes: retire it and add another."""
    out.one(out.admin.packs.add(slug, amount=amount, price_usd=price_usd))


@command(packs, "retire", example="sellapi packs retire big --yes")
@click.argument("slug")
@click.option("--yes", is_flag=True, help="Do not ask.")
def retire(out: Out, slug: str, yes: bool) -> None:
    """Sell a pack no more; what was sold stays."""
    pack = out.admin.packs.show(slug)
    out.confirm(f"Retire pack {pack.slug}?", yes=yes)
    out.one(out.admin.packs.retire(slug))


@command(packs, "sell", example="sellapi packs sell ann@shop.test starter --reference invoice-17")
@click.argument("email")
@click.argument("pack")
@click.option("--paid-usd", help="Cash received, when it is not the pack's price.")
@click.option("--reference", help="Invoice or payment id: the same one never credits twice.")
def sell(out: Out, email: str, pack: str, paid_usd: str | None, reference: str | None) -> None:
    """Sell a pack: credits and Pro at once."""
    out.one(out.admin.packs.sell(email, pack, paid_usd=paid_usd, reference=reference))


@command(packs, "refund", example="sellapi packs refund 42 --reason 'changed her mind'")
@click.argument("entry", type=ROW_ID)
@click.option("--reason", default="", help="Stands in the ledger.")
@click.option("--allow-debt", is_flag=True, help="Credits already spent become owed.")
def refund(out: Out, entry: int, reason: str, allow_debt: bool) -> None:
    """Undo a sale, by its ledger entry; Pro ends with the last pack."""
    out.one(out.admin.packs.refund(entry, reason=reason, allow_debt=allow_debt))


@group(
    "tiers",
    "Limits of free and pro.",
    example="sellapi tiers list\nsellapi tiers set free --rpm 30",
)
def tiers() -> None: ...


@command(tiers, "list", example="sellapi tiers list --json")
def tiers_list(out: Out) -> None:
    """List the tiers."""
    out.many(
        out.admin.tiers.list(), ["name", "rpm", "account_rpm", "signup_credits"], empty="run init"
    )


@command(tiers, "show", example="sellapi tiers show free")
@click.argument("name", metavar="free|pro", type=click.Choice(["free", "pro"]))
def tiers_show(out: Out, name: str) -> None:
    """Show one tier."""
    out.one(out.admin.tiers.show(name))


@command(tiers, "set", example="sellapi tiers set free --rpm 30 --signup-credits 5000")
@click.argument("name", metavar="free|pro", type=click.Choice(["free", "pro"]))
@click.option("--rpm", type=click.IntRange(0), help="Requests a minute per key.")
@click.option("--account-rpm", type=click.IntRange(0), help="Requests a minute per account.")
@click.option("--signup-credits", help="Credits a new user starts with.")
def tiers_set(
    out: Out, name: str, rpm: int | None, account_rpm: int | None, signup_credits: str | None
) -> None:
    """Change a tier's limits; holds for the next request."""
    out.one(
        out.admin.tiers.set(name, rpm=rpm, account_rpm=account_rpm, signup_credits=signup_credits)
    )
