"""Samples to medians, medians to verdicts, verdicts to JSON and a table. Pure, apart from files."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Check", "Sample", "Table", "judge", "percentile", "render", "replace_block"]

BUSY = "machine too busy"
STEADY = {"memory_mb", "ok"}
"""Figures that other programs do not change, however busy they are."""


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; 0 of nothing."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return ranked[max(math.ceil(len(ranked) * share / 100), 1) - 1]


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: of whom, in which round, and whether the machine was ours meanwhile."""

    scenario: str
    subject: str
    round: int
    figures: dict[str, float]
    quiet: bool = True
    others: float = 0.0
    steal: float = 0.0


@dataclass(frozen=True, slots=True)
class Value:
    """A figure over the quiet rounds, or over all where too few were quiet."""

    value: float
    quiet: bool
    rounds: int


@dataclass
class Table:
    """Everything measured in one run."""

    samples: list[Sample] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)

    def of(self, scenario: str, subject: str) -> dict[int, Sample]:
        return {s.round: s for s in self.samples if (s.scenario, s.subject) == (scenario, subject)}

    def median(self, scenario: str, subject: str, figure: str) -> Value | None:
        """None when it was not measured."""
        return _median(
            (s.figures[figure], s.quiet or figure in STEADY)
            for s in self.of(scenario, subject).values()
            if figure in s.figures
        )

    def paired(
        self,
        first: tuple[str, str, str],
        second: tuple[str, str, str],
        how: Callable[[float, float], float],
    ) -> Value | None:
        """The median of ``how(first, second)`` over the rounds; each ``(scenario, subject, figure)``.

        Pairs stand beside each other in time, so a machine that changes its pace changes both.
        """
        ours, theirs = self.of(*first[:2]), self.of(*second[:2])
        return _median(
            (
                how(ours[r].figures[first[2]], theirs[r].figures[second[2]]),
                ours[r].quiet and theirs[r].quiet,
            )
            for r in sorted(ours.keys() & theirs.keys())
            if first[2] in ours[r].figures and second[2] in theirs[r].figures
        )

    def scenarios(self) -> list[str]:
        return list(dict.fromkeys(s.scenario for s in self.samples))

    def subjects(self, scenario: str) -> list[str]:
        return list(dict.fromkeys(s.subject for s in self.samples if s.scenario == scenario))


def _median(values: Iterable[tuple[float, bool]]) -> Value | None:
    all_of_them = list(values)
    if not all_of_them:
        return None
    quiet = [value for value, is_quiet in all_of_them if is_quiet]
    enough = 2 * len(quiet) >= len(all_of_them)
    used = quiet if enough else [value for value, _ in all_of_them]
    return Value(statistics.median(used), enough, len(used))


@dataclass(frozen=True, slots=True)
class Check:
    """One target of issue 7 and how it came out. ``sense`` is ``>=`` or ``<=``."""

    name: str
    value: float | None
    sense: str
    target: float
    aim: float | None
    unit: str
    verdict: str


def judge(
    name: str,
    value: Value | None,
    sense: str,
    target: float,
    *,
    unit: str = "",
    aim: float | None = None,
) -> Check:
    """``pass``, ``fail``, "machine too busy" or ``not measured``."""
    if value is None:
        return Check(name, None, sense, target, aim, unit, "not measured")
    met = value.value >= target if sense == ">=" else value.value <= target
    verdict = ("pass" if met else "fail") if value.quiet else BUSY
    return Check(name, value.value, sense, target, aim, unit, verdict)


# -- output ------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Three figures are all that is honest; thousands whole."""
    if value is None:
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def check_lines(checks: Sequence[Check]) -> list[str]:
    """The verdicts as text, one a line."""
    width = max((len(c.name) for c in checks), default=0)
    lines = []
    for c in checks:
        aim = "" if c.aim is None else f", aim {number(c.aim)}"
        wanted = f"{c.sense} {number(c.target)} {c.unit}".rstrip() + aim
        lines.append(f"{c.name:<{width}}  {number(c.value):>8}  ({wanted})  {c.verdict}")
    return lines


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def scenario_rows(table: Table, scenario: str) -> tuple[list[str], list[list[str]]]:
    """``(head, rows)`` of one scenario: a subject a row, a figure a column."""
    subjects = table.subjects(scenario)
    figures = list(
        dict.fromkeys(n for s in table.samples if s.scenario == scenario for n in s.figures)
    )
    rows = []
    for subject in subjects:
        values = [table.median(scenario, subject, name) for name in figures]
        row = [subject, *(number(v.value if v else None) for v in values)]
        busy = any(v is not None and not v.quiet for v in values)
        rows.append([*row, "busy" if busy else ""])
    return ["", *(f.replace("_", " ") for f in figures), ""], rows


def render(result: dict[str, Any]) -> str:
    """The Markdown of a result: where and when, targets, every scenario."""
    table = Table([Sample(**s) for s in result["samples"]])
    about, plan = result["about"], result["plan"]
    machine = about["machine"]
    state = " with local changes" if about["dirty"] else ""
    lines = [
        f"{about['date']}, commit {about['commit']}{state}; {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['memory_gb']} GB, Linux {machine['kernel']}. "
        f"Medians of {plan['rounds']} interleaved rounds of {plan['seconds']} s. "
        + ", ".join(f"{n} {v}" for n, v in about["versions"].items())
        + ".",
        "",
        f"Other programs used {result['others']:.2f} cores at the median"
        + (
            f"; {result['busy_samples']} measurements were disturbed."
            if result["busy_samples"]
            else "."
        ),
        "",
    ]
    checks = [Check(**c) for c in result["checks"]]
    rows = [
        (c.name, number(c.value), f"{c.sense} {number(c.target)} {c.unit}".rstrip())
        + (number(c.aim) if c.aim is not None else "", c.verdict)
        for c in checks
    ]
    lines += _grid(("target", "measured", "wanted", "aim", "verdict"), rows)
    for scenario in table.scenarios():
        title = plan.get("titles", {}).get(scenario, scenario)
        lines += ["", f"**{title}**", "", *_grid(*scenario_rows(table, scenario))]
    return "\n".join(lines) + "\n"


def replace_block(text: str, block: str, name: str = "bench") -> str:
    """``text`` with what stands between the marks of ``name`` replaced.

    Raises `ValueError` without marks.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begun, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise ValueError(f"the marks {begin} and {end} are missing")
    return f"{before}{begin}\n{block.strip()}\n{end}{after}"


def pack(
    table: Table, checks: Sequence[Check], about: dict[str, Any], plan: dict[str, Any]
) -> dict[str, Any]:
    """The result as it is written to a file."""
    return {
        "about": about,
        "plan": plan,
        "others": statistics.median([s.others for s in table.samples] or [0.0]),
        "busy_samples": sum(not s.quiet for s in table.samples),
        "checks": [asdict(c) for c in checks],
        "samples": [asdict(s) for s in table.samples],
    }


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
