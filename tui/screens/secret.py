"""A new key's secret: on the screen this once, never again."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from sellapi.admin.views import NewKey
from tui.words import plain

__all__ = ["SecretOnce"]


class SecretOnce(ModalScreen[None]):
    """Shows a `NewKey`; leaving without having copied asks once more."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "copy", "Copy"),
        Binding("escape", "leave", "Close"),
        Binding("q", "leave", "Close", show=False),
        Binding("right", "app.focus_next", "Next", show=False),
        Binding("left", "app.focus_previous", "Previous", show=False),
    ]

    def __init__(self, title: str, key: NewKey) -> None:
        super().__init__()
        self._words = title
        self._secret = key.key
        self._whose = key.user
        self._number = key.id
        self._safe = False

    def compose(self) -> ComposeResult:
        with Vertical(id="secret") as box:
            box.border_title = Text(plain(self._words))
            yield Static(Text(f"Key {self._number} of {plain(self._whose)}"), id="intro")
            yield Static(Text(self._secret, no_wrap=True), id="key")
            yield Static(
                Text(
                    "Shown this once. Only its hash is stored: a lost key is replaced, not found."
                ),
                id="warning",
            )
            with Horizontal(id="buttons"):
                yield Button(Text("Copy"), variant="primary", id="copy", compact=True)
                yield Button(Text("Close"), id="leave", compact=True)
            yield Static(Text("c copy · Esc close · or select it with the mouse"), id="hint")

    def on_mount(self) -> None:
        self.query_one("#copy").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        if event.button.id == "copy":
            self.action_copy()
        else:
            self.action_leave()

    def action_copy(self) -> None:
        """Hand it to the terminal's clipboard (OSC 52)."""
        self.app.copy_to_clipboard(self._secret)
        self._safe = True
        self.query_one("#hint", Static).update(
            Text("Copied, if your terminal allows it: paste it once before you close.")
        )

    def action_leave(self) -> None:
        """Close; asks once more when it was not copied."""
        if self._safe:
            self._secret = ""
            self.dismiss(None)
            return
        self._safe = True
        self.query_one("#hint", Static).update(
            Text("Not copied here. Close again once you have it: it is not shown again.")
        )
