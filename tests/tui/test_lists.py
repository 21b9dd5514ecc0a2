"""Long lists on a living shop: they go on, keep your place, and show what is there now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sellapi.admin.service import Admin
from sellapi.admin.setup import init
from sellapi.commands.tui import open_shop
from sellapi.domain.credits import MICRO
from sellapi.storage import accounts, ledger
from sellapi.storage.database import Database
from tests.tui.stage import Driver, screens
from tui.widgets.rows import Rows

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


@pytest.fixture(autouse=True)
def _unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look but those a test causes."""
    monkeypatch.setattr("tui.screens.listed.Listed.poll_s", 600.0)


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

    monkeypatch.setattr("tui.screens.ledger.Ledger.counted", broken)
    async with screens(shop) as driver:
        await driver.press("4")
        await driver.told("the ink is out")
        await driver.press("2")
        await driver.loaded("users")


# -- the place that is looked at ---------------------------------------------------------------


async def _scroll(driver: Driver, rows: Rows, least: int) -> None:
    """To the end of what is loaded, until so many rows are; then a little up, into the middle."""
    while len(rows.items) < least:
        before = len(rows.items)
        await driver.press("G")
        await driver.until(lambda n=before: len(rows.items) > n, f"more than {before} rows")
    await driver.press("k", "k", "k", "k", "k")
    await driver.pilot.pause()


def _line(driver: Driver, rows: Rows) -> int:
    """The line of the screen the cursor is on; it must be one that is seen."""
    line = rows.cursor_row - int(rows.scroll_offset.y)
    assert 0 <= line < rows.in_sight[1]
    return line


async def test_users_stay_where_they_are_after_an_act_and_a_page(crowd: Path) -> None:
    admin = _crowd(crowd, 1_000)
    async with screens(crowd) as driver:
        await driver.press("2")
        rows = await driver.loaded("users")
        await driver.press("s")
        await driver.until(lambda: rows.items[0].email == "user0000@shop.test", "by e-mail")
        await _scroll(driver, rows, 800)
        email, line = rows.current.email, _line(driver, rows)
        assert rows.cursor_row > 600
        admin.credits.grant(email, "7", reason="thanks")
        driver.app.reload()
        await driver.until(lambda: rows.current.balance % (1_000 * MICRO) != 0, "its row")
        balance = admin.users.show(email).balance
        await driver.until(lambda: rows.current.balance == balance, "the new balance")
        assert (rows.current.email, _line(driver, rows)) == (email, line)
        await driver.press("enter")
        await driver.at("UserPage")
        await driver.loaded("user-entries")
        admin.users.add("aaron@shop.test")  # a row more above all of these
        await driver.press("escape")
        await driver.at("Users")
        await driver.pilot.pause(0.3)
        assert (rows.current.email, _line(driver, rows)) == (email, line)
        await driver.press("x")
        await driver.at("Form")
        await driver.sees(email)


async def test_the_ledger_stays_where_it_is_after_a_page(crowd: Path) -> None:
    admin = _crowd(crowd, 1, entries=2_700)
    async with screens(crowd) as driver:
        await driver.press("4")
        rows = await driver.loaded("entries")
        await _scroll(driver, rows, 2_600)
        entry, line = rows.current.id, _line(driver, rows)
        await driver.press("u")
        await driver.at("UserPage")
        await driver.loaded("user-entries")
        admin.credits.grant("user0000@shop.test", "7", reason="meanwhile")
        await driver.press("escape")
        await driver.at("Ledger")
        await driver.pilot.pause(0.3)
        assert len(rows.items) >= 2_600
        assert (rows.current.id, _line(driver, rows)) == (entry, line)


async def test_a_users_page_keeps_its_place_at_every_look(crowd: Path) -> None:
    admin = _crowd(crowd, 1, entries=1_300)
    async with screens(crowd) as driver:
        driver.app.open_page("user", "1")
        rows = await driver.loaded("user-entries")
        rows.focus()
        await _scroll(driver, rows, 1_301)
        entry, line = rows.current.id, _line(driver, rows)
        admin.credits.grant("user0000@shop.test", "7", reason="meanwhile")
        for _ in range(2):
            driver.app.reload()
            await driver.pilot.pause(0.3)
        assert (rows.current.id, _line(driver, rows)) == (entry, line)
        assert len(rows.items) == 1_301
        await driver.press("g")
        driver.app.reload()
        await driver.sees("meanwhile")


async def test_news_above_do_not_move_what_is_looked_at(crowd: Path) -> None:
    admin = _crowd(crowd, 1, entries=300)
    async with screens(crowd) as driver:
        await driver.press("4")
        rows = await driver.loaded("entries")
        await driver.press("j", "j", "j")
        entry = rows.current.id
        for n in range(400):  # more than a page: the row is far down the list now
            admin.credits.grant("user0000@shop.test", "1", reason=f"news {n}")
        driver.app.reload()
        await driver.until(lambda: len(rows.items) > 400, "the news")
        await driver.pilot.pause(0.1)
        assert rows.current.id == entry
        assert _line(driver, rows) == 3
        assert [e.id for e in rows.items] == sorted((e.id for e in rows.items), reverse=True)


async def test_the_cursor_follows_a_user_whose_balance_moves(crowd: Path) -> None:
    admin = _crowd(crowd, 400)
    async with screens(crowd) as driver:
        await driver.press("2")
        rows = await driver.loaded("users")
        await driver.press("s", "s")
        await driver.until(lambda: rows.items[0].email == "user0399@shop.test", "richest first")
        await driver.press("j", "j")
        email = rows.current.email
        admin.credits.deduct(email, "350", reason="down the list, beyond what is loaded")
        driver.app.reload()
        await driver.until(lambda: rows.cursor_row > 300, "its place")
        await driver.pilot.pause(0.1)
        assert rows.current.email == email
        _line(driver, rows)


async def test_where_a_row_is_gone_the_cursor_is_beside_it(crowd: Path) -> None:
    admin = _crowd(crowd, 300)
    async with screens(crowd) as driver:
        await driver.press("2")
        rows = await driver.loaded("users")
        await driver.press("slash")
        await driver.type("user0")
        await driver.until(lambda: rows.items[0].email == "user0299@shop.test", "what matches")
        await driver.press("escape")
        await _scroll(driver, rows, 150)
        at, email = rows.cursor_row, rows.current.email
        following = rows.items[at + 1].email
        admin.users.set(email, email="away@shop.test")
        driver.app.reload()
        await driver.until(lambda: email not in {u.email for u in rows.items}, "it went")
        await driver.pilot.pause(0.1)
        assert (rows.cursor_row, rows.current.email) == (at, following)
        _line(driver, rows)


async def test_another_order_begins_at_its_top(crowd: Path) -> None:
    _crowd(crowd, 300)
    async with screens(crowd) as driver:
        await driver.press("2")
        rows = await driver.loaded("users")
        await _scroll(driver, rows, 150)
        await driver.press("s")
        await driver.until(lambda: rows.items[0].email == "user0000@shop.test", "by e-mail")
        await driver.pilot.pause(0.1)
        assert (rows.cursor_row, int(rows.scroll_offset.y)) == (0, 0)


# -- news --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "table", "words"),
    [("2", "users", "424,242.00"), ("4", "entries", "424,242.00"), ("5", "acts", "user0028")],
)
async def test_lists_show_what_others_do_meanwhile(
    crowd: Path, monkeypatch: pytest.MonkeyPatch, key: str, table: str, words: str
) -> None:
    admin = _crowd(crowd, 30)
    for n in range(5):
        admin.credits.grant(f"user000{n}@shop.test", "1", reason="for the audit")
    monkeypatch.setattr("tui.screens.listed.Listed.poll_s", 0.2)
    async with screens(crowd) as driver:
        await driver.press(key)
        rows = await driver.loaded(table)
        await driver.press("j", "j", "j")
        current = rows.current
        admin.credits.grant("user0028@shop.test", "424213", reason="by another hand")
        await driver.sees(words)
        assert rows.current.id == current.id


async def test_a_list_goes_on_unfiltered_while_a_filter_is_typed(
    crowd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = _crowd(crowd, 3)
    monkeypatch.setattr("tui.screens.listed.Listed.poll_s", 0.1)
    async with screens(crowd) as driver:
        await driver.press("4")
        rows = await driver.loaded("entries")
        many = len(rows.items)
        await driver.press("slash", "3")
        admin.credits.grant("user0002@shop.test", "1", reason="meanwhile")
        await driver.until(lambda: "+1.00" in driver.text.splitlines()[4], "the new entry")
        assert len(rows.items) == many + 1


async def test_what_came_above_is_not_what_an_act_is_offered_on(crowd: Path) -> None:
    admin = _crowd(crowd, 3)
    sold = admin.packs.sell("user0001@shop.test", "starter").entry
    async with screens(crowd) as driver:
        await driver.press("4")
        rows = await driver.loaded("entries")
        assert (rows.cursor_row, rows.current.id) == (0, sold)
        admin.packs.sell("user0002@shop.test", "starter")
        driver.app.reload()
        await driver.until(lambda: rows.items[0].id != sold, "the new sale")
        assert driver.app.screen.context().entry == sold  # type: ignore[attr-defined]


async def test_no_act_is_offered_on_a_row_of_a_list_that_is_replaced(crowd: Path) -> None:
    _crowd(crowd, 3)
    async with screens(crowd) as driver:
        await driver.press("2")
        await driver.loaded("users")
        users: Any = driver.app.screen
        assert users.context().user
        users.begin()
        assert not users.context().user
        await driver.until(lambda: bool(users.context().user), "the new list")


async def test_a_key_reads_a_list_again_at_once(crowd: Path) -> None:
    admin = _crowd(crowd, 3)
    async with screens(crowd) as driver:
        for key, table in (("2", "users"), ("4", "entries"), ("5", "acts")):
            await driver.press(key)
            rows = await driver.loaded(table)
            before = list(rows.items)
            await driver.sees("^r\N{NO-BREAK SPACE}Refresh")
            admin.credits.grant("user0002@shop.test", "1", reason="meanwhile")
            await driver.press("ctrl+r")
            await driver.until(lambda b=before, r=rows: r.items != b, "the grant")


# -- filters -----------------------------------------------------------------------------------


async def test_a_filter_left_by_esc_or_tab_is_what_is_listed_and_exported(crowd: Path) -> None:
    _crowd(crowd, 30)
    async with screens(crowd) as driver:
        await driver.press("4")
        rows = await driver.loaded("entries")
        await driver.press("slash")
        await driver.type("user0007@shop.test")
        await driver.press("escape")
        await driver.until(lambda: len(rows.items) == 1, "one user's entry")
        assert rows.items[0].user == "user0007@shop.test"
        assert driver.app.screen.context().filters == {"user": "user0007@shop.test"}
        await driver.press("slash")
        await driver.type("user0008@shop.test")
        await driver.press("tab")
        await driver.until(lambda: rows.items[0].user == "user0008@shop.test", "another's")
        assert driver.app.screen.context().filters == {"user": "user0008@shop.test"}


@pytest.mark.parametrize(
    ("field", "typed", "why"),
    [("user", "nobody", "there is no user nobody"), ("since", "yesterday", "'yesterday'")],
)
async def test_a_refused_filter_lists_nothing_and_says_why(
    crowd: Path, monkeypatch: pytest.MonkeyPatch, field: str, typed: str, why: str
) -> None:
    _crowd(crowd, 30)
    monkeypatch.setattr("tui.screens.listed.Listed.poll_s", 0.1)
    async with screens(crowd) as driver:
        await driver.press("4")
        rows = await driver.loaded("entries")
        driver.app.screen.query_one(f"#filter-{field}").focus()
        await driver.type(typed)
        await driver.press("enter")
        await driver.sees(why)
        assert rows.items == []
        await driver.pilot.pause(0.5)
        assert len(driver.app._notifications) == 1  # not again at every look
        await driver.press("c")
        await driver.until(lambda: len(rows.items) == 30, "every entry")
        assert why not in driver.text


async def test_a_filter_refused_later_lists_nothing_too(crowd: Path) -> None:
    """Another operator changes the e-mail that is filtered by."""
    admin = _crowd(crowd, 30)
    async with screens(crowd) as driver:
        await driver.press("4")
        rows = await driver.loaded("entries")
        await driver.press("slash")
        await driver.type("user0007@shop.test")
        await driver.press("enter")
        await driver.until(lambda: len(rows.items) == 1, "one user's entry")
        admin.users.set("user0007@shop.test", email="other@shop.test")
        await driver.press("ctrl+r")
        await driver.sees("there is no user user0007@shop.test")
        assert (rows.items, driver.toasts) == ([], "")
