"""Users: the people and programs that buy credits."""

from __future__ import annotations

import sqlite3
from typing import Any

from sellapi.admin.core import Noun, nameless
from sellapi.admin.keys import key_view
from sellapi.admin.views import Page, User, UserDetail
from sellapi.admin.words import DAY, clean, parse_email, parse_name
from sellapi.domain.catalog import TIERS
from sellapi.errors import Refused, UsageError
from sellapi.storage import accounts, catalog, ledger, reports
from sellapi.storage.database import Tx

__all__ = ["Users", "find_account", "user_view"]


def user_view(row: dict[str, Any]) -> User:
    return User(
        id=row["id"],
        email=row["email"],
        name=row["name"],
        tier=row["tier"],
        status=row["status"],
        balance=row["balance"],
        held=row["held"],
        available=row["balance"] - row["held"],
        owed=row["owed"],
        active_keys=row["active_keys"],
        created_at=row["created_at"],
    )


def find_account(tx: Tx, who: str) -> dict[str, Any]:
    """The account of an e-mail or id; raises `Refused` when there is none."""
    row = accounts.account(tx, who.strip().lower())
    if row is None:
        raise Refused(f"there is no user {clean(who)}: `sellapi users list` shows who there is")
    return row


def _known_tier(tier: str) -> str:
    if tier not in TIERS:
        raise UsageError(f"{clean(tier)!r} is no tier: free or pro")
    return tier


class Users(Noun):
    def add(self, email: str, *, name: str = "") -> User:
        """A new user on the free tier, with its signup credits."""
        email, name = parse_email(email), parse_name(name)
        with self.act("users.add") as act:
            if accounts.account(act.tx, email):
                raise Refused(f"{email} is a user already")
            try:
                account_id = accounts.add_account(act.tx, email, name, self.desk.now())
            except sqlite3.IntegrityError:
                raise Refused(f"{email} is a user already") from None
            signup = catalog.signup_credits(act.tx, "free")
            if signup:
                ledger.credit(
                    act.tx,
                    account_id,
                    "signup",
                    signup,
                    now_ms=self.desk.now_ms(),
                    actor=self.desk.actor,
                    reason="credits every new user starts with",
                )
            act.say(f"user:{account_id}", after={"tier": "free", "credits": signup})
            return user_view(find_account(act.tx, str(account_id)))

    def list(
        self,
        *,
        search: str = "",
        tier: str | None = None,
        status: str | None = None,
        sort: str = "id",
        descending: bool = False,
        after: tuple[Any, int] | None = None,
        limit: int = 50,
    ) -> Page[User]:
        """Users by keyset. ``sort``: id, email, balance, owed, created. ``search`` is part of an
        e-mail or a name.
        """
        if sort not in accounts.SORTS:
            raise UsageError(f"users sort by {', '.join(accounts.SORTS)}")
        with self.read() as tx:
            rows = accounts.account_page(
                tx,
                search=search.strip(),
                tier=tier,
                status=status,
                sort=sort,
                descending=descending,
                after=after,
                limit=limit + 1,
            )
        column = accounts.SORTS[sort].name
        more = len(rows) > limit
        rows = rows[:limit]
        following = (rows[-1][column], rows[-1]["id"]) if more else None
        return Page(tuple(user_view(row) for row in rows), following)

    def show(self, who: str) -> User:
        """One user, by e-mail or id."""
        with self.read() as tx:
            return user_view(find_account(tx, who))

    def detail(self, who: str) -> UserDetail:
        """One user's page: keys, purchases, the last 30 days."""
        with self.read() as tx:
            row = find_account(tx, who)
            packs, cash = accounts.sales_standing(tx, row["id"])
            since_day = self.desk.now() // DAY - 30
            charged, requests = reports.account_since(tx, row["id"], since_day)
            keys = accounts.key_page(tx, account_id=row["id"], before=None, limit=200)
            keys = accounts.with_sums(tx, keys)
            return UserDetail(
                user=user_view(row),
                keys=tuple(key_view(k, self.desk.now()) for k in keys),
                packs_bought=packs,
                cash=cash,
                charged_30d=charged,
                requests_30d=requests,
                last_request_at=reports.last_request_ms(tx, row["id"]),
            )

    def count(self) -> int:
        """How many users there are, deleted ones aside."""
        with self.read() as tx:
            return accounts.count(tx)

    def set(
        self,
        who: str,
        *,
        tier: str | None = None,
        email: str | None = None,
        name: str | None = None,
    ) -> User:
        """Change tier, e-mail or name."""
        values: dict[str, Any] = {}
        if tier is not None:
            values["tier"] = _known_tier(tier)
        if email is not None:
            values["email"] = parse_email(email)
        if name is not None:
            values["name"] = parse_name(name)
        if not values:
            raise UsageError("say what to set: --tier, --email or --name")
        with self.act("users.set") as act:
            row = _living(find_account(act.tx, who))
            other = accounts.account(act.tx, values["email"]) if "email" in values else None
            if other and other["id"] != row["id"]:
                raise Refused(f"{values['email']} belongs to another user")
            accounts.change_account(act.tx, row["id"], values)
            act.say(
                f"user:{row['id']}",
                before=nameless({n: row[n] for n in values}),
                after=nameless(values),
            )
            return user_view(find_account(act.tx, str(row["id"])))

    def suspend(self, who: str, *, now: bool = False) -> User:
        """No new requests. Running ones end by themselves and are charged; with ``now`` the server
        also stops them (it reads ``stop_running`` beside the raised account version).
        """
        with self.act("users.suspend") as act:
            row = _living(find_account(act.tx, who))
            accounts.change_account(
                act.tx, row["id"], {"status": "suspended", "stop_running": int(now)}
            )
            act.say(
                f"user:{row['id']}",
                before={"status": row["status"]},
                after={"status": "suspended", "now": now},
            )
            return user_view(find_account(act.tx, str(row["id"])))

    def resume(self, who: str) -> User:
        """Lift a suspension."""
        with self.act("users.resume") as act:
            row = _living(find_account(act.tx, who))
            accounts.change_account(act.tx, row["id"], {"status": "active", "stop_running": 0})
            act.say(
                f"user:{row['id']}", before={"status": row["status"]}, after={"status": "active"}
            )
            return user_view(find_account(act.tx, str(row["id"])))

    def delete(self, who: str) -> User:
        """Forget who a user was: e-mail and name go, keys are revoked, the ledger stays."""
        with self.act("users.delete") as act:
            row = _living(find_account(act.tx, who))
            accounts.forget_keys(act.tx, row["id"], self.desk.now())
            # An e-mail has no colon: nobody can have been added under this name.
            accounts.change_account(
                act.tx,
                row["id"],
                {"status": "deleted", "email": f"deleted:{row['id']}@invalid", "name": ""},
            )
            act.say(
                f"user:{row['id']}",
                before={"status": row["status"], "balance": row["balance"]},
                after={"status": "deleted"},
            )
            return user_view(find_account(act.tx, str(row["id"])))


def _living(row: dict[str, Any]) -> dict[str, Any]:
    if row["status"] == "deleted":
        raise Refused("that user was deleted; deletion is final")
    return row
