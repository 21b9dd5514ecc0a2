"""Credits by hand: grants, deductions, refunds of requests, statements."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from sellapi.admin.core import Act, Noun
from sellapi.admin.users import find_account
from sellapi.admin.views import Entry, LedgerAct, Statement
from sellapi.admin.words import clean, parse_since
from sellapi.domain.credits import parse_credits
from sellapi.errors import Refused, UsageError
from sellapi.storage import accounts, ledger, reports
from sellapi.storage.database import Tx

__all__ = ["Credits", "entry_view", "find_repeat", "known_reference", "ledger_act", "once"]

CHUNK = 1_000
STATEMENT_MAX = 1_000_000
"""Entries of one statement; a longer one is asked for in parts."""
T = TypeVar("T")


def once(attempt: Callable[[], T]) -> T:
    """Run an act again when another process wrote the same reference between look and write.

    The UNIQUE index decides such a race; the second run then finds what the first one wrote.
    """
    try:
        return attempt()
    except sqlite3.IntegrityError:
        return attempt()


def known_reference(reference: str | None) -> str | None:
    """A reference as stored; raises `UsageError`."""
    if reference is None:
        return None
    text = reference.strip()
    if not text or len(text) > 200 or clean(text) != text:
        raise UsageError("a reference is a text of 1 to 200 printable characters")
    return text


def _known_reason(reason: str) -> str:
    text = reason.strip()
    if not text or len(text) > 1_000:
        raise UsageError("give a reason (at most 1,000 characters): it stands in the ledger")
    return text


_SAID = {"account_id": "user", "pack_id": "pack", "cash_micro_usd": "what was paid"}


def find_repeat(tx: Tx, reference: str | None, same: dict[str, Any]) -> dict[str, Any] | None:
    """The entry a reference stands for already, None when it is new.

    ``same`` is what the act would write (``amount`` asked for, columns otherwise). Raises `Refused`
    when the reference was used for something else.
    """
    if reference is None:
        return None
    row = accounts.entry(tx, reference=reference)
    if row is None:
        return None
    written = {**row, "amount": abs(row["amount"]) + row["owed_change"]}
    other = [name for name, value in same.items() if written[name] != value]
    if other:
        raise Refused(
            f"reference {clean(reference)} was used for another act (entry {row['id']}: "
            f"{row['kind']} for {row['email']}); they differ in "
            f"{', '.join(_SAID.get(name, name) for name in other)}"
        )
    return row


def entry_view(row: dict[str, Any]) -> Entry:
    return Entry(
        id=row["id"],
        user=row["email"],
        user_id=row["account_id"],
        kind=row["kind"],
        amount=row["amount"],
        owed_change=row["owed_change"],
        balance_after=row["balance_after"],
        owed_after=row["owed_after"],
        key_id=row["key_id"],
        request_id=row["request_id"],
        pack=row["pack"],
        of_entry=row["of_entry"],
        cash_usd=row["cash_micro_usd"],
        reference=row["reference"],
        reason=row["reason"],
        actor=row["actor"],
        at=row["created_ms"],
    )


def ledger_act(tx: Tx, entry_id: int, *, repeated: bool) -> LedgerAct:
    """The view of an act by the entry it wrote."""
    row = accounts.entry(tx, entry_id=entry_id)
    assert row is not None
    balance, owed = accounts.standing_after(tx, row)
    account = find_account(tx, str(row["account_id"]))
    return LedgerAct(
        user=row["email"],
        kind=row["kind"],
        amount=row["amount"],
        owed_change=row["owed_change"],
        balance=balance,
        owed=owed,
        tier=account["tier"],
        entry=row["id"],
        of_entry=row["of_entry"],
        request_id=row["request_id"],
        cash_usd=row["cash_micro_usd"],
        reference=row["reference"],
        reason=row["reason"],
        repeated=repeated,
    )


def say_entry(act: Act, view: LedgerAct, account_id: int) -> None:
    """How the account stood before the act's own entry (a debt may be paid by another behind it)."""
    row = accounts.entry(act.tx, entry_id=view.entry)
    assert row is not None
    balance, owed = row["balance_after"] - row["amount"], row["owed_after"] - row["owed_change"]
    act.say(
        f"user:{account_id}",
        before={"balance": balance, "owed": owed},
        after={"balance": view.balance, "owed": view.owed, "entry": view.entry},
    )


def _why_uncharged(tx: Tx, request_id: str) -> str:
    row = reports.request(tx, request_id)
    if row is None:
        return f"there is no request {clean(request_id)}: `sellapi requests list` shows them"
    if row["state"] == "held":
        return f"request {clean(request_id)} still runs: it is charged, if at all, when it ends"
    return f"request {clean(request_id)} was not charged: `sellapi requests show` tells why"


def _charge_and_refund(tx: Tx, request_id: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What a request was charged and, if it was, how that was given back."""
    rows = {r["kind"]: r for r in accounts.entries_of_requests(tx, [request_id])[request_id]}
    if "charge" not in rows:
        raise Refused(_why_uncharged(tx, request_id))
    return rows["charge"], rows.get("charge_refund")


def _history(tx: Tx, account_id: int, since_ms: int | None, until_ms: int | None) -> list[Entry]:
    """An account's entries, newest first, from before ``until`` to somewhat before ``since``."""
    found: list[Entry] = []
    before = None
    while rows := accounts.entry_page(tx, account_id=account_id, before=before, limit=CHUNK):
        before = rows[-1]["id"]
        for row in rows:
            if until_ms is not None and row["created_ms"] >= until_ms:
                found.clear()  # newer than one that is too new
            else:
                found.append(entry_view(row))
        if since_ms is not None and rows[-1]["created_ms"] < since_ms - accounts.LATE_MS:
            break
        if len(found) > STATEMENT_MAX:
            raise Refused("that is over a million entries: ask for less with --since")
    return found


class Credits(Noun):
    def grant(
        self, who: str, amount: str, *, reason: str, reference: str | None = None
    ) -> LedgerAct:
        """Give credits; what the user owes is paid first."""
        return once(lambda: self._change("grant", who, amount, reason, reference, False))

    def deduct(
        self,
        who: str,
        amount: str,
        *,
        reason: str,
        reference: str | None = None,
        allow_debt: bool = False,
    ) -> LedgerAct:
        """Take credits: at most what is available; with ``allow_debt`` the rest becomes owed."""
        return once(lambda: self._change("deduct", who, amount, reason, reference, allow_debt))

    def _change(
        self, kind: str, who: str, amount: str, reason: str, reference: str | None, debt: bool
    ) -> LedgerAct:
        value, reason, reference = (
            parse_credits(amount),
            _known_reason(reason),
            known_reference(reference),
        )
        if value == 0:
            raise UsageError("an amount of 0 changes nothing")
        with self.act(f"credits.{kind}") as act:
            account = find_account(act.tx, who)
            same = {"kind": kind, "account_id": account["id"], "amount": value, "reason": reason}
            repeat = find_repeat(act.tx, reference, same)
            if repeat:
                act.nothing_done()
                return ledger_act(act.tx, repeat["id"], repeated=True)
            details: dict[str, Any] = {
                "now_ms": self.desk.now_ms(),
                "actor": self.desk.actor,
                "reason": reason,
                "reference": reference,
            }
            if kind == "grant":
                entry = ledger.credit(act.tx, account["id"], kind, value, **details)
            else:
                entry = ledger.debit(act.tx, account["id"], kind, value, allow_debt=debt, **details)
            view = ledger_act(act.tx, entry.id, repeated=False)
            say_entry(act, view, account["id"])
            return view

    def refund(self, request_id: str, *, reason: str = "") -> LedgerAct:
        """Give back what a request was charged, once; a second time prints the first result."""
        return once(lambda: self._refund(request_id.strip(), reason.strip()))

    def charge(self, request_id: str) -> Entry:
        """The charge a refund would give back; refused when there is none, or none any more."""
        with self.read() as tx:
            charge, done = _charge_and_refund(tx, request_id.strip())
        if done:
            raise Refused(f"request {clean(request_id)} was refunded before: entry {done['id']}")
        return entry_view(charge)

    def _refund(self, request_id: str, reason: str) -> LedgerAct:
        with self.act("credits.refund") as act:
            charge, done = _charge_and_refund(act.tx, request_id)
            if done:
                act.nothing_done()
                return ledger_act(act.tx, done["id"], repeated=True)
            entry = ledger.credit(
                act.tx,
                charge["account_id"],
                "charge_refund",
                charge["owed_change"] - charge["amount"],
                now_ms=self.desk.now_ms(),
                actor=self.desk.actor,
                reason=reason or "request refunded",
                of_entry=charge["id"],
                request_id=request_id,
            )
            view = ledger_act(act.tx, entry.id, repeated=False)
            say_entry(act, view, charge["account_id"])
            return view

    def statement(
        self, who: str, *, since: str | None = None, until: str | None = None
    ) -> Statement:
        """A user's ledger: opening balance + entries = closing balance.

        ``since`` and ``until`` are UTC days (from the start of the one to the end of the other) or
        durations ago. Entries are ordered by id; an entry belongs to a time by its id too: from the
        first one at or after ``since`` up to the last one before ``until``.
        """
        now = self.desk.now()
        since_ms = None if since is None else parse_since(since, now) * 1000
        until_ms = None if until is None else parse_since(until, now) * 1000
        if until is not None and "-" in until and until_ms is not None:
            until_ms += 86_400_000
        if since_ms is not None and until_ms is not None and since_ms > until_ms:
            raise UsageError("--since is later than --until")
        with self.read() as tx:
            account = find_account(tx, who)
            entries = _history(tx, account["id"], since_ms, until_ms)
        opening = opening_owed = 0
        while entries and since_ms is not None and entries[-1].at < since_ms:
            older = entries.pop()
            opening, opening_owed = older.balance_after, older.owed_after
        entries.reverse()
        closing, closing_owed = opening, opening_owed
        totals: dict[str, int] = {}
        for entry in entries:
            totals[entry.kind] = totals.get(entry.kind, 0) + entry.amount
            closing += entry.amount
            closing_owed += entry.owed_change
        return Statement(
            user=account["email"],
            since=since_ms,
            until=until_ms,
            opening_balance=opening,
            closing_balance=closing,
            opening_owed=opening_owed,
            closing_owed=closing_owed,
            totals=totals,
            entries=tuple(entries),
        )
