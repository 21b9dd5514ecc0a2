"""The app: its screens, its keys, and what all of them share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

from rich.text import Text
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.reactive import reactive
from textual.screen import ModalScreen, Screen
from textual.theme import Theme

from sellapi.admin.service import Admin
from sellapi.admin.views import NewKey, Server
from sellapi.errors import SellapiError, StorageError
from tui.acts import ACTS, BY_NAME
from tui.acts.act import Context, FormSpec
from tui.link import Link
from tui.screens.form import Form
from tui.screens.help import Help
from tui.screens.page import Page
from tui.screens.pages import MODES, open_page
from tui.screens.secret import SecretOnce
from tui.words import Tone, plain

__all__ = ["SellapiApp"]

T = TypeVar("T")
FRESH_S = 10
"""A status row older than this says nothing about now."""

DARK = Theme(
    name="sellapi-dark",
    primary="#7aa2f7",
    secondary="#bb9af7",
    accent="#7dcfff",
    success="#9ece6a",
    warning="#e0af68",
    error="#f7768e",
    foreground="#c8d3f5",
    background="#16161e",
    surface="#1a1b26",
    panel="#24283b",
    dark=True,
)
LIGHT = Theme(
    name="sellapi-light",
    primary="#2e5fbf",
    secondary="#7847bd",
    accent="#0b7285",
    success="#3f7a1f",
    warning="#9a6700",
    error="#c02d4a",
    foreground="#343b58",
    background="#f2f3f7",
    surface="#ffffff",
    panel="#e3e6ef",
    dark=False,
)


class SellapiApp(App[None]):
    """``opener`` opens the admin service; it is called again when the database was lost."""

    TITLE = "sellapi"
    CSS_PATH = "app.tcss"
    MODES: ClassVar[dict[str, Callable[[], Screen[Any]]]] = MODES  # type: ignore[assignment]
    TITLES: ClassVar[dict[str, str]] = {name: name.capitalize() for name in MODES}
    DEFAULT_MODE = "now"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012 (as Textual has it)
    VERTICAL_BREAKPOINTS = [(0, "-short"), (36, "-tall")]  # noqa: RUF012
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(n), f"switch_mode('{mode}')", mode.capitalize(), show=False)
            for n, mode in enumerate(MODES, start=1)
        ),
        Binding("ctrl+p", "command_palette", "All acts", key_display="^p", priority=True),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("T", "light", "Theme"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+q", "quit", "Quit", show=False, priority=True),
    ]

    trouble: reactive[str] = reactive("")
    """Why the database cannot be used, in words; empty while it can."""
    servers: reactive[tuple[Server, ...]] = reactive((), always_update=True)
    """Living server processes, as they last wrote of themselves."""

    def __init__(self, opener: Callable[[], Admin]) -> None:
        super().__init__()
        self.link = Link(opener)
        self._looking = self._acting = self._looked = False
        self._pointed_at = Context()
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = "sellapi-dark"

    # -- life ----------------------------------------------------------------------------------

    def on_mount(self) -> None:
        self.set_interval(1.0, self._look)
        self._look()

    def on_unmount(self) -> None:
        self.link.close()

    def _look(self) -> None:
        """Read what servers write once a second; a slow answer is waited for, not piled up."""
        if not self._looking:
            self._looking = True
            self.run_worker(self._read_servers(), group="servers")

    async def _read_servers(self) -> None:
        try:
            found = await self.link.call(lambda admin: admin.servers())
            self.servers = tuple(s for s in found if s.alive)
            self.trouble = ""
        except StorageError as error:
            self.servers = ()
            self.trouble = str(error)
        except Exception as error:  # the screen goes on whatever the look met
            self.trouble = f"the servers' status cannot be read: {error}"
        finally:
            self._looking = False
            self._looked = True

    def watch_trouble(self, old: str, new: str) -> None:
        """What was lost and came back is told once."""
        if old and not new:
            self.notify("The database answers.", title="Back", markup=False)
            self.reload()

    def server_words(self) -> tuple[str, Tone]:
        """``("serving", "good")`` or what else is to say of the server."""
        if self.trouble:
            return "database?", "bad"
        if not self._looked:
            return "looking", "dim"
        if not self.servers:
            return "no server", "warn"
        now = time.time()
        if all(now - s.status_at > FRESH_S for s in self.servers):
            return "silent", "warn"
        if any(s.status.get("trouble") for s in self.servers):
            return "trouble", "bad"
        return "serving", "good"

    def reload(self) -> None:
        """Let the screen that is looked at ask again."""
        for screen in reversed(self.screen_stack):
            if isinstance(screen, Page):
                screen.look_again()
                return

    # -- keys ----------------------------------------------------------------------------------

    def action_light(self) -> None:
        """Dark to light and back."""
        self.theme = "sellapi-light" if self.current_theme.dark else "sellapi-dark"

    async def action_help(self) -> None:
        """What the keys of this screen do."""
        if not isinstance(self.screen, Help):
            await self.push_screen(Help(self.screen))

    def action_act(self, name: str) -> None:
        """Start an act on what is looked at."""
        self._start(name, self._looked_at(self.screen))

    def _looked_at(self, screen: Screen[Any]) -> Context:
        return screen.context() if isinstance(screen, Page) else Context()

    def _start(self, name: str, at: Context) -> None:
        """One act at a time: a key pressed twice does not open two forms."""
        if not self._acting:
            self._acting = True
            self.run_worker(self._act(name, at), group="act")

    async def _act(self, name: str, at: Context) -> None:
        try:
            await BY_NAME[name].start(self, at)
        except Exception as error:  # an act that fails must not take the screens with it
            self.tell_error(error)
        finally:
            self._acting = False

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """No palette over a form or a question: what is chosen there would leave it unanswered."""
        if action == "command_palette" and isinstance(self.screen, ModalScreen):
            return False
        return super().check_action(action, parameters)

    def action_command_palette(self) -> None:
        """The palette, for what is under the cursor now: lists go on while one types."""
        self._pointed_at = self._looked_at(self.screen)
        super().action_command_palette()

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette: every act, every screen, the theme."""
        del screen  # what it shows may have gone on since the palette was called
        at = self._pointed_at

        def starter(name: str) -> Callable[[], None]:
            return lambda: self._start(name, at)

        for act in ACTS:
            yield SystemCommand(act.title, act.help, starter(act.name))
        for mode, title in self.TITLES.items():
            yield SystemCommand(f"Go to {title}", f"The screen {title}", self._goer(mode))
        yield SystemCommand("Light or dark", "Switch the theme", self.action_light)
        yield SystemCommand("Theme", "Choose among all themes", self.action_change_theme)
        yield SystemCommand("Quit", "Leave; the server goes on", self.action_quit)

    def _goer(self, mode: str) -> Callable[[], Any]:
        return lambda: self.switch_mode(mode)

    # -- what acts use (tui.acts.act.Stage) ----------------------------------------------------

    async def fetch(self, call: Callable[[Admin], T]) -> T:
        """``call(admin)`` in a thread."""
        return await self.link.call(call)

    async def fill(self, spec: FormSpec[T]) -> T | None:
        """Show a form and wait for what its act returned."""
        found: T | None = await self.push_screen_wait(Form(spec))
        return found

    async def show_secret(self, title: str, key: NewKey) -> None:
        """Show a key's secret once."""
        await self.push_screen_wait(SecretOnce(title, key))

    def tell(self, words: str, *, bad: bool = False) -> None:
        """A toast."""
        if bad:
            self.notify(plain(words), severity="error", timeout=12, markup=False)
        else:
            self.notify(plain(words), markup=False)

    def done(self, words: str) -> None:
        """Tell it, and look again."""
        self.notify(plain(words), markup=False)
        self.reload()

    def open_page(self, page: str, what: str) -> None:
        """Open a page on top of this screen."""
        self.push_screen(open_page(page, what))

    def tell_error(self, error: Exception) -> None:
        """A toast in words."""
        if isinstance(error, StorageError):
            self.trouble = str(error)
        known = isinstance(error, SellapiError)
        words = str(error) if known else f"{type(error).__name__}: {error}"
        title = "Refused" if known else "That failed"
        self.notify(
            Text(plain(words)).plain, title=title, severity="error", timeout=8, markup=False
        )
