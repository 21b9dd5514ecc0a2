"""A table of views: columns that always fit, numbers to the right, vim keys, foreign text harmless."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, ClassVar, Literal

from rich.segment import Segment
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.strip import Strip
from textual.theme import Theme
from textual.widgets import DataTable

from tui.messages import Chosen, Moved, NeedMore
from tui.words import Cell, fit, plain, tone_style

__all__ = ["Column", "Rows"]

GAP = 2
SCROLLBAR = 1
NEAR_END = 12


@dataclass(frozen=True)
class Column:
    """``width`` cells, or at least that and a share of what is left when ``flex``.

    ``wide``: shown only when the table has that many columns of the screen.
    """

    title: str
    cell: Callable[[Any], Cell | str]
    width: int
    flex: int = 0
    right: bool = False
    wide: int = 0
    end: bool = False
    """Cut at its beginning: the end says more (a model's slug)."""


class Rows(DataTable[Text]):
    """A table that shows a sequence of views; every item has a key that stays its own."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("g", "scroll_top", "First", show=False),
        Binding("G", "scroll_bottom", "Last", show=False),
        Binding("ctrl+d", "page_down", "Page down", show=False),
        Binding("ctrl+u", "page_up", "Page up", show=False),
        Binding("left", "screen.tab(-1)", "Tab before", show=False),
        Binding("right", "screen.tab(1)", "Next tab", show=False),
        Binding("enter,l", "select_cursor", "Open", key_display="↵"),
    ]

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        key: Callable[[Any], str],
        id: str,  # noqa: A002 (as Textual calls it)
        empty: str = "Nothing here yet.",
        follow: Literal["no", "always", "unfocused"] = "no",
        classes: str = "",
    ) -> None:
        super().__init__(
            cursor_type="row", cell_padding=0, zebra_stripes=False, id=id, classes=classes
        )
        self._spec = tuple(columns)
        self.key_of = key
        self._empty = empty
        self._refusal = ""
        self._follow = follow
        self._items: list[Any] = []
        self._shown: list[tuple[Cell, ...]] = []
        self._layout_now: list[tuple[Column, int]] = []
        self._told = False

    # -- what it shows -------------------------------------------------------------------------

    @property
    def items(self) -> list[Any]:
        """What is shown, in order."""
        return self._items

    @property
    def current(self) -> Any | None:
        """The item under the cursor."""
        if 0 <= self.cursor_row < len(self._items):
            return self._items[self.cursor_row]
        return None

    @property
    def in_sight(self) -> tuple[int, int]:
        """``(index of the first row that is seen, rows that fit)``."""
        first = min(int(self.scroll_offset.y), max(0, len(self._items) - 1))
        return first, max(1, self.size.height - self.header_height)

    @property
    def at_news(self) -> bool:
        """Whether the cursor stays on the first row, whichever that is."""
        follows = self._follow == "always" or (self._follow == "unfocused" and not self.has_focus)
        return follows and self.cursor_row <= 0

    def show(self, items: Sequence[Any], *, anew: bool = False, refusal: str = "") -> None:
        """Show these; cursor and scroll stay with their row, or with the next one that still is.

        With ``follow`` a cursor on the first row stays on the first row: news come there. ``anew``:
        another list, from its top. ``refusal``: why there is none, said in its place.
        """
        if not self._told or refusal != self._refusal:
            self._told, self._refusal = True, refusal
            self.refresh()  # until it was told, an empty table has nothing to say
        items = list(items)
        known = {id(item): cells for item, cells in zip(self._items, self._shown, strict=True)}
        cells = [known.get(id(item)) or self._cells(item) for item in items]
        old, many = self._items, len(self._items)
        grew = list(map(self.key_of, items[:many])) == list(map(self.key_of, old))
        if grew and not anew and bool(old) == bool(items):
            self._items = items[:many]
            self._change(cells[:many])
            self.append(items[many:])
        else:
            self._items = items
            self._rebuild(cells, () if anew else old)

    def append(self, items: Sequence[Any]) -> None:
        """Add a page at the end.

        A row that stands here already stays where it is: in an order by what moves (a balance) the
        next page may bring a row of an earlier one again.
        """
        there = {self.key_of(item) for item in self._items}
        for item in items:
            if self.key_of(item) not in there:
                cells = self._cells(item)
                self._items.append(item)
                self._shown.append(cells)
                self._add(item, cells)

    def _cells(self, item: Any) -> tuple[Cell, ...]:
        made = []
        for column in self._spec:
            value = column.cell(item)
            cell = value if isinstance(value, Cell) else Cell(value)
            made.append(Cell(plain(cell.text), cell.tone))
        return tuple(made)

    def _change(self, cells: list[tuple[Cell, ...]]) -> None:
        keys = [self._spec.index(column) for column, _ in self._layout_now]
        for index, (new, old) in enumerate(zip(cells, self._shown, strict=True)):
            if new != old:
                row_key = self.key_of(self._items[index])
                for at in keys:
                    if new[at] != old[at]:
                        self.update_cell(row_key, str(at), self._text(self._spec[at], new[at]))
        self._shown = cells

    def _rebuild(self, cells: list[tuple[Cell, ...]], old: Sequence[Any]) -> None:
        cursor, offset, fits = self.cursor_row, int(self.scroll_offset.y), self.in_sight[1]
        row = line = 0
        if old:
            row = 0 if self.at_news else self._now(old, cursor)
            # A row keeps its line of the screen: what came or went above it moves nothing that is
            # looked at. Only where the top is in sight do news push the others down.
            held = cursor if offset <= cursor < offset + fits else offset
            line = max(0, offset + self._now(old, held) - held)
            if offset == 0 and row < fits:
                line = 0
        self._shown = cells
        self.clear()
        for item, texts in zip(self._items, cells, strict=True):
            self._add(item, texts)
        if not self._items:
            self.post_message(Moved(self.id or "", None))
            return
        self.move_cursor(row=row, animate=False, scroll=False)
        self.scroll_to(y=line, animate=False, immediate=True)
        # Again when the table knows how long it is, and has scrolled to the cursor by itself.
        self.call_after_refresh(self.scroll_to, y=line, animate=False)

    def _now(self, old: Sequence[Any], index: int) -> int:
        """Where a row of before is now; if it is gone, where the nearest is that still is."""
        now = {self.key_of(item): at for at, item in enumerate(self._items)}
        nearest = sorted(range(len(old)), key=lambda at: (abs(at - index), -at))
        return next((now[key] for at in nearest if (key := self.key_of(old[at])) in now), 0)

    def _add(self, item: Any, cells: tuple[Cell, ...]) -> None:
        if self._layout_now:
            texts = [self._text(c, cells[self._spec.index(c)], w) for c, w in self._layout_now]
            self.add_row(*texts, key=self.key_of(item))

    def _text(self, column: Column, cell: Cell, width: int | None = None) -> Text:
        if width is None:
            width = dict(self._layout_now)[column]
        words = fit(cell.text, width, right=column.right, end=column.end) + " " * GAP
        text = Text(words, no_wrap=True, end="")
        style = tone_style(self.app.current_theme, cell.tone)
        if style:
            text.stylize(style)
        return text

    # -- fitting -------------------------------------------------------------------------------

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, self._repaint)

    def _repaint(self, _theme: Theme) -> None:
        self._layout_now = []
        self._relay()

    def on_resize(self, _event: events.Resize) -> None:
        self._relay()

    def _relay(self) -> None:
        layout = self._fitted(self.size.width)
        if layout == self._layout_now or self.size.width == 0:
            return
        cursor, offset = self.cursor_row, self.scroll_offset.y
        self._layout_now = layout
        self.clear(columns=True)
        for column, width in layout:
            title = Text(fit(column.title, width, right=column.right) + " " * GAP, no_wrap=True)
            self.add_column(title, width=width + GAP, key=str(self._spec.index(column)))
        for item, cells in zip(self._items, self._shown, strict=True):
            self._add(item, cells)
        if self._items:
            self.move_cursor(row=min(cursor, len(self._items) - 1), animate=False, scroll=False)
            self.scroll_to(y=offset, animate=False)

    def _fitted(self, total: int) -> list[tuple[Column, int]]:
        room = total - SCROLLBAR
        chosen = [c for c in self._spec if c.wide <= total]
        while sum(c.width + GAP for c in chosen) > room and any(c.wide for c in chosen):
            chosen.remove(max(chosen, key=lambda c: c.wide))
        fixed = sum(c.width + GAP for c in chosen)
        spare = max(0, room - fixed)
        shares = sum(c.flex for c in chosen)
        layout = []
        for column in chosen:
            extra = spare * column.flex // shares if shares else 0
            layout.append((column, column.width + extra))
        return layout

    def render_line(self, y: int) -> Any:
        """The empty table says what to do instead of showing nothing."""
        strip = super().render_line(y)
        if self._told and not self._items and y >= 1:
            width = max(8, self.size.width)
            lines = wrap(plain(self._refusal or self._empty), width - 4)
            if y <= len(lines):
                return Strip([Segment(fit("  " + lines[y - 1], width), self.rich_style)], width)
        return strip

    # -- acts ----------------------------------------------------------------------------------

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        if self.current is not None:
            self.post_message(Chosen(self.id or "", self.current))

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        if self.current is None:
            return
        self.post_message(Moved(self.id or "", self.current))
        if self.cursor_row >= len(self._items) - NEAR_END:
            self.post_message(NeedMore(self.id or ""))
