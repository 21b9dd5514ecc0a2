"""One database under several names, and names with odd characters."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from sellapi.admin import files
from sellapi.errors import DatabaseMissing
from sellapi.storage.database import Database
from sellapi.storage.journal import Instance, sweep_dead
from tests.support.process import SOURCE, clean_env, serve
from tests.support.shop import Requests, open_shop


def _linked(tmp_path: Path) -> tuple[Path, Path]:
    """A place for a database, and a symlink in another directory that leads there."""
    real, link = tmp_path / "real" / "shop.db", tmp_path / "link" / "shop.db"
    real.parent.mkdir()
    link.parent.mkdir()
    link.symlink_to(real)
    return real, link


def _plain(tmp_path: Path, name: str) -> tuple[Path, Path]:
    return tmp_path / name, tmp_path / name


@pytest.mark.parametrize(
    "place",
    [
        _linked,
        lambda tmp_path: _plain(tmp_path, "shop[1].db"),
        lambda tmp_path: _plain(tmp_path, "shop #50%?.db"),
    ],
    ids=["symlink", "brackets", "marks"],
)
def test_a_restore_finds_the_server_that_runs_on_the_database_by_any_name(tmp_path, place):
    served, named = place(tmp_path)
    admin = open_shop(served)
    files.backup(admin.desk.database, tmp_path / "copy.db")
    admin.desk.database.close()
    env = clean_env(tmp_path)
    with serve("--database", str(served), cwd=tmp_path, env=env) as server:
        done = subprocess.run(
            [*SOURCE, *["db", "restore", "copy.db", "--yes", "--json", "--database"], str(named)],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 1, done
        told = json.loads(done.stderr)["error"]["message"]
        assert f"a server runs on {served} (pid {server.process.pid})" in told
    assert named.samefile(served)
    assert not list(served.parent.glob("*before-restore*"))


def test_a_second_server_by_another_name_leaves_the_holds_of_the_first(tmp_path):
    real, link = _linked(tmp_path)
    admin = open_shop(real)
    admin.users.add("ann@shop.test")
    first = Instance(admin.desk.database)
    first.register()
    Requests(admin, "ann@shop.test", instance=first.id).hold(5)
    second = Database.open(link)
    assert sweep_dead(second) == 0
    assert [server.alive for server in open_shop(None, database=second).servers()] == [True]
    assert admin.users.show("ann@shop.test").held == 5
    second.close()


def test_a_restore_by_a_symlink_replaces_the_file_it_leads_to(tmp_path):
    real, link = _linked(tmp_path)
    admin = open_shop(real)
    files.backup(admin.desk.database, tmp_path / "copy.db")
    admin.users.add("ann@shop.test")
    admin.desk.database.close()
    restored = files.restore(link, tmp_path / "copy.db")
    assert link.is_symlink()
    assert Path(restored.kept).parent == real.parent
    assert open_shop(None, database=Database.open(real)).users.count() == 0


def test_settings_are_read_beside_the_name_that_was_given(tmp_path):
    real, link = _linked(tmp_path)
    open_shop(real).desk.database.close()
    (link.parent / "sellapi.toml").write_text('engine = "httpx"\n', "utf-8")
    shop = open_shop(None, database=Database.open(link))
    shop.providers.set("openai", proxy="socks5://127.0.0.1:1")
    assert "SELLAPI_ENGINE" not in (shop.providers.show("openai").proxy_wants or "")


def test_a_symlink_to_nothing_is_a_missing_database(tmp_path):
    _, link = _linked(tmp_path)
    with pytest.raises(DatabaseMissing, match=str(link)):
        Database.open(link)
