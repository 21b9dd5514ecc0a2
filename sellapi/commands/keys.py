"""``sellapi keys``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from sellapi.commands.common import ROW_ID, Out, command, group

COLUMNS = ["id", "user", "name", "last4", "status", "spent"]
WIDE = ["prefix", "limit", "expires_at", "created_at"]


@group(
    "keys",
    "Bearer keys of users.",
    example="sellapi keys create ann@shop.test --name laptop\nsellapi keys revoke 3 --yes",
)
def keys() -> None: ...


def _limits(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        (
            click.option("--expires", metavar="30d|DATE", help="When it ends; none: never."),
            click.option("--models", metavar="A,B", help="The only models it may call."),
            click.option("--limit", metavar="CREDITS", help="The most it may ever spend."),
            click.option("--ips", metavar="CIDR,…", help="The only networks it may call from."),
        )
    ):
        function = option(function)
    return function


@command(keys, "create", example="sellapi keys create ann@shop.test --name laptop --expires 30d")
@click.argument("email")
@click.option("--name", default="", help="What it is for.")
@_limits
def create(out: Out, email: str, **options: Any) -> None:
    """Create a key. It is printed this once; only its hash is kept."""
    out.one(
        out.admin.keys.create(email, **options), headline="Keep this key: it is not shown again."
    )


@command(keys, "list", example="sellapi keys list ann@shop.test")
@click.argument("email", required=False)
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    default=10_000,
    show_default=True,
    help="At most so many.",
)
def list_(out: Out, email: str | None, limit: int) -> None:
    """List keys, newest first."""
    page = out.admin.keys.list(email, limit=limit)
    out.many(page.items, COLUMNS, wide=WIDE, empty="no keys yet: sellapi keys create EMAIL")
    out.more(page.next, limit)


@command(keys, "show", example="sellapi keys show 3")
@click.argument("key_id", metavar="ID", type=ROW_ID)
def show(out: Out, key_id: int) -> None:
    """Show one key (never its secret)."""
    out.one(out.admin.keys.show(key_id))


@command(keys, "set", example="sellapi keys set 3 --limit 5000 --models openai/gpt-5.4")
@click.argument("key_id", metavar="ID", type=ROW_ID)
@click.option("--name", help="What it is for.")
@_limits
def set_(out: Out, key_id: int, **options: Any) -> None:
    """Change a key; `none` lifts an expiry, a limit or an allowlist."""
    out.one(out.admin.keys.set(key_id, **options))


@command(keys, "revoke", example="sellapi keys revoke 3 --yes")
@click.argument("key_id", metavar="ID", type=ROW_ID)
@click.option("--yes", is_flag=True, help="Do not ask.")
def revoke(out: Out, key_id: int, yes: bool) -> None:
    """End a key for good; running requests settle."""
    key = out.admin.keys.show(key_id)
    out.confirm(f"Revoke key {key.prefix}…{key.last4} of {key.user}?", yes=yes)
    out.one(out.admin.keys.revoke(key_id))


@command(keys, "rotate", example="sellapi keys rotate 3 --grace 1h")
@click.argument("key_id", metavar="ID", type=ROW_ID)
@click.option("--grace", default="24h", show_default=True, help="How long the old secret works.")
def rotate(out: Out, key_id: int, grace: str) -> None:
    """Give a key a new secret; limit, spend and rate counter stay."""
    out.one(
        out.admin.keys.rotate(key_id, grace=grace), headline="Keep this key: it is not shown again."
    )
