"""Plots over time, in the colours of the theme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.style import Style
from rich.text import Span, Text
from textual.app import RenderResult
from textual.color import Color
from textual_plotext import PlotextPlot

__all__ = ["Plot", "Series"]

Series = tuple[str, Sequence[float], str]
"""``(name, values, tone)``; the tone is a colour of the theme: primary, success, error, …"""


class Plot(PlotextPlot):
    """Lines or bars; drawn again when theme or size change."""

    def __init__(self, *, id: str) -> None:  # noqa: A002 (as Textual calls it)
        super().__init__(id=id)
        self._last: Any = None

    def on_mount(self) -> None:
        self._begin()
        self.app.theme_changed_signal.subscribe(self, lambda _theme: self._again())

    def render(self) -> RenderResult:
        """The plot on the screen's own background."""
        drawn = super().render()
        if isinstance(drawn, Text):
            drawn.spans = [
                Span(
                    s.start, s.end, Style(color=s.style.color) if isinstance(s.style, Style) else ""
                )
                for s in drawn.spans
            ]
        return drawn

    def on_resize(self) -> None:
        self._again()

    def _again(self) -> None:
        if self._last is not None:
            self._last()

    def _colour(self, tone: str) -> tuple[int, int, int]:
        theme = self.app.current_theme
        return Color.parse(getattr(theme, tone, None) or theme.primary).rgb

    def _begin(self) -> Any:
        plt: Any = self.plt
        plt.clear_figure()
        plt.frame(False)
        plt.grid(False, False)
        return plt

    def lines(
        self, labels: Sequence[str], series: Sequence[Series], events: Sequence[Series] = ()
    ) -> None:
        """A line a series; ``events`` stand as bars where there are any. ``labels`` go below."""
        self._last = lambda: self.lines(labels, series, events)
        plt = self._begin()
        xs = list(range(len(labels)))
        for _name, values, tone in series:
            plt.plot(xs, list(values), marker="braille", color=self._colour(tone))
        for _name, values, tone in events:
            some = [(x, v) for x, v in zip(xs, values, strict=True) if v]
            if some:
                at, heights = zip(*some, strict=True)
                colour = self._colour(tone)
                plt.bar(list(at), list(heights), color=colour, width=0.3, marker="braille")
        top = max((max(v, default=0) for _, v, _ in (*series, *events)), default=0)
        plt.xlim(0, max(1, len(labels) - 1))
        plt.ylim(0, top or 1)
        self._ticks(plt, labels, top)
        self.refresh()

    def bars(self, labels: Sequence[str], values: Sequence[float], tone: str = "primary") -> None:
        """A bar each."""
        self._last = lambda: self.bars(labels, values, tone)
        plt = self._begin()
        xs = list(range(len(labels)))
        plt.bar(xs, list(values), color=self._colour(tone), width=0.6, marker="hd")
        top = max(values, default=0)
        plt.ylim(0, top or 1)
        self._ticks(plt, labels, top)
        self.refresh()

    def _ticks(self, plt: Any, labels: Sequence[str], top: float) -> None:
        count = max(2, min(7, self.size.width // 14))
        if len(labels) > 1:
            steps = [round(i * (len(labels) - 1) / (count - 1)) for i in range(count)]
            plt.xticks(steps, [labels[s] for s in steps])
        ticks = [0.0, (top or 1) / 2, top or 1]
        plt.yticks(ticks, [_short(t) for t in ticks])


def _short(value: float) -> str:
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"
