"""A request's receipt: what was used, at what prices, and the arithmetic of the charge."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from sellapi.domain.credits import credits_to_usd, format_credits, format_usd
from sellapi.domain.pricing import ChargeLine, Prices, explain
from sellapi.domain.usage import TOKEN_BUCKETS, Usage

__all__ = ["receipt_json"]

_STATUS = {"held": "running", "settled": "settled", "voided": "voided", "swept": "voided"}


def usage_of(row: dict[str, Any]) -> Usage:
    """The stored buckets of a request row."""
    stored = orjson.loads(row["usage"]) if row["usage"] else {}
    known = {k: v for k, v in stored.items() if k in (*TOKEN_BUCKETS, "images", "reasoning")}
    return Usage(**known, estimated=bool(row["estimated"]))


def _line(line: ChargeLine) -> dict[str, Any]:
    unit = "image" if line.per == 1 else "1M tokens"
    return {
        "bucket": line.bucket,
        "count": line.count,
        "price_usd": format_usd(line.price),
        "per": unit,
        "credits": _pico_as_credits(line.pico_usd),
    }


def _pico_as_credits(pico_usd: int) -> str:
    """Exact credits of an amount in 1e-12 USD (one credit is 1e-5 USD)."""
    whole, fraction = divmod(pico_usd, 10**7)
    tail = f"{fraction:07d}".rstrip("0")
    return f"{whole}.{tail}" if tail else str(whole)


def _time(ms: int | None) -> str | None:
    return (
        None
        if ms is None
        else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    )


@lru_cache(maxsize=256)
def _prices(text: str) -> tuple[Prices, dict[str, Any]]:
    """A price version, and as it is shown: a page of receipts has few of them."""
    prices = Prices.from_json(orjson.loads(text))
    return prices, prices.display()


def receipt_json(row: dict[str, Any]) -> dict[str, Any]:
    """The receipt of a request row joined with its prices and ledger entries (storage.journal)."""
    usage = usage_of(row)
    prices, shown = _prices(row["prices"])
    settled = row["state"] == "settled"
    lines = []
    if settled:
        lines = explain(
            prices,
            usage,
            size=row["image_size"] or "auto",
            quality=row["image_quality"] or "auto",
        )
    total = sum(line.pico_usd for line in lines)
    entry = None
    if row["entry_id"] is not None:
        entry = {
            "id": row["entry_id"],
            "amount": format_credits(row["entry_amount"]),
            "owed": format_credits(row["entry_owed"]),
            "balance_after": format_credits(row["entry_balance_after"]),
        }
    return {
        "object": "usage",
        "request_id": row["request_id"],
        "status": _STATUS[row["state"]],
        "model": row["model"],
        "mode": row["mode"],
        "stream": bool(row["streamed"]),
        "created_at": _time(row["created_ms"]),
        "finished_at": _time(row["finished_ms"]),
        "credits_charged": format_credits(row["charge"]),
        "refunded": None if row["refunded"] is None else format_credits(row["refunded"]),
        "credits_held": format_credits(row["hold"]),
        "usd_charged": credits_to_usd(row["charge"]),
        "estimated": bool(row["estimated"]),
        "bounded": bool(row["bounded"]) if settled else False,
        "undelivered": row["delivery"] == 2,
        "finish_reason": row["finish_reason"],
        "error": row["error"],
        "retry_of": row["retry_of"],
        "usage": usage.buckets() | ({"reasoning": usage.reasoning} if usage.reasoning else {}),
        "prices": {"version": row["price_id"], "usd_per_million_tokens": shown},
        "arithmetic": {
            "lines": [_line(line) for line in lines],
            "sum_credits": _pico_as_credits(total),
            "rounded_up_to": format_credits(row["charge"]),
        },
        "attempts": orjson.loads(row["attempts"]) if row["attempts"] else [],
        "ledger_entry": entry,
    }
