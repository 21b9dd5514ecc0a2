"""One request, top to bottom: authenticate → limit → admit → hold → forward → settle.

`Gateway.serve` is the line everything else is a leaf of. The answer goes to a `Sink`, inside the
hold's block, so that the ledger knows whether it was handed over.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NoReturn

import msgspec

from sellapi.domain.catalog import Catalog, Model, Tier
from sellapi.domain.credits import format_credits
from sellapi.domain.holds import Demand, Priced, bound_output, least_output, price_demand
from sellapi.errors import (
    ApiError,
    InsufficientCredits,
    InvalidApiKey,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    RateLimited,
    TierRestricted,
)
from sellapi.gateway.beside import beside
from sellapi.gateway.demand import READERS, Asked, NotOffered, refuse_billing_fields
from sellapi.gateway.forward import Forwarder, Sink
from sellapi.gateway.hold import Hold
from sellapi.gateway.limiter import Limiter, Quota
from sellapi.gateway.shop import Shop
from sellapi.gateway.stats import Stats
from sellapi.storage.ledger import Held, Short
from sellapi.storage.snapshot import Caller
from sellapi.storage.writer import Writer
from sellapi.upstream.adapter import UpstreamFailure
from sellapi.wire.fields import decode_body, read_slug

__all__ = ["Ask", "Gateway"]

_CONFIRMED = (ModelNotFound, TierRestricted, NotOffered)
"""Refusals that a cached copy may decide wrongly: the database is asked before they are told."""

TRIES = 8
"""How often a request is decided anew because something changed while it was decided."""


@dataclass(slots=True)
class Ask:
    """A POST as it came in."""

    mode: str
    body: bytes
    authorization: str | None
    address: str
    request_id: str
    retry_of: int | None = None


class Gateway:
    """Serves requests; built once in bootstrap."""

    def __init__(
        self,
        *,
        shop: Shop,
        limiter: Limiter,
        forwarder: Forwarder,
        writer: Writer,
        stats: Stats,
        instance_id: str,
        help_url: str = "",
    ) -> None:
        self.shop = shop
        self.limiter = limiter
        self.stats = stats
        self.in_flight: dict[str, Hold] = {}
        self.closing = False
        self._forwarder = forwarder
        self._writer = writer
        self._instance_id = instance_id
        self._help = f" See {help_url}" if help_url else ""

    async def serve(self, ask: Ask, sink: Sink) -> None:
        """Answer one request into ``sink``.

        Raises `ApiError` for every refusal and failure before the answer began; afterwards the
        sink has been told and whatever was delivered is charged.
        """
        hold, tier = await self._hold(ask)  # 401 429 404 403 402
        try:
            async with hold:
                quota = self.limiter.spend(hold.caller, tier)
                self.in_flight[hold.request_id] = hold
                headers = self._headers(hold, quota)
                if hold.asked.stream:
                    await self._forwarder.stream(hold, sink, headers)  # 502 504, settles
                else:
                    await self._forwarder.complete(hold, sink, headers)
        except UpstreamFailure as failure:
            raise failure.error from failure
        except asyncio.CancelledError:
            if not hold.suspended or hold.task is None:
                raise
            hold.task.uncancel()
            raise InvalidApiKey("This account was suspended while the request ran.") from None
        finally:
            self.in_flight.pop(hold.request_id, None)
            if hold.voided_after_send:
                self.limiter.note_void(hold.caller)

    # -- admission ---------------------------------------------------------------------------------

    async def _hold(self, ask: Ask) -> tuple[Hold, Tier]:
        """Decide on a request and place its hold.

        Decided by cached copies first; a refusal by them, or a hold the database calls stale, is
        decided again by what the database says now. Whether credits suffice, and the bound on an
        answer without a limit, is decided inside the hold's transaction.
        """
        self._refuse_when_closed()
        fields: dict[str, msgspec.Raw] | None = None
        fresh = False
        for _ in range(TRIES):
            caller = await self.shop.authenticate(ask.authorization, ask.address, fresh=fresh)
            catalog = await (self.shop.current_catalog() if fresh else self.shop.catalog())
            tier = catalog.tiers[caller.tier]
            try:
                self.limiter.check(caller, tier)
            except RateLimited:
                if fresh or not self.shop.may_look_again(caller):
                    raise
                fresh = True  # a pack may have been bought, or a limit raised
                continue
            try:
                if fields is None:
                    fields = await beside(len(ask.body), decode_body, ask.body)
                model = self._admit(fields, catalog, caller, ask.mode)
                asked = await beside(len(ask.body), READERS[model.mode], fields, model)
            except _CONFIRMED as refusal:
                if fresh:
                    self._refuse(caller, tier, refusal)
                fresh = True
                continue
            except InvalidRequest as refusal:
                self._refuse(caller, tier, refusal)
            priced = price_demand(model, asked.demand, caller.available)
            hold = self._new_hold(ask, caller, catalog, model, fields, asked, priced)
            result = await hold.place()
            if isinstance(result, Held):
                return hold, tier
            if isinstance(result, Short):
                self._refuse(caller, tier, self._insufficient(model, asked, result))
            fresh = True
        raise Overloaded("Prices or keys changed too fast; try again.", retry_after=1)

    def _refuse_when_closed(self) -> None:
        if self.closing:
            raise Overloaded("The service is shutting down; try again shortly.", retry_after=2)
        trouble = self._writer.trouble()
        if trouble is not None:
            raise Overloaded(
                "The service cannot take new requests right now; try again shortly.", retry_after=5
            )

    def _refuse(self, caller: Caller, tier: Tier, refusal: ApiError) -> NoReturn:
        self.limiter.spend_rejected(caller, tier)
        raise refusal

    def _admit(
        self, fields: dict[str, msgspec.Raw], catalog: Catalog, caller: Caller, mode: str
    ) -> Model:
        slug = read_slug(fields)
        model = self.shop.admit(catalog, caller, slug, mode)
        refuse_billing_fields(fields, model)
        return model

    def _new_hold(
        self,
        ask: Ask,
        caller: Caller,
        catalog: Catalog,
        model: Model,
        fields: dict[str, msgspec.Raw],
        asked: Asked,
        priced: Priced,
    ) -> Hold:
        return Hold(
            request_id=ask.request_id,
            caller=caller,
            catalog=catalog,
            model=model,
            fields=fields,
            size=len(ask.body),
            asked=asked,
            priced=priced,
            writer=self._writer,
            stats=self.stats,
            instance_id=self._instance_id,
            retry_of=ask.retry_of,
            task=asyncio.current_task(),
        )

    # -- money -------------------------------------------------------------------------------------

    def _insufficient(self, model: Model, asked: Asked, short: Short) -> InsufficientCredits:
        """402 in words: what is needed, what is there, what would fit."""
        demand = asked.demand
        if model.mode == "chat" and demand.stated_output is None:
            demand = _stating(demand, least_output(model))
        needed = price_demand(model, demand, 0).hold
        free = short.balance - short.held
        by_key = short.key_left is not None and short.key_left < needed and free >= needed
        available = max(0, short.key_left or 0) if by_key else free
        say = [
            f"Not enough credits: this request needs up to {format_credits(needed)}, "
            f"{format_credits(available)} are available"
            + (" under this key's own limit" if by_key else "")
            + f" ({format_credits(short.held)} held by running requests, "
            f"{format_credits(short.owed)} owed)."
        ]
        left = needed if short.key_left is None else short.key_left + short.key_held
        waiting = short.held > 0 and not short.owed and needed <= min(short.balance, left)
        if model.mode == "chat" and not short.owed:
            fits = bound_output(model, asked.demand, available, model.output_limit)
            say.append(
                f"The largest max_tokens that would fit is {fits}."
                if fits
                else "Not even the prompt is affordable."
            )
        say.append(_what_to_do(owes=short.owed > 0, waiting=waiting, by_key=by_key))
        return InsufficientCredits(
            " ".join(say) + self._help,
            retry_after=2 if waiting else None,
            should_retry=True if waiting else None,
        )

    def _headers(self, hold: Hold, quota: Quota) -> dict[str, str]:
        """What every answer to a key carries; the forwarder adds what it charged."""
        headers = quota.headers()
        if hold.priced.bounded:
            headers["x-sellapi-max-tokens"] = str(hold.priced.output_limit)
        return headers


def _what_to_do(*, owes: bool, waiting: bool, by_key: bool) -> str:
    """The last sentence of a 402; credits of the account do not help against a key's own limit."""
    if owes:
        return "Nothing more is served until what is owed is paid: top up."
    mend = "use another key, or have the limit of this one raised." if by_key else "top up."
    return f"Wait for running requests to end, or {mend}" if waiting else mend.capitalize()


def _stating(demand: Demand, limit: int) -> Demand:
    return msgspec.structs.replace(demand, stated_output=limit)
