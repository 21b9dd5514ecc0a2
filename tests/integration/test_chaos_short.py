"""A short run of ``make chaos``: the real server, killed and restarted under load and faults."""

import asyncio

from bench.chaos.__main__ import Chaos, run
from bench.chaos.check import check
from bench.chaos.load import Answer


def test_every_answer_is_charged_once_through_kills_and_restarts(tmp_path):
    """See docs/reliability.md for what a round is and what it looks for."""
    chaos: Chaos = asyncio.run(run(tmp_path, rounds=1, seconds=3.0, seed=5))
    assert chaos.differences == []
    assert chaos.counts["SIGKILL"] == 2
    assert chaos.counts["answers received whole"] > 20
    assert chaos.counts["of these recomputed to the microcredit"] > 10
    assert chaos.counts["charges marked undelivered"] > 0
    _notices_a_planted_difference(chaos)


def _notices_a_planted_difference(chaos: Chaos) -> None:
    """The comparison itself can fail: an answer nobody charged, a charge nobody was told."""
    made_up = Answer(request_id="req_unknown", status=200, complete=True, charged=1)
    assert len(check(chaos.database, [made_up], chaos.received, 30).differences) == 1
    unknown = check(chaos.database, [], set(), 30).differences
    assert unknown
    assert all("not marked undelivered" in difference for difference in unknown)
