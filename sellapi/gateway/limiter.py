"""Rate limits: a moving 60-second window per key and per account, by the `limits` library.

A call counts once it holds credits: what is rejected burns no quota. GETs have windows of their
own, and so have rejected calls, so that neither eats into what a customer paid for.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import NoReturn

import msgspec
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage

from sellapi.domain.catalog import Tier
from sellapi.errors import RateLimited
from sellapi.storage.snapshot import Caller

__all__ = ["Limiter", "Quota"]

WINDOW_S = 60
GET_FACTOR = 2
"""GETs may come this many times as often as POSTs."""
REJECTED_FACTOR = 10
VOIDS = 20
VOID_WINDOW_S = 600.0
SCOPES_KEPT = 200_000


class Quota(msgspec.Struct, frozen=True):
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


class _Storage(MemoryStorage):
    """`limits`' memory with windows as deques of times, oldest first, and without its timer.

    The library's are lists, newest first: with ten thousand calls in a window each call moves all of
    them. Its timer starts a thread per 10 ms of traffic; `expire` does what that does, once in a while.
    And the library goes by the wall clock: one that is set back would shut everybody out for so long.
    """

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[str, deque[float]] = {}

    def _MemoryStorage__schedule_expiry(self) -> None:  # noqa: N802
        pass

    def count(self, key: str) -> None:
        """`acquire_entry` of what is known to fit."""
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = deque()
        window.append(time.monotonic())

    def size(self, key: str) -> int:
        """At most so many are in the window."""
        return len(self._windows.get(key, _EMPTY))

    def window(self, key: str) -> Sequence[float]:
        """When what is in the window came, oldest first: `get_moving_window`."""
        window = self._windows.get(key, _EMPTY)
        if window:
            begins = time.monotonic() - WINDOW_S
            while window and window[0] < begins:
                window.popleft()
        return window

    def expire(self) -> None:
        """Forget the windows everything has left."""
        begins = time.monotonic() - WINDOW_S
        for key in [key for key, times in self._windows.items() if not times or times[-1] < begins]:
            del self._windows[key]


_EMPTY: deque[float] = deque(maxlen=0)


class _Scope:
    """A limit and whose window it is counted in."""

    __slots__ = ("amount", "item", "key", "name")

    def __init__(self, amount: int, name: str) -> None:
        self.amount = amount
        self.name = name
        self.item = RateLimitItemPerMinute(amount)
        self.key = self.item.key_for(name)


class Limiter:
    """Counts in this process's memory."""

    def __init__(self) -> None:
        self._storage = _Storage()
        self._scopes: OrderedDict[tuple[str, int, int], _Scope] = OrderedDict()
        self._posts: OrderedDict[tuple[int, int, int, int], tuple[_Scope, _Scope]] = OrderedDict()
        self._voids: OrderedDict[int, deque[float]] = OrderedDict()

    def check(self, caller: Caller, tier: Tier) -> None:
        """Raise `RateLimited` when key or account is out of quota; spends nothing."""
        if self._voids:
            self._refuse_abuse(caller, tier)
        for scope in self._post_scopes(caller, tier):
            if self._storage.size(scope.key) >= scope.amount:  # else it fits anyway
                self._figures(scope)

    def spend(self, caller: Caller, tier: Tier) -> Quota:
        """Count one call against key and account at once and say what is left.

        Raises `RateLimited`, having counted nothing, when a parallel call took the last one.
        """
        return self._spend(*self._post_scopes(caller, tier))

    def spend_get(self, caller: Caller, tier: Tier) -> Quota:
        """Count one GET in its own window; the quota shown is that window's."""
        return self._spend(
            self._scope("gk", caller.key_id, tier.rpm * GET_FACTOR),
            self._scope("ga", caller.account_id, tier.account_rpm * GET_FACTOR),
        )

    def spend_rejected(self, caller: Caller, tier: Tier) -> None:
        """Count a refused call (400, 402, 403, 404); raises `RateLimited` when they come as a flood."""
        scope = self._scope("rk", caller.key_id, tier.rpm * REJECTED_FACTOR)
        self._figures(scope)
        self._storage.count(scope.key)

    def expire(self) -> None:
        """Forget what has left the windows; call it every few seconds."""
        self._storage.expire()

    def note_void(self, caller: Caller) -> None:
        """A call was sent upstream and came to nothing; too many of these are answered 429."""
        times = self._voids.setdefault(caller.account_id, deque(maxlen=VOIDS + 1))
        times.append(time.monotonic())
        self._voids.move_to_end(caller.account_id)
        while len(self._voids) > 10_000:
            self._voids.popitem(last=False)

    # -- inside ------------------------------------------------------------------------------------

    def _scope(self, kind: str, owner: int, amount: int) -> _Scope:
        scope = self._scopes.get((kind, owner, amount))
        if scope is None:
            scope = self._scopes[kind, owner, amount] = _Scope(amount, f"{kind}{owner}")
            if len(self._scopes) > SCOPES_KEPT:
                self._scopes.popitem(last=False)
        return scope

    def _post_scopes(self, caller: Caller, tier: Tier) -> tuple[_Scope, _Scope]:
        of = (caller.key_id, tier.rpm, caller.account_id, tier.account_rpm)
        scopes = self._posts.get(of)
        if scopes is None:
            scopes = self._posts[of] = (
                self._scope("pk", caller.key_id, tier.rpm),
                self._scope("pa", caller.account_id, tier.account_rpm),
            )
            if len(self._posts) > SCOPES_KEPT:
                self._posts.popitem(last=False)
        return scopes

    def _spend(self, of_key: _Scope, of_account: _Scope) -> Quota:
        by_key, by_account = self._figures(of_key), self._figures(of_account)
        self._storage.count(of_key.key)
        self._storage.count(of_account.key)
        return by_account if by_account.remaining < by_key.remaining else by_key

    def _figures(self, scope: _Scope) -> Quota:
        """What is left in a window once one more is counted; raises `RateLimited`."""
        window = self._storage.window(scope.key)
        left, reset = scope.amount - len(window) - 1, WINDOW_S
        if window:
            reset = max(1, math.ceil(window[0] + WINDOW_S - time.monotonic()))
        if left < 0:
            self._refuse(scope, Quota(scope.amount, 0, reset))
        return Quota(scope.amount, left, reset)

    def _refuse(self, scope: _Scope, quota: Quota) -> NoReturn:
        whose = "account" if scope.name[1] == "a" else "key"
        raise RateLimited(
            f"Rate limit reached: {scope.amount} requests a minute per {whose}. "
            f"Try again in {quota.reset} s.",
            retry_after=quota.reset,
            headers=quota.headers(),
        )

    def _refuse_abuse(self, caller: Caller, tier: Tier) -> None:
        times = self._voids.get(caller.account_id)
        if times is None or len(times) <= VOIDS:
            return
        wait = math.ceil(times[0] + VOID_WINDOW_S - time.monotonic())
        if wait > 0:
            raise RateLimited(
                f"Too many calls of this account came to nothing lately. Try again in {wait} s.",
                retry_after=wait,
                should_retry=False if wait > 60 else None,
                headers=Quota(min(tier.rpm, tier.account_rpm), 0, wait).headers(),
            )
