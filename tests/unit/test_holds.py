"""How much is held: sums that hold for every model and every account."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sellapi.domain.catalog import Model
from sellapi.domain.holds import (
    Demand,
    Priced,
    bound_output,
    least_output,
    price_affordable,
    price_demand,
)
from sellapi.domain.pricing import Prices, charge
from sellapi.domain.usage import Usage

CREDIT = 1_000_000


def model(prices: Prices | None = None, *, mode: str = "chat", most: int = 100_000) -> Model:
    return Model(
        id=1,
        slug="test/chat",
        name="x",
        mode=mode,  # type: ignore[arg-type]
        tier="free",
        enabled=True,
        price_id=1,
        prices=prices or Prices(input=1_000_000, output=2_000_000),
        routes=(),
        max_output=most,
    )


def demand(prompt: int = 10, **fields: object) -> Demand:
    return Demand(prompt=Usage(input=prompt), **fields)  # type: ignore[arg-type]


prices = st.builds(
    Prices,
    input=st.integers(0, 10**9),
    output=st.integers(0, 10**9),
    cache_write=st.none() | st.integers(0, 10**9),
    long_context=st.none() | st.integers(1, 1_000),
    long_input=st.none() | st.integers(0, 10**9),
    long_output=st.none() | st.integers(0, 10**9),
)


@given(prices, st.integers(0, 5_000), st.integers(1, 8), st.integers(1, 50_000))
def test_a_stated_limit_pays_for_an_answer_of_that_length(
    price: Prices, prompt: int, n: int, limit: int
) -> None:
    held = price_demand(model(price), demand(prompt, n=n, stated_output=limit), 0)
    assert held.output_limit == limit
    assert not held.bounded
    assert held.reserve == 0
    assert held.hold >= charge(price, Usage(input=prompt, output=limit * n))


@given(prices, st.integers(0, 5_000), st.integers(1, 8), st.integers(0, 10**12))
def test_what_is_held_without_a_limit_is_affordable_and_at_most_a_quarter_or_the_floor(
    price: Prices, prompt: int, n: int, available: int
) -> None:
    m, d = model(price), demand(prompt, n=n)
    held = price_affordable(m, d, available)
    if held is None:
        least = price_demand(m, demand(prompt, n=n, stated_output=least_output(m)), 0)
        assert least.hold > available
        return
    assert held.output_limit is not None
    assert held.hold <= available
    assert held.output_limit >= least_output(m)
    assert held.bounded == (held.output_limit < m.output_limit)
    if held.output_limit > 4_096:
        assert held.hold * 4 <= available
        assert held.hold + held.reserve <= available
    else:
        assert held.reserve == 0
    if held.output_limit < 4_096:  # not even the floor was affordable
        floor = price_demand(m, demand(prompt, n=n, stated_output=4_096), 0)
        assert floor.hold > available


@given(prices, st.integers(0, 5_000), st.integers(1, 8), st.integers(0, 10**12))
def test_the_bound_is_the_largest_that_fits(
    price: Prices, prompt: int, n: int, budget: int
) -> None:
    m = model(price)

    def hold(limit: int) -> int:
        return price_demand(m, demand(prompt, n=n, stated_output=limit), 0).hold

    found = bound_output(m, demand(prompt, n=n), budget, 50_000)
    assert 0 <= found <= 50_000
    if found:
        assert hold(found) <= budget
    if found < 50_000:
        assert hold(found + 1) > budget


@pytest.mark.parametrize(
    ("available", "wanted"),
    [
        (10**6, Priced(20_001 * CREDIT, 100_000, bounded=False, reserve=60_003 * CREDIT)),
        (80_004, Priced(20_001 * CREDIT, 100_000, bounded=False, reserve=60_003 * CREDIT)),
        (40_004, Priced(10_001 * CREDIT, 50_000, bounded=True, reserve=30_003 * CREDIT)),
        (2_000, Priced(int(820.2 * CREDIT), 4_096, bounded=True)),
        (101, Priced(101 * CREDIT, 500, bounded=True)),
    ],
)
def test_the_quarter_the_floor_and_the_rest(available: int, wanted: Priced) -> None:
    assert price_demand(model(), demand(), available * CREDIT) == wanted


def test_a_small_model_needs_no_more_than_its_maximum() -> None:
    small = model(most=50)
    held = price_affordable(small, demand(), 11 * CREDIT)
    assert held is not None
    assert (held.output_limit, held.bounded) == (50, False)
    assert price_affordable(small, demand(), 11 * CREDIT - 1) is None


def test_a_prompt_that_may_be_cached_is_held_at_the_dearer_price() -> None:
    dear = Prices(input=1_000_000, cache_write=1_250_000, output=0)
    held = price_demand(model(dear), demand(1_000, stated_output=1), 0).hold
    assert held == charge(dear, Usage(cache_write=1_000))


def test_images_are_held_by_number_size_and_quality() -> None:
    image = model(Prices(images={"1024x1024:high": 50_000, "*:*": 10_000}), mode="image")
    dear = demand(0, images=3, size="1024x1024", quality="high")
    assert price_demand(image, dear, 0).hold == 3 * 5_000 * CREDIT
    assert price_demand(image, demand(0, images=1), 0).hold == 1_000 * CREDIT
    tokens = model(Prices(input=1_000_000, image_output=40_000_000), mode="image")
    assert price_demand(tokens, demand(10, images=2, image_tokens=100), 0).hold == (
        10 * 100_000 + 200 * 4_000_000
    )
