"""Acts that move credits: sales, grants, deductions, refunds."""

from __future__ import annotations

from sellapi.admin.service import Admin
from sellapi.admin.views import User
from sellapi.domain.credits import credits_to_usd, format_credits, parse_credits, parse_usd
from sellapi.errors import Refused
from tui.acts.act import Act, Context, Field, FormSpec, Line, Stage, Values
from tui.acts.people import who
from tui.acts.typed import number
from tui.words import amount, day_time, usd

__all__ = ["ACTS"]

REFERENCE = Field("reference", "Reference", hint="optional; makes a repetition harmless")


def _sell_preview(admin: Admin, values: Values) -> list[Line]:
    user, pack = admin.users.show(values["user"]), admin.packs.show(values["pack"])
    paid = parse_usd(values["paid"]) if values["paid"] else pack.price_usd
    return [
        Line("user", user.email),
        Line("pack", f"{pack.slug}: {amount(pack.credits)} credits"),
        Line("paid", usd(paid)),
        Line("balance", amount(user.balance + pack.credits - min(user.owed, pack.credits)),
             amount(user.balance)),
        Line("tier", "pro", user.tier if user.tier != "pro" else None),
    ]  # fmt: skip


async def sell(stage: Stage, at: Context) -> None:
    packs = await stage.fetch(lambda admin: admin.packs.list(retired=False))
    if not packs:
        raise Refused("there is no pack to sell: add one in Catalog, Packs")
    if at.pack and at.pack not in {p.slug for p in packs}:
        raise Refused(f"pack {at.pack} is retired: choose one that is sold")
    options = tuple((f"{p.slug}  {amount(p.credits)} credits  {usd(p.price_usd)}", p.slug)
                    for p in packs)  # fmt: skip
    sale = await stage.fill(
        FormSpec(
            title="Sell a pack",
            verb="Sell",
            fields=(
                who(at),
                Field("pack", "Pack", at.pack or packs[0].slug, options=options, required=True),
                Field("paid", "Paid USD", hint="its price"),
                REFERENCE,
            ),
            preview=_sell_preview,
            act=lambda admin, v: admin.packs.sell(
                v["user"],
                v["pack"],
                paid_usd=v["paid"] or None,
                reference=v["reference"] or None,
            ),
        )
    )
    if sale is not None:
        again = " (it was sold before; nothing changed)" if sale.repeated else ""
        stage.done(f"{sale.user} has {amount(sale.balance)} credits, tier {sale.tier}{again}.")


def _change_preview(sign: int) -> object:
    def preview(admin: Admin, values: Values) -> list[Line]:
        user, value = admin.users.show(values["user"]), parse_credits(values["amount"])
        lines = [
            Line("user", user.email),
            Line(
                "credits",
                f"{'+' if sign > 0 else '-'}{format_credits(value)} (${credits_to_usd(value)})",
            ),
            Line("reason", values["reason"]),
        ]
        if sign > 0:
            after = user.balance + value - min(user.owed, value)
            return [*lines, Line("balance", amount(after), amount(user.balance))]
        instead = "deduct that much, or let the rest be owed"
        return [*lines, *_taken(user, value, values["debt"], instead)]

    return preview


def _taken(user: User, value: int, debt: str, instead: str) -> list[Line]:
    """What taking credits leaves. More than is available only with ``debt``; else ``instead``."""
    missing = max(0, value - user.available)
    if missing and not debt:
        raise Refused(f"{user.email} has {amount(user.available)} available: {instead}")
    owed = [Line("owed", amount(user.owed + missing), amount(user.owed))] if missing else []
    return [*owed, Line("balance", amount(user.balance - value + missing), amount(user.balance))]


async def grant(stage: Stage, at: Context) -> None:
    done = await stage.fill(
        FormSpec(
            title="Grant credits",
            verb="Grant",
            fields=(
                who(at),
                Field("amount", "Credits", hint="10000 is $0.10", required=True),
                Field("reason", "Reason", hint="stands in the ledger", required=True),
                REFERENCE,
            ),
            preview=_change_preview(1),  # type: ignore[arg-type]
            act=lambda admin, v: admin.credits.grant(
                v["user"], v["amount"], reason=v["reason"], reference=v["reference"] or None
            ),
        )
    )
    if done is not None:
        stage.done(f"{done.user} has {amount(done.balance)} credits.")


async def deduct(stage: Stage, at: Context) -> None:
    done = await stage.fill(
        FormSpec(
            title="Deduct credits",
            verb="Deduct",
            danger=True,
            fields=(
                who(at),
                Field("amount", "Credits", required=True),
                Field("reason", "Reason", hint="stands in the ledger", required=True),
                REFERENCE,
                Field("debt", "Rest is owed", flag=True),
            ),
            preview=_change_preview(-1),  # type: ignore[arg-type]
            act=lambda admin, v: admin.credits.deduct(
                v["user"],
                v["amount"],
                reason=v["reason"],
                reference=v["reference"] or None,
                allow_debt=bool(v["debt"]),
            ),
        )
    )
    if done is not None:
        stage.done(f"{done.user} has {amount(done.balance)} credits.")


def _refund_preview(admin: Admin, values: Values) -> list[Line]:
    charge = admin.credits.charge(values["request"])
    user, value = admin.users.show(str(charge.user_id)), charge.owed_change - charge.amount
    return [
        Line("user", user.email),
        *_asked_for(admin, values["request"]),
        Line("charged", f"{day_time(charge.at)} UTC"),
        Line("goes back", f"{format_credits(value)} (${credits_to_usd(value)})"),
        Line("balance", amount(user.balance + value - min(user.owed, value)),
             amount(user.balance)),
    ]  # fmt: skip


def _asked_for(admin: Admin, request_id: str) -> list[Line]:
    try:
        request = admin.requests.show(request_id).request
    except Refused:  # it was pruned; its charge still stands in the ledger
        return []
    return [Line("asked for", f"{request.model} ({request.mode})")]


async def refund_request(stage: Stage, at: Context) -> None:
    done = await stage.fill(
        FormSpec(
            title="Refund a request",
            verb="Refund",
            danger=True,
            intro="Gives back what the request was charged, once.",
            fields=(
                Field("request", "Request", at.request, "its request id", required=True),
                Field("reason", "Reason", hint="optional"),
            ),
            preview=_refund_preview,
            act=lambda admin, v: admin.credits.refund(v["request"], reason=v["reason"]),
        )
    )
    if done is not None:
        words = "was refunded before" if done.repeated else f"{amount(done.amount)} credits back"
        stage.done(f"{done.user}: {words}.")


def _refund_pack_preview(admin: Admin, values: Values) -> list[Line]:
    sale = admin.packs.sale(number(values["entry"]))
    detail = admin.users.detail(str(sale.user_id))
    user, last = detail.user, detail.packs_bought == 1
    return [
        Line("user", user.email),
        Line("pack", f"{sale.pack}, sold {day_time(sale.at)} UTC"),
        Line("credits", f"-{amount(sale.amount)}"),
        Line("goes back", usd(sale.cash_usd)),
        *_taken(user, sale.amount, values["debt"], "let the rest of the pack be owed"),
        *([Line("tier", "free", user.tier)] if last and user.tier == "pro" else []),
    ]


async def refund_pack(stage: Stage, at: Context) -> None:
    entry = "" if at.entry is None else str(at.entry)
    done = await stage.fill(
        FormSpec(
            title="Refund a pack",
            verb="Refund",
            danger=True,
            intro="Takes the pack's credits back; Pro ends with the last unrefunded pack.",
            fields=(
                Field("entry", "Entry", entry, "number of the sale's entry", required=True),
                Field("reason", "Reason", hint="optional"),
                Field("debt", "Rest is owed", flag=True),
            ),
            preview=_refund_pack_preview,
            act=lambda admin, v: admin.packs.refund(
                number(v["entry"]), reason=v["reason"], allow_debt=bool(v["debt"])
            ),
        )
    )
    if done is not None:
        words = "was refunded before" if done.repeated else f"{usd(-done.cash_usd)} goes back"
        stage.done(f"{done.user}: {words}.")


ACTS = (
    Act("packs.sell", "Sell a pack", "Credits, cash and Pro in one act", "packs sell", sell),
    Act("packs.refund", "Refund a pack", "Take a sale back", "packs refund", refund_pack),
    Act("credits.grant", "Grant credits", "With a reason", "credits grant", grant),
    Act("credits.deduct", "Deduct credits", "With a reason", "credits deduct", deduct),
    Act("credits.refund", "Refund a request", "Give its charge back", "credits refund",
        refund_request),
)  # fmt: skip
