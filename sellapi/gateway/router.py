"""Which route answers: priorities, weights, cool-downs and what is known of each route's health."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from sellapi.domain.catalog import Model, Route
from sellapi.upstream.adapter import UpstreamFailure
from sellapi.upstream.client import queue_full
from sellapi.upstream.registry import Registry

__all__ = ["Health", "Router"]

PAUSE_FIRST_S = 2.0
PAUSE_MAX_S = 300.0
QUEUE_TIMEOUT_S = 10.0
"""How long a call waits for a place on a route that is full, when there is no other route."""
_LATENCY_WEIGHT = 0.2


@dataclass(slots=True)
class Health:
    """What this process has seen of one route. Times are ``time.monotonic()`` unless said."""

    failures: int = 0
    """In a row."""
    cool_until: float = 0.0
    failed_at: float = float("-inf")
    in_flight: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    """Calls in line for a place, where the route has a most (`Route.max_concurrency`)."""
    latency_ms: float | None = None
    """Moving average to the first byte."""
    last_failure: str = ""
    last_failure_at: float = 0.0
    """Unix seconds."""
    key_refused: bool = False
    current: int = 0
    """Smooth weighted round robin's running figure (nginx's algorithm)."""


class Router:
    """Orders the routes of a model for one request; cool-downs only reorder, never remove."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._health: dict[int, Health] = {}
        self._refused: dict[int, set[int]] = {}
        """By provider, its routes on which our key was called wrong: news of one is news of all."""

    def health(self, route: Route) -> Health:
        health = self._health.get(route.id)
        if health is None:
            health = self._health[route.id] = Health()
        return health

    def order(self, model: Model) -> list[Route]:
        """The usable routes, best first; [] when the model has none."""
        routes = [r for r in model.routes if self._registry.usable(r.provider)]
        if len(routes) < 2:
            return routes
        now = time.monotonic()
        picked = {r.id for r in self._pick_each(routes, now)}

        def rank(route: Route) -> tuple[bool, bool, int, bool, float]:
            health = self.health(route)
            full = route.max_concurrency is not None and health.in_flight >= route.max_concurrency
            cooling = health.cool_until > now
            return (cooling, full, route.priority, route.id not in picked, health.cool_until)

        return sorted(routes, key=rank)

    def _pick_each(self, routes: list[Route], now: float) -> list[Route]:
        """One route of each priority by its weight, among those that are not cooling."""
        groups: dict[int, list[Route]] = {}
        for route in routes:
            if self.health(route).cool_until <= now:
                groups.setdefault(route.priority, []).append(route)
        best = min(groups, default=None)
        if best is None:
            return []
        group = groups[best]
        for route in group:
            self.health(route).current += route.weight
        chosen = max(group, key=lambda r: self.health(r).current)
        self.health(chosen).current -= sum(r.weight for r in group)
        return [chosen]

    # -- places ------------------------------------------------------------------------------------

    def place(self, route: Route, *, wait: bool) -> _Place:
        """One of the route's places for the length of an ``async with`` block.

        A full route is waited for only with ``wait``, by as many calls as it has places. Raises
        `UpstreamFailure` ``queue_full``.
        """
        return _Place(self.health(route), route.max_concurrency, wait=wait)

    # -- health ------------------------------------------------------------------------------------

    def succeeded(self, route: Route, first_byte_ms: float, started: float) -> None:
        """A call begun at ``started`` went well; one begun before a failure does not end its rest."""
        health = self.health(route)
        if started >= health.failed_at:
            health.failures = 0
            health.cool_until = 0.0
            health.key_refused = False
        if route.provider.id in self._refused:
            self._key_works(route.provider.id, started)
        old = health.latency_ms
        health.latency_ms = (
            first_byte_ms if old is None else old + _LATENCY_WEIGHT * (first_byte_ms - old)
        )

    def failed(self, route: Route, failure: UpstreamFailure) -> None:
        """Let a route rest: a pause that doubles with each failure, or longer if it asked for that.

        Failures during a rest belong to the incident that began it and double nothing.
        """
        about_route = failure.retryable or failure.key_refused or failure.timed_out
        if not about_route and failure.error.status < 500:
            return  # the request was wrong, not the route
        if failure.reason == "queue_full":
            return  # we send it more than it may have: no fault of its own
        health = self.health(route)
        now = time.monotonic()
        if now >= health.cool_until:
            health.failures += 1
        pause = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** min(max(health.failures, 1) - 1, 10))
        if failure.retry_after is not None:
            pause = max(pause, min(failure.retry_after, PAUSE_MAX_S))
        health.cool_until = max(health.cool_until, now + pause)
        health.failed_at = now
        health.last_failure = failure.reason
        health.last_failure_at = time.time()
        health.key_refused = failure.key_refused
        if failure.key_refused and failure.status != 403:  # 403: it may not use this model
            self._refused.setdefault(route.provider.id, set()).add(route.id)

    def _key_works(self, provider_id: int, since: float) -> None:
        """A call begun at ``since`` was let in: no route of the provider is refused any more."""
        for route_id in list(self._refused[provider_id]):
            if since >= self._health[route_id].failed_at:
                self._health[route_id].key_refused = False
                self._refused[provider_id].discard(route_id)
        if not self._refused[provider_id]:
            del self._refused[provider_id]

    def summary(self) -> dict[str, Any]:
        """How the routes that were used stand, without their names (anybody may read /ready)."""
        now = time.monotonic()
        cooling = [h.cool_until - now for h in self._health.values() if h.cool_until > now]
        latencies = [h.latency_ms for h in self._health.values() if h.latency_ms is not None]
        return {
            "routes": len(self._health),
            "cooling": len(cooling),
            "cooling_s": round(max(cooling, default=0)),
            "latency_ms": round(max(latencies), 1) if latencies else None,
        }

    def report(self, model_routes: dict[int, str]) -> list[dict[str, Any]]:
        """Health of the routes that were used, for the status row: ``{route id: label}`` in."""
        now = time.monotonic()
        return [
            {
                "route": model_routes[route_id],
                "in_flight": h.in_flight,
                "latency_ms": None if h.latency_ms is None else round(h.latency_ms, 1),
                "failures": h.failures,
                "cooling_s": max(0, round(h.cool_until - now)),
                "last_failure": h.last_failure,
                "last_failure_at": int(h.last_failure_at),
                "key_refused": h.key_refused,
            }
            for route_id, h in self._health.items()
            if route_id in model_routes
        ]


class _Place:
    """See `Router.place`. Written out: a generator's context manager costs more than the routing."""

    __slots__ = ("_health", "_most", "_wait")

    def __init__(self, health: Health, most: int | None, *, wait: bool) -> None:
        self._health = health
        self._most = most
        self._wait = wait

    async def __aenter__(self) -> None:
        health, most = self._health, self._most
        if most is None or health.in_flight < most:
            health.in_flight += 1
        elif not self._wait or len(health.waiting) >= most:
            raise queue_full()
        else:
            await _stand_in_line(health)

    async def __aexit__(self, *_: object) -> None:
        _hand_over(self._health)


async def _stand_in_line(health: Health) -> None:
    """Until a place is handed over by a call that ends."""
    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    health.waiting.append(turn)
    try:
        async with asyncio.timeout(QUEUE_TIMEOUT_S):
            await turn
    except BaseException as error:
        if turn.done() and not turn.cancelled():
            _hand_over(health)  # it came in the very moment we gave up
        elif turn in health.waiting:
            health.waiting.remove(turn)
        if isinstance(error, TimeoutError):
            raise queue_full() from None
        raise


def _hand_over(health: Health) -> None:
    """A place is free: the next in line has it, or nobody."""
    while health.waiting:
        turn = health.waiting.popleft()
        if not turn.done():
            turn.set_result(None)
            return
    health.in_flight -= 1
