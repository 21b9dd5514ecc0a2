"""Forms and questions: fill, see what would happen, confirm; what is refused is said inside."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Select, Static, Switch

from sellapi.errors import SellapiError
from tui.acts.act import Field, FormSpec, Line, Values
from tui.widgets.fields import Choice, Flag, Typed, UserSuggester
from tui.words import colour, plain

if TYPE_CHECKING:
    from tui.app import SellapiApp

__all__ = ["Form"]


class Form(ModalScreen[Any]):
    """Dismisses with what the act returned, or None when it was left."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back"),
        Binding("ctrl+s", "send", "Send", priority=True),
        Binding("down", "step(1)", "Next", show=False),
        Binding("up", "step(-1)", "Previous", show=False),
        Binding("pagedown", "step(10)", "Next", show=False),
        Binding("pageup", "step(-10)", "Previous", show=False),
        Binding("right", "app.focus_next", "Next", show=False),
        Binding("left", "app.focus_previous", "Previous", show=False),
        Binding("y", "yes", "Yes", show=False),
        Binding("n", "no", "No", show=False),
    ]

    def __init__(self, spec: FormSpec[Any]) -> None:
        super().__init__()
        self.spec = spec
        self.confirming = not spec.fields
        self._busy = False
        self._reviewed: Values = {}
        """What the question is about, and what is done when it is answered."""

    # -- what it shows -------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        spec = self.spec
        with Vertical(id="form", classes="danger" if spec.danger else "") as box:
            box.border_title = Text(plain(spec.title))
            with Vertical(id="sheet"):  # no VerticalScroll: that one takes the arrow keys
                if spec.intro:
                    yield Static(Text(plain_lines(spec.intro)), id="intro")
                with Vertical(id="fields"):
                    for field in spec.fields:
                        with Horizontal(classes="field"):
                            yield Label(Text(field.label), classes="label")
                            yield self._input(field)
                yield Static(id="summary")
            with Vertical(id="foot"):
                yield Static(id="refusal")
                with Horizontal(id="buttons"):
                    variant: Any = "error" if spec.danger else "primary"
                    yield Button(Text(spec.verb), variant=variant, id="send", compact=True)
                    yield Button(Text("Back"), id="leave", compact=True)
                yield Static(id="hint")

    def _input(self, field: Field) -> Input | Select[str] | Switch:
        name = f"field-{field.name}"
        if field.flag:
            return Flag(value=bool(field.value), id=name)
        if field.options is not None:
            options = [(Text(plain(words)), value) for words, value in field.options]
            values = [value for _, value in field.options]
            chosen = field.value if field.value in values else Select.NULL
            prompt = plain(field.hint) or "choose"
            blank = not field.required or chosen is Select.NULL
            return Choice(
                cast("Any", options),
                value=chosen,
                prompt=prompt,
                allow_blank=blank,
                id=name,
                compact=True,
            )
        return Typed(
            value=field.value,
            placeholder=plain(field.hint),
            id=name,
            compact=True,
            suggester=UserSuggester(self.shop.link) if field.users else None,
        )

    @property
    def shop(self) -> SellapiApp:
        """The app, by its own type."""
        return cast("SellapiApp", self.app)

    def on_mount(self) -> None:
        self.query_one("#fields").display = bool(self.spec.fields)
        self._stage()
        if not self.spec.fields:
            self._answer().focus()
        else:
            first = _first(self.spec.fields)
            self.query_one(f"#field-{first.name}").focus()

    def _stage(self, lines: list[Line] | None = None) -> None:
        asks = self.spec.preview is not None and not self.confirming
        self.query_one("#send", Button).label = Text("Review" if asks else self.spec.verb)
        for widget in self.query("#fields Input, #fields Select, #fields Switch"):
            widget.disabled = self.confirming and bool(self.spec.fields)
        summary = self.query_one("#summary", Static)
        summary.display = bool(lines)
        if lines:
            summary.update(_diff(lines, self.app.current_theme))
        refusal = self.query_one("#refusal", Static)
        refusal.display = False
        self._hint()
        if lines:
            self.call_after_refresh(self._show_summary)

    def _show_summary(self) -> None:
        """Bring what would happen into sight, from its beginning."""
        sheet = self.query_one("#sheet")
        sheet.scroll_to_widget(self.query_one("#summary"), animate=False, top=True, force=True)
        self._hint()

    def _answer(self) -> Button:
        """The button a question begins on: a second Enter must not destroy anything."""
        return self.query_one("#leave" if self.spec.danger else "#send", Button)

    def _hint(self) -> None:
        hint = "y yes · n or Esc back" if self.confirming else "Enter send · Tab next · Esc back"
        if self._scrolls:
            hint += " · ↑ ↓ read on"
        self.query_one("#hint", Static).update(Text(hint))

    @property
    def _scrolls(self) -> bool:
        """Whether there is more of a question than there is room for."""
        return self.confirming and self.query_one("#sheet").max_scroll_y > 0

    def refuse(self, words: str) -> None:
        """Say inside the form why it was refused."""
        refusal = self.query_one("#refusal", Static)
        refusal.display = True
        refusal.update(Text(plain_lines(words)))
        self.call_after_refresh(self._show_focus)  # the words took some of its room

    def _show_focus(self) -> None:
        if self.focused is not None:
            self.focused.scroll_visible(animate=False)

    # -- what it does --------------------------------------------------------------------------

    def values(self) -> Values:
        """What stands in the fields."""
        found: Values = {}
        for field in self.spec.fields:
            widget = self.query_one(f"#field-{field.name}")
            if isinstance(widget, Switch):
                found[field.name] = "yes" if widget.value else ""
            elif isinstance(widget, Select):
                value = widget.value
                found[field.name] = "" if value is Select.NULL else str(value)
            elif isinstance(widget, Input):
                # What was not touched is sent as it is stored, not as it is shown.
                same = widget.value == plain(field.value)
                found[field.name] = field.value if same else widget.value.strip()
        return found

    def on_input_submitted(self) -> None:
        self.action_send()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        if event.button.id == "send":
            self.action_send()
        else:
            self.action_leave()

    def action_step(self, by: int) -> None:
        """To the next field or button; through a question that is longer than the screen."""
        if self._scrolls:
            self.query_one("#sheet").scroll_relative(y=by, animate=False)
        elif by > 0:
            self.focus_next()
        else:
            self.focus_previous()

    def action_yes(self) -> None:
        """``y`` answers a question."""
        if self.confirming:
            self.action_send()

    def action_no(self) -> None:
        """``n`` does, too; while fields are filled in it is no answer, and leaves nothing."""
        if self.confirming:
            self.action_leave()

    def action_send(self) -> None:
        """Review, or do it."""
        if self._busy:
            return
        values = self._reviewed if self.confirming else self.values()
        missing = [f for f in self.spec.fields if f.required and not values[f.name]]
        if missing:
            self.refuse(f"{missing[0].label}: this is needed")
            self.query_one(f"#field-{missing[0].name}").focus()
            return
        self._busy = True
        self.query_one("#hint", Static).update(Text("working …"))
        self.run_worker(self._send(values), group="send", exclusive=True)

    async def _send(self, values: Values) -> None:
        spec, link = self.spec, self.shop.link
        try:
            if spec.preview is not None and not self.confirming:
                preview = spec.preview
                lines: list[Line] = []
                while self._reviewed != values or not lines:  # more may be typed meanwhile
                    self._reviewed = values
                    lines = list(await link.call(lambda admin: preview(admin, self._reviewed)))
                    values = self.values()
                self.confirming = True
                self._stage(lines)
                self._answer().focus()
            else:
                # Once begun an act is not taken back: leaving the form does not cancel it.
                result = await asyncio.shield(link.call(lambda admin: spec.act(admin, values)))
                self.dismiss(result if result is not None else True)
        except SellapiError as error:
            self._back_to_fields()
            self.refuse(str(error))
        except Exception as error:  # whatever it was, the operator is told and may go on
            self._back_to_fields()
            self.refuse(f"that failed: {type(error).__name__}: {error}")
        finally:
            self._busy = False
            self._hint()

    def _back_to_fields(self) -> None:
        if self.spec.fields and self.confirming:
            self.confirming = False
            self._stage()
            self.query_one(f"#field-{self.spec.fields[0].name}").focus()

    def action_leave(self) -> None:
        """Esc: from the question back to the fields, from the fields back to the screen."""
        if self._busy:
            return
        if self.spec.fields and self.confirming:
            self._back_to_fields()
        else:
            self.dismiss(None)


def _first(fields: Sequence[Field]) -> Field:
    """Where one begins: what is needed and missing, or, after a target, what is still empty."""
    for field in fields:
        if field.required and not field.value:
            return field
    if len(fields) > 1 and fields[0].users and not fields[1].value:
        return fields[1]
    return fields[0]


def plain_lines(text: str) -> str:
    """Foreign text made harmless, its line breaks kept."""
    return "\n".join(plain(line) for line in text.split("\n"))


def _diff(lines: list[Line], theme: Any) -> Text:
    width = max(len(line.label) for line in lines)
    text = Text()
    for index, line in enumerate(lines):
        text.append("\n" if index else "")
        text.append(f"{plain(line.label):<{width}}  ", style="dim")
        if line.old is not None:
            text.append(plain(line.old) or "none", style=f"strike {colour(theme, 'error')}")
            text.append(" → ", style="dim")
        changed = colour(theme, "success") if line.old is not None else ""
        text.append(plain(line.new) or "none", style=f"bold {changed}")
    return text
