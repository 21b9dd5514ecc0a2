"""What a key's holder sees of the account: credits, usage, receipts."""

from __future__ import annotations

import asyncio
from typing import Any

from sanic import Blueprint, HTTPResponse, Request

from sellapi.api.intake import address_of
from sellapi.api.respond import json_response, reads
from sellapi.domain.catalog import Catalog
from sellapi.domain.credits import format_credits
from sellapi.errors import InvalidRequest, NotFound, Overloaded, StorageError
from sellapi.gateway.pipeline import Gateway
from sellapi.storage.database import Database, Tx
from sellapi.storage.journal import list_requests, read_receipt
from sellapi.storage.snapshot import Caller
from sellapi.wire.receipts import receipt_json

__all__ = ["blueprint", "key_headers"]

blueprint = Blueprint("account")

PAGE = 20
PAGE_MAX = 100


def key_headers(request: Request, catalog: Catalog, caller: Caller) -> dict[str, str]:
    """Rate and credit headers of a GET by a key; raises `RateLimited` past its own window."""
    gateway: Gateway = request.app.ctx.gateway
    headers = gateway.limiter.spend_get(caller, catalog.tiers[caller.tier]).headers()
    headers["x-sellapi-credits-charged"] = "0"
    headers["x-sellapi-credits-balance"] = format_credits(caller.balance)
    return headers


async def _caller(request: Request) -> tuple[Caller, dict[str, str]]:
    gateway: Gateway = request.app.ctx.gateway
    caller = await gateway.shop.authenticate(
        request.headers.get("authorization"), address_of(request), fresh=True
    )
    return caller, key_headers(request, await gateway.shop.catalog(), caller)


@reads(blueprint, "/credits")
async def credits_of_account(request: Request) -> HTTPResponse:
    caller, headers = await _caller(request)
    figures = {
        "balance": format_credits(caller.balance),
        "held": format_credits(caller.held),
        "available": format_credits(caller.balance - caller.held),
        "owed": format_credits(caller.owed),
        "tier": caller.tier,
    }
    return json_response(request, figures, headers)


@reads(blueprint, "/usage")
async def usage(request: Request) -> HTTPResponse:
    """``{object, data: [receipt], has_more, next_cursor}``; ``?limit=`` 1..100, ``?cursor=``.

    A cursor is the ``next_cursor`` of the page before: from anywhere else the whole history would
    have to be walked.
    """
    limit = _number(request, "limit", PAGE)
    if not 1 <= limit <= PAGE_MAX:
        raise InvalidRequest(f"'limit' must be from 1 to {PAGE_MAX}.", param="limit")
    cursor = _number(request, "cursor", 0) or None
    caller, headers = await _caller(request)

    def page(tx: Tx) -> dict[str, Any]:
        rows = list_requests(tx, caller.account_id, before=cursor, limit=limit + 1)
        shown, more = rows[:limit], len(rows) > limit
        return {
            "object": "list",
            "data": [receipt_json(row) for row in shown],  # 3 ms a full page: not on the event loop
            "has_more": more,
            "next_cursor": str(shown[-1]["id"]) if more else None,
        }

    try:
        found = await _read(request, page)
    except LookupError:
        raise InvalidRequest(
            "'cursor' must be the 'next_cursor' of the page before.", param="cursor"
        ) from None
    return json_response(request, found, headers)


@reads(blueprint, "/usage/<request_id:str>")
async def receipt(request: Request, request_id: str) -> HTTPResponse:
    caller, headers = await _caller(request)
    row = await _read(request, lambda tx: read_receipt(tx, request_id, caller.account_id))
    if row is None:
        raise NotFound(
            f"Your account has no request '{request_id[:80]}': see GET /v1/usage for the list."
        )
    return json_response(request, receipt_json(row), headers)


def _number(request: Request, name: str, default: int) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise InvalidRequest(f"'{name}' must be a whole number.", param=name)
    return int(text)


async def _read(request: Request, query: Any) -> Any:
    database: Database = request.app.ctx.database

    def run() -> Any:
        with database.read() as tx:
            return query(tx)

    try:
        return await asyncio.to_thread(run)
    except StorageError as error:
        raise Overloaded(
            "The service cannot read its database right now; try again shortly.", retry_after=2
        ) from error
