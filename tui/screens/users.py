"""Users: search as you type, sort, pages that stay quick."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input, Static

from sellapi.admin.views import User
from tui.acts.act import Context
from tui.messages import Chosen
from tui.screens.listed import Listed, Read
from tui.widgets.rows import Column, Rows
from tui.words import Cell, amount, state_tone

__all__ = ["Users"]

SORTS = (("id", False), ("id", True), ("email", False), ("balance", True), ("owed", True))
WORDS = {
    ("id", False): "oldest first",
    ("id", True): "newest first",
    ("email", False): "by e-mail",
    ("balance", True): "richest first",
    ("owed", True): "owing most first",
}


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


COLUMNS = (
    Column("E-mail", lambda u: u.email, 18, flex=3),
    Column("Name", lambda u: Cell(u.name, "dim"), 12, flex=1, wide=110),
    Column("Tier", lambda u: Cell(u.tier, state_tone(u.tier)), 4),
    Column("Status", lambda u: Cell(u.status, state_tone(u.status)), 9),
    Column("Balance", lambda u: amount(u.balance), 14, right=True),
    Column(
        "Held", lambda u: Cell(amount(u.held), "" if u.held else "dim"), 10, right=True, wide=90
    ),
    Column("Owed", lambda u: Cell(amount(u.owed), "bad" if u.owed else "dim"), 9, right=True),
    Column("Keys", lambda u: str(u.active_keys), 4, right=True),
    Column("Since", lambda u: Cell(_day(u.created_at), "dim"), 10, wide=110),
)


class Users(Listed):
    """The people and programs that buy credits. Type / to search, Enter opens one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", key_display="/"),
        Binding("s", "sort", "Sort"),
        Binding("a", "app.act('users.add')", "Add"),
        Binding("i", "app.act('keys.create')", "Issue key"),
        Binding("p", "app.act('packs.sell')", "Sell pack"),
        Binding("plus", "app.act('credits.grant')", "Grant", key_display="+"),
        Binding("minus", "app.act('credits.deduct')", "Deduct", key_display="-"),
        Binding("x", "app.act('users.suspend')", "Suspend"),
        Binding("r", "app.act('users.resume')", "Resume"),
    ]
    rows_id = "users"

    def __init__(self) -> None:
        super().__init__()
        self._sort = 1
        self._count = 0

    def body(self) -> ComposeResult:
        with Horizontal(id="filters"):
            yield Input(placeholder="/ search e-mail or name", id="search", compact=True)
            yield Static(id="count")
        yield Rows(
            COLUMNS,
            key=lambda u: str(u.id),
            id="users",
            empty="No user here. Press a to add one, / and Esc to search again.",
        )

    def on_mount(self) -> None:
        self.rows.focus()

    # -- asking --------------------------------------------------------------------------------

    def reader(self) -> Read:
        search = self.query_one("#search", Input).value.strip()
        sort, descending = SORTS[self._sort]
        return lambda admin, after, limit: (
            admin.users.list(
                search=search, sort=sort, descending=descending, after=after, limit=limit
            ).items
        )

    def place(self, item: User) -> tuple[Any, int]:
        return getattr(item, SORTS[self._sort][0]), item.id

    def load(self) -> None:
        super().load()
        self.ask(lambda admin: admin.users.count(), self._count_all, group="count", latest=True)

    def _count_all(self, count: int) -> None:
        self._count = count
        self.counted()

    def counted(self) -> None:
        words = f"{len(self.rows.items):,}{'+' if self._more else ''} of {self._count:,}"
        self.query_one("#count", Static).update(f"{words} · {WORDS[SORTS[self._sort]]}")

    # -- acts ----------------------------------------------------------------------------------

    def context(self) -> Context:
        user = self.current
        return Context(user="" if user is None else user.email)

    def leave_field(self) -> None:
        self.rows.focus()

    def on_input_changed(self) -> None:
        self.begin()

    def on_input_submitted(self) -> None:
        self.leave_field()

    def action_search(self) -> None:
        """Into the search field."""
        self.query_one("#search").focus()

    def action_sort(self) -> None:
        """The next order."""
        self._sort = (self._sort + 1) % len(SORTS)
        self.begin()

    def action_open(self) -> None:
        """The user under the cursor."""
        user = self.current
        if user is not None:
            self.shop.open_page("user", str(user.id))

    def on_chosen(self, event: Chosen) -> None:
        event.stop()
        self.action_open()
