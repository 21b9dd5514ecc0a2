"""Catalog: what is for sale, who answers for it, packs and tiers."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import TabbedContent, TabPane

from sellapi.admin.service import Admin
from sellapi.admin.views import Model, Pack, Provider, Tier
from tui.acts.act import Context
from tui.messages import Chosen
from tui.screens.page import Page
from tui.widgets.rows import Column, Rows
from tui.words import NONE, Cell, Tone, amount, compact, state_tone, usd, worth

__all__ = ["Catalog"]

TABS = ("models", "providers", "packs", "tiers")


def _price(name: str) -> Any:
    def cell(model: Model) -> Cell:
        value = model.prices.get(name)
        if value is None and name == "input" and model.prices.get("images"):
            return Cell(f"{next(iter(model.prices['images'].values()))}/img")
        return Cell(NONE, "dim") if value is None else Cell(str(value))

    return cell


def _margin(model: Model) -> Cell:
    if model.margin_pct is None:
        return Cell(NONE, "dim")
    tone: Tone = "bad" if model.margin_pct < 0 else "warn" if model.margin_pct == 0 else "good"
    return Cell(f"{model.margin_pct} %", tone)


def _sold(model: Model) -> Cell:
    if model.available:
        return Cell("on", "good")
    return Cell("off", "dim") if not model.enabled else Cell(f"no: {model.why_not}", "warn")


def _routes(model: Model) -> str:
    first = f"{model.provider}:{model.upstream}" if model.provider else NONE
    more = len(model.routes) - 1
    return f"{first} +{more}" if more > 0 else first


MODEL_COLUMNS = (
    Column("Model", lambda m: m.slug, 20, flex=2, end=True),
    Column("Mode", lambda m: Cell(m.mode, "dim"), 9, wide=100),
    Column("Tier", lambda m: Cell(m.tier, state_tone(m.tier)), 4),
    Column("Input", _price("input"), 9, right=True),
    Column("Output", _price("output"), 7, right=True),
    Column("Cached", _price("cache_read"), 7, right=True, wide=110),
    Column("Context", lambda m: Cell(compact(m.context_length or 0), "dim"), 8, right=True,
           wide=110),
    Column("Margin", _margin, 6, right=True),
    Column("Route", _routes, 24, flex=2, wide=100),
    Column("Sold", _sold, 12, flex=1),
)  # fmt: skip
PROVIDER_COLUMNS = (
    Column("Provider", lambda p: p.name, 12, flex=1),
    Column("Kind", lambda p: Cell(p.kind, "dim"), 9),
    Column("State", lambda p: Cell(p.state, "good" if p.available else "warn"), 22, flex=2),
    Column("Models", lambda p: str(p.models), 6, right=True),
    Column("Conns", lambda p: Cell(str(p.max_connections), "dim"), 5, right=True),
    Column("Base URL", lambda p: Cell(p.base_url, "dim"), 30, flex=2, wide=110),
    Column("Key", lambda p: Cell(p.api_key_env or p.api_key_file or "none", "dim"), 20, wide=110),
)
PACK_COLUMNS = (
    Column("Pack", lambda p: p.slug, 12, flex=1),
    Column("Credits", lambda p: amount(p.credits), 20, right=True),
    Column("List value", lambda p: Cell(worth(p.credits), "dim"), 12, right=True),
    Column("Price", lambda p: usd(p.price_usd), 10, right=True),
    Column("Status", lambda p: Cell(p.status, state_tone(p.status)), 8),
)
TIER_COLUMNS = (
    Column("Tier", lambda t: Cell(t.name, state_tone(t.name)), 12, flex=1),
    Column("A minute, per key", lambda t: f"{t.rpm:,}", 18, right=True),
    Column("Per account", lambda t: f"{t.account_rpm:,}", 12, right=True),
    Column("Signup credits", lambda t: amount(t.signup_credits), 16, right=True),
)
_ACTS = {
    "models": {"add": "models.add", "edit": "models.set", "route": "models.route_add",
               "remove": "models.route_remove", "import": "importer.apply"},
    "providers": {"add": "providers.add", "edit": "providers.set", "test": "providers.test",
                  "remove": "providers.remove"},
    "packs": {"add": "packs.add", "remove": "packs.retire", "sell": "packs.sell"},
    "tiers": {"edit": "tiers.set"},
}  # fmt: skip


class Catalog(Page):
    """Models, providers, packs and tiers; ← and → go from one to the next. Prices are USD per
    million tokens; what is changed here holds for the next request.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right_square_bracket", "tab(1)", "Next tab", key_display="← →"),
        Binding("left_square_bracket", "tab(-1)", "Tab before", show=False),
        Binding("a", "tab_act('add')", "Add"),
        Binding("e", "tab_act('edit')", "Edit"),
        Binding("o", "switch", "On/off"),
        Binding("r", "tab_act('route')", "Add route"),
        Binding("t", "tab_act('test')", "Test"),
        Binding("p", "tab_act('sell')", "Sell"),
        Binding("X", "tab_act('remove')", "Remove"),
        Binding("m", "tab_act('import')", "Import"),
    ]
    poll_s = 5.0

    def body(self) -> ComposeResult:
        with TabbedContent(initial="models", id="tabs"):
            with TabPane("Models", id="models"):
                yield Rows(MODEL_COLUMNS, key=lambda m: m.slug, id="model-rows",
                           empty="No model yet: a adds one.")  # fmt: skip
            with TabPane("Providers", id="providers"):
                yield Rows(PROVIDER_COLUMNS, key=lambda p: p.name, id="provider-rows",
                           empty="No provider yet: a adds one.")  # fmt: skip
            with TabPane("Packs", id="packs"):
                yield Rows(PACK_COLUMNS, key=lambda p: p.slug, id="pack-rows",
                           empty="No pack yet: a adds one.")  # fmt: skip
            with TabPane("Tiers", id="tiers"):
                yield Rows(TIER_COLUMNS, key=lambda t: t.name, id="tier-rows")

    def on_mount(self) -> None:
        self.query_one("#model-rows").focus()

    @property
    def tab(self) -> str:
        """Which of `TABS` is looked at."""
        return self.query_one(TabbedContent).active or "models"

    def load(self) -> None:
        self.ask(_all, self._show)

    def _show(
        self,
        found: tuple[tuple[Model, ...], tuple[Provider, ...], tuple[Pack, ...], tuple[Tier, ...]],
    ) -> None:
        for name, items in zip(("model", "provider", "pack", "tier"), found, strict=True):
            self.query_one(f"#{name}-rows", Rows).show(items)

    def _current(self) -> Any:
        return self.query_one(f"#{self.tab[:-1]}-rows", Rows).current

    def context(self) -> Context:
        item = self._current()
        if isinstance(item, Model):
            return Context(model=item.slug)
        if isinstance(item, Provider):
            return Context(provider=item.name)
        if isinstance(item, Pack):
            return Context(pack=item.slug)
        return Context(tier=item.name) if isinstance(item, Tier) else Context()

    # -- acts ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only the keys that do something in this tab are shown."""
        if action == "tab_act":
            return str(parameters[0]) in _ACTS[self.tab]
        if action == "switch":
            return self.tab in ("models", "providers")
        return True

    def action_tab(self, step: int) -> None:
        """The next tab."""
        at = (TABS.index(self.tab) + step) % len(TABS)
        self.query_one(TabbedContent).active = TABS[at]

    def on_tabbed_content_tab_activated(self) -> None:
        self.query_one(f"#{self.tab[:-1]}-rows").focus()
        self.refresh_bindings()

    def action_tab_act(self, name: str) -> None:
        """This tab's act of that name."""
        self.shop.action_act(_ACTS[self.tab][name])

    def action_switch(self) -> None:
        """On when it is off, off when it is on."""
        item = self._current()
        if isinstance(item, Model):
            self.shop.action_act("models.disable" if item.enabled else "models.enable")
        elif isinstance(item, Provider):
            self.shop.action_act("providers.set")

    def on_chosen(self, event: Chosen) -> None:
        event.stop()
        if isinstance(event.item, Model):
            self.shop.open_page("model", event.item.slug)
        elif isinstance(event.item, Pack):
            self.shop.action_act("packs.sell")
        elif isinstance(event.item, (Provider, Tier)):
            self.action_tab_act("edit")


def _all(
    admin: Admin,
) -> tuple[tuple[Model, ...], tuple[Provider, ...], tuple[Pack, ...], tuple[Tier, ...]]:
    return admin.models.list(), admin.providers.list(), admin.packs.list(), admin.tiers.list()
