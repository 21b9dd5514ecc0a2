"""``?``: every key of the screen it was asked on, and what holds everywhere."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from tui.words import colour

__all__ = ["Help"]

EVERYWHERE = (
    ("1 … 5", "go to a screen"),
    ("^p", "palette: every act by name"),
    ("Esc", "back: out of a field, a form, a page"),
    ("↑ ↓  j k", "move;  g G first, last;  PgUp PgDn  ^u ^d pages"),
    ("Enter  l", "open what is under the cursor"),
    ("Tab", "next field or table"),
    ("T", "light or dark"),
    ("q", "quit (the server goes on)"),
)


class Help(ModalScreen[None]):
    """Closes by Esc, ``?``, Enter or ``q``."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,enter,q", "dismiss", "Close"),
        Binding("j,down", "scroll(1)", "Down", show=False),
        Binding("k,up", "scroll(-1)", "Up", show=False),
    ]

    def __init__(self, asked_on: Screen[Any]) -> None:
        super().__init__()
        shown = {
            b.binding.action: b.binding
            for b in asked_on.active_bindings.values()
            if b.binding.show and b.binding.description
        }
        self._keys = [(asked_on.app.get_key_display(b), b.description) for b in shown.values()]
        self._about = " ".join((type(asked_on).__doc__ or "").split())

    def compose(self) -> ComposeResult:
        theme = self.app.current_theme
        text = Text()
        for title, rows in (("This screen", self._keys), ("Everywhere", EVERYWHERE)):
            text.append(f"{title}\n", style=f"bold {colour(theme, 'accent')}")
            for key, words in rows:
                text.append(f"  {key:<10}", style=f"bold {colour(theme, 'primary')}")
                text.append(f"  {words}\n")
            text.append("\n")
        with Vertical(id="help") as box:
            box.border_title = "Help"
            box.border_subtitle = "Esc closes"
            yield Static(Text(self._about), id="about")
            with VerticalScroll(id="help-keys"):
                yield Static(text)

    def on_mount(self) -> None:
        self.query_one("#help-keys").focus()

    def action_scroll(self, lines: int) -> None:
        """Vim keys."""
        self.query_one("#help-keys").scroll_relative(y=lines, animate=False)
