"""Keys: bearer secrets of a user, each with its own expiry, models, networks and spend limit."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from sellapi.admin.core import Noun, nameless
from sellapi.admin.views import Key, NewKey, Page
from sellapi.admin.words import clean, later, parse_expiry, parse_ips, parse_name, split_list
from sellapi.domain.credits import parse_credits
from sellapi.domain.keys import mint
from sellapi.errors import Refused, UsageError
from sellapi.storage import accounts
from sellapi.storage.database import Tx

__all__ = ["Keys", "key_view"]

ACTIVE_KEYS_MAX = 1_000
"""Active keys a user may have."""


def _status(row: dict[str, Any], now: int) -> str:
    if row["status"] == "active" and row["expires_at"] is not None and row["expires_at"] <= now:
        return "expired"
    return str(row["status"])


def key_view(row: dict[str, Any], now: int) -> Key:
    """The view of a row with its sums (`accounts.with_sums`)."""
    until = row["old_secret_until"]
    return Key(
        id=row["id"],
        user=row["email"],
        user_id=row["account_id"],
        name=row["name"],
        status=_status(row, now),
        prefix=row["prefix"] or "",
        last4=row["last4"] or "",
        expires_at=row["expires_at"],
        models=None if row["models"] is None else tuple(json.loads(row["models"])),
        ips=None if row["ips"] is None else tuple(json.loads(row["ips"])),
        limit=row["spend_limit"],
        spent=row["charged"],
        held=row["holding"],
        old_secret_until=until if until is not None and until > now else None,
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
    )


def _find(tx: Tx, key_id: int) -> dict[str, Any]:
    row = accounts.key(tx, key_id)
    if row is None:
        raise Refused(f"there is no key {key_id}: `sellapi keys list` shows their ids")
    return row


def _none(text: str) -> bool:
    """Whether a limit or an allowlist is lifted; nothing typed at all lifts none."""
    return text.strip().lower() in ("none", "all", "any", "never")


class Keys(Noun):
    def _columns(
        self,
        tx: Tx,
        name: str | None,
        expires: str | None,
        models: str | None,
        limit: str | None,
        ips: str | None,
    ) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if name is not None:
            values["name"] = parse_name(name)
        if expires is not None:
            values["expires_at"] = parse_expiry(expires, self.desk.now())
        if models is not None:
            slugs = None if _none(models) else split_list(models)
            unknown = accounts.unknown_slugs(tx, slugs or ())
            if unknown:
                raise Refused(
                    f"no model is called {clean(unknown[0])}: `sellapi models list` shows the slugs"
                )
            values["models"] = None if slugs is None else json.dumps(slugs)
        if limit is not None:
            values["spend_limit"] = None if _none(limit) else parse_credits(limit)
        if ips is not None:
            values["ips"] = None if _none(ips) else json.dumps(parse_ips(split_list(ips)))
        return values

    def create(
        self,
        who: str,
        *,
        name: str = "",
        expires: str | None = None,
        models: str | None = None,
        limit: str | None = None,
        ips: str | None = None,
    ) -> NewKey:
        """A new key; its secret is in the answer and nowhere else."""
        from sellapi.admin.users import find_account

        minted = mint()
        with self.act("keys.create") as act:
            account = find_account(act.tx, who)
            if account["status"] == "deleted":
                raise Refused("that user was deleted")
            if account["active_keys"] >= ACTIVE_KEYS_MAX:
                raise Refused(f"a user may have {ACTIVE_KEYS_MAX} active keys: revoke some first")
            values = self._columns(act.tx, name, expires, models, limit, ips)
            key_id = accounts.add_key(act.tx, account["id"], values, self.desk.now())
            accounts.add_secret(act.tx, key_id, minted, self.desk.now())
            act.say(f"key:{key_id}", after={"user": f"user:{account['id']}", **nameless(values)})
        return NewKey(**asdict(self.show(key_id)), key=minted.secret)

    def list(
        self, who: str | None = None, *, before: int | None = None, limit: int = 100
    ) -> Page[Key]:
        """Keys newest first, of one user or of all."""
        from sellapi.admin.users import find_account

        with self.read() as tx:
            account_id = None if who is None else find_account(tx, who)["id"]
            rows = accounts.key_page(tx, account_id=account_id, before=before, limit=limit + 1)
            more, rows = len(rows) > limit, accounts.with_sums(tx, rows[:limit])
        items = tuple(key_view(row, self.desk.now()) for row in rows)
        return Page(items, (rows[-1]["id"], rows[-1]["id"]) if more else None)

    def show(self, key_id: int) -> Key:
        with self.read() as tx:
            return key_view(accounts.with_sums(tx, [_find(tx, key_id)])[0], self.desk.now())

    def set(
        self,
        key_id: int,
        *,
        name: str | None = None,
        expires: str | None = None,
        models: str | None = None,
        limit: str | None = None,
        ips: str | None = None,
    ) -> Key:
        """Change a key; ``none`` lifts an expiry, a limit or an allowlist."""
        with self.act("keys.set") as act:
            row = _find(act.tx, key_id)
            if row["status"] == "revoked":
                raise Refused("that key is revoked, for good: create another")
            values = self._columns(act.tx, name, expires, models, limit, ips)
            if not values:
                raise UsageError("say what to set: --name, --expires, --models, --limit or --ips")
            accounts.change_key(act.tx, key_id, values)
            before = {n: row[n] for n in values}
            act.say(f"key:{key_id}", before=nameless(before), after=nameless(values))
        return self.show(key_id)

    def revoke(self, key_id: int) -> Key:
        """End a key for good; running requests settle."""
        with self.act("keys.revoke") as act:
            row = _find(act.tx, key_id)
            if row["status"] == "revoked":
                act.nothing_done()
            else:
                values = {"status": "revoked", "revoked_at": self.desk.now()}
                accounts.change_key(act.tx, key_id, values)
                act.say(f"key:{key_id}", before={"status": row["status"]}, after=values)
        return self.show(key_id)

    def rotate(self, key_id: int, *, grace: str = "24h") -> NewKey:
        """A new secret for the same key: limit, spend and rate counter stay.

        The old secret works for ``grace`` (``0``: ends now).
        """
        minted, now = mint(), self.desk.now()
        ends = later(grace, now)
        with self.act("keys.rotate") as act:
            row = _find(act.tx, key_id)
            status = _status(row, now)
            if status != "active":
                raise Refused(f"that key is {status}: create another")
            accounts.end_secrets(act.tx, key_id, ends)
            accounts.add_secret(act.tx, key_id, minted, now)
            act.say(f"key:{key_id}", before={"last4": row["last4"]}, after={"last4": minted.last4})
        return NewKey(**asdict(self.show(key_id)), key=minted.secret)
