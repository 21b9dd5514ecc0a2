"""``sellapi requests``."""

from __future__ import annotations

import time
from typing import Any

import click

from sellapi.commands.common import Out, command, group

COLUMNS = [
    "at", "request_id", "user", "model", "state", "delivery", "input_tokens", "output_tokens",
    "charge", "http_status", "duration_ms",
]  # fmt: skip
POLL_S = 0.5


@group("requests", "Requests and their receipts.")
def requests() -> None: ...


@command(requests, "list", example="sellapi requests list --user ann@shop.test --limit 20")
@click.option("--user", metavar="EMAIL")
@click.option("--model", metavar="SLUG")
@click.option("--state", type=click.Choice(["held", "settled", "voided", "swept"]))
@click.option("--undelivered", is_flag=True, help="Charged, but the answer was lost on its way.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
def list_(out: Out, **filters: Any) -> None:
    """List requests, newest first."""
    out.many(out.admin.requests.list(**filters), COLUMNS, empty="no requests yet")


@command(requests, "show", example="sellapi requests show req_0123")
@click.argument("request_id")
def show(out: Out, request_id: str) -> None:
    """One request, with the arithmetic of its charge."""
    from sellapi.admin import to_json

    receipt = out.admin.requests.show(request_id)
    data = to_json(receipt)
    if out.as_json:
        # what `requests list` prints of it, and the receipt besides
        out.one({**data.pop("request"), **data})
        return
    out.pairs(data["request"])
    version = data["price_version"]
    if version:
        step = ", long-context prices" if data["long_context"] else ""
        out.say("")
        out.say(f"price version {version['id']} of {version['effective_at']}{step}:")
    for line in data["arithmetic"]:
        unit = "1,000,000 tokens" if line["per"] != 1 else "image"
        out.say(
            f"  {line['bucket']:<16}{line['count']:>12,} x ${line['price_usd']} per {unit}"
            f" = {line['credits']} credits"
        )
    out.say(f"  rounded up once to a millionth: {data['recomputed']} credits")
    if data["entries"]:
        out.table(data["entries"], ["id", "at", "kind", "amount", "balance_after", "reason"])


def _line(r: dict[str, Any]) -> str:
    tokens = f"{r['input_tokens']}+{r['output_tokens']}"
    return (
        f"{r['at']}  {r['request_id']}  {r['user']}  {r['model']}  {r['state']}  {tokens} tokens  "
        f"{r['charge']} credits  {r['http_status'] or ''} {r['error'] or ''}".rstrip()
    )


@command(requests, "tail", example="sellapi requests tail --follow")
@click.option("--follow", is_flag=True, help="Go on until stopped; one document a line.")
@click.option("--limit", type=click.IntRange(0, 10_000), default=10, show_default=True)
def tail(out: Out, follow: bool, limit: int) -> None:
    """The last requests; with --follow each new one once it is resolved."""
    admin = out.admin
    last = admin.requests.last_id()
    rows = admin.requests.list(before=last + 1, limit=limit)[::-1] if limit else ()
    if not follow:
        out.many(rows, COLUMNS, empty="no requests yet")
        return
    waiting: dict[int, None] = {}
    for row in rows:
        if row.state == "held":
            waiting[row.id] = None
        else:
            out.line(row, _line)
    try:
        while True:
            for row in admin.requests.list(after=last, limit=1_000):
                last = row.id
                waiting[row.id] = None
            for row_id in list(waiting):
                found = admin.requests.list(after=row_id - 1, limit=1)
                if not found or found[0].id != row_id:
                    del waiting[row_id]
                elif found[0].state != "held":
                    del waiting[row_id]
                    out.line(found[0], _line)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        return


@command(requests, "prune", example="sellapi requests prune --older-than 90d")
@click.option("--older-than", required=True, metavar="90d")
def prune(out: Out, older_than: str) -> None:
    """Remove old request rows; daily sums and the ledger stay."""
    with out.progress("pruning") as progress:
        result = out.admin.requests.prune(older_than=older_than, progress=progress)
    out.one(result)
