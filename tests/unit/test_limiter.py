"""Rate limits: what counts, what does not, and what is told."""

from __future__ import annotations

import time

import pytest

from sellapi.domain.catalog import Tier
from sellapi.errors import RateLimited
from sellapi.gateway.limiter import Limiter
from sellapi.storage.snapshot import Caller

TIER = Tier("free", 3, 5, 0)


def caller(key: int = 1, account: int = 1) -> Caller:
    return Caller(
        key_id=key,
        key_version=1,
        key_status="active",
        key_expires_at=None,
        secret_expires_at=None,
        models=None,
        ips=None,
        key_left=None,
        account_id=account,
        account_version=1,
        account_status="active",
        tier="free",
        balance=0,
        held=0,
        owed=0,
    )


@pytest.fixture
def limiter() -> Limiter:
    return Limiter()


def test_a_key_has_its_calls_and_no_more(limiter: Limiter) -> None:
    left = [limiter.spend(caller(), TIER).remaining for _ in range(3)]
    assert left == [2, 1, 0]
    with pytest.raises(RateLimited) as caught:
        limiter.check(caller(), TIER)
    headers = caught.value.headers
    assert 1 <= int(headers["retry-after"]) <= 60
    assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("3", "0")
    with pytest.raises(RateLimited):
        limiter.spend(caller(), TIER)


def test_looking_spends_nothing(limiter: Limiter) -> None:
    for _ in range(50):
        limiter.check(caller(), TIER)
    assert limiter.spend(caller(), TIER).remaining == 2


def test_the_account_is_limited_over_all_its_keys_and_the_tighter_one_is_shown(
    limiter: Limiter,
) -> None:
    for _ in range(3):
        limiter.spend(caller(1), TIER)
    quota = limiter.spend(caller(2), TIER)
    assert (quota.limit, quota.remaining) == (5, 1)
    limiter.spend(caller(2), TIER)
    with pytest.raises(RateLimited, match="account"):
        limiter.check(caller(2), TIER)
    with pytest.raises(RateLimited):
        limiter.check(caller(3), TIER)
    limiter.check(caller(4, account=2), TIER)


def test_a_call_the_account_refuses_costs_the_key_nothing(limiter: Limiter) -> None:
    for key in (1, 1, 1, 2, 2):
        limiter.spend(caller(key), TIER)
    for _ in range(5):
        with pytest.raises(RateLimited):
            limiter.spend(caller(3), TIER)
    richer = Tier("free", 3, 100, 0)
    assert limiter.spend(caller(3), richer).remaining == 2


def test_gets_and_refusals_have_windows_of_their_own(limiter: Limiter) -> None:
    for _ in range(6):
        limiter.spend_get(caller(), TIER)
    with pytest.raises(RateLimited):
        limiter.spend_get(caller(), TIER)
    for _ in range(30):
        limiter.spend_rejected(caller(), TIER)
    with pytest.raises(RateLimited):
        limiter.spend_rejected(caller(), TIER)
    assert limiter.spend(caller(), TIER).remaining == 2


def test_the_window_moves(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limiter.spend(caller(), TIER)
    monkeypatch.setattr(time, "monotonic", lambda: now + 40)
    limiter.spend(caller(), TIER)
    quota = limiter.spend(caller(), TIER)
    assert quota.remaining == 0
    with pytest.raises(RateLimited) as caught:
        limiter.check(caller(), TIER)
    assert 19 <= int(caught.value.headers["retry-after"]) <= 21
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    limiter.check(caller(), TIER)
    assert limiter.spend(caller(), TIER).remaining == 0


def test_a_clock_that_is_set_back_shuts_nobody_out(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        limiter.spend(caller(), TIER)
    before = time.time() - 3_600
    monkeypatch.setattr(time, "time", lambda: before)
    limiter.spend(caller(), TIER)
    with pytest.raises(RateLimited) as caught:
        limiter.check(caller(), TIER)
    assert int(caught.value.headers["retry-after"]) <= 60


def test_more_than_20_calls_that_came_to_nothing_pause_the_account(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = float(int(time.monotonic()))  # whole seconds: sums of others are off by a rounding
    for number in range(21):
        limiter.check(caller(), TIER)
        monkeypatch.setattr(time, "monotonic", lambda n=number: now + n * 10)
        limiter.note_void(caller())
    with pytest.raises(RateLimited) as caught:
        limiter.check(caller(2), TIER)
    assert caught.value.headers["x-should-retry"] == "false"
    assert int(caught.value.headers["retry-after"]) == 400
    limiter.check(caller(9, account=2), TIER)
    monkeypatch.setattr(time, "monotonic", lambda: now + 601)
    limiter.check(caller(), TIER)


def test_a_limit_of_nothing_refuses_everything(limiter: Limiter) -> None:
    with pytest.raises(RateLimited):
        limiter.check(caller(), Tier("free", 0, 0, 0))


def test_memory_does_not_grow_with_callers_gone(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(500):
        limiter.spend(caller(number, account=number), TIER)
    assert len(limiter._storage._windows) == 1_000
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    limiter.expire()
    assert not limiter._storage._windows
