"""One user: what it has, its keys, its ledger, its use."""

from __future__ import annotations

import time
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from sellapi.admin.service import Admin
from sellapi.admin.views import Entry, Key, UsageRow, UserDetail
from tui.acts.act import Context
from tui.messages import Chosen
from tui.screens.listed import Listed, Read
from tui.widgets.figures import Figure, Figures
from tui.widgets.plot import Plot
from tui.widgets.rows import Column, Rows
from tui.words import (
    NONE,
    Cell,
    ago,
    amount,
    colour,
    compact,
    day_time,
    plain,
    state_tone,
    tone_style,
    usd,
)

__all__ = ["ENTRY_COLUMNS", "UserPage", "entry_note"]

DAYS = 30


def _limit(key: Key) -> Cell:
    if key.limit is None:
        return Cell(NONE, "dim")
    return Cell(amount(key.limit), "warn" if key.spent + key.held >= key.limit else "")


def _expires(key: Key) -> Cell:
    if key.expires_at is None:
        return Cell("never", "dim")
    return Cell(day_time(key.expires_at * 1000)[:10], "warn" if key.status == "expired" else "")


KEY_COLUMNS = (
    Column("Id", lambda k: str(k.id), 5, right=True),
    Column("Name", lambda k: k.name or Cell(NONE, "dim"), 8, flex=1),
    Column("Key", lambda k: Cell(f"{k.prefix}…{k.last4}", "dim"), 20, wide=64),
    Column("Status", lambda k: Cell(k.status, state_tone(k.status)), 7),
    Column("Spent", lambda k: amount(k.spent), 12, right=True),
    Column("Limit", _limit, 10, right=True, wide=90),
    Column("Expires", _expires, 10),
)


def entry_note(entry: Entry) -> str:
    """What an entry is about: its pack, reason, request or reference."""
    about = [entry.reason or "", f"ref {entry.reference}" if entry.reference else ""]
    if entry.cash_usd:
        about.insert(0, usd(entry.cash_usd))
    if not any(about) and entry.request_id:
        about = [entry.request_id]
    return " · ".join(a for a in about if a)


def _signed(entry: Entry) -> Cell:
    words = amount(entry.amount)
    return Cell(words if entry.amount < 0 else f"+{words}", "good" if entry.amount > 0 else "")


ENTRY_COLUMNS = (
    Column("Entry", lambda e: Cell(str(e.id), "dim"), 7, right=True, wide=100),
    Column("Time (UTC)", lambda e: Cell(day_time(e.at)[5:], "dim"), 14),
    Column("Kind", lambda e: e.kind, 13),
    Column("Credits", _signed, 14, right=True),
    Column("Balance", lambda e: amount(e.balance_after), 14, right=True),
    Column("Owed", lambda e: Cell(amount(e.owed_after), "bad" if e.owed_after else "dim"), 9,
           right=True, wide=130),
    Column("About", lambda e: Cell(entry_note(e), "dim"), 6, flex=2),
    Column("By", lambda e: Cell(e.actor, "dim"), 10, wide=140),
)  # fmt: skip


class UserPage(Listed):
    """One user: balance, keys, ledger and use. Acts on keys go by the key under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", key_display="Esc"),
        Binding("i", "app.act('keys.create')", "Issue key"),
        Binding("p", "app.act('packs.sell')", "Sell pack"),
        Binding("plus", "app.act('credits.grant')", "Grant", key_display="+"),
        Binding("minus", "app.act('credits.deduct')", "Deduct", key_display="-"),
        Binding("K", "app.act('keys.set')", "Change key"),
        Binding("o", "app.act('keys.rotate')", "Rotate key"),
        Binding("v", "app.act('keys.revoke')", "Revoke key"),
        Binding("e", "app.act('users.set')", "Edit"),
        Binding("x", "app.act('users.suspend')", "Suspend"),
        Binding("r", "app.act('users.resume')", "Resume"),
        Binding("D", "app.act('users.delete')", "Delete"),
        Binding("B", "app.act('packs.refund')", "Refund pack"),
        Binding("u", "use", "Keys/use"),
    ]
    rows_id = "user-entries"

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = who
        self._email = ""

    def body(self) -> ComposeResult:
        yield Static(id="who")
        yield Figures(id="standing")
        with Horizontal(id="user-middle"):
            with Vertical(classes="panel", id="user-keys") as panel:
                panel.border_title = "Keys"
                yield Rows(
                    KEY_COLUMNS, key=lambda k: str(k.id), id="user-key-rows",
                    empty="No key yet: i issues one.",
                )  # fmt: skip
            with Vertical(classes="panel", id="user-use") as panel:
                panel.border_title = f"Credits a day, {DAYS} days"
                yield Plot(id="user-plot")
        with Vertical(classes="panel", id="user-ledger") as panel:
            panel.border_title = "Ledger"
            yield Rows(
                ENTRY_COLUMNS, key=lambda e: str(e.id), id="user-entries", follow="unfocused",
                empty="No entry yet.",
            )  # fmt: skip

    def on_mount(self) -> None:
        self.query_one("#user-key-rows").focus()

    # -- asking --------------------------------------------------------------------------------

    def reader(self) -> Read:
        who = self._who
        return lambda admin, before, limit: admin.ledger.entries(
            user=who, before=before, limit=limit
        )

    def load(self) -> None:
        who = self._who

        def call(admin: Admin) -> tuple[UserDetail, tuple[UsageRow, ...]]:
            return admin.users.detail(who), admin.usage.of_user(who, days=DAYS)

        self.ask(call, self._show)
        super().load()

    def _show(self, found: tuple[UserDetail, tuple[UsageRow, ...]]) -> None:
        detail, days = found
        user = detail.user
        self._email = user.email
        theme = self.app.current_theme
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(f" {plain(user.email)}", style="bold")
        head.append(f"  {plain(user.name)}" if user.name else "", style="dim")
        head.append(f"  {user.tier}", style=f"bold {colour(theme, 'accent')}")
        head.append(f"  {user.status}", style=tone_style(theme, state_tone(user.status)))
        head.append(f"  user {user.id} since {day_time(user.created_at * 1000)[:10]}", style="dim")
        self.query_one("#who", Static).update(head)
        seen = detail.last_request_at
        self.query_one(Figures).show(
            (
                Figure("Balance", amount(user.balance), "strong"),
                Figure("Available", amount(user.available)),
                Figure("Held", amount(user.held), "accent" if user.held else "dim"),
                Figure("Owed", amount(user.owed), "bad" if user.owed else "dim"),
                Figure("Paid", usd(detail.cash), "good" if detail.cash else "dim"),
                Figure("Packs", str(detail.packs_bought)),
                Figure("Charged 30d", amount(detail.charged_30d)),
                Figure("Requests 30d", compact(detail.requests_30d)),
                Figure(
                    "Last asked",
                    "never" if seen is None else f"{ago(time.time() - seen / 1000)} ago",
                    "dim" if seen is None else "",
                ),
            )
        )
        self.query_one("#user-key-rows", Rows).show(detail.keys)
        self._plot(days)

    def _plot(self, days: tuple[UsageRow, ...]) -> None:
        today = int(time.time()) // 86_400
        by_day = {row.group: row.charged for row in days}
        labels = [day_time((today - n) * 86_400_000)[:10] for n in range(DAYS - 1, -1, -1)]
        values = [by_day.get(label, 0) / 1e6 for label in labels]
        self.query_one(Plot).bars([label[5:] for label in labels], values)

    def action_use(self) -> None:
        """Keys or the plot of use, where there is no room for both."""
        self.toggle_class("-use")
        if self.has_class("-use") and self.has_class("-narrow"):
            self.query_one("#user-entries").focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Where both have room there is nothing to switch."""
        return super().check_action(action, parameters) and (
            action != "use" or self.has_class("-narrow")
        )

    def on_resize(self) -> None:
        self.refresh_bindings()

    # -- acts ----------------------------------------------------------------------------------

    def context(self) -> Context:
        key = self.query_one("#user-key-rows", Rows).current
        entry = self.current
        sale = None if entry is None or entry.kind != "sale" else entry.id
        return Context(
            user=self._email or self._who, key=None if key is None else key.id, entry=sale
        )

    def on_chosen(self, event: Chosen) -> None:
        event.stop()
        if isinstance(event.item, Entry) and event.item.request_id:
            self.shop.open_page("request", event.item.request_id)
        elif isinstance(event.item, Key):
            self.shop.action_act("keys.set")
