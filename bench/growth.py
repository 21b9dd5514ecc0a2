"""The shop after a year: ``python -m bench.growth make|measure [--scale 0.01]``."""

from __future__ import annotations

import http.client
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from bench import report
from bench.grow import KEYS_PER_USER, GrowthPlan, grow, is_rich, read_plan, secret_of
from bench.load import OpenLoop, closed_loop, have
from bench.machine import ROOT, Load, describe, peak_bytes
from bench.processes import Process
from bench.report import Sample, Table, judge
from bench.scenarios import Plan, Run, closed
from bench.shop import JOBS, open_desk, stock_catalog
from bench.stage import Stage, Subject, open_stage, serve_env
from sellapi.admin.service import Admin

USERS, REQUESTS = 100_000, 10_000_000
FOLDER = ROOT / "bench" / "data"
DOCUMENT = ROOT / "docs" / "performance.md"
MB = 1 << 20
REPEATS = 5
HOT_KEYS = 1_000
BACKUP_MAX_S = 3_600


def _default(scale: float) -> Path:
    return FOLDER / f"growth-{scale:g}.db"


@click.group()
def main() -> None:
    """A database of 100,000 users, 300,000 keys and 10 million requests, made and measured."""


_scale = click.option("--scale", default=1.0, show_default=True, type=click.FloatRange(0.0001, 10))
_database = click.option("--database", type=click.Path(path_type=Path), default=None)


@main.command()
@_scale
@_database
def make(scale: float, database: Path | None) -> None:
    """Make the database, or go on where an interrupted run stopped."""
    _make(scale, database or _default(scale))


def _make(scale: float, database: Path) -> None:
    database.parent.mkdir(parents=True, exist_ok=True)
    needed = int(9e9 * scale)
    there = database.stat().st_size if database.exists() else 0
    if shutil.disk_usage(database.parent).free + there < needed:
        raise SystemExit(f"about {needed / 1e9:.1f} GB of disk are needed at {database.parent}")
    begun = time.monotonic()
    with Progress() as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        plan = grow(database, round(USERS * scale), round(REQUESTS * scale), show)
    size = database.stat().st_size / 1e9
    click.echo(
        f"{database}: {plan.users:,} users, {plan.users * KEYS_PER_USER:,} keys, "
        f"{plan.requests:,} requests, {size:.2f} GB, {time.monotonic() - begun:.0f} s"
    )


@main.command()
@_scale
@_database
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100))
@click.option("--seconds", default=4, show_default=True, type=click.IntRange(1, 600))
@click.option("--document/--no-document", default=True, help="Write the table into the document.")
def measure(scale: float, database: Path | None, rounds: int, seconds: int, document: bool) -> None:
    """The hot path beside an empty shop, screens and reports, verify, retention, backup.

    Requests are served and the oldest day is pruned: the database is used, and stays sound.
    """
    have(("wrk", "nginx"))
    path = database or _default(scale)
    plan = read_plan(path)
    if plan is None or plan.stage != "done":
        raise SystemExit(f"{path} is not complete: `python -m bench.growth make --scale {scale:g}`")
    table = Table()
    with open_stage() as stage:
        _prepare(stage, path, plan)
        _hot_path(Run("hot path", stage, table, Plan(rounds, seconds), click.echo))
        _receipts(stage, table, plan)
        _screens(stage, table, path)
        _verify(stage, table, path)
        _retention(stage, table, path)
        _backup(stage, table, path, seconds)
    _finish(table, plan, {"rounds": rounds, "seconds": seconds, "scale": scale}, document)


def _finish(table: Table, plan: GrowthPlan, how: dict[str, Any], document: bool) -> None:
    checks = _checks(table)
    for line in report.check_lines(checks):
        click.echo(line)
    result = report.pack(table, checks, describe(), how)
    stamp = time.strftime("%Y%m%d-%H%M", time.gmtime())
    target = ROOT / "bench" / "results" / f"growth-{plan.requests}-{stamp}.json"
    report.write(target, result)
    click.echo(f"\nWritten: {target}")
    if document:
        text = report.replace_block(DOCUMENT.read_text(), report.render(result), "growth")
        DOCUMENT.write_text(text)


def _checks(table: Table) -> list[report.Check]:
    share = table.paired(
        ("hot path", "grown", "per_s"), ("hot path", "empty", "per_s"), lambda a, b: a / b
    )
    found = [judge("hot path: share of its empty rate", share, ">=", 0.9)]
    for scenario in ("GET /v1/usage", "screens and reports"):
        for subject in table.subjects(scenario):
            value = table.median(scenario, subject, "p50_ms")
            found.append(judge(subject, value, "<=", 50, unit="ms"))
    for subject, figure, most in (
        ("ledger verify", "memory_mb", 400),
        ("requests prune", "memory_mb", 200),
        ("requests prune", "chunk_p99_ms", 50),
        ("requests prune", "others_p99_ms", 50),
    ):
        unit = "ms" if figure.endswith("ms") else "MB"
        value = table.median("long work", subject, figure)
        name = f"{subject}: {figure.rpartition('_')[0].replace('_', ' ')}"
        found.append(judge(name, value, "<=", most, unit=unit))
    sound = table.median("long work", "ledger verify", "ok")
    found.append(judge("ledger verify: ok (1 is yes)", sound, ">=", 1))
    beside = table.median("long work", "db backup", "share_of_rate")
    found.append(judge("rate during a backup, share of that without", beside, ">=", 0.5))
    return found


# -- the parts ---------------------------------------------------------------------------------


def _prepare(stage: Stage, path: Path, plan: GrowthPlan) -> None:
    """Both servers, the grown one with keys of users who bought a pack."""
    admin = open_desk(path)
    stock_catalog(admin, stage.static_port, stage.paced_port)
    admin.desk.database.close()
    dice = random.Random(11)
    rich = [n for n in range(plan.users) if is_rich(n)]
    users = dice.sample(rich, min(HOT_KEYS, len(rich)))
    keys = tuple(secret_of(n * KEYS_PER_USER + dice.randrange(KEYS_PER_USER)) for n in users)
    empty = stage.add_sellapi(accounts=len(keys))
    stage.subjects["empty"] = stage.subjects.pop(empty.name)
    stage.serve("grown", path, keys)


def _hot_path(run: Run) -> None:
    for turn in range(run.plan.rounds):
        names = ("empty", "grown")
        for name in names if turn % 2 == 0 else reversed(names):
            closed(run, turn, run.stage.subjects[name], JOBS["plain"], label=name)


def _receipts(stage: Stage, table: Table, plan: GrowthPlan) -> None:
    """The busiest users' own history, newest first, and a page further back."""
    subject = stage.subjects["grown"]
    connection = http.client.HTTPConnection("127.0.0.1", subject.port, timeout=30)
    watch = stage.watch()
    times: dict[str, list[float]] = {}
    for user in range(min(20, plan.users)):
        headers = {"Authorization": f"Bearer {secret_of(user * KEYS_PER_USER)}"}
        cursor = None
        for page in ("first page", "second page"):
            query = "?limit=100" + (f"&cursor={cursor}" if cursor else "")
            begun = time.perf_counter()
            connection.request("GET", f"/v1/usage{query}", headers=headers)
            answer = connection.getresponse()
            body = json.loads(answer.read())
            times.setdefault(page, []).append((time.perf_counter() - begun) * 1000)
            if answer.status != 200:
                raise RuntimeError(f"GET /v1/usage: {answer.status} {body}")
            cursor = body["next_cursor"]
    connection.close()
    load = watch.stop()
    for page, found in times.items():
        figures = {f"p{s}_ms": report.percentile(found, s) for s in (50, 99)}
        name = f"GET /v1/usage, {page}"
        table.add(Sample("GET /v1/usage", name, 0, figures, load.quiet, load.others, load.steal))
        click.echo(f"  {name}: {figures['p50_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms")


def _queries(admin: Admin, heavy: str) -> dict[str, Callable[[], object]]:
    """What the command line's reports and the screens ask."""
    page = admin.users.list(sort="balance", descending=True)
    return {
        "usage --by day": lambda: admin.usage.report(by="day"),
        "usage --by day --since 30d": lambda: admin.usage.report(since="30d", by="day"),
        "usage --by day --since 365d": lambda: admin.usage.report(since="365d", by="day"),
        "usage --by model": lambda: admin.usage.report(by="model"),
        "usage --by user": lambda: admin.usage.report(by="user", limit=100),
        "overview: today": admin.stats.today,
        "overview: minutes": admin.stats.minutes,
        "overview: top users": lambda: admin.stats.top("user"),
        "overview: top models": lambda: admin.stats.top("model"),
        "overview: status": admin.status,
        "doctor": admin.doctor,
        "users": admin.users.list,
        "users by balance": lambda: admin.users.list(sort="balance", descending=True),
        "users by balance, next page": lambda: admin.users.list(
            sort="balance", descending=True, after=page.next
        ),
        "users: search": lambda: admin.users.list(search="grown-99"),
        "users: count": admin.users.count,
        "user": lambda: admin.users.detail(heavy),
        "user: usage by day": lambda: admin.usage.of_user(heavy),
        "keys": admin.keys.list,
        "requests": admin.requests.list,
        "requests of a user": lambda: admin.requests.list(user=heavy),
        "requests of a model": lambda: admin.requests.list(model="bench/plain"),
        "requests voided": lambda: admin.requests.list(state="voided"),
        "requests undelivered": lambda: admin.requests.list(undelivered=True),
        "ledger": admin.ledger.entries,
        "ledger of a user": lambda: admin.ledger.entries(user=heavy),
        "ledger: sales": lambda: admin.ledger.entries(kind="sale"),
        "audit": admin.audit.list,
        "models": admin.models.list,
    }


def _screens(stage: Stage, table: Table, path: Path) -> None:
    admin = open_desk(path)
    found: dict[str, dict[str, float]] = {}
    watch = stage.watch()
    try:
        for name, ask in _queries(admin, "grown-0@shop.test").items():
            times = []
            for _ in range(REPEATS):
                begun = time.perf_counter()
                ask()
                times.append((time.perf_counter() - begun) * 1000)
            found[name] = {"p50_ms": report.percentile(times, 50), "first_ms": times[0]}
    finally:
        admin.desk.database.close()
    load = watch.stop()
    for name, figures in found.items():
        sample = Sample(
            "screens and reports", name, 0, figures, load.quiet, load.others, load.steal
        )
        table.add(sample)
        click.echo(f"  {name}: {figures['p50_ms']:.1f} ms (first {figures['first_ms']:.1f} ms)")


def _command(path: Path, folder: Path, *words: str) -> tuple[Process, Path]:
    """A command of ours on the grown database; its JSON goes into the file."""
    out = folder / f"{words[0]}.out"
    out.unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "cli.py"), *words, "--json"]
    return Process(command, log=out, env=serve_env({"SELLAPI_DATABASE": str(path)})), out


def _watched(process: Process, timeout_s: float = 3_600) -> tuple[float, float]:
    """``(seconds, highest memory in MB)`` of a program that ends by itself."""
    begun, highest = time.monotonic(), 0
    while process.running:
        if time.monotonic() - begun > timeout_s:
            process.stop()
            raise TimeoutError(f"{process.log.stem} took over {timeout_s} s")
        try:
            highest = max(highest, peak_bytes(process.pid))
        except OSError:
            break
        time.sleep(0.05)
    process.wait(5)
    return time.monotonic() - begun, highest / MB


def _last_json(out: Path) -> dict[str, Any]:
    text = out.read_text()
    found: dict[str, Any] = json.loads(text[text.index("{") :])
    return found


def _add_work(table: Table, name: str, figures: dict[str, float], load: Load) -> None:
    table.add(Sample("long work", name, 0, figures, load.quiet, load.others, load.steal))
    click.echo(f"  {name}: " + "  ".join(f"{n} {v:,.4g}" for n, v in figures.items()))


def _verify(stage: Stage, table: Table, path: Path) -> None:
    watch = stage.watch()
    process, out = _command(path, path.parent, "ledger", "verify")
    seconds, memory = _watched(process)
    found = _last_json(out)
    out.unlink()
    figures = {"ok": float(found["ok"]), "seconds": seconds, "memory_mb": memory}
    _add_work(table, "ledger verify", figures | {"entries": found["entries"]}, watch.stop())


def _retention(stage: Stage, table: Table, path: Path) -> None:
    """The oldest two days: once here, chunk by chunk, once as a command beside small requests."""
    age = _oldest_age_days(path)
    if age < 4:
        return
    watch = stage.watch()
    admin = open_desk(path)
    chunks: list[float] = []
    last = time.perf_counter()

    def chunk(_done: int, _total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        chunks.append((now - last) * 1000)
        last = now

    removed = admin.requests.prune(older_than=f"{age - 1}d", progress=chunk).requests
    admin.desk.database.close()
    subject = stage.subjects["grown"]
    others = OpenLoop(
        subject.target(JOBS["plain"]),
        stage.folder,
        rate=100,
        seconds=5,
        core=stage.cores.load,
        name="small",
    )
    process, out = _command(path, path.parent, "requests", "prune", "--older-than", f"{age - 2}d")
    seconds, memory = _watched(process)
    out.unlink()
    figures = {"removed": float(removed), "chunk_p50_ms": report.percentile(chunks, 50)}
    figures["chunk_p99_ms"] = report.percentile(chunks, 99)
    figures |= {"command_seconds": seconds, "memory_mb": memory}
    figures["others_p99_ms"] = others.result()["p99_ms"]
    _add_work(table, "requests prune", figures, watch.stop())


def _oldest_age_days(path: Path) -> int:
    admin = open_desk(path)
    try:
        oldest = admin.requests.list(after=0, limit=1)
    finally:
        admin.desk.database.close()
    return int(time.time() - oldest[0].at / 1000) // 86_400 if oldest else 0


@contextmanager
def _room_for_copies(path: Path) -> Iterator[Path | None]:
    """Where a backup may go; None where the disk cannot take it and the copy it is checked by."""
    target = path.with_name(f"{path.name}.backup")
    target.unlink(missing_ok=True)
    enough = shutil.disk_usage(path.parent).free > 2.3 * path.stat().st_size + 1e9
    try:
        yield target if enough else None
    finally:
        target.unlink(missing_ok=True)


def _backup(stage: Stage, table: Table, path: Path, seconds: int) -> None:
    with _room_for_copies(path) as target:
        if target is None:
            click.echo("  db backup: not measured, the disk has no room for it")
            return
        subject, watch = stage.subjects["grown"], stage.watch()
        before = _rate(stage, subject, seconds)
        process, out = _command(path, path.parent, "db", "backup", str(target))
        begun, during, memory = time.monotonic(), [before], 0.0
        while process.running and (gone := time.monotonic() - begun) < BACKUP_MAX_S:
            memory = max(memory, peak_bytes(process.pid) / MB)
            during.append(_rate(stage, subject, seconds))
            time.sleep(0 if gone < 60 else 15)  # or the shop would grow by millions meanwhile
        took = time.monotonic() - begun
        if process.wait(5):
            raise RuntimeError(f"db backup: {out.read_text()[-500:]}")
        out.unlink()
        after = _rate(stage, subject, seconds)
        share = min(during) / max((before + after) / 2, 1e-9)
        figures = {"seconds": took, "slowest_per_s": min(during), "share_of_rate": share}
        _add_work(table, "db backup", figures | {"memory_mb": memory}, watch.stop())


def _rate(stage: Stage, subject: Subject, seconds: int) -> float:
    target = subject.target(JOBS["plain"])
    return closed_loop(
        target, stage.folder, connections=64, seconds=seconds, core=stage.cores.load
    ).rps


if __name__ == "__main__":
    if not shutil.which("taskset"):
        raise SystemExit("bench needs taskset: sudo apt-get install util-linux")
    try:
        main(prog_name="python -m bench.growth")
    except subprocess.SubprocessError as error:
        raise SystemExit(str(error)) from error
