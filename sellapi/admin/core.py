"""What every noun of the admin service stands on: the database, who acts, and when."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from sellapi.storage import audit
from sellapi.storage.database import Database, Tx

__all__ = ["Act", "Desk", "Noun", "nameless"]


def nameless(values: Mapping[str, Any]) -> dict[str, Any]:
    """What an act changed, for the audit, without what people call themselves and their keys.

    An audit row is for ever; what a deleted user was called must not live on in it.
    """
    return {n: "(not recorded)" if n in ("email", "name") else v for n, v in values.items()}


class Desk:
    """Who works on which database, by which door (``cli``, ``tui``), with which environment."""

    def __init__(
        self,
        database: Database,
        *,
        actor: str,
        via: str,
        env: Mapping[str, str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database = database
        self.actor = actor
        self.via = via
        self.env = env
        self.clock = clock

    def now(self) -> int:
        """Unix seconds."""
        return int(self.clock())

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return int(self.clock() * 1000)


class Act:
    """One act's transaction; `say` fills the audit row written with it."""

    __slots__ = ("after", "before", "quiet", "target", "tx")

    def __init__(self, tx: Tx) -> None:
        self.tx = tx
        self.target = ""
        self.before: Any = None
        self.after: Any = None
        self.quiet = False

    def say(self, target: str, *, before: Any = None, after: Any = None) -> None:
        """What was acted on, and how it was and is (JSON-ready; never a secret or an e-mail)."""
        self.target, self.before, self.after = target, before, after

    def nothing_done(self) -> None:
        """The act was a repetition and changed nothing: no audit row."""
        self.quiet = True


class Noun:
    """Base of the nouns: `act` for changes, `read` for looks."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    @contextmanager
    def act(self, name: str, within: Tx | None = None) -> Iterator[Act]:
        """A transaction with its audit row; any exception leaves neither.

        ``within`` a running transaction it ends with that: several acts, or none of them.
        """
        with nullcontext(within) if within else self.desk.database.transaction() as tx:
            act = Act(tx)
            yield act
            if act.quiet:
                return
            audit.record(
                tx,
                at_ms=self.desk.now_ms(),
                actor=self.desk.actor,
                via=self.desk.via,
                act=name,
                target=act.target,
                before=None if act.before is None else json.dumps(act.before, sort_keys=True),
                after=None if act.after is None else json.dumps(act.after, sort_keys=True),
            )

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """Single statements, no snapshot held."""
        with self.desk.database.read() as tx:
            yield tx
