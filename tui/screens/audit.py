"""Audit: who did what, when, from CLI or TUI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, Static

from sellapi.admin.recorded import CREDITS
from sellapi.admin.service import Admin
from sellapi.admin.views import AuditRow
from tui.messages import Chosen, Moved
from tui.screens.browse import Browse
from tui.widgets.rows import Column, Rows
from tui.words import Cell, colour, day_time, plain, short_json

__all__ = ["Audit"]

COLUMNS = (
    Column("Time (UTC)", lambda a: Cell(day_time(a.at)[5:], "dim"), 14),
    Column("Who", lambda a: a.actor, 8, flex=1),
    Column("Via", lambda a: Cell(a.via, "dim"), 3),
    Column("Act", lambda a: Cell(a.act, "accent"), 16),
    Column("On", lambda a: a.target, 18, flex=3),
    Column("Became", lambda a: Cell(short_json(a.after), "dim"), 30, flex=3, wide=110),
)


class Audit(Browse):
    """Who did what, when, by which door; below the table what an act changed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("c", "clear", "Clear"),
        Binding("e", "app.act('audit.list')", "Export CSV"),
        Binding("u", "user", "User"),
    ]
    rows_id = "acts"

    def filter_fields(self) -> ComposeResult:
        yield Input(placeholder="/ act: keys, packs.sell", id="filter-act", compact=True)
        yield Input(placeholder="on: e-mail, model:…", id="filter-target", compact=True)
        yield Input(placeholder="who", id="filter-actor", compact=True)
        yield Input(placeholder="since: 7d", id="filter-since", compact=True)

    def table(self) -> Rows:
        return Rows(COLUMNS, key=lambda a: str(a.id), id="acts", empty="No such act.")

    def body(self) -> ComposeResult:
        yield from super().body()
        with Vertical(classes="panel", id="change") as panel:
            panel.border_title = "What changed"
            yield Static(id="change-words")

    def fetch(
        self, admin: Admin, filters: dict[str, str], before: int | None, limit: int
    ) -> Sequence[AuditRow]:
        return admin.audit.list(**filters, before=before, limit=limit)

    def on_moved(self, event: Moved) -> None:
        event.stop()
        row = event.item
        words = _change(row, self.app.current_theme) if isinstance(row, AuditRow) else ""
        self.query_one("#change-words", Static).update(words)

    def _user_id(self, item: Any) -> str | None:
        if isinstance(item, AuditRow) and item.target.startswith("user:"):
            return item.target.removeprefix("user:").partition(" ")[0]
        return None

    def action_user(self) -> None:
        """The user an act was done on."""
        user = self._user_id(self.current)
        if user is not None:
            self.shop.open_page("user", user)

    def on_chosen(self, event: Chosen) -> None:
        event.stop()
        item = event.item
        if isinstance(item, AuditRow) and item.target.startswith("model:"):
            self.shop.open_page("model", item.target.removeprefix("model:"))
        else:
            self.action_user()


def _fields(value: Any) -> dict[str, str]:
    """Names and values as a person reads them."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        return {"": short_json(value)}
    found = {}
    for name, item in value.items():
        if name in CREDITS and isinstance(item, str):
            found[name] = f"{item} credits"
        elif name == "price_usd":
            found[name] = f"${item}"
        elif name == "prices" and isinstance(item, dict):
            found |= {f"price {n}": _price(v) for n, v in item.items()}
        else:
            found[name] = short_json(item) if item is not None else "none"
    return found


def _price(value: Any) -> str:
    return f"${value}" if isinstance(value, str) else short_json(value)


def _change(row: AuditRow, theme: Any) -> Text:
    """Field by field: how it was, how it became."""
    before, after = _fields(row.before), _fields(row.after)
    text = Text()
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name, ""), after.get(name, "")
        text.append("\n" if text.plain else "")
        text.append(f"{plain(name):<18} ", style="dim")
        if old not in ("", new):
            text.append(plain(old), style=f"strike {colour(theme, 'error')}")
            text.append(" → ", style="dim")
        text.append(plain(new), style="bold")
    return text or Text("nothing recorded", style="dim")
