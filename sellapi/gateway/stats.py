"""What the server counts in memory and writes once a second: screens read it, nothing bills by it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from sellapi.storage.database import Tx
from sellapi.storage.journal import MinuteStats, flush_stats

__all__ = ["Stats"]


class Stats:
    """Counters of one process since the last flush."""

    def __init__(self) -> None:
        self._minutes: dict[int, MinuteStats] = defaultdict(MinuteStats)
        self._rejections: dict[tuple[int, str], int] = defaultdict(int)
        self.skipped = 0
        """Parts of providers' answers that were not understood and left out."""

    def finished(
        self, *, tokens: int, charged: int, cost: int, latency_ms: int, error: bool
    ) -> None:
        minute = self._minutes[int(time.time()) // 60]
        minute.requests += 1
        minute.errors += error
        minute.tokens += tokens
        minute.charged += charged
        minute.cost += cost
        minute.latency_ms_sum += latency_ms
        minute.latency_ms_max = max(minute.latency_ms_max, latency_ms)

    def rejected(self, kind: str) -> None:
        """A refusal; counted per minute, never a row (a flood must not fill the disk)."""
        self._rejections[int(time.time()) // 60, kind] += 1

    def take_flush(self, instance_id: str, status: dict[str, Any]) -> Callable[[Tx], None]:
        """A writer operation that adds what was counted since the last one."""
        minutes, self._minutes = self._minutes, defaultdict(MinuteStats)
        rejections, self._rejections = self._rejections, defaultdict(int)
        return lambda tx: flush_stats(tx, instance_id, status, minutes, rejections)
