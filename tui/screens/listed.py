"""A screen on a long list: pages as they are scrolled to, the place kept, news without asking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from textual.binding import Binding, BindingType

from sellapi.admin.service import Admin
from sellapi.errors import Refused, UsageError
from tui.messages import NeedMore
from tui.screens.page import Page
from tui.widgets.rows import Rows

__all__ = ["Listed", "Read"]

Read = Callable[[Admin, Any, int], Sequence[Any]]
"""``(admin, place of the row above, how many)``: the rows below that place, or from the top."""
FURTHER = 5_000
"""Rows looked through for one that moved down the list. Then it counts as gone: a screen that
reads on for seconds is of less use than one that shows the rows beside it."""

_REFUSED = (Refused, UsageError)


@dataclass(frozen=True)
class _Found:
    """Rows from the top, whether others follow; or why the shop refuses to list any."""

    items: Sequence[Any] = ()
    more: bool = False
    refusal: Refused | UsageError | None = None


class Listed(Page):
    """A table of a list too long to be read at once. Subclasses give it and `reader`.

    Coming back, an act and the poll read again only what is in sight, and put it among what is
    loaded. Where that does not fit together, the list is read from its top until the row under the
    cursor is found: an act must not be offered on another row than the one looked at.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "refresh_now", "Refresh", key_display="^r"),
    ]
    poll_s = 5.0
    rows_id: ClassVar[str] = ""
    page: ClassVar[int] = 100

    def __init__(self) -> None:
        super().__init__()
        self._more = False
        self._anew = True
        self._list = 0
        """Which list is asked for: another search, order or filter is another list."""

    def reader(self) -> Read:
        """How rows are read, as search, order and filters stand now."""
        raise NotImplementedError

    def place(self, item: Any) -> Any:
        """Where a row stands in the list, as `reader` takes it."""
        return item.id

    def counted(self) -> None:
        """Called when rows came or went."""

    @property
    def rows(self) -> Rows:
        """The table."""
        return self.query_one(f"#{self.rows_id}", Rows)

    @property
    def current(self) -> Any | None:
        """What acts are offered on: the row under the cursor; none while another list is asked for."""
        return None if self._anew else self.rows.current

    # -- asking --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Another list than the one that is shown: it begins at its top."""
        self._anew = True
        self._list += 1
        self.load()

    def load(self) -> None:
        rows = self.rows
        if self._anew or not rows.items:
            self._from_top()
            return
        first, count = rows.in_sight
        at_end = first + count >= len(rows.items)
        if at_end:  # what came below is not in sight, and nothing else would tell of it
            count += self.page
        read, above = self.reader(), self.place(rows.items[first - 1]) if first else None

        def call(admin: Admin) -> Sequence[Any] | None:
            try:
                return read(admin, above, count)
            except _REFUSED:  # now, while it was not before: all there is to show is why
                return None

        def put(found: Sequence[Any] | None) -> None:
            if found is None:
                self._from_top()
            else:
                self._put(found, first, whole=at_end or len(found) < count,
                          more=len(found) == count)  # fmt: skip

        self.ask(call, put, group="list", latest=True)

    def _put(self, found: Sequence[Any], first: int, *, whole: bool, more: bool) -> None:
        """What is in sight, below what is loaded above it and, but for ``whole``, above the rest."""
        rows, key_of = self.rows, self.rows.key_of
        above, below = rows.items[:first], rows.items[first:]
        if whole:
            below = []
            self._more = more
        else:
            keys = [key_of(item) for item in below]
            if key_of(found[-1]) not in keys:  # too many came at once: what is between?
                self._from_top()
                return
            below = below[keys.index(key_of(found[-1])) + 1 :]
        fresh = {key_of(item) for item in found}
        items = [item for item in above if key_of(item) not in fresh]
        items += [*found, *(item for item in below if key_of(item) not in fresh)]
        if key_of(rows.current) not in map(key_of, items):
            self._from_top()
            return
        if len(items) != len(rows.items):
            # A table is built anew for each row that comes: what is far below is read again when needed.
            end = max(first + len(found), rows.cursor_row + 1) + self.page
            self._more = self._more or len(items) > end
            items = items[:end]
        rows.show(items)
        self.counted()

    def _from_top(self) -> None:
        read, place, key_of = self.reader(), self.place, self.rows.key_of
        count, held = self.page, None
        if self.rows.current is not None and not self._anew and not self.rows.at_news:
            first, fits = self.rows.in_sight
            count = max(count, first + fits, self.rows.cursor_row + 1)
            held = key_of(self.rows.current)

        def call(admin: Admin) -> _Found:
            try:
                items = found = list(read(admin, None, count))
                limit = count
                while held is not None and held not in map(key_of, found) and len(found) == limit:
                    if len(items) >= count + FURTHER:
                        return _Found(items[:count], more=True)
                    limit = self.page
                    found = list(read(admin, place(items[-1]), limit))
                    items = items + found
            except _REFUSED as refusal:
                return _Found(refusal=refusal)
            return _Found(items, len(found) == limit)

        self.ask(call, self._begun, group="list", latest=True)

    def _begun(self, found: _Found) -> None:
        anew, self._anew = self._anew, False
        if found.refusal is not None and anew:  # told once, not at every look
            self.shop.tell_error(found.refusal)
        self._more = found.more
        self.rows.show(found.items, anew=anew, refusal=str(found.refusal or ""))
        self.counted()

    def on_need_more(self, event: NeedMore) -> None:
        event.stop()
        if event.table != self.rows_id or not self._more or self._anew:
            return
        read, after, asked = self.reader(), self.place(self.rows.items[-1]), self._list
        last = self.rows.key_of(self.rows.items[-1])

        def add(found: Sequence[Any]) -> None:
            items = self.rows.items
            if asked == self._list and items and self.rows.key_of(items[-1]) == last:
                self._more = len(found) == self.page
                self.rows.append(found)
                self.counted()

        self.ask(lambda admin: read(admin, after, self.page), add, group="more")

    def action_refresh_now(self) -> None:
        """Not at the next look: now."""
        self.look_again()
