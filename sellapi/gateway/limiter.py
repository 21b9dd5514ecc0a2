"""Rate limits: a moving 60-second window per key and per account, by the `limits` library.

A call counts once it holds credits: what is rejected burns no quota. GETs have windows of their
own, and so have rejected calls, so that neither eats into what a customer paid for.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from sellapi.domain.catalog import Tier
from sellapi.errors import RateLimited
from sellapi.storage.snapshot import Caller

__all__ = ["Limiter", "Quota"]

GET_FACTOR = 2
"""GETs may come this many times as often as POSTs."""
REJECTED_FACTOR = 10
VOIDS = 20
VOID_WINDOW_S = 600.0


@dataclass(frozen=True, slots=True)
class Quota:
    """What a caller has left: the tighter of key and account. ``reset`` in whole seconds."""

    limit: int
    remaining: int
    reset: int

    def headers(self) -> dict[str, str]:
        limit, remaining, reset = str(self.limit), str(self.remaining), str(self.reset)
        return {
            "x-ratelimit-limit": limit,
            "x-ratelimit-remaining": remaining,
            "x-ratelimit-reset": reset,
            "x-ratelimit-limit-requests": limit,
            "x-ratelimit-remaining-requests": remaining,
            "x-ratelimit-reset-requests": f"{reset}s",
        }


class Limiter:
    """Counts in this process's memory."""

    def __init__(self) -> None:
        self._window = MovingWindowRateLimiter(MemoryStorage())
        self._items: dict[int, RateLimitItemPerMinute] = {}
        self._voids: OrderedDict[int, deque[float]] = OrderedDict()

    def _item(self, amount: int) -> RateLimitItemPerMinute:
        item = self._items.get(amount)
        if item is None:
            item = self._items[amount] = RateLimitItemPerMinute(amount)
        return item

    def _scopes(
        self, caller: Caller, tier: Tier, kind: str, factor: int = 1
    ) -> tuple[tuple[RateLimitItemPerMinute, str], tuple[RateLimitItemPerMinute, str]]:
        return (
            (self._item(tier.rpm * factor), f"{kind}k{caller.key_id}"),
            (self._item(tier.account_rpm * factor), f"{kind}a{caller.account_id}"),
        )

    def check(self, caller: Caller, tier: Tier) -> None:
        """Raise `RateLimited` when key or account is out of quota; spends nothing."""
        self._refuse_abuse(caller)
        self._test(self._scopes(caller, tier, "p"))

    def spend(self, caller: Caller, tier: Tier) -> Quota:
        """Count one call against key and account at once and say what is left.

        Raises `RateLimited`, having counted nothing, when a parallel call took the last one.
        """
        scopes = self._scopes(caller, tier, "p")
        self._test(scopes)
        for item, name in scopes:
            self._window.hit(item, name)
        return self._tighter(scopes)

    def spend_get(self, caller: Caller, tier: Tier) -> Quota:
        """Count one GET in its own window; the quota shown is that window's."""
        scopes = self._scopes(caller, tier, "g", GET_FACTOR)
        self._test(scopes)
        for item, name in scopes:
            self._window.hit(item, name)
        return self._tighter(scopes)

    def spend_rejected(self, caller: Caller, tier: Tier) -> None:
        """Count a refused call (402, 403, 404); raises `RateLimited` when they come as a flood."""
        item, name = self._scopes(caller, tier, "r", REJECTED_FACTOR)[0]
        if not self._window.hit(item, name):
            self._refuse(item, name)

    def note_void(self, caller: Caller) -> None:
        """A call was sent upstream and came to nothing; too many of these are answered 429."""
        times = self._voids.setdefault(caller.account_id, deque(maxlen=VOIDS + 1))
        times.append(time.monotonic())
        self._voids.move_to_end(caller.account_id)
        while len(self._voids) > 10_000:
            self._voids.popitem(last=False)

    def quota(self, caller: Caller, tier: Tier) -> Quota:
        return self._tighter(self._scopes(caller, tier, "p"))

    # -- inside ------------------------------------------------------------------------------------

    def _test(self, scopes: tuple[tuple[RateLimitItemPerMinute, str], ...]) -> None:
        for item, name in scopes:
            if not self._window.test(item, name):
                self._refuse(item, name)

    def _refuse(self, item: RateLimitItemPerMinute, name: str) -> None:
        quota = self._stats(item, name)
        scope = "account" if name[1] == "a" else "key"
        raise RateLimited(
            f"Rate limit reached: {item.amount} requests a minute per {scope}. "
            f"Try again in {quota.reset} s.",
            retry_after=quota.reset,
            headers=quota.headers(),
        )

    def _refuse_abuse(self, caller: Caller) -> None:
        times = self._voids.get(caller.account_id)
        if times is None or len(times) <= VOIDS:
            return
        wait = math.ceil(times[0] + VOID_WINDOW_S - time.monotonic())
        if wait > 0:
            raise RateLimited(
                f"Too many calls of this account came to nothing lately. Try again in {wait} s.",
                retry_after=wait,
                should_retry=False if wait > 60 else None,
            )

    def _stats(self, item: RateLimitItemPerMinute, name: str) -> Quota:
        reset, remaining = self._window.get_window_stats(item, name)
        return Quota(item.amount, max(0, remaining), max(1, math.ceil(reset - time.time())))

    def _tighter(self, scopes: tuple[tuple[RateLimitItemPerMinute, str], ...]) -> Quota:
        return min((self._stats(*scope) for scope in scopes), key=lambda q: q.remaining)
