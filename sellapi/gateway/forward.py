"""Forwarding: a held request goes to its routes until one answers, and the answer to the client."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import lru_cache
from typing import Protocol, TypeVar

import msgspec
import orjson

from sellapi.domain.catalog import Route
from sellapi.domain.credits import format_credits
from sellapi.domain.usage import Usage
from sellapi.errors import ApiError, UpstreamFailed
from sellapi.gateway.beside import beside
from sellapi.gateway.hold import Attempt, Hold, Receipt
from sellapi.gateway.media import fetch_media, inline_images
from sellapi.gateway.router import Router
from sellapi.gateway.stats import Stats
from sellapi.upstream.adapter import Adapter, Answer, Job, Outbound, StreamDecoder, UpstreamFailure
from sellapi.upstream.client import Call, Reply
from sellapi.upstream.openai_reply import edit
from sellapi.upstream.openai_shape import openai_usage
from sellapi.upstream.registry import Link, Registry
from sellapi.wire import sse
from sellapi.wire.fields import shorten

__all__ = ["Forwarder", "Sink"]

T = TypeVar("T")

ANSWER_MAX_BYTES = 256 * 1024 * 1024
ERROR_MAX_BYTES = 256 * 1024
DRAIN_S = 5.0
"""How long a finished stream is read on for its usage after the client has left."""
SIDE_BY_SIDE = 8
"""Calls one request makes at the same time, when it takes several."""


class Sink(Protocol):
    """Where an answer goes. Awaiting a send that fails or is cancelled ends the request."""

    @property
    def started(self) -> bool:
        """Whether the stream's 200 has left."""
        ...

    def write(self, data: bytes) -> bool:
        """Hand over events of a stream at once; False when only `send` can now, having waited.

        (Its 200 has not left, or the client does not take what is there.)
        """
        ...

    def prepare(self, headers: dict[str, str]) -> None:
        """A stream was admitted: its 200 leaves with the first event, or after 30 s of waiting."""
        ...

    async def send(self, data: bytes) -> None:
        """Hand over events of a stream."""
        ...

    async def finish(self, data: bytes, *, close: bool = False) -> None:
        """Hand over the last events of a stream and end it, ``close`` the connection too."""
        ...

    async def answer(self, body: bytes, headers: dict[str, str]) -> None:
        """Hand over a whole unstreamed answer."""
        ...


class Forwarder:
    """Carries held requests to providers; one for the process."""

    def __init__(
        self, registry: Registry, router: Router, stats: Stats, *, stream_idle_s: float
    ) -> None:
        self._registry = registry
        self._router = router
        self._stats = stats
        self._stream_idle_s = stream_idle_s

    async def complete(self, hold: Hold, sink: Sink, headers: dict[str, str]) -> None:
        """One whole answer: forward, settle, hand over."""
        answer = await self._try_routes(hold, lambda attempt: self._whole(hold, attempt))
        usage = answer.usage
        if usage is None:
            usage = hold.estimate_usage(answer.text, answer.images)
            answer = _with_usage(answer, usage, hold.model.mode)
        if usage.images > hold.asked.demand.images:  # more than were asked for are a gift
            usage = msgspec.structs.replace(usage, images=hold.asked.demand.images)
        receipt = hold.settle(usage, finish=_worst(answer.finish_reasons))
        await receipt.committed()
        headers["x-sellapi-route"] = hold.attempts[-1].name
        headers["x-sellapi-credits-charged"] = format_credits(receipt.charge)
        headers["x-sellapi-credits-balance"] = format_credits(receipt.balance or 0)
        await sink.answer(answer.body, headers)
        hold.delivered()

    async def stream(self, hold: Hold, sink: Sink, headers: dict[str, str]) -> None:
        """A streamed answer: forward each event as it comes, settle, then end the stream."""
        assert hold.held is not None
        held = format_credits(hold.priced.hold)
        headers["x-sellapi-credits-charged"] = headers["x-sellapi-credits-held"] = held
        headers["x-sellapi-credits-balance"] = format_credits(hold.held.balance - hold.held.held)
        sink.prepare(headers)
        try:
            decoder = await self._try_routes(
                hold, lambda attempt: self._events(hold, attempt, sink, headers)
            )
        except UpstreamFailure as failure:
            if not sink.started:
                raise
            partial = hold.end(failure)
            if partial is not None:
                await partial.committed()
            await sink.finish(sse.error(failure.error.body()), close=True)
            hold.delivered()
            return
        usage = decoder.usage or hold.estimate_usage(decoder.text)
        receipt = hold.settle(usage, finish=_worst(tuple(decoder.finish_reasons.values())))
        await receipt.committed()
        await sink.finish(_last_events(hold, decoder, usage, receipt))
        hold.delivered()

    # -- routes ------------------------------------------------------------------------------------

    async def _try_routes(self, hold: Hold, call: Callable[[Attempt], Awaitable[T]]) -> T:
        """The result of the first route that answers; raises the last route's `UpstreamFailure`."""
        routes = self._router.order(hold.model)
        if not routes:
            raise _no_route()
        before: UpstreamFailure | None = None
        for left, route in enumerate(routes, start=1 - len(routes)):
            attempt = hold.attempt(route)
            try:
                async with self._router.place(route, wait=left == 0):
                    result = await call(attempt)
            except UpstreamFailure as failure:
                self._registry.conceal(route.provider, failure)
                attempt.sent = attempt.sent and failure.sent
                attempt.ended(failure.reason, failure.status)
                self._router.failed(route, failure)
                if left == 0 or hold.forwarded or not _may_try_next(route, failure):
                    raise
                hold.decoder = None
                before = failure
            except ApiError as refusal:  # the adapter cannot say this to that provider
                attempt.ended("refused", None if attempt.sent else refusal.status)
                if left == 0 or attempt.sent:
                    raise before or refusal from refusal
            except BaseException:
                attempt.sent = attempt.sent_at is not None  # else it left while it stood in line
                attempt.ended("cancelled", attempt.status)
                raise
            else:
                attempt.ended("ok", 200)
                self._router.succeeded(route, hold.first_byte_of(attempt), attempt.started)
                return result
        raise AssertionError("the last route either answered or raised")

    # -- one attempt -------------------------------------------------------------------------------

    async def _prepare(self, hold: Hold, attempt: Attempt) -> tuple[Link, Job, Outbound]:
        """The request as this route's provider understands it; raises `InvalidRequest`."""
        try:
            link = self._registry.link(attempt.route.provider)
        except KeyError:  # removed since the request was admitted
            raise _no_route() from None
        job = _job(hold, attempt.route, link)
        outbound = await beside(hold.size, _encoded, link.adapter, job)
        if outbound is None:
            if not (link.private or link.native):
                job.private_base_url = await link.leads_inside()
            if urls := await beside(hold.size, link.adapter.media_urls, job):
                job.media = await fetch_media(urls, leave_unknown=link.adapter.takes_urls)
            outbound = await beside(hold.size, link.adapter.encode, job)
        return link, job, outbound

    def _call(self, link: Link, attempt: Attempt, outbound: Outbound) -> Call:
        first_byte = attempt.route.timeout_s or link.provider.timeout_s
        idle = min(first_byte, self._stream_idle_s) if outbound.stream else first_byte
        attempt.sent = True  # until the engine proves otherwise
        attempt.thinks = outbound.thinks
        return link.call(outbound, first_byte, idle, attempt.sending)

    async def _whole(self, hold: Hold, attempt: Attempt) -> Answer:
        link, job, outbound = await self._prepare(hold, attempt)
        if outbound.stream:
            decoder = await self._read_events(hold, attempt, link, job, outbound, None)
            answer = decoder.answer()
        elif outbound.repeat == 1 and not outbound.more:
            body = await self._body(link, self._call(link, attempt, outbound), attempt)
            answer = link.adapter.decode(job, [body])
        else:
            answer = link.adapter.decode(job, await self._bodies(link, attempt, outbound))
        # Not `beside`: a client that left meanwhile would be charged by estimate, its usage unread.
        hold.note_first_byte()
        self._stats.skipped += answer.skipped
        return await inline_images(answer) if answer.image_urls else answer

    async def _body(self, link: Link, call: Call, only: Attempt | None = None) -> bytes:
        async with link.engine.open(call) as reply:
            await _check(link, reply, only)
            return await reply.read(ANSWER_MAX_BYTES)

    async def _bodies(self, link: Link, attempt: Attempt, outbound: Outbound) -> list[bytes]:
        """Several calls side by side, in order; see `Outbound` for which of them must succeed."""
        first = self._call(link, attempt, outbound)
        calls = [first] * outbound.repeat + [replace(first, body=body) for body in outbound.more]
        room = asyncio.Semaphore(SIDE_BY_SIDE)
        refused: list[UpstreamFailure] = []
        billed: list[bool] = []

        async def one(call: Call) -> bytes | None:
            went = False

            def going() -> None:
                nonlocal went
                went = True
                attempt.sending()

            async with room:
                try:
                    return await self._body(link, replace(call, on_send=going))
                except UpstreamFailure as failure:
                    went = went and failure.sent and failure.status is None
                    if outbound.more:
                        raise  # all is lost: the others are called off
                    refused.append(failure)
                    return None
                finally:
                    billed.append(went)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(call)) for call in calls]
        except BaseExceptionGroup as errors:
            attempt.partly = any(billed)
            raise errors.exceptions[0] from None
        bodies = [body for task in tasks if (body := task.result()) is not None]
        if not bodies:
            attempt.partly = any(billed)
            raise refused[0]
        return bodies

    async def _events(
        self, hold: Hold, attempt: Attempt, sink: Sink, headers: dict[str, str]
    ) -> StreamDecoder:
        link, job, outbound = await self._prepare(hold, attempt)
        headers["x-sellapi-route"] = attempt.name
        return await self._read_events(hold, attempt, link, job, outbound, sink)

    async def _read_events(
        self,
        hold: Hold,
        attempt: Attempt,
        link: Link,
        job: Job,
        outbound: Outbound,
        sink: Sink | None,
    ) -> StreamDecoder:
        """Read a provider's stream to its end, handing on what is complete (None: nothing)."""
        waits: list[bytes] = []
        """What the client did not take at once."""

        async def forward(data: bytes) -> None:
            if sink is not None:
                hold.forwarded = True
                hold.note_first_byte()
                await sink.send(data)

        def pass_on(data: bytes) -> bytes | None:
            """Most events of a stream: decoded and written as they come, the task asleep."""
            if sink is None or not hold.forwarded:
                return data
            out = decoder.feed(data)
            if out and not sink.write(out):
                waits.append(out)
                return b""
            return b"" if decoder.done else None

        async with link.engine.open(self._call(link, attempt, outbound)) as reply:
            await _check(link, reply, attempt)
            decoder = hold.decoder = link.adapter.decoder(job)
            try:
                while not decoder.done:
                    data = await reply.chunk(pass_on)
                    if data is None:
                        break
                    if out := waits.pop() if waits else decoder.feed(data):
                        await forward(out)
                if decoder.done:
                    reply.said_all()
                if out := decoder.end():
                    await forward(out)
            except UpstreamFailure:
                if decoder.pending:
                    await forward(decoder.pending)
                raise
            except asyncio.CancelledError:
                await _drain(reply, decoder, hold)
                raise
            finally:
                self._stats.skipped += decoder.skipped
        return decoder


def _no_route() -> UpstreamFailure:
    return UpstreamFailure(
        UpstreamFailed("No provider for this model can be reached right now."),
        reason="no_route",
        sent=False,
    )


def _may_try_next(route: Route, failure: UpstreamFailure) -> bool:
    """After a timeout the first route may still be billed: only where the route allows it."""
    if failure.timed_out:
        return route.retry_on_timeout
    return failure.retryable or failure.key_refused


async def _check(link: Link, reply: Reply, only: Attempt | None) -> None:
    """Raise the failure a reply that is no success stands for; to the ``only`` call of an attempt."""
    if not 200 <= reply.status < 300:
        if only is not None:
            only.status = reply.status  # whoever leaves before it is read pays nothing for it
        body = await reply.read(ERROR_MAX_BYTES)
        raise link.adapter.failure(reply.status, reply.headers, body)


def _said_all(decoder: StreamDecoder, hold: Hold) -> bool:
    """Whether the client was sent the finish_reason of every choice."""
    return hold.forwarded and len(decoder.finish_reasons) >= hold.asked.demand.n


async def _drain(reply: Reply, decoder: StreamDecoder, hold: Hold) -> None:
    """The client left. When the answer was already complete, read on for its real usage."""
    if not _said_all(decoder, hold):
        return
    try:
        async with asyncio.timeout(DRAIN_S):
            while not decoder.done:
                data = await reply.chunk()
                if data is None:
                    break
                decoder.feed(data)
            decoder.end()
    except (TimeoutError, UpstreamFailure):
        pass  # what is known by then counts


# -- the job ---------------------------------------------------------------------------------------


def _job(hold: Hold, route: Route, link: Link) -> Job:
    asked = hold.asked
    return Job(
        mode=hold.model.mode,
        fields=hold.fields,
        slug=hold.model.slug,
        upstream_id=route.upstream_id,
        quirks=route.quirks,
        request_id=hold.request_id,
        created=hold.created_ms // 1000,
        stream=asked.stream,
        include_usage=asked.include_usage,
        n=asked.demand.images or asked.demand.n,
        output_limit=hold.priced.output_limit,
        client_stated_limit=asked.demand.stated_output is not None,
        bounded=hold.priced.bounded,
        account_tag=_account_tag(hold.caller.account_id),
        private_base_url=link.private,
        native=link.native,
    )


@lru_cache(maxsize=10_000)
def _account_tag(account_id: int) -> str:
    """What stands in for a customer upstream: stable, and says nothing about who it is."""
    return hashlib.sha256(f"sellapi account {account_id}".encode()).hexdigest()[:24]


def _encoded(adapter: Adapter, job: Job) -> Outbound | None:
    """None for a chat that may name files by URL: those are looked at first."""
    return None if _names_urls(job) else adapter.encode(job)


def _names_urls(job: Job) -> bool:
    """Whether a chat may name files by URL (keys may be spelled with escapes); most do not."""
    raw, _ = shorten(job.fields.get("messages", msgspec.Raw()))
    return b'url"' in raw or b'data"' in raw or b"\\u" in raw


# -- the end of an answer --------------------------------------------------------------------------


def _worst(reasons: tuple[str, ...]) -> str | None:
    """The finish reason a receipt names: ``length`` when any choice was cut."""
    if "length" in reasons:
        return "length"
    return reasons[0] if reasons else None


def _last_events(hold: Hold, decoder: StreamDecoder, usage: Usage, receipt: Receipt) -> bytes:
    told = receipt.to_json()
    if hold.asked.include_usage:
        last = decoder.usage_chunk(openai_usage(usage), {"sellapi": told})
    else:
        last = sse.comment("sellapi " + orjson.dumps(told).decode())
    return last + sse.DONE


def _with_usage(answer: Answer, usage: Usage, mode: str) -> Answer:
    """An answer whose provider reported no usage, with the one that is charged in its place."""
    if mode == "image":
        return answer
    told = openai_usage(usage)
    if mode == "embedding":
        told = {name: told[name] for name in ("prompt_tokens", "total_tokens")}
    return replace(answer, body=edit(answer.body, {"usage": orjson.dumps(told)}))
