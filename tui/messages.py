"""Messages between widgets and screens."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message

__all__ = ["Chosen", "Moved", "NeedMore"]


@dataclass
class Chosen(Message):
    """A row of a table was opened with Enter or a click; ``item`` is the view it shows."""

    table: str
    item: object


@dataclass
class Moved(Message):
    """The cursor of a table went to another row; ``item`` is None when there is none left."""

    table: str
    item: object


@dataclass
class NeedMore(Message):
    """A table's cursor nears its end: whoever fills it may add a page."""

    table: str
