"""A request's hold, and the one place that decides how it ends.

`Hold` is an async context manager. However its block is left, an answer, an exception, a cancelled
task, a client that hung up, leaving it settles or voids exactly once. The ledger operation is
enqueued by a plain call, so a second cancellation cannot lose it; awaiting its future only serves to
fill headers.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import TracebackType
from typing import Any, Self

import msgspec
import orjson

from sellapi.domain.catalog import Catalog, Model, Route
from sellapi.domain.credits import format_credits
from sellapi.domain.holds import Priced, price_affordable
from sellapi.domain.pricing import charge
from sellapi.domain.usage import Usage
from sellapi.errors import ApiError, Overloaded
from sellapi.gateway.demand import Asked
from sellapi.gateway.stats import Stats
from sellapi.storage import ledger
from sellapi.storage.ledger import Delivery, Held, HoldRequest, Settled, Settlement
from sellapi.storage.snapshot import Caller
from sellapi.storage.writer import Writer
from sellapi.upstream.adapter import StreamDecoder, TextCount, UpstreamFailure

__all__ = ["Attempt", "Hold", "Receipt", "new_request_id"]

_random = random.Random(os.urandom(32)).getrandbits  # noqa: S311 - not a secret
"""Ids must be unique, not secret; os.urandom lets go of the GIL, which is dear here."""

SETTLE_WAIT_S = 30.0
"""How long an answer waits for its settlement's commit. It never goes out without: after a crash
nothing would be left of the charge."""
VOID_WAIT_S = 2.0
"""How long an error waits until its request's receipt says so, too."""


def new_request_id() -> str:
    """``req_`` and 32 hex digits, the first twelve of them the time, so that ids sort by age."""
    return f"req_{time.time_ns() // 1_000_000:012x}{_random(80):020x}"


@dataclass(slots=True)
class Attempt:
    """One try at one route, as the receipt lists it."""

    route: Route
    started: float
    sent: bool = False
    sent_at: float | None = None
    """When the first byte went out; ``started`` is before any wait for a place or a connection."""
    partly: bool = False
    """Of several calls, one at least may be billed, however the others ended."""
    outcome: str = "running"
    status: int | None = None
    took_ms: int = 0
    thinks: bool = True
    """The model may think in answering, as far as the request says (`Outbound.thinks`)."""

    @property
    def billable(self) -> bool:
        """Whether the provider may bill for it although it came to nothing: sent, not refused."""
        return self.partly or (self.sent and (self.status is None or self.status < 300))

    def sending(self) -> None:
        """The first byte goes out now (of several calls, the first one's)."""
        if self.sent_at is None:
            self.sent_at = time.monotonic()

    def ended(self, outcome: str, status: int | None = None) -> None:
        self.outcome = outcome
        self.status = status
        self.took_ms = int((time.monotonic() - self.started) * 1000)

    @property
    def name(self) -> str:
        """``provider:upstream id``, in characters a header may carry."""
        return _printable(f"{self.route.provider.name}:{self.route.upstream_id}")

    def to_json(self) -> dict[str, Any]:
        return {
            "route": self.name,
            "outcome": self.outcome,
            "status": self.status,
            "sent": self.sent,
            "ms": self.took_ms,
        }


@lru_cache(maxsize=1_000)
def _printable(name: str) -> str:
    return name if name.isascii() and name.isprintable() else ascii(name)


@dataclass(slots=True)
class Hold:
    """The life of one admitted request, from its hold to its end."""

    request_id: str
    caller: Caller
    catalog: Catalog
    model: Model
    fields: dict[str, msgspec.Raw]
    size: int
    """Bytes of the request's body."""
    asked: Asked
    priced: Priced
    writer: Writer
    stats: Stats
    instance_id: str
    retry_of: int | None = None
    started: float = field(default_factory=time.monotonic)
    created_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    held: Held | None = None
    attempts: list[Attempt] = field(default_factory=list)
    decoder: StreamDecoder | None = None
    """Set while a stream is read: what came so far, should the stream end early."""
    forwarded: bool = False
    """Whether anything of the answer was handed to the client."""
    first_byte_ms: int | None = None
    task: asyncio.Task[Any] | None = None
    suspended: bool = False
    _resolved: bool = False
    _delivered: bool = False
    _settled: bool = False
    _unpaid: bool = False
    """It was settled without its images although a provider may bill them."""
    _voided: asyncio.Future[Any] | None = None

    # -- place -------------------------------------------------------------------------------------

    async def place(self) -> Held | ledger.Stale | ledger.Short:
        """Put the hold into the ledger; the block is left at once unless it is `Held`."""
        request = HoldRequest(
            request_id=self.request_id,
            amount=self.priced.hold,
            account_id=self.caller.account_id,
            account_version=self.caller.account_version,
            key_id=self.caller.key_id,
            key_version=self.caller.key_version,
            catalog_version=self.catalog.version,
            instance_id=self.instance_id,
            model=self.model.slug,
            mode=self.model.mode,
            price_id=self.model.price_id,
            streamed=self.asked.stream,
            bounded=self.priced.bounded,
            created_ms=self.created_ms,
            retry_of=self.retry_of,
            image_size=self.asked.demand.size if self.asked.demand.images else None,
            image_quality=self.asked.demand.quality if self.asked.demand.images else None,
            reserve=self.priced.reserve,
            valid_until=self._valid_until(),
            affordable=self._affordable(),
        )
        try:
            result = await self.writer.submit(request, ledger.hold_all)
        except BaseException as error:
            self.end(error)  # it may still be written: the void is enqueued behind it
            raise
        if isinstance(result, Held):
            self.held = result
            self.priced = result.priced or self.priced
        else:
            self._resolved = True  # nothing was written
        return result

    def _affordable(self) -> Callable[[int], Priced | None] | None:
        """Prices an answer without a limit by what is there when the hold is written."""
        if self.model.mode != "chat" or self.asked.demand.stated_output is not None:
            return None
        return partial(price_affordable, self.model, self.asked.demand)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._resolved:
            self.end(error)
            if self._voided is not None and isinstance(error, Exception):
                with suppress(Exception):  # the error is told, whatever becomes of the wait
                    await self.writer.within(VOID_WAIT_S, self._voided)
        if self._settled:
            delivery = Delivery.DELIVERED if self._delivered else Delivery.UNDELIVERED
            self.writer.post((self.request_id, delivery), ledger.mark_all)

    def _valid_until(self) -> float | None:
        caller = self.caller
        ends = (caller.key_expires_at, caller.secret_expires_at, self.catalog.next_change_at)
        if ends == (None, None, None):
            return None
        return min(end for end in ends if end is not None)

    # -- attempts ----------------------------------------------------------------------------------

    def attempt(self, route: Route) -> Attempt:
        """A new try begins."""
        attempt = Attempt(route, time.monotonic())
        self.attempts.append(attempt)
        return attempt

    @property
    def sent(self) -> bool:
        """Whether a provider may be at work on it; one that failed before is our loss, if any."""
        return bool(self.attempts) and self.attempts[-1].billable

    def note_first_byte(self) -> None:
        if self.first_byte_ms is None:
            self.first_byte_ms = int((time.monotonic() - self.started) * 1000)

    def first_byte_of(self, attempt: Attempt) -> int:
        """Milliseconds from an attempt's begin to the answer's first byte (or its end)."""
        if self.first_byte_ms is None:
            return attempt.took_ms
        waited_ms = int((attempt.started - self.started) * 1000)
        return max(0, self.first_byte_ms - waited_ms)

    # -- ends --------------------------------------------------------------------------------------

    def charge_for(self, usage: Usage) -> int:
        """Microcredits for a usage at the prices of the moment of the hold."""
        demand = self.asked.demand
        return charge(self.model.prices, usage, size=demand.size, quality=demand.quality)

    def settle(self, usage: Usage, *, finish: str | None, error: str | None = None) -> Receipt:
        """Charge for a usage: enqueued now, once; the receipt can be awaited for the figures."""
        assert not self._resolved, "a request is resolved once"
        self._resolved = self._settled = True
        amount = self.charge_for(usage)
        last = self.attempts[-1]
        bounded = self.priced.bounded and finish == "length"
        demand = self.asked.demand
        tokens_in, tokens_out, cost = usage.total_input, usage.total_output, 0
        if last.route.cost is not None:
            cost = charge(last.route.cost, usage, size=demand.size, quality=demand.quality)
        # Images that are on their way when a client leaves are made, and billed to us.
        self._unpaid = demand.images > 0 and usage.images == 0 and usage.estimated
        loss = self._loss(self.attempts[:-1])
        if self._unpaid:
            loss += self._loss([last], prompt=False)
        settlement = Settlement(
            request_id=self.request_id,
            charge=amount,
            usage=usage.to_json(),
            usage_raw=usage.raw.decode("utf-8", "replace") if usage.raw else None,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            images=usage.images,
            estimated=usage.estimated,
            bounded=bounded,
            provider=last.route.provider.name,
            upstream_id=last.route.upstream_id,
            finished_ms=time.time_ns() // 1_000_000,
            first_byte_ms=self.first_byte_ms,
            attempts=self._attempts_json(),
            cost=cost,
            loss=loss,
            error=error,
            finish_reason=None if finish is None else finish[:40],
        )
        future = self.writer.submit(settlement, ledger.settle_all, must=True)
        self._count(tokens_in + tokens_out, amount, cost, error=error is not None)
        return Receipt(self, future, amount, usage.estimated, bounded)

    def void(self, status: int, error: str) -> None:
        """Give the hold back: enqueued now, once."""
        assert not self._resolved, "a request is resolved once"
        self._resolved = True
        last = self.attempts[-1] if self.attempts else None
        request_id, attempts, loss = (
            self.request_id,
            self._attempts_json(),
            self._loss(self.attempts),
        )
        now_ms = time.time_ns() // 1_000_000
        self._voided = self.writer.submit(
            lambda tx: ledger.void(
                tx,
                request_id,
                now_ms=now_ms,
                http_status=status,
                error=error,
                attempts=attempts,
                provider=last.route.provider.name if last else None,
                upstream_id=last.route.upstream_id if last else None,
                loss=loss,
            ),
            must=True,
        )
        self._count(0, 0, 0, error=True)

    def delivered(self) -> None:
        """The last byte was handed to the socket."""
        self._delivered = True

    @property
    def voided_after_send(self) -> bool:
        """It came to nothing although a provider may bill for it."""
        if self._settled:
            return self._unpaid
        return self._resolved and any(a.billable for a in self.attempts)

    def end(self, error: BaseException | None) -> Receipt | None:
        """Every way out that was not decided before: an error answered, or a client that left.

        Gives the receipt of what was delivered before, None when nothing is charged.
        """
        left = not isinstance(error, Exception)  # CancelledError, GeneratorExit, shutdown
        who = "the account was suspended" if self.suspended else "the client left"
        if self.forwarded or (left and self.sent):
            usage = self._partial_usage(hidden=left)
            return self.settle(usage, finish=None, error=who if left else _why(error))
        if left:
            failed = any(a.sent for a in self.attempts)
            when = "after a provider had failed" if failed else "before the request was sent"
            self.void(499, f"{who} {when}")
        else:
            told = error.error if isinstance(error, UpstreamFailure) else error
            self.void(told.status if isinstance(told, ApiError) else 500, _why(error))
        return None

    # -- estimates ---------------------------------------------------------------------------------

    def _partial_usage(self, *, hidden: bool) -> Usage:
        """What was used when an answer ended early: reported input if known, output as received.

        Where the model hides its thoughts and was not told to have none, an answer the client left
        before its end counts at least the seconds since it was sent times the tokens a second of the
        catalog, unless the provider has counted thoughts; never more than was held for.
        """
        decoder = self.decoder
        known = decoder.usage if decoder is not None else None
        text = decoder.text if decoder is not None else TextCount()
        complete = decoder is not None and self._complete(decoder)
        if known is not None and complete:
            return known
        output = max(text.tokens, known.output if known is not None else 0)
        last = self.attempts[-1]
        quirks = last.route.quirks
        counted = known is not None and known.reasoning > 0
        thinks = quirks.hidden_thoughts and last.thinks and not counted
        limit = self.priced.output_limit
        if limit is not None:  # else no words were held for: images cost what is drawn
            if hidden and thinks and not complete and last.sent_at is not None:
                seconds = time.monotonic() - last.sent_at
                output = max(output, int(seconds * quirks.tokens_per_second))
            output = min(output, limit * self.asked.demand.n)
        base = known if known is not None and known.total_input else self.asked.estimate
        return msgspec.structs.replace(base, output=output, reasoning=0, estimated=True)

    def _complete(self, decoder: StreamDecoder) -> bool:
        return decoder.done or len(decoder.finish_reasons) >= self.asked.demand.n

    def estimate_usage(self, text: TextCount, images: int = 0) -> Usage:
        """The usage of a whole answer whose provider reported none."""
        output = text.tokens
        if self.priced.output_limit is not None:
            output = min(output, self.priced.output_limit * self.asked.demand.n)
        image_output = 0
        if images and not self.model.prices.images:
            image_output = images * self.asked.demand.image_tokens
        return msgspec.structs.replace(
            self.asked.estimate,
            output=output,
            images=images,
            image_output=image_output,
            estimated=True,
        )

    def _loss(self, attempts: list[Attempt], *, prompt: bool = True) -> int:
        """What providers may still bill for tries that came to nothing: prompts, and images."""
        if not attempts:
            return 0
        demand = self.asked.demand
        usage = msgspec.structs.replace(
            self.asked.estimate if prompt else Usage(),
            images=demand.images,
            image_output=demand.image_tokens * demand.images,
        )
        loss = 0
        for attempt in attempts:
            if attempt.billable:
                prices = attempt.route.cost or self.model.prices
                loss += charge(prices, usage, size=demand.size, quality=demand.quality)
        return loss

    def _attempts_json(self) -> str:
        return orjson.dumps([a.to_json() for a in self.attempts]).decode()

    def _count(self, tokens: int, charged: int, cost: int, *, error: bool) -> None:
        self.stats.finished(
            tokens=tokens,
            charged=charged,
            cost=cost,
            latency_ms=int((time.monotonic() - self.started) * 1000),
            error=error,
        )


def _why(error: BaseException | None) -> str:
    """What a request's row says of its failure, without words that may repeat the prompt.

    Those of a 400 do: a provider quotes what it refuses.
    """
    told = error.error if isinstance(error, UpstreamFailure) else error
    if not isinstance(told, ApiError):
        return type(error).__name__
    said = told.message
    if told.status < 500:
        about = f" ({told.param})" if told.param else ""
        said = f"{told.code}{about}"
    reason = f"{error.reason}: " if isinstance(error, UpstreamFailure) else ""
    return (reason + said)[:300]


@dataclass(slots=True)
class Receipt:
    """A settlement on its way to the disk."""

    hold: Hold
    future: asyncio.Future[Settled]
    charge: int
    estimated: bool
    bounded: bool
    balance: int | None = None

    async def committed(self) -> Self:
        """Wait for the commit.

        Raises `Overloaded` after `SETTLE_WAIT_S`: the charge is still written as soon as the
        database takes it, and marked as undelivered (refundable).
        """
        try:
            self.balance = (await self.hold.writer.within(SETTLE_WAIT_S, self.future)).balance
        except TimeoutError:
            raise Overloaded(
                "The answer is there but its charge cannot be recorded right now. Ask the operator "
                f"for a refund of {self.hold.request_id}, or try again later.",
                retry_after=5,
                should_retry=False,
            ) from None
        return self

    def to_json(self) -> dict[str, Any]:
        """The ``sellapi`` object of the contract."""
        return {
            "credits_charged": format_credits(self.charge),
            "credits_balance": format_credits(self.balance or 0),
            "request_id": self.hold.request_id,
            "estimated": self.estimated,
            "bounded": self.bounded,
        }
