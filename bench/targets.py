"""The targets of issue 7, as checks over a table of samples."""

from __future__ import annotations

from operator import sub, truediv

from bench.report import Check, Table, Value, judge
from bench.scenarios import PASSING

__all__ = ["checks"]

SECOND = "sellapi-httpx"


def checks(table: Table) -> list[Check]:
    """Every target, measured or not."""
    return [
        *_plain(table),
        *_latency(table),
        *_streams(table),
        *_translated(table),
        *_big(table),
        *_resources(table),
    ]


def _ratio(table: Table, ours: tuple[str, str, str], theirs: tuple[str, str, str]) -> Value | None:
    return table.paired(ours, theirs, truediv)


def _plain(table: Table) -> list[Check]:
    share = _ratio(table, ("plain", "sellapi", "per_s"), ("plain", "sanic", "per_s"))
    p99 = table.median("plain", "sellapi", "p99_ms")
    return [
        judge("plain: share of bare Sanic", share, ">=", 0.20, aim=0.33),
        judge("plain: p99 at 64 connections", p99, "<=", 15, unit="ms"),
    ]


def _latency(table: Table) -> list[Check]:
    found = []
    for rate in (100, 300):
        for figure, most in (("p50_ms", 1.0), ("p99_ms", 4.0)):
            ours = ("latency", f"sellapi at {rate}/s", figure)
            added = table.paired(ours, ("latency", f"direct at {rate}/s", figure), sub)
            name = f"added {figure[:3]} at {rate} requests/s"
            found.append(judge(name, added, "<=", most, unit="ms"))
    for figure, most in (("first_p50_ms", 0.7), ("first_p99_ms", 2.0)):
        ours = ("first-byte", "sellapi", figure)
        added = table.paired(ours, ("first-byte", "direct", figure), sub)
        name = f"added {figure[6:9]} to a stream's first event"
        found.append(judge(name, added, "<=", most, unit="ms"))
    return found


def _streams(table: Table) -> list[Check]:
    bursts = table.median("burst", "sellapi", "per_s")
    found = [judge("bursts of 52 events", bursts, ">=", 1_500, unit="/s", aim=2_400)]
    for key, name in (
        ("paced-5ms", "256 streams at 5 ms"),
        ("paced-20ms", "1,000 streams at 20 ms"),
    ):
        events = table.median(key, "sellapi", "events_per_s")
        cost = table.median(key, "sellapi", "cpu_us_per_event")
        found.append(judge(name, events, ">=", 35_000, unit="events/s"))
        found.append(judge(f"{name}: processor", cost, "<=", 25, unit="us/event"))
        offered = table.median(key, "direct", "events_per_s")
        found.append(judge(f"{name}: the stand-in offers", offered, ">=", 36_000, unit="events/s"))
    return found


def _translated(table: Table) -> list[Check]:
    found = []
    for kind, name in (("claude", "Anthropic"), ("gemini", "Gemini")):
        for end, what in (("", "answers"), ("-burst", "bursts")):
            ours, theirs = (f"{kind}{end}", "sellapi", "per_s"), (f"{kind}{end}", PASSING, "per_s")
            share = _ratio(table, ours, theirs)
            found.append(judge(f"{name} {what}: share of pass-through", share, ">=", 0.5))
    return found


def _big(table: Table) -> list[Check]:
    beside = ("big-bodies", "beside 10 MB prompts", "p99_ms")
    added = table.paired(beside, ("big-bodies", "alone", "p99_ms"), sub)
    memory = table.median("big-bodies", "beside 10 MB prompts", "memory_mb")
    return [
        judge("10 MB prompts add to the p99 of others", added, "<=", 20, unit="ms"),
        judge("memory with 10 MB prompts", memory, "<=", 400, unit="MB"),
    ]


def _resources(table: Table) -> list[Check]:
    start = ("start", "sellapi")
    return [
        judge("memory after start", table.median(*start, "memory_mb"), "<=", 90, unit="MB"),
        judge(
            "memory with 1,000 open streams",
            table.median("paced-20ms", "sellapi", "memory_mb"),
            "<=",
            200,
            unit="MB",
        ),
        judge("serve: first answer", table.median(*start, "first_answer_s"), "<=", 1.0, unit="s"),
        judge("sellapi --help", table.median(*start, "help_s"), "<=", 0.15, unit="s"),
    ]


def billing_checks(counted: dict[str, float]) -> list[Check]:
    """Everything measured was billed: charges over answers, holds left open, a sound ledger."""

    def exact(value: float) -> Value:
        return Value(value, quiet=True, rounds=1)

    return [
        judge("charges per answer", exact(counted["charges_per_answer"]), ">=", 1.0),
        judge("holds left open", exact(counted["open_holds"]), "<=", 0),
        judge("ledger verifies (1 is yes)", exact(counted["ledger_ok"]), ">=", 1),
        judge("synchronous (2 is FULL)", exact(counted["synchronous"]), ">=", 2),
    ]
