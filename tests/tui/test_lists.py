"""Long lists on a living shop: they go on, keep your place, and show what is there now."""

from __future__ import annotations

from pathlib import Path

import pytest

from sellapi.admin.service import Admin
from sellapi.admin.setup import init
from sellapi.commands.tui import open_shop
from sellapi.domain.credits import MICRO
from sellapi.storage import accounts, ledger
from sellapi.storage.database import Database
from tests.tui.stage import screens

NOW = 1_795_000_000


def _crowd(path: Path, users: int, entries: int = 0) -> Admin:
    """A shop of many users, each richer than the one before; the first has a long ledger."""
    init(path, actor="test", via="cli", env={})
    database = Database.open(path)
    with database.transaction() as tx:
        for n in range(users):
            user = accounts.add_account(tx, f"user{n:04}@shop.test", "", NOW)
            for _ in range(entries if n == 0 else 0):
                _grant(tx, user, MICRO)
            _grant(tx, user, (n + 1) * MICRO)
    database.close()
    return open_shop(path)


def _grant(tx: object, user: int, amount: int) -> None:
    ledger.credit(tx, user, "grant", amount, now_ms=NOW * 1000, actor="test", reason="a crowd")


@pytest.fixture
def crowd(tmp_path: Path) -> Path:
    return tmp_path / "crowd.db"


async def test_a_row_that_moves_to_the_next_page_does_not_end_the_screens(crowd: Path) -> None:
    admin = _crowd(crowd, 300)
    async with screens(crowd) as driver:
        await driver.press("2")
        rows = await driver.loaded("users")
        await driver.press("s", "s")
        await driver.until(lambda: rows.items[0].email == "user0299@shop.test", "richest first")
        admin.credits.deduct("user0295@shop.test", "150", reason="x")
        await driver.press("G")
        await driver.until(lambda: len(rows.items) > 150, "the next page")
        emails = [user.email for user in rows.items]
        assert emails.count("user0295@shop.test") == 1
        assert len(set(emails)) == len(emails) == rows.row_count


async def test_an_answer_that_cannot_be_shown_is_a_toast_not_an_end(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_words: object) -> None:
        raise RuntimeError("the ink is out")

    monkeypatch.setattr("tui.screens.ledger.Ledger._show", broken)
    async with screens(shop) as driver:
        await driver.press("4")
        await driver.told("the ink is out")
        await driver.press("2")
        await driver.loaded("users")
