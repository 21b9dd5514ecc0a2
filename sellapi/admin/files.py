"""Acts on whole database files: migrate, check, backup, restore, the example."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from sellapi.admin.setup import init
from sellapi.admin.views import BackupResult, DbCheck
from sellapi.errors import DatabaseMissing, DatabaseUnavailable, Refused, StorageError
from sellapi.storage import audit
from sellapi.storage import backup as files
from sellapi.storage.database import Database, refuse_directory
from sellapi.storage.migrations import SCHEMA_VERSION
from sellapi.storage.verify import Found, verify

__all__ = ["backup", "check", "example", "migrate", "restore"]

EXAMPLE_TIME = 1_795_392_000
"""2026-11-23, so that the example file does not change with the day it is written."""
Progress = Callable[[int, int], None]


def _existing(path: Path) -> Path:
    refuse_directory(path)
    if not path.is_file():
        raise DatabaseMissing(f"there is no database at {path}: run `sellapi init` first")
    return path


By = tuple[str, str]
"""Who acts and by which door, for the audit."""


def _record(database: Database, by: By | None, act: str, after: Mapping[str, object]) -> None:
    """An audit row in the database acted on."""
    if by is None:
        return
    with database.transaction() as tx:
        audit.record(
            tx,
            at_ms=int(time.time() * 1000),
            actor=by[0],
            via=by[1],
            act=act,
            target="database",
            before=None,
            after=json.dumps(after, sort_keys=True),
        )


def _unrecorded(
    database: Database, by: By | None, act: str, after: Mapping[str, object]
) -> str | None:
    """Record an act whose file stands already; returns why the audit cannot have it."""
    try:
        _record(database, by, act, after)
    except StorageError as error:
        return str(error)
    return None


def migrate(path: str | Path, by: By | None = None) -> DbCheck:
    """Bring an existing database's schema up to date; keeps everything.

    Refused while a server runs on it: one of the schema before would go on writing in its way.
    """
    database = Database(_existing(Path(path)))
    try:
        database.check_owner()
        if database.schema_version() < SCHEMA_VERSION:
            _refuse_if_served(database)
        applied = database.migrate()
        if applied:
            _record(database, by, "db.migrate", {"applied": applied})
        return DbCheck(True, database.schema_version(), tuple(f"applied {n}" for n in applied))
    finally:
        database.close()


def _refuse_if_served(database: Database) -> None:
    pid = files.running_server(database)
    if pid is not None:
        raise Refused(f"a server runs on {database.path} (pid {pid}): stop it first")


def check(path: str | Path) -> DbCheck:
    """What SQLite finds wrong with the file."""
    database = Database(_existing(Path(path)))
    try:
        database.check_owner()
        problems = files.check(database)
        return DbCheck(not problems, database.schema_version(), tuple(problems))
    except StorageError as error:  # too damaged to be asked further
        return DbCheck(False, 0, (str(error),))
    finally:
        database.close()


def _result(file: Path, found: Found, schema: int, kept: Path | None = None) -> BackupResult:
    return BackupResult(
        file=str(file),
        size_bytes=file.stat().st_size,
        schema=schema,
        accounts=found.accounts,
        entries=found.entries,
        head=found.head,
        kept=None if kept is None else str(kept),
    )


def _examined(copy: Path, name: Path, progress: Progress | None) -> tuple[Found, int]:
    """The ledger and the schema in a copy of the file ``name``; raises `Refused` for a bad one."""
    database = files.open_copy(copy, name)
    try:
        found, schema = verify(database, progress), database.schema_version()
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(f"{name} could not be checked: {error}") from error
    finally:
        database.close()
    if found.difference is not None:
        raise Refused(f"the ledger in {name} does not add up: {found.difference}")
    return found, schema


def backup(
    database: Database,
    target: str | Path,
    progress: Progress | None = None,
    *,
    by: By | None = None,
) -> BackupResult:
    """An online backup that was opened again, checked and verified; it overwrites nothing.

    A copy of a shop that does not verify stays: it may be the last one there is. One that could not
    be finished or read does not.
    """
    path = Path(target)
    bad: Refused | None = None
    with files.new_file(path) as part:
        files.copy_online(database, part, progress)
        try:
            found, schema = _examined(part, path, progress)
        except Refused as error:
            bad = error
    if bad is not None:
        raise Refused(f"the backup stands in {path}, but {bad}") from bad
    result = _result(path, found, schema)
    told = {"file": result.file, "head": result.head}
    return replace(result, unrecorded=_unrecorded(database, by, "db.backup", told))


def restore(
    path: str | Path,
    source: str | Path,
    progress: Progress | None = None,
    *,
    clock: Callable[[], float] = time.time,
    by: By | None = None,
) -> BackupResult:
    """Put a backup in the database's place; the old one is kept aside.

    Refused while a server runs on either, and for a file that is damaged, of an older or newer
    schema, or whose ledger does not verify.
    """
    present, backup_file = Database(path), Path(source)
    database = present.path
    if database.exists():
        present.check_owner()
        if database.samefile(backup_file) if backup_file.exists() else False:
            raise Refused("that is the database itself")
    _refuse_if_served(present)
    if not backup_file.is_file():
        raise Refused(f"there is no file {backup_file}")
    _refuse_if_served(Database(backup_file))  # its file and its WAL would be of two moments
    scratch = database.with_name(f".{database.name}.restore-{os.getpid()}")
    try:
        files.copy_aside(backup_file, scratch)
        found, schema = _examined(scratch, backup_file, progress)
        kept = files.put_in_place(scratch, database, clock())
    finally:
        files.remove(scratch)
    result = _result(database, found, schema, kept)
    restored = Database(database)
    try:
        told = {"file": str(backup_file), "head": result.head, "kept": result.kept}
        return replace(result, unrecorded=_unrecorded(restored, by, "db.restore", told))
    finally:
        restored.close()


def example(target: str | Path) -> DbCheck:
    """Write a migrated database with the default catalog, the same bytes' worth every time.

    It overwrites nothing: the name may be a shop's.
    """
    with files.new_file(Path(target)) as part:
        init(part, actor="example", via="cli", env={}, clock=lambda: EXAMPLE_TIME)
        files.freeze(part, EXAMPLE_TIME)
        result = check(part)
        if not result.ok:
            raise Refused(f"the example was not written, it is damaged: {result.problems[0]}")
        part.chmod(0o644)
    return result
