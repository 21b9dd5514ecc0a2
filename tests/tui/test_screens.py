"""Every screen shows what it is for, at 80x24 and at 200x60, and nothing is cut off."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from textual import events

from sellapi.admin.service import Admin
from sellapi.commands.tui import open_shop
from tests.tui.stage import LARGE, SIZES, SMALL, Driver, screens
from tui.widgets.bar import KeyLine
from tui.widgets.rows import Rows

ANA = "ana.sousa@lusitano.dev"


def _misfits(driver: Driver) -> list[str]:
    """Tables wider than their place, lines longer than the screen, keys that are not told."""
    screen, width = driver.app.screen, driver.app.size.width
    found = [
        f"table {rows.id}"
        for rows in screen.query(Rows)
        if rows.display and rows.size.width and rows.virtual_size.width > rows.size.width
    ]
    found += [line for line in driver.text.splitlines() if len(line) > width]
    shown = str(screen.query_one(KeyLine).render()).replace("\N{NO-BREAK SPACE}", " ")
    bindings = [active.binding for active in screen.active_bindings.values()]
    return found + [b.description for b in bindings if b.show and b.description not in shown]


async def _assert_fits(driver: Driver) -> None:
    await driver.until(lambda: not _misfits(driver), "nothing cut off")


@pytest.mark.parametrize("size", SIZES)
async def test_now_shows_rates_money_and_the_tail(shop: Path, size: tuple[int, int]) -> None:
    async with screens(shop, size) as driver:
        tail = await driver.loaded("tail")
        await driver.sees("Requests/s", "Liability", "Open holds", "Margin", "Requests a minute")
        await _assert_fits(driver)
        assert len(tail.items) > 50
        assert tail.items[0].at >= tail.items[10].at


async def test_a_large_screen_shows_plots_tops_and_health_at_once(shop: Path) -> None:
    async with screens(shop, LARGE) as driver:
        await driver.loaded("top-users")
        await driver.sees("Top users today", "Top models today", "Providers", "Credits a minute")
        await driver.sees("anthropic/claude-sonnet-4.6", "no server")


async def test_a_small_screen_goes_through_the_views(shop: Path) -> None:
    async with screens(shop) as driver:
        await driver.loaded("tail")
        for words in ("Credits a minute", "Top users today", "Top models today", "Providers"):
            await driver.press("v")
            await driver.sees(words)
            await _assert_fits(driver)
        await driver.press("v", "h")
        await driver.sees("Requests a minute, last day")


MODES = (
    ("2", "users", ["E-mail", "Balance", "newest first", "sven@kiosk24.example"]),
    ("3", "model-rows", ["Models", "Providers", "Packs", "Tiers", "openai/gpt-5.4", "2.5"]),
    ("right", "provider-rows", ["anthropic", "ready", "256"]),
    ("right", "pack-rows", ["starter", "500,000.00", "$5.00", "active"]),
    ("right", "tier-rows", ["free", "10,000.00", "600"]),
    ("4", "entries", ["Kind", "charge", "Credits", "any kind"]),
    ("5", "acts", ["packs.sell", "operator", "cli", "What changed"]),
)


async def test_now_fits_any_shape_of_terminal(shop: Path) -> None:
    async with screens(shop, LARGE) as driver:
        await driver.loaded("top-users")
        for width, height in ((120, 40), (80, 50), (100, 40), (150, 30)):
            await driver.pilot.resize_terminal(width, height)
            await driver.until(lambda w=width: driver.app.screen.size.width == w)
            await _assert_fits(driver)
            await driver.sees("Requests a minute")


@pytest.mark.parametrize("size", SIZES)
async def test_every_mode_lists_its_nouns(shop: Path, size: tuple[int, int]) -> None:
    async with screens(shop, size) as driver:
        for key, table, words in MODES:
            await driver.press(key)
            await driver.loaded(table)
            await driver.sees(*words)
            await _assert_fits(driver)


PAGES = (
    ("user", "ana.sousa@lusitano.dev", ["Available", "Keys", "Ledger", "staging"]),
    ("model", "anthropic/claude-sonnet-4.6", ["Routes", "Price versions", "input 3"]),
    ("doctor", "", ["permissions", "schema", "undelivered"]),
)


@pytest.mark.parametrize("size", SIZES)
async def test_pages_open_on_top_and_esc_leads_back(shop: Path, size: tuple[int, int]) -> None:
    async with screens(shop, size) as driver:
        await driver.loaded("tail")
        for page, what, words in PAGES:
            driver.app.open_page(page, what)
            await driver.sees(*words)
            await _assert_fits(driver)
            await driver.press("escape")
            await driver.at("Now")


async def test_enter_opens_a_receipt_whose_arithmetic_makes_the_charge(shop: Path) -> None:
    async with screens(shop) as driver:
        tail = await driver.loaded("tail")
        while tail.current.state != "settled":
            await driver.press("j")
        request = tail.current
        await driver.press("enter")
        await driver.sees(request.request_id, "sum, rounded up", "charged", "in dollars")
        lines = driver.text.splitlines()
        total = next(line for line in lines if "sum, rounded up" in line).split()[-1]
        charged = next(line for line in lines if line.strip().startswith("charged")).split()[-1]
        assert total == charged
        await driver.press("escape")
        await driver.at("Now")


async def test_help_names_every_key_of_the_screen(shop: Path) -> None:
    async with screens(shop) as driver:
        await driver.press("2")
        await driver.loaded("users")
        await driver.press("question_mark")
        await driver.sees("This screen", "Search", "Issue key", "Esc closes")
        await driver.press("escape")
        await driver.at("Users")


async def test_dark_and_light_keep_tables_and_plots(shop: Path) -> None:
    async with screens(shop, LARGE) as driver:
        words = (
            "ana.sousa@lusitano.dev",
            "openai/gpt-6-luna",
            "Requests a minute",
            "Credits a minute",
        )
        await driver.sees(*words)
        await driver.press("T")
        await driver.until(lambda: not driver.app.current_theme.dark, "a light theme")
        await driver.sees(*words)
        await driver.press("T")
        await driver.until(lambda: driver.app.current_theme.dark, "a dark theme")


async def test_every_theme_of_the_palette_shows_every_screen(shop: Path, admin: Admin) -> None:
    admin.tiers.set("free", rpm=33)  # the audit has a change to show
    async with screens(shop) as driver:
        tail = await driver.loaded("tail")
        request = tail.items[0].request_id
        pages = (("user", ANA, "staging"), ("model", "openai/gpt-5.4", "Price versions"),
                 ("request", request, "charged"), ("doctor", "", "permissions"))  # fmt: skip
        for theme in driver.app.available_themes:
            driver.app.theme = theme
            await driver.pilot.pause()
            if "ansi" not in theme:  # colours of the terminal are the ones Rich calls otherwise
                continue
            for key, table, words in MODES:
                await driver.press(key)
                await driver.loaded(table)
                await driver.sees(*words)
            await driver.sees("20 → 33")
            for page, what, said in pages:
                driver.app.open_page(page, what)
                await driver.sees(said)
                await driver.press("escape")
            await driver.press("question_mark")
            await driver.sees("This screen")
            await driver.press("escape", "2")
            await driver.loaded("users")
            await driver.press("p", "ctrl+s")
            await driver.sees("balance", "→")
            await driver.back()
            await driver.press("3", "right")  # to the first tab again
            await driver.loaded("model-rows")
            await driver.press("1")
            await driver.sees("Requests a minute")
        assert not driver.toasts


async def test_an_empty_shop_greets_with_what_to_do_first(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name)
    async with screens(empty) as driver:
        await driver.sees("Welcome", "1. give `sellapi serve`", "2. add a user", "3. start the")
        await driver.sees("No request yet")
        await driver.press("2")
        await driver.sees("No user here. Press a to add one")


async def test_columns_follow_the_size_of_the_terminal(shop: Path) -> None:
    async with screens(shop, SMALL) as driver:
        await driver.press("2")
        await driver.loaded("users")
        assert "Since" not in driver.text
        await driver.pilot.resize_terminal(*LARGE)
        await driver.sees("Since", "Name")
        await driver.pilot.resize_terminal(*SMALL)
        await driver.until(lambda: "Since" not in driver.text, "fewer columns")
        await _assert_fits(driver)


async def test_no_width_cuts_a_column(shop: Path) -> None:
    async with screens(shop, SMALL) as driver:
        for key, table, _words in MODES:
            await driver.press(key)
            await driver.loaded(table)
            for width in (93, 107, 151):
                await driver.pilot.resize_terminal(width, 30)
                await driver.until(lambda w=width: driver.app.screen.size.width == w)
                await _assert_fits(driver)


def _name_by_hand(admin: Admin, table: str, row: int, name: str) -> None:
    """A name as a database of before may hold it; no act takes it any more."""
    with admin.desk.database.transaction() as tx:
        tx.execute(f"UPDATE {table} SET name = ? WHERE id = ?", (name, row))


async def test_foreign_text_is_shown_as_text(shop: Path, admin: Admin) -> None:
    """Neither markup nor control characters of a name reach the terminal, its form included."""
    user = admin.users.add("evil@example.com", name="boo")
    evil = "[red]boo[/]\x1b[2J\u202eabc"
    _name_by_hand(admin, "accounts", user.id, evil)
    async with screens(shop, LARGE) as driver:
        await driver.press("2")
        await driver.sees("[red]boo[/]\N{REPLACEMENT CHARACTER}")
        assert "\x1b" not in driver.text
        assert "\u202e" not in driver.text
        await driver.press("enter")
        await driver.at("UserPage")
        await driver.sees("[red]boo[/]\N{REPLACEMENT CHARACTER}[2J")
        await driver.press("e")
        await driver.at("Form")
        await driver.sees("Name", "[red]boo[/]\N{REPLACEMENT CHARACTER}[2J")
        assert "\x1b" not in driver.text
        await driver.press("ctrl+s")
        await driver.sees("nothing differs")
        await driver.press("escape")
        await driver.at("UserPage")
    assert admin.users.show("evil@example.com").name == evil


async def test_a_models_evil_name_stays_harmless_and_can_be_mended(
    shop: Path, admin: Admin
) -> None:
    slug = "openai/gpt-5.4"
    evil = "\x1b[2J\x1b[H\x1b[41mOWNED\x1b]0;PWNED\x07"
    with admin.desk.database.read() as tx:
        row = tx.value("SELECT id FROM models WHERE slug = ?", (slug,))
    _name_by_hand(admin, "models", row, evil)
    async with screens(shop) as driver:
        driver.app.open_page("model", slug)
        await driver.sees("input 2.5")
        for name, value, kept in (("context", "1000", evil), ("name", "GPT", "GPT")):
            await driver.until(lambda: not driver.app._acting)
            await driver.press("e")
            await driver.at("Form")
            await driver.sees("Name")
            shown = driver.app.screen.query_one("#field-name").value  # type: ignore[attr-defined]
            assert ("OWNED" in shown, "\x1b" in shown) == (True, False)
            assert not set("\x1b\x07") & set(driver.text)
            driver.app.screen.query_one(f"#field-{name}").value = value  # type: ignore[attr-defined]
            await driver.press("ctrl+s")
            await driver.sees(f" → {value}")
            await driver.press("y")
            await driver.at("ModelPage")
            assert admin.models.show(slug).name == kept


async def test_what_is_pasted_into_a_form_is_harmless(shop: Path) -> None:
    async with screens(shop) as driver:
        await driver.press("2")
        await driver.loaded("users")
        await driver.press("a")
        await driver.at("Form")
        await driver.sees("E-mail")
        driver.app.screen.focused.post_message(events.Paste("a\x1b[2Jb"))  # type: ignore[union-attr]
        await driver.sees("a\N{REPLACEMENT CHARACTER}[2Jb")
        assert "\x1b" not in driver.text


async def test_a_users_page_keeps_its_newest_entry_in_sight(shop: Path, admin: Admin) -> None:
    async with screens(shop) as driver:
        driver.app.open_page("user", ANA)
        rows = await driver.loaded("user-entries")
        for n in range(12):
            admin.credits.grant(ANA, f"{n + 1}", reason=f"gift {n}")
            driver.app.reload()
            await driver.until(lambda n=n: rows.items[0].reason == f"gift {n}", "the entry")
        await driver.sees("+12.00")
        assert (rows.cursor_row, rows.scroll_offset.y) == (0, 0)


async def test_a_small_screen_changes_a_users_keys_for_the_plot_of_use(shop: Path) -> None:
    async with screens(shop) as driver:
        driver.app.open_page("user", ANA)
        await driver.loaded("user-key-rows")
        await driver.sees("u Keys/use".replace(" ", "\N{NO-BREAK SPACE}", 1))
        await driver.press("u")
        await driver.sees("Credits a day, 30 days")
        await _assert_fits(driver)
        assert "sk-sellapi-" not in driver.text
        await driver.press("u")
        await driver.sees("sk-sellapi-")
        await driver.pilot.resize_terminal(*LARGE)
        await driver.sees("Credits a day, 30 days", "sk-sellapi-")
        await driver.until(lambda: "Keys/use" not in driver.text, "no key that does nothing")


async def test_a_form_names_the_user_as_people_do(shop: Path) -> None:
    async with screens(shop) as driver:
        await driver.press("2")
        rows = await driver.loaded("users")
        email = rows.current.email
        await driver.press("enter")
        await driver.at("UserPage")
        await driver.loaded("user-entries")
        await driver.press("plus")
        await driver.at("Form")
        await driver.until(lambda: bool(driver.app.screen.query("#field-user")))
        assert driver.app.screen.query_one("#field-user").value == email  # type: ignore[attr-defined]


async def test_nothing_is_said_of_a_shop_before_it_was_read(shop: Path) -> None:
    """Neither an empty list nor a missing server is claimed while the database is opening."""
    go_on = threading.Event()

    def opener() -> Admin:
        go_on.wait(10)
        return open_shop(shop)

    async with screens(opener) as driver:
        try:
            await driver.sees("looking")
            await driver.press("3")
            await driver.sees("Models")
            assert "No model yet" not in driver.text
            assert "no server" not in driver.text
        finally:
            go_on.set()
        await driver.loaded("model-rows")
        await driver.sees("no server")


async def test_a_toast_leaves_the_keys_in_sight(shop: Path) -> None:
    async with screens(shop, toasts=True) as driver:
        await driver.press("4")
        await driver.loaded("entries")
        await driver.press("v")
        await driver.sees("The ledger is sound")
        await _assert_fits(driver)
        keys = driver.app.screen.query_one(KeyLine).region
        for line in driver.text.splitlines()[keys.y : keys.bottom]:
            assert "▌" not in line
        assert "Quit" in driver.text
