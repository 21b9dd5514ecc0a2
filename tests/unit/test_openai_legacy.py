"""The deprecated function calls, which have no ids."""

from __future__ import annotations

from sellapi.upstream.openai_legacy import LegacyCalls


def test_results_belong_to_the_oldest_open_call_of_their_name() -> None:
    """Without a name to the oldest of all; a result of nothing gets an id of its own."""
    calls = LegacyCalls()
    first, other, second = calls.call("f"), calls.call("g"), calls.call("f")
    assert calls.answer("g") == other
    assert calls.answer(None) == first
    assert calls.answer("f") == second
    assert calls.answer("f") not in (first, other, second)
    assert calls.answer(None) not in (first, other, second)
