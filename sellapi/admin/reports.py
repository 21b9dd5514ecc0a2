"""Reports and screens: usage, requests and their receipts, the ledger, the audit, live figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sellapi.admin.core import Noun
from sellapi.admin.credits import entry_view
from sellapi.admin.models import price_view
from sellapi.admin.recorded import recorded
from sellapi.admin.users import find_account
from sellapi.admin.views import (
    AuditRow,
    ChargeStep,
    Entry,
    Minute,
    Pruned,
    Receipt,
    RequestRow,
    Today,
    TopRow,
    UsageReport,
    UsageRow,
    Verified,
)
from sellapi.admin.words import DAY, clean, earlier, parse_since
from sellapi.domain.pricing import Prices, charge, explain
from sellapi.domain.usage import Usage
from sellapi.errors import Refused, UsageError
from sellapi.storage import accounts, audit, catalog, reports, retention, verify
from sellapi.storage.database import Tx

__all__ = ["Audit", "Ledger", "Requests", "Stats", "UsageReports", "usage_from_json"]

DELIVERY = ("pending", "delivered", "undelivered")
STATES = ("held", "settled", "voided", "swept")
ENTRY_KINDS = (
    "signup", "sale", "sale_refund", "grant", "deduct", "charge", "charge_refund", "owed_payment",
)  # fmt: skip
GIVEN, PAID = ("signup", "grant", "charge_refund"), ("sale", "sale_refund")
CHUNK = 500
"""Rows looked up at once."""
Progress = Callable[[int, int], None]
"""``(done, total)``, called now and then during long work."""


def _usage_row(row: dict[str, Any]) -> UsageRow:
    return UsageRow(
        group=row["name"],
        requests=row["requests"],
        voided=row["voided"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        images=row["images"],
        charged=row["charged"],
        cost=row["cost"],
        loss=row["loss"],
        margin=row["charged"] - row["cost"] - row["loss"],
    )


class UsageReports(Noun):
    def report(
        self, *, since: str = "24h", by: str = "model", limit: int | None = None
    ) -> UsageReport:
        """Charges, cost, loss and margin by model, user, key or day.

        Whole UTC days: the day ``since`` lies in counts from its start (sums are kept by day).
        ``limit`` leaves the dearest of users, keys or models; the total is that of all.
        """
        if by not in reports.GROUPS:
            raise UsageError(f"--by is {', '.join(reports.GROUPS)}")
        first_day = parse_since(since, self.desk.now()) // DAY
        with self.read() as tx:
            limit = None if by == "day" else limit
            rows = reports.daily(tx, first_day, by, limit=limit)
            some = limit is not None and len(rows) == limit
            total = reports.daily_total(tx, first_day) if some else reports.total_of(rows)
            acts = reports.acts_since(tx, first_day * DAY * 1000, GIVEN + PAID)
            liability, owed = reports.outstanding(tx)
        granted = sum(acts.get(kind, (0, 0))[0] for kind in ("signup", "grant"))
        return UsageReport(
            since=first_day * DAY,
            by=by,
            rows=tuple(_usage_row(r) for r in rows),
            total=_usage_row(total),
            refunded=acts.get("charge_refund", (0, 0))[0],
            granted=granted,
            cash_usd=sum(acts.get(kind, (0, 0))[1] for kind in PAID),
            liability=liability,
            owed=owed,
        )

    def of_user(self, who: str, *, days: int = 30) -> tuple[UsageRow, ...]:
        """A user's sums by day, for a plot."""
        with self.read() as tx:
            account = find_account(tx, who)
            rows = reports.account_days(tx, account["id"], self.desk.now() // DAY - days + 1)
        return tuple(_usage_row(r) for r in rows)


# -- requests ----------------------------------------------------------------------------------


def request_view(row: dict[str, Any]) -> RequestRow:
    started, first, end = row["created_ms"], row["first_byte_ms"], row["finished_ms"]
    return RequestRow(
        id=row["id"],
        request_id=row["request_id"],
        at=started,
        user=row["email"],
        user_id=row["account_id"],
        key_id=row["key_id"],
        model=row["model"],
        mode=row["mode"],
        state=row["state"],
        delivery=DELIVERY[row["delivery"]],
        streamed=bool(row["streamed"]),
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        images=row["images"],
        hold=row["hold"],
        charge=row["charge"],
        cost=row["cost"],
        loss=row["loss"],
        estimated=bool(row["estimated"]),
        bounded=bool(row["bounded"]),
        provider=row["provider"],
        upstream=row["upstream_id"],
        http_status=row["http_status"],
        error=row["error"],
        finish_reason=row["finish_reason"],
        first_byte_ms=None if first is None else max(0, first - started),
        duration_ms=None if end is None else max(0, end - started),
        refunded=bool(row["refunded"]),
    )


def usage_from_json(text: str | None) -> Usage:
    """A stored request's usage; unknown keys are ignored."""
    return verify.usage_of(text)


def _exact_credits(pico_usd: int) -> str:
    """1e-12 USD as decimal credits, exact (a credit is 1e7 of them)."""
    whole, rest = divmod(pico_usd, 10_000_000)
    digits = f"{rest:07d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def _steps(prices: Prices, usage: Usage, row: dict[str, Any]) -> tuple[ChargeStep, ...]:
    lines = explain(
        prices, usage, size=row["image_size"] or "auto", quality=row["image_quality"] or "auto"
    )
    return tuple(
        ChargeStep(line.bucket, line.count, line.price, line.per, _exact_credits(line.pico_usd))
        for line in lines
    )


def _json_or_text(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _receipt(
    row: dict[str, Any], version: dict[str, Any] | None, entries: Sequence[dict[str, Any]]
) -> Receipt:
    usage = verify.usage_of(row["usage"])
    prices = Prices() if version is None else Prices.from_json(json.loads(version["prices"]))
    size, quality = row["image_size"] or "auto", row["image_quality"] or "auto"
    return Receipt(
        request=request_view(row),
        usage=usage.buckets(),
        usage_raw=_json_or_text(row["usage_raw"]),
        price_version=None if version is None else price_view(version),
        long_context=prices.long_context is not None and usage.total_input > prices.long_context,
        arithmetic=_steps(prices, usage, row),
        recomputed=charge(prices, usage, size=size, quality=quality),
        entries=tuple(entry_view(e) for e in entries),
        attempts=_json_or_text(row["attempts"]),
    )


def _receipts(tx: Tx, rows: Sequence[dict[str, Any]]) -> list[Receipt]:
    entries = accounts.entries_of_requests(tx, [row["request_id"] for row in rows])
    used = {row["price_id"] for row in rows}
    versions = {price_id: catalog.price_version(tx, price_id) for price_id in used}
    return [_receipt(r, versions[r["price_id"]], entries[r["request_id"]]) for r in rows]


class Requests(Noun):
    def list(
        self,
        *,
        user: str | None = None,
        model: str | None = None,
        state: str | None = None,
        undelivered: bool = False,
        before: int | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> tuple[RequestRow, ...]:
        """Requests newest first; with ``after`` (a row id) oldest first from there on (a tail)."""
        if state is not None and state not in STATES:
            raise UsageError(f"a request's state is {', '.join(STATES)}")
        with self.read() as tx:
            rows = reports.requests_page(
                tx,
                account_id=None if user is None else find_account(tx, user)["id"],
                model=model,
                state=state,
                undelivered=undelivered,
                before=before,
                after=after,
                limit=limit,
            )
        return tuple(request_view(r) for r in rows)

    def last_id(self) -> int:
        """The newest request's row id: where a tail begins."""
        with self.read() as tx:
            return reports.last_request_id(tx)

    def show(self, request_id: str) -> Receipt:
        """One request with the arithmetic of its charge, by the price version it used."""
        with self.read() as tx:
            row = reports.request(tx, request_id.strip())
            if row is None:
                raise Refused(
                    f"there is no request {clean(request_id)} (old ones are pruned; their charges "
                    "stand in `sellapi credits statement`)"
                )
            return _receipts(tx, [row])[0]

    def receipts(self, ids: Sequence[int]) -> tuple[Receipt, ...]:
        """The receipts of request rows, by their row ids, in order of id; pruned ones left out."""
        found: list[Receipt] = []
        with self.read() as tx:
            for start in range(0, len(ids), CHUNK):
                rows = reports.requests_by_id(tx, sorted(ids)[start : start + CHUNK])
                found += _receipts(tx, rows)
        return tuple(found)

    def prune(self, *, older_than: str, progress: Progress | None = None) -> Pruned:
        """Remove resolved request rows of a certain age; daily sums and the ledger stay.

        Those of an account from its first unfinished request on stay too.
        """
        before_ms = self._before_ms(older_than)
        pruned = retention.prune(self.desk.database, before_ms, progress)
        with self.act("requests.prune") as act:
            act.say("requests", after={"before_ms": before_ms, "removed": pruned.removed})
        return Pruned(pruned.removed, before_ms, pruned.stayed)

    def prunable(self, *, older_than: str) -> Pruned:
        """What `prune` would remove now; removes nothing."""
        before_ms = self._before_ms(older_than)
        found = retention.count(self.desk.database, before_ms)
        return Pruned(found.removed, before_ms, found.stayed)

    def _before_ms(self, older_than: str) -> int:
        now = self.desk.now()
        before = earlier(older_than, now)
        if now - before < DAY:
            raise UsageError("requests of the last day stay: --older-than 1d or more")
        return before * 1000


# -- ledger and audit --------------------------------------------------------------------------


class Ledger(Noun):
    def verify(self, progress: Progress | None = None) -> Verified:
        """Recompute everything, in chunks; safe beside a running server."""
        found = verify.verify(self.desk.database, progress)
        return Verified(
            ok=found.difference is None,
            accounts=found.accounts,
            entries=found.entries,
            open_holds=found.open_holds,
            requests=found.requests,
            head=found.head,
            difference=found.difference,
        )

    def entries(
        self,
        *,
        user: str | None = None,
        kind: str | None = None,
        since: str | None = None,
        before: int | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> tuple[Entry, ...]:
        """Ledger entries newest first, filtered; ``before`` is the id the page ends above."""
        if kind is not None and kind not in ENTRY_KINDS:
            raise UsageError(f"{clean(kind)!r} is no kind of entry: {', '.join(ENTRY_KINDS)}")
        since_ms = None if since is None else parse_since(since, self.desk.now()) * 1000
        with self.read() as tx:
            account_id = None if user is None else find_account(tx, user)["id"]
            rows = accounts.entry_page(
                tx,
                account_id=account_id,
                kind=kind,
                since_ms=since_ms,
                before=before,
                after=after,
                limit=limit,
            )
        return tuple(entry_view(r) for r in rows)


class Audit(Noun):
    def list(
        self,
        *,
        act: str | None = None,
        actor: str | None = None,
        target: str | None = None,
        since: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> tuple[AuditRow, ...]:
        """Acts of operators, newest first. ``target`` is as shown, or a user's e-mail."""
        since_ms = None if since is None else parse_since(since, self.desk.now()) * 1000
        with self.read() as tx:
            if target is not None and "@" in target:
                target = f"user:{find_account(tx, target)['id']}"
            rows = audit.page(
                tx,
                act=act,
                actor=actor,
                target=target,
                since_ms=since_ms,
                before_id=before,
                limit=limit,
            )
            targets = {row["target"] for row in rows}
            names = _names_now(tx, sorted(t for t in targets if t.startswith("user:")))
        return tuple(_audit_view(row, names.get(row["target"])) for row in rows)


def _names_now(tx: Tx, targets: Sequence[str]) -> dict[str, str]:
    """E-mails by ``user:ID``, as they are now: a deleted user's is gone."""
    found: dict[str, str] = {}
    for start in range(0, len(targets), CHUNK):
        ids = [int(target.removeprefix("user:")) for target in targets[start : start + CHUNK]]
        found |= {f"user:{id_}": email for id_, email in accounts.emails(tx, ids).items()}
    return found


def _audit_view(row: dict[str, Any], name: str | None) -> AuditRow:
    return AuditRow(
        id=row["id"],
        at=row["at_ms"],
        actor=row["actor"],
        via=row["via"],
        act=row["act"],
        target=f"{row['target']} {name}" if name else row["target"],
        before=recorded(row["before"]),
        after=recorded(row["after"]),
    )


# -- live figures ------------------------------------------------------------------------------


class Stats(Noun):
    def minutes(self, *, last: int = 60) -> tuple[Minute, ...]:
        """The last minutes' traffic, one row each, minutes without any included."""
        now_minute = self.desk.now() // 60
        with self.read() as tx:
            rows, rejected = reports.minutes(tx, now_minute - last + 1)
        by_minute = {row["minute"]: row for row in rows}
        found = []
        for minute in range(now_minute - last + 1, now_minute + 1):
            row = by_minute.get(minute, {})
            requests = row.get("requests", 0)
            found.append(
                Minute(
                    at=minute * 60,
                    requests=requests,
                    errors=row.get("errors", 0),
                    tokens=row.get("tokens", 0),
                    charged=row.get("charged", 0),
                    cost=row.get("cost", 0),
                    latency_ms_avg=row.get("latency_ms_sum", 0) // requests if requests else 0,
                    latency_ms_max=row.get("latency_ms_max", 0),
                    rejections=rejected.get(minute, {}),
                )
            )
        return tuple(found)

    def today(self) -> Today:
        """Today's sums (UTC) and the standing of the whole shop."""
        day = self.desk.now() // DAY
        with self.read() as tx:
            total = reports.daily_total(tx, day)
            acts = reports.acts_since(tx, day * DAY * 1000, PAID)
            standing = reports.standing(tx)
        return Today(
            requests=total["requests"],
            voided=total["voided"],
            tokens=total["input_tokens"] + total["output_tokens"],
            charged=total["charged"],
            cost=total["cost"],
            loss=total["loss"],
            margin=total["charged"] - total["cost"] - total["loss"],
            cash_usd=sum(acts.get(kind, (0, 0))[1] for kind in PAID),
            liability=standing["balance"],
            held=standing["held"],
            owed=standing["owed"],
            open_holds=standing["open_holds"],
            users=standing["users"],
        )

    def top(self, by: str, *, days: int = 1, limit: int = 10) -> tuple[TopRow, ...]:
        """The dearest users or models (``by``: user, model, key) of the last UTC days."""
        if by not in ("user", "model", "key"):
            raise UsageError("top is by user, model or key")
        with self.read() as tx:
            rows = reports.top(tx, self.desk.now() // DAY - days + 1, by, limit)
        return tuple(
            TopRow(
                name=r["name"],
                user_id=r.get("account_id"),
                requests=r["requests"],
                tokens=r["input_tokens"] + r["output_tokens"],
                charged=r["charged"],
                cost=r["cost"],
                margin=r["charged"] - r["cost"] - r["loss"],
            )
            for r in rows
        )
