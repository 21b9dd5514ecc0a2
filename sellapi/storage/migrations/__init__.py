"""The schema's history: an append-only list of functions, applied in order, each in a transaction.

A migration is never edited once released; a mistake is mended by the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sellapi.storage.migrations import m0001_first, m0002_chains, m0003_limited_keys

__all__ = ["MIGRATIONS", "SCHEMA_VERSION"]

MIGRATIONS: tuple[tuple[str, Callable[[Any], None]], ...] = (
    ("first", m0001_first.apply),
    ("chains", m0002_chains.apply),
    ("limited keys", m0003_limited_keys.apply),
)
"""``(name, apply(connection))``; a database at version N has the first N of them."""

SCHEMA_VERSION = len(MIGRATIONS)
