"""Amounts typed by people are exact or refused."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sellapi.domain.credits import (
    MAX_CREDITS,
    MICRO,
    credits_to_usd,
    format_credits,
    parse_credits,
    parse_usd,
)
from sellapi.errors import UsageError


@given(st.integers(0, MAX_CREDITS * MICRO))
def test_what_is_printed_is_read_back_as_the_same_amount(amount):
    assert parse_credits(format_credits(amount)) == amount


@given(st.integers(-(10**24), 10**24))
def test_a_printed_amount_is_exact_and_has_no_trailing_zeros(amount):
    text = format_credits(amount)
    assert Decimal(text) * MICRO == amount
    assert "." not in text or not text.endswith(("0", "."))


@given(st.integers(0, 10**18))
def test_credits_are_worth_their_hundred_thousandth_of_a_dollar_exactly(amount):
    assert Decimal(credits_to_usd(amount)) == Decimal(amount) / 10**11


@given(st.text(max_size=20))
def test_any_text_is_an_exact_amount_or_a_usage_error(text):
    try:
        amount = parse_credits(text)
    except UsageError:
        return
    assert text.isascii()
    assert Decimal(text) * MICRO == amount


@pytest.mark.parametrize(
    "text",
    [
        "", " 1", "1 ", "1\n", "+1", "-1", "1e5", "1E5", "NaN", "inf", "0x10", "1,000", "1_000",
        ".5", "5.", "1.2.3", "1.0000001", "10000000001", "10000000000.000001", "٣", "１", "²",
    ],
)  # fmt: skip
def test_amounts_that_are_not_plain_decimals_are_refused(text):
    with pytest.raises(UsageError):
        parse_credits(text)
    if text not in ("10000000001", "10000000000.000001"):
        with pytest.raises(UsageError):
            parse_usd(text)
