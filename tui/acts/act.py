"""An act: something the operator does here, by key or palette, with its twin on the command line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from sellapi.admin.service import Admin

__all__ = ["Act", "Context", "Field", "FormSpec", "Line", "Stage", "Values"]

T = TypeVar("T")
Values = dict[str, str]
"""What a form holds when it is sent: stripped text by field name; a flag is ``yes`` or ``""``."""


@dataclass(frozen=True)
class Context:
    """What the operator looks at when an act starts; empty where there is nothing."""

    user: str = ""
    key: int | None = None
    model: str = ""
    route: str = ""
    """``PROVIDER:UPSTREAM-ID`` of the model's route under the cursor."""
    provider: str = ""
    pack: str = ""
    tier: str = ""
    request: str = ""
    entry: int | None = None
    filters: Mapping[str, str] = field(default_factory=dict)
    """What a browsed list is filtered by, as its admin method takes it."""


@dataclass(frozen=True)
class Line:
    """A line of what a form is about to do: ``label: old → new`` (no arrow without ``old``)."""

    label: str
    new: str
    old: str | None = None


@dataclass(frozen=True)
class Field:
    """One line of a form. ``options`` make it a choice, ``flag`` a switch."""

    name: str
    label: str
    value: str = ""
    hint: str = ""
    options: tuple[tuple[str, str], ...] | None = None
    flag: bool = False
    required: bool = False
    users: bool = False
    """Completes e-mails of users."""


@dataclass(frozen=True)
class FormSpec(Generic[T]):
    """A form and what sending it does.

    ``preview`` checks the values and says what would happen; the operator then confirms it. With
    no ``fields`` the form is a question: ``intro`` and two buttons. ``danger``: it destroys.
    """

    title: str
    verb: str
    act: Callable[[Admin, Values], T]
    intro: str = ""
    fields: tuple[Field, ...] = ()
    preview: Callable[[Admin, Values], Sequence[Line]] | None = None
    danger: bool = False


class Stage(Protocol):
    """What an act may use of the app."""

    async def fetch(self, call: Callable[[Admin], T]) -> T:
        """``call(admin)`` in a thread; errors end the act with a toast."""

    async def fill(self, spec: FormSpec[T]) -> T | None:
        """Show a form; None when the operator left it."""

    async def show_secret(self, title: str, key: Any) -> None:
        """Show a new key, this once."""

    def tell(self, words: str, *, bad: bool = False) -> None:
        """A toast."""

    def done(self, words: str) -> None:
        """Tell that an act was done, and let the screens look again."""

    def open_page(self, page: str, what: str) -> None:
        """Open a page (``user``, ``model``, ``request``, ``doctor``) on top."""


@dataclass(frozen=True)
class Act:
    """``name`` is the admin method (``packs.sell``), ``cli`` the command that does the same."""

    name: str
    title: str
    help: str
    cli: str
    start: Callable[[Stage, Context], Awaitable[None]] = field(repr=False)
