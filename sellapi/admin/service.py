"""Every act of an operator as one method, the same for the command line and the screens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from sellapi.admin.core import Desk
from sellapi.admin.credits import Credits
from sellapi.admin.keys import Keys
from sellapi.admin.models import Models
from sellapi.admin.packs import Packs, Tiers
from sellapi.admin.providers import Providers
from sellapi.admin.reports import Audit, Ledger, Requests, Stats, UsageReports
from sellapi.admin.upkeep import Upkeep
from sellapi.admin.users import Users
from sellapi.admin.views import Check, Server, Status
from sellapi.storage.database import Database

__all__ = ["Admin"]


class Admin:
    """The operator's side of one database; one attribute per noun.

    ``actor`` and ``via`` (``cli``, ``tui``) go into the audit; ``env`` is where providers' keys are
    looked for (only whether they are there). Safe to use from several threads: connections are one
    per thread. Methods raise `Refused`, `UsageError` and `StorageError`.
    """

    def __init__(
        self,
        database: Database,
        *,
        actor: str,
        via: str,
        env: Mapping[str, str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        desk = Desk(database, actor=actor, via=via, env=env, clock=clock)
        self.desk = desk
        self.users = Users(desk)
        self.keys = Keys(desk)
        self.packs = Packs(desk)
        self.tiers = Tiers(desk)
        self.credits = Credits(desk)
        self.providers = Providers(desk)
        self.models = Models(desk)
        self.usage = UsageReports(desk)
        self.requests = Requests(desk)
        self.ledger = Ledger(desk)
        self.audit = Audit(desk)
        self.stats = Stats(desk)
        self.upkeep = Upkeep(desk)

    def status(self) -> Status:
        """The whole shop at a glance, also when no server runs."""
        return self.upkeep.status()

    def servers(self) -> tuple[Server, ...]:
        """Server processes and what they last wrote of themselves."""
        return self.upkeep.servers()

    def doctor(self) -> tuple[Check, ...]:
        """What may be wrong, each with how to mend it."""
        return self.upkeep.doctor()
