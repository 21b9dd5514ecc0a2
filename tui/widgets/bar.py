"""The line on top (where you are, whether a server runs) and the keys at the bottom."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text
from textual.screen import Screen
from textual.widgets import Static

from tui.words import clock, colour, plain, tone_style

if TYPE_CHECKING:
    from tui.app import SellapiApp

__all__ = ["Bar", "KeyLine", "Trouble"]


class Bar(Static):
    """``sellapi  1 Now  2 Users …      ● serving  04:05:06``."""

    auto_links = False

    def on_mount(self) -> None:
        self.set_interval(1.0, self.draw)
        self.watch(self.app, "servers", self.draw)
        self.app.theme_changed_signal.subscribe(self, lambda _theme: self.draw())

    def on_resize(self) -> None:
        self.draw()

    def draw(self) -> None:
        """Write the line again."""
        app = cast("SellapiApp", self.app)
        theme = app.current_theme
        left = Text(no_wrap=True)
        left.append(" sellapi ", style=f"bold {colour(theme, 'primary')}")
        for number, (mode, title) in enumerate(app.TITLES.items(), start=1):
            here = mode == app.current_mode
            style = Style.parse("bold reverse" if here else "")
            click = Style(meta={"@click": f"app.switch_mode('{mode}')"})
            left.append(f" {number} {title} ", style=style + click)
        right = Text(no_wrap=True)
        words, tone = app.server_words()
        right.append("● " if tone == "good" else "○ ", style=tone_style(theme, tone))
        right.append(words)
        right.append(f"  {clock(int(time.time() * 1000))} ", style="dim")
        gap = self.size.width - left.cell_len - right.cell_len
        if gap < 1:
            right = Text(" ●" if tone == "good" else " ○", style=tone_style(theme, tone))
            gap = max(0, self.size.width - left.cell_len - right.cell_len)
        self.update(left + Text(" " * gap) + right)


class Trouble(Static):
    """A line in words while the database cannot be used; gone when it can."""

    def on_mount(self) -> None:
        self.display = False
        self.watch(self.app, "trouble", self.tell)

    def tell(self, trouble: str) -> None:
        """Show or hide the line."""
        self.display = bool(trouble)
        self.update(Text(f" {plain(trouble)} (trying again) " if trouble else ""))


class KeyLine(Static):
    """Every key that does something here, wrapped between keys, never inside one."""

    auto_links = False

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self.draw)
        self.app.theme_changed_signal.subscribe(self, lambda _theme: self.draw(self.screen))

    def on_resize(self) -> None:
        self.draw(self.screen)

    def draw(self, screen: Screen[Any]) -> None:
        """Write the keys again."""
        if screen is not self.screen or not self.size.width:
            return
        theme = self.app.current_theme
        words: list[Text] = []
        seen: set[str] = set()
        for _node, binding, enabled, _tooltip in screen.active_bindings.values():
            if not binding.show or binding.action in seen or not binding.description:
                continue
            seen.add(binding.action)
            word = Text(no_wrap=True)
            word.append(self.app.get_key_display(binding), style=f"bold {colour(theme, 'primary')}")
            word.append(f"\N{NO-BREAK SPACE}{binding.description}")
            if not enabled:
                word.stylize("dim")
            word.stylize(Style(meta={"@click": f"app.simulate_key('{binding.key}')"}))
            words.append(word)
        self.update(_wrapped(words, self.size.width))


def _wrapped(words: list[Text], width: int) -> Text:
    lines: list[Text] = [Text(" ", no_wrap=True)]
    for word in words:
        if lines[-1].cell_len > 1 and lines[-1].cell_len + cell_len(word.plain) + 2 > width:
            lines.append(Text(" ", no_wrap=True))
        if lines[-1].cell_len > 1:
            lines[-1].append("  ")
        lines[-1].append_text(word)
    return Text("\n").join(lines)
