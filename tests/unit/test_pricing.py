"""A charge is the exact sum of its lines, rounded up once."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sellapi.domain.credits import parse_usd
from sellapi.domain.pricing import Prices, charge, explain
from sellapi.domain.usage import TOKEN_BUCKETS, Usage

USD = parse_usd
price = st.none() | st.integers(0, 10**9)
prices = st.builds(
    Prices,
    **dict.fromkeys(TOKEN_BUCKETS, price),
    long_context=st.none() | st.integers(1, 10**6),
    long_input=price,
    long_output=price,
    long_cache_read=price,
    long_cache_write=price,
)
usages = st.builds(Usage, **dict.fromkeys(TOKEN_BUCKETS, st.integers(0, 2_000_000)))


@given(prices, usages)
def test_a_charge_is_the_sum_of_its_lines_rounded_up_once(p, u):
    exact = sum(Fraction(line.count * line.price, line.per) for line in explain(p, u))
    microcredits = exact * 10**5  # USD 1e-6 are 1e5 microcredits of USD 1e-11
    assert 0 <= charge(p, u) - microcredits < 1


@given(prices, usages, st.sampled_from(TOKEN_BUCKETS))
def test_more_tokens_in_a_bucket_never_cost_less_below_the_long_context(p, u, bucket):
    p = replace(p, long_context=None)
    assert charge(p, Usage(**{**u.buckets(), bucket: getattr(u, bucket) + 1})) >= charge(p, u)


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_no_bucket_is_free_when_input_and_output_are_priced(a, b):
    assert all(Prices(input=a, output=b).tokens(0).values())


@pytest.mark.parametrize(
    ("stated", "usage", "microcredits"),
    [
        # the seed's embedding: ten tokens at $0.02 a million are 0.02 credit
        ({"input": USD("0.02")}, Usage(input=10), 20_000),
        ({"input": USD("3"), "output": USD("15")}, Usage(input=1000, output=100), 450_000_000),
        # a missing cache price: input, 1.25 and 2 times input
        ({"input": USD("3"), "output": USD("15")}, Usage(cache_read=1000), 300_000_000),
        ({"input": USD("3"), "output": USD("15")}, Usage(cache_write=1000), 375_000_000),
        ({"input": USD("3"), "output": USD("15")}, Usage(cache_write_1h=1000), 600_000_000),
        # a missing audio price: the dearest of its direction
        ({"input": USD("1"), "cache_write": USD("4")}, Usage(audio_input=1000), 400_000_000),
        # the smallest price there is, one token: rounded up to one microcredit
        ({"input": 1}, Usage(input=1), 1),
        ({"input": 0, "output": 0}, Usage(input=10**6, output=10**6), 0),
    ],
)
def test_charges_worked_out_by_hand(stated, usage, microcredits):
    assert charge(Prices(**stated), usage) == microcredits


def test_a_long_context_step_holds_for_the_whole_request_and_counts_cached_input():
    p = Prices(
        input=USD("2.50"),
        cache_read=USD("0.25"),
        output=USD("15"),
        long_context=272_000,
        long_input=USD("5"),
        long_cache_read=USD("0.50"),
        long_output=USD("22.50"),
    )
    below = Usage(input=72_000, cache_read=200_000, output=1000)
    above = Usage(input=72_001, cache_read=200_000, output=1000)
    assert charge(p, below) == 72_000 * 250_000 + 200_000 * 25_000 + 1000 * 1_500_000
    assert charge(p, above) == 72_001 * 500_000 + 200_000 * 50_000 + 1000 * 2_250_000


def test_images_are_charged_by_the_closest_price_and_the_dearest_when_none_matches():
    p = Prices(images={"1024x1024:high": USD("0.2"), "*:low": USD("0.01")})
    two = Usage(images=2)
    assert charge(p, two, size="1024x1024", quality="high") == 2 * 20_000 * 10**6
    assert charge(p, two, size="512x512", quality="low") == 2 * 1_000 * 10**6
    assert charge(p, two, size="4096x4096", quality="max") == 2 * 20_000 * 10**6


@pytest.mark.parametrize(
    ("size", "each"),
    [
        ("1024x1024", "0.07"),
        ("auto", "0.07"),
        ("1999x900", "0.07"),
        ("2000x1500", "0.105"),
        ("2048x2048", "0.1"),
        ("1536x2752", "0.105"),
        ("3000x2000", "0.16"),
        ("4096x4096", "0.16"),
    ],
)
def test_a_class_of_sizes_has_a_price_that_a_size_of_its_own_goes_before(size, each):
    p = Prices(images={"*:*": USD("0.07"), "2K:*": USD("0.105"), "4K:*": USD("0.16"),
                       "2048x2048:*": USD("0.1")})  # fmt: skip
    assert p.per_image(size, "auto") == USD(each)


@given(prices)
def test_prices_survive_storage(p):
    assert Prices.from_json(json.loads(json.dumps(p.to_json()))) == p
