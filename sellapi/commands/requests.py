"""``sellapi requests``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from sellapi.commands.common import WIDE, Out, command, group, has_room, none_of

if TYPE_CHECKING:
    from sellapi.admin.views import Receipt, RequestRow

COLUMNS = [
    "at", "request_id", "model", "state", "charge", "user", "delivery", "input_tokens",
    "output_tokens", "http_status", "duration_ms",
]  # fmt: skip
POLL_S = 0.5
NONE_YET = "no requests yet"


@group(
    "requests",
    "Requests and their receipts.",
    example="sellapi requests tail --follow\nsellapi requests show req_0123",
)
def requests() -> None: ...


@command(requests, "list", example="sellapi requests list --user ann@shop.test --limit 20")
@click.option("--user", metavar="EMAIL", help="Only those of a user.")
@click.option("--model", metavar="SLUG", help="Only those of a model.")
@click.option(
    "--state", type=click.Choice(["held", "settled", "voided", "swept"]), help="Only these."
)
@click.option("--undelivered", is_flag=True, help="Charged, but the answer was lost on its way.")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    help="At most so many.",
)
def list_(out: Out, **filters: Any) -> None:
    """List requests, newest first."""
    rows = out.admin.requests.list(**filters)
    if out.as_json:
        out.json(_documents(out, rows)[::-1])
    else:
        _table(out, rows, empty=none_of(filters, NONE_YET))


def _table(out: Out, rows: Sequence[RequestRow], *, empty: str = NONE_YET) -> None:
    """One line a request, or two where a line has no room."""
    if has_room(WIDE):
        out.many(rows, COLUMNS, empty=empty)
        return
    cells = {
        "request": lambda r: (r["at"][:19].replace("T", " "), r["request_id"]),
        "what": lambda r: (r["model"], r["user"]),
        "outcome": lambda r: (r["state"], r["delivery"]),
    }
    out.many(rows, [*cells, "charge"], cells=cells, empty=empty)


def _documents(out: Out, rows: Sequence[RequestRow]) -> list[dict[str, Any]]:
    """What `requests show` prints of these, the oldest first."""
    return [_document(r) for r in out.admin.requests.receipts([row.id for row in rows])]


def _document(receipt: Receipt) -> dict[str, Any]:
    from sellapi.admin import to_json

    data = to_json(receipt)
    return {**data.pop("request"), **data}


@command(requests, "show", example="sellapi requests show req_0123")
@click.argument("request_id")
def show(out: Out, request_id: str) -> None:
    """One request, with the arithmetic of its charge."""
    from sellapi.admin import to_json

    receipt = out.admin.requests.show(request_id)
    data = to_json(receipt)
    if out.as_json:
        out.json(_document(receipt))
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
    if data["arithmetic"]:
        out.say(f"  rounded up once to a millionth: {data['recomputed']} credits")
    elif receipt.request.state == "held":
        out.say("  it still runs: what it costs is known when it ends")
    else:
        out.say("  nothing was charged")
    for entry in data["entries"]:
        if entry["kind"] == "charge_refund":
            out.say(f"  given back later: {entry['amount']} credits")
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
@click.option(
    "--limit",
    type=click.IntRange(0, 10_000),
    default=10,
    show_default=True,
    help="How many to begin with.",
)
def tail(out: Out, follow: bool, limit: int) -> None:
    """The last requests; with --follow each new one once it is resolved."""
    admin = out.admin
    last = admin.requests.last_id()
    rows = admin.requests.list(before=last + 1, limit=limit)[::-1] if limit else ()
    if not follow and out.as_json:
        out.json(_documents(out, rows))
    elif not follow:
        _table(out, rows)
    else:
        with suppress(KeyboardInterrupt):
            _follow(out, [row.id for row in rows], last)


def _follow(out: Out, waiting: list[int], last: int) -> None:
    """Tell each request once it is resolved, until interrupted; wait where the database is busy."""
    from sellapi.errors import DatabaseUnavailable

    while True:
        try:
            receipts = out.admin.requests.receipts(waiting)
            new = [row.id for row in out.admin.requests.list(after=last, limit=1_000)]
        except DatabaseUnavailable as error:
            out.note(f"{error}; trying again")
            time.sleep(POLL_S)
            continue
        for receipt in receipts:
            if receipt.request.state != "held":
                out.line(_document(receipt), _line)
        waiting = [r.request.id for r in receipts if r.request.state == "held"]
        if new:
            last = new[-1]
            waiting += new
        else:
            time.sleep(POLL_S)


@command(requests, "prune", example="sellapi requests prune --older-than 90d")
@click.option("--older-than", required=True, metavar="90d", help="Age of what goes; 1d at least.")
def prune(out: Out, older_than: str) -> None:
    """Remove old request rows; daily sums and the ledger stay."""
    with out.progress("pruning") as progress:
        result = out.admin.requests.prune(older_than=older_than, progress=progress)
    out.one(result)
