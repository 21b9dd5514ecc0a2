"""README's pictures are there, come from the real app, and load nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tui.stage import screens
from tools.demo_shop import DemoShop
from tools.screenshots import SHOTS, Shot, photograph
from tui.acts import BY_NAME
from tui.screens.pages import MODES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["README.md", "docs/screens.md"])
def test_every_picture_shown_is_one_the_tool_makes(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    names = re.findall(r"img/([a-z0-9-]+)\.svg", text)
    assert names
    assert set(names) <= {shot.name for shot in SHOTS}
    for name in names:
        svg = (ROOT / "docs" / "img" / f"{name}.svg").read_text("utf-8")
        assert svg.startswith("<svg")
        assert "url(http" not in svg


async def test_a_shot_is_what_the_app_shows(tmp_path: Path) -> None:
    shop = DemoShop(tmp_path / "shop.db")
    shop.people(4)
    shop.serve()
    shot = Shot("users", (80, 24), ("2", 1.0))
    try:
        svg = await photograph(tmp_path / "shop.db", shot, shop)
    finally:
        shop.close()
    assert "chen.wei@kaleido.example" in svg
    assert "url(http" not in svg


async def test_every_key_that_starts_an_act_starts_one_there_is(shop: Path) -> None:
    async with screens(shop) as driver:
        pages = [make() for make in MODES.values()]
        for page, what in (("user", "1"), ("model", "openai/gpt-5.4"), ("request", "x")):
            driver.app.open_page(page, what)
            await driver.pilot.pause()
            pages.append(driver.app.screen)  # type: ignore[arg-type]
        named = {
            found
            for page in pages
            for bindings in page._bindings.key_to_bindings.values()
            for binding in bindings
            for found in re.findall(r"app\.act\('([^']+)'\)", binding.action)
        }
    assert len(named) > 12
    assert named <= set(BY_NAME)
