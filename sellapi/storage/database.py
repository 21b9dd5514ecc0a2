"""Opening the database, transactions on it, and what its troubles mean.

The only module that knows the SQL dialect: connection settings, how a transaction begins, which
driver error is which trouble. Statements elsewhere in `storage` are peewee queries on `tables`, or
plain portable SQL with ``?`` where each says why: on the request path, and where an index wants it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import peewee

from sellapi.errors import (
    DatabaseMissing,
    DatabaseUnavailable,
    Refused,
    SchemaMismatch,
    StorageError,
)
from sellapi.storage.migrations import MIGRATIONS, SCHEMA_VERSION

__all__ = [
    "Database",
    "Tx",
    "check_schema",
    "explain_trouble",
    "is_full",
    "is_of_writing",
    "is_transient",
    "refuse_directory",
]

BUSY_TIMEOUT_MS = 10_000
STATEMENTS = 256
"""Prepared statements a connection keeps; the writer has more than the driver's 128."""
_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "full",
    "foreign_keys": 1,
    "trusted_schema": 0,
    "cache_size": -32_000,
}

# SQLite primary result codes (sqlite.org/rescode.html) of troubles about the file, not about a
# statement. They pass: by themselves, or when the operator mends or restores the file.
_REOPEN = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PROTOCOL,
}
"""A connection that met one of these may keep meeting it after the file is well again."""
_TRANSIENT = _REOPEN | {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_NOMEM,
}
_WORDS = {
    sqlite3.SQLITE_BUSY: "is locked by another process; end what holds it, or try again in a moment",
    sqlite3.SQLITE_LOCKED: "is locked; try again in a moment",
    sqlite3.SQLITE_FULL: "is full (disk or page limit); free some space",
    sqlite3.SQLITE_NOMEM: "found no memory; free some, or allow this process more",
    sqlite3.SQLITE_IOERR: "had a disk error; free some space if the disk is full, else check it and "
    "its file system",
    sqlite3.SQLITE_READONLY: "is read-only; check the permissions of the file and its directory",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that it exists, that its disk is not read-only, "
    "and who may write it and its directory",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore a backup with `sellapi db restore FILE`",
    sqlite3.SQLITE_NOTADB: "is not an SQLite database, or is damaged; restore a backup with "
    "`sellapi db restore FILE`",
}


_WRITING = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
}
"""Extended result codes that only come of writing a file."""


def _driver_error(error: BaseException | None) -> sqlite3.Error | None:
    while error is not None:
        if isinstance(error, sqlite3.Error):
            return error
        error = error.__cause__ or error.__context__
    return None


def _code(error: BaseException) -> int | None:
    driver = _driver_error(error)
    code = getattr(driver, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF


def is_transient(error: BaseException) -> bool:
    """Whether the same statements may succeed later (busy, full, disk trouble, a file to mend)."""
    return _code(error) in _TRANSIENT


def is_full(error: BaseException) -> bool:
    """Whether the disk has no room for more."""
    return _code(error) == sqlite3.SQLITE_FULL


def is_of_writing(error: BaseException) -> bool:
    """Whether a copy failed at the file it was written to, not at the one it was read from."""
    return getattr(_driver_error(error), "sqlite_errorcode", None) in _WRITING


def explain_trouble(error: BaseException, where: str = "the database") -> DatabaseUnavailable:
    """A driver's error in the words of someone who has to mend it."""
    # What the driver makes of SQLITE_NOMEM.
    code = sqlite3.SQLITE_NOMEM if isinstance(error, MemoryError) else _code(error)
    words = _WORDS.get(code) if code is not None else None
    driver = _driver_error(error)
    return DatabaseUnavailable(f"{where} {words or f'refused: {driver or error}'}")


Statement = str | peewee.Query
_DIALECT = peewee.SqliteDatabase(None)
"""Never opened: it writes queries down in this database's SQL."""


def refuse_directory(path: Path) -> None:
    """A folder named for the file; so is an empty name, which is the folder one is in."""
    if path.is_dir():
        raise Refused(f"{path} is a directory: name a file, for example {path / 'sellapi.db'}")


class Tx:
    """Statements on one connection, inside a transaction or a read."""

    __slots__ = ("_catalog_version", "connection", "execute")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.execute = connection.execute
        self._catalog_version: int | None = None

    def fresh(self) -> None:
        """A new transaction begins on the same connection."""
        self._catalog_version = None

    @property
    def catalog_version(self) -> int:
        """The catalog's version, read at most once a transaction."""
        if self._catalog_version is None:
            self._catalog_version = self.execute("SELECT version FROM catalog_state").fetchone()[0]
        return self._catalog_version

    def run(self, statement: Statement, params: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run plain SQL, or a query built from `tables`, on this connection."""
        if isinstance(statement, str):
            return self.execute(statement, params)
        sql, bound = _DIALECT.get_sql_context().parse(statement)  # type: ignore[no-untyped-call]
        return self.execute(sql, bound)

    def rows(self, statement: Statement, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """All rows as dicts."""
        cursor = self.run(statement, params)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def one(self, statement: Statement, params: Sequence[Any] = ()) -> dict[str, Any] | None:
        """The first row as a dict, or None."""
        cursor = self.run(statement, params)
        row = cursor.fetchone()
        if row is None:
            return None
        return dict(zip((c[0] for c in cursor.description), row, strict=True))

    def value(self, statement: Statement, params: Sequence[Any] = ()) -> Any:
        """The first column of the first row, or None."""
        row = self.run(statement, params).fetchone()
        return None if row is None else row[0]

    def insert(self, table: type[peewee.Model], values: Mapping[str, Any]) -> int:
        """Insert a row of named columns; returns its row id."""
        inserted = self.run(table.insert(dict(values))).lastrowid
        assert inserted is not None
        return inserted

    def update(self, table: type[peewee.Model], key: Any, values: Mapping[str, Any]) -> None:
        """Update named columns of the row with a primary key; no values change nothing."""
        if values:
            self.run(table.update(dict(values)).where(table._meta.primary_key == key))  # noqa: SLF001 - peewee's documented metadata


def check_schema(tx: Tx) -> None:
    """Raises `SchemaMismatch` when a running server's database is no longer of its schema."""
    version = _migrations_seen(tx)
    if version != SCHEMA_VERSION:
        raise SchemaMismatch(
            f"the database has schema {version} now, this server needs {SCHEMA_VERSION}: "
            "stop it, run `sellapi db migrate`, and start the sellapi of that version"
        )


def _migrations_seen(tx: Tx) -> int:
    if not tx.value("SELECT 1 FROM sqlite_master WHERE name = 'migrations'"):
        if tx.value("SELECT 1 FROM sqlite_master WHERE type = 'table'"):
            raise SchemaMismatch("the file is a database of some other program")
        return 0
    return int(tx.value("SELECT count(*) FROM migrations"))


class Database:
    """One SQLite file. Connections are one per thread (peewee keeps them).

    A connection outlives its file when that is deleted or replaced, and would go on writing to
    what nobody can find again; so each use first looks whether the path still leads to it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        busy_timeout_ms: int = BUSY_TIMEOUT_MS,
        pragmas: Mapping[str, Any] | None = None,
    ) -> None:
        self.given = Path(path)
        """As the operator wrote it: `sellapi.toml` stands beside that."""
        # The file itself: whoever comes by a symlink must find the same locks and log beside it.
        self.path = Path(os.path.realpath(path))
        self._opened = threading.local()
        self.peewee = peewee.SqliteDatabase(
            f"file:{quote(str(self.path))}?mode=rw",  # never creates what is missing
            uri=True,
            pragmas={"busy_timeout": busy_timeout_ms, **_PRAGMAS, **(pragmas or {})},
            timeout=busy_timeout_ms / 1000,
            cached_statements=STATEMENTS,
            autoconnect=True,
        )

    # -- life ----------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | Path) -> Database:
        """Create the file (mode 0600) when it is missing and bring its schema up to date."""
        path = Path(path)
        refuse_directory(path)
        if not path.exists():
            if not path.parent.is_dir():
                raise Refused(f"there is no directory {path.parent}: make it first")
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        database = cls(path)
        database.migrate()
        return database

    @classmethod
    def open(cls, path: str | Path, **options: Any) -> Database:
        """Open an existing database of this program's schema.

        Raises `DatabaseMissing`, `SchemaMismatch`, `DatabaseUnavailable`, and `Refused` before
        another user's files are touched.
        """
        path = Path(path)
        refuse_directory(path)
        if not path.is_file() or path.stat().st_size == 0:
            raise DatabaseMissing(f"there is no database at {path}: run `sellapi init` first")
        database = cls(path, **options)
        database.check_owner()
        version = database.schema_version()
        if version < SCHEMA_VERSION:
            raise SchemaMismatch(
                f"the database has schema {version}, this program needs {SCHEMA_VERSION}: "
                "run `sellapi db migrate` (it keeps everything)"
            )
        if version > SCHEMA_VERSION:
            raise SchemaMismatch(
                f"the database has schema {version}, newer than this program's {SCHEMA_VERSION}: "
                "use the newer sellapi that wrote it"
            )
        return database

    def close(self) -> None:
        """Close this thread's connection."""
        if not self.peewee.is_closed():
            self.peewee.close()

    def forget(self, error: BaseException | None = None) -> bool:
        """Close this thread's connection after trouble with the file, so that the next is new.

        Returns whether it was closed; an error that is no trouble with the file leaves it open.
        """
        if error is not None and _code(error) not in _REOPEN:
            return False
        try:
            self.close()
        except (sqlite3.Error, peewee.PeeweeException):
            self.peewee._state.reset()  # type: ignore[attr-defined]  # noqa: SLF001 - dropped
        return True

    def check_owner(self) -> None:
        """Refuse to run as another user than the file's owner (files would change hands)."""
        owner = self.path.stat().st_uid
        if os.geteuid() != owner:
            import pwd

            try:
                name = pwd.getpwuid(owner).pw_name
            except KeyError:
                name = f"#{owner}"
            raise Refused(
                f"{self.path} belongs to user {name}: run this as that user, "
                f"for example `sudo -u {name} sellapi …`"
            )

    # -- schema --------------------------------------------------------------------------------

    def schema_version(self) -> int:
        """How many migrations the database has seen; 0 for an empty one."""
        with self.read() as tx:
            return _migrations_seen(tx)

    def migrate(self) -> list[str]:
        """Apply the missing migrations, each in its own transaction; returns their names."""
        version = self.schema_version()
        if version > SCHEMA_VERSION:
            raise SchemaMismatch(
                f"the database has schema {version}, newer than this program's {SCHEMA_VERSION}"
            )
        applied = []
        for number, (name, apply) in enumerate(MIGRATIONS[version:], start=version + 1):
            with self.transaction() as tx:
                tx.execute(
                    "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, "
                    "name TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT"
                )
                if tx.value("SELECT 1 FROM migrations WHERE number = ?", (number,)):
                    continue  # another process was quicker
                apply(tx.connection)
                tx.execute(
                    "INSERT INTO migrations (number, name, applied_at) VALUES (?, ?, ?)",
                    (number, name, int(time.time())),
                )
            applied.append(name)
        return applied

    # -- use -----------------------------------------------------------------------------------

    def raw(self) -> sqlite3.Connection:
        """This thread's driver connection (autocommit); for the hot path and backups.

        Raises `DatabaseMissing` when the file is gone, `DatabaseUnavailable` when it cannot be
        opened. A connection to a file that was replaced is left for one to the new file.
        """
        try:
            stat = os.stat(self.path)  # noqa: PTH116 - a microsecond, not five
        except FileNotFoundError:
            self.forget()
            raise DatabaseMissing(
                f"there is no database at {self.path} any more: put it back, "
                "or restore a backup with `sellapi db restore FILE`"
            ) from None
        except OSError as error:
            raise DatabaseUnavailable(f"the database cannot be reached: {error}") from error
        identity = (stat.st_dev, stat.st_ino)
        try:
            if getattr(self._opened, "identity", identity) != identity:
                self.forget()
            self._opened.identity = identity
            connection: sqlite3.Connection = self.peewee.connection()  # type: ignore[no-untyped-call]
        except (peewee.PeeweeException, sqlite3.Error) as error:
            raise explain_trouble(error) from error
        return connection

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """``BEGIN IMMEDIATE`` … ``COMMIT``; any exception rolls back.

        A deferred transaction that reads and then writes fails at once under load; an immediate one
        waits for its turn. Driver errors come out as `DatabaseUnavailable`.
        """
        connection = self.raw()
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield Tx(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.IntegrityError:
            raise
        except (sqlite3.Error, peewee.PeeweeException) as error:
            self.forget(error)
            raise explain_trouble(error) from error

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """Reads, each statement by itself (no snapshot is held, so the WAL is never pinned)."""
        try:
            yield Tx(self.raw())
        except StorageError:
            raise
        except (sqlite3.Error, peewee.PeeweeException) as error:
            self.forget(error)
            raise explain_trouble(error) from error
