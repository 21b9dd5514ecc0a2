"""``sellapi users``."""

from __future__ import annotations

import click

from sellapi.commands.common import Out, command, group, none_of

COLUMNS = ["id", "email", "tier", "status", "balance", "owed"]
WIDE = ["held", "active_keys", "created_at", "name"]


@group(
    "users",
    "People and programs that buy credits.",
    example="sellapi users add ann@shop.test --name Ann\nsellapi users show ann@shop.test",
)
def users() -> None: ...


@command(users, "add", example="sellapi users add ann@shop.test --name Ann")
@click.argument("email")
@click.option("--name", default="", help="Shown in lists.")
def add(out: Out, email: str, name: str) -> None:
    """Add a user on the free tier, with its signup credits."""
    out.one(out.admin.users.add(email, name=name))


@command(users, "list", example="sellapi users list --search ann --sort balance --descending")
@click.option("--search", default="", help="Part of an e-mail or a name.")
@click.option("--tier", type=click.Choice(["free", "pro"]), help="Only users of a tier.")
@click.option("--status", type=click.Choice(["active", "suspended", "deleted"]), help="Only these.")
@click.option(
    "--sort",
    type=click.Choice(["id", "email", "balance", "owed", "created"]),
    default="id",
    help="What the order goes by.",
)
@click.option("--descending", is_flag=True, help="The largest, newest or last first.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    default=10_000,
    show_default=True,
    help="At most so many.",
)
def list_(
    out: Out,
    search: str,
    tier: str | None,
    status: str | None,
    sort: str,
    descending: bool,
    limit: int,
) -> None:
    """List users."""
    page = out.admin.users.list(
        search=search, tier=tier, status=status, sort=sort, descending=descending, limit=limit
    )
    filters = {"search": search, "tier": tier, "status": status}
    empty = none_of(filters, "no users yet: sellapi users add EMAIL")
    out.many(page.items, COLUMNS, wide=WIDE, empty=empty)
    out.more(page.next, limit)


@command(users, "show", example="sellapi users show ann@shop.test --json")
@click.argument("email")
def show(out: Out, email: str) -> None:
    """Show one user (by e-mail or id)."""
    out.one(out.admin.users.show(email))


@command(users, "set", example="sellapi users set ann@shop.test --tier pro")
@click.argument("email")
@click.option("--tier", type=click.Choice(["free", "pro"]), help="By hand; packs do it too.")
@click.option("--email", "new_email", help="The new address.")
@click.option("--name", help="Shown in lists.")
def set_(out: Out, email: str, tier: str | None, new_email: str | None, name: str | None) -> None:
    """Change a user's tier, e-mail or name."""
    out.one(out.admin.users.set(email, tier=tier, email=new_email, name=name))


@command(users, "suspend", example="sellapi users suspend ann@shop.test --yes")
@click.argument("email")
@click.option("--now", is_flag=True, help="Stop running requests too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def suspend(out: Out, email: str, now: bool, yes: bool) -> None:
    """Let a user make no more requests; running ones settle."""
    user = out.admin.users.show(email)
    out.confirm(f"Suspend {user.email}?", yes=yes)
    out.one(out.admin.users.suspend(email, now=now))


@command(users, "resume", example="sellapi users resume ann@shop.test")
@click.argument("email")
def resume(out: Out, email: str) -> None:
    """Lift a suspension."""
    out.one(out.admin.users.resume(email))


@command(users, "delete", example="sellapi users delete ann@shop.test --yes")
@click.argument("email")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(out: Out, email: str, yes: bool) -> None:
    """Forget who a user was; keys are revoked, the ledger stays. Final."""
    from sellapi.domain.credits import format_credits

    user = out.admin.users.show(email)
    out.confirm(
        f"Delete {user.email}, who has {format_credits(user.balance)} credits, for good?", yes=yes
    )
    out.one(out.admin.users.delete(email))
