"""``sellapi credits``."""

from __future__ import annotations

from typing import Any

import click

from sellapi.commands.common import Out, command, group, has_room

COLUMNS = ["id", "at", "kind", "amount", "balance_after"]
WIDE = ["owed_change", "request_id", "reference", "reason"]
CSV = [
    "id", "at", "kind", "amount", "owed_change", "balance_after", "owed_after", "request_id",
    "pack", "of_entry", "cash_usd", "reference", "reason", "actor",
]  # fmt: skip


@group(
    "credits",
    "Grants, deductions, refunds, statements.",
    example="sellapi credits grant ann@shop.test 5000 --reason welcome\n"
    "sellapi credits statement ann@shop.test",
)
def credits_() -> None: ...


@command(credits_, "grant", example="sellapi credits grant ann@shop.test 5000 --reason welcome")
@click.argument("email")
@click.argument("amount")
@click.option("--reason", required=True, help="Stands in the ledger.")
@click.option("--reference", help="The same one never grants twice.")
def grant(out: Out, email: str, amount: str, reason: str, reference: str | None) -> None:
    """Give credits; what the user owes is paid first."""
    out.one(out.admin.credits.grant(email, amount, reason=reason, reference=reference))


@command(credits_, "deduct", example="sellapi credits deduct ann@shop.test 100.5 --reason abuse")
@click.argument("email")
@click.argument("amount")
@click.option("--reason", required=True, help="Stands in the ledger.")
@click.option("--reference", help="The same one never deducts twice.")
@click.option("--allow-debt", is_flag=True, help="What is not available becomes owed.")
def deduct(out: Out, email: str, amount: str, **options: Any) -> None:
    """Take credits: at most what is available."""
    out.one(out.admin.credits.deduct(email, amount, **options))


@command(credits_, "refund", example="sellapi credits refund req_0123 --reason 'answer was lost'")
@click.argument("request_id")
@click.option("--reason", default="", help="Stands in the ledger.")
def refund(out: Out, request_id: str, reason: str) -> None:
    """Give back what a request was charged, once."""
    out.one(out.admin.credits.refund(request_id, reason=reason))


@command(credits_, "statement", example="sellapi credits statement ann@shop.test --since 30d --csv")
@click.argument("email")
@click.option("--since", metavar="30d|DATE", help="From (a duration ago, or a UTC day).")
@click.option("--until", metavar="DATE", help="To the end of that UTC day.")
@click.option("--csv", "as_csv", is_flag=True, help="Entries as CSV.")
def statement(out: Out, email: str, since: str | None, until: str | None, as_csv: bool) -> None:
    """A user's ledger with opening and closing balance."""
    from sellapi.admin import to_json

    view = out.admin.credits.statement(email, since=since, until=until)
    if as_csv:
        out.csv(view.entries, CSV)
        return
    if out.as_json:
        out.one(view)
        return
    data = to_json(view)
    entries = data.pop("entries")
    out.pairs({"user": data["user"], "opening_balance": data["opening_balance"]})
    if entries:
        out.table(entries, [*COLUMNS, *WIDE] if has_room() else COLUMNS)
    out.pairs({"closing_balance": data["closing_balance"], "owed": data["closing_owed"]})
