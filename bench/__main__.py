"""``python -m bench run|quick|compare|soak|render``: see bench/README.md."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from bench import billing, report
from bench.load import have
from bench.machine import ROOT, describe
from bench.scenarios import SCENARIOS, Plan, run_scenario
from bench.shop import JOBS
from bench.stage import Stage, open_stage
from bench.targets import billing_checks, checks

RESULTS = ROOT / "bench" / "results"
DOCUMENT = ROOT / "docs" / "performance.md"
ACCOUNTS = 1_000
QUICK = ("plain", "burst", "claude")


def say(line: str) -> None:
    click.echo(line)


@click.group()
def main() -> None:
    """Measure the gateway beside bare Sanic and nginx."""


def _measure(stage: Stage, names: tuple[str, ...], plan: Plan) -> tuple[report.Table, list[Any]]:
    table = report.Table()
    for name in names:
        run_scenario(name, stage, table, plan, say)
    found = checks(table)
    for subject in stage.subjects.values():
        if subject.name == "sellapi":
            found += billing_checks(billing.count(stage, subject))
    return table, found


def _finish(table: report.Table, found: list[report.Check], plan: Plan) -> dict[str, Any]:
    about = describe()
    titles = {name: title for name, (title, _) in SCENARIOS.items()}
    how = {"rounds": plan.rounds, "seconds": plan.seconds, "titles": titles}
    result = report.pack(table, found, about, how)
    say("")
    for line in report.check_lines([c for c in found if c.verdict != "not measured"]):
        say(line)
    if result["busy_samples"]:
        say(
            f"\nThe machine was busy: {result['busy_samples']} of {len(table.samples)} measurements "
            f"were disturbed by other programs ({result['others']:.2f} cores at the median). "
            "What rests on them is not judged."
        )
    return result


@main.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100))
@click.option("--seconds", default=4, show_default=True, type=click.IntRange(1, 600))
@click.option("--only", default="", help=f"Some of: {', '.join(SCENARIOS)}.")
@click.option(
    "--with-peers", is_flag=True, help="LiteLLM and Portkey too (installed when missing)."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="The JSON file to write."
)
@click.option(
    "--document/--no-document", default=True, help=f"Write the table into {DOCUMENT.name}."
)
def run(
    rounds: int, seconds: int, only: str, with_peers: bool, out: Path | None, document: bool
) -> None:
    """Everything, interleaved: a JSON file in bench/results and the table in docs/performance.md."""
    have(("wrk", "nginx"))
    names = tuple(n.strip() for n in only.split(",") if n.strip()) or tuple(SCENARIOS)
    unknown = set(names) - set(SCENARIOS)
    if unknown:
        raise click.UsageError(f"no such scenario: {', '.join(sorted(unknown))}")
    plan = Plan(rounds=rounds, seconds=seconds)
    with open_stage() as stage:
        say("Starting stand-ins, bare Sanic, nginx and sellapi with both engines …")
        stage.add_direct()
        stage.add_nginx()
        stage.add_sanic()
        stage.add_sellapi(accounts=ACCOUNTS)
        stage.add_sellapi(engine="httpx")
        if with_peers:
            from bench.peers import add_peers

            for sentence in add_peers(stage):
                say(sentence)
        table, found = _measure(stage, names, plan)
    result = _finish(table, found, plan)
    stamp = time.strftime("%Y%m%d-%H%M", time.gmtime())
    path = out or RESULTS / f"{stamp}-{result['about']['commit']}.json"
    report.write(path, result)
    say(f"\nWritten: {path}")
    if document and not only:
        _document(result)


@main.command()
def quick() -> None:
    """Under a minute: plain, bursts and Anthropic as shares of bare Sanic; it only reports."""
    have(("wrk", "nginx"))
    plan = Plan(rounds=3, seconds=2)
    with open_stage() as stage:
        stage.add_sanic()
        stage.add_sellapi(accounts=64)
        table = report.Table()
        for name in QUICK:
            run_scenario(name, stage, table, plan, say)
    say("")
    latest = _latest()
    for name in QUICK:
        ours, theirs = (
            table.median(name, "sellapi", "per_s"),
            table.median("plain", "sanic", "per_s"),
        )
        if ours is None or theirs is None:
            continue
        before = "" if latest is None else f", was {_share(latest, name):.3f} in {latest['name']}"
        quiet = "" if ours.quiet and theirs.quiet else f"  ({report.BUSY}: no judgement)"
        say(
            f"{name:<8} {ours.value / theirs.value:.3f} of bare Sanic's plain answers{before}{quiet}"
        )


@main.command()
@click.argument("commit")
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(2, 100))
@click.option("--seconds", default=3, show_default=True, type=click.IntRange(1, 600))
@click.option("--only", default="plain,burst", show_default=True, help="Kinds of request.")
def compare(commit: str, rounds: int, seconds: int, only: str) -> None:
    """This checkout beside a COMMIT, interleaved: is a change faster? It only reports."""
    from bench import against

    have(("wrk", "nginx", "git"))
    kinds = tuple(kind.strip() for kind in only.split(","))
    if unknown := set(kinds) - set(JOBS):
        raise click.UsageError(
            f"no such kind: {', '.join(sorted(unknown))} (there are {', '.join(JOBS)})"
        )
    with open_stage() as stage:
        stage.add_sanic()
        against.add_commit(stage, commit, ACCOUNTS)
        stage.add_sellapi(accounts=ACCOUNTS)
        table = against.compare(stage, kinds, Plan(rounds=rounds, seconds=seconds), say)
    say(f"\nThis checkout over {commit}:")
    for line in against.verdicts(table, kinds):
        say(line)


def _latest() -> dict[str, Any] | None:
    """The newest result of the whole bench there is, with its ``name``; growth and soak have others."""
    for path in sorted(RESULTS.glob("*.json"), reverse=True):
        result: dict[str, Any] = json.loads(path.read_text())
        if {s["scenario"] for s in result.get("samples", ())} >= set(QUICK):
            return result | {"name": path.stem}
    return None


def _share(result: dict[str, Any], scenario: str) -> float:
    table = report.Table([report.Sample(**s) for s in result["samples"]])
    ours, theirs = (
        table.median(scenario, "sellapi", "per_s"),
        table.median("plain", "sanic", "per_s"),
    )
    return ours.value / theirs.value if ours and theirs else 0.0


@main.command()
@click.argument("result", type=click.Path(path_type=Path, exists=True))
def render(result: Path) -> None:
    """Write the table of a RESULT file into docs/performance.md."""
    _document(json.loads(result.read_text()))


def _document(result: dict[str, Any]) -> None:
    DOCUMENT.write_text(report.replace_block(DOCUMENT.read_text(), report.render(result)))
    say(f"Rendered into {DOCUMENT.relative_to(ROOT)}")


@main.command()
@click.option("--minutes", default=20.0, show_default=True)
def soak(minutes: float) -> None:
    """Full load for a while: is memory flat?"""
    from bench.soak import run_soak

    have(("wrk", "nginx"))
    result = run_soak(minutes, say)
    stamp = time.strftime("%Y%m%d-%H%M", time.gmtime())
    path = RESULTS / f"soak-{stamp}.json"
    report.write(path, result | {"about": describe()})
    say(f"\nWritten: {path}")


if __name__ == "__main__":
    main(prog_name="python -m bench")
