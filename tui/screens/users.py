"""Users: search as you type, sort, pages that stay quick."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input, Static

from sellapi.admin.service import Admin
from sellapi.admin.views import Page as Listing
from sellapi.admin.views import User
from tui.acts.act import Context
from tui.messages import Chosen, NeedMore
from tui.screens.page import Page
from tui.widgets.rows import Column, Rows
from tui.words import Cell, amount, state_tone

__all__ = ["Users"]

PAGE = 100
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


@dataclass(frozen=True)
class _Asked:
    search: str
    sort: tuple[str, bool]


class Users(Page):
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

    def __init__(self) -> None:
        super().__init__()
        self._sort = 1
        self._next: tuple[Any, int] | None = None
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
        self.query_one("#users").focus()

    @property
    def _asked(self) -> _Asked:
        return _Asked(self.query_one("#search", Input).value.strip(), SORTS[self._sort])

    # -- asking --------------------------------------------------------------------------------

    def load(self) -> None:
        asked = self._asked
        loaded = max(PAGE, min(len(self.query_one("#users", Rows).items), 5 * PAGE))
        self.ask(lambda admin: (*_page(admin, asked, None, loaded), admin.users.count()),
                 self._show, latest=True)  # fmt: skip

    def _show(self, found: tuple[Listing[User], int]) -> None:
        page, self._count = found
        self._next = page.next
        self.query_one("#users", Rows).show(page.items)
        self._tell()

    def on_need_more(self, event: NeedMore) -> None:
        event.stop()
        if self._next is not None:
            asked, after = self._asked, self._next
            self.ask(
                lambda admin: _page(admin, asked, after, PAGE)[0],
                lambda page: self._add(page, after),
                group="more",
            )

    def _add(self, page: Listing[User], after: tuple[Any, int]) -> None:
        if self._next == after:  # otherwise the list was asked for anew meanwhile
            self._next = page.next
            self.query_one("#users", Rows).append(page.items)
            self._tell()

    def _tell(self) -> None:
        shown = len(self.query_one("#users", Rows).items)
        more = "+" if self._next else ""
        words = WORDS[SORTS[self._sort]]
        self.query_one("#count", Static).update(f"{shown:,}{more} of {self._count:,} · {words}")

    # -- acts ----------------------------------------------------------------------------------

    def context(self) -> Context:
        user = self.query_one("#users", Rows).current
        return Context(user="" if user is None else user.email)

    def leave_field(self) -> None:
        self.query_one("#users").focus()

    def on_input_changed(self) -> None:
        rows = self.query_one("#users", Rows)
        if rows.items:
            rows.move_cursor(row=0, animate=False)
        self.load()

    def on_input_submitted(self) -> None:
        self.leave_field()

    def action_search(self) -> None:
        """Into the search field."""
        self.query_one("#search").focus()

    def action_sort(self) -> None:
        """The next order."""
        self._sort = (self._sort + 1) % len(SORTS)
        self.load()

    def action_open(self) -> None:
        """The user under the cursor."""
        user = self.query_one("#users", Rows).current
        if user is not None:
            self.shop.open_page("user", str(user.id))

    def on_chosen(self, event: Chosen) -> None:
        event.stop()
        self.action_open()


def _page(
    admin: Admin, asked: _Asked, after: tuple[Any, int] | None, limit: int
) -> tuple[Listing[User]]:
    sort, descending = asked.sort
    page = admin.users.list(
        search=asked.search, sort=sort, descending=descending, after=after, limit=limit
    )
    return (page,)
