"""Whole files: online backup, integrity, restore with the old database kept aside."""

from __future__ import annotations

import glob
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sellapi.errors import DatabaseUnavailable, Refused, SchemaMismatch
from sellapi.storage import instances
from sellapi.storage.database import Database, explain_trouble, is_of_writing
from sellapi.storage.migrations import SCHEMA_VERSION

__all__ = [
    "check",
    "copy_aside",
    "copy_online",
    "freeze",
    "new_file",
    "open_copy",
    "put_in_place",
    "remove",
    "running_server",
]

STEP_PAGES = 1_000
PAUSE_S = 0.01
RESTARTS_MAX = 3
_SIDE_FILES = ("-wal", "-shm")


class _Restarted(Exception):
    """Somebody wrote between two steps, and the copy began again too often."""


def check(database: Database) -> list[str]:
    """What SQLite finds wrong with the file, table by table; [] when it is sound."""
    problems: list[str] = []
    with database.read() as tx:
        tables = [r[0] for r in tx.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            quoted = table.replace('"', '""')
            rows = tx.execute(f'PRAGMA integrity_check("{quoted}")').fetchall()
            problems += [f"{table}: {row[0]}" for row in rows if row[0] != "ok"]
        problems += [
            f"{row[0]} row {row[1]}: refers to a missing {row[2]}"
            for row in tx.execute("PRAGMA foreign_key_check").fetchall()
        ]
    return problems[:100]


def remove(path: Path) -> None:
    """Remove a database file and what SQLite keeps beside it."""
    for side in ("", *_SIDE_FILES, "-journal"):
        Path(f"{path}{side}").unlink(missing_ok=True)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A hidden file (mode 0600) to write a database into; it gets its name when the block ends well.

    Nothing is overwritten, and nothing stays of what failed.
    """
    for side in ("", *_SIDE_FILES):  # a WAL left there would be replayed into the new file
        if os.path.lexists(f"{target}{side}"):
            raise Refused(
                f"{target}{side} exists, and nothing is overwritten: remove it, or name another"
            )
    if not target.parent.is_dir():
        raise Refused(f"there is no directory {target.parent}")
    part = target.with_name(f".{target.name}.part-{os.getpid()}")
    try:
        remove(part)  # of one that was killed and had our number
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            os.link(part, target)  # unlike rename, never replaces a file that came meanwhile
            _sync_directory(target.parent)
        finally:
            remove(part)
    except OSError as error:
        raise DatabaseUnavailable(f"{target} could not be written: {error.strerror}") from error


def copy_online(
    database: Database, part: Path, progress: Callable[[int, int], None] | None = None
) -> None:
    """Copy a database in use into one self-contained file.

    Small steps let the WAL be checkpointed meanwhile. A write by another process makes SQLite begin
    again (sqlite.org/c3ref/backup_finish.html); under load that would never end, so after a few
    restarts the rest is copied in one step, which holds one read snapshot for as long as it takes.
    """
    try:
        _copy(database, part, progress)
    except sqlite3.Error as error:
        if is_of_writing(error):
            raise explain_trouble(error, f"the disk of {part.parent}") from error
        raise explain_trouble(error) from error


def _copy(database: Database, part: Path, progress: Callable[[int, int], None] | None) -> None:
    source = database.raw()
    restarts, least = 0, None  # type: int, int | None

    def watch(_: int, remaining: int, total: int) -> None:
        nonlocal restarts, least
        if least is not None and remaining > least:
            restarts += 1
            if restarts > RESTARTS_MAX:
                raise _Restarted
        least = remaining
        if progress:
            progress(total - remaining, total)

    destination = sqlite3.connect(part)
    try:
        try:
            source.backup(destination, pages=STEP_PAGES, progress=watch, sleep=PAUSE_S)
        except _Restarted:
            destination.close()
            part.write_bytes(b"")
            destination = sqlite3.connect(part)
            source.backup(destination, pages=-1)
        destination.execute("PRAGMA journal_mode = DELETE")  # one file, no -wal beside it
    finally:
        destination.close()


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_copy(path: Path, name: Path) -> Database:
    """A copy of the backup ``name``, opened for checking; raises `Refused` when it is of no use.

    It is and stays one file: what stands in a WAL beside it is brought into it.
    """
    database = Database(path, pragmas={"journal_mode": "delete"})
    try:
        version = database.schema_version()
        problems = check(database)
    except (DatabaseUnavailable, SchemaMismatch) as error:
        database.close()
        raise Refused(f"{name} cannot be restored: {str(error).partition(';')[0]}") from error
    if version != SCHEMA_VERSION:
        database.close()
        age = "older" if version < SCHEMA_VERSION else "newer"
        mend = (
            f"migrate it first: `sellapi db migrate --database {name}`"
            if age == "older"
            else "use the newer sellapi that wrote it"
        )
        raise Refused(f"{name} has schema {version}, {age} than this program's: {mend}")
    if problems:
        database.close()
        raise Refused(f"{name} is damaged: {problems[0]}")
    return database


def running_server(database: Database) -> int | None:
    """The pid of a server that uses the file now, or None. Works on a damaged database too."""
    path = database.path
    for lock in path.parent.glob(f"{glob.escape(path.name)}-instance-*.lock"):
        instance_id = lock.name.removeprefix(f"{path.name}-instance-").removesuffix(".lock")
        if instances.is_alive(path, instance_id):
            try:
                connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
                row = connection.execute(
                    "SELECT pid FROM instances WHERE id = ?", (instance_id,)
                ).fetchone()
                connection.close()
            except sqlite3.Error:
                row = None
            return int(row[0]) if row else 0
    return None


def _fold_if_possible(path: Path) -> None:
    """Leave nothing in a WAL that is about to be moved: a crash between two renames would lose it."""
    database = Database(path)
    try:
        database.raw().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
    except (DatabaseUnavailable, sqlite3.Error):
        database.forget()  # it is damaged, which may be why it is restored


def freeze(path: Path, applied_at: int) -> None:
    """Make a fresh database one plain file whose bytes depend on nothing but its content."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("UPDATE migrations SET applied_at = ?", (applied_at,))
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("VACUUM")
    finally:
        connection.close()


def copy_aside(path: Path, scratch: Path) -> None:
    """Copy a backup beside the database, so that checking it changes nothing in the original.

    With its WAL: where the files of a killed server were copied, its last commits are only there.
    """
    original = path.resolve()
    for side in ("", "-wal"):
        part = Path(f"{original}{side}")
        if side and not part.exists():
            continue
        try:
            fd = os.open(f"{scratch}{side}", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            with os.fdopen(fd, "wb") as target, part.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
        except OSError as error:
            to = scratch.parent
            raise DatabaseUnavailable(
                f"{part} could not be copied to {to}: {error.strerror}"
            ) from error


def put_in_place(scratch: Path, database: Path, now: float) -> Path | None:
    """Move the old database (with its WAL) aside and the new one in; returns where the old one is."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
    kept = database.with_name(f"{database.name}.before-restore-{stamp}")
    number = 1
    while kept.exists():
        number += 1
        kept = database.with_name(f"{database.name}.before-restore-{stamp}-{number}")
    stands = database.exists()
    if stands:
        _fold_if_possible(database)
    # First, and of a database that is gone too: a WAL beside the wrong file is replayed into it.
    for side in _SIDE_FILES:
        beside = Path(f"{database}{side}")
        if beside.exists():
            beside.rename(f"{kept}{side}")
    if stands:
        database.rename(kept)
    scratch.rename(database)
    _sync_directory(database.parent)
    return kept if stands else None
