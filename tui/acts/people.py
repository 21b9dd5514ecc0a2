"""Acts on users and their keys."""

from __future__ import annotations

from typing import Any

from sellapi.admin.service import Admin
from sellapi.admin.views import Key, User
from sellapi.admin.words import later
from tui.acts.act import Act, Context, Field, FormSpec, Line, Stage, Values
from tui.acts.typed import differing, number
from tui.words import amount, day_time

__all__ = ["ACTS", "who"]


def who(at: Context) -> Field:
    """The field that names a user, filled with the one looked at."""
    return Field("user", "User", at.user, "e-mail or id", required=True, users=True)


def _words(values: Values, *names: str) -> dict[str, Any]:
    """Only what was filled in."""
    return {name: values[name] for name in names if values[name]}


async def add(stage: Stage, _at: Context) -> None:
    user = await stage.fill(
        FormSpec(
            title="Add a user",
            verb="Add",
            intro="A new user starts on the free tier, with its signup credits.",
            fields=(
                Field("email", "E-mail", hint="ann@example.com", required=True),
                Field("name", "Name", hint="optional"),
            ),
            act=lambda admin, v: admin.users.add(v["email"], name=v["name"]),
        )
    )
    if user is not None:
        stage.done(f"{user.email} starts with {amount(user.balance)} credits.")
        stage.open_page("user", str(user.id))


def _set_preview(old: User) -> Any:
    def preview(admin: Admin, values: Values) -> list[Line]:
        del admin
        now = {"email": old.email, "name": old.name, "tier": old.tier}
        lines = [Line(name, values[name], now[name]) for name in now if values[name] != now[name]]
        return differing(lines)

    return preview


async def edit(stage: Stage, at: Context) -> None:
    target = at.user or await _ask_user(stage, "Change which user?")
    if not target:
        return
    old = await stage.fetch(lambda admin: admin.users.show(target))

    def act(admin: Admin, values: Values) -> User:
        now = {"email": old.email, "name": old.name, "tier": old.tier}
        changed = {n: values[n] for n in now if values[n] != now[n]}
        return admin.users.set(str(old.id), **changed)

    user = await stage.fill(
        FormSpec(
            title=f"Change {old.email}",
            verb="Change",
            fields=(
                Field("email", "E-mail", old.email, required=True),
                Field("name", "Name", old.name),
                Field(
                    "tier", "Tier", old.tier, options=(("free", "free"), ("pro", "pro")),
                    required=True,
                ),
            ),
            preview=_set_preview(old),
            act=act,
        )
    )  # fmt: skip
    if user is not None:
        stage.done(f"{user.email} is changed.")


async def _ask_user(stage: Stage, title: str) -> str:
    user = await stage.fill(
        FormSpec(
            title=title,
            verb="Go on",
            fields=(who(Context()),),
            act=lambda admin, v: admin.users.show(v["user"]),
        )
    )
    return "" if user is None else str(user.id)


async def _question(
    stage: Stage, at: Context, title: str, intro: str, verb: str, act: Any, *, danger: bool = True
) -> Any:
    """A question about one user, who is asked for when none is looked at."""
    target = at.user or await _ask_user(stage, f"{title}: whom?")
    if not target:
        return None
    user = await stage.fetch(lambda admin: admin.users.show(target))
    return await stage.fill(
        FormSpec(
            title=f"{title}?",
            intro=f"{user.email} ({user.tier}, {amount(user.balance)} credits)\n\n{intro}",
            verb=verb,
            danger=danger,
            act=lambda admin, _v: act(admin, str(user.id)),
        )
    )


async def suspend(stage: Stage, at: Context) -> None:
    user = await _question(
        stage,
        at,
        "Suspend this user",
        "Its keys answer 401 from the next request on. Running requests end and are charged.",
        "Suspend",
        lambda admin, target: admin.users.suspend(target),
    )
    if user is not None:
        stage.done(f"{user.email} is suspended.")


async def resume(stage: Stage, at: Context) -> None:
    target = at.user or await _ask_user(stage, "Resume which user?")
    if target:
        user = await stage.fetch(lambda admin: admin.users.resume(target))
        stage.done(f"{user.email} is active.")


async def delete(stage: Stage, at: Context) -> None:
    user = await _question(
        stage,
        at,
        "Delete this user",
        "E-mail and name are forgotten, all keys are revoked, for good. The ledger stays.",
        "Delete",
        lambda admin, target: admin.users.delete(target),
    )
    if user is not None:
        stage.done(f"User {user.id} is deleted.")


# -- keys --------------------------------------------------------------------------------------

_KEY_FIELDS = ("name", "expires", "models", "limit", "ips")


async def issue(stage: Stage, at: Context) -> None:
    key = await stage.fill(
        FormSpec(
            title="Issue a key",
            verb="Issue",
            fields=(
                who(at),
                Field("name", "Name", hint="optional, e.g. laptop"),
                Field("expires", "Expires", hint="never; or 30d, 2027-01-31"),
                Field("models", "Models", hint="all; or slugs with commas"),
                Field("limit", "Limit", hint="none; or credits it may spend"),
                Field("ips", "Networks", hint="any; or 10.0.0.0/8, 203.0.113.7"),
            ),
            act=lambda admin, v: admin.keys.create(v["user"], **_words(v, *_KEY_FIELDS)),
        )
    )
    if key is not None:
        await stage.show_secret("The new key", key)
        stage.done(f"Key {key.id} of {key.user} is issued.")


async def _ask_key(stage: Stage, at: Context, title: str) -> Any:
    if at.key is not None:
        key_id = at.key
        return await stage.fetch(lambda admin: admin.keys.show(key_id))
    return await stage.fill(
        FormSpec(
            title=title,
            verb="Go on",
            fields=(Field("key", "Key", hint="its number, see a user's page", required=True),),
            act=lambda admin, v: admin.keys.show(number(v["key"])),
        )
    )


def _named(key: Key) -> str:
    """A key as people know it: number, name, both ends."""
    return f"{key.id} {key.name!r} {key.prefix}…{key.last4}"


async def set_key(stage: Stage, at: Context) -> None:
    old = await _ask_key(stage, at, "Change which key?")
    if old is None:
        return
    before = {
        "name": old.name,
        "expires": "never" if old.expires_at is None else day_time(old.expires_at * 1000),
        "models": "all" if old.models is None else ", ".join(old.models),
        "limit": "none" if old.limit is None else amount(old.limit),
        "ips": "any" if old.ips is None else ", ".join(old.ips),
    }
    key = await stage.fill(
        FormSpec(
            title=f"Change key {old.id} of {old.user}",
            intro="What is left empty stays as it is; none, all or never lifts it.",
            verb="Change",
            fields=tuple(
                Field(name, label, hint=before[name])
                for name, label in zip(
                    _KEY_FIELDS, ("Name", "Expires", "Models", "Limit", "Networks"), strict=True
                )
            ),
            preview=lambda _admin, v: differing(
                [Line(n, v[n], before[n]) for n in _KEY_FIELDS if v[n]]
            ),
            act=lambda admin, v: admin.keys.set(old.id, **_words(v, *_KEY_FIELDS)),
        )
    )
    if key is not None:
        stage.done(f"Key {key.id} is changed.")


async def revoke(stage: Stage, at: Context) -> None:
    old = await _ask_key(stage, at, "Revoke which key?")
    if old is None:
        return
    key = await stage.fill(
        FormSpec(
            title="Revoke this key?",
            intro=f"Key {_named(old)} of {old.user}\n\n"
            "It answers 401 from the next request on, for good. Running requests are charged.",
            verb="Revoke",
            danger=True,
            act=lambda admin, _v: admin.keys.revoke(old.id),
        )
    )
    if key is not None:
        stage.done(f"Key {key.id} is revoked.")


async def rotate(stage: Stage, at: Context) -> None:
    old = await _ask_key(stage, at, "Rotate which key?")
    if old is None:
        return

    def preview(admin: Admin, values: Values) -> list[Line]:
        now = admin.desk.now()
        until = later(values["grace"], now)
        return [
            Line("key", _named(old)),
            Line("user", old.user),
            Line(
                "old secret",
                f"works until {day_time(until * 1000)} UTC" if until > now else "ends at once",
            ),
        ]

    key = await stage.fill(
        FormSpec(
            title=f"Rotate key {old.id} of {old.user}",
            intro="A new secret for the same key; limit and spend stay.",
            verb="Rotate",
            fields=(
                Field("grace", "Old secret", "24h", "works on for: 24h, 7d, 0", required=True),
            ),
            preview=preview,
            act=lambda admin, v: admin.keys.rotate(old.id, grace=v["grace"]),
        )
    )
    if key is not None:
        await stage.show_secret("The key's new secret", key)
        stage.done(f"Key {key.id} is rotated.")


ACTS = (
    Act("users.add", "Add a user", "A new user with its signup credits", "users add", add),
    Act("users.set", "Change a user", "Tier, e-mail, name", "users set", edit),
    Act("users.suspend", "Suspend a user", "No new requests", "users suspend", suspend),
    Act("users.resume", "Resume a user", "Lift a suspension", "users resume", resume),
    Act("users.delete", "Delete a user", "Forget who it was; final", "users delete", delete),
    Act("keys.create", "Issue a key", "Its secret is shown once", "keys create", issue),
    Act("keys.set", "Change a key", "Name, expiry, models, limit", "keys set", set_key),
    Act("keys.revoke", "Revoke a key", "It ends for good", "keys revoke", revoke),
    Act("keys.rotate", "Rotate a key", "A new secret, the old one ends", "keys rotate", rotate),
)
