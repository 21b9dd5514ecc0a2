"""Packs of credits and their sales, and the tiers a sale leads to."""

from __future__ import annotations

import re
import sqlite3
from typing import Any

from sellapi.admin.core import Noun
from sellapi.admin.credits import (
    entry_view,
    find_repeat,
    known_reference,
    ledger_act,
    once,
    say_entry,
)
from sellapi.admin.users import find_account
from sellapi.admin.views import Entry, LedgerAct, Pack, Sale, Tier
from sellapi.admin.words import clean
from sellapi.domain.credits import parse_credits, parse_usd
from sellapi.errors import Refused, UsageError
from sellapi.storage import accounts, catalog, ledger
from sellapi.storage.database import Tx

__all__ = ["Packs", "Tiers"]

_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)


def _pack_view(row: dict[str, Any]) -> Pack:
    return Pack(
        slug=row["slug"],
        credits=row["credits"],
        price_usd=row["price_micro_usd"],
        status=row["status"],
        created_at=row["created_at"],
    )


def _find(tx: Tx, slug: str) -> dict[str, Any]:
    row = catalog.pack(tx, slug.strip().lower())
    if row is None:
        raise Refused(f"there is no pack {clean(slug)}: `sellapi packs list` shows them")
    return row


class Packs(Noun):
    def list(self, *, retired: bool = True) -> tuple[Pack, ...]:
        with self.read() as tx:
            rows = catalog.packs(tx)
        return tuple(_pack_view(r) for r in rows if retired or r["status"] == "active")

    def show(self, slug: str) -> Pack:
        with self.read() as tx:
            return _pack_view(_find(tx, slug))

    def add(self, slug: str, *, amount: str, price_usd: str) -> Pack:
        """A new pack. A pack never changes: retire it and add another."""
        slug = slug.strip().lower()
        if not _SLUG.fullmatch(slug):
            raise UsageError("a pack's slug has letters a-z, digits, dots and dashes")
        value, price = parse_credits(amount), parse_usd(price_usd)
        if value == 0:
            raise UsageError("a pack of 0 credits is no pack")
        with self.act("packs.add") as act:
            try:
                catalog.add_pack(act.tx, slug, value, price, self.desk.now())
            except sqlite3.IntegrityError:
                raise Refused(f"there is a pack {slug} already; packs never change") from None
            act.say(f"pack:{slug}", after={"credits": value, "price_micro_usd": price})
            return _pack_view(_find(act.tx, slug))

    def retire(self, slug: str) -> Pack:
        """Sell it no more; what was sold stays."""
        with self.act("packs.retire") as act:
            row = _find(act.tx, slug)
            if row["status"] == "retired":
                act.nothing_done()
                return _pack_view(row)
            catalog.retire_pack(act.tx, row["id"])
            act.say(f"pack:{slug}", before={"status": "active"}, after={"status": "retired"})
            return _pack_view(_find(act.tx, slug))

    def sell(
        self, who: str, slug: str, *, paid_usd: str | None = None, reference: str | None = None
    ) -> Sale:
        """Sell a pack: credits, cash received and Pro in one transaction.

        The same ``reference`` with the same content changes nothing and answers the first result.
        """
        known = known_reference(reference)
        paid = None if paid_usd is None else parse_usd(paid_usd)
        return once(lambda: self._sell(who, slug, paid, known))

    def _sell(self, who: str, slug: str, paid: int | None, reference: str | None) -> Sale:
        with self.act("packs.sell") as act:
            account, pack = find_account(act.tx, who), _find(act.tx, slug)
            cash = pack["price_micro_usd"] if paid is None else paid
            same = {
                "kind": "sale",
                "account_id": account["id"],
                "pack_id": pack["id"],
                "cash_micro_usd": cash,
            }
            repeat = find_repeat(act.tx, reference, same)
            if repeat:
                act.nothing_done()
                return _sale(act.tx, repeat["id"], repeated=True)
            if pack["status"] != "active":
                raise Refused(f"pack {pack['slug']} is retired: `sellapi packs list`")
            if account["status"] == "deleted":
                raise Refused("that user was deleted")
            entry = ledger.credit(
                act.tx,
                account["id"],
                "sale",
                pack["credits"],
                now_ms=self.desk.now_ms(),
                actor=self.desk.actor,
                reference=reference,
                pack_id=pack["id"],
                cash_micro_usd=cash,
                reason=f"pack {pack['slug']}",
            )
            if account["tier"] != "pro":
                accounts.change_account(act.tx, account["id"], {"tier": "pro"})
            sale = _sale(act.tx, entry.id, repeated=False)
            act.say(
                f"user:{account['id']}",
                before={"balance": account["balance"], "tier": account["tier"]},
                after={
                    "balance": sale.balance,
                    "tier": "pro",
                    "entry": entry.id,
                    "pack": pack["slug"],
                },
            )
            return sale

    def refund(self, entry_id: int, *, reason: str = "", allow_debt: bool = False) -> LedgerAct:
        """Undo a sale: its credits are taken back, its cash is returned.

        Pro ends with the last unrefunded pack. Refused when the credits are spent, unless
        ``allow_debt`` records what is missing as owed. A second time prints the first result.
        """
        return once(lambda: self._refund(entry_id, reason.strip(), allow_debt))

    def sale(self, entry_id: int) -> Entry:
        """The sale a refund would undo; refused when there is none, or none any more."""
        with self.read() as tx:
            sale, done = _sale_and_refund(tx, entry_id)
        if done:
            raise Refused(f"entry {entry_id} was refunded before: entry {done['id']}")
        return entry_view(sale)

    def _refund(self, entry_id: int, reason: str, allow_debt: bool) -> LedgerAct:
        with self.act("packs.refund") as act:
            sale, done = _sale_and_refund(act.tx, entry_id)
            if done:
                act.nothing_done()
                return ledger_act(act.tx, done["id"], repeated=True)
            entry = ledger.debit(
                act.tx,
                sale["account_id"],
                "sale_refund",
                sale["amount"],
                now_ms=self.desk.now_ms(),
                actor=self.desk.actor,
                allow_debt=allow_debt,
                reason=reason or f"refund of entry {entry_id}",
                pack_id=sale["pack_id"],
                cash_micro_usd=-sale["cash_micro_usd"],
                of_entry=entry_id,
            )
            if accounts.sales_standing(act.tx, sale["account_id"])[0] == 0:
                accounts.end_pro(act.tx, sale["account_id"])
            view = ledger_act(act.tx, entry.id, repeated=False)
            say_entry(act, view, sale["account_id"])
            return view


def _sale_and_refund(tx: Tx, entry_id: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What was sold by an entry and, if it was, how that was undone."""
    sale = accounts.entry(tx, entry_id=entry_id)
    if sale is None or sale["kind"] != "sale":
        why = f"entry {entry_id} is no sale" if sale else f"there is no entry {entry_id}"
        raise Refused(f"{why}: `sellapi ledger list --kind sale` shows what was sold")
    return sale, accounts.refund_of(tx, entry_id)


def _sale(tx: Tx, entry_id: int, *, repeated: bool) -> Sale:
    row = accounts.entry(tx, entry_id=entry_id)
    assert row is not None
    balance, owed = accounts.standing_after(tx, row)
    return Sale(
        user=row["email"],
        pack=row["pack"],
        credits=row["amount"],
        paid_usd=row["cash_micro_usd"],
        balance=balance,
        owed=owed,
        tier="pro",
        entry=row["id"],
        reference=row["reference"],
        repeated=repeated,
    )


class Tiers(Noun):
    def list(self) -> tuple[Tier, ...]:
        with self.read() as tx:
            return tuple(Tier(**row) for row in catalog.tiers(tx))

    def show(self, name: str) -> Tier:
        for tier in self.list():
            if tier.name == name:
                return tier
        raise UsageError(f"{clean(name)!r} is no tier: free or pro")

    def set(
        self,
        name: str,
        *,
        rpm: int | None = None,
        account_rpm: int | None = None,
        signup_credits: str | None = None,
    ) -> Tier:
        """Change a tier's limits; holds for the next request."""
        values: dict[str, Any] = {"rpm": rpm, "account_rpm": account_rpm}
        if signup_credits is not None:
            values["signup_credits"] = parse_credits(signup_credits)
        values = {n: v for n, v in values.items() if v is not None}
        if not values:
            raise UsageError("say what to set: --rpm, --account-rpm or --signup-credits")
        if any(not 0 <= v < 2**53 for v in values.values()):
            raise UsageError("a limit is not negative")
        if 0 in (rpm, account_rpm):
            raise UsageError(
                "with 0 requests a minute nobody on that tier could call, nor look at their credits: "
                "1 is the least. What is given away ends with --signup-credits 0, a model's free use "
                "with `sellapi models set SLUG --tier pro`"
            )
        with self.act("tiers.set") as act:
            before = {row["name"]: row for row in catalog.tiers(act.tx)}.get(name)
            if before is None:
                raise UsageError(f"{clean(name)!r} is no tier: free or pro")
            catalog.set_tier(act.tx, name, values)
            act.say(f"tier:{name}", before={n: before[n] for n in values}, after=values)
            return Tier(**{**before, **values})
