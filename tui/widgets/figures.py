"""Figures at a glance: small words above, the number below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.text import Text
from textual.widgets import Static

from tui.words import Tone, fit, plain, tone_style

__all__ = ["Figure", "Figures"]

NARROWEST = 11


class Figure(NamedTuple):
    """A number with its name and the meaning of its colour."""

    name: str
    value: str
    tone: Tone = ""


class Figures(Static):
    """As many figures a line as fit; ``-`` starts a new line."""

    def __init__(self, *, id: str, per_line: int = 0) -> None:  # noqa: A002 (as Textual)
        super().__init__(id=id)
        self._figures: tuple[Figure, ...] = ()
        self._per_line = per_line

    def show(self, figures: Sequence[Figure]) -> None:
        """Show these instead."""
        self._figures = tuple(figures)
        self.draw()

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, lambda _theme: self.draw())

    def on_resize(self) -> None:
        self.draw()

    def draw(self) -> None:
        """Write them again."""
        room = self.size.width - 2
        if room < NARROWEST or not self._figures:
            return
        fits = max(1, room // NARROWEST)
        most = self._per_line or len(self._figures)
        lines = -(-len(self._figures) // min(fits, most))
        per_line = -(-len(self._figures) // lines)
        width = min(room // per_line, 24)
        text = Text(no_wrap=True)
        for start in range(0, len(self._figures), per_line):
            group = self._figures[start : start + per_line]
            text.append("\n" if start else "")
            text.append(" " + "".join(fit(f.name, width - 1) + " " for f in group), style="dim")
            text.append("\n ")
            for figure in group:
                style = tone_style(self.app.current_theme, figure.tone)
                bold = "" if figure.tone == "dim" else "bold "
                text.append(fit(plain(figure.value), width - 1) + " ", style=f"{bold}{style}")
        self.update(text)
