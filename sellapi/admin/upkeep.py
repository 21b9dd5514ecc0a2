"""Status and doctor: how the shop stands, and what may be wrong with it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from sellapi.admin.core import Noun
from sellapi.admin.models import Models
from sellapi.admin.reports import Stats
from sellapi.admin.views import Check, Model, Provider, Server, Status
from sellapi.admin.words import DAY
from sellapi.errors import StorageError
from sellapi.storage import instances, reports
from sellapi.storage.database import Database
from sellapi.storage.migrations import SCHEMA_VERSION
from sellapi.storage.writer import FREE_DISK_BYTES

__all__ = ["Upkeep", "unopened"]

YEAR_2026 = 1_767_225_600


def unopened(database: str | Path, error: StorageError) -> tuple[Check, ...]:
    """Doctor's findings when the database cannot even be opened; the error says how to mend it.

    A full or read-only disk is told by what is around the file: SQLite only says that it cannot.
    """
    found, _, mend = str(error).partition(": ")
    if not mend:
        found, _, mend = found.partition("; ")
    mend = mend or "restore a backup: `sellapi db restore FILE`"
    path = Database(database).path
    around = _file_checks(path) if path.is_file() else []
    return (Check("database", False, found, mend), *around)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _file_checks(path: Path) -> list[Check]:
    """Who may use the database's file, and the disk it is on."""
    info = path.stat()
    open_to_others = stat.S_IMODE(info.st_mode) & 0o077
    checks = [
        Check(
            "permissions",
            not open_to_others,
            f"{path} has mode {stat.S_IMODE(info.st_mode):04o}",
            f"chmod 600 {path}" if open_to_others else "",
        )
    ]
    if info.st_uid != os.geteuid():
        checks.append(
            Check("owner", False, f"{path} belongs to uid {info.st_uid}", "run as its owner")
        )
    return [*checks, _writable(path), _disk(path.parent)]


def _writable(path: Path) -> Check:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        mend = "mount it for writing (`mount -o remount,rw`); `dmesg` may say why it is not"
        return Check("writable", False, f"the disk of {path.parent} is read-only", mend)
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return Check("writable", True, f"{path.parent} is writable", "")
    mend = "let the user of the server write the file and its directory"
    return Check("writable", False, f"{path.parent} is read-only", mend)


def _disk(directory: Path) -> Check:
    free = shutil.disk_usage(directory).free
    ok = free >= FREE_DISK_BYTES * 4
    found = f"{free // 2**20:,} MB free" if free >= 2**20 else f"the disk of {directory} is full"
    mend = "free some space: below 64 MB no new request is taken"
    return Check("disk", ok, found, "" if ok else mend)


class Upkeep(Noun):
    def servers(self) -> tuple[Server, ...]:
        with self.read() as tx:
            rows = instances.all_instances(tx, self.desk.database.path)
        return tuple(
            Server(
                id=r["id"],
                pid=r["pid"],
                host=r["host"],
                alive=r["alive"],
                started_at=r["started_at"],
                status_at=r["status_at"],
                status=r["status"],
            )
            for r in rows
        )

    def status(self) -> Status:
        from sellapi.admin.providers import Providers

        path = self.desk.database.path
        models = Models(self.desk).list()
        return Status(
            database=str(path),
            schema=self.desk.database.schema_version(),
            size_bytes=_size(path),
            wal_bytes=_size(Path(f"{path}-wal")),
            servers=self.servers(),
            models=len(models),
            models_available=sum(m.available for m in models),
            providers=Providers(self.desk).list(),
            today=Stats(self.desk).today(),
        )

    # -- doctor --------------------------------------------------------------------------------

    def doctor(self) -> tuple[Check, ...]:
        from sellapi.admin.providers import Providers

        checks = [*_file_checks(self.desk.database.path), self._integrity(), *self._clock()]
        checks += self._holds()
        models, providers = Models(self.desk).list(), Providers(self.desk).list()
        checks += [_provider_check(p) for p in providers if p.enabled]
        if not any(p.available for p in providers):
            checks.append(
                Check(
                    "providers",
                    False,
                    "no provider can be called",
                    "set a provider's key in the environment of `sellapi serve`, "
                    "for example OPENAI_API_KEY",
                )
            )
        return (*checks, *_model_checks(models))

    def _integrity(self) -> Check:
        version = self.desk.database.schema_version()
        ok = version == SCHEMA_VERSION
        return Check("schema", ok, f"schema {version}", "" if ok else "run `sellapi db migrate`")

    def _clock(self) -> list[Check]:
        now = self.desk.now()
        with self.read() as tx:
            newest_ms = reports.newest_entry_ms(tx)
        ahead = newest_ms // 1000 - now
        ok = now > YEAR_2026 - DAY * 365 and ahead < 60
        detail = (
            f"the newest ledger entry is {ahead} s in the future" if ahead >= 60 else "in order"
        )
        mend = "set the clock (timedatectl set-ntp true): expiry, limits and prices go by it"
        return [Check("clock", ok, detail, "" if ok else mend)]

    def _holds(self) -> list[Check]:
        with self.read() as tx:
            rows = instances.all_instances(tx, self.desk.database.path)
            living = {r["id"] for r in rows if r["alive"]}
            left = reports.holds_by_instance(tx)
            undelivered = reports.undelivered(tx)
            standing = reports.standing(tx)
        orphaned = sum(n for i, n in left.items() if i not in living)
        return [
            Check(
                "open holds",
                orphaned == 0,
                f"{standing['open_holds']} open, {orphaned} of servers that died",
                "start `sellapi serve`: it voids them before it listens" if orphaned else "",
            ),
            Check(
                "undelivered",
                not undelivered,
                f"{undelivered} charged answers were not delivered",
                "look: `sellapi requests list --undelivered`; give back: "
                "`sellapi credits refund REQUEST_ID`"
                if undelivered
                else "",
            ),
        ]


def _provider_check(provider: Provider) -> Check:
    where = provider.api_key_env or provider.api_key_file
    if provider.available and provider.state == "ready":
        return Check(f"provider {provider.name}", True, provider.state, "")
    if provider.broken:
        mend = (
            f"see its base URL and proxy: `sellapi providers show {provider.name}`, then "
            f"`sellapi providers set {provider.name}`; the log of `sellapi serve` has the kind of error"
        )
        return Check(f"provider {provider.name}", False, provider.state, mend)
    if provider.available and provider.proxy_wants:
        mend = (
            f"start `sellapi serve` with {provider.proxy_wants}, or name another way out: "
            f"`sellapi providers set {provider.name} --proxy http://HOST:PORT`"
        )
        return Check(f"provider {provider.name}", False, provider.state, mend)
    if provider.key_refused:
        mend = (
            f"put a key that it takes into {where} (a file is read again by itself, for a variable "
            f"start `sellapi serve` anew), then `sellapi providers test {provider.name}`"
        )
        return Check(f"provider {provider.name}", False, provider.state, mend)
    if provider.available:
        mend = f"ask it: `sellapi providers test {provider.name}`; its status page tells of outages"
        return Check(f"provider {provider.name}", False, provider.state, mend)
    how = f"export {where}=…" if provider.api_key_env else f"write the key to {where}"
    mend = f"{how} for `sellapi serve`, or `sellapi providers set {provider.name} --disable`"
    return Check(f"provider {provider.name}", False, provider.state, mend)


def _model_checks(models: tuple[Model, ...]) -> list[Check]:
    unpriced = [m.slug for m in models if not m.prices]
    unrouted = [m.slug for m in models if m.enabled and not m.routes]
    losing = [m.slug for m in models if m.margin_pct is not None and m.margin_pct < 0]
    checks = []
    for name, slugs, mend in (
        ("unpriced models", unpriced, "sellapi models set SLUG --input … --output …"),
        ("models without a route", unrouted, "sellapi models route SLUG add PROVIDER:ID"),
        ("sold below cost", losing, "sellapi models set SLUG --input … --output …"),
    ):
        detail = ", ".join(slugs[:5]) + (" …" if len(slugs) > 5 else "") if slugs else "none"
        checks.append(Check(name, not slugs, detail, mend if slugs else ""))
    return checks
