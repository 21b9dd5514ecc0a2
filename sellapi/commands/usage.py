"""``sellapi usage``."""

from __future__ import annotations

import click

from sellapi.commands.common import Out, command, has_room

COLUMNS = ["group", "requests", "charged", "margin"]
WIDE = ["input_tokens", "output_tokens", "cost", "loss"]
CSV = ["group", "requests", "voided", "input_tokens", "output_tokens", "images"] + [
    "charged", "cost", "loss", "margin",
]  # fmt: skip
MOST = 100
"""Lines of the table people see: nobody reads ten thousand."""
BAR = 20
"""Characters of the longest bar: the dearest group's."""


@command(None, "usage", example="sellapi usage --since 7d --by user")
@click.option(
    "--since",
    default="24h",
    show_default=True,
    metavar="24h|DATE",
    help="A duration ago, or a UTC day.",
)
@click.option(
    "--by",
    type=click.Choice(["model", "user", "key", "day"]),
    default="model",
    show_default=True,
    help="What is summed by.",
)
@click.option("--csv", "as_csv", is_flag=True, help="As CSV.")
def usage(out: Out, since: str, by: str, as_csv: bool) -> None:
    """Charges, cost and margin. Whole UTC days: the day --since lies in counts from its start."""
    from sellapi.admin import to_json

    whole = as_csv or out.as_json
    report = out.admin.usage.report(since=since, by=by, limit=None if whole else MOST)
    if as_csv:
        out.csv(report.rows, CSV)
        return
    if out.as_json:
        out.one(report)
        return
    data = to_json(report)
    most = max((row.charged for row in report.rows), default=0) or 1
    rows = data.pop("rows")
    for row, view in zip(rows, report.rows, strict=True):
        row["share"] = _bar(view.charged, most)
    total = {**data.pop("total"), "share": ""}
    out.table([*rows, total], [*COLUMNS, *(WIDE if has_room() else ()), "share"])
    out.pairs(data)
    if by != "day" and len(report.rows) == MOST:
        out.note(f"The dearest {MOST}; --csv and --json give all.")


def _bar(value: int, most: int) -> str:
    """A bar in eighths of a character; something that is not nothing shows."""
    eighths = -(-value * BAR * 8 // most) if value > 0 else 0
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
