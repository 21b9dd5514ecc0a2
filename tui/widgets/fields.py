"""What a form is filled in with: text that is harmless however it came, choices, e-mails completed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.suggester import Suggester
from textual.widgets import Input, Select, Switch

from sellapi.errors import SellapiError
from tui.words import plain

if TYPE_CHECKING:
    from tui.link import Link

__all__ = ["Choice", "Flag", "Typed", "UserSuggester"]


class UserSuggester(Suggester):
    """Completes the e-mail of a user there is."""

    def __init__(self, link: Link) -> None:
        super().__init__(use_cache=False, case_sensitive=False)
        self._link = link

    async def get_suggestion(self, value: str) -> str | None:
        if len(value) < 2:
            return None
        try:
            page = await self._link.call(
                lambda admin: admin.users.list(search=value, sort="email", limit=20)
            )
        except SellapiError:
            return None
        starts = [u.email for u in page.items if u.email.startswith(value.lower())]
        return plain(starts[0]) if starts else None


class Typed(Input):
    """A line of text, harmless for the terminal however it came: stored, pasted or completed."""

    def validate_value(self, value: str) -> str:
        """Control characters are shown as such, one for one: the cursor stays where it is."""
        return plain(value)


class Choice(Select[str], inherit_bindings=False):
    """A list to choose from that leaves the arrow keys to the form until it is opened."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,space", "show_overlay", "Show menu", show=False)
    ]


class Flag(Switch, inherit_bindings=False):
    """Yes or no, in words: a colour alone says nothing where there are few. Enter sends, as ever."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "toggle_switch", "Yes or no", show=False),
        Binding("y", "say(True)", "Yes", show=False),
        Binding("n", "say(False)", "No", show=False),
        Binding("enter", "screen.send", "Send", show=False),
    ]

    def watch_value(self, value: bool) -> None:
        super().watch_value(value)
        self.refresh()

    def render(self) -> Text:
        return Text("yes" if self.value else "no")

    def get_content_width(self, container: Size, viewport: Size) -> int:
        del container, viewport
        return 3

    def action_say(self, value: bool) -> None:
        """``y`` and ``n``, as they are typed for an answer."""
        self.value = value
