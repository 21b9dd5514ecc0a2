"""Ledger: every movement of credits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input, Select

from sellapi.admin.service import Admin
from sellapi.admin.views import Entry
from tui.acts.act import Context
from tui.messages import Chosen
from tui.screens.browse import Browse
from tui.screens.user import ENTRY_COLUMNS
from tui.widgets.rows import Column, Rows

__all__ = ["Ledger"]

KINDS = (
    "signup", "sale", "sale_refund", "grant", "deduct", "charge", "charge_refund", "owed_payment",
)  # fmt: skip
COLUMNS = (
    *ENTRY_COLUMNS[:2],
    Column("User", lambda e: e.user, 12, flex=2),
    *ENTRY_COLUMNS[2:6],
    replace(ENTRY_COLUMNS[6], wide=100),
    *ENTRY_COLUMNS[7:],
)


class Ledger(Browse):
    """Every movement of credits, newest first. Filter by user, kind and time; Enter opens the
    request or the user an entry belongs to.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("c", "clear", "Clear"),
        Binding("e", "app.act('ledger.entries')", "Export CSV"),
        Binding("v", "app.act('ledger.verify')", "Verify"),
        Binding("u", "user", "User"),
        Binding("B", "app.act('packs.refund')", "Refund pack"),
        Binding("f", "app.act('credits.refund')", "Refund request"),
    ]
    rows_id = "entries"

    def filter_fields(self) -> ComposeResult:
        yield Input(placeholder="/ user: e-mail or id", id="filter-user", compact=True)
        yield Select(
            [(kind, kind) for kind in KINDS], prompt="any kind", id="filter-kind", compact=True
        )
        yield Input(placeholder="since: 24h, 2026-11-01", id="filter-since", compact=True)

    def table(self) -> Rows:
        return Rows(COLUMNS, key=lambda e: str(e.id), id="entries", empty="No such entry.")

    def fetch(
        self, admin: Admin, filters: dict[str, str], before: int | None, limit: int
    ) -> Sequence[Entry]:
        return admin.ledger.entries(**filters, before=before, limit=limit)  # type: ignore[arg-type]

    def _entry(self) -> Any:
        return self.current

    def context(self) -> Context:
        entry = self._entry()
        if entry is None:
            return super().context()
        return Context(
            user=entry.user,
            request=entry.request_id or "",
            entry=entry.id if entry.kind == "sale" else None,
            filters=self.filters,
        )

    def action_user(self) -> None:
        """The user under the cursor."""
        entry = self._entry()
        if entry is not None:
            self.shop.open_page("user", str(entry.user_id))

    def on_chosen(self, event: Chosen) -> None:
        event.stop()
        if self.current is None:
            return
        if isinstance(event.item, Entry) and event.item.request_id:
            self.shop.open_page("request", event.item.request_id)
        else:
            self.action_user()
