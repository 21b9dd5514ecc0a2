"""How much a request holds before it is sent: the prompt's upper estimate plus a bound on output."""

from __future__ import annotations

import msgspec

from sellapi.domain.catalog import Model
from sellapi.domain.pricing import charge
from sellapi.domain.usage import Usage

__all__ = [
    "Demand",
    "Priced",
    "bound_output",
    "least_output",
    "price_affordable",
    "price_demand",
]

UNSTATED_FLOOR = 4_096
"""Tokens an answer may have at least when the client states no limit and credits cover it."""
UNSTATED_FLOOR_REASONING = 16_384
LEAST_OUTPUT = 64
LEAST_OUTPUT_REASONING = 1_024
"""Fewer affordable tokens than this: 402 instead of an answer cut at random."""


class Demand(msgspec.Struct, frozen=True):
    """What a request may use at most, before its answer's length is bounded.

    ``prompt_tokens`` is an upper estimate by kind. ``stated_output`` is the client's own limit per
    choice, None when it named none.
    """

    prompt: Usage
    n: int = 1
    stated_output: int | None = None
    images: int = 0
    image_tokens: int = 0
    """Most output image tokens of one image, for models priced by image tokens."""
    image_input_tokens: int = 0
    size: str = "auto"
    quality: str = "auto"


class Priced(msgspec.Struct, frozen=True):
    """A demand with its hold: microcredits, and the output limit per choice it pays for."""

    hold: int
    output_limit: int | None
    bounded: bool
    """The limit is not the client's choice and not what the provider keeps to by itself: it is below
    the model's maximum, or that maximum is our assumption. It is stated upstream."""
    reserve: int = 0
    """What must be available besides the hold for it to stand: three times as much (the quarter)."""


def _hold(model: Model, demand: Demand, output: int) -> int:
    """Microcredits for the prompt and ``output`` tokens of each choice, at the dearest buckets."""
    p = demand.prompt
    rates = model.prices.tokens(p.total_input)
    # A prompt may be written to a cache: hold the dearest of its possible prices.
    dearest = max(rates["input"], rates["cache_write"] if model.prices.cache_write else 0)
    usage = Usage(
        input=p.input,
        audio_input=p.audio_input,
        image_input=p.image_input,
        output=output * demand.n,
        image_output=demand.image_tokens * demand.images,
        images=demand.images,
    )
    amount = charge(model.prices, usage, size=demand.size, quality=demand.quality)
    extra = (dearest - rates["input"]) * p.input
    return amount + -(-extra // 10)


def price_demand(model: Model, demand: Demand, available: int) -> Priced:
    """The hold for a request by an account with ``available`` microcredits.

    With a limit stated by the client it is that many tokens, whether affordable or not. With none
    it is the model's maximum, but no more than a quarter of what is available, and never below
    min(maximum, 4,096; reasoning 16,384) while available covers that; when it does not, what is
    affordable. A limit that will be stated is no more than the context leaves for it, where that is
    known. The caller refuses when ``hold > available`` or the bound is below `least_output`.
    """
    if model.mode != "chat":
        return Priced(_hold(model, demand, 0), None, bounded=False)
    most = model.output_limit
    if demand.stated_output is not None:
        limit = min(demand.stated_output, most)
        return Priced(_hold(model, demand, limit), limit, bounded=False)
    if model.max_output is None:
        most = min(most, _room(model, demand, UNSTATED_FLOOR))
    floor = min(most, UNSTATED_FLOOR_REASONING if model.reasoning else UNSTATED_FLOOR)
    limit = bound_output(model, demand, available // 4, most)
    if limit < floor:
        limit = bound_output(model, demand, available, floor)
    if limit < most:
        limit = min(limit, _room(model, demand, floor))
    hold = _hold(model, demand, limit)
    bounded = limit < most or model.max_output is None
    return Priced(hold, limit, bounded=bounded, reserve=3 * hold if limit > floor else 0)


def _room(model: Model, demand: Demand, least: int) -> int:
    """Tokens the prompt leaves for an answer: a provider refuses a limit that does not fit beside it.

    The prompt is estimated from above, so that it may leave more: half the context goes to the answer
    if it is no more than ``least``.
    """
    context = model.context_length
    if context is None:
        return model.output_limit
    return max(context - demand.prompt.total_input, min(least, context // 2), 1)


def price_affordable(model: Model, demand: Demand, available: int) -> Priced | None:
    """As `price_demand` for a request without a limit; None when too little is available."""
    priced = price_demand(model, demand, available)
    assert priced.output_limit is not None
    too_short = priced.bounded and priced.output_limit < least_output(model)
    return None if too_short or priced.hold > available else priced


def bound_output(model: Model, demand: Demand, budget: int, most: int) -> int:
    """The largest output per choice, at most ``most``, whose hold fits ``budget``; 0 if none does."""
    if _hold(model, demand, most) <= budget:
        return most
    base = _hold(model, demand, 0)
    if base > budget:
        return 0
    rate = model.prices.tokens(demand.prompt.total_input)["output"] * demand.n
    if rate == 0:
        return most
    # What ``base`` was rounded up by (less than two microcredits) may pay for more tokens.
    guess = min(most, ((budget - base) * 10 + 20) // rate)
    while guess > 0 and _hold(model, demand, guess) > budget:
        guess -= 1
    return guess


def least_output(model: Model) -> int:
    """The fewest affordable output tokens with which a call without a limit is let through."""
    least = LEAST_OUTPUT_REASONING if model.reasoning else LEAST_OUTPUT
    return min(least, model.output_limit)
