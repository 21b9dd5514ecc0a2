"""The server's locks on its database are what keeps others from taking the WAL away under it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sellapi.storage.database import Database
from sellapi.upstream import lanes

LOOK = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM tiers'); c.close()"


@pytest.mark.skipif(lanes.OPTION is None, reason="sockets are only looked for on Linux")
def test_looking_for_sockets_to_cut_keeps_the_locks_on_the_database(tmp_path):
    """A program that opens and closes the database leaves the WAL where it is."""
    database = Database.create(tmp_path / "shop.db")
    with database.transaction() as tx:
        tx.execute("INSERT INTO tiers VALUES ('free', 20, 60, 0)")
    lanes.shut_down({1_234_567})
    subprocess.run([sys.executable, "-c", LOOK, str(database.path)], check=True)
    assert (tmp_path / "shop.db-wal").exists()
    database.close()
