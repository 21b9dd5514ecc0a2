"""``sellapi db``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sellapi.commands.common import Out, actor, command, group

if TYPE_CHECKING:
    from sellapi.admin.views import BackupResult


@group(
    "db",
    "The database file: migrate, check, back up, restore.",
    example="sellapi db backup /backups/shop.db\nsellapi db restore /backups/shop.db --yes",
)
def db() -> None: ...


@command(db, "migrate", example="sellapi db migrate")
def migrate(out: Out) -> None:
    """Bring the schema up to date; keeps everything."""
    from sellapi.admin import files

    out.one(files.migrate(out.path, by=(actor(), "cli")))


@command(db, "check", example="sellapi db check")
def check(out: Out) -> None:
    """What SQLite finds wrong with the file. Exit code 1 when something is."""
    from sellapi.admin import files

    result = files.check(out.path)
    out.one(result)
    if not result.ok:
        click.get_current_context().exit(1)


@command(db, "backup", example="sellapi db backup /backups/shop-2026-11-23.db")
@click.argument("file", type=click.Path(path_type=Path))
def backup(out: Out, file: Path) -> None:
    """Copy the database while it is in use; the copy is verified and its head printed."""
    from sellapi.admin import files

    with out.progress("backing up") as progress:
        result = files.backup(out.admin.desk.database, file, progress, by=(actor(), "cli"))
    _told(out, result)


@command(db, "restore", example="sellapi db restore /backups/shop-2026-11-23.db --yes")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Do not ask.")
def restore(out: Out, file: Path, yes: bool) -> None:
    """Put a backup in the database's place; the old one is kept aside."""
    from sellapi.admin import files

    out.confirm(f"Replace {out.path} by {file}? The old one is kept beside it.", yes=yes)
    with out.progress("checking the backup") as progress:
        result = files.restore(out.path, file, progress, by=(actor(), "cli"))
    _told(out, result)


def _told(out: Out, result: BackupResult) -> None:
    out.one(result)
    if result.unrecorded:
        out.note(f"it is done, but the audit does not have it: {result.unrecorded}")


@command(db, "example", example="sellapi db example sellapi.db.example")
@click.argument("file", type=click.Path(path_type=Path), default=Path("sellapi.db.example"))
def example(out: Out, file: Path) -> None:
    """Write a migrated database with the default catalog. It overwrites nothing."""
    from sellapi.admin import files

    out.one(files.example(file))
