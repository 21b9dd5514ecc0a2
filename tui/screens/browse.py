"""Long lists browsed by filters: pages by id, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Input, Select, Static

from sellapi.admin.service import Admin
from tui.acts.act import Context
from tui.messages import NeedMore
from tui.screens.page import Page
from tui.widgets.rows import Rows

__all__ = ["Browse"]

PAGE = 200


class Browse(Page):
    """Filters above, a table below. Subclasses give both and `fetch`."""

    rows_id: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()
        self._last: int | None = None

    def filter_fields(self) -> ComposeResult:
        """Inputs and selects, each with its filter's name as id ``filter-NAME``."""
        raise NotImplementedError

    def table(self) -> Rows:
        """The table."""
        raise NotImplementedError

    def fetch(
        self, admin: Admin, filters: dict[str, str], before: int | None, limit: int
    ) -> Sequence[Any]:
        """A page of views with ``id``, newest first."""
        raise NotImplementedError

    def body(self) -> ComposeResult:
        with Horizontal(id="filters"):
            yield from self.filter_fields()
            yield Static(id="count")
        yield self.table()

    def on_mount(self) -> None:
        self._rows.focus()

    @property
    def _rows(self) -> Rows:
        return self.query_one(f"#{self.rows_id}", Rows)

    def filters(self) -> dict[str, str]:
        """What is filled in, by filter name."""
        found = {}
        for widget in self.query("#filters Input, #filters Select"):
            name = (widget.id or "").removeprefix("filter-")
            if isinstance(widget, Input) and widget.value.strip():
                found[name] = widget.value.strip()
            elif isinstance(widget, Select) and widget.value is not Select.NULL:
                found[name] = str(widget.value)
        return found

    def context(self) -> Context:
        return Context(filters=self.filters())

    # -- asking --------------------------------------------------------------------------------

    def load(self) -> None:
        filters = self.filters()
        limit = max(PAGE, min(len(self._rows.items), 5 * PAGE))
        self.ask(lambda admin: self.fetch(admin, filters, None, limit), self._show, latest=True)

    def _show(self, items: Sequence[Any]) -> None:
        self._rows.show(items)
        self._last = items[-1].id if len(items) >= PAGE else None
        self._tell()

    def on_need_more(self, event: NeedMore) -> None:
        event.stop()
        before, filters = self._last, self.filters()
        if before is not None:
            self.ask(
                lambda admin: self.fetch(admin, filters, before, PAGE),
                lambda items: self._add(items, before),
                group="more",
            )

    def _add(self, items: Sequence[Any], before: int) -> None:
        if self._last == before:  # otherwise the filters changed meanwhile
            self._last = items[-1].id if len(items) >= PAGE else None
            self._rows.append(items)
            self._tell()

    def _tell(self) -> None:
        more = "+" if self._last is not None else ""
        self.query_one("#count", Static).update(f"{len(self._rows.items):,}{more}")

    # -- keys ----------------------------------------------------------------------------------

    def leave_field(self) -> None:
        self._rows.focus()

    def on_input_submitted(self) -> None:
        self.load()
        self.leave_field()

    def on_select_changed(self) -> None:
        self.load()

    def action_filter(self) -> None:
        """Into the first filter."""
        self.query("#filters Input, #filters Select").first().focus()

    def action_clear(self) -> None:
        """Without any filter."""
        for widget in self.query("#filters Input, #filters Select"):
            if isinstance(widget, Input):
                widget.value = ""
            elif isinstance(widget, Select):
                widget.clear()
        self.load()
