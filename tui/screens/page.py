"""What every screen has: the bar, the trouble line, the keys; asking the shop without blocking."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, Select

from sellapi.admin.service import Admin
from sellapi.errors import StorageError
from tui.acts.act import Context
from tui.widgets.bar import Bar, KeyLine, Trouble

if TYPE_CHECKING:
    from tui.app import SellapiApp

__all__ = ["Page"]

T = TypeVar("T")


class Page(Screen[None]):
    """A full screen. Subclasses give `body` and `load`; `poll_s` reloads while it is looked at."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", show=False),
    ]
    poll_s: ClassVar[float] = 0

    def __init__(self) -> None:
        super().__init__()
        self._under_way: set[str] = set()
        self._waiting: dict[str, tuple[Callable[[Admin], Any], Callable[[Any], None]]] = {}

    @property
    def shop(self) -> SellapiApp:
        """The app, by its own type."""
        return cast("SellapiApp", self.app)

    # -- to be given by each screen ------------------------------------------------------------

    def body(self) -> ComposeResult:
        """What stands between the bar and the keys."""
        raise NotImplementedError

    def load(self) -> None:
        """Ask for what is shown; called at every coming back and after every act."""

    def look_again(self) -> None:
        """Everything anew: after an act, or when the database is back."""
        self.load()

    def context(self) -> Context:
        """What the operator looks at, for acts that want a target."""
        return Context()

    # -- life ----------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        yield Bar(id="bar")
        yield Trouble(id="trouble")
        with Vertical(id="body"):
            yield from self.body()
        yield KeyLine(id="keys")

    def on_mount(self) -> None:
        if self.poll_s:
            self.set_interval(self.poll_s, self._tick)

    def on_screen_resume(self) -> None:
        self.load()

    def _tick(self) -> None:
        top = self.app.screen
        if top is self or (isinstance(top, ModalScreen) and self in self.app.screen_stack[-2:]):
            self.load()

    def action_back(self) -> None:
        """Esc: out of a field, then back to the screen before."""
        if isinstance(self.focused, Input | Select):
            self.leave_field()
        elif len(self.app.screen_stack) > 1 and self.app.screen is self:
            self.app.pop_screen()

    def leave_field(self) -> None:
        """Where the focus goes from a field."""
        self.focus_next()

    def action_tab(self, step: int) -> None:
        """The next of a screen's tabs, where it has some."""

    # -- asking --------------------------------------------------------------------------------

    def ask(
        self,
        call: Callable[[Admin], T],
        then: Callable[[T], None],
        *,
        group: str = "load",
        latest: bool = False,
    ) -> None:
        """Run ``call(admin)`` in a thread and ``then(result)`` here.

        While one of a group is under way another is left out, or with ``latest`` takes its place
        (the older answer is dropped). Errors become a toast or the trouble line.
        """
        if group in self._under_way:
            if latest:
                self._waiting[group] = (call, then)
            return
        self._under_way.add(group)
        self.run_worker(self._ask(call, then, group), group=group)

    async def _ask(
        self, call: Callable[[Admin], Any], then: Callable[[Any], None], group: str
    ) -> None:
        try:
            asked: tuple[Callable[[Admin], Any], Callable[[Any], None]] | None = (call, then)
            while asked is not None:
                call, then = asked
                answer = await self._answer(call)
                newer = group in self._waiting
                if not newer and answer is not None and self.query("#keys"):
                    self._deliver(answer[0], then)  # otherwise the screen was left meanwhile
                asked = self._waiting.pop(group, None)  # by then, or by the showing itself
        finally:
            self._under_way.discard(group)

    async def _answer(self, call: Callable[[Admin], T]) -> tuple[T] | None:
        """The result in a tuple; None when there is none and the operator was told."""
        try:
            result = await self.shop.link.call(call)
        except StorageError as error:
            self.shop.trouble = str(error)
        except Exception as error:  # a screen must outlive whatever an act did
            self.shop.tell_error(error)
        else:
            self.shop.trouble = ""
            return (result,)
        return None

    def _deliver(self, answer: T, then: Callable[[T], None]) -> None:
        """Show an answer; an error in that is told like one in asking, and the screens go on."""
        try:
            then(answer)
        except Exception as error:  # of one table or figure; the others are still of use
            self.shop.tell_error(error)
