"""This checkout beside an earlier commit of it, in one run: what a change is worth on a machine whose pace
changes from one hour to the next."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from operator import truediv
from pathlib import Path

import click

from bench.machine import ROOT
from bench.report import BUSY, Table
from bench.scenarios import Plan, Run, closed
from bench.shop import JOBS
from bench.stage import Stage

__all__ = ["BEFORE", "CONNECTIONS", "add_commit", "compare", "verdicts"]

BEFORE, NOW = "before", "sellapi"
CONNECTIONS = {"paced-5ms": 256, "paced-20ms": 1_000}
"""Of a kind of request, where it is not the plan's."""
_STOCK = """
import json, sys
from pathlib import Path
from bench.shop import stock
path, static, paced, accounts = sys.argv[1:]
print(json.dumps(stock(Path(path), int(static), int(paced), int(accounts))))
"""


def add_commit(stage: Stage, commit: str, accounts: int) -> None:
    """Serve a commit's code on a shop of its own, which that code makes: schemas may differ.

    Raises `click.UsageError` for what git does not know, or a commit that cannot be measured so.
    """
    root = stage.folder / "commit"
    root.mkdir()
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        raise click.UsageError(packed.stderr.decode().strip())
    subprocess.run(["tar", "-x", "-C", str(root)], input=packed.stdout, check=True)
    folder = stage.folder / BEFORE
    folder.mkdir()
    words = [str(folder / "shop.db"), str(stage.static_port), str(stage.paced_port), str(accounts)]
    stocked = subprocess.run(
        [sys.executable, "-c", _STOCK, *words], cwd=root, capture_output=True, check=False
    )
    if stocked.returncode:
        raise click.UsageError(f"{commit} makes no shop: {stocked.stderr.decode()[-500:]}")
    stage.serve(BEFORE, Path(words[0]), tuple(json.loads(stocked.stdout)), root=root)


def compare(stage: Stage, kinds: tuple[str, ...], plan: Plan, say: Callable[[str], None]) -> Table:
    """Closed loops of each kind of request, interleaved; bare Sanic beside what is no stream."""
    table = Table()
    for kind in kinds:
        job = JOBS[kind]
        say(f"\n{kind}")
        run = Run(kind, stage, table, plan, say)
        for turn, subject in run.turns((BEFORE, NOW) if job.stream else ("sanic", BEFORE, NOW)):
            closed(run, turn, subject, job, connections=CONNECTIONS.get(kind))
    return table


def verdicts(table: Table, kinds: tuple[str, ...]) -> list[str]:
    """A line for each kind: this checkout's figures over the commit's, medians of the rounds' ratios."""
    lines = []
    for kind in kinds:
        figures = ("per_s", "cpu_us_per_event" if JOBS[kind].stream else "cpu_us", "p99_ms")
        ratios = [table.paired((kind, NOW, f), (kind, BEFORE, f), truediv) for f in figures]
        if None not in ratios:
            told = "  ".join(
                f"{figure} x{ratio.value:.3f}"
                for figure, ratio in zip(figures, ratios, strict=True)
                if ratio is not None
            )
            quiet = all(ratio is not None and ratio.quiet for ratio in ratios)
            lines.append(f"{kind:<12} {told}{'' if quiet else f'  ({BUSY}: no judgement)'}")
    return lines
