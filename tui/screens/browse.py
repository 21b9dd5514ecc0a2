"""Long lists browsed by filters: pages by id, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Input, Select, Static

from sellapi.admin.service import Admin
from tui.acts.act import Context
from tui.screens.listed import Listed, Read
from tui.widgets.rows import Rows

__all__ = ["Browse"]


class Browse(Listed):
    """Filters above, a table below. Subclasses give both and `fetch`."""

    page = 200

    def __init__(self) -> None:
        super().__init__()
        self.filters: dict[str, str] = {}
        """What is listed, by filter name, and so what an export is of."""

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
        self.rows.focus()

    def _filled_in(self) -> dict[str, str]:
        found = {}
        for widget in self.query("#filters Input, #filters Select"):
            name = (widget.id or "").removeprefix("filter-")
            if isinstance(widget, Input) and widget.value.strip():
                found[name] = widget.value.strip()
            elif isinstance(widget, Select) and widget.value is not Select.NULL:
                found[name] = str(widget.value)
        return found

    def context(self) -> Context:
        return Context(filters=self.filters)

    # -- asking --------------------------------------------------------------------------------

    def reader(self) -> Read:
        filters = self.filters
        return lambda admin, before, limit: self.fetch(admin, filters, before, limit)

    def counted(self) -> None:
        more = "+" if self._more else ""
        self.query_one("#count", Static).update(f"{len(self.rows.items):,}{more}")

    def apply(self) -> None:
        """List what the fields say, if they say something else than what is listed."""
        filters = self._filled_in()
        if filters != self.filters:
            self.filters = filters
            self.begin()

    # -- keys ----------------------------------------------------------------------------------

    def leave_field(self) -> None:
        self.apply()
        self.rows.focus()

    def on_input_submitted(self) -> None:
        self.leave_field()

    def on_input_blurred(self) -> None:
        if self.app.app_focus:  # another window of the terminal does not end the typing
            self.apply()

    def on_select_changed(self) -> None:
        self.apply()

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
        self.apply()
