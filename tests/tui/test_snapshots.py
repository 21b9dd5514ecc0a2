"""What the lists look like, word by word, at both sizes; UPDATE_SNAPSHOTS=1 writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sellapi.admin.service import Admin
from sellapi.storage.database import Database
from tests.tui.stage import SIZES, Driver, screens
from tools.demo_shop import ENV, DemoShop

SNAPSHOTS = Path(__file__).parent / "snapshots"
NOW = 1_795_400_000.0
"""2026-11-23: the shop of the snapshots never grows older."""
SCREENS = (("2", "users"), ("3", "model-rows"), ("4", "entries"), ("5", "acts"))


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("still") / "still.db"
    shop = DemoShop(path, now=NOW)
    shop.people()
    shop.past(days=4, a_day=5, today=20, hour=20)
    shop.close()
    return path


def _words(driver: Driver) -> str:
    """The screen below the bar (which tells the time), blanks at the ends of lines left out."""
    lines = [line.rstrip() for line in driver.text.splitlines()[1:]]
    return "\n".join(lines).rstrip() + "\n"


@pytest.mark.parametrize("size", SIZES)
async def test_lists_look_as_they_were_seen(still: Path, size: tuple[int, int]) -> None:
    def opener() -> Admin:  # a price that is scheduled today must not change the picture tomorrow
        database = Database.open(still)
        return Admin(database, actor="test", via="tui", env=ENV, clock=lambda: NOW)

    async with screens(opener, size) as driver:
        for key, table in SCREENS:
            await driver.press(key)
            await driver.loaded(table)
            file = SNAPSHOTS / f"{table}-{size[0]}x{size[1]}.txt"
            if os.environ.get("UPDATE_SNAPSHOTS"):
                await driver.pilot.pause(0.5)
                SNAPSHOTS.mkdir(exist_ok=True)
                file.write_text(_words(driver), "utf-8")
            expected = file.read_text("utf-8")
            await driver.until(lambda e=expected: _words(driver) == e, f"{file.name}:\n{expected}")
