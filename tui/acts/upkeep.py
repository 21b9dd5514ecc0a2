"""Acts on the shop as a whole: verify, doctor, backup, prune, export."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from sellapi.admin import files
from sellapi.admin.service import Admin
from sellapi.admin.views import BackupResult
from sellapi.errors import UsageError
from tui.acts.act import Act, Context, Field, FormSpec, Line, Stage, Values
from tui.export import export_audit, export_ledger
from tui.words import day_time

__all__ = ["ACTS"]


def _today() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%d")


async def verify(stage: Stage, _at: Context) -> None:
    stage.tell("Recomputing the whole ledger …")
    found = await stage.fetch(lambda admin: admin.ledger.verify())
    if found.ok:
        stage.done(
            f"The ledger is sound: {found.accounts:,} accounts, {found.entries:,} entries, "
            f"{found.open_holds:,} open holds. Head {found.head[:16]}…"
        )
    else:
        stage.tell(f"The ledger is NOT sound: {found.difference}", bad=True)


async def doctor(stage: Stage, _at: Context) -> None:
    stage.open_page("doctor", "")


async def backup(stage: Stage, _at: Context) -> None:
    def act(admin: Admin, v: Values) -> BackupResult:
        return files.backup(
            admin.desk.database,
            Path(v["file"]).expanduser(),
            by=(admin.desk.actor, admin.desk.via),
        )

    done = await stage.fill(
        FormSpec(
            title="Back up the database",
            verb="Back up",
            intro="An online copy, opened again and verified. It overwrites nothing.",
            fields=(Field("file", "File", f"sellapi-{_today()}.db", required=True),),
            act=act,
        )
    )
    if done is not None:
        stage.done(f"{done.file}: {done.entries:,} entries, head {done.head[:16]}…")


def _prune_preview(admin: Admin, values: Values) -> list[Line]:
    found = admin.requests.prunable(older_than=values["age"])
    if not found.requests:
        raise UsageError("no resolved request is that old: there is nothing to remove")
    lines = [
        Line("removed", f"{found.requests:,} requests, for good"),
        Line("older than", f"{day_time(found.before)} UTC"),
    ]
    if found.stayed:
        lines.append(Line("stay", f"{found.stayed:,}: a request before them still runs"))
    return lines


async def prune(stage: Stage, _at: Context) -> None:
    done = await stage.fill(
        FormSpec(
            title="Prune old requests",
            verb="Prune",
            danger=True,
            intro="Removes resolved requests of that age. Daily sums and the ledger stay.",
            fields=(Field("age", "Older than", "90d", required=True),),
            preview=_prune_preview,
            act=lambda admin, v: admin.requests.prune(older_than=v["age"]),
        )
    )
    if done is not None:
        stay = f" {done.stayed:,} stay: a request before them still runs." if done.stayed else ""
        stage.done(f"{done.requests:,} requests are removed.{stay}")


async def export_entries(stage: Stage, at: Context) -> None:
    filters = at.filters
    done = await stage.fill(
        FormSpec(
            title="Export the ledger",
            verb="Export",
            intro="As CSV, with the filters of the screen. It overwrites nothing.",
            fields=(Field("file", "File", f"ledger-{_today()}.csv", required=True),),
            act=lambda admin, v: export_ledger(admin, Path(v["file"]).expanduser(), filters),
        )
    )
    if done is not None:
        stage.done(f"{done.rows:,} entries stand in {done.file}.")


async def export_acts(stage: Stage, at: Context) -> None:
    filters = at.filters
    done = await stage.fill(
        FormSpec(
            title="Export the audit",
            verb="Export",
            intro="As CSV, with the filters of the screen. It overwrites nothing.",
            fields=(Field("file", "File", f"audit-{_today()}.csv", required=True),),
            act=lambda admin, v: export_audit(admin, Path(v["file"]).expanduser(), filters),
        )
    )
    if done is not None:
        stage.done(f"{done.rows:,} acts stand in {done.file}.")


ACTS = (
    Act("ledger.verify", "Verify the ledger", "Recompute everything", "ledger verify", verify),
    Act("doctor", "Doctor", "What may be wrong, and the mend", "doctor", doctor),
    Act("files.backup", "Back up the database", "Online, verified", "db backup", backup),
    Act("requests.prune", "Prune old requests", "Sums and ledger stay", "requests prune", prune),
    Act("ledger.entries", "Export the ledger", "CSV", "ledger list", export_entries),
    Act("audit.list", "Export the audit", "CSV", "audit", export_acts),
)
