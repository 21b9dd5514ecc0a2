"""One model: prices and their versions, routes and what they cost us."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Static

from sellapi.admin.service import Admin
from sellapi.admin.views import Model, PriceVersion
from tui.acts.act import Context
from tui.messages import Chosen
from tui.screens.page import Page
from tui.widgets.figures import Figure, Figures
from tui.widgets.rows import Column, Rows
from tui.words import NONE, Cell, colour, compact, day_time, plain

__all__ = ["ModelPage"]


def price_words(prices: Mapping[str, Any] | None) -> str:
    """``input 3 · output 15`` of stated prices."""
    if not prices:
        return NONE
    words = []
    for name, value in prices.items():
        if isinstance(value, Mapping):
            words += [f"{name.rstrip('s')} {key} {price}" for key, price in value.items()]
        else:
            words.append(f"{name.replace('_', ' ')} {value}")
    return " · ".join(words)


def _since(version: PriceVersion) -> Cell:
    ahead = version.effective_at > time.time()
    return Cell(day_time(version.effective_at * 1000), "accent" if ahead else "dim")


ROUTE_COLUMNS = (
    Column("First", lambda r: str(r.priority), 5, right=True),
    Column("Provider", lambda r: r.provider, 12, flex=1),
    Column("Upstream id", lambda r: r.upstream, 18, flex=2),
    Column("Share", lambda r: Cell(str(r.weight), "dim"), 5, right=True, wide=90),
    Column("Usable", lambda r: Cell("yes", "good") if r.available else Cell("no", "warn"), 6),
    Column("Our cost", lambda r: Cell(price_words(r.cost), "dim"), 14, flex=2),
)
PRICE_COLUMNS = (
    Column("From (UTC)", _since, 19),
    Column("Prices, USD per million tokens", lambda v: price_words(v.prices), 30, flex=1),
    Column("By", lambda v: Cell(v.actor, "dim"), 8, wide=70),
)


class ModelPage(Page):
    """One model with its routes and every version of its price."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", key_display="Esc"),
        Binding("e", "app.act('models.set')", "Edit"),
        Binding("o", "switch", "On/off"),
        Binding("r", "app.act('models.route_add')", "Add route"),
        Binding("X", "app.act('models.route_remove')", "Remove route"),
    ]
    poll_s = 5.0

    def __init__(self, slug: str) -> None:
        super().__init__()
        self._slug = slug
        self._model: Model | None = None

    def body(self) -> ComposeResult:
        yield Static(id="who")
        yield Figures(id="standing")
        yield Static(id="prices")
        with Vertical(classes="panel") as panel:
            panel.border_title = "Routes"
            yield Rows(ROUTE_COLUMNS, key=lambda r: r.target, id="route-rows",
                       empty="No route: nobody answers for it. r adds one.")  # fmt: skip
        with Vertical(classes="panel") as panel:
            panel.border_title = "Price versions"
            yield Rows(PRICE_COLUMNS, key=lambda v: str(v.id), id="price-rows",
                       empty="No price: it is not for sale. e sets one.")  # fmt: skip

    def on_mount(self) -> None:
        self.query_one("#route-rows").focus()

    def load(self) -> None:
        slug = self._slug

        def call(admin: Admin) -> tuple[Model, tuple[PriceVersion, ...]]:
            return admin.models.show(slug), admin.models.price_history(slug)

        self.ask(call, self._show)

    def _show(self, found: tuple[Model, tuple[PriceVersion, ...]]) -> None:
        model, history = found
        self._model = model
        theme = self.app.current_theme
        head = Text(f" {plain(model.slug)}", style="bold", no_wrap=True, overflow="ellipsis")
        if model.name != model.slug:
            head.append(f"  {plain(model.name)}", style="not bold dim")
        self.query_one("#who", Static).update(head)
        margin = NONE if model.margin_pct is None else f"{model.margin_pct} %"
        self.query_one(Figures).show(
            (
                Figure("For sale", "yes" if model.available else "no",
                       "good" if model.available else "warn"),
                Figure("Tier", model.tier, "accent"),
                Figure("Mode", model.mode),
                Figure("Context", compact(model.context_length or 0)),
                Figure("Longest", compact(model.max_output or 0)),
                Figure("Takes", ", ".join(model.input_modalities)),
                Figure("Margin", margin, "bad" if (model.margin_pct or 0) < 0 else ""),
            )
        )  # fmt: skip
        words = Text(f" {plain(price_words(model.prices))}")
        if model.why_not:
            words.append(f"\n {plain(model.why_not)}", style=colour(theme, "warning"))
        self.query_one("#prices", Static).update(words)
        self.query_one("#route-rows", Rows).show(model.routes)
        self.query_one("#price-rows", Rows).show(tuple(reversed(history)))

    def context(self) -> Context:
        route = self.query_one("#route-rows", Rows).current
        return Context(model=self._slug, route="" if route is None else route.target)

    def action_switch(self) -> None:
        """On when it is off, off when it is on."""
        if self._model is not None:
            self.shop.action_act("models.disable" if self._model.enabled else "models.enable")

    def on_chosen(self, event: Chosen) -> None:
        event.stop()
        self.shop.action_act("models.set")
