"""A real app on a real database, driven by keys; what is asserted is what stands on the screen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from sellapi.admin.service import Admin
from sellapi.commands.tui import open_shop
from tui.app import SellapiApp
from tui.screens.page import Page
from tui.widgets.rows import Rows

SMALL, LARGE = (80, 24), (200, 60)
SIZES = [SMALL, LARGE]
KEYS = {"@": "at", ".": "full_stop", "/": "slash", " ": "space", "-": "minus", ":": "colon",
        "_": "underscore", "+": "plus"}  # fmt: skip
PATIENCE_S = 15.0


class Driver:
    """Keys in, words out."""

    def __init__(self, app: SellapiApp, pilot: Pilot[Any]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def text(self) -> str:
        """The screen as a person sees it."""
        rows = self.app.screen._compositor.render_strips()
        return "\n".join("".join(s.text for s in row).rstrip() for row in rows)

    @property
    def toasts(self) -> str:
        return "\n".join(f"{n.title} {n.message}" for n in self.app._notifications)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def type(self, words: str) -> None:
        await self.pilot.press(*(KEYS.get(c, c) for c in words))

    async def until(self, happened: Callable[[], object], what: str = "") -> None:
        """Wait until something is so; fails with the screen when it never is."""
        for _ in range(int(PATIENCE_S / 0.04)):
            await self.pilot.pause()
            if happened():
                return
            await asyncio.sleep(0.04)
        raise AssertionError(f"never: {what}\n{self.text}\n{self.toasts}")

    async def sees(self, *words: str) -> None:
        """Wait until these words stand on the screen."""
        await self.until(lambda: all(w in self.text for w in words), f"{words} on the screen")

    async def told(self, words: str) -> None:
        """Wait for a toast."""
        await self.until(lambda: words in self.toasts, f"toast {words!r}")

    async def at(self, page: str) -> None:
        """Wait until a screen of that class is on top, settled."""
        await self.until(lambda: type(self.app.screen).__name__ == page, f"screen {page}")

    async def loaded(self, table: str) -> Rows:
        """Wait until a table has rows."""
        await self.until(
            lambda: (
                bool(self.app.screen.query(f"#{table}"))
                and bool(self.app.screen.query_one(f"#{table}", Rows).items)
            ),
            f"rows in {table}",
        )
        return self.app.screen.query_one(f"#{table}", Rows)

    async def back(self) -> None:
        """Esc until a full screen is on top."""
        for _ in range(4):
            if isinstance(self.app.screen, Page):
                return
            await self.press("escape")
            await self.pilot.pause(0.05)
        raise AssertionError(f"Esc does not lead back:\n{self.text}")


@asynccontextmanager
async def screens(
    database: Path | Callable[[], Admin],
    size: tuple[int, int] = SMALL,
    *,
    toasts: bool = False,
) -> AsyncIterator[Driver]:
    """The app on a database (or an opener of one); ``toasts``: drawn, too, over the screen."""
    opener = (lambda: open_shop(database)) if isinstance(database, Path) else database
    app = SellapiApp(opener)
    app.animation_level = "none"
    async with app.run_test(size=size, notifications=toasts) as pilot:
        yield Driver(app, pilot)
