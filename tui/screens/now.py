"""Now: what goes through the shop this minute, what it earns, and who is at the counter."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Input, Static

from sellapi.admin.service import Admin
from sellapi.admin.views import Minute, Provider, RequestRow, Server, Today, TopRow, User
from tui.acts.act import Context
from tui.messages import Chosen
from tui.screens.page import Page
from tui.widgets.figures import Figure, Figures
from tui.widgets.plot import Plot
from tui.widgets.rows import Column, Rows
from tui.words import NONE, Cell, Tone, amount, clock, compact, day_time, millis, usd, worth

__all__ = ["TAIL_COLUMNS", "Now"]

TAIL = 200
WIDE_TAIL = 1_000
"""How far back a filter by words looks; a filter by e-mail goes by an index, as far as it takes."""
VIEWS = ("traffic", "money", "people", "models", "providers")
LEGENDS = (
    ("traffic", "Requests a minute",
     (("primary", "asked"), ("warning", "refused"), ("error", "failed"))),
    ("money", "Credits a minute", (("success", "charged"), ("secondary", "cost"))),
)  # fmt: skip
SLOW_S = 5.0
"""Sums of the day and the catalog change slowly: read them less often than the tail."""


def _outcome(request: RequestRow) -> Cell:
    if request.delivery == "undelivered":
        return Cell("undelivered", "bad")
    if request.state == "held":
        return Cell("running", "accent")
    if request.refunded:
        return Cell("refunded", "warn")
    status = request.http_status or 0
    if request.error or status >= 400:
        return Cell(f"{status or ''} {request.error or 'error'}".strip(), "bad")
    if request.state in ("voided", "swept"):
        return Cell(request.state, "warn")
    return Cell(request.finish_reason or "ok", "good")


def _charge(request: RequestRow) -> Cell:
    if request.state == "held":
        return Cell(f"({amount(request.hold)})", "dim")
    tone: Tone = "dim" if not request.charge else ""
    return Cell(("~" if request.estimated else "") + amount(request.charge), tone)


def _tokens(request: RequestRow) -> str:
    if request.images:
        return f"{request.images} img"
    return f"{compact(request.input_tokens)}→{compact(request.output_tokens)}"


TAIL_COLUMNS = (
    Column("Time", lambda r: Cell(clock(r.at), "dim"), 8),
    Column("User", lambda r: r.user, 12, flex=2),
    Column("Model", lambda r: r.model, 14, flex=2, end=True),
    Column("Tokens", _tokens, 11, right=True),
    Column("Credits", _charge, 10, right=True),
    Column("First", lambda r: Cell(millis(r.first_byte_ms), "dim"), 7, right=True, wide=100),
    Column("Took", lambda r: Cell(millis(r.duration_ms), "dim"), 7, right=True, wide=90),
    Column("Provider", lambda r: Cell(r.provider or NONE, "dim"), 10, wide=120),
    Column("Outcome", _outcome, 10, flex=1),
)
_TOP = (
    Column("Requests", lambda t: compact(t.requests), 8, right=True),
    Column("Credits", lambda t: amount(t.charged), 12, right=True),
    Column("Margin", lambda t: Cell(worth(t.margin), "bad" if t.margin < 0 else "good"), 9,
           right=True, wide=56),
)  # fmt: skip
TOP_USERS = (Column("User", lambda t: t.name, 10, flex=1), *_TOP)
TOP_MODELS = (Column("Model", lambda t: t.name, 10, flex=1, end=True), *_TOP)


@dataclass(frozen=True)
class _Health:
    """A provider and what the running server's routes to it did."""

    provider: Provider
    in_flight: int
    latency_ms: float | None
    cooling_s: int
    note: str

    @property
    def state(self) -> Cell:
        if self.note:
            return Cell(self.note, "bad")
        if self.cooling_s:
            return Cell("cooling down", "warn")
        return Cell(self.provider.state, "good" if self.provider.available else "dim")


HEALTH_COLUMNS = (
    Column("Provider", lambda h: h.provider.name, 9, flex=1),
    Column("State", lambda h: h.state, 8, flex=2),
    Column("Now", lambda h: str(h.in_flight), 4, right=True),
    Column("Latency", lambda h: Cell(
        millis(None if h.latency_ms is None else int(h.latency_ms)), "dim"), 7, right=True),
    Column("Cools", lambda h: Cell(f"{h.cooling_s} s" if h.cooling_s else NONE,
                                   "warn" if h.cooling_s else "dim"), 5, right=True, wide=48),
)  # fmt: skip


def _healths(providers: Sequence[Provider], servers: Sequence[Server]) -> list[_Health]:
    found = []
    for provider in providers:
        routes: list[dict[str, Any]] = [
            r
            for server in servers
            for r in server.status.get("routes") or ()
            if str(r.get("route", "")).partition(":")[0] == provider.name
        ]
        latencies = [r["latency_ms"] for r in routes if r.get("latency_ms") is not None]
        refused = any(r.get("key_refused") for r in routes)
        failing = [r for r in routes if r.get("cooling_s") and r.get("last_failure")]
        note = "key refused" if refused else str(failing[0]["last_failure"]) if failing else ""
        found.append(
            _Health(
                provider,
                sum(int(r.get("in_flight") or 0) for r in routes),
                max(latencies, default=None),
                max((int(r.get("cooling_s") or 0) for r in routes), default=0),
                note,
            )
        )
    used = [h for h in found if h.provider.enabled]
    return sorted(used, key=lambda h: (not h.provider.available, h.provider.name))


class Now(Page):
    """The shop this minute. Figures and plots come from sums the server keeps; the table below is
    the live tail of requests: Space holds it still, / filters it, Enter opens a receipt.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "Hold tail"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("v", "view", "View"),
        Binding("h", "span", "Hour/day"),
        Binding("u", "user", "User"),
        Binding("f", "app.act('credits.refund')", "Refund"),
        Binding("d", "app.act('doctor')", "Doctor"),
    ]
    poll_s = 1.0

    def __init__(self) -> None:
        super().__init__()
        self._paused = False
        self._span = 60
        self._view = 0
        self._slow_at = 0.0
        self._filtered: dict[str, str] = {}

    # -- what it shows -------------------------------------------------------------------------

    def body(self) -> ComposeResult:
        yield Figures(id="now-figures", per_line=7)
        yield Static(id="greeting")
        with Horizontal(id="plots"):
            with Vertical(classes="panel view-traffic", id="panel-traffic"):
                yield Plot(id="plot-traffic")
            with Vertical(classes="panel view-money", id="panel-money"):
                yield Plot(id="plot-money")
        with Horizontal(id="tops"):
            with Vertical(classes="panel view-people") as panel:
                panel.border_title = "Top users today"
                yield Rows(TOP_USERS, key=lambda t: t.name, id="top-users",
                           empty="Nobody asked today.")  # fmt: skip
            with Vertical(classes="panel view-models") as panel:
                panel.border_title = "Top models today"
                yield Rows(TOP_MODELS, key=lambda t: t.name, id="top-models",
                           empty="Nothing sold today.")  # fmt: skip
            with Vertical(classes="panel view-providers") as panel:
                panel.border_title = "Providers"
                yield Rows(HEALTH_COLUMNS, key=lambda h: h.provider.name, id="health",
                           empty="No provider yet: Catalog, Providers.")  # fmt: skip
        with Vertical(classes="panel", id="panel-tail") as panel:
            panel.border_title = "Requests"
            yield Input(placeholder="filter: an e-mail, or part of model or outcome",
                        id="tail-filter", compact=True)  # fmt: skip
            yield Rows(
                TAIL_COLUMNS, key=lambda r: str(r.id), id="tail", follow="always",
                empty="No request yet: they appear here as they come.",
            )  # fmt: skip

    def on_mount(self) -> None:
        self.query_one("#greeting").display = False
        self.query_one("#tail-filter").display = False
        self._set_view(0)
        self._titles()
        self.query_one("#tail").focus()
        self.watch(self.app, "servers", self._show_health)

    def _titles(self) -> None:
        span = "hour" if self._span == 60 else "day"
        for name, words, marks in LEGENDS:
            panel = self.query_one(f"#panel-{name}")
            panel.border_title = f"{words}, last {span}"
            panel.border_subtitle = "  ".join(f"[${tone}]━[/] {what}" for tone, what in marks)
        mark = " · held still (Space goes on)" if self._paused else ""
        self.query_one("#panel-tail").border_title = f"Requests{mark}"

    # -- asking --------------------------------------------------------------------------------

    def load(self) -> None:
        if not self._paused:
            words = self.query_one("#tail-filter", Input).value.strip().lower()
            self.ask(lambda admin: _tail(admin, words), self._show_tail, group="tail")
        self.ask(lambda admin: admin.stats.minutes(last=self._span), self._show_minutes,
                 group="minutes")  # fmt: skip
        if time.monotonic() - self._slow_at > SLOW_S:
            self._slow_at = time.monotonic()
            self.ask(_slow, self._show_slow, group="slow")

    def on_screen_resume(self) -> None:
        self._slow_at = 0.0

    def look_again(self) -> None:
        self._slow_at = 0.0
        self.load()

    def _show_tail(self, requests: tuple[RequestRow, ...]) -> None:
        if not self._paused:
            self.query_one("#tail", Rows).show(requests)

    def _show_slow(
        self,
        found: tuple[
            Today, tuple[TopRow, ...], tuple[TopRow, ...], tuple[Provider, ...], tuple[User, ...]
        ],
    ) -> None:
        self._today, users, models, self._providers, somebody = found
        self.query_one("#top-users", Rows).show(users)
        self.query_one("#top-models", Rows).show(models)
        self._show_health()
        self._show_figures()
        self._greet(bool(somebody))

    _today: Today | None = None
    _providers: tuple[Provider, ...] = ()
    _minutes: tuple[Minute, ...] = ()

    def _show_health(self) -> None:
        self.query_one("#health", Rows).show(_healths(self._providers, self.shop.servers))

    def _greet(self, somebody: bool) -> None:
        greeting = self.query_one("#greeting", Static)
        steps = []
        if not any(p.available for p in self._providers):
            steps.append(
                "give `sellapi serve` a provider's key, e.g. export OPENAI_API_KEY=… "
                "(3 shows the providers)"
            )
        if not somebody:
            steps.append("add a user: 2, then a; issue a key with i, sell a pack with p")
        if not self.shop.servers:
            steps.append("start the gateway in another terminal: sellapi serve")
        greeting.display = bool(steps) and not somebody
        self.set_class(greeting.display, "-greets")
        greeting.update(
            "Welcome. The shop is empty; what to do first:\n"
            + "\n".join(f"  {n}. {step}" for n, step in enumerate(steps, start=1))
        )

    def _show_minutes(self, minutes: tuple[Minute, ...]) -> None:
        changed = minutes != self._minutes
        self._minutes = minutes
        self._show_figures()
        if not changed:
            return
        step = 1 if self._span == 60 else 10
        whole = minutes[:-1]  # the minute that runs would look like a fall
        groups = [whole[i : i + step] for i in range(0, len(whole), step)]
        labels = [day_time(g[0].at * 1000)[11:16] for g in groups]
        per = [len(g) for g in groups]
        rates = [sum(m.requests for m in g) / n for g, n in zip(groups, per, strict=True)]
        errors = [sum(m.errors for m in g) / n for g, n in zip(groups, per, strict=True)]
        refused = [
            sum(sum(m.rejections.values()) for m in g) / n for g, n in zip(groups, per, strict=True)
        ]
        charged = [sum(m.charged for m in g) / n / 1e6 for g, n in zip(groups, per, strict=True)]
        cost = [sum(m.cost for m in g) / n / 1e6 for g, n in zip(groups, per, strict=True)]
        self.query_one("#plot-traffic", Plot).lines(
            labels,
            [("requests", rates, "primary")],
            [("refused", refused, "warning"), ("errors", errors, "error")],
        )
        self.query_one("#plot-money", Plot).lines(
            labels, [("charged", charged, "success"), ("cost", cost, "secondary")]
        )

    def _show_figures(self) -> None:
        if self._today is None or not self._minutes:
            return
        self.query_one("#now-figures", Figures).show(
            _figures(self._minutes, self._today, self.shop.servers, time.time())
        )

    # -- acts ----------------------------------------------------------------------------------

    def context(self) -> Context:
        request = self.query_one("#tail", Rows).current
        if request is None:
            return Context()
        return Context(user=request.user, request=request.request_id)

    def leave_field(self) -> None:
        self.query_one("#tail").focus()

    def action_back(self) -> None:
        field = self.query_one("#tail-filter", Input)
        if self.focused is field or field.display:
            field.value = ""
            field.display = False
            self.query_one("#tail").focus()
        else:
            super().action_back()

    def action_pause(self) -> None:
        """Hold the tail still, or let it go on."""
        self._paused = not self._paused
        self._titles()
        self.load()

    def action_filter(self) -> None:
        """Into the tail's filter."""
        field = self.query_one("#tail-filter", Input)
        field.display = True
        field.focus()

    def on_input_changed(self) -> None:
        words = self.query_one("#tail-filter", Input).value.strip().lower()
        self.ask(lambda admin: _tail(admin, words), self._show_tail, group="tail", latest=True)

    def on_input_submitted(self) -> None:
        self.query_one("#tail").focus()

    def action_span(self) -> None:
        """The last hour, or the last day."""
        self._span = 1440 if self._span == 60 else 60
        self._titles()
        self.ask(lambda admin: admin.stats.minutes(last=self._span), self._show_minutes,
                 group="minutes", latest=True)  # fmt: skip

    def _set_view(self, view: int) -> None:
        for at, name in enumerate(VIEWS):
            self.set_class(at == view, f"-view-{name}")
        self._view = view

    def action_view(self) -> None:
        """On a small screen: the next of plots, tops and providers."""
        self._set_view((self._view + 1) % len(VIEWS))

    def action_user(self) -> None:
        """The user whose request is under the cursor."""
        request = self.query_one("#tail", Rows).current
        if request is not None:
            self.shop.open_page("user", str(request.user_id))

    def action_open(self) -> None:
        """The receipt of the request under the cursor."""
        request = self.query_one("#tail", Rows).current
        if request is not None:
            self.shop.open_page("request", request.request_id)

    def on_chosen(self, event: Chosen) -> None:
        event.stop()
        if isinstance(event.item, RequestRow):
            self.action_open()
        elif isinstance(event.item, TopRow) and event.table == "top-users":
            self.shop.open_page("user", str(event.item.user_id))
        elif isinstance(event.item, TopRow):
            self.shop.open_page("model", event.item.name)


def _tail(admin: Admin, words: str) -> tuple[RequestRow, ...]:
    """The newest requests that match. An e-mail goes by an index; other words by looking."""
    if not words:
        return admin.requests.list(limit=TAIL)
    if "@" in words:
        page = admin.users.list(search=words, sort="email", limit=1)
        if page.items and page.items[0].email == words:
            return admin.requests.list(user=words, limit=TAIL)
    newest = admin.requests.list(limit=WIDE_TAIL)
    return tuple(
        r
        for r in newest
        if words in f"{r.user} {r.model} {r.provider} {r.request_id} {_outcome(r).text}".lower()
    )[:TAIL]


def _slow(admin: Admin) -> tuple[Any, ...]:
    return (
        admin.stats.today(),
        admin.stats.top("user", limit=20),
        admin.stats.top("model", limit=20),
        admin.providers.list(),
        admin.users.list(limit=1).items,
    )


def _figures(
    minutes: Sequence[Minute], today: Today, servers: Sequence[Server], now: float
) -> tuple[Figure, ...]:
    """Rates over this minute and the one before, latency over five, money of the day."""
    pair = minutes[-2:]
    seconds = max(1.0, now - pair[0].at)
    requests = sum(m.requests for m in pair)
    tokens = sum(m.tokens for m in pair) * 60 / seconds
    charged = int(sum(m.charged for m in pair) * 60 / seconds)
    five = minutes[-5:]
    total = sum(m.requests for m in five)
    errors = sum(m.errors for m in five)
    refused = sum(sum(m.rejections.values()) for m in five)
    average = sum(m.latency_ms_avg * m.requests for m in five) // total if total else None
    slowest = max((m.latency_ms_max for m in five), default=0)
    flying = sum(int(s.status.get("in_flight") or 0) for s in servers)
    share = f"{errors * 100 / total:.1f} %" if total else NONE
    return (
        Figure("In flight", str(flying) if servers else NONE, "accent" if flying else "dim"),
        Figure("Requests/s", f"{requests / seconds:.1f}"),
        Figure("Tokens/m", compact(int(tokens))),
        Figure("Credits/m", amount(charged)),
        Figure("Errors 5m", share, "bad" if errors else "dim"),
        Figure("Refused 5m", compact(refused), "warn" if refused else "dim"),
        Figure("Latency", millis(average), "" if total else "dim"),
        Figure("Slowest 5m", millis(slowest or None), "" if total else "dim"),
        Figure("Revenue", worth(today.charged), "good" if today.charged else "dim"),
        Figure("Cost", worth(today.cost + today.loss)),
        Figure("Margin", worth(today.margin), "bad" if today.margin < 0 else "good"),
        Figure("Cash today", usd(today.cash_usd)),
        Figure("Liability", worth(today.liability)),
        Figure("Open holds", f"{today.open_holds}", "accent" if today.open_holds else "dim"),
    )
