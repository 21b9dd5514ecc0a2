"""Photograph the screens: the real app on the demo shop, as SVG files in docs/img.

`make screenshots` runs it. Nothing is drawn by hand: what README shows is what the app rendered.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sellapi.admin.service import Admin  # noqa: E402
from sellapi.storage.database import Database  # noqa: E402
from tools.demo_shop import ENV, DemoShop, build  # noqa: E402
from tui.app import SellapiApp  # noqa: E402

TARGET = ROOT / "docs" / "img"


@dataclass(frozen=True)
class Shot:
    """``keys`` lead to what is photographed; a float waits that many seconds."""

    name: str
    size: tuple[int, int]
    keys: Sequence[str | float]
    light: bool = False


SHOTS = (
    Shot("now", (150, 44), (1.5,)),
    Shot("now-light", (150, 44), (1.5,), light=True),
    Shot("now-80x24", (80, 24), (1.5,)),
    Shot("users", (100, 28), ("2", 0.6)),
    Shot("user", (120, 34), ("2", 0.5, "slash", "a", "n", "a", 0.5, "escape", "enter", 1.0)),
    Shot("sell", (100, 28), ("2", 0.6, "p", 0.5, "ctrl+s", 0.6)),
    Shot("catalog", (120, 28), ("3", 0.8)),
    Shot("price", (100, 34), ("3", 0.6, "e", 0.6, "tab", "tab", "tab", "tab", "end", "full_stop",
                              "2", "tab", "end", "full_stop", "5", "ctrl+s", 0.6)),
    Shot("receipt", (90, 32), (1.0, "enter", 0.8)),
    Shot("ledger", (120, 28), ("4", 0.8)),
    Shot("audit", (110, 28), ("5", 0.8, "j", "j", 0.3)),
)  # fmt: skip


def tidy(svg: str) -> str:
    """No font from elsewhere; leading blanks become a shift, which every renderer keeps."""
    svg = re.sub(r"@font-face\s*\{.*?\}", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family:\s*Fira Code,\s*monospace", "font-family: monospace", svg)

    def shift(match: re.Match[str]) -> str:
        head, x, middle, length, tail, words = match.groups()
        words = words.replace("\N{NO-BREAK SPACE}", "&#160;")
        lead = len(words) - len(words.replace("&#160;", " ").lstrip(" ").replace(" ", "&#160;"))
        blanks = lead // len("&#160;")
        shown = words.replace("&#160;", " ").count("") - 1
        if not blanks or shown == blanks:
            return match[0]
        step = float(length) / _cells(words)
        return (
            f"{head}{float(x) + blanks * step:.1f}{middle}"
            f"{float(length) - blanks * step:.1f}{tail}{words[lead:]}</text>"
        )

    return re.sub(
        r'(<text [^>]*?\bx=")([\d.]+)("[^>]*?\btextLength=")([\d.]+)("[^>]*>)([^<]*)</text>',
        shift,
        svg,
    )


def _cells(words: str) -> int:
    """How many columns an escaped text takes."""
    from html import unescape

    from rich.cells import cell_len

    return max(1, cell_len(unescape(words)))


async def photograph(database: Path, shot: Shot, shop: DemoShop) -> str:
    """The SVG of one shot."""

    def opener() -> Admin:
        return Admin(Database.open(database), actor="operator", via="tui", env=ENV)

    app = SellapiApp(opener)
    async with app.run_test(size=shot.size) as pilot:
        if shot.light:
            await pilot.press("T")
        for key in shot.keys:
            if isinstance(key, float):
                shop.beat()
                await pilot.pause(key)
            else:
                await pilot.press(key)
        await pilot.pause(0.2)
        return tidy(app.export_screenshot(title="sellapi tui"))


def main(names: Sequence[str]) -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "sellapi.db"
        shop = build(database)
        shop.serve()
        try:
            for shot in SHOTS:
                if not names or shot.name in names:
                    svg = asyncio.run(photograph(database, shot, shop))
                    (TARGET / f"{shot.name}.svg").write_text(svg, "utf-8")
                    print(f"docs/img/{shot.name}.svg")
        finally:
            shop.close()


if __name__ == "__main__":
    main(sys.argv[1:])
