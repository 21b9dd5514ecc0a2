"""Which screens there are: one per mode, and the pages that open on top of them."""

from __future__ import annotations

from collections.abc import Callable

from tui.screens.audit import Audit
from tui.screens.catalog import Catalog
from tui.screens.doctor import DoctorPage
from tui.screens.ledger import Ledger
from tui.screens.model import ModelPage
from tui.screens.now import Now
from tui.screens.page import Page
from tui.screens.request import RequestPage
from tui.screens.user import UserPage
from tui.screens.users import Users

__all__ = ["MODES", "PAGES", "open_page"]

MODES: dict[str, Callable[[], Page]] = {
    "now": Now,
    "users": Users,
    "catalog": Catalog,
    "ledger": Ledger,
    "audit": Audit,
}
PAGES: dict[str, Callable[[str], Page]] = {
    "user": UserPage,
    "request": RequestPage,
    "model": ModelPage,
    "doctor": DoctorPage,
}


def open_page(page: str, what: str) -> Page:
    """A new page (``user``, ``request``, …) on ``what``."""
    return PAGES[page](what)
