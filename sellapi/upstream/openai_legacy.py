"""The deprecated ``function_call`` of a history: calls without ids (wire notes 1.1)."""

from __future__ import annotations

from collections import deque

__all__ = ["LegacyCalls"]


class LegacyCalls:
    """Ids for the deprecated ``function_call``, which had none: answered by name, in order."""

    def __init__(self) -> None:
        self._count = 0
        self._open: dict[str, deque[str]] = {}
        self._order: deque[tuple[str, str]] = deque()

    def call(self, name: str) -> str:
        identifier = self._fresh()
        self._open.setdefault(name, deque()).append(identifier)
        self._order.append((name, identifier))
        return identifier

    def answer(self, name: str | None) -> str:
        """The oldest open call of this name; without a name the oldest of all."""
        while name is None and self._order:
            called, identifier = self._order.popleft()
            waiting = self._open[called]
            if waiting and waiting[0] == identifier:  # else it was answered by its name
                return waiting.popleft()
        named = self._open.get(name) if name is not None else None
        return named.popleft() if named else self._fresh()

    def _fresh(self) -> str:
        self._count += 1
        return f"call_function_{self._count}"
