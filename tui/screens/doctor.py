"""Doctor: what may be wrong with the shop, and how to mend it."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from sellapi.admin.views import Check
from tui.screens.page import Page
from tui.words import colour, plain

__all__ = ["DoctorPage"]


class DoctorPage(Page):
    """Each check with what it found; what is wrong comes first, with its mend."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", key_display="Esc"),
        Binding("r", "again", "Check again"),
        Binding("j,down", "scroll(1)", "Down", show=False),
        Binding("k,up", "scroll(-1)", "Up", show=False),
    ]

    def __init__(self, _what: str = "") -> None:
        super().__init__()

    def body(self) -> ComposeResult:
        with VerticalScroll(id="receipt-scroll"):
            yield Static("Looking …", id="receipt")

    def on_mount(self) -> None:
        self.query_one("#receipt-scroll").focus()

    def load(self) -> None:
        self.ask(lambda admin: admin.doctor(), self._show)

    def _show(self, checks: tuple[Check, ...]) -> None:
        theme = self.app.current_theme
        wrong = sum(not c.ok for c in checks)
        text = Text()
        text.append(
            "Everything is in order.\n" if not wrong else f"{wrong} to mend.\n", style="bold"
        )
        for check in sorted(checks, key=lambda c: c.ok):
            mark, meaning = ("✓", "success") if check.ok else ("✗", "error")
            text.append(f"\n {mark} ", style=f"bold {colour(theme, meaning)}")
            text.append(f"{plain(check.name):<22} ", style="bold")
            text.append(plain(check.detail))
            if check.mend:
                text.append(f"\n   → {plain(check.mend)}", style=colour(theme, "warning"))
        self.query_one("#receipt", Static).update(text)

    def action_again(self) -> None:
        """Look again."""
        self.load()

    def action_scroll(self, lines: int) -> None:
        """Vim keys."""
        self.query_one("#receipt-scroll").scroll_relative(y=lines, animate=False)
