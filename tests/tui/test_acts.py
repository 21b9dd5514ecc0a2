"""Acts by keys: what is refused is said, what costs or destroys is confirmed, each has a twin."""

from __future__ import annotations

import csv
import hashlib
import re
import time
from pathlib import Path

import click
import pytest

import cli
from sellapi.admin.service import Admin
from sellapi.domain.credits import MICRO, format_credits
from tests.tui.stage import LARGE, SMALL, Driver, screens
from tui.acts import ACTS
from tui.acts.act import Context, Field, FormSpec, Line
from tui.screens.form import Form
from tui.screens.page import Page
from tui.screens.pages import MODES, PAGES

ANA = "ana.sousa@lusitano.dev"


async def _user(driver: Driver, who: str = ANA) -> None:
    driver.app.open_page("user", who)
    await driver.at("UserPage")
    await driver.loaded("user-key-rows")


async def _form(driver: Driver, *words: str) -> None:
    await driver.at("Form")
    await driver.sees(*words)


# -- twins -------------------------------------------------------------------------------------


def _command(path: str) -> click.Command:
    found: click.Command = cli.cli
    context = click.Context(found)
    for word in path.split():
        assert isinstance(found, click.Group), path
        step = found.get_command(context, word)
        assert step is not None, f"sellapi {path}"
        found = step
    return found


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name)
def test_every_act_has_its_admin_method_and_its_command(act: object) -> None:
    name, command = act.name, act.cli  # type: ignore[attr-defined]
    noun, _, verb = name.partition(".")
    if noun in ("importer", "files"):
        import importlib

        assert callable(getattr(importlib.import_module(f"sellapi.admin.{noun}"), verb))
    else:
        target = Admin.__init__.__code__.co_names if verb else ()
        assert callable(getattr(Admin, noun, None)) if not verb else noun in target
        if verb:
            admin = Admin(None, actor="", via="", env={})  # type: ignore[arg-type]
            assert callable(getattr(getattr(admin, noun), verb))
    assert not isinstance(_command(command), click.Group)


ON_SCREENS = {
    "credits statement": "user",
    "status": "now", "usage": "now", "requests list": "now", "requests tail": "now",
    "requests show": "request", "users list": "users", "users show": "user", "keys list": "user",
    "keys show": "user", "models list": "catalog", "models show": "model",
    "models prices": "model", "providers list": "catalog", "providers show": "catalog",
    "packs list": "catalog", "packs show": "catalog", "tiers list": "catalog",
    "tiers show": "catalog",
}  # fmt: skip
"""Commands that only look, and the screen where the same is looked at."""
SHELL_ONLY = {"init", "serve", "tui", "completion", "db check", "db example", "db migrate",
              "db restore"}  # fmt: skip
"""What stands before, beside or around a database in use: done from a shell."""


def _commands(group: click.Group, *path: str) -> list[str]:
    found: list[str] = []
    for word in group.list_commands(context := click.Context(group)):
        step = group.get_command(context, word)
        if isinstance(step, click.Group):
            found += _commands(step, *path, word)
        else:
            found.append(" ".join((*path, word)))
    return found


def test_every_command_is_an_act_or_a_screen_or_belongs_to_the_shell() -> None:
    acts = {act.cli for act in ACTS}
    assert sorted(_commands(cli.cli)) == sorted(acts | set(ON_SCREENS) | SHELL_ONLY)
    assert set(ON_SCREENS.values()) <= {*MODES, *PAGES}
    assert len({act.name for act in ACTS}) == len(ACTS)


async def test_the_palette_offers_every_act(shop: Path) -> None:
    async with screens(shop) as driver:
        offered = {c.title for c in driver.app.get_system_commands(driver.app.screen)}
        assert {act.title for act in ACTS} <= offered
        await driver.press("ctrl+p")
        await driver.type("grant")
        await driver.sees("Grant credits")
        await driver.press("enter")
        await _form(driver, "Grant credits", "Reason")


async def test_the_palette_acts_on_the_row_it_was_called_on(shop: Path, admin: Admin) -> None:
    async with screens(shop) as driver:
        tail = await driver.loaded("tail")
        request = tail.current.request_id
        await driver.press("ctrl+p")
        await driver.type("refund a req")
        await driver.sees("Refund a request")
        tail.move_cursor(row=1)
        await driver.type("u")
        await driver.pilot.pause(0.3)
        await driver.press("enter")
        await _form(driver, "Refund a request", request)


async def test_neither_palette_nor_bar_leads_away_from_a_form_or_a_secret(shop: Path) -> None:
    """What is hidden is never answered: no act would start again, and a secret would stay."""
    async with screens(shop) as driver:
        await driver.press("2")
        await driver.loaded("users")
        await driver.press("i")
        await _form(driver, "Issue a key")
        for page in ("Form", "SecretOnce"):
            await driver.press("ctrl+p")
            await driver.pilot.pause(0.3)
            assert type(driver.app.screen).__name__ == page
            await driver.pilot.click(offset=(30, 0))  # where the bar below names the screens
            await driver.pilot.pause(0.3)
            assert type(driver.app.screen).__name__ == page
            assert driver.app.current_mode == "users"
            if page == "Form":
                await driver.press("enter")
                await driver.at("SecretOnce")
        await driver.press("c", "escape")
        await driver.at("Users")
        await driver.told("is issued")
        await driver.press("ctrl+p")
        await driver.at("CommandPalette")
        await driver.press("escape", "3")
        await driver.at("Catalog")
        await driver.until(lambda: not driver.app._acting, "the act ended")


async def test_every_act_starts_anywhere_and_esc_leads_back(shop: Path) -> None:
    """With nothing looked at an act asks for its target; its form fits the smallest screen."""
    async with screens(shop, SMALL) as driver:
        await driver.press("3", "left")  # tiers: no user, model or provider is looked at
        await driver.loaded("tier-rows")
        for act in ACTS:
            driver.app._start(act.name, Context())
            await _led_back(driver, act.name)
        assert isinstance(driver.app.screen, Page)


async def _led_back(driver: Driver, act: str) -> None:
    app = driver.app
    await driver.until(lambda: len(app.screen_stack) > 1 or not app._acting, act)
    form = app.screen
    if isinstance(form, Form):
        await driver.until(lambda: bool(form.query("#hint")) and form.query_one("#form").size, act)
        box = form.query_one("#form").region
        assert box.right <= SMALL[0], act
        assert box.bottom <= SMALL[1], act
    while len(app.screen_stack) > 1:
        await driver.press("escape")
    await driver.until(lambda: not app._acting, f"{act} ended")


# -- keys --------------------------------------------------------------------------------------


async def test_a_new_key_is_shown_once_and_works(shop: Path, admin: Admin) -> None:
    async with screens(shop) as driver:
        await _user(driver)
        await driver.press("i")
        await _form(driver, "Issue a key", ANA)
        await driver.type("ci")
        await driver.press("enter")
        await driver.at("SecretOnce")
        await driver.sees("sk-sellapi-", "Shown this once")
        found = re.search(r"sk-sellapi-[A-Za-z0-9_-]{43,}", driver.text)
        assert found is not None
        secret = found[0]
        await driver.press("escape")
        await driver.sees("Not copied here")
        await driver.press("c")
        await driver.sees("Copied")
        assert driver.app.clipboard == secret
        await driver.press("escape")
        await driver.at("UserPage")
        await driver.told("is issued")
        await driver.until(lambda: "ci" in driver.text, "the key in the list")
        assert secret not in driver.text
        assert secret not in driver.toasts
    keys = admin.users.detail(ANA).keys
    assert keys[0].name == "ci"
    digest = hashlib.sha256(secret.encode()).digest()
    with admin.desk.database.read() as tx:
        assert tx.value("SELECT key_id FROM key_secrets WHERE digest = ?", (digest,)) == keys[0].id


async def test_a_key_is_rotated_and_revoked_after_a_question(shop: Path, admin: Admin) -> None:
    async with screens(shop) as driver:
        await _user(driver)
        key = admin.users.detail(ANA).keys[0]
        await driver.press("o")
        await _form(driver, "Rotate key", "24h")
        await driver.press("enter")
        await driver.sees(f"{key.id} {key.name!r}", key.last4, "works until")
        await driver.press("enter")
        await driver.at("SecretOnce")
        await driver.press("c", "escape")
        await driver.at("UserPage")
        assert admin.keys.show(key.id).last4 != key.last4
        await driver.until(lambda: not driver.app._acting)
        await driver.press("v")
        await _form(driver, "Revoke this key?", "for good")
        await driver.press("enter")  # the button under the cursor is Back
        await driver.at("UserPage")
        assert admin.keys.show(key.id).status == "active"
        await driver.until(lambda: not driver.app._acting)
        await driver.press("v")
        await _form(driver, "Revoke this key?")
        await driver.press("y")
        await driver.told("is revoked")
        assert admin.keys.show(key.id).status == "revoked"


async def test_a_changed_key_shows_what_changes_before_it_does(shop: Path, admin: Admin) -> None:
    async with screens(shop) as driver:
        await _user(driver)
        await driver.press("K")
        await _form(driver, "Change key")
        await driver.press("tab", "tab", "tab")
        await driver.type("250")
        await driver.press("enter")
        await driver.sees("limit", "→ 250")
        await driver.press("y")
        await driver.told("is changed")
        assert admin.users.detail(ANA).keys[0].limit == 250 * MICRO


# -- credits -----------------------------------------------------------------------------------


async def test_a_pack_is_sold_after_a_look_at_what_it_does(shop: Path, admin: Admin) -> None:
    who = "dev@fern-and-moss.example"
    before = admin.users.show(who)
    async with screens(shop) as driver:
        await _user(driver, who)
        await driver.press("p")
        await _form(driver, "Sell a pack", who)
        await driver.press("ctrl+s")
        await driver.sees("free → pro", "paid", "$5.00")
        await driver.press("escape")  # back to the fields: nothing is done
        await driver.until(lambda: not driver.app.screen.confirming)  # type: ignore[attr-defined]
        assert admin.users.show(who) == before
        await driver.press("ctrl+s")
        await driver.sees("free → pro")
        await driver.press("y")
        await driver.told("tier pro")
    after = admin.users.show(who)
    assert (after.tier, after.balance - before.balance) == ("pro", 500_000 * MICRO)
    assert admin.audit.list(act="packs.sell", limit=1)[0].via == "tui"


async def test_what_is_refused_is_said_inside_the_form(shop: Path, admin: Admin) -> None:
    before = admin.users.show(ANA)
    async with screens(shop) as driver:
        await _user(driver)
        await driver.press("plus")
        await _form(driver, "Grant credits")
        await driver.type("1e5")
        await driver.press("enter")
        await driver.sees("Reason: this is needed")
        await driver.type("a gift")
        await driver.press("enter")
        await driver.sees("is not an amount of credits")
        await driver.press("escape")
        await driver.at("UserPage")
        await driver.until(lambda: not driver.app._acting)
        await driver.press("minus")
        await _form(driver, "Deduct credits")
        await driver.type("9999999999")
        await driver.press("tab")
        await driver.type("a test")
        await driver.press("enter")
        await driver.sees("available: deduct that much")
    assert admin.users.show(ANA).balance == before.balance


async def test_credits_are_granted_with_a_reason(shop: Path, admin: Admin) -> None:
    before = admin.users.show(ANA)
    async with screens(shop) as driver:
        await _user(driver)
        await driver.press("plus")
        await _form(driver, "Grant credits")
        await driver.type("12.5")
        await driver.press("tab")
        await driver.type("thanks")
        await driver.press("enter")
        await driver.sees("+12.5 ($0.000125)", "thanks")
        await driver.press("enter")
        await driver.told("credits.")
        await driver.sees("grant", "+12.50")
    assert admin.users.show(ANA).balance - before.balance == 12_500_000


async def test_a_request_is_refunded_from_its_receipt(shop: Path, admin: Admin) -> None:
    request = next(r for r in admin.requests.list(limit=50) if r.charge and r.state == "settled")
    async with screens(shop) as driver:
        driver.app.open_page("request", request.request_id)
        await driver.sees("sum, rounded up")
        await driver.press("f")
        await _form(driver, "Refund a request", request.request_id)
        await driver.press("ctrl+s")
        await driver.sees("goes back")
        await driver.press("y")
        await driver.told("credits back")
        await driver.sees("refunded")
        await driver.press("pagedown")
        await driver.sees("charge_refund")


async def test_a_refund_shows_whose_what_and_how_much_before_it_is_done(
    shop: Path, admin: Admin
) -> None:
    """On a living list another row may have come under the cursor just before the key."""
    async with screens(shop) as driver:
        tail = await driver.loaded("tail")
        while not (tail.current.charge and tail.current.state == "settled"):
            await driver.press("j")
        request = tail.current
        before = admin.users.show(str(request.user_id)).balance
        await driver.press("f")
        await _form(driver, "Refund a request", request.request_id)
        await driver.press("enter")
        await driver.sees(request.user, request.model, "goes back", "balance")
        assert format_credits(request.charge) in driver.text
        await driver.press("enter")  # the button under the cursor is Back
        await driver.until(lambda: not driver.app.screen.confirming)  # type: ignore[attr-defined]
        assert admin.users.show(str(request.user_id)).balance == before
        await driver.press("enter")
        await driver.sees("goes back")
        await driver.press("y")
        await driver.told("credits back")
        await driver.until(lambda: not driver.app._acting)
        await driver.until(lambda: tail.current.refunded, "the refund in the list")
        await driver.press("f")
        await _form(driver, "Refund a request", request.request_id)
        await driver.press("enter")
        await driver.sees("was refunded before")
    after = admin.users.show(str(request.user_id))
    assert after.balance - before == request.charge


async def test_a_pack_is_refunded_after_a_look_at_whose_it_is(shop: Path, admin: Admin) -> None:
    sale = admin.packs.sell(ANA, "starter")
    async with screens(shop) as driver:
        await _user(driver)
        entries = await driver.loaded("user-entries")
        await driver.until(lambda: entries.current.id == sale.entry, "the sale under the cursor")
        await driver.press("B")
        await _form(driver, "Refund a pack")
        await driver.press("ctrl+s")
        await driver.sees(ANA, "starter, sold", "-500,000.00", "goes back", "$5.00")
        assert admin.packs.sale(sale.entry)
        await driver.press("y")
        await driver.told("$5.00 goes back")
        await driver.until(lambda: not driver.app._acting)
        driver.app._start("packs.refund", Context(entry=sale.entry))
        await _form(driver, "Refund a pack")
        await driver.press("ctrl+s")
        await driver.sees("was refunded before")


async def test_a_pack_that_is_spent_is_refunded_only_as_a_debt(shop: Path, admin: Admin) -> None:
    sale = admin.packs.sell(ANA, "starter")
    user = admin.users.show(ANA)
    admin.credits.deduct(ANA, str(user.available // MICRO), reason="spent")
    async with screens(shop) as driver:
        driver.app._start("packs.refund", Context(entry=sale.entry))
        await _form(driver, "Refund a pack")
        await driver.press("ctrl+s")
        await driver.sees(f"{ANA} has", "let the rest of the pack")
        driver.app.screen.query_one("#field-debt").value = True  # type: ignore[attr-defined]
        await driver.press("ctrl+s")
        await driver.sees("owed", "0.00 → ")
        await driver.press("y")
        await driver.told("$5.00 goes back")
    assert admin.users.show(ANA).owed > 0


async def test_requests_are_pruned_after_a_look_at_how_many(shop: Path, admin: Admin) -> None:
    async with screens(shop) as driver:
        await driver.press("3", "left")
        await driver.loaded("tier-rows")
        driver.app._start("requests.prune", Context())
        await _form(driver, "Prune old requests", "90d")
        await driver.press("enter")
        await driver.sees("no resolved request is that old")
        driver.app.screen.query_one("#field-age").value = "2d"  # type: ignore[attr-defined]
        await driver.press("enter")
        count = admin.requests.prunable(older_than="2d").requests
        assert count
        await driver.sees(f"{count:,} requests, for good", "older than")
        await driver.press("y")
        await driver.told(f"{count:,} requests are removed")


# -- users -------------------------------------------------------------------------------------


async def test_users_are_found_while_typing(shop: Path) -> None:
    async with screens(shop) as driver:
        await driver.press("2")
        rows = await driver.loaded("users")
        await driver.press("slash")
        await driver.type("kenji")
        await driver.until(lambda: [u.name for u in rows.items] == ["Kenji Mori"], "one user")
        await driver.press("escape", "enter")
        await driver.at("UserPage")
        await driver.sees("kenji@torii-labs.example")


async def test_sorting_goes_through_the_orders(shop: Path) -> None:
    async with screens(shop) as driver:
        await driver.press("2")
        rows = await driver.loaded("users")
        await driver.press("s")
        await driver.sees("by e-mail")
        await driver.until(lambda: rows.items[0].email == ANA)
        await driver.press("s")
        await driver.sees("richest first")
        balances = [u.balance for u in rows.items]
        assert balances == sorted(balances, reverse=True)


async def test_pages_come_as_the_cursor_goes_down(shop: Path, admin: Admin) -> None:
    with admin.desk.database.transaction() as tx:
        tx.connection.executemany(
            "INSERT INTO accounts (email, created_at) VALUES (?, 1)",
            [(f"user{n:04}@example.com",) for n in range(350)],
        )
    async with screens(shop) as driver:
        await driver.press("2")
        rows = await driver.loaded("users")
        assert len(rows.items) == 100
        await driver.sees("100+ of 370")
        for expected in (200, 300, 370):
            await driver.press("G")
            await driver.until(lambda n=expected: len(rows.items) == n, f"{expected} users")
        assert len({u.id for u in rows.items}) == 370


async def test_a_user_is_added_and_its_page_opens(shop: Path) -> None:
    async with screens(shop) as driver:
        await driver.press("2")
        await driver.loaded("users")
        await driver.press("a")
        await _form(driver, "Add a user")
        await driver.type("nobody")
        await driver.press("enter")
        await driver.sees("is no e-mail address")
        await driver.type("@new.example")
        await driver.press("enter")
        await driver.at("UserPage")
        await driver.sees("nobody@new.example", "10,000.00", "No key yet", "signup")


async def test_a_user_is_suspended_after_a_question_and_resumed(shop: Path, admin: Admin) -> None:
    async with screens(shop) as driver:
        await _user(driver)
        await driver.press("x")
        await _form(driver, "Suspend this user?", ANA)
        await driver.press("escape")
        await driver.at("UserPage")
        assert admin.users.show(ANA).status == "active"
        await driver.until(lambda: not driver.app._acting)
        await driver.press("x")
        await _form(driver, "Suspend this user?")
        await driver.press("y")
        await driver.sees("suspended")
        assert admin.users.show(ANA).status == "suspended"
        await driver.until(lambda: not driver.app._acting)
        await driver.press("r")
        await driver.told("is active")
        assert admin.users.show(ANA).status == "active"


# -- catalog -----------------------------------------------------------------------------------


async def test_a_price_is_changed_by_way_of_a_diff(shop: Path, admin: Admin) -> None:
    slug = "openai/gpt-5.4"
    async with screens(shop) as driver:
        driver.app.open_page("model", slug)
        await driver.sees("input 2.5")
        await driver.press("e")
        await _form(driver, f"Change {slug}")
        await driver.press("ctrl+s")
        await driver.sees("nothing differs")
        field = driver.app.screen.query_one("#field-input")
        field.focus()
        field.value = "cheap"  # type: ignore[attr-defined]
        await driver.press("enter")
        await driver.sees("is not an amount in USD")
        field.value = "2.75"  # type: ignore[attr-defined]
        await driver.press("enter")
        await driver.sees("input", "2.5 → 2.75")
        assert admin.models.show(slug).prices["input"] == "2.5"
        await driver.press("y")
        await driver.told("is changed")
        await driver.sees("input 2.75")
    assert admin.models.show(slug).prices["input"] == "2.75"
    assert admin.models.show(slug).prices["output"] == "15"
    assert len(admin.models.price_history(slug)) == 2


@pytest.mark.parametrize(
    ("more", "holds"),
    [
        ({}, "the new price holds from 2090-01-01 00:00 UTC."),
        (
            {"context": ""},
            "the new price holds from 2090-01-01 00:00 UTC, the rest for the next request.",
        ),
        ({"start": ""}, "it holds for the next request."),
    ],
)
async def test_a_scheduled_price_tells_from_when_it_holds(
    shop: Path, admin: Admin, more: dict[str, str], holds: str
) -> None:
    slug = "openai/gpt-5.4"
    values = {"input": "3", "start": "2090-01-01"} | more
    async with screens(shop) as driver:
        driver.app.open_page("model", slug)
        await driver.sees("input 2.5")
        await driver.press("e")
        await _form(driver, f"Change {slug}")
        for name, value in values.items():
            driver.app.screen.query_one(f"#field-{name}").value = value  # type: ignore[attr-defined]
        await driver.press("ctrl+s")
        await driver.sees("2.5 → 3", *(["1050000 → none"] if "context" in more else []))
        assert ("2090-01-01 00:00 UTC" in driver.text) == bool(values["start"])
        await driver.press("y")
        await driver.told(f"{slug} is changed; {holds}")
    model = admin.models.show(slug)
    assert model.prices["input"] == ("2.5" if values["start"] else "3")
    assert [p.prices["input"] for p in model.scheduled] == (["3"] if values["start"] else [])


async def test_a_model_is_switched_off_after_a_question_and_on(shop: Path, admin: Admin) -> None:
    async with screens(shop) as driver:
        await driver.press("3")
        rows = await driver.loaded("model-rows")
        slug = rows.current.slug
        await driver.press("o")
        await _form(driver, "Take this model off the shelf?", slug)
        await driver.press("y")
        await driver.told(f"{slug} is off")
        assert not admin.models.show(slug).enabled
        await driver.until(lambda: not rows.items[0].enabled and not driver.app._acting)
        await driver.press("o")
        await driver.told("is for sale")
        assert admin.models.show(slug).enabled


async def test_the_route_under_the_cursor_is_removed_after_a_question(
    shop: Path, admin: Admin
) -> None:
    slug = "openai/gpt-5.4"
    admin.providers.add("bk", kind="openai", api_key_env="NO_SUCH_KEY")
    first = admin.models.show(slug).routes[0].target
    admin.models.route_add(slug, "bk:gpt-x")
    async with screens(shop) as driver:
        driver.app.open_page("model", slug)
        rows = await driver.loaded("route-rows")
        await driver.press("j")
        await driver.until(lambda: rows.current.target == "bk:gpt-x", "the cursor on it")
        await driver.press("X")
        await _form(driver, f"Remove a route of {slug}")
        await driver.press("tab", "enter")
        await driver.sees("goes", "bk:gpt-x", "1 usable route")
        await driver.press("enter")  # the button under the cursor is Back
        await driver.until(lambda: not driver.app.screen.confirming)  # type: ignore[attr-defined]
        assert len(admin.models.show(slug).routes) == 2
        await driver.press("ctrl+s")
        await driver.sees("goes")
        await driver.press("y")
        await driver.told(f"{slug} lost the route bk:gpt-x; it has 1 usable route.")
    assert [r.target for r in admin.models.show(slug).routes] == [first]


async def test_a_route_is_chosen_where_none_is_under_the_cursor(shop: Path) -> None:
    async with screens(shop) as driver:
        await driver.press("3")
        await driver.loaded("model-rows")
        await driver.press("X")
        await _form(driver, "Remove a route of")
        await driver.press("ctrl+s")
        await driver.sees("Route: this is needed")


async def test_a_retired_pack_is_not_sold_as_another(shop: Path, admin: Admin) -> None:
    slug = admin.packs.list()[0].slug
    admin.packs.retire(slug)
    async with screens(shop) as driver:
        await driver.press("3", "right", "right")
        rows = await driver.loaded("pack-rows")
        rows.move_cursor(row=[p.slug for p in rows.items].index(slug))
        await driver.press("p")
        await driver.told(f"pack {slug} is retired")


async def test_a_provider_is_added_changed_and_removed(shop: Path, admin: Admin) -> None:
    async with screens(shop) as driver:
        await driver.press("3", "right")
        await driver.loaded("provider-rows")
        await driver.press("a")
        await _form(driver, "Add a provider")
        await driver.type("backup")
        await driver.press("enter")
        await driver.sees("say where its key is")
        field = driver.app.screen.query_one("#field-api_key_env")
        field.value = "OPENAI_API_KEY"  # type: ignore[attr-defined]
        await driver.press("ctrl+s")
        await driver.told("backup: ready")
        assert admin.providers.show("backup").api_key_env == "OPENAI_API_KEY"
        await driver.until(lambda: not driver.app._acting)
        rows = await driver.loaded("provider-rows")
        await driver.until(lambda: len(rows.items) == 4)
        rows.move_cursor(row=[p.name for p in rows.items].index("backup"))
        await driver.press("e")
        await _form(driver, "Change provider backup")
        field = driver.app.screen.query_one("#field-max_connections")
        field.value = "64"  # type: ignore[attr-defined]
        await driver.press("ctrl+s")
        await driver.sees("max connections", "256 → 64")
        await driver.press("y")
        await driver.until(lambda: admin.providers.show("backup").max_connections == 64)
        await driver.until(lambda: not driver.app._acting)
        await driver.press("X")
        await _form(driver, "Remove this provider?", "No model goes to it")
        await driver.press("y")
        await driver.told("is removed")
    assert "backup" not in {p.name for p in admin.providers.list()}


async def test_what_is_emptied_in_a_providers_form_is_its_default_or_refused(
    shop: Path, admin: Admin
) -> None:
    new = admin.providers.add("bk", kind="openai", api_key_env="OPENAI_API_KEY")
    admin.providers.set(
        "bk", max_connections=64, base_url="https://bk.example/v1", proxy="http://p:1"
    )
    async with screens(shop) as driver:
        for values, seen in (
            ({"max_connections": "", "timeout": "30"},
             ("max connections  64 → 256, the default", "timeout          600 → 30")),
            ({"base_url": "", "proxy": "", "timeout": ""},
             ("https://api.openai.com/v1, the", "30 → 600, the default",
              "http://p:1 → none")),
            ({"api_key_file": "key.txt"}, ("api key env   OPENAI_API_KEY → none", "none → key.txt")),
            ({"enabled": False}, ("enabled  yes → no",)),
        ):  # fmt: skip
            driver.app._start("providers.set", Context(provider="bk"))
            await _form(driver, "Change provider bk")
            for name, value in values.items():
                driver.app.screen.query_one(f"#field-{name}").value = value  # type: ignore[attr-defined]
            await driver.press("ctrl+s")
            await driver.sees(*seen)
            await driver.press("y")
            await driver.until(lambda: not driver.app._acting)
        driver.app._start("providers.set", Context(provider="bk"))
        await _form(driver, "Change provider bk")
        driver.app.screen.query_one("#field-api_key_file").value = ""  # type: ignore[attr-defined]
        await driver.press("ctrl+s")
        await driver.sees("its key must stand somewhere")
    bk = admin.providers.show("bk")
    assert (bk.max_connections, bk.timeout_s) == (new.max_connections, new.timeout_s) == (256, 600)
    assert (bk.base_url, bk.proxy, bk.api_key_env) == (new.base_url, None, None)
    assert not bk.enabled


async def test_packs_are_added_and_retired(shop: Path, admin: Admin) -> None:
    async with screens(shop) as driver:
        await driver.press("3", "right", "right")
        await driver.loaded("pack-rows")
        await driver.press("a")
        await _form(driver, "Add a pack")
        for words in ("tiny", "1000", "0.02"):
            await driver.type(words)
            await driver.press("tab")
        await driver.press("ctrl+s")
        await driver.sees("1,000.00 (list value $0.01)", "$0.02")
        await driver.press("y")
        await driver.told("Pack tiny is for sale")
        await driver.until(lambda: not driver.app._acting)
        rows = await driver.loaded("pack-rows")
        await driver.until(lambda: len(rows.items) == 4)
        rows.move_cursor(row=[p.slug for p in rows.items].index("tiny"))
        await driver.press("X")
        await _form(driver, "Retire a pack")
        await driver.press("ctrl+s")
        await driver.sees("tiny: 1,000.00 credits for $0.02", "active → retired")
        await driver.press("y")
        await driver.told("is retired")
    assert admin.packs.show("tiny").status == "retired"


async def test_a_tier_is_changed_by_way_of_a_diff(shop: Path, admin: Admin) -> None:
    async with screens(shop) as driver:
        await driver.press("3", "left")
        await driver.loaded("tier-rows")
        await driver.press("e")
        await _form(driver, "Change tier free")
        driver.app.screen.query_one("#field-rpm").value = "30"  # type: ignore[attr-defined]
        await driver.press("ctrl+s")
        await driver.sees("20 → 30")
        await driver.press("y")
        await driver.told("Tier free is changed")
    assert {t.name: t.rpm for t in admin.tiers.list()}["free"] == 30


async def test_a_page_from_the_top_users_follows_a_changed_e_mail(shop: Path) -> None:
    async with screens(shop, LARGE) as driver:
        top = await driver.loaded("top-users")
        top.focus()
        email = top.current.name
        await driver.press("enter")
        await driver.at("UserPage")
        await driver.loaded("user-entries")
        await driver.press("e")
        await _form(driver, f"Change {email}")
        driver.app.screen.query_one("#field-email").value = "new@name.example"  # type: ignore[attr-defined]
        await driver.press("ctrl+s", "ctrl+s")
        await driver.told("new@name.example is changed")
        await driver.sees(" new@name.example  ")
        driver.app.reload()
        await driver.pilot.pause(0.3)
        assert "no user" not in driver.toasts


# -- ledger and audit --------------------------------------------------------------------------


async def test_the_ledger_is_filtered_and_exported(
    shop: Path, admin: Admin, tmp_path: Path
) -> None:
    admin.credits.grant(ANA, "1", reason="=HYPERLINK(1)")
    target = tmp_path / "out.csv"
    async with screens(shop) as driver:
        await driver.press("4")
        rows = await driver.loaded("entries")
        await driver.press("slash")
        await driver.type(ANA)
        await driver.press("enter")
        await driver.until(lambda: {e.user for e in rows.items} == {ANA}, "one user's entries")
        driver.app.screen.query_one("#filter-kind").value = "grant"  # type: ignore[attr-defined]
        await driver.until(lambda: {e.kind for e in rows.items} == {"grant"}, "grants")
        await driver.press("e")
        await _form(driver, "Export the ledger")
        driver.app.screen.query_one("#field-file").value = str(target)  # type: ignore[attr-defined]
        await driver.press("ctrl+s")
        await driver.told("1 entries stand in")
        await driver.until(lambda: not driver.app._acting)
        await driver.press("e")
        await _form(driver, "Export the ledger")
        driver.app.screen.query_one("#field-file").value = str(target)  # type: ignore[attr-defined]
        await driver.press("ctrl+s")
        await driver.sees("already: choose another name")
    written = list(csv.DictReader(target.open()))
    assert [(r["user"], r["kind"], r["reason"]) for r in written] == [
        (ANA, "grant", "'=HYPERLINK(1)")
    ]


async def test_an_unknown_user_in_a_filter_is_a_toast(shop: Path) -> None:
    async with screens(shop) as driver:
        await driver.press("4")
        await driver.loaded("entries")
        await driver.press("slash")
        await driver.type("nobody@example.com")
        await driver.press("enter")
        await driver.told("there is no user nobody@example.com")
        await driver.press("c")
        await driver.loaded("entries")


async def test_the_audit_tells_what_an_act_changed(shop: Path, admin: Admin) -> None:
    admin.providers.set("openai", enabled=False)
    admin.tiers.set("free", rpm=33)
    async with screens(shop) as driver:
        await driver.press("5")
        rows = await driver.loaded("acts")
        assert rows.items[0].act == "tiers.set"
        await driver.sees("tiers.set", "tier:free", "20 → 33")
        await driver.press("down")
        await driver.sees("provider:openai", "yes → no")
        await driver.press("slash")
        await driver.type("packs")
        await driver.press("enter")
        await driver.until(lambda: {a.act for a in rows.items} == {"packs.sell"}, "only sales")


async def test_the_audit_shows_a_keys_models_as_a_list(shop: Path, admin: Admin) -> None:
    admin.keys.create(ANA, models="openai/gpt-5.4,openai/gpt-5.4-nano")
    async with screens(shop) as driver:
        await driver.press("5")
        await driver.loaded("acts")
        await driver.sees("keys.create", "openai/gpt-5.4, openai/gpt-5.4-nano")


async def test_a_key_is_found_by_its_number_when_none_is_looked_at(
    shop: Path, admin: Admin
) -> None:
    key = admin.users.detail(ANA).keys[0]
    async with screens(shop) as driver:
        await driver.press("4")
        await driver.loaded("entries")
        driver.app._start("keys.revoke", Context())
        await _form(driver, "Revoke which key?")
        await driver.type("x")
        await driver.press("enter")
        await driver.sees("'x' is no number")
        await driver.press("backspace")
        await driver.type(str(key.id))
        await driver.press("enter")
        await _form(driver, "Revoke this key?", f"Key {key.id}")
        await driver.press("y")
        await driver.told("is revoked")
    assert admin.keys.show(key.id).status == "revoked"


async def test_what_is_typed_while_a_review_is_made_is_reviewed_and_done(shop: Path) -> None:
    done: list[str] = []

    def preview(_admin: Admin, values: dict[str, str]) -> list[Line]:
        time.sleep(0.3)
        return [Line("credits", values["credits"])]

    def act(_admin: Admin, values: dict[str, str]) -> bool:
        done.append(values["credits"])
        return True

    spec: FormSpec[bool] = FormSpec(
        title="Take",
        verb="Take",
        fields=(Field("credits", "Credits", "1"),),
        preview=preview,
        act=act,
    )
    async with screens(shop) as driver:
        await driver.app.push_screen(Form(spec))
        await driver.pilot.press("end", "enter")
        await driver.pilot.press("0")
        await driver.sees("y yes", "credits  10")
        await driver.press("y")
        await driver.until(lambda: bool(done), "the act")
    assert done == ["10"]


async def test_what_is_said_of_a_secret_is_not_cut_at_eighty_characters(shop: Path) -> None:
    async with screens(shop, SMALL) as driver:
        driver.app.action_act("keys.create")
        await driver.at("Form")
        await driver.press(*"1", "enter")
        await driver.at("SecretOnce")
        await driver.press("escape")
        await driver.sees("Close again once you have it: it is not shown again.")
        await driver.press("c")
        await driver.sees("paste it once before you close.")
