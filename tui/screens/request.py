"""One request's receipt: what it used, the arithmetic of its charge, what the ledger says."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from sellapi.admin.views import Receipt
from sellapi.domain.credits import credits_to_usd, format_credits, format_usd
from tui.acts.act import Context
from tui.screens.form import plain_lines
from tui.screens.page import Page
from tui.words import NONE, colour, day_time, fit, millis, plain, state_tone, tone_style

__all__ = ["RequestPage"]


class RequestPage(Page):
    """A request and its receipt: counts, prices, the sum, the ledger's entries."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", key_display="Esc"),
        Binding("j,down", "scroll(1)", "Down", show=False),
        Binding("k,up", "scroll(-1)", "Up", show=False),
        Binding("f", "app.act('credits.refund')", "Refund"),
        Binding("u", "user", "User"),
        Binding("c", "copy", "Copy id"),
    ]
    poll_s = 2.0

    def __init__(self, request_id: str) -> None:
        super().__init__()
        self._request = request_id
        self._receipt: Receipt | None = None

    def body(self) -> ComposeResult:
        with VerticalScroll(id="receipt-scroll"):
            yield Static(id="receipt")

    def on_mount(self) -> None:
        self.query_one("#receipt-scroll").focus()

    def load(self) -> None:
        request = self._request
        self.ask(lambda admin: admin.requests.show(request), self._show)

    def _show(self, receipt: Receipt) -> None:
        self._receipt = receipt
        self.query_one("#receipt", Static).update(_receipt(receipt, self.app.current_theme))

    def context(self) -> Context:
        user = "" if self._receipt is None else self._receipt.request.user
        return Context(user=user, request=self._request)

    def action_scroll(self, lines: int) -> None:
        """Vim keys."""
        self.query_one("#receipt-scroll").scroll_relative(y=lines, animate=False)

    def action_user(self) -> None:
        """The user it was for."""
        if self._receipt is not None:
            self.shop.open_page("user", str(self._receipt.request.user_id))

    def action_copy(self) -> None:
        """Its request id, to the terminal's clipboard."""
        self.app.copy_to_clipboard(self._request)
        self.notify("The request id is copied, if your terminal allows it.", markup=False)


def _receipt(receipt: Receipt, theme: Any) -> Text:
    request = receipt.request
    text = Text()

    def head(words: str) -> None:
        text.append(f"\n{words}\n", style=f"bold {colour(theme, 'accent')}")

    def line(name: str, value: str, style: str = "") -> None:
        text.append(f"  {name:<12}", style="dim")
        text.append(f"{plain(value)}\n", style=style)

    text.append(f"Request {plain(request.request_id)}\n", style="bold")
    line("time", f"{day_time(request.at)} UTC")
    line("user", f"{request.user}  key {request.key_id}")
    line("model", f"{request.model} ({request.mode}{', streamed' if request.streamed else ''})")
    line("answered by", f"{request.provider or NONE}:{request.upstream or NONE}")
    line("state", f"{request.state}, {request.delivery}",
         tone_style(theme, state_tone(request.state)))  # fmt: skip
    outcome = f"HTTP {request.http_status or NONE}  {request.finish_reason or ''}".rstrip()
    line("outcome", outcome)
    if request.error:
        line("error", request.error, colour(theme, "error"))
    line("took", f"{millis(request.duration_ms)}, first byte {millis(request.first_byte_ms)}")

    head("Charge")
    _arithmetic(text, receipt, theme)
    marks = [
        words
        for said, words in (
            (request.estimated, "estimated: the provider sent no usage"),
            (request.bounded, "bounded: the answer was cut at what was affordable"),
            (receipt.long_context, "long-context prices"),
            (request.refunded, "refunded"),
        )
        if said
    ]
    for words in marks:
        text.append(f"  {words}\n", style=colour(theme, "warning"))

    if receipt.entries:
        head("Ledger")
        for entry in receipt.entries:
            text.append(
                f"  entry {entry.id:<8} {fit(entry.kind, 14)} "
                f"{fit(format_credits(entry.amount), 18, right=True)}   balance "
                f"{format_credits(entry.balance_after)}\n"
            )
    if receipt.attempts:
        head("Attempts")
        text.append(plain_lines(_pretty(receipt.attempts)) + "\n", style="dim")
    if receipt.usage_raw:
        head("Usage, as the provider sent it")
        text.append(plain_lines(_pretty(receipt.usage_raw)) + "\n", style="dim")
    return text


LABEL = 54
"""Columns before the amounts of a charge."""


def _arithmetic(text: Text, receipt: Receipt, theme: Any) -> None:
    """Count by price, the sum, the charge: the points of all amounts below each other."""
    request = receipt.request
    charged = f"bold {colour(theme, 'success')}"
    lines: list[tuple[str, str, str]] = []
    for step in receipt.arithmetic:
        price = f"${format_usd(step.price_usd)}" + (f" / {step.per:,}" if step.per != 1 else "")
        label = f"{fit(step.bucket, 16)}{fit(f'{step.count:,}', 12, right=True)}"
        label += f" \N{MULTIPLICATION SIGN} {fit(price, 19)} ="
        lines.append((label, step.credits, ""))
    if receipt.arithmetic:
        label = f"{'sum, rounded up':<50} ="
        lines.append((label, format_credits(receipt.recomputed), ""))
    lines.append(("charged", format_credits(request.charge), charged))
    lines.append(("in dollars", f"${credits_to_usd(request.charge)}", "dim"))
    lines.append(("held before", format_credits(request.hold), "dim"))
    places = max(len(_fraction(value)) for _, value, _ in lines)
    for label, value, style in lines:
        padded = value + " " * (places - len(_fraction(value)))
        text.append(f"  {fit(label, LABEL - 2)}", style="dim")
        text.append(f"{fit(padded, 18, right=True)}\n", style=style)
    if receipt.price_version is not None:
        when = day_time(receipt.price_version.effective_at * 1000)
        text.append(f"  price version {receipt.price_version.id}, from {when}\n", style="dim")


def _fraction(value: str) -> str:
    """The point and what follows it."""
    _, point, digits = value.partition(".")
    return point + digits


def _pretty(value: Any) -> str:
    words = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
    return "\n".join("  " + line for line in words.splitlines()[:60])
