"""What a form is filled in with: text that is harmless however it came, choices, e-mails completed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.suggester import Suggester
from textual.widgets import Input, Select

from sellapi.errors import SellapiError
from tui.words import plain

if TYPE_CHECKING:
    from tui.link import Link

__all__ = ["Choice", "Typed", "UserSuggester"]


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
