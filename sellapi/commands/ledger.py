"""``sellapi ledger`` and ``sellapi audit``."""

from __future__ import annotations

from typing import Any

import click

from sellapi.commands.common import Out, command, group, none_of


@group(
    "ledger",
    "The ledger, verified and browsed.",
    example="sellapi ledger verify\nsellapi ledger list --user ann@shop.test",
)
def ledger() -> None: ...


@command(ledger, "verify", example="sellapi ledger verify --json")
def verify(out: Out) -> None:
    """Recompute everything, beside a running server too. Exit code 1 and the first difference."""
    with out.progress("verifying") as progress:
        result = out.admin.ledger.verify(progress)
    out.one(result)
    if not result.ok:
        if result.difference:
            click.echo(f"Error: {result.difference}", err=True)
        click.get_current_context().exit(1)


@command(ledger, "list", example="sellapi ledger list --user ann@shop.test --kind sale")
@click.option("--user", metavar="EMAIL", help="Only entries of a user.")
@click.option("--kind", metavar="sale|grant|charge|…", help="Only entries of a kind.")
@click.option("--since", metavar="7d|DATE", help="From (a duration ago, or a UTC day).")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    help="At most so many.",
)
@click.option("--csv", "as_csv", is_flag=True, help="As CSV.")
def list_(out: Out, as_csv: bool, **filters: Any) -> None:
    """List entries, newest first."""
    from sellapi.commands.credits import CSV

    entries = out.admin.ledger.entries(**filters)
    if as_csv:
        out.csv(entries, [CSV[0], "user", *CSV[1:]])
        return
    columns = ["id", "at", "user", "kind", "amount", "balance_after"]
    wide = ["owed_change", "pack", "reference", "reason"]
    out.many(entries, columns, wide=wide, empty=none_of(filters, "no entries yet"))


@command(None, "audit", example="sellapi audit --act packs --since 7d")
@click.option("--act", help="An act or its noun: keys.revoke, packs.")
@click.option("--actor", help="Who did it, as shown.")
@click.option("--target", metavar="EMAIL|user:1|key:3|model:SLUG", help="What was acted on.")
@click.option("--since", metavar="7d|DATE", help="From (a duration ago, or a UTC day).")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    help="At most so many.",
)
def audit(out: Out, **filters: Any) -> None:
    """Who did what, when, from CLI or TUI; newest first, with how it was before and after."""
    rows = out.admin.audit.list(**filters)
    columns = ["at", "actor", "act", "target"]
    empty = none_of(filters, "nothing was done yet")
    out.many(rows, columns, wide=["via", "before", "after"], empty=empty)
