"""What is measured. Every scenario goes through its subjects in turn, round after round."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bench.load import OpenLoop, closed_loop, probe
from bench.machine import ROOT, Load, cpu_s, rss_bytes
from bench.payloads import EVENTS, big_body
from bench.processes import Process, free_port
from bench.report import Sample, Table
from bench.shop import JOBS, Job
from bench.stage import Stage, Subject, serve_command, serve_env

__all__ = ["SCENARIOS", "Plan", "Run", "closed", "run_scenario"]

MB = 1 << 20
BIG_EVERY_S = 0.5
WARM_UP_S = 3
PASSING = "pass-through"
LONGER = 2.5
"""Times the plan's seconds, where streams take a while to get going or a p99 wants more answers."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often."""

    rounds: int = 5
    seconds: int = 4
    connections: int = 64


@dataclass(frozen=True, slots=True)
class Run:
    """A scenario at work: measurements go into ``table`` under its name."""

    name: str
    stage: Stage
    table: Table
    plan: Plan
    say: Callable[[str], None]

    def add(self, subject: str, turn: int, figures: dict[str, float], load: Load | None) -> None:
        quiet = load is None or load.quiet
        others, steal = (0.0, 0.0) if load is None else (load.others, load.steal)
        self.table.add(Sample(self.name, subject, turn, figures, quiet, others, steal))
        words = "  ".join(f"{name} {value:,.4g}" for name, value in figures.items())
        busy = "" if quiet else f"  (busy: others {others:.2f}, steal {steal:.2f} cores)"
        self.say(f"  {turn + 1}  {subject:<18} {words}{busy}")

    def turns(self, names: Sequence[str]) -> Iterator[tuple[int, Subject]]:
        """Subjects in turn; every other round backwards, so that none always comes first."""
        there = [n for n in names if n in self.stage.subjects]
        for turn in range(self.plan.rounds):
            for name in there if turn % 2 == 0 else reversed(there):
                yield turn, self.stage.subjects[name]


@contextmanager
def _highest_rss(process: Process | None) -> Iterator[list[float]]:
    """Watches a process's memory, ten times a second; the list holds the highest in MB."""
    highest, over = [0.0], threading.Event()

    def look() -> None:
        while process is not None and not over.wait(0.1):
            highest[0] = max(highest[0], rss_bytes(process.pid) / MB)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield highest
    finally:
        over.set()
        thread.join()


# -- closed loops ------------------------------------------------------------------------------


def closed(
    run: Run,
    turn: int,
    subject: Subject,
    job: Job,
    *,
    connections: int | None = None,
    keys: tuple[str, ...] = (),
    label: str | None = None,
) -> None:
    """One closed loop, with processor time per request and, of streams, per event.

    Events are counted by bytes: those wrk read, over those of one whole stream of this subject.
    """
    stage, plan = run.stage, run.plan
    target = subject.target(job, keys=keys)
    status, answer = probe(target)
    if status != 200 and subject.paths is not None:
        run.say(f"  {subject.name} answers {job.name} with {status}: not measured")
        return
    if status != 200:
        raise RuntimeError(f"{subject.name} answers {job.name} with {status}: {answer[-300:]!r}")
    if (subject.name, job.name) not in stage.warmed:  # keys read, connections opened, code loaded
        stage.warmed.add((subject.name, job.name))
        warm = closed_loop(
            target,
            stage.folder,
            connections=connections or plan.connections,
            seconds=WARM_UP_S,
            core=stage.cores.load,
        )
        stage.answered[subject.name] += warm.requests
    watch = stage.watch()
    before = cpu_s(subject.process.pid) if subject.process else 0.0
    with _highest_rss(subject.process if job.paced else None) as highest:
        done = closed_loop(
            target,
            stage.folder,
            connections=connections or plan.connections,
            seconds=round(plan.seconds * (LONGER if job.paced else 1)),
            core=stage.cores.load,
        )
    used = (cpu_s(subject.process.pid) - before) * 1e6 if subject.process else 0.0
    load = watch.stop()
    stage.answered[subject.name] += done.requests
    figures = {"per_s": done.rps, "p50_ms": done.p50_ms, "p99_ms": done.p99_ms}
    if job.stream:
        events = done.bytes / len(answer) * EVENTS
        figures["events_per_s"] = events / done.seconds
        if used:
            figures["cpu_us_per_event"] = used / max(events, 1)
    if used:
        figures["cpu_us"] = used / max(done.requests, 1)
    if highest[0]:
        figures["memory_mb"] = highest[0]
    if done.errors:
        figures["errors"] = done.errors
    run.add(label or subject.name, turn, figures, load)


def _each(job: str, names: Sequence[str], connections: int | None = None) -> Callable[[Run], None]:
    def scenario(run: Run) -> None:
        for turn, subject in run.turns(names):
            if subject.paths is None or job in subject.paths:
                closed(run, turn, subject, JOBS[job], connections=connections)

    return scenario


_PEERS = ("litellm", "portkey")
_OURS = ("sellapi", "sellapi-httpx")
_ALL = ("direct", "nginx", "sanic", *_OURS, *_PEERS)
_STREAMING = ("direct", "nginx", *_OURS, *_PEERS)


def _translated(job: str, same: str) -> Callable[[Run], None]:
    """Another protocol beside the pass-through of the same kind of request, in the same rounds."""

    def scenario(run: Run) -> None:
        ways = (("direct", job, "direct"), ("sellapi", job, "sellapi"), ("sellapi", same, PASSING))
        for turn in range(run.plan.rounds):
            for name, what, label in ways if turn % 2 == 0 else reversed(ways):
                if name in run.stage.subjects:
                    closed(run, turn, run.stage.subjects[name], JOBS[what], label=label)

    return scenario


def _accounts(run: Run) -> None:
    """64 connections: each with a key of its own, and all on one (its limit is raised)."""
    subject = run.stage.subjects["sellapi"]
    for turn in range(run.plan.rounds):
        ways = (("many keys", ()), ("one hot key", subject.keys[:1]))
        for label, keys in ways if turn % 2 == 0 else reversed(ways):
            closed(run, turn, subject, JOBS["plain"], keys=keys, label=label)


# -- open loops --------------------------------------------------------------------------------


def _open(run: Run, turn: int, subject: Subject, job: Job, rate: float, label: str) -> None:
    stage = run.stage
    watch = stage.watch()
    found = OpenLoop(
        subject.target(job),
        stage.folder,
        rate=rate,
        seconds=run.plan.seconds * LONGER,
        core=stage.cores.load,
        name="openloop",
    ).result()
    names = ["first_p50_ms", "first_p99_ms"] if job.stream else ["p50_ms", "p99_ms", "max_ms"]
    figures = {name: float(found[name]) for name in (*names, "late_p99_ms")}
    if found["errors"]:
        figures["errors"] = found["errors"]
    run.add(label, turn, figures, watch.stop())


def _commits(run: Run, turn: int, rate: float, label: str) -> None:
    """What one bare commit takes on this disk at this pace (`bench.commits`)."""
    stage = run.stage
    watch, log = stage.watch(), stage.folder / "commits.out"
    log.write_bytes(b"")
    words = [str(stage.folder), str(rate), str(run.plan.seconds)]
    command = [sys.executable, "-m", "bench.commits", *words]
    process = Process(command, log=log, core=stage.cores.subject, cwd=ROOT)
    try:
        process.wait(run.plan.seconds + 60)
    finally:
        process.stop()
    run.add(label, turn, json.loads(log.read_text()), watch.stop())


def _latency(run: Run) -> None:
    """Unstreamed answers at 100 and 300 arrivals a second, each of which waits for two commits.

    Bare Sanic answers by itself, without a provider: what the server alone takes when it is cold.
    """
    for rate in (100, 300):
        for turn, subject in run.turns(("direct", "nginx", "sanic", "sellapi", *_PEERS)):
            _open(run, turn, subject, JOBS["plain"], rate, f"{subject.name} at {rate}/s")
            if subject.name == "direct":
                _commits(run, turn, 2 * rate, f"a bare commit at {2 * rate}/s")


def _first_byte(run: Run) -> None:
    """Time to the first event, which waits for one commit, at 20 new streams a second."""
    for turn, subject in run.turns(("direct", "nginx", "sellapi")):
        _open(run, turn, subject, JOBS["first-byte"], 20, subject.name)
        if subject.name == "direct":
            _commits(run, turn, 40, "a bare commit at 40/s")


def _big_bodies(run: Run) -> None:
    """100 small requests a second, alone and beside a 10 MB prompt every half second."""
    stage, subject = run.stage, run.stage.subjects["sellapi"]
    plain = JOBS["plain"]
    big = big_body(plain.model)
    assert subject.process is not None
    for turn in range(run.plan.rounds):
        for label in ("alone", "beside 10 MB prompts"):
            watch = stage.watch()
            with _highest_rss(subject.process) as highest:
                options = {"seconds": run.plan.seconds, "core": stage.cores.load}
                others = OpenLoop(
                    subject.target(plain), stage.folder, rate=100, name="small", **options
                )
                heavy = None
                if label != "alone":
                    target = subject.target(plain, big, subject.keys[:1])
                    heavy = OpenLoop(
                        target, stage.folder, rate=1 / BIG_EVERY_S, name="big", **options
                    )
                found = others.result()
                figures = {name: float(found[name]) for name in ("p50_ms", "p99_ms", "max_ms")}
                errors = found["errors"]
                if heavy is not None:
                    ended = heavy.result()
                    figures["big_p50_ms"] = ended["p50_ms"]
                    errors += ended["errors"]
            figures["memory_mb"] = highest[0]
            if errors:
                figures["errors"] = errors
            run.add(label, turn, figures, watch.stop())


# -- starting ----------------------------------------------------------------------------------


def _start(run: Run) -> None:
    """A server from nothing to its first answer, its memory then, and how quick the help is.

    One start before the first round warms the caches of disk and bytecode.
    """
    stage = run.stage
    running = stage.subjects["sellapi"]
    assert running.database is not None
    for turn in range(-1, run.plan.rounds):
        watch = stage.watch()
        port = free_port()
        begun = time.perf_counter()
        process = Process(
            serve_command(running.database, port),
            log=stage.folder / "start.log",
            core=stage.cores.subject,
            cwd=ROOT,
            env=serve_env(),
        )
        try:
            _first_answer(process, Subject("start", port, process, running.keys, running.database))
            answered = time.perf_counter() - begun
            memory = rss_bytes(process.pid) / MB
        finally:
            process.stop()
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), "--help"],
            check=True,
            stdout=subprocess.DEVNULL,
            env=serve_env(),
            timeout=20,
        )
        helped = time.perf_counter() - begun
        figures = {"first_answer_s": answered, "memory_mb": memory, "help_s": helped}
        if turn >= 0:
            run.add("sellapi", turn, figures, watch.stop())


def _first_answer(process: Process, subject: Subject) -> None:
    target = subject.target(JOBS["plain"])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.running:
        try:
            if probe(target)[0] == 200:
                return
        except OSError:
            time.sleep(0.005)
    raise RuntimeError(f"the server gave no answer:\n{process.tail()}")


SCENARIOS: dict[str, tuple[str, Callable[[Run], None]]] = {
    "start": ("Start, memory after it, and --help", _start),
    "plain": ("Unstreamed, 64 connections, 1 KB answers", _each("plain", _ALL)),
    "latency": ("Unstreamed at a fixed rate of arrivals", _latency),
    "first-byte": ("First event of a stream, 20 streams a second", _first_byte),
    "burst": (
        f"Streams of {EVENTS} events in one burst, 64 connections",
        _each("burst", _STREAMING),
    ),
    "paced-5ms": (
        "256 streams at once, an event every 5 ms",
        _each("paced-5ms", _STREAMING, connections=256),
    ),
    "paced-20ms": (
        "1,000 streams at once, an event every 20 ms",
        _each("paced-20ms", ("direct", "nginx", "sellapi"), connections=1000),
    ),
    "claude": ("Anthropic, unstreamed", _translated("claude", "plain")),
    "claude-burst": ("Anthropic, bursts", _translated("claude-burst", "burst")),
    "gemini": ("Gemini, unstreamed", _translated("gemini", "plain")),
    "gemini-burst": ("Gemini, bursts", _translated("gemini-burst", "burst")),
    "accounts": ("Many accounts and one hot key, 64 connections", _accounts),
    "big-bodies": ("Small requests beside 10 MB prompts with images", _big_bodies),
}


def run_scenario(
    key: str, stage: Stage, table: Table, plan: Plan, say: Callable[[str], None]
) -> None:
    title, scenario = SCENARIOS[key]
    say(f"\n{key}: {title}")
    scenario(Run(key, stage, table, plan, say))
