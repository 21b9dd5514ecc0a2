"""``sellapi tui``: the screens."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sellapi.commands.common import actor, on_terminal
from sellapi.errors import Refused

if TYPE_CHECKING:
    from sellapi.admin.service import Admin

__all__ = ["open_shop", "tui"]

BUSY_TIMEOUT_MS = 3_000
"""A screen tells that the database is locked sooner than a server gives up on it."""


def open_shop(path: str | Path) -> Admin:
    """The admin service on a database, as the screens act on it; raises `StorageError`."""
    from sellapi.admin.service import Admin
    from sellapi.storage.database import Database

    database = Database.open(path, busy_timeout_ms=BUSY_TIMEOUT_MS)
    database.check_owner()
    return Admin(database, actor=actor(), via="tui", env=os.environ)


@click.command(epilog="\b\nExample:\n  sellapi tui\n  sellapi tui --database /srv/shop/sellapi.db")
@click.option("--database", default=None, help="Path of the database (SELLAPI_DATABASE).")
def tui(database: str | None) -> None:
    """Look after the shop on a screen: figures, users, catalog, ledger, audit.

    It works beside a running server, over SSH and in tmux, and when no server runs.
    """
    from sellapi.settings import Settings

    path = Settings.load({"database": database}).database
    if Path(path).exists():
        from sellapi.storage.database import Database

        Database(path).check_owner()
    if not all(map(on_terminal, (sys.stdin, sys.stdout, sys.stderr))):
        raise Refused("the screens want a terminal: in scripts use the other commands and --json")
    # The screens stand above the commands, so they are named here, not imported.
    app = importlib.import_module("tui.app").SellapiApp(lambda: open_shop(path))
    app.run()
