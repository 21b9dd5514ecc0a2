"""The real command line, with one seam: a file beside the database that limits its pages.

``PRAGMA max_page_count`` belongs to a connection, so a full database can only be played from inside
the process: while ``DATABASE.full`` exists, each connection used is limited to the pages it has.
"""

from __future__ import annotations

import os
import sqlite3

from sellapi.storage.database import Database

UNLIMITED = 1_073_741_823
_raw = Database.raw
_limited: dict[int, bool] = {}


def raw(self: Database) -> sqlite3.Connection:
    connection = _raw(self)
    full = os.path.exists(f"{self.path}.full")
    if _limited.get(id(connection), False) != full:
        pages = connection.execute("PRAGMA page_count").fetchone()[0] if full else UNLIMITED
        connection.execute(f"PRAGMA max_page_count = {pages}")
        _limited[id(connection)] = full
    return connection


if __name__ == "__main__":
    Database.raw = raw  # type: ignore[method-assign]
    import cli

    cli.main()
