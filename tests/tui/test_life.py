"""Screens on a living database: beside a server, while it is lost, locked, old or slow."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from pathlib import Path

import httpx
import pytest
from sanic import Sanic

from sellapi.admin.service import Admin
from sellapi.commands.tui import open_shop
from tests.support.running import Shopkeeper, running
from tests.tui.stage import screens


async def test_requests_appear_as_a_server_answers_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sanic, "test_mode", True)
    path = tmp_path / "live.db"
    keeper = Shopkeeper.open(path)
    provider = keeper.provider("demo", "http://127.0.0.1:9/v1", "demo")
    keeper.model("demo/chat", provider, upstream="demo")
    key = keeper.key(keeper.user("ann@example.com"))
    async with running(path) as gateway, screens(path) as driver:
        await driver.sees("No request yet")
        await driver.until(lambda: driver.app.server_words()[0] == "serving", "a server")
        await driver.sees("● serving")
        async with httpx.AsyncClient() as http:

            async def call() -> str:
                answer = await http.post(
                    gateway.url + "/chat/completions",
                    headers={"authorization": f"Bearer {key}"},
                    json={"model": "demo/chat", "messages": [{"role": "user", "content": "Hi"}]},
                )
                assert answer.status_code == 200, answer.text
                return answer.headers["x-request-id"]

            first = await call()
            tail = await driver.loaded("tail")
            await driver.sees("ann@", "chat", "stop")
            assert tail.items[0].request_id == first
            await driver.press("space")
            await driver.sees("held still")
            await call()
            await asyncio.sleep(1.3)
            assert len(tail.items) == 1
            await driver.press("space")
            await driver.until(lambda: len(tail.items) == 2, "the second request")
            await driver.press("slash")
            await driver.type("nothing like it")
            await driver.until(lambda: not tail.items, "an empty tail")
            await driver.press("escape")
            await driver.until(lambda: len(tail.items) == 2, "everything again")
        await gateway.quiet()


async def test_a_missing_database_is_told_and_found_when_it_comes(
    shop: Path, tmp_path: Path
) -> None:
    path = tmp_path / "later.db"
    async with screens(path) as driver:
        await driver.sees("there is no database at", "sellapi init", "database?")
        shutil.copy(shop, path)
        await driver.told("The database answers")
        await driver.loaded("tail")
        await driver.until(lambda: "there is no database" not in driver.text)
        path.unlink()
        await driver.sees("there is no database at")
        shutil.copy(shop, path)
        await driver.until(lambda: not driver.app.trouble, "back again")


async def test_an_older_database_is_told_and_used_once_migrated(shop: Path) -> None:
    connection = sqlite3.connect(shop)
    row = connection.execute("SELECT * FROM migrations ORDER BY number DESC LIMIT 1").fetchone()
    connection.execute("DELETE FROM migrations WHERE number = ?", (row[0],))
    connection.commit()
    async with screens(shop) as driver:
        await driver.sees("sellapi db migrate")
        connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", row)
        connection.commit()
        connection.close()
        await driver.loaded("tail")


async def test_a_locked_database_refuses_an_act_in_words_and_takes_it_later(
    shop: Path, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sellapi.commands.tui.BUSY_TIMEOUT_MS", 200)
    other = sqlite3.connect(shop, isolation_level=None)
    async with screens(shop) as driver:
        await driver.press("2")
        await driver.loaded("users")
        other.execute("BEGIN IMMEDIATE")
        await driver.press("a")
        await driver.at("Form")
        await driver.type("late@example.com")
        await driver.press("enter")
        await driver.sees("the database is locked by another process")
        other.execute("ROLLBACK")
        await driver.press("enter")
        await driver.at("UserPage")
        await driver.sees("late@example.com")
    other.close()
    assert admin.users.show("late@example.com").balance


async def test_a_slow_database_never_blocks_the_screen(shop: Path) -> None:
    go_on = threading.Event()

    def opener() -> Admin:
        go_on.wait(10)
        return open_shop(shop)

    async with screens(opener) as driver:
        try:
            await driver.press("2")
            await driver.at("Users")
            await driver.press("question_mark")
            await driver.sees("This screen")
            await driver.press("escape", "4")
            await driver.at("Ledger")
        finally:
            go_on.set()
        await driver.loaded("entries")


async def test_a_late_answer_does_not_replace_a_newer_one(shop: Path) -> None:
    """The search of the first letters comes back after the last one was asked."""
    slow = threading.Event()

    class Slow(Admin):
        pass

    def opener() -> Admin:
        admin = open_shop(shop)
        real = admin.users.list

        def listed(**words: object) -> object:
            if words.get("search") == "k":
                slow.wait(5)
            return real(**words)  # type: ignore[arg-type]

        admin.users.list = listed  # type: ignore[method-assign, assignment]
        return admin

    async with screens(opener) as driver:
        await driver.press("2")
        rows = await driver.loaded("users")
        await driver.press("slash", "k")
        await driver.type("enji")
        slow.set()
        await driver.until(lambda: [u.name for u in rows.items] == ["Kenji Mori"])
        await driver.pilot.pause(0.2)
        assert [u.name for u in rows.items] == ["Kenji Mori"]


async def test_an_unexpected_failure_is_a_toast_not_an_end(shop: Path) -> None:
    def opener() -> Admin:
        admin = open_shop(shop)

        def broken() -> object:
            raise RuntimeError("the disk sings")

        admin.models.list = broken  # type: ignore[method-assign, assignment]
        return admin

    async with screens(opener) as driver:
        await driver.press("3")
        await driver.told("the disk sings")
        await driver.press("2")
        await driver.loaded("users")


def test_without_a_terminal_the_command_refuses(shop: Path) -> None:
    import subprocess
    import sys

    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(root / "cli.py"), "tui", "--database", str(shop)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "want a terminal" in done.stderr
    assert done.stdout == ""
