"""After a round: what clients were told, what the ledger says, and every difference between them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from bench.chaos.load import Answer
from sellapi.storage.database import Database
from sellapi.storage.verify import verify

__all__ = ["Checked", "check"]

UNDELIVERED = 2


class Checked:
    """``differences`` in words (none is what is wanted); ``counts`` for the report."""

    def __init__(self) -> None:
        self.differences: list[str] = []
        self.counts: Counter[str] = Counter()


def check(path: Path, answers: list[Answer], received: set[str], polite_accounts: int) -> Checked:
    """Compare all answers of a round with the ledger; the database has been swept before.

    ``received`` are the requests of all rounds whose answer came to its end, all of the first
    ``polite_accounts`` accounts: other charges of these must be marked undelivered.
    """
    result = Checked()
    database = Database.open(path)
    found = verify(database)
    if found.difference:
        result.differences.append(f"ledger verify: {found.difference}")
    with database.read() as tx:
        if (integrity := tx.value("PRAGMA integrity_check")) != "ok":
            result.differences.append(f"integrity_check: {integrity}")
        for row in tx.rows(
            "SELECT request_id, state, delivery FROM requests WHERE state = 'held' OR delivery = 0"
        ):
            result.differences.append(f"left open after the sweep: {row}")
        for row in tx.rows(
            "SELECT request_id, charge FROM requests WHERE state = 'settled' AND charge > 0 "
            "AND delivery <> ? AND account_id <= ?",
            (UNDELIVERED, polite_accounts),
        ):
            if row["request_id"] not in received:
                result.differences.append(f"charged, not received, not marked undelivered: {row}")
        undelivered = "SELECT count(*) FROM requests WHERE delivery = 2"
        result.counts["charges marked undelivered"] = tx.value(undelivered)
        result.counts["holds swept"] = tx.value("SELECT count(*) FROM requests WHERE state='swept'")
        result.counts["charges"] = tx.value("SELECT count(*) FROM entries WHERE kind = 'charge'")
        for answer in answers:
            row = tx.one(
                "SELECT r.*, (SELECT count(*) FROM entries e WHERE e.request_id = r.request_id "
                "AND e.kind = 'charge') AS entries FROM requests r WHERE request_id = ?",
                (answer.request_id,),
            )
            wrong = _compare(answer, row, result.counts)
            if wrong:
                result.differences.append(f"{answer.request_id}: {wrong}")
    database.close()
    return result


def _compare(answer: Answer, row: dict[str, Any] | None, counts: Counter[str]) -> str | None:
    charged = row is not None and row["state"] == "settled" and row["charge"] > 0
    if answer.complete:
        return _complete(answer, row, counts)
    if answer.status >= 400:
        if charged and not (answer.status == 503 and row["delivery"] == UNDELIVERED):  # type: ignore[index]
            return f"answered {answer.status} and charged {row['charge']}"  # type: ignore[index]
        return None
    if row is None:
        return "the 200 left and there is no row of it"
    if answer.broken:
        counts["streams ended by an error"] += 1
        return None if row["estimated"] or not charged else "cut by the provider, not estimated"
    counts["answers lost on the way"] += 1
    if charged and row["delivery"] != UNDELIVERED:
        return f"the answer was lost and its charge says delivery {row['delivery']}"
    return None


def _complete(answer: Answer, row: dict[str, Any] | None, counts: Counter[str]) -> str | None:
    counts["answers received whole"] += 1
    if row is None or row["state"] != "settled":
        return f"received whole, and the ledger says {row and row['state']}"
    if row["entries"] != (1 if row["charge"] else 0):
        return f"received whole, and charged {row['entries']} times"
    if row["charge"] != answer.charged:
        return f"the client was told {answer.charged}, the ledger says {row['charge']}"
    if answer.expected is not None and not row["estimated"]:
        counts["of these recomputed to the microcredit"] += 1
        if answer.expected != row["charge"]:
            return f"the client computes {answer.expected}, the ledger says {row['charge']}"
    return None
