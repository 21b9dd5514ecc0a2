"""Forms at 80x24: what is pressed stays in sight, and the arrow keys go from field to field."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sellapi.admin.service import Admin
from tests.tui.stage import LARGE, SMALL, Driver, screens
from tui.acts.act import Context
from tui.screens.form import Form

SLUG = "openai/gpt-5.4"


async def _form(driver: Driver, *words: str) -> Form:
    await driver.at("Form")
    await driver.sees(*words)
    form = driver.app.screen
    assert isinstance(form, Form)
    return form


async def _model_form(driver: Driver) -> Form:
    driver.app.open_page("model", SLUG)
    await driver.sees("input 2.5")
    await driver.press("e")
    return await _form(driver, f"Change {SLUG}")


def _fill(form: Form, **values: str) -> None:
    for name, value in values.items():
        field: Any = form.query_one(f"#field-{name}")
        field.value = value


def _assert_pressable(driver: Driver, *words: str) -> None:
    """Buttons and hint are drawn, inside the box, with nothing over them."""
    screen, text = driver.app.screen, driver.text
    box, rows = screen.query_one("#form").region, text.splitlines()
    for selector in ("#send", "#leave", "#hint"):
        region = screen.query_one(selector).region
        assert region.area, selector
        assert region in box, selector
        assert screen.get_widget_at(region.x, region.y)[0].id == selector[1:], selector
    assert all(any(word in row for row in rows) for word in words), text


CHANGES = {
    "name": "GPT", "context": "1000", "max_output": "999", "input": "3.25", "output": "16.5",
}  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"long_context": "500", "start": "2090-01-01"}])
async def test_a_review_shows_every_change_and_its_buttons(
    shop: Path, admin: Admin, more: dict[str, str]
) -> None:
    changes = CHANGES | more
    async with screens(shop, SMALL) as driver:
        form = await _model_form(driver)
        _fill(form, **changes)
        await driver.press("enter")
        await driver.sees(*(v for v in changes.values()), "y yes")
        _assert_pressable(driver, "Change", "Back", "y yes · n or Esc back")
        await driver.press("y")
        await driver.told("is changed")
    assert admin.models.show(SLUG).name == "GPT"


async def test_a_review_longer_than_the_screen_scrolls_and_keeps_its_buttons(
    shop: Path, admin: Admin, tmp_path: Path
) -> None:
    pricing = {"prompt": "0.000003", "completion": "0.000015"}
    rows = [{"id": f"maker/model-{n:02}", "pricing": pricing} for n in range(40)]
    file = tmp_path / "models.json"
    file.write_text(json.dumps({"data": rows}), "utf-8")
    async with screens(shop, SMALL) as driver:
        driver.app._start("importer.apply", Context(provider="openai"))
        form = await _form(driver, "Import prices")
        _fill(form, file=str(file))
        await driver.press("enter")
        await driver.sees("40 new, 0 repriced", "add maker/model-00", "↑ ↓ read on")
        _assert_pressable(driver, "Apply", "Back", "y yes")
        for _ in range(12):
            await driver.press("pagedown")
        await driver.sees("add maker/model-39")
        await driver.press("up", "up", "up", "up")
        await driver.until(lambda: "add maker/model-39" not in driver.text)
        _assert_pressable(driver, "Apply", "Back", "y yes")
        await driver.press("y")
        await driver.told("40 models are changed")
    assert admin.models.show("maker/model-39").prices["input"] == "3"


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_the_arrow_keys_go_from_field_to_field(shop: Path, size: tuple[int, int]) -> None:
    async with screens(shop, size) as driver:
        form = await _model_form(driver)
        for field in form.spec.fields:  # a list to choose from is passed, too
            focused = driver.app.focused
            assert focused is not None
            assert focused.id == f"field-{field.name}"
            assert focused.region in form.query_one("#form").region
            await driver.sees(field.label)
            await driver.press("down")
        assert driver.app.focused is form.query_one("#send")
        await driver.press("up", "up")
        assert driver.app.focused is form.query_one("#field-images")
        await driver.type("x")
        assert form.values()["name"] == form.spec.fields[0].value
        _assert_pressable(driver, "Review", "Back")


async def test_a_refusal_leaves_the_field_and_the_buttons_in_sight(shop: Path) -> None:
    async with screens(shop, SMALL) as driver:
        form = await _model_form(driver)
        field = form.query_one("#field-images")
        field.focus()
        _fill(form, images="cheap")
        await driver.press("enter")
        await driver.sees("is not an amount in USD")
        await driver.until(lambda: field.region in form.query_one("#sheet").region, "the field")
        _assert_pressable(driver, "Review", "Back")


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_yes_and_no_are_said_in_words_and_enter_sends(
    shop: Path, admin: Admin, size: tuple[int, int]
) -> None:
    async with screens(shop, size) as driver:
        driver.app.action_act("providers.add")
        form = await _form(driver, "Add a provider", "Wants no key")
        _fill(form, name="local", base_url="http://127.0.0.1:9/v1")
        form.query_one("#field-no_key").focus()
        said = r"Wants no key +{}\b"
        await driver.until(lambda: re.search(said.format("no"), driver.text), "no")
        for key, word in (("space", "yes"), ("n", "no"), ("y", "yes")):
            await driver.press(key)
            await driver.until(lambda w=word: re.search(said.format(w), driver.text), word)
        await driver.press("enter")
        await driver.told("local: ready")
    assert admin.providers.show("local").api_key_env is None


async def test_an_n_between_the_fields_leaves_no_form_that_is_being_filled_in(shop: Path) -> None:
    async with screens(shop, SMALL) as driver:
        driver.app.action_act("providers.add")
        form = await _form(driver, "Add a provider")
        _fill(form, name="local")
        form.query_one("#field-kind").focus()
        await driver.press("n")
        await driver.pilot.pause(0.2)
        assert driver.app.screen is form
